//! What the XDP program is to decide, written slowly: lists that are walked, addresses of the families kept apart,
//! octets copied. It shares nothing with the program but the order of its rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_dataplane::masquerade::PortRange;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::xdp::Steering;

use crate::xsk_rig::STATION;

pub(crate) const MASQUERADE_PORTS: std::ops::RangeInclusive<u16> = 61_000..=62_000;

/// One thing that the program is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rule {
    Vip(IpAddr, u8),
    Endpoint(Socket),
    Own(IpAddr),
    Served(Socket),
    Listener(Socket),
    /// [`MASQUERADE_PORTS`] are the box's.
    Masquerade,
}

/// An (address, port, protocol).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Socket(pub(crate) IpAddr, pub(crate) u16, pub(crate) u8);

impl Socket {
    fn of_map(self) -> (IpAddr, Port, Protocol) {
        (self.0, Port::new(self.1), Protocol::from_number(self.2).unwrap())
    }
}

impl Rule {
    pub(crate) fn insert(self, steering: &mut Steering) {
        match self {
            Self::Vip(address, length) => steering.insert_vip(address, length),
            Self::Own(address) => steering.insert_own_address(address),
            Self::Masquerade => {
                let ports = PortRange::new(*MASQUERADE_PORTS.start(), *MASQUERADE_PORTS.end());
                steering.set_masquerade_ports(ports)
            }
            Self::Endpoint(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.insert_endpoint(address, port, protocol)
            }
            Self::Served(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.insert_served(address, port, protocol)
            }
            Self::Listener(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.insert_listener(address, port, protocol)
            }
        }
        .unwrap();
    }

    pub(crate) fn remove(self, steering: &mut Steering) {
        match self {
            Self::Vip(address, length) => steering.remove_vip(address, length),
            Self::Own(address) => steering.remove_own_address(address),
            Self::Masquerade => steering.set_masquerade_ports(None),
            Self::Endpoint(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.remove_endpoint(address, port, protocol)
            }
            Self::Served(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.remove_served(address, port, protocol)
            }
            Self::Listener(socket) => {
                let (address, port, protocol) = socket.of_map();
                steering.remove_listener(address, port, protocol)
            }
        }
        .unwrap();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
}

struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Source and destination port, if the packet shows some.
    ports: Option<(u16, u16)>,
    /// It is a fragment, or its extension headers are beyond the bound.
    is_by_addresses: bool,
    /// What is behind IP and extension headers, as far as it arrived and belongs to the packet.
    behind: Vec<u8>,
}

impl Packet {
    fn from(&self) -> Option<Socket> {
        self.ports.map(|(source, _)| Socket(self.source, source, self.protocol))
    }

    fn to(&self) -> Option<Socket> {
        self.ports.map(|(_, destination)| Socket(self.destination, destination, self.protocol))
    }

    /// Returns the type of the ICMP message that the packet is.
    fn icmp_type(&self, family: Family) -> Option<u8> {
        let icmp = if family == Family::Ipv4 { 1 } else { 58 };
        let is_whole = self.protocol == icmp && !self.is_by_addresses && self.behind.len() >= 8;
        is_whole.then(|| self.behind[0])
    }

    /// Returns the packet that this one is an error about.
    fn quoted(&self, family: Family) -> Option<Self> {
        match (family, self.icmp_type(family)?) {
            (Family::Ipv4, 3 | 4 | 5 | 11 | 12) | (Family::Ipv6, 1..=4) => parse(family, &self.behind[8..]),
            _ => None,
        }
    }
}

/// Returns the counter of a frame's way, on a device whose MAC is [`STATION`] and whose queue is served.
pub(crate) fn decide(rules: &BTreeSet<Rule>, frame: &[u8]) -> &'static str {
    let family = match frame.get(12..14) {
        Some([0x08, 0x00]) => Family::Ipv4,
        Some([0x86, 0xdd]) => Family::Ipv6,
        _ => return "passed_not_ip",
    };
    let Some(packet) = parse(family, &frame[14..]) else { return "passed_not_ip" };
    let is_group = match packet.destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if frame[0] % 2 == 1 || is_group {
        return "passed_group_destination";
    }
    if matches!(packet.destination, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return "passed_link_local";
    }
    if frame[..6] != STATION {
        return "passed_other_station";
    }
    if family == Family::Ipv6 && matches!(packet.icmp_type(family), Some(130..=137 | 143)) {
        return "passed_link_message";
    }
    by_rules(rules, family, &packet)
}

fn by_rules(rules: &BTreeSet<Rule>, family: Family, packet: &Packet) -> &'static str {
    let is_endpoint = |socket: Option<Socket>| socket.is_some_and(|of| rules.contains(&Rule::Endpoint(of)));
    let is_ours = |socket: Option<Socket>| {
        rules.contains(&Rule::Masquerade) && socket.is_some_and(|of| MASQUERADE_PORTS.contains(&of.1))
    };
    let may_be_from_endpoint = packet.is_by_addresses
        && rules.iter().any(|rule| matches!(rule, Rule::Endpoint(Socket(at, ..)) if *at == packet.source));
    let quoted = packet.quoted(family);
    let is_about_endpoint = quoted.as_ref().is_some_and(|quoted| is_endpoint(quoted.to()));

    if packet.to().is_some_and(|to| rules.contains(&Rule::Listener(to))) {
        return "passed_listener";
    }
    if rules.contains(&Rule::Own(packet.destination)) {
        if may_be_from_endpoint && rules.contains(&Rule::Masquerade) {
            return "redirected_to_masquerade_port";
        }
        if !packet.is_by_addresses && is_endpoint(packet.from()) && is_ours(packet.to()) {
            return "redirected_to_masquerade_port";
        }
        let is_served = |socket: Option<Socket>| socket.is_some_and(|of| rules.contains(&Rule::Served(of)));
        let may_be_to_served = packet.is_by_addresses
            && rules
                .iter()
                .any(|rule| matches!(rule, Rule::Served(Socket(at, ..)) if *at == packet.destination));
        if may_be_to_served || !packet.is_by_addresses && is_served(packet.to()) {
            return "redirected_to_served_socket";
        }
        if quoted.as_ref().is_some_and(|quoted| is_served(quoted.from())) {
            return "redirected_about_endpoint";
        }
        if is_about_endpoint && is_ours(quoted.and_then(|quoted| quoted.from())) {
            return "redirected_about_endpoint";
        }
        return "passed_own_address";
    }
    if rules.iter().any(|rule| matches!(rule, Rule::Vip(net, bits) if is_in(packet.destination, *net, *bits)))
    {
        return "redirected_to_vip";
    }
    if may_be_from_endpoint || is_endpoint(packet.from()) {
        return "redirected_from_endpoint";
    }
    if is_about_endpoint { "redirected_about_endpoint" } else { "passed_not_ours" }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let binary = |address: IpAddr| match address {
        IpAddr::V4(address) => format!("{:032b}", address.to_bits()),
        IpAddr::V6(address) => format!("{:0128b}", address.to_bits()),
    };
    let (address, network) = (binary(address), binary(network));
    address.len() == network.len() && address[..bits.into()] == network[..bits.into()]
}

fn parse(family: Family, octets: &[u8]) -> Option<Packet> {
    let mut packet = match family {
        Family::Ipv4 => parse_ipv4(octets)?,
        Family::Ipv6 => parse_ipv6(octets)?,
    };
    if let (6 | 17 | 132, [a, b, c, d, ..]) = (packet.protocol, &packet.behind[..]) {
        packet.ports = Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    }
    Some(packet)
}

fn parse_ipv4(octets: &[u8]) -> Option<Packet> {
    let header: &[u8; 20] = octets.first_chunk()?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    if header[0] / 16 != 4 {
        return None;
    }
    let header_bytes = usize::from(header[0] % 16) * 4;
    let end = octets.len().min(number(2).into());
    let is_later_fragment = number(6) % 0x2000 != 0;
    let behind = if is_later_fragment || header_bytes < 20 { None } else { octets.get(header_bytes..end) };
    Some(Packet {
        source: address(12).into(),
        destination: address(16).into(),
        protocol: header[9],
        ports: None,
        is_by_addresses: is_later_fragment || number(6) & 0x2000 != 0,
        behind: behind.unwrap_or_default().to_vec(),
    })
}

fn parse_ipv6(octets: &[u8]) -> Option<Packet> {
    let header: &[u8; 40] = octets.first_chunk()?;
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
    let (source, destination) = (address(8), address(24));
    let stands_for_ipv4 = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    if header[0] / 16 != 6 || stands_for_ipv4(source) || stands_for_ipv4(destination) {
        return None;
    }
    let said = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut packet = Packet {
        source: source.into(),
        destination: destination.into(),
        protocol: 59,
        ports: None,
        is_by_addresses: false,
        behind: Vec::new(),
    };
    walk(&mut packet, header[6], &octets[40..], said);
    Some(packet)
}

/// Walks extension headers, 8 of them and 1024 octets at most, to the transport header.
fn walk(packet: &mut Packet, first: u8, arrived: &[u8], said: usize) {
    let (mut next, mut at) = (first, 0);
    for headers in 0.. {
        let is_extension = [0, 43, 44, 51, 60].contains(&next);
        if at > said {
            return;
        }
        if at > 1024 || headers == 8 && is_extension {
            packet.is_by_addresses = true;
            return;
        }
        if !is_extension {
            packet.protocol = next;
            packet.behind = arrived[..arrived.len().min(said)].get(at..).unwrap_or_default().to_vec();
            return;
        }
        let Some(header) = arrived[..arrived.len().min(said)].get(at..at + 8) else { return };
        if next == 44 {
            let (offset, has_more) =
                (usize::from(header[2]) << 8 | usize::from(header[3] & 0xf8), header[3] & 1);
            packet.is_by_addresses |= offset > 0 || has_more == 1;
            if offset > 0 {
                return;
            }
        }
        at += match next {
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
    }
}
