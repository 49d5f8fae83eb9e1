//! Random clusters and calls, in the model's words.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{Address, Call, Cluster, Endpoint, Kind, Protocol, Service, ServicePort, Slice};
use crate::path_rig::{GATEWAY, POD_SIDE_GATEWAY};

/// Services of a cluster.
pub(crate) const SERVICES: usize = 3;
const PORTS: [u16; 3] = [53, 80, 443];

/// Client, number of the Service, by which of its addresses, and port.
pub(crate) type Aim = (Address, usize, u8, Port);

/// A port that is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Port {
    /// One of the Service's own, by its place.
    OfService(usize),
    /// One that it may have.
    Number(Protocol, u16),
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

/// Name and protocol of a port, of Services and slices; most fit together.
fn named() -> impl Strategy<Value = (&'static str, Protocol)> {
    prop_oneof![
        4 => Just(("a", Protocol::Tcp)),
        4 => Just(("b", Protocol::Udp)),
        1 => (select(vec!["a", "b"]), protocol()),
    ]
}

fn maybe<T: Strategy>(strategy: T) -> impl Strategy<Value = Option<T::Value>> {
    proptest::option::weighted(0.6, strategy)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let node = || select(vec!["here", "there"]);
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (11..16_u8, conditions, maybe(node()), maybe(node()), maybe(select(vec!["east", "west"]))).prop_map(
        |(number, (ready, serving, terminating), node, node_hint, zone_hint)| Endpoint {
            address: [10, 244, 0, number],
            ready,
            serving,
            terminating,
            node,
            node_hint,
            zone_hint,
        },
    )
}

fn slice() -> impl Strategy<Value = Slice> {
    let port = (named(), select(vec![8080_u16, 9090]))
        .prop_map(|((name, protocol), number)| (name, protocol, number));
    (prop::collection::vec(port, 0..4), prop::collection::vec(endpoint(), 0..5)).prop_map(
        |(mut ports, endpoints)| {
            let mut names = BTreeSet::new();
            ports.retain(|(name, ..)| names.insert(*name));
            Slice { ports, endpoints }
        },
    )
}

fn service(number: u8) -> impl Strategy<Value = Service> {
    let port = (named(), select(PORTS.to_vec()), any::<bool>());
    let kind =
        prop_oneof![8 => Just(Kind::WithClusterIp), 1 => Just(Kind::Headless), 1 => Just(Kind::ExternalName)];
    let range = prop_oneof![
        Just(([10, 1, 0, 0], 24)),
        Just(([10, 1, 0, 2], 32)),
        Just(([192, 0, 2, 0], 24)),
        Just(([0; 4], 0)),
    ];
    (
        (kind, prop::bool::weighted(0.1), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        prop::collection::vec(range, 0..3),
        prop::collection::vec(port, 1..3),
        prop::collection::vec(slice(), 0..4),
    )
        .prop_map(
            move |(
                (kind, is_foreign, external, balancer, internal_local, external_local),
                ranges,
                ports,
                slices,
            )| {
                let mut names = BTreeSet::new();
                let mut numbers = Vec::new();
                let ports = ports
                    .into_iter()
                    .enumerate()
                    .filter(|(_, ((name, protocol), number, _))| {
                        let is_new = !numbers.contains(&(*protocol, *number)) && names.insert(*name);
                        numbers.push((*protocol, *number));
                        is_new
                    })
                    .map(|(place, ((name, protocol), number, has_node_port))| ServicePort {
                        name,
                        protocol,
                        number,
                        node_port: has_node_port
                            .then_some(30_000 + u16::from(number_of(number)) + 10 * place as u16),
                    })
                    .collect::<Vec<_>>();
                Service {
                    kind,
                    is_foreign,
                    cluster_ip: [10, 96, 0, number],
                    external: external.then_some([203, 0, 113, number]),
                    balancer: balancer.then_some([198, 51, 100, number]),
                    ranges,
                    internal_local,
                    external_local,
                    ports: ports
                        .into_iter()
                        .map(|port| ServicePort {
                            node_port: port.node_port.map(|own| own + 100 * u16::from(number)),
                            ..port
                        })
                        .collect(),
                    slices,
                }
            },
        )
}

/// Tells ports apart by a small number.
fn number_of(port: u16) -> u8 {
    PORTS.iter().position(|own| *own == port).unwrap() as u8
}

/// A cluster of [`SERVICES`] Services.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let services = (service(1), service(2), service(3));
    (services, maybe(Just("here")), maybe(Just("east"))).prop_map(|((first, second, third), node, zone)| {
        Cluster {
            services: vec![first, second, third],
            node,
            zone,
            node_addresses: vec![GATEWAY, POD_SIDE_GATEWAY],
            pod_network: ([10, 244, 0, 0], 16),
            service_network: ([10, 96, 0, 0], 16),
        }
    })
}

/// A call that is not aimed yet.
pub(crate) fn call() -> impl Strategy<Value = Aim> {
    let from =
        select(vec![[10, 1, 0, 2], [10, 1, 0, 3], [10, 244, 0, 77], [10, 244, 0, 11], [10, 244, 0, 12]]);
    let port = prop_oneof![
        6 => (0..2_usize).prop_map(Port::OfService),
        2 => (protocol(), select(PORTS.to_vec())).prop_map(|(protocol, number)| Port::Number(protocol, number)),
        1 => (protocol(), any::<u16>()).prop_map(|(protocol, number)| Port::Number(protocol, number)),
    ];
    (from, 0..SERVICES, 0..9_u8, port)
}

/// Aims a call, at a NodePort if there is one.
pub(crate) fn aimed(cluster: &Cluster, (from, service, way, port): Aim) -> Call {
    let number = service as u8 + 1;
    let own = &cluster.services[service].ports;
    let (protocol, port, node_port) = match port {
        Port::OfService(place) => {
            let port = &own[place % own.len()];
            (port.protocol, port.number, port.node_port)
        }
        Port::Number(protocol, number) => (protocol, number, None),
    };
    let (to, port) = match way {
        0..=2 => ([10, 96, 0, number], port),
        3 => ([203, 0, 113, number], port),
        4 | 5 => ([198, 51, 100, number], port),
        6 => (GATEWAY, node_port.unwrap_or(port)),
        7 => (POD_SIDE_GATEWAY, node_port.unwrap_or(port)),
        _ => ([10, 96, 0, 99], port),
    };
    Call { from, to, protocol, port }
}
