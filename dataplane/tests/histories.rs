//! Random histories: the packet path and a slow gateway send the same octets and count the same, step by step.
//!
//! `PROPTEST_CASES` sets the number of histories (256 if it is not set, of 80 steps on average).
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;
mod slow_gateway;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use path_rig::{
    CLIENT_MAC, CLIENT_SIDE, CLIENT_SIDE_MAC, ELSEWHERE, GATEWAY, Out, POD_MAC, POD_SIDE, POD_SIDE_GATEWAY,
    POD_SIDE_MAC, PUNT, Rig,
};
use proptest::prelude::*;
use slow_gateway::datagram::{self, Five, Segment};
use slow_gateway::links::{Hop, Lead, Links, Route, Station};
use slow_gateway::{Gateway, MASQUERADE_PORT, Ports, Sent, Way, hex, key};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursors, Direction, EndpointId, ServicePortId, Timeouts};
use tidegate_dataplane::masquerade::{Masquerade, Mode, PortRange};
use tidegate_dataplane::neighbours::{NeighbourState, NextHop};
use tidegate_dataplane::net::{Mac, Port, Prefix, Protocol};
use tidegate_dataplane::routes::{self, DeviceIndex, RouteKind, RouteTable, Routes};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Services, Terms, VirtualAddress};
use tidegate_dataplane::snapshot::Snapshot;
use tidegate_dataplane::worker::BURST;

/// Steps of the longest history; the mean is half of it.
const STEPS: usize = 160;
/// Each pass forgets a bounded number of datagrams; this often is enough for all.
const PASSES_TO_EXPIRE_FRAGMENTS: usize = 40;

const CLIENTS: [[u8; 4]; 4] = [[10, 1, 0, 2], [10, 1, 0, 3], [10, 2, 0, 7], [127, 0, 0, 1]];
const CLIENT_ROUTER: [u8; 4] = [10, 1, 0, 254];
const POD_ROUTER: [u8; 4] = [10, 244, 0, 254];
/// Who complains if not the other end.
const ROUTER: [u8; 4] = [192, 0, 2, 66];
/// One virtual address more than there are Services, and one that is nobody's.
const DESTINATIONS: [[u8; 4]; 6] =
    [[10, 96, 0, 1], [10, 96, 0, 2], [10, 96, 0, 3], [10, 96, 7, 4], [10, 96, 0, 99], [198, 51, 100, 1]];
const SERVICES: usize = 4;
const PORTS: [(u8, u16); 3] = [(6, 80), (17, 80), (17, 53)];
/// By how they are reached: on their link (two ports of one pod, another pod, one on the clients' link), by a router, by
/// a device that is not served, on the box, not at all; the client itself; by IPv6.
const BACKENDS: [(Option<[u8; 4]>, u16); 10] = [
    (Some([10, 244, 0, 11]), 8080),
    (Some([10, 244, 0, 11]), 80),
    (Some([10, 244, 0, 12]), 8080),
    (Some([10, 1, 0, 50]), 9090),
    (Some([10, 244, 1, 13]), 8080),
    (Some([172, 16, 0, 5]), 8080),
    (Some([10, 1, 0, 1]), 53),
    (Some([203, 0, 113, 1]), 8080),
    (Some([10, 1, 0, 2]), 8080),
    (None, 8080),
];
const HOPS: [Hop; 7] = [
    (CLIENT_SIDE.0, CLIENTS[0]),
    (CLIENT_SIDE.0, CLIENTS[1]),
    (CLIENT_SIDE.0, CLIENT_ROUTER),
    (CLIENT_SIDE.0, [10, 1, 0, 50]),
    (POD_SIDE.0, [10, 244, 0, 11]),
    (POD_SIDE.0, [10, 244, 0, 12]),
    (POD_SIDE.0, POD_ROUTER),
];
/// Where the pods behind the router may be.
const LEADS: [Lead; 4] =
    [Lead::Router(POD_SIDE.0, POD_ROUTER), Lead::Nowhere, Lead::Link(ELSEWHERE.0), Lead::Link(POD_SIDE.0)];

/// A packet before it has octets; which flow it is of depends on those there are when its step comes.
#[derive(Clone, Debug)]
struct Sketch {
    ends: Ends,
    body: Body,
    ttl: u8,
    quirk: Quirk,
    lie: Option<Lie>,
}

#[derive(Clone, Debug)]
enum Ends {
    Fresh { client: usize, port: u16, destination: usize, service_port: u16 },
    OfFlow { place: usize, is_reply: bool },
}

#[derive(Clone, Debug)]
enum Body {
    Tcp(Segment),
    Udp {
        payload: Vec<u8>,
        has_checksum: bool,
    },
    Icmp(Vec<u8>),
    /// About a packet that went the other way.
    IcmpError(Complaint),
    Sctp,
    Noise(Vec<u8>),
}

/// What an ICMP error says, and what it quotes.
#[derive(Clone, Debug)]
struct Complaint {
    header: [u8; 8],
    is_by_end: bool,
    is_about_tcp: bool,
    payload: Vec<u8>,
    /// What was changed in the quote, and how much of it there is.
    flips: Vec<(usize, u8)>,
    quoted: usize,
}

/// What is unusual about a packet, but true.
#[derive(Clone, Debug)]
enum Quirk {
    None,
    Padding(usize),
    Options(u8),
    /// Flags and offset of a fragment.
    Fragment(u16),
    /// It comes in fragments, cut in blocks of 8 octets, turned by some places and perhaps the first one twice.
    Pieces {
        blocks: Vec<usize>,
        turn: usize,
        is_twice: bool,
    },
    /// Its sender lets it be cut.
    MayBeCut,
    Tagged,
}

/// What is changed in a packet after it was made. A mended header checksum lets the lie come further.
#[derive(Clone, Debug)]
struct Lie {
    flips: Vec<(usize, u8)>,
    length: Option<usize>,
    is_mended: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Each packet comes `copies` times, one after the other.
    Burst {
        is_client_side: bool,
        is_wire_full: bool,
        packets: Vec<Sketch>,
        copies: usize,
    },
    /// A Service port gets other backends (bits of their places), or with `None` the whole Service goes.
    Service {
        destination: usize,
        port: usize,
        backends: Option<u16>,
    },
    Neighbour {
        hop: usize,
        station: Option<Station>,
    },
    Route {
        lead: Option<usize>,
    },
    Wait {
        ns: u64,
    },
    Release {
        is_wire_full: bool,
    },
    Expire,
}

/// Octets that go up in equal steps: as good as random ones for a checksum, and easier to read.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![10 => 0..40_usize, 1 => 500..600_usize, 1 => 1440..1500_usize];
    let steps = prop_oneof![1 => Just(0), 4 => any::<u8>()];
    (lengths, steps).prop_map(|(length, step)| (0..length).map(|n| (n as u8).wrapping_mul(step)).collect())
}

fn flags() -> impl Strategy<Value = u8> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let usual = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK]);
    prop_oneof![9 => usual, 1 => any::<u8>()]
}

fn body() -> impl Strategy<Value = Body> {
    let segment = (any::<u32>(), any::<u32>(), flags(), any::<u16>(), payload()).prop_map(
        |(sequence, acknowledgment, flags, window, payload)| Segment {
            sequence,
            acknowledgment,
            flags,
            window,
            payload,
        },
    );
    let echo = (payload(), any::<bool>(), any::<u8>()).prop_map(|(payload, is_zero, number)| {
        let identity = if is_zero { [0; 4] } else { [0, 1, 2, number] };
        Body::Icmp([&[8, 0, 0, 0], &identity[..], &payload].concat())
    });
    prop_oneof![
        12 => segment.prop_map(Body::Tcp),
        12 => (payload(), prop::bool::weighted(0.9))
            .prop_map(|(payload, has_checksum)| Body::Udp { payload, has_checksum }),
        3 => echo,
        1 => prop::collection::vec(any::<u8>(), 8..40).prop_map(Body::Icmp),
        8 => complaint().prop_map(Body::IcmpError),
        1 => Just(Body::Sctp),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Body::Noise),
    ]
}

fn complaint() -> impl Strategy<Value = Complaint> {
    let kind = prop_oneof![10 => prop::sample::select(vec![3_u8, 11, 12]), 1 => Just(4), 1 => Just(5)];
    let flips = prop::collection::vec((0..60_usize, any::<u8>()), 0..3);
    let flips = prop_oneof![4 => Just(vec![]), 1 => flips];
    let quoted = prop_oneof![1 => 0..50_usize, 2 => 28..550_usize];
    (kind, any::<(u8, [u8; 4])>(), any::<[bool; 2]>(), payload(), flips, quoted).prop_map(
        |(kind, (code, [a, b, c, d]), [is_by_end, is_about_tcp], payload, flips, quoted)| Complaint {
            header: [kind, code, 0, 0, a, b, c, d],
            is_by_end,
            is_about_tcp,
            payload,
            flips,
            quoted,
        },
    )
}

fn lie() -> impl Strategy<Value = Lie> {
    let flips = prop::collection::vec((0..60_usize, any::<u8>()), 0..4);
    (flips, prop::option::weighted(0.3, 0..120_usize), any::<bool>())
        .prop_map(|(flips, length, is_mended)| Lie { flips, length, is_mended })
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let client = prop_oneof![40 => 0..CLIENTS.len() - 1, 1 => Just(CLIENTS.len() - 1)];
    let port = prop::sample::select(vec![40_000, 40_001, 40_002, 1]);
    let service_port = prop::sample::select(vec![80, 80, 80, 53, 81]);
    let fresh = (client, port, 0..DESTINATIONS.len(), service_port).prop_map(
        |(client, port, destination, service_port)| Ends::Fresh { client, port, destination, service_port },
    );
    let of_flow = (any::<usize>(), prop::bool::weighted(0.6))
        .prop_map(|(place, is_reply)| Ends::OfFlow { place, is_reply });
    let quirk = prop_oneof![
        20 => Just(Quirk::None),
        1 => (1..20_usize).prop_map(Quirk::Padding),
        1 => (1..=10_u8).prop_map(Quirk::Options),
        1 => any::<u16>().prop_map(Quirk::Fragment),
        1 => (0..16_u16).prop_map(|word| Quirk::Fragment(word >> 3 << 13 | word & 7)),
        2 => (prop::collection::vec(1..30_usize, 1..4), 0..4_usize, prop::bool::weighted(0.2))
            .prop_map(|(blocks, turn, is_twice)| Quirk::Pieces { blocks, turn, is_twice }),
        1 => Just(Quirk::MayBeCut),
        1 => Just(Quirk::Tagged),
    ];
    let ttl = prop_oneof![10 => Just(64_u8), 1 => 0..3_u8];
    let ends = prop_oneof![3 => fresh, 3 => of_flow];
    (ends, body(), ttl, quirk, prop::option::weighted(0.15, lie()))
        .prop_map(|(ends, body, ttl, quirk, lie)| Sketch { ends, body, ttl, quirk, lie })
}

fn burst() -> impl Strategy<Value = Step> {
    // Enough copies to fill the queue of a next hop, if it is unknown.
    let copies = prop_oneof![15 => Just(1), 1 => 30..50_usize];
    let packets = prop_oneof![
        2 => prop::collection::vec(sketch(), 1..2),
        1 => prop::collection::vec(sketch(), 2..8),
    ];
    (any::<bool>(), prop::bool::weighted(0.05), packets, copies).prop_map(
        |(is_client_side, is_wire_full, packets, copies)| Step::Burst {
            is_client_side,
            is_wire_full,
            packets,
            copies,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let station = prop_oneof![
        3 => prop::sample::select(vec![POD_MAC, Mac([2, 0, 0, 0, 7, 7])])
            .prop_map(|mac| Some(Station::Known(mac.0))),
        1 => Just(Some(Station::Asked)),
        1 => Just(Some(Station::Silent)),
        1 => Just(None),
    ];
    // Times of which the waits for next hops are made, and those of the flows in their states.
    let timeouts = prop::sample::select(vec![1, 10, 30, 60, 120, 300, 3_600, 86_400]);
    let wait = prop_oneof![
        1 => 0..4_000_000_000_u64,
        1 => (timeouts, 0..2_u64).prop_map(|(seconds, more)| (seconds + more) * 1_000_000_000),
    ];
    let backends = prop_oneof![
        3 => (0..16_u16).prop_map(Some),
        3 => (0..1_u16 << BACKENDS.len()).prop_map(Some),
        1 => Just(None),
    ];
    prop_oneof![
        20 => burst(),
        3 => (0..SERVICES, 0..PORTS.len(), backends)
            .prop_map(|(destination, port, backends)| Step::Service { destination, port, backends }),
        3 => (0..HOPS.len(), station).prop_map(|(hop, station)| Step::Neighbour { hop, station }),
        1 => prop::option::of(0..LEADS.len()).prop_map(|lead| Step::Route { lead }),
        2 => wait.prop_map(|ns| Step::Wait { ns }),
        2 => prop::bool::weighted(0.05).prop_map(|is_wire_full| Step::Release { is_wire_full }),
        2 => Just(Step::Expire),
    ]
}

/// Makes the frames that a packet comes in: one, mostly.
fn frames(sketch: &Sketch, gateway: &Gateway) -> Vec<Vec<u8>> {
    let whole = octets(sketch, gateway);
    let Quirk::Pieces { blocks, turn, is_twice } = &sketch.quirk else { return vec![whole] };
    if whole.len() <= 34 || whole[14] != 0x45 {
        return vec![whole];
    }
    let mut pieces = vec![];
    let mut from = 34;
    for blocks in blocks {
        let to = whole.len().min(from + blocks * 8);
        pieces.push((from, to));
        from = to;
    }
    pieces.push((from, whole.len()));
    pieces.retain(|(from, to)| from < to);
    let mut frames: Vec<_> = pieces.into_iter().map(|(from, to)| fragment(&whole, from, to)).collect();
    let turn = turn % frames.len();
    frames.rotate_left(turn);
    if *is_twice {
        frames.push(frames[0].clone());
    }
    frames
}

/// One piece of a packet: its octets from one place of the frame to another.
fn fragment(whole: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut piece = [&whole[..34], &whole[from..to]].concat();
    datagram::set_word(&mut piece, 16, (20 + to - from) as u16);
    let more = if to < whole.len() { 0x2000 } else { 0 };
    datagram::set_word(&mut piece, 20, more | ((from - 34) / 8) as u16);
    datagram::mend_header(&mut piece);
    piece
}

/// Makes the octets of a packet. Stations do not decide anything, so they are always the same.
fn octets(sketch: &Sketch, gateway: &Gateway) -> Vec<u8> {
    let stations = [CLIENT_SIDE_MAC.0, CLIENT_MAC.0].concat().try_into().unwrap();
    let protocol = match sketch.body {
        Body::Tcp(_) => 6,
        Body::Udp { .. } => 17,
        Body::Icmp(_) => 1,
        Body::IcmpError(Complaint { is_about_tcp: true, .. }) => 6,
        Body::IcmpError(_) => 17,
        Body::Sctp | Body::Noise(_) => 132,
    };
    let ends = ends(&sketch.ends, protocol, gateway);
    let mut octets = match &sketch.body {
        Body::Tcp(segment) => datagram::tcp(stations, ends, sketch.ttl, segment),
        Body::Udp { payload, has_checksum } => {
            let mut octets = datagram::udp(stations, ends, sketch.ttl, payload);
            if !has_checksum {
                datagram::set_word(&mut octets, 40, 0);
            }
            octets
        }
        Body::Icmp(message) => datagram::icmp(stations, ends, sketch.ttl, message.clone()),
        Body::IcmpError(complaint) => {
            let source = if complaint.is_by_end { ends.source } else { ROUTER };
            let message = [&complaint.header[..], &quote(complaint, ends.reversed())].concat();
            datagram::icmp(stations, Five { source, ..ends }, sketch.ttl, message)
        }
        Body::Sctp => {
            let mut octets = datagram::icmp(stations, ends, sketch.ttl, vec![0; 12]);
            octets[23] = 132;
            datagram::mend_header(&mut octets);
            octets
        }
        Body::Noise(octets) => return octets.clone(),
    };
    add_quirk(&mut octets, &sketch.quirk);
    if let Some(lie) = &sketch.lie {
        tell(&mut octets, lie);
    }
    octets
}

/// The packet that went the other way, as it comes back in an error.
fn quote(complaint: &Complaint, sent: Five) -> Vec<u8> {
    let payload = complaint.payload.clone();
    let mut packet = if complaint.is_about_tcp {
        let segment = Segment { sequence: 1, acknowledgment: 2, flags: 16, window: 3, payload };
        datagram::tcp([0; 12], sent, 61, &segment)
    } else {
        datagram::udp([0; 12], sent, 61, &payload)
    };
    let mut quote = packet.split_off(14);
    for (place, bits) in &complaint.flips {
        let length = quote.len();
        quote[place % length] ^= bits;
    }
    quote.truncate(complaint.quoted);
    quote
}

fn ends(ends: &Ends, protocol: u8, gateway: &Gateway) -> Five {
    match *ends {
        Ends::OfFlow { place, is_reply } if !gateway.flows.is_empty() => {
            let (mut flows, others): (Vec<_>, Vec<_>) =
                gateway.flows.iter().partition(|flow| flow.request.protocol == protocol);
            if flows.is_empty() {
                flows = others;
            }
            let flow = flows[place % flows.len()];
            let ends = if is_reply { flow.reply } else { flow.request };
            Five { protocol, ..ends }
        }
        Ends::OfFlow { .. } => Five {
            protocol,
            source: CLIENTS[0],
            source_port: 5,
            destination: DESTINATIONS[0],
            destination_port: 80,
        },
        Ends::Fresh { client, port, destination, service_port } => Five {
            protocol,
            source: CLIENTS[client],
            source_port: port,
            destination: DESTINATIONS[destination],
            destination_port: service_port,
        },
    }
}

fn add_quirk(octets: &mut Vec<u8>, quirk: &Quirk) {
    match *quirk {
        Quirk::None | Quirk::Pieces { .. } => {}
        Quirk::MayBeCut => {
            octets[20] = 0;
            datagram::mend_header(octets);
        }
        Quirk::Padding(length) => octets.extend(vec![0xee; length]),
        Quirk::Options(words) => {
            octets.splice(34..34, vec![1; usize::from(words) * 4]);
            octets[14] = 0x45 + words;
            let total = datagram::word(octets, 16) + u16::from(words) * 4;
            datagram::set_word(octets, 16, total);
            datagram::mend_header(octets);
        }
        Quirk::Fragment(word) => {
            datagram::set_word(octets, 20, word);
            datagram::mend_header(octets);
        }
        Quirk::Tagged => drop(octets.splice(12..12, [0x81, 0, 0, 7])),
    }
}

fn tell(octets: &mut Vec<u8>, lie: &Lie) {
    for (place, bits) in &lie.flips {
        let length = octets.len();
        octets[place % length] ^= bits;
    }
    if lie.is_mended
        && octets.len() >= 34
        && octets[14] & 15 >= 5
        && octets.len() >= 14 + 4 * usize::from(octets[14] & 15)
    {
        datagram::mend_header(octets);
    }
    if let Some(length) = lie.length {
        octets.truncate(length);
    }
}

/// The two gateways, side by side.
struct Pair {
    rig: Rig,
    slow: Gateway,
    cursor: Cursors,
    /// Keys of flows that were, the last ones only.
    gone: Vec<Five>,
}

impl Pair {
    fn new(capacity: u32, mode: Mode) -> Self {
        let known = |(hop, number): (Hop, u8)| (hop, Station::Known([2, 0, 0, 0, 8, number]));
        let links = Links {
            changes: 1,
            routes: routes_with(Some(LEADS[0])),
            stations: HOPS.into_iter().zip(1..).map(known).collect(),
            devices: BTreeMap::from([(CLIENT_SIDE.0, CLIENT_SIDE_MAC.0), (POD_SIDE.0, POD_SIDE_MAC.0)]),
            own: BTreeMap::from([(CLIENT_SIDE.0, GATEWAY), (POD_SIDE.0, POD_SIDE_GATEWAY)]),
            punt: (PUNT.source.0, PUNT.destination.0),
        };
        let mut rig = Rig::with_flows(capacity);
        let services = Services::new([Prefix { address: Ipv4Addr::new(10, 96, 0, 0).into(), length: 16 }]);
        let ports = PortRange::new(MASQUERADE_PORT, MASQUERADE_PORT).unwrap();
        rig.snapshot = Snapshot {
            devices: Arc::clone(&rig.snapshot.devices),
            masquerade: Masquerade { mode, ports },
            ..Snapshot::empty(services)
        };
        let mut slow = Gateway::new(rig.flows.ipv4.capacity(), links);
        slow.masquerade = mode;
        let mut pair = Self { rig, slow, cursor: Cursors::part(0, 1), gone: vec![] };
        for destination in 0..SERVICES {
            for port in 0..PORTS.len() {
                pair.change_service(destination, port, Some(1 << destination | 1));
            }
        }
        pair.hand_over_links();
        pair
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before: Vec<Five> = self.slow.flows.iter().flat_map(|flow| [flow.request, flow.reply]).collect();
        match step {
            Step::Burst { is_client_side, is_wire_full, packets, copies } => {
                self.set_wire(*is_wire_full);
                let device = if *is_client_side { CLIENT_SIDE } else { POD_SIDE };
                let packets: Vec<_> = packets
                    .iter()
                    .flat_map(|sketch| vec![frames(sketch, &self.slow); *copies].concat())
                    .collect();
                for packets in packets.chunks(BURST) {
                    let carried = self.rig.carry(device, packets);
                    let expected: Vec<_> =
                        packets.iter().flat_map(|octets| self.slow.carry(device.0, octets)).collect();
                    let asked = packets.iter().map(|octets| hex(octets));
                    prop_assert_eq!(sent(carried), expected, "of {:#?}", asked.collect::<Vec<_>>());
                }
            }
            Step::Release { is_wire_full } => {
                self.set_wire(*is_wire_full);
                prop_assert_eq!(sent(self.rig.release()), self.slow.release());
            }
            Step::Service { destination, port, backends } => {
                self.change_service(*destination, *port, *backends);
            }
            Step::Neighbour { hop, station } => {
                match station {
                    Some(station) => self.slow.links.stations.insert(HOPS[*hop], *station),
                    None => self.slow.links.stations.remove(&HOPS[*hop]),
                };
                self.hand_over_links();
            }
            Step::Route { lead } => {
                self.slow.links.routes = routes_with(lead.map(|lead| LEADS[lead]));
                self.hand_over_links();
            }
            Step::Wait { ns } => {
                self.slow.now_ns += ns;
                self.rig.now = Now::from_ns(self.slow.now_ns);
            }
            Step::Expire => {
                let (budget, timeouts) = (self.rig.flows.capacity(), Timeouts::default());
                let expired = self.rig.flows.expire(&mut self.cursor, self.rig.now, budget, &timeouts);
                prop_assert_eq!(expired, self.slow.expire());
                for _ in 0..PASSES_TO_EXPIRE_FRAGMENTS {
                    let Rig { path, snapshot, now, wire, .. } = &mut self.rig;
                    path.expire_fragments(snapshot, *now, wire);
                }
                prop_assert!(self.rig.collect().is_empty());
                self.slow.expire_fragments();
            }
        }
        self.remember_gone(before);
        self.agree()
    }

    fn set_wire(&mut self, is_full: bool) {
        self.rig.wire.full = is_full;
        self.slow.is_wire_full = is_full;
    }

    fn remember_gone(&mut self, before: Vec<Five>) {
        let lives =
            |key: &Five| self.slow.flows.iter().any(|flow| flow.request == *key || flow.reply == *key);
        let mut gone = std::mem::take(&mut self.gone);
        gone.extend(before);
        gone.retain(|key| !lives(key));
        gone.sort();
        gone.dedup();
        gone.drain(..gone.len().saturating_sub(64));
        self.gone = gone;
    }

    /// Compares all that can be seen of both.
    fn agree(&mut self) -> Result<(), TestCaseError> {
        let hidden = |name: &str| name.starts_with("frames_") || name == "held";
        let counters = &self.rig.path.counters;
        let counted: BTreeMap<&str, u64> = counters
            .named()
            .filter(|(name, _, value)| *value > 0 && !hidden(name))
            .map(|(name, _, value)| (name, value))
            .collect();
        self.slow.counters.retain(|_, value| *value > 0);
        prop_assert_eq!(&counted, &self.slow.counters);
        prop_assert!(counters.balances());
        prop_assert_eq!(counters.held, (self.slow.held.len() + self.slow.fragments.waiting()) as u64);

        let wanted: Vec<Hop> = self.rig.wire.wanted.drain(..).map(hop).collect();
        prop_assert_eq!(&wanted, &self.slow.wanted);
        self.slow.wanted.clear();

        prop_assert_eq!(self.rig.flows.len(), self.slow.flows.len());
        for flow in &self.slow.flows {
            let [request, reply] = [flow.request, flow.reply].map(|five| self.lookup(five));
            let (Some(request), Some(reply)) = (request, reply) else {
                return Err(TestCaseError::fail(format!("{flow:?} is not found by both keys")));
            };
            prop_assert_eq!(request.flow, reply.flow);
            prop_assert_eq!((request.direction, reply.direction), (Direction::Request, Direction::Reply));
            prop_assert_eq!(request.leaves_as, key(flow.reply.reversed()));
            prop_assert_eq!(reply.leaves_as, key(flow.request.reversed()));
            prop_assert_eq!(request.state.number(), flow.state as u8, "{:?}", flow);
            prop_assert_eq!(u64::from(request.last_seen), flow.last_second);
        }
        for five in &self.gone {
            prop_assert!(self.lookup(*five).is_none(), "{:?} outlived its flow", five);
        }
        Ok(())
    }

    fn lookup(&self, five: Five) -> Option<tidegate_dataplane::flows::Found> {
        let key = key(five);
        self.rig.flows.ipv4.lookup(self.rig.flows.ipv4.hash(&key), &key)
    }

    fn change_service(&mut self, destination: usize, port: usize, backends: Option<u16>) {
        let address = DESTINATIONS[destination];
        match backends {
            Some(bits) => {
                let ports = self.slow.services.entry(address).or_default();
                ports.insert(PORTS[port], Arc::new(Backends::new(members(bits))));
            }
            None => drop(self.slow.services.remove(&address)),
        }
        let next = self.slow.services.get(&address).map(virtual_address);
        self.rig.snapshot.services =
            self.rig.snapshot.services.with([(IpAddr::V4(Ipv4Addr::from(address)), next)]);
    }

    /// Publishes the slow gateway's routes and neighbours to the other one.
    fn hand_over_links(&mut self) {
        let links = &mut self.slow.links;
        links.changes += 1;
        let known: Vec<_> =
            links.stations.iter().map(|(hop, station)| (next_hop(*hop), state(*station))).collect();
        self.rig.snapshot.routes = Arc::new(Routes::new(links.routes.iter().map(route)));
        self.rig.learn(&known);
    }
}

fn sent(left: Vec<(Out, Vec<u8>)>) -> Vec<Sent> {
    let way = |out| match out {
        Out::Device(device) => Way::Device(device.0),
        Out::Punt => Way::Punt,
    };
    left.into_iter().map(|(out, octets)| Sent { way: way(out), octets }).collect()
}

fn members(bits: u16) -> Vec<Backend> {
    let chosen = BACKENDS.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1);
    chosen
        .map(|(place, (address, port))| Backend {
            address: address.map_or(Ipv6Addr::LOCALHOST.into(), |address| Ipv4Addr::from(address).into()),
            port: Port::new(*port),
            id: EndpointId(place as u64),
        })
        .collect()
}

fn virtual_address(ports: &Ports) -> VirtualAddress {
    let port = |((protocol, port), backends): (&(u8, u16), &Arc<Backends>)| ServicePort {
        protocol: Protocol::from_number(*protocol).unwrap(),
        port: Port::new(*port),
        id: ServicePortId(u64::from(*port)),
        backends: Arc::clone(backends),
        terms: Terms::default(),
    };
    VirtualAddress::new(ports.iter().map(port).collect())
}

/// All routes, with that of the pods behind the router as given.
fn routes_with(lead: Option<Lead>) -> Vec<Route> {
    let route = |is_local_table, network, length, lead| Route { is_local_table, network, length, lead };
    let mut routes = vec![
        route(true, [10, 1, 0, 1], 32, Lead::Here),
        route(false, [10, 1, 0, 0], 24, Lead::Link(CLIENT_SIDE.0)),
        route(false, [10, 2, 0, 0], 16, Lead::Router(CLIENT_SIDE.0, CLIENT_ROUTER)),
        route(false, [10, 244, 0, 0], 24, Lead::Link(POD_SIDE.0)),
        route(false, [172, 16, 0, 0], 16, Lead::Link(ELSEWHERE.0)),
    ];
    routes.extend(lead.map(|lead| route(false, [10, 244, 1, 0], 24, lead)));
    routes
}

fn route(slow: &Route) -> routes::Route {
    let address = |octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets));
    routes::Route {
        table: if slow.is_local_table { RouteTable::Local } else { RouteTable::Main },
        destination: address(slow.network),
        prefix_length: slow.length as u8,
        metric: 0,
        kind: match slow.lead {
            Lead::Here => RouteKind::Local,
            Lead::Nowhere => RouteKind::Unreachable,
            Lead::Link(device) => RouteKind::Unicast { device: DeviceIndex(device), gateway: None },
            Lead::Router(device, router) => {
                RouteKind::Unicast { device: DeviceIndex(device), gateway: Some(address(router)) }
            }
        },
    }
}

fn next_hop((device, address): Hop) -> NextHop {
    path_rig::next_hop(DeviceIndex(device), address)
}

fn hop(next_hop: NextHop) -> Hop {
    let IpAddr::V4(address) = next_hop.address else { unreachable!("no IPv6 next hop is in any route") };
    (next_hop.device.0, address.octets())
}

fn state(station: Station) -> NeighbourState {
    match station {
        Station::Known(mac) => NeighbourState::Reachable(Mac(mac)),
        Station::Asked => NeighbourState::Unresolved,
        Station::Silent => NeighbourState::Failed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_packet_path_and_a_slow_gateway_send_and_count_the_same(
        // Six flows fill the table, and no bucket of its index before.
        capacity in prop::sample::select(vec![6, 512, 512]),
        mode in prop::sample::select(vec![Mode::Auto, Mode::Auto, Mode::Always, Mode::Never]),
        steps in prop::collection::vec(step(), 1..STEPS),
    ) {
        let mut pair = Pair::new(capacity, mode);
        for step in &steps {
            pair.take(step)?;
        }
    }
}

proptest! {
    #[test]
    fn the_slow_checksums_are_those_of_an_independent_encoder(
        payload in prop::collection::vec(any::<u8>(), 0..64),
        port in any::<u16>(),
        flags in prop::sample::select(vec!["S", "SA", "FA", "R"]),
    ) {
        let five = Five {
            protocol: 17,
            source: CLIENTS[0],
            source_port: port,
            destination: DESTINATIONS[0],
            destination_port: 80,
        };
        let ends = ((CLIENTS[0], port), (DESTINATIONS[0], 80));
        let stations = [CLIENT_SIDE_MAC.0, CLIENT_MAC.0].concat().try_into().unwrap();
        let encoded = path_rig::udp((CLIENT_MAC, CLIENT_SIDE_MAC), ends, 64, &payload);
        prop_assert_eq!(datagram::udp(stations, five, 64, &payload), encoded);
        let encoded = path_rig::tcp((CLIENT_MAC, CLIENT_SIDE_MAC), ends, 64, flags, &payload);
        let bits = flags.chars().map(|flag| match flag { 'S' => 2, 'A' => 16, 'F' => 1, _ => 4 }).sum();
        let acknowledgment = if flags.contains('A') { 2000 } else { 0 };
        let segment = Segment { sequence: 1000, acknowledgment, flags: bits, window: 4096, payload };
        let own = datagram::tcp(stations, Five { protocol: 6, ..five }, 64, &segment);
        prop_assert_eq!(own, encoded);
    }
}
