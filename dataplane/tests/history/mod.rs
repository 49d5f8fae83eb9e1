//! What a random history is made of: packets before they have octets, and all else that happens to a gateway.
//!
//! Reading order: the plain values here · `strategies` draws them · `frames` gives packets their octets · `pair` takes
//! each step with the packet path and the slow gateway · `comparison` of both.
#![allow(missing_docs, unreachable_pub, reason = "a test crate's module")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod comparison;
pub mod frames;
pub mod pair;
pub mod strategies;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::path_rig::{self, CLIENT_SIDE, ELSEWHERE, POD_SIDE};
use crate::slow_gateway::links::{Hop, Lead, Route, Station};
use crate::slow_gateway::packets::Segment;

/// Addresses are written for IPv4; the last of the clients is a martian.
pub const CLIENTS: [[u8; 4]; 5] = [[10, 1, 0, 2], [10, 1, 0, 3], [10, 2, 0, 7], LINK_LOCAL, LOOPBACK];
const LINK_LOCAL: [u8; 4] = [169, 254, 0, 2];
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const CLIENT_ROUTER: [u8; 4] = [10, 1, 0, 254];
const POD_ROUTER: [u8; 4] = [10, 244, 0, 254];
/// Who complains if not the other end.
pub const ROUTER: [u8; 4] = [192, 0, 2, 66];
/// One virtual address more than there are Services, and one that is nobody's.
pub const DESTINATIONS: [[u8; 4]; 6] =
    [[10, 96, 0, 1], [10, 96, 0, 2], [10, 96, 0, 3], [10, 96, 7, 4], [10, 96, 0, 99], [198, 51, 100, 1]];
pub const SERVICES: usize = 4;
pub const PORTS: [(u8, u16); 4] = [(6, 80), (17, 80), (17, 53), (132, 80)];
/// By how they are reached: on their link (two ports of one pod, another pod, one on the clients' link), by a router, by
/// a device that is not served, on the box, not at all; the client itself; by the other version of IP.
pub const BACKENDS: [(Option<[u8; 4]>, u16); 10] = [
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
const HOPS: [(u32, [u8; 4]); 7] = [
    (CLIENT_SIDE.0, CLIENTS[0]),
    (CLIENT_SIDE.0, CLIENTS[1]),
    (CLIENT_SIDE.0, CLIENT_ROUTER),
    (CLIENT_SIDE.0, [10, 1, 0, 50]),
    (POD_SIDE.0, [10, 244, 0, 11]),
    (POD_SIDE.0, [10, 244, 0, 12]),
    (POD_SIDE.0, POD_ROUTER),
];
/// How many places the pods behind the router may be at.
pub const LEADS: usize = 4;

/// The address that four octets are written for.
pub fn address(octets: [u8; 4], is_ipv6: bool) -> IpAddr {
    match octets {
        LOOPBACK if is_ipv6 => Ipv6Addr::LOCALHOST.into(),
        LINK_LOCAL if is_ipv6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).into(),
        _ if is_ipv6 => path_rig::ipv6(octets).into(),
        _ => Ipv4Addr::from(octets).into(),
    }
}

/// The leading bits of IPv6 that are written for those of IPv4.
pub fn prefix_length(ipv4: u8, is_ipv6: bool) -> u8 {
    match (ipv4, is_ipv6) {
        (_, false) => ipv4,
        (32, true) => 128,
        (_, true) => 16 + 2 * ipv4,
    }
}

/// All next hops of a version.
pub fn hops(is_ipv6: bool) -> Vec<Hop> {
    HOPS.iter().map(|(device, octets)| (*device, address(*octets, is_ipv6))).collect()
}

/// Where the pods behind the router may be.
pub fn lead(place: usize, is_ipv6: bool) -> Lead {
    match place {
        0 => Lead::Router(POD_SIDE.0, address(POD_ROUTER, is_ipv6)),
        1 => Lead::Nowhere,
        2 => Lead::Link(ELSEWHERE.0),
        _ => Lead::Link(POD_SIDE.0),
    }
}

/// All routes of a version, with that of the pods behind the router as given.
pub fn routes_with(lead: Option<Lead>, is_ipv6: bool) -> Vec<Route> {
    let route = |is_local_table, network, length, lead| Route {
        is_local_table,
        network: address(network, is_ipv6),
        length: prefix_length(length, is_ipv6).into(),
        lead,
    };
    let client_router = Lead::Router(CLIENT_SIDE.0, address(CLIENT_ROUTER, is_ipv6));
    let mut routes = vec![
        route(true, [10, 1, 0, 1], 32, Lead::Here),
        route(false, [10, 1, 0, 0], 24, Lead::Link(CLIENT_SIDE.0)),
        route(false, [10, 2, 0, 0], 16, client_router),
        route(false, [10, 244, 0, 0], 24, Lead::Link(POD_SIDE.0)),
        route(false, [172, 16, 0, 0], 16, Lead::Link(ELSEWHERE.0)),
    ];
    routes.extend(lead.map(|lead| route(false, [10, 244, 1, 0], 24, lead)));
    routes
}

/// A packet before it has octets; which flow it is of depends on those there are when its step comes.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub ends: Ends,
    pub body: Body,
    pub ttl: u8,
    /// Extension headers; for each a word of options over IPv4.
    pub extensions: Vec<Extension>,
    pub quirk: Quirk,
    pub lie: Option<Lie>,
}

#[derive(Clone, Debug)]
pub enum Ends {
    Fresh { is_ipv6: bool, client: usize, port: u16, destination: usize, service_port: u16 },
    OfFlow { place: usize, is_reply: bool },
}

/// An extension header: its kind, its length field, and its fourth octet, which says how many segments are left or
/// where a fragment belongs.
#[derive(Clone, Copy, Debug)]
pub struct Extension {
    pub kind: u8,
    pub length: u8,
    pub says: u8,
}

#[derive(Clone, Debug)]
pub enum Body {
    Tcp(Segment),
    Udp {
        payload: Vec<u8>,
        has_checksum: bool,
    },
    /// An Echo, but for its type and checksum.
    Echo(Vec<u8>),
    Icmp(Vec<u8>),
    /// About a packet that went the other way.
    IcmpError(Complaint),
    Sctp {
        chunks: Vec<(u8, Vec<u8>)>,
        wrong_by: u32,
    },
    Noise(Vec<u8>),
}

/// What an ICMP error says, and what it quotes.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// Its type, code and what is behind its checksum, in the words of both versions.
    pub kinds: [u8; 2],
    pub code: u8,
    pub rest: [u8; 4],
    pub is_by_end: bool,
    pub protocol: u8,
    pub payload: Vec<u8>,
    pub extensions: Vec<Extension>,
    /// What was changed in the quote, and how much of it there is.
    pub flips: Vec<(usize, u8)>,
    pub quoted: usize,
}

/// What is unusual about a packet, but true.
#[derive(Clone, Debug)]
pub enum Quirk {
    None,
    Padding(usize),
    /// Flags and offset of a fragment.
    Fragment(u16),
    /// It comes in fragments, cut in blocks of 8 octets behind some of its extension headers, turned by some places and
    /// perhaps the first one twice.
    Pieces {
        behind: usize,
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
pub struct Lie {
    pub flips: Vec<(usize, u8)>,
    pub length: Option<usize>,
    pub is_mended: bool,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Each packet comes `copies` times, one after the other.
    Burst {
        is_client_side: bool,
        is_wire_full: bool,
        packets: Vec<Sketch>,
        copies: usize,
    },
    /// A Service port gets other backends (bits of their places), or with `None` the whole Service goes.
    Service {
        is_ipv6: bool,
        destination: usize,
        port: usize,
        backends: Option<u16>,
    },
    Neighbour {
        is_ipv6: bool,
        hop: usize,
        station: Option<Station>,
    },
    Route {
        is_ipv6: bool,
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
