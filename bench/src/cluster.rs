//! The cluster that the benches speak to: Services, their pods, and clients without number.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tidegate_dataplane::flows::{EndpointId, Key, ServicePortId};
use tidegate_dataplane::neighbours::{NeighbourState, Neighbours, NextHop};
use tidegate_dataplane::net::{Mac, Port, Prefix, Protocol};
use tidegate_dataplane::routes::{DeviceIndex, Route, RouteKind, RouteTable, Routes};
use tidegate_dataplane::services::{
    Backend, Backends, Destination, ServicePort, Services, Terms, VirtualAddress,
};
use tidegate_dataplane::snapshot::{Device, Snapshot};

/// The device that clients are behind.
pub const CLIENT_SIDE: DeviceIndex = DeviceIndex(2);
/// The device that pods are on.
pub const POD_SIDE: DeviceIndex = DeviceIndex(3);

/// Services, each with a virtual address of its own.
pub const SERVICES: u32 = 100;
/// Pods of each Service.
pub const PODS: u32 = 10;
/// Flows of one client address; the next client follows.
const FLOWS_PER_CLIENT: u32 = 30_000;

const PORT: Port = Port::new(80);
const POD_PORT: Port = Port::new(8080);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

/// Returns the key of the first packet of a flow; every number gives another.
#[must_use]
pub fn request(number: u32, protocol: Protocol) -> Key {
    let (client, port) = (number / FLOWS_PER_CLIENT, number % FLOWS_PER_CLIENT);
    Key::new(
        (Ipv4Addr::from_bits(0x0a02_0001 + client), Port::new(32_768 + port as u16)),
        (virtual_address(number % SERVICES), PORT),
        protocol,
    )
}

/// Returns the key of the packets that come back, whose source is the backend that the Service chooses.
#[must_use]
pub fn reply(request: &Key, snapshot: &Snapshot) -> Option<Key> {
    let Destination::Service(address) = snapshot.services.lookup(request.destination().into()) else {
        return None;
    };
    let backend = address.port(request.protocol, request.destination_port())?.backends.choose(request)?;
    let IpAddr::V4(source) = backend.address else { return None };
    Some(request.reversed().with_source(source).with_source_port(backend.port))
}

/// Returns the virtual address of a Service.
#[must_use]
pub fn virtual_address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0001 + service)
}

fn pod(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0af4_0000 + (service << 8) + number + 1)
}

/// Makes the tables of the whole cluster: every pod resolved, every client behind one router.
#[must_use]
pub fn snapshot() -> Snapshot {
    let services = (0..SERVICES).map(|service| (IpAddr::V4(virtual_address(service)), Some(ports(service))));
    let route = |destination: [u8; 4], prefix_length, device, gateway: Option<Ipv4Addr>| Route {
        table: RouteTable::Main,
        destination: Ipv4Addr::from(destination).into(),
        prefix_length,
        metric: 0,
        kind: RouteKind::Unicast { device, gateway: gateway.map(IpAddr::V4) },
    };
    let reachable = |device, address: Ipv4Addr, number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        let next_hop = NextHop { device, address: address.into() };
        (next_hop, NeighbourState::Reachable(Mac([2, 0, a, b, c, d])))
    };
    let pods = (0..SERVICES * PODS).map(|n| reachable(POD_SIDE, pod(n / PODS, n % PODS), n + 1));
    let device = |index, number| Device {
        index,
        mac: Mac([2, 1, 0, 0, 0, number]),
        mtu: 1500,
        addresses: Arc::new([]),
    };
    Snapshot {
        links_generation: 1,
        routes: Arc::new(Routes::new([
            route([10, 0, 0, 0], 8, CLIENT_SIDE, Some(ROUTER)),
            route([10, 1, 0, 0], 24, CLIENT_SIDE, None),
            route([10, 244, 0, 0], 16, POD_SIDE, None),
        ])),
        neighbours: Arc::new(Neighbours::new(pods.chain([reachable(CLIENT_SIDE, ROUTER, 0)]))),
        devices: Arc::new([device(CLIENT_SIDE, 1), device(POD_SIDE, 2)]),
        ..Snapshot::empty(
            Services::new([Prefix { address: Ipv4Addr::new(10, 96, 0, 0).into(), length: 12 }])
                .with(services),
        )
    }
}

fn ports(service: u32) -> VirtualAddress {
    let backend = |number| Backend {
        address: pod(service, number).into(),
        port: POD_PORT,
        id: EndpointId(u64::from(service * PODS + number)),
    };
    let backends = Arc::new(Backends::new((0..PODS).map(backend).collect()));
    let port = |protocol| ServicePort {
        protocol,
        port: PORT,
        id: ServicePortId(u64::from(service)),
        backends: Arc::clone(&backends),
        terms: Terms::default(),
    };
    VirtualAddress::new(vec![port(Protocol::Tcp), port(Protocol::Udp)])
}
