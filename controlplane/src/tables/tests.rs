//! From Services to tables: identities, sharing, and the rules that show only in a whole Service.

use std::net::Ipv4Addr;

use tidegate_dataplane::flows::Key;

use super::*;
use crate::cluster::{Dirty, Endpoint, EndpointSlice, Event, SlicePort};

fn port(name: &str, protocol: Protocol, port: u16) -> cluster::ServicePort {
    cluster::ServicePort { name: name.into(), protocol, port, node_port: None }
}

fn service(name: &str, addresses: &[&str], ports: &[cluster::ServicePort]) -> Service {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Service {
        name: ObjectName::new("dev", name),
        kind: ServiceKind::ClusterIp(addresses),
        ports: ports.to_vec(),
        foreign_proxy: false,
        traffic: crate::traffic::Traffic::default(),
    }
}

fn slice(service: &str, name: &str, endpoints: &[&str], ports: &[(&str, Protocol, u16)]) -> Event {
    let ready = |address: &&str| Endpoint::ready_at(address.parse().unwrap());
    let port = |(name, protocol, port): &(&str, Protocol, u16)| SlicePort {
        name: (*name).into(),
        protocol: *protocol,
        port: *port,
    };
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: ObjectName::new("dev", name),
        service: ObjectName::new("dev", service),
        endpoints: endpoints.iter().map(ready).collect(),
        ports: ports.iter().map(port).collect(),
    }))
}

fn cluster(services: &[Service], slices: impl IntoIterator<Item = Event>) -> Cluster {
    let mut cluster = Cluster::default();
    let services = services.iter().map(|service| Event::ServiceApplied(Arc::new(service.clone())));
    services.chain(slices).for_each(|event| cluster.apply(event, &mut Dirty::default()));
    cluster
}

fn compile(cluster: &Cluster, service: &str) -> Vec<Compiled> {
    Compiler::default().compile(cluster, &ObjectName::new("dev", service), &BTreeSet::new())
}

/// Members of each port of an address, as text.
fn members(compiled: &Compiled) -> Vec<String> {
    let of_port = |port: &ServicePort| {
        let members = port.backends.members().iter();
        let members: Vec<String> = members.map(|own| format!("{}:{}", own.address, own.port)).collect();
        format!("{}/{} {}", port.port, port.protocol, members.join(" "))
    };
    compiled.table.ports().iter().map(of_port).collect()
}

const HTTP: (&str, Protocol, u16) = ("http", Protocol::Tcp, 8080);

#[test]
fn identities_are_the_same_in_every_version() {
    let endpoint = |address: &str, protocol| {
        EndpointKey { address: address.parse().unwrap(), port: Port::new(8080), protocol }.id().0
    };
    assert_eq!(endpoint("10.244.0.1", Protocol::Tcp), 0x70ca_995d_1c45_1c7e);
    assert_eq!(endpoint("10.244.0.1", Protocol::Udp), 0xd77a_a96d_15f6_d41a);
    assert_eq!(endpoint("fd00::1", Protocol::Tcp), 0xf58b_e4c9_6be3_da08);
    let own = service("a", &[], &[]);
    assert_eq!(service_port_id(&own.name, "http", Protocol::Tcp).0, 0x846a_cad1_df48_6e3e);
    assert_eq!(service_port_id(&own.name, "", Protocol::Udp).0, 0x294a_0271_355e_91d8);
}

#[test]
fn a_service_port_keeps_its_identity_when_its_number_and_addresses_change() {
    let before = cluster(&[service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)])], []);
    let after = cluster(&[service("a", &["10.96.0.2"], &[port("http", Protocol::Tcp, 81)])], []);
    assert_eq!(compile(&before, "a")[0].table.ports()[0].id, compile(&after, "a")[0].table.ports()[0].id);
}

#[test]
fn equal_lists_of_endpoints_share_one_table_in_whatever_order_they_come() {
    let ports = [port("http", Protocol::Tcp, 80)];
    let cluster = cluster(
        &[service("a", &["10.96.0.1"], &ports), service("b", &["10.96.0.2"], &ports)],
        [
            slice("a", "a-1", &["10.244.0.2", "10.244.0.1"], &[HTTP]),
            slice("b", "b-1", &["10.244.0.1"], &[HTTP]),
            slice("b", "b-2", &["10.244.0.2", "10.244.0.1"], &[HTTP]),
        ],
    );
    let mut compiler = Compiler::default();
    let mut table = |name: &str| {
        let compiled = compiler.compile(&cluster, &ObjectName::new("dev", name), &BTreeSet::new());
        Arc::clone(&compiled[0].table.ports()[0].backends)
    };
    assert!(Arc::ptr_eq(&table("a"), &table("b")));
}

#[test]
fn tables_that_nobody_uses_are_forgotten() {
    let mut compiler = Compiler::default();
    let own = [service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)])];
    for number in 0..1000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let address = format!("10.244.{high}.{low}");
        let cluster = cluster(&own, [slice("a", "a-1", &[&address], &[HTTP])]);
        compiler.compile(&cluster, &own[0].name, &BTreeSet::new());
    }
    assert!(compiler.shared.len() < 50, "{} tables", compiler.shared.len());
}

#[test]
fn two_gateways_choose_the_same_backend_whatever_order_they_heard_of_it() {
    let ports = [port("http", Protocol::Tcp, 80)];
    let own = service("a", &["10.96.0.1"], &ports);
    let addresses = ["10.244.0.3", "10.244.0.1", "10.244.0.2"];
    let one = cluster(std::slice::from_ref(&own), [slice("a", "a-1", &addresses, &[HTTP])]);
    let apart = addresses.iter().enumerate().rev();
    let other = cluster(
        &[own],
        apart.map(|(number, address)| slice("a", &format!("a-{number}"), &[address], &[HTTP])),
    );
    let (one, other) = (compile(&one, "a"), compile(&other, "a"));
    let mut chosen = BTreeSet::new();
    for client in 0..1000_u16 {
        let key = Key::new(
            (Ipv4Addr::from([10, 1, (client / 256) as u8, client as u8]), Port::new(30_000 + client)),
            (Ipv4Addr::from([10, 96, 0, 1]), Port::new(80)),
            Protocol::Tcp,
        );
        let choose = |compiled: &[Compiled]| *compiled[0].table.ports()[0].backends.choose(&key).unwrap();
        assert_eq!(choose(&one), choose(&other));
        chosen.insert(choose(&one).address);
    }
    assert_eq!(chosen.len(), 3);
}

#[test]
fn services_without_packets_of_ours_have_no_table() {
    let own = service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)]);
    let endpoints = || [slice("a", "a-1", &["10.244.0.1"], &[HTTP])];
    assert_eq!(compile(&cluster(std::slice::from_ref(&own), endpoints()), "a").len(), 1);
    let foreign = Service { foreign_proxy: true, ..own.clone() };
    let headless = Service { kind: ServiceKind::Headless, ..own.clone() };
    let external = Service { kind: ServiceKind::ExternalName("example.org".into()), ..own };
    for none in [foreign, headless, external] {
        assert_eq!(compile(&cluster(std::slice::from_ref(&none), endpoints()), "a"), [], "{none:?}");
    }
    assert_eq!(compile(&cluster(&[], endpoints()), "a"), []);
}

#[test]
fn two_ports_with_one_number_and_two_protocols_are_two_entries() {
    let ports = [port("dns-tcp", Protocol::Tcp, 53), port("dns", Protocol::Udp, 53)];
    let slice_ports = [("dns", Protocol::Udp, 5353), ("dns-tcp", Protocol::Tcp, 5354)];
    let cluster =
        cluster(&[service("a", &["10.96.0.1"], &ports)], [slice("a", "a-1", &["10.244.0.1"], &slice_ports)]);
    let compiled = compile(&cluster, "a");
    assert_eq!(members(&compiled[0]), ["53/TCP 10.244.0.1:5354", "53/UDP 10.244.0.1:5353"]);
    assert_eq!(compiled[0].endpoints().len(), 2);
}

#[test]
fn the_port_is_the_slices_own_and_may_differ_between_slices() {
    let cluster = cluster(
        &[service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)])],
        [
            slice("a", "a-1", &["10.244.0.1"], &[("http", Protocol::Tcp, 8080)]),
            slice("a", "a-2", &["10.244.0.2"], &[("http", Protocol::Tcp, 9090)]),
            slice("a", "a-3", &["10.244.0.3"], &[("admin", Protocol::Tcp, 80)]),
        ],
    );
    let compiled = compile(&cluster, "a");
    assert_eq!(members(&compiled[0]), ["80/TCP 10.244.0.1:8080 10.244.0.2:9090"]);
}

#[test]
fn each_address_of_a_dual_stack_service_leads_to_endpoints_of_its_family() {
    let cluster = cluster(
        &[service("a", &["10.96.0.1", "fd00:96::1"], &[port("http", Protocol::Tcp, 80)])],
        [
            slice("a", "a-4", &["10.244.0.1"], &[HTTP]),
            slice("a", "a-6", &["fd00:244::1", "fd00:244::2"], &[HTTP]),
        ],
    );
    let compiled = compile(&cluster, "a");
    let all: Vec<_> = compiled.iter().flat_map(members).collect();
    assert_eq!(all, ["80/TCP 10.244.0.1:8080", "80/TCP fd00:244::1:8080 fd00:244::2:8080"]);
}

#[test]
fn a_port_without_endpoints_has_an_empty_table_that_refuses() {
    let cluster = cluster(&[service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)])], []);
    assert_eq!(members(&compile(&cluster, "a")[0]), ["80/TCP "]);
}

#[test]
fn endpoints_that_are_not_wanted_are_left_out() {
    let cluster = cluster(
        &[service("a", &["10.96.0.1"], &[port("http", Protocol::Tcp, 80)])],
        [slice("a", "a-1", &["10.244.0.1", "10.244.0.2"], &[HTTP])],
    );
    let without = EndpointKey {
        address: "10.244.0.1".parse().unwrap(),
        port: Port::new(8080),
        protocol: Protocol::Tcp,
    };
    let compiled =
        Compiler::default().compile(&cluster, &ObjectName::new("dev", "a"), &BTreeSet::from([without]));
    assert_eq!(members(&compiled[0]), ["80/TCP 10.244.0.2:8080"]);
    assert_eq!(compiled[0].endpoints().len(), 1);
}
