//! Random clusters and calls: the compiler with the packet path decides as the slow model does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidegate::cluster::{self, Dirty, Event, Hints, ObjectName, ServiceKind};
use tidegate::compile::Locality;
use tidegate::tables::Compiler;
use tidegate::traffic::{Policy, Traffic};
use tidegate_dataplane::net::{self, Prefix};
use tidegate_dataplane::services::Services;

use crate::model::{
    Address, Call, Cluster, Endpoint, Kind, Protocol, Service, ServicePort, Slice, Verdict, hides_client,
    verdict,
};
use crate::path_rig::{CLIENT_SIDE, FROM_CLIENT, Out, POD_SIDE, POD_SIDE_GATEWAY, Rig, tcp, udp};
use crate::random::{SERVICES, aimed, call, cluster};

/// Clusters, each with some calls, in a normal run and with `--long`.
const CASES: [u32; 2] = [20_000, 100_000];
const CALLS: usize = 4;

fn wire(protocol: Protocol) -> net::Protocol {
    match protocol {
        Protocol::Tcp => net::Protocol::Tcp,
        Protocol::Udp => net::Protocol::Udp,
    }
}

fn ip(address: Address) -> IpAddr {
    Ipv4Addr::from(address).into()
}

/// The cluster as events say it.
fn told(cluster: &Cluster) -> cluster::Cluster {
    let mut told = cluster::Cluster::default();
    for (number, service) in cluster.services.iter().enumerate() {
        let name = ObjectName::new("dev", &format!("s{number}"));
        told.apply(Event::ServiceApplied(plain(&name, service).into()), &mut Dirty::default());
        for (place, slice) in service.slices.iter().enumerate() {
            let slice = plain_slice(ObjectName::new("dev", &format!("s{number}-{place}")), &name, slice);
            told.apply(Event::SliceApplied(slice.into()), &mut Dirty::default());
        }
    }
    told
}

fn plain(name: &ObjectName, service: &Service) -> cluster::Service {
    let policy = |is_local| if is_local { Policy::Local } else { Policy::Cluster };
    let port = |port: &ServicePort| cluster::ServicePort {
        name: port.name.into(),
        protocol: wire(port.protocol),
        port: port.number,
        node_port: port.node_port,
    };
    cluster::Service {
        name: name.clone(),
        kind: match service.kind {
            Kind::WithClusterIp => ServiceKind::ClusterIp(vec![ip(service.cluster_ip)]),
            Kind::Headless => ServiceKind::Headless,
            Kind::ExternalName => ServiceKind::ExternalName("example.org".into()),
        },
        ports: service.ports.iter().map(port).collect(),
        foreign_proxy: service.is_foreign,
        traffic: Traffic {
            external_addresses: service.external.into_iter().map(ip).collect(),
            balancer_addresses: service.balancer.into_iter().map(ip).collect(),
            source_ranges: service
                .ranges
                .iter()
                .map(|(network, bits)| ipnet::IpNet::new(ip(*network), *bits as u8).unwrap())
                .collect(),
            internal: policy(service.internal_local),
            external: policy(service.external_local),
            ..Traffic::default()
        },
    }
}

fn plain_slice(name: ObjectName, service: &ObjectName, slice: &Slice) -> cluster::EndpointSlice {
    let hints = |endpoint: &Endpoint| {
        let list = |hint: Option<&str>| hint.into_iter().map(Arc::from).collect();
        let hints = Hints { zones: list(endpoint.zone_hint), nodes: list(endpoint.node_hint) };
        (hints != Hints::default()).then(|| Arc::new(hints))
    };
    let endpoint = |endpoint: &Endpoint| cluster::Endpoint {
        address: ip(endpoint.address),
        hostname: None,
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        node: endpoint.node.map(Arc::from),
        zone: None,
        pod: None,
        hints: hints(endpoint),
    };
    let port = |(name, protocol, port): &(&str, Protocol, u16)| cluster::SlicePort {
        name: (*name).into(),
        protocol: wire(*protocol),
        port: *port,
    };
    cluster::EndpointSlice {
        name,
        service: service.clone(),
        endpoints: slice.endpoints.iter().map(endpoint).collect(),
        ports: slice.ports.iter().map(port).collect(),
    }
}

/// Puts the tables of a cluster in force.
fn compile(rig: &mut Rig, cluster: &Cluster) {
    let locality = Locality { node: cluster.node.map(Arc::from), zone: cluster.zone.map(Arc::from) };
    let mut compiler = Compiler::new(locality);
    let told = told(cluster);
    let prefix = |(address, bits): (Address, u32)| Prefix { address: ip(address), length: bits as u8 };
    let compiled = (0..SERVICES).flat_map(|number| {
        compiler.compile(&told, &ObjectName::new("dev", &format!("s{number}")), &BTreeSet::new())
    });
    let tables: Vec<_> = compiled.map(|one| (one.frontend, Some(one.table))).collect();
    rig.snapshot.services = Services::new([prefix(cluster.service_network)]).with(tables);
    rig.snapshot.pod_networks = Arc::new([prefix(cluster.pod_network)]);
    rig.snapshot.node_addresses = cluster.node_addresses.iter().map(|own| ip(*own)).collect();
}

/// Sends the call and says what became of it, in the model's words, with the source that an endpoint sees.
fn observed(rig: &mut Rig, call: Call, port: u16) -> (Verdict, Option<Address>) {
    let ends = ((call.from, port), (call.to, call.port));
    let packet = match call.protocol {
        Protocol::Tcp => tcp(FROM_CLIENT, ends, 64, "S", b""),
        Protocol::Udp => udp(FROM_CLIENT, ends, 64, b"x"),
    };
    let drops = |rig: &Rig| -> BTreeMap<&'static str, u64> {
        let named = rig.path.counters.named();
        named.filter(|(name, ..)| name.starts_with("drop_")).map(|(name, _, count)| (name, count)).collect()
    };
    let (before, held) = (drops(rig), rig.path.held_frames());
    let left = rig.carry(CLIENT_SIDE, &[packet]);
    let after = drops(rig);
    if let Some((name, _)) = after.iter().find(|(name, count)| before[*name] != **count) {
        return (Verdict::Dropped(name), None);
    }
    match &left[..] {
        [] => {
            assert_eq!(rig.path.held_frames(), held + 1, "lost");
            unreachable!("every pod's MAC is known")
        }
        [(Out::Device(CLIENT_SIDE), _)] => (Verdict::Refused, None),
        [(Out::Punt, _)] => (Verdict::TheKernels, None),
        [(Out::Device(POD_SIDE), sent)] => {
            let address = sent[30..34].try_into().unwrap();
            let chosen = Verdict::OneOf(vec![(address, u16::from_be_bytes([sent[36], sent[37]]))]);
            (chosen, Some(sent[26..30].try_into().unwrap()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_cluster_is_served_as_a_slow_model_of_the_rules_says() {
    let is_long = std::env::var_os("TIDEGATE_LONG").is_some();
    let config = ProptestConfig {
        cases: CASES[usize::from(is_long)],
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let seen = RefCell::new(BTreeMap::<String, u32>::new());
    let known: Vec<_> = (11..16)
        .map(|number| (crate::path_rig::next_hop(POD_SIDE, [10, 244, 0, number]), crate::path_rig::POD_MAC))
        .collect();
    let rig = RefCell::new(Rig::with_flows(65_536));
    let next_port = RefCell::new(0_u32);
    let strategy = (cluster(), prop::collection::vec(call(), CALLS));
    let result = TestRunner::new(config).run(&strategy, |(cluster, calls)| {
        let mut rig = rig.borrow_mut();
        let reachable = |mac| tidegate_dataplane::neighbours::NeighbourState::Reachable(mac);
        let neighbours: Vec<_> = known.iter().map(|(hop, mac)| (*hop, reachable(*mac))).collect();
        rig.learn(&neighbours);
        compile(&mut rig, &cluster);
        for call in calls {
            let call = aimed(&cluster, call);
            let expected = verdict(&cluster, call);
            let mut port = next_port.borrow_mut();
            *port += 1;
            if port.is_multiple_of(20_000) {
                *rig = Rig::with_flows(65_536);
                rig.learn(&neighbours);
                compile(&mut rig, &cluster);
            }
            // A second apart, so that answers are within their limit.
            rig.now = tidegate_dataplane::clock::Now::from_ns(rig.now.ns() + 1_000_000_000);
            let (found, source) = observed(&mut rig, call, 1024 + (*port % 20_000) as u16);
            let agrees = match (&expected, &found) {
                (Verdict::OneOf(usable), Verdict::OneOf(chosen)) => {
                    let seen = if hides_client(call, chosen[0].0) { POD_SIDE_GATEWAY } else { call.from };
                    usable.contains(&chosen[0]) && source == Some(seen)
                }
                (expected, found) => expected == found,
            };
            prop_assert!(
                agrees,
                "{:?} of {:?}: expected {:?}, found {:?} from {:?}",
                call,
                cluster,
                expected,
                found,
                source
            );
            let name = match expected {
                Verdict::OneOf(_) => "served".to_owned(),
                other => format!("{other:?}"),
            };
            *seen.borrow_mut().entry(name).or_default() += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let seen = seen.into_inner();
    println!("{seen:?}");
    assert!(seen.len() == 6 && seen.values().all(|count| *count > 100), "each verdict comes about: {seen:?}");
}
