//! A gateway that is slow and obviously right: lists, maps, and checksums computed in full. The oracle of the packet
//! path; it shares no code with it and asks it nothing but the choice of a backend.
//!
//! Reading order: [`Gateway::carry`] here · `datagram` (octets) · `flow` (states) · `links` (next hops, waiting) ·
//! `errors` (ICMP errors) · `fragments` (datagrams in pieces).
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a test crate's module")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod datagram;
pub mod errors;
pub mod flow;
pub mod fragments;
pub mod links;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use datagram::{Datagram, Five, Kind, Unreadable};
use errors::Allowance;
use flow::{Flow, Places, State};
use fragments::Fragments;
use links::{Held, Hop, Lead, Links, Station};
use tidegate_dataplane::flows::Key;
use tidegate_dataplane::masquerade::Mode;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::Backends;

/// Addresses of Services come from 10.96.0.0/16.
const SERVICE_CIDR: [u8; 2] = [10, 96];

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
    pub places: Places,
    pub flows: Vec<Flow>,
    pub services: BTreeMap<[u8; 4], Ports>,
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
            places: Places::new(capacity),
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
            Err(Unreadable::NotIpv4) => return Ok(Fate::Punt(octets.to_vec())),
            Err(Unreadable::Ipv4) => return Err("drop_malformed_ipv4"),
            Err(Unreadable::Transport) => return Err("drop_malformed_transport"),
            Err(Unreadable::Fragment) => return Err("drop_malformed_fragment"),
            Err(Unreadable::TinyFragment) => return Err("drop_tiny_fragment"),
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
            let is_ours = destination[..2] == SERVICE_CIDR;
            return if is_ours { Err("drop_unallocated_address") } else { Ok(Fate::Punt(datagram.octets)) };
        };
        match datagram.kind {
            Kind::Echo | Kind::Tcp { .. } | Kind::Udp if datagram.ttl() <= 1 => Err("drop_ttl_exceeded"),
            Kind::Echo => Ok(Fate::Answer("answered_echo", datagram.echo_reply())),
            Kind::IcmpError | Kind::OtherIcmp => Err("drop_unsupported_icmp"),
            Kind::Fragment => unreachable!("a later fragment has the lot of its first"),
            Kind::OtherProtocol => Err("drop_unsupported_protocol"),
            Kind::Tcp { .. } | Kind::Udp => {
                let backends = ports.get(&(datagram.five.protocol, datagram.five.destination_port)).cloned();
                self.open(device, backends.as_deref(), datagram)
            }
        }
    }

    /// Finds the flow that has the packet's key, in whichever direction.
    fn flow_of(&self, datagram: &Datagram) -> Option<usize> {
        let has_ports = matches!(datagram.kind, Kind::Tcp { .. } | Kind::Udp);
        has_ports.then(|| self.owner(datagram.five)).flatten()
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
            _ if is_reply => State::UdpStream,
            _ => flow.state,
        };
        let fate = self.leave(datagram, leaves_as)?;
        let second = self.second();
        let flow = &mut self.flows[place];
        flow.state = state;
        flow.last_second = second;
        Ok(fate)
    }

    /// Opens a flow to a backend of the Service port, or refuses.
    fn open(
        &mut self,
        device: u32,
        backends: Option<&Backends>,
        datagram: Datagram,
    ) -> Result<Fate, &'static str> {
        let request = datagram.five;
        let state = match datagram.kind {
            Kind::Tcp { flags } => State::of_first(flags),
            _ => Some(State::UdpUnreplied),
        };
        let backend = backends.and_then(|backends| backends.choose(&key(request)));
        let (Some(state), Some(backend)) = (state, backend) else { return self.refuse(&datagram) };
        let IpAddr::V4(address) = backend.address else { return Err("drop_address_family") };
        let mut leaves_as =
            Five { destination: address.octets(), destination_port: backend.port.number(), ..request };
        // No flow is opened for a packet that cannot leave.
        let hop = match self.leave(datagram.clone(), leaves_as)? {
            Fate::Forward(hop, ..) | Fate::Hold(hop, _) => Some(hop),
            Fate::Answer(..) | Fate::Punt(_) => None,
        };
        let is_picked_up = matches!(state, State::PickedUp | State::FinWait);
        let own = self.own_address(device, hop, leaves_as.destination == request.source)?;
        let mut attempt = 0;
        if let Some(own) = own {
            (leaves_as.source, leaves_as.source_port) = (own, MASQUERADE_PORT);
            if is_picked_up {
                return self.refuse(&datagram);
            }
            if self.owner(leaves_as.reversed()).is_some() {
                return Err("drop_masquerade_ports_exhausted");
            }
        }
        while self.owner(leaves_as.reversed()).is_some() {
            leaves_as.source_port = other_port(request.source_port, attempt);
            attempt += 1;
        }
        if self.places.free.is_empty() {
            let gone = self.places.next_to_go(&self.flows).ok_or("drop_flow_table_full")?;
            self.remove(gone);
            self.count("flows_evicted", 1);
        }
        let place = self.places.free.pop_front().unwrap();
        let reply = leaves_as.reversed();
        self.flows.push(Flow { request, reply, state, last_second: self.second(), place });
        self.count("flows_inserted", 1);
        self.count("flows_port_changed", u64::from(attempt > 0));
        self.count("flows_masqueraded", u64::from(own.is_some()));
        self.count("flows_picked_up", u64::from(is_picked_up));
        self.leave(datagram, leaves_as)
    }

    /// RST for a segment, ICMP for a datagram; nothing for a RST.
    fn refuse(&mut self, datagram: &Datagram) -> Result<Fate, &'static str> {
        match datagram.kind {
            Kind::Tcp { flags } if flags & 4 != 0 => Err("drop_stray_reset"),
            Kind::Tcp { flags } => {
                self.spend().map(|()| Fate::Answer("answered_reset", datagram.reset(flags)))
            }
            _ => {
                self.spend().map(|()| Fate::Answer("answered_port_unreachable", datagram.port_unreachable()))
            }
        }
    }

    /// The address that a flow gets instead of its client's; none for what the kernel sends on.
    fn own_address(
        &self,
        device: u32,
        hop: Option<Hop>,
        is_hairpin: bool,
    ) -> Result<Option<[u8; 4]>, &'static str> {
        let is_masqueraded = |(out, _): &Hop| match self.masquerade {
            Mode::Auto => is_hairpin || *out == device,
            Mode::Always => true,
            Mode::Never => false,
        };
        match hop.filter(is_masqueraded) {
            Some((out, _)) => Ok(Some(self.links.own[&out])),
            None if is_hairpin => Err("drop_hairpin"),
            None => Ok(None),
        }
    }

    /// Translates a packet and finds its way out.
    fn leave(&self, datagram: Datagram, leaves_as: Five) -> Result<Fate, &'static str> {
        let exit = self.exit(&datagram, leaves_as.destination)?;
        Ok(self.leave_by(exit, datagram.translated(leaves_as)))
    }

    /// Finds where a packet leaves for a destination; `None` is the kernel.
    fn exit(&self, datagram: &Datagram, destination: [u8; 4]) -> Result<Option<Hop>, &'static str> {
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
        if datagram.octets[20] & 0x40 != 0 && datagram.ip_length() > links::MTU {
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
        let mut gone: Vec<usize> =
            self.flows.iter().filter(|flow| is_over(flow)).map(|flow| flow.place).collect();
        gone.sort_unstable();
        for place in &gone {
            let flow = self.flows.iter().position(|flow| flow.place == *place).unwrap();
            self.remove(flow);
        }
        gone.len()
    }

    fn remove(&mut self, flow: usize) {
        let flow = self.flows.remove(flow);
        self.places.free.push_back(flow.place);
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

/// The source ports that are tried when the reply key is taken: strides of 7,919 through 1024..=65535.
fn other_port(first: u16, attempt: u32) -> u16 {
    1024 + ((u32::from(first) + 7919 * (attempt + 1)) % 64_512) as u16
}

/// No host can have these.
fn is_martian(source: [u8; 4]) -> bool {
    matches!(source, [0, 0, 0, 0] | [127, ..] | [224..=239, ..] | [255, 255, 255, 255])
}

/// Writes sender and receiver, as far as the frame reaches.
fn write_stations(octets: &mut [u8], (sender, receiver): ([u8; 6], [u8; 6])) {
    for (octet, station) in octets.iter_mut().zip(receiver.into_iter().chain(sender)) {
        *octet = station;
    }
}

/// Puts a key into the form that the table of backends, and only it, is asked with.
pub fn key(five: Five) -> Key {
    Key {
        source: Ipv4Addr::from(five.source),
        destination: Ipv4Addr::from(five.destination),
        source_port: Port::new(five.source_port),
        destination_port: Port::new(five.destination_port),
        protocol: Protocol::from_number(five.protocol).unwrap(),
    }
}
