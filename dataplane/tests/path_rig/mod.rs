//! The packet path on plain octets: a case is config + packets in + packets out + every counter.
//!
//! Addresses are written as four octets. In a case [`over_both_families`] they stand for IPv4 addresses in the first
//! run and for the IPv6 addresses that end like them in the second.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a test crate's module; not each test uses all")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{EndpointId, FlowTables, ServicePortId};
use tidegate_dataplane::neighbours::{NeighbourState, Neighbours, NextHop};
use tidegate_dataplane::net::{Mac, Port, Prefix, Protocol};
use tidegate_dataplane::routes::{DeviceIndex, Route, RouteKind, RouteTable, Routes};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Services, Terms, VirtualAddress};
use tidegate_dataplane::snapshot::{Device, Snapshot};
use tidegate_dataplane::verdict::DropReason;
use tidegate_dataplane::worker::{Path, PuntAddresses, Wire};
use tidegate_dataplane::xsk::{Frame, FrameMemory};

pub const CLIENT_SIDE: DeviceIndex = DeviceIndex(2);
pub const POD_SIDE: DeviceIndex = DeviceIndex(3);
/// A device of the box that is not served.
pub const ELSEWHERE: DeviceIndex = DeviceIndex(9);

pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 2, 11]);
pub const CLIENT_SIDE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
pub const POD_SIDE_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
/// The gateway's address on the client's side.
pub const GATEWAY: [u8; 4] = [10, 1, 0, 1];
/// The gateway's address on the pods' side.
pub const POD_SIDE_GATEWAY: [u8; 4] = [10, 244, 0, 1];
pub const PUNT: PuntAddresses =
    PuntAddresses { source: Mac([2, 0, 0, 0, 9, 0]), destination: Mac([2, 0, 0, 0, 9, 1]) };

pub const CLIENT: [u8; 4] = [10, 1, 0, 2];
pub const VIP: [u8; 4] = [10, 96, 0, 1];
pub const OTHER_VIP: [u8; 4] = [10, 96, 0, 2];
/// A Service without endpoints.
pub const EMPTY_VIP: [u8; 4] = [10, 96, 0, 3];
/// Its endpoint is behind a device that is not served.
pub const ELSEWHERE_VIP: [u8; 4] = [10, 96, 0, 4];
/// Its endpoint is on the box.
pub const LOCAL_VIP: [u8; 4] = [10, 96, 0, 5];
/// Its endpoint has no route.
pub const UNROUTED_VIP: [u8; 4] = [10, 96, 0, 6];
/// Its endpoint has not been resolved.
pub const QUIET_VIP: [u8; 4] = [10, 96, 0, 7];
/// Its endpoint is the client.
pub const HAIRPIN_VIP: [u8; 4] = [10, 96, 0, 8];
pub const UNALLOCATED: [u8; 4] = [10, 96, 0, 99];
pub const POD: [u8; 4] = [10, 244, 0, 11];
pub const QUIET_POD: [u8; 4] = [10, 244, 0, 99];

/// Where a packet left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Out {
    Device(DeviceIndex),
    Punt,
}

/// Records what leaves, and gives the frames back to be used again.
#[derive(Default)]
pub struct Recorder {
    pub sent: Vec<(Out, Frame)>,
    pub wanted: Vec<NextHop>,
    pub full: bool,
    /// How many packets the transmit ring still takes; `None` for any number.
    pub room: Option<usize>,
}

impl Wire for Recorder {
    fn transmit(&mut self, device: DeviceIndex, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.full || self.room == Some(0) {
            return Err((frame, DropReason::TxRingFull));
        }
        self.room = self.room.map(|room| room - 1);
        self.sent.push((Out::Device(device), frame));
        Ok(())
    }

    fn punt(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        self.sent.push((Out::Punt, frame));
        Ok(())
    }

    fn resolve(&mut self, next_hop: NextHop) {
        self.wanted.push(next_hop);
    }
}

pub struct Rig {
    pub path: Path,
    pub flows: Arc<FlowTables>,
    pub snapshot: Snapshot,
    pub wire: Recorder,
    pub now: Now,
}

impl Rig {
    pub fn new() -> Self {
        Self::with_flows(1024)
    }

    pub fn with_flows(capacity: u32) -> Self {
        let (memory, pool) = FrameMemory::new(512).unwrap();
        let flows = Arc::new(FlowTables::in_memory(capacity).unwrap());
        let mut path = Path::new(memory, pool, Arc::clone(&flows), PUNT);
        path.counters.frames_total = 512;
        path.counters.frames_free = 512;
        Self { path, flows, snapshot: snapshot(), wire: Recorder::default(), now: Now::from_seconds(100) }
    }

    /// Carries packets that came by a device, and returns what left, in order.
    pub fn carry(&mut self, device: DeviceIndex, packets: &[Vec<u8>]) -> Vec<(Out, Vec<u8>)> {
        let mut burst = self.burst(packets);
        self.path.carry(device, &mut burst, &self.snapshot, self.now, &mut self.wire);
        self.collect()
    }

    /// Puts packets into frames, as they come from a receive ring.
    pub fn burst(&mut self, packets: &[Vec<u8>]) -> Vec<Frame> {
        let mut burst = Vec::new();
        for packet in packets {
            let (memory, pool) = (&self.path.memory, &mut self.path.pool);
            let frame = match packet.is_empty() {
                true => memory.write_parts(std::iter::once(&packet[..]), pool),
                false => memory.write_packet(packet, pool),
            };
            burst.push(frame.unwrap());
        }
        burst
    }

    /// Lets held packets go whose wait is over.
    pub fn release(&mut self) -> Vec<(Out, Vec<u8>)> {
        self.path.release(&self.snapshot, self.now, &mut self.wire);
        self.collect()
    }

    /// Returns what left since the last call, puts its frames back and asserts that the counters balance.
    pub fn collect(&mut self) -> Vec<(Out, Vec<u8>)> {
        let mut left = Vec::new();
        for (out, mut frame) in self.wire.sent.drain(..) {
            let mut octets = vec![0; frame.packet_bytes()];
            self.path.memory.copy_packet(&mut frame, &mut octets).unwrap();
            left.push((out, octets));
            self.path.pool.push(frame);
        }
        let held = self.path.held_frames() as u64;
        let counters = &mut self.path.counters;
        counters.frames_held = held;
        counters.frames_free = self.path.pool.len() as u64;
        assert!(counters.balances(), "{counters:?}");
        left
    }

    /// Sends one packet that is to leave as exactly one.
    pub fn one(&mut self, device: DeviceIndex, packet: &[u8]) -> (Out, Vec<u8>) {
        let mut left = self.carry(device, &[packet.to_vec()]);
        assert_eq!(left.len(), 1, "{left:?} {:?}", self.path.counters);
        left.remove(0)
    }

    /// Asserts the exact value of every counter but octets and frames; those not named are zero.
    #[track_caller]
    pub fn assert_counters(&self, expected: &[(&str, u64)]) {
        let hidden = |name: &str| name.ends_with("_bytes") || name.starts_with("frames_");
        let actual: BTreeMap<&str, u64> = self
            .path
            .counters
            .named()
            .filter(|(n, _, v)| *v > 0 && !hidden(n))
            .map(|(n, _, v)| (n, v))
            .collect();
        assert_eq!(actual, expected.iter().copied().collect());
    }

    /// Replaces what is known of neighbours, as the control thread does.
    pub fn learn(&mut self, neighbours: &[(NextHop, NeighbourState)]) {
        self.snapshot.neighbours = Arc::new(Neighbours::new(neighbours.iter().copied()));
        self.snapshot.links_generation += 1;
    }
}

thread_local! {
    static IS_IPV6: Cell<bool> = const { Cell::new(false) };
}

/// Runs a case over IPv4, then over IPv6.
pub fn over_both_families(case: impl Fn()) {
    case();
    over_ipv6(case);
}

/// Runs a case over IPv6.
pub fn over_ipv6<T>(case: impl Fn() -> T) -> T {
    over_family(true, case)
}

/// Runs a case over one family.
pub fn over_family<T>(is_ipv6: bool, case: impl FnOnce() -> T) -> T {
    IS_IPV6.set(is_ipv6);
    let result = case();
    IS_IPV6.set(false);
    result
}

pub fn is_ipv6() -> bool {
    IS_IPV6.get()
}

/// The IPv6 address that an address is written for.
pub fn ipv6([a, b, c, d]: [u8; 4]) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, a.into(), b.into(), c.into(), 0, 0, 0, d.into())
}

pub fn ip(octets: [u8; 4]) -> IpAddr {
    if is_ipv6() { ipv6(octets).into() } else { Ipv4Addr::from(octets).into() }
}

/// The prefix that is written for IPv4: 16 bits for each octet that counts.
pub fn prefix(address: [u8; 4], length: u8) -> Prefix {
    Prefix { address: ip(address), length: if is_ipv6() { prefix_length(length) } else { length } }
}

const fn prefix_length(ipv4: u8) -> u8 {
    if ipv4 == 32 { 128 } else { 16 + ipv4 * 2 }
}

pub fn next_hop(device: DeviceIndex, address: [u8; 4]) -> NextHop {
    NextHop { device, address: ip(address) }
}

pub fn neighbours() -> Vec<(NextHop, NeighbourState)> {
    vec![
        (next_hop(CLIENT_SIDE, CLIENT), NeighbourState::Reachable(CLIENT_MAC)),
        (next_hop(POD_SIDE, POD), NeighbourState::Reachable(POD_MAC)),
    ]
}

fn service_port(id: u64, protocol: Protocol, port: u16, backends: &[([u8; 4], u16)]) -> ServicePort {
    let members = backends.iter().map(|(address, port)| Backend {
        address: ip(*address),
        port: Port::new(*port),
        id: EndpointId(u64::from(u32::from_be_bytes(*address)) << 16 | u64::from(*port)),
    });
    let backends = Arc::new(Backends::new(members.collect()));
    ServicePort { protocol, port: Port::new(port), id: ServicePortId(id), backends, terms: Terms::default() }
}

/// TCP and UDP port 80 of a virtual address to one backend's port 8080.
pub fn both(id: u64, backends: &[([u8; 4], u16)]) -> VirtualAddress {
    VirtualAddress::new(vec![
        service_port(id, Protocol::Tcp, 80, backends),
        service_port(id + 1, Protocol::Udp, 80, backends),
    ])
}

fn route(table: RouteTable, destination: [u8; 4], prefix_length: u8, kind: RouteKind) -> Route {
    let Prefix { address: destination, length: prefix_length } = prefix(destination, prefix_length);
    Route { table, destination, prefix_length, metric: 0, kind }
}

/// What a snapshot has of one family.
struct Tables {
    cidr: Prefix,
    services: [(IpAddr, Option<VirtualAddress>); 8],
    routes: [Route; 4],
    devices: [Device; 2],
    neighbours: Vec<(NextHop, NeighbourState)>,
}

fn tables() -> Tables {
    let link = |device| RouteKind::Unicast { device, gateway: None };
    let device = |index, mac, address: [u8; 4]| Device {
        index,
        mac,
        mtu: 1500,
        addresses: Arc::new([prefix(address, 24)]),
    };
    Tables {
        cidr: prefix([10, 96, 0, 0], 16),
        services: [
            (ip(VIP), Some(both(10, &[(POD, 8080)]))),
            (ip(OTHER_VIP), Some(both(20, &[(POD, 8080)]))),
            (ip(EMPTY_VIP), Some(both(30, &[]))),
            (ip(ELSEWHERE_VIP), Some(both(40, &[([172, 16, 0, 5], 8080)]))),
            (ip(LOCAL_VIP), Some(both(50, &[([10, 1, 0, 1], 8080)]))),
            (ip(UNROUTED_VIP), Some(both(60, &[([203, 0, 113, 1], 8080)]))),
            (ip(QUIET_VIP), Some(both(70, &[(QUIET_POD, 8080)]))),
            (ip(HAIRPIN_VIP), Some(both(80, &[(CLIENT, 8080)]))),
        ],
        routes: [
            route(RouteTable::Local, [10, 1, 0, 1], 32, RouteKind::Local),
            route(RouteTable::Main, [10, 1, 0, 0], 24, link(CLIENT_SIDE)),
            route(RouteTable::Main, [10, 244, 0, 0], 24, link(POD_SIDE)),
            route(RouteTable::Main, [172, 16, 0, 0], 16, link(ELSEWHERE)),
        ],
        devices: [
            device(CLIENT_SIDE, CLIENT_SIDE_MAC, GATEWAY),
            device(POD_SIDE, POD_SIDE_MAC, POD_SIDE_GATEWAY),
        ],
        neighbours: neighbours(),
    }
}

/// The tables of the family that is asked about.
pub fn snapshot() -> Snapshot {
    let Tables { cidr, services, routes, devices, neighbours } = tables();
    Snapshot {
        links_generation: 1,
        routes: Arc::new(Routes::new(routes)),
        neighbours: Arc::new(Neighbours::new(neighbours)),
        devices: Arc::new(devices),
        ..Snapshot::empty(Services::new([cidr]).with(services))
    }
}

/// The tables of both families.
pub fn dual_stack_snapshot() -> Snapshot {
    let (ipv4, ipv6) = (over_family(false, tables), over_family(true, tables));
    let services = ipv4.services.into_iter().chain(ipv6.services);
    let addresses = |one: &Device, other: &Device| [one, other].map(|device| device.addresses[0]);
    let pairs = ipv4.devices.into_iter().zip(ipv6.devices);
    let devices = pairs.map(|(one, other)| Device { addresses: Arc::new(addresses(&one, &other)), ..one });
    Snapshot {
        links_generation: 1,
        routes: Arc::new(Routes::new(ipv4.routes.into_iter().chain(ipv6.routes))),
        neighbours: Arc::new(Neighbours::new(ipv4.neighbours.into_iter().chain(ipv6.neighbours))),
        devices: devices.collect(),
        ..Snapshot::empty(Services::new([ipv4.cidr, ipv6.cidr]).with(services))
    }
}

/// Both ends of a packet: addresses and ports.
pub type Ends = (([u8; 4], u16), ([u8; 4], u16));

fn network(macs: (Mac, Mac), from: [u8; 4], to: [u8; 4], ttl: u8) -> PacketBuilderStep<IpHeaders> {
    let link = PacketBuilder::ethernet2(macs.0.0, macs.1.0);
    if is_ipv6() { link.ipv6(ipv6(from).octets(), ipv6(to).octets(), ttl) } else { link.ipv4(from, to, ttl) }
}

pub fn udp(macs: (Mac, Mac), ends: Ends, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let ((source, source_port), (destination, destination_port)) = ends;
    let builder = network(macs, source, destination, ttl).udp(source_port, destination_port);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// A TCP segment; flags as letters of `SAFR`.
pub fn tcp(macs: (Mac, Mac), ends: Ends, ttl: u8, flags: &str, payload: &[u8]) -> Vec<u8> {
    let ((source, source_port), (destination, destination_port)) = ends;
    let mut builder = network(macs, source, destination, ttl).tcp(source_port, destination_port, 1000, 4096);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(2000),
            'F' => builder.fin(),
            'R' => builder.rst(),
            other => panic!("no flag {other}"),
        };
    }
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

pub fn ping(macs: (Mac, Mac), from: [u8; 4], to: [u8; 4], ttl: u8, reply: bool) -> Vec<u8> {
    ping_of(b"is anybody there", macs, from, to, ttl, reply)
}

pub fn ping_of(
    payload: &[u8],
    macs: (Mac, Mac),
    from: [u8; 4],
    to: [u8; 4],
    ttl: u8,
    reply: bool,
) -> Vec<u8> {
    let builder = network(macs, from, to, ttl);
    let mut packet = Vec::new();
    match (is_ipv6(), reply) {
        (false, false) => builder.icmpv4_echo_request(7, 1).write(&mut packet, payload),
        (false, true) => builder.icmpv4_echo_reply(7, 1).write(&mut packet, payload),
        (true, false) => builder.icmpv6_echo_request(7, 1).write(&mut packet, payload),
        (true, true) => builder.icmpv6_echo_reply(7, 1).write(&mut packet, payload),
    }
    .unwrap();
    packet
}

/// What an ICMP error says of itself: type, code and the four octets behind the checksum.
#[derive(Clone, Copy, Debug)]
pub struct Says(pub u8, pub u8, pub [u8; 4]);

/// What an ICMP error says of a port where nothing listens.
pub fn port_unreachable() -> Says {
    if is_ipv6() { Says(1, 4, [0; 4]) } else { Says(3, 3, [0; 4]) }
}

/// What it says where the TTL or hop limit ends.
pub fn time_exceeded() -> Says {
    if is_ipv6() { Says(3, 0, [0; 4]) } else { Says(11, 0, [0; 4]) }
}

/// What it says of a packet too long for a link of that MTU.
pub fn too_big(mtu: u16) -> Says {
    let [high, low] = mtu.to_be_bytes();
    if is_ipv6() { Says(2, 0, [0, 0, high, low]) } else { Says(3, 4, [0, 0, high, low]) }
}

/// Octets of an IP header as the builders write it.
pub fn ip_header_bytes() -> usize {
    if is_ipv6() { 40 } else { 20 }
}

/// An ICMP error in a frame; its quote is an IP packet or what is left of it.
pub fn icmp_error(
    macs: (Mac, Mac),
    from: [u8; 4],
    to: [u8; 4],
    ttl: u8,
    says: Says,
    quote: &[u8],
) -> Vec<u8> {
    let builder = network(macs, from, to, ttl);
    let mut packet = Vec::new();
    if is_ipv6() {
        builder.icmpv6_raw(says.0, says.1, says.2).write(&mut packet, quote).unwrap();
    } else {
        builder.icmpv4_raw(says.0, says.1, says.2).write(&mut packet, quote).unwrap();
    }
    packet
}

/// The IP packet in a frame.
pub fn ip_of(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

/// From the client to the gateway.
pub const FROM_CLIENT: (Mac, Mac) = (CLIENT_MAC, CLIENT_SIDE_MAC);
/// From the gateway to the client.
pub const TO_CLIENT: (Mac, Mac) = (CLIENT_SIDE_MAC, CLIENT_MAC);
/// From the pod to the gateway.
pub const FROM_POD: (Mac, Mac) = (POD_MAC, POD_SIDE_MAC);
/// From the gateway to the pod.
pub const TO_POD: (Mac, Mac) = (POD_SIDE_MAC, POD_MAC);
/// From a worker to the kernel.
pub const TO_KERNEL: (Mac, Mac) = (PUNT.source, PUNT.destination);
