//! A gateway that is slow and obviously right: lists, maps, and checksums computed in full. The oracle of the packet
//! path; it shares no code with it and asks it nothing but the choice of a backend.
//!
//! Reading order: [`Gateway::carry`] here · `opening` (new flows) · `datagram`, `packets`, `ip`, `chain`, `sctp`, `checksum`
//! (octets) · `flow` (states) · `links` (next hops, waiting) · `errors` (ICMP errors) · `fragments` (datagrams in pieces).
#![allow(missing_docs, unreachable_pub, reason = "a test crate's module")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod chain;
pub mod checksum;
pub mod datagram;
pub mod errors;
pub mod flow;
pub mod fragments;
pub mod ip;
pub mod links;
mod opening;
pub mod packets;
pub mod sctp;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use datagram::{Datagram, Five, Kind};
use errors::Allowance;
use flow::{Flow, Places, State};
use fragments::Fragments;
use ip::Unreadable;
use links::{Held, Hop, Lead, Links, Station};
use tidegate_dataplane::masquerade::Mode;
use tidegate_dataplane::services::Backends;

/// Addresses of Services come from 10.96.0.0/16 and fd00:a:60::/48.
const SERVICE_CIDRS: [&[u8]; 2] = [&[10, 96], &[0xfd, 0, 0, 10, 0, 96]];

/// The one port that masqueraded flows may get, so that which one they get is no secret of the flow table's.
pub const MASQUERADE_PORT: u16 = 61_000;

/// Backends of each protocol and port of a virtual address.
pub type Ports = BTreeMap<(u8, u16), Arc<Backends>>;

/// Where a frame left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Device(u32),
    Punt,
}

/// A frame that left.
#[derive(Clone, PartialEq, Eq)]
pub struct Sent {
    pub way: Way,
    pub octets: Vec<u8>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.way, hex(&self.octets))
    }
}

pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What becomes of a packet that is not dropped.
enum Fate {
    Forward(Hop, [u8; 6], Vec<u8>),
    Hold(Hop, Vec<u8>),
    Answer(&'static str, Vec<u8>),
    Punt(Vec<u8>),
}

pub struct Gateway {
    pub now_ns: u64,
    /// Of the table for IPv4, then of that for IPv6.
    pub places: [Places; 2],
    pub flows: Vec<Flow>,
    pub services: BTreeMap<IpAddr, Ports>,
    pub links: Links,
    pub held: Vec<Held>,
    pub fragments: Fragments,
    /// When each next hop was last asked for.
    pub asked: BTreeMap<Hop, u64>,
    /// Next hops that were asked for.
    pub wanted: Vec<Hop>,
    /// No frame leaves by a device.
    pub is_wire_full: bool,
    pub allowance: Allowance,
    pub masquerade: Mode,
    pub counters: BTreeMap<&'static str, u64>,
}

impl Gateway {
    pub fn new(capacity: usize, links: Links) -> Self {
        Self {
            now_ns: 100_000_000_000,
            places: [Places::new(capacity), Places::new(capacity)],
            flows: vec![],
            services: BTreeMap::new(),
            links,
            held: vec![],
            fragments: Fragments::default(),
            asked: BTreeMap::new(),
            wanted: vec![],
            is_wire_full: false,
            allowance: Allowance::default(),
            masquerade: Mode::Auto,
            counters: BTreeMap::new(),
        }
    }

    /// Carries one frame that came by a device, and returns what left.
    pub fn carry(&mut self, device: u32, octets: &[u8]) -> Vec<Sent> {
        self.count("rx_packets", 1);
        self.count("rx_bytes", octets.len() as u64);
        if let Ok(datagram) = Datagram::read(octets)
            && let Some(piece) = datagram.piece
        {
            if is_martian(datagram.five.source) {
                return self.drop("drop_martian_source").into_iter().collect();
            }
            return self.carry_piece(device, piece, datagram);
        }
        let decided = self.decide(device, octets).or_else(|reason| self.explain(device, octets, reason));
        self.carry_out(device, decided)
    }

    fn carry_out(&mut self, device: u32, decided: Result<Fate, &'static str>) -> Vec<Sent> {
        let left = match decided {
            Ok(Fate::Forward(hop, station, octets)) => return self.forward(hop, station, octets),
            Ok(Fate::Answer(_, _)) if self.is_wire_full => self.drop("drop_tx_ring_full"),
            Ok(Fate::Answer(name, octets)) => Some(self.sent(name, Way::Device(device), octets)),
            Ok(Fate::Punt(mut octets)) => {
                write_stations(&mut octets, self.links.punt);
                Some(self.sent("punted", Way::Punt, octets))
            }
            Ok(Fate::Hold(hop, octets)) => self.hold(hop, octets),
            Err(reason) => self.drop(reason),
        };
        left.into_iter().collect()
    }

    fn decide(&mut self, device: u32, octets: &[u8]) -> Result<Fate, &'static str> {
        let datagram = match Datagram::read(octets) {
            Ok(datagram) => datagram,
            Err(Unreadable::Foreign) => return Ok(Fate::Punt(octets.to_vec())),
            Err(Unreadable::Lies(reason)) => return Err(reason),
        };
        if is_martian(datagram.five.source) {
            return Err("drop_martian_source");
        }
        if let Some(place) = self.flow_of(&datagram) {
            if !self.is_reopened(place, &datagram) {
                return self.translate(place, datagram);
            }
            self.remove(place);
        }
        if datagram.kind == Kind::IcmpError
            && let Some(fate) = self.pass_error(datagram.clone())?
        {
            return Ok(fate);
        }
        let destination = datagram.five.destination;
        let Some(ports) = self.services.get(&destination) else {
            let is_ours = SERVICE_CIDRS.iter().any(|cidr| ip::octets_of(destination).starts_with(cidr));
            return if is_ours { Err("drop_unallocated_address") } else { Ok(Fate::Punt(datagram.octets)) };
        };
        match datagram.kind {
            Kind::Hidden => Err("drop_header_chain_too_long"),
            kind if (kind == Kind::Echo || kind.has_ports()) && datagram.ttl() <= 1 => {
                Err("drop_ttl_exceeded")
            }
            Kind::Echo => Ok(Fate::Answer("answered_echo", datagram.echo_reply())),
            Kind::IcmpError | Kind::OtherIcmp => Err("drop_unsupported_icmp"),
            Kind::Fragment => unreachable!("a later fragment has the lot of its first"),
            Kind::OtherProtocol => Err("drop_unsupported_protocol"),
            Kind::Tcp { .. } | Kind::Udp | Kind::Sctp { .. } => {
                let backends = ports.get(&(datagram.five.protocol, datagram.five.destination_port)).cloned();
                self.open(device, backends.as_deref(), datagram)
            }
        }
    }

    /// Finds the flow that has the packet's key, in whichever direction.
    fn flow_of(&self, datagram: &Datagram) -> Option<usize> {
        datagram.kind.has_ports().then(|| self.owner(datagram.five)).flatten()
    }

    fn owner(&self, key: Five) -> Option<usize> {
        self.flows.iter().position(|flow| flow.request == key || flow.reply == key)
    }

    fn is_reopened(&self, place: usize, datagram: &Datagram) -> bool {
        let flow = &self.flows[place];
        match datagram.kind {
            Kind::Tcp { flags } => flow.request == datagram.five && flow.state.is_reopened_by(flags),
            _ => false,
        }
    }

    /// Sends a packet of a flow on. A packet that is dropped for want of a way changes nothing.
    fn translate(&mut self, place: usize, datagram: Datagram) -> Result<Fate, &'static str> {
        let flow = &self.flows[place];
        let is_reply = flow.reply == datagram.five;
        let leaves_as = if is_reply { flow.request.reversed() } else { flow.reply.reversed() };
        let state = match datagram.kind {
            Kind::Tcp { flags } => flow.state.after(flags, is_reply),
            Kind::Sctp { chunks } => flow.state.after_sctp(chunks, is_reply),
            _ if is_reply => State::UdpStream,
            _ => flow.state,
        };
        // A client that goes on asking in vain is to be sent elsewhere some time.
        let is_in_vain = state == State::SctpClosed && state == flow.state && !is_reply;
        let keeps_alive = !matches!(datagram.kind, Kind::Sctp { chunks } if is_in_vain && chunks.is_init());
        let exit = self.exit(&datagram, leaves_as.destination)?;
        let second = self.second();
        let flow = &mut self.flows[place];
        flow.state = state;
        if keeps_alive {
            flow.last_second = second;
        }
        Ok(self.leave_by(exit, datagram.translated(leaves_as)?))
    }

    /// Finds where a packet leaves for a destination; `None` is the kernel.
    fn exit(&self, datagram: &Datagram, destination: IpAddr) -> Result<Option<Hop>, &'static str> {
        if is_of_its_link(datagram.five.source) {
            return Err("drop_beyond_scope");
        }
        if datagram.ttl() <= 1 {
            return Err("drop_ttl_exceeded");
        }
        let hop = match self.links.lead(destination) {
            None | Some(Lead::Nowhere) => return Err("drop_no_route"),
            Some(Lead::Here) => return Ok(None),
            Some(Lead::Link(device)) => (device, destination),
            Some(Lead::Router(device, router)) => (device, router),
        };
        if !self.links.devices.contains_key(&hop.0) {
            return Ok(None);
        }
        if datagram.must_stay_whole() && datagram.ip_length() > links::MTU {
            return Err("drop_exceeds_mtu");
        }
        Ok(Some(hop))
    }

    fn leave_by(&self, exit: Option<Hop>, octets: Vec<u8>) -> Fate {
        let Some(hop) = exit else { return Fate::Punt(octets) };
        match self.links.stations.get(&hop) {
            Some(Station::Known(station)) => Fate::Forward(hop, *station, octets),
            Some(Station::Asked | Station::Silent) | None => Fate::Hold(hop, octets),
        }
    }

    fn forward(&mut self, hop: Hop, station: [u8; 6], octets: Vec<u8>) -> Vec<Sent> {
        let mut pieces = match fragments::cut(&octets) {
            Err(reason) => return self.drop(reason).into_iter().collect(),
            Ok(_) if self.is_wire_full => return self.drop("drop_tx_ring_full").into_iter().collect(),
            Ok(pieces) => pieces,
        };
        let last = pieces.len() - 1;
        for piece in &mut pieces {
            write_stations(piece, (self.links.devices[&hop.0], station));
        }
        let name = |place| if place == last { "forwarded" } else { "originated" };
        let pieces = pieces.into_iter().enumerate();
        pieces.map(|(place, piece)| self.sent(name(place), Way::Device(hop.0), piece)).collect()
    }

    /// Removes the flows that were silent for too long; returns how many.
    pub fn expire(&mut self) -> usize {
        let second = self.second();
        let is_over = |flow: &Flow| second - flow.last_second > flow.state.timeout();
        let mut gone: Vec<_> = self.flows.iter().filter(|flow| is_over(flow)).map(Flow::at).collect();
        gone.sort_unstable();
        for at in &gone {
            let flow = self.flows.iter().position(|flow| flow.at() == *at).unwrap();
            self.remove(flow);
        }
        gone.len()
    }

    fn remove(&mut self, flow: usize) {
        let (is_ipv6, place) = self.flows.remove(flow).at();
        self.places[usize::from(is_ipv6)].free.push_front(place);
    }

    fn second(&self) -> u64 {
        self.now_ns / 1_000_000_000
    }

    fn count(&mut self, name: &'static str, by: u64) {
        *self.counters.entry(name).or_default() += by;
    }

    fn sent(&mut self, name: &'static str, way: Way, octets: Vec<u8>) -> Sent {
        self.count(name, 1);
        self.count("tx_packets", 1);
        self.count("tx_bytes", octets.len() as u64);
        Sent { way, octets }
    }

    fn drop<T>(&mut self, reason: &'static str) -> Option<T> {
        self.count(reason, 1);
        None
    }
}

/// No host can have these.
fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => {
            matches!(address.octets(), [0, 0, 0, 0] | [127, ..] | [224..=239, ..] | [255, 255, 255, 255])
        }
        IpAddr::V6(address) => {
            let is_mapped = address.octets().starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
            let is_one_of_us = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].contains(&address);
            is_mapped || is_one_of_us || address.octets()[0] == 0xff
        }
    }
}

/// Addresses that mean something on their own link only.
fn is_of_its_link(source: IpAddr) -> bool {
    matches!(source, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80)
}

/// Writes sender and receiver, as far as the frame reaches.
fn write_stations(octets: &mut [u8], (sender, receiver): ([u8; 6], [u8; 6])) {
    for (octet, station) in octets.iter_mut().zip(receiver.into_iter().chain(sender)) {
        *octet = station;
    }
}
