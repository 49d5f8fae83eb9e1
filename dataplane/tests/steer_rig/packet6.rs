//! An IPv6 packet in an Ethernet frame, to be bent before it is made.

use std::net::Ipv6Addr;

use super::Frame;
use crate::xsk_rig::STATION;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// An extension header.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) protocol: u8,
    /// All but the first, which says what comes next.
    pub(crate) rest: Vec<u8>,
}

impl Extension {
    /// Returns a header of that kind of `bytes` octets, whose length is told as RFC 8200 wants.
    pub(crate) fn options(protocol: u8, bytes: usize) -> Self {
        Self::said(protocol, (bytes / 8 - 1) as u8, bytes)
    }

    /// Returns an authentication header of `bytes` octets, whose length is told as RFC 4302 wants.
    pub(crate) fn authentication(bytes: usize) -> Self {
        Self::said(AUTHENTICATION, (bytes / 4 - 2) as u8, bytes)
    }

    /// Returns a header of `bytes` octets that says that length of itself.
    pub(crate) fn said(protocol: u8, length: u8, bytes: usize) -> Self {
        let mut rest = vec![length];
        rest.resize(bytes - 1, 0);
        Self { protocol, rest }
    }

    /// Returns the header of a fragment that begins at so many octets of its packet.
    pub(crate) fn fragment(at: u16, has_more: bool) -> Self {
        let [high, low] = (at | u16::from(has_more)).to_be_bytes();
        Self { protocol: FRAGMENT, rest: vec![0, high, low, 0, 0, 0, 7] }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Packet6 {
    pub(crate) ethernet_destination: [u8; 6],
    pub(crate) ethertype: u16,
    pub(crate) version: u8,
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) protocol: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
    /// What the header says, if not the truth.
    pub(crate) payload_length: Option<u16>,
    /// How many octets arrive, if not all.
    pub(crate) cut_at: Option<usize>,
}

impl Packet6 {
    /// Returns a UDP datagram.
    pub(crate) fn udp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16)) -> Self {
        Self {
            ethernet_destination: STATION,
            ethertype: 0x86dd,
            version: 6,
            source: source.0,
            destination: destination.0,
            extensions: Vec::new(),
            protocol: UDP,
            ports: (source.1, destination.1),
            payload: vec![0; 32],
            payload_length: None,
            cut_at: None,
        }
    }

    /// Returns an ICMPv6 message of that type; `ports` and the octets behind them are its header.
    pub(crate) fn icmp(kind: u8, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let message = Self::udp((source, u16::from(kind) << 8), (destination, 0));
        Self { protocol: ICMPV6, ..message }
    }

    /// Returns an ICMPv6 error of that type that quotes a packet.
    pub(crate) fn error(kind: u8, source: Ipv6Addr, destination: Ipv6Addr, quote: &Self) -> Self {
        Self { payload: quote.octets()[14..].to_vec(), ..Self::icmp(kind, source, destination) }
    }

    /// Returns the packet with these extension headers.
    pub(crate) fn behind(&self, extensions: impl Into<Vec<Extension>>) -> Self {
        Self { extensions: extensions.into(), ..self.clone() }
    }

    /// Returns the packet of another protocol.
    pub(crate) fn of(&self, protocol: u8) -> Self {
        Self { protocol, ..self.clone() }
    }

    /// Returns the packet of which only so many octets behind the Ethernet header arrive.
    pub(crate) fn cut(&self, octets: usize) -> Self {
        Self { cut_at: Some(14 + octets), ..self.clone() }
    }
}

impl Frame for Packet6 {
    fn octets(&self) -> Vec<u8> {
        let protocols = self.extensions.iter().map(|header| header.protocol);
        let mut protocols = protocols.chain([self.protocol]);
        let first = protocols.next().unwrap();
        let mut rest = Vec::new();
        for (header, next) in self.extensions.iter().zip(protocols) {
            rest.push(next);
            rest.extend(&header.rest);
        }
        rest.extend(self.ports.0.to_be_bytes());
        rest.extend(self.ports.1.to_be_bytes());
        rest.extend((8 + self.payload.len() as u16).to_be_bytes());
        rest.extend([0, 0]);
        rest.extend(&self.payload);
        let mut octets = self.ethernet_destination.to_vec();
        octets.extend([2, 0, 0, 0, 0, 2]);
        octets.extend(self.ethertype.to_be_bytes());
        octets.extend([self.version << 4, 0, 0, 0]);
        octets.extend(self.payload_length.unwrap_or(rest.len() as u16).to_be_bytes());
        octets.extend([first, 64]);
        octets.extend(self.source.octets());
        octets.extend(self.destination.octets());
        octets.extend(rest);
        octets.truncate(self.cut_at.unwrap_or(octets.len()));
        octets
    }
}
