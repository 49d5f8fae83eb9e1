//! A packet of either version in a frame, and its checksums computed in full. Slow, and easy to compare with the RFCs.

use std::net::IpAddr;

use super::checksum::{long, missing, set_word, sum, word};
use super::ip::{self, Headers, IPV6, LINK, Piece, Unreadable};
use super::packets::{self, Segment};
use super::sctp::{self, Chunks};

/// One direction of a flow, in the order of the headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Five {
    pub protocol: u8,
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
}

impl Five {
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            ..self
        }
    }
}

/// What is behind the IP headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp {
        flags: u8,
    },
    Udp,
    Sctp {
        chunks: Chunks,
    },
    Echo,
    IcmpError,
    OtherIcmp,
    /// A later fragment.
    Fragment,
    /// Extension headers that are not walked are in front of it.
    Hidden,
    OtherProtocol,
}

/// A packet in an Ethernet frame whose headers have been found to agree with its octets.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub octets: Vec<u8>,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the IP packet ends; what follows is padding.
    pub end: usize,
    pub kind: Kind,
    pub five: Five,
    /// Of what it is a piece, if it is a fragment.
    pub piece: Option<Piece>,
}

/// The protocol number of the ICMP of a version.
pub fn icmp_of(is_ipv6: bool) -> u8 {
    if is_ipv6 { 58 } else { 1 }
}

/// Says whether an ICMP message quotes a packet (RFC 792; RFC 4443 §2.1).
pub fn is_error(kind: u8, is_ipv6: bool) -> bool {
    if is_ipv6 { kind < 128 } else { [3, 4, 5, 11, 12].contains(&kind) }
}

/// The octets that a checksum covers: behind a pseudo-header, but for the ICMP of IPv4.
///
/// RFC 768, RFC 9293 §3.1, RFC 8200 §8.1, RFC 4443 §2.3.
pub(super) fn covered(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut covered = vec![];
    if protocol != icmp_of(false) {
        covered.extend(ip::octets_of(source));
        covered.extend(ip::octets_of(destination));
        covered.extend((payload.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(payload);
    covered
}

impl Datagram {
    pub fn read(octets: &[u8]) -> Result<Self, Unreadable> {
        let Headers { source, destination, protocol, transport, end, piece, is_hidden } =
            Headers::read(octets)?;
        let malformed = Unreadable::Lies("drop_malformed_transport");
        let tiny = Unreadable::Lies("drop_tiny_fragment");
        let payload = &octets[transport..end];
        let kind = match piece {
            _ if is_hidden => Kind::Hidden,
            None => Kind::read(protocol, payload, source.is_ipv6(), false).ok_or(malformed)?,
            Some(Piece { start: 0, .. }) => {
                Kind::read(protocol, payload, source.is_ipv6(), true).ok_or(tiny)?
            }
            Some(Piece { start: ..20, .. }) if protocol == 6 && source.is_ipv4() => return Err(tiny),
            Some(_) => Kind::Fragment,
        };
        let has_ports = kind.has_ports();
        let port = |at| if has_ports { word(octets, transport + at) } else { 0 };
        let five = Five { protocol, source, source_port: port(0), destination, destination_port: port(2) };
        Ok(Self { octets: octets.to_vec(), transport, end, kind, five, piece })
    }

    pub fn is_ipv6(&self) -> bool {
        self.five.source.is_ipv6()
    }

    pub fn ttl(&self) -> u8 {
        self.octets[ip::place_of_ttl(self.is_ipv6())]
    }

    pub fn ip_length(&self) -> usize {
        self.end - LINK
    }

    /// Says whether no router may cut it (RFC 791 §3.1, "Don't Fragment"; RFC 8200 §4.5).
    pub fn must_stay_whole(&self) -> bool {
        self.is_ipv6() || self.octets[20] & 0x40 != 0
    }

    /// Where the transport checksum stands, and where what it covers ends.
    fn checksum_place(&self) -> (usize, usize) {
        match self.kind {
            Kind::Udp => {
                let stated = self.transport + usize::from(word(&self.octets, self.transport + 4));
                // Of a first fragment what there is: the rest of the sum stays as it is.
                (self.transport + 6, stated.min(self.end))
            }
            Kind::Tcp { .. } => (self.transport + 16, self.end),
            _ => (self.transport + 2, self.end),
        }
    }

    fn sum(&self) -> u32 {
        let (_, end) = self.checksum_place();
        let (source, destination) = ip::addresses(&self.octets[LINK..], self.is_ipv6());
        sum(&covered(source, destination, self.five.protocol, &self.octets[self.transport..end]))
    }

    /// Computes the transport checksum in full, so that one that was right is right, and one that was wrong by `error`
    /// is wrong by as much.
    pub(super) fn mend_transport(&mut self, error: u32) {
        let (place, _) = self.checksum_place();
        set_word(&mut self.octets, place, 0);
        let checksum = missing(error, self.sum());
        // Zero means "none" in UDP (RFC 768), and cannot stand for an all-zero ICMP message (RFC 1071: both zeros).
        let is_never_zero = self.kind == Kind::Udp || self.five.protocol == icmp_of(false);
        set_word(&mut self.octets, place, if checksum == 0 && is_never_zero { 0xffff } else { checksum });
    }

    /// Returns the frame as it leaves translated: one link further, with other addresses and ports.
    pub fn translated(mut self, leaves_as: Five) -> Result<Vec<u8>, &'static str> {
        if let Kind::Sctp { .. } = self.kind {
            return self.translated_sctp(leaves_as);
        }
        let error = self.sum();
        let (place, _) = self.checksum_place();
        let has_checksum = !(self.kind == Kind::Udp && word(&self.octets, place) == 0);
        self.readdress(leaves_as.source, leaves_as.destination);
        self.write_ports(leaves_as);
        if has_checksum {
            self.mend_transport(error);
        }
        Ok(self.octets)
    }

    /// The checksum of SCTP covers no addresses, and of a fragment it cannot be computed.
    fn translated_sctp(mut self, leaves_as: Five) -> Result<Vec<u8>, &'static str> {
        let ports = (leaves_as.source_port, leaves_as.destination_port);
        let is_changed = ports != (self.five.source_port, self.five.destination_port);
        if is_changed && self.piece.is_some() {
            return Err("drop_sctp_fragment");
        }
        self.readdress(leaves_as.source, leaves_as.destination);
        let packet = self.transport..self.end;
        let error = sctp::stated(&self.octets[packet.clone()]) ^ sctp::right(&self.octets[packet.clone()]);
        self.write_ports(leaves_as);
        let packet = &mut self.octets[packet];
        let checksum = error ^ sctp::right(packet);
        sctp::state_checksum(packet, checksum);
        Ok(self.octets)
    }

    fn write_ports(&mut self, leaves_as: Five) {
        set_word(&mut self.octets, self.transport, leaves_as.source_port);
        set_word(&mut self.octets, self.transport + 2, leaves_as.destination_port);
    }

    /// Computes the checksum of an ICMP message in full.
    pub fn mend_icmp(&mut self) {
        set_word(&mut self.octets, self.transport + 2, 0);
        let checksum = missing(0, self.sum());
        set_word(&mut self.octets, self.transport + 2, checksum);
    }

    pub fn has_right_checksum(&self) -> bool {
        self.sum() == 0
    }

    /// Gives the packet other addresses, one link further.
    pub fn readdress(&mut self, source: IpAddr, destination: IpAddr) {
        let is_ipv6 = self.is_ipv6();
        self.octets[ip::place_of_ttl(is_ipv6)] -= 1;
        self.write_addresses(source, destination);
        ip::mend(&mut self.octets);
    }

    fn write_addresses(&mut self, source: IpAddr, destination: IpAddr) {
        let addresses = [ip::octets_of(source), ip::octets_of(destination)].concat();
        let place = ip::place_of_addresses(self.is_ipv6());
        self.octets[LINK..][place].copy_from_slice(&addresses);
    }

    /// Returns the Echo Reply (RFC 792, RFC 4443 §4.2), without padding and extension headers.
    pub fn echo_reply(mut self) -> Vec<u8> {
        let error = self.sum();
        self.octets[self.transport] = if self.is_ipv6() { 129 } else { 0 };
        self.mend_transport(error);
        if self.is_ipv6() && self.piece.is_none() && self.transport > LINK + IPV6 {
            let message = &self.octets[self.transport..self.end];
            let ends = (self.five.destination, self.five.source);
            return ip::packet(self.stations_back(), ends, 64, self.five.protocol, message);
        }
        self.turned()
    }

    /// Returns the packet on its way back, without padding.
    pub fn turned(mut self) -> Vec<u8> {
        let stations = self.stations_back();
        self.octets[..12].copy_from_slice(&stations);
        self.write_addresses(self.five.destination, self.five.source);
        let is_ipv6 = self.is_ipv6();
        self.octets[ip::place_of_ttl(is_ipv6)] = 64;
        ip::mend(&mut self.octets);
        self.octets.truncate(self.end);
        self.octets
    }

    /// Returns the RST that RFC 9293 §3.10.7.1 asks for where there is no connection.
    pub fn reset(&self, flags: u8) -> Vec<u8> {
        let segment = &self.octets[self.transport..self.end];
        let data = segment.len() - usize::from(segment[12] >> 4) * 4;
        let controls = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        let (sequence, acknowledgment, flags) = match flags & 0x10 {
            0 => (0, long(segment, 4).wrapping_add(data as u32).wrapping_add(controls), 0x14),
            _ => (long(segment, 8), 0, 0x04),
        };
        let transport = Segment { sequence, acknowledgment, flags, window: 0, payload: vec![] };
        packets::tcp(self.stations_back(), self.five.reversed(), 64, &transport)
    }

    /// Returns the ICMP error that quotes as much of the packet as 576 octets hold (RFC 1812 §4.3.2.3), or over IPv6
    /// 1280 (RFC 4443 §2.4).
    pub fn quoted_in(&self, header: [u8; 8], source: IpAddr) -> Vec<u8> {
        let most = if self.is_ipv6() { 1280 - 48 } else { 576 - 28 };
        let quoted = self.ip_length().min(most);
        let message = [&header, &self.octets[LINK..LINK + quoted]].concat();
        packets::icmp(self.stations_back(), Five { source, ..self.five.reversed() }, 64, message)
    }

    fn stations_back(&self) -> [u8; 12] {
        [&self.octets[6..12], &self.octets[..6]].concat().try_into().unwrap()
    }
}

impl Kind {
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Udp | Self::Sctp { .. })
    }

    /// `None` if the transport header does not agree with the octets there are.
    fn read(protocol: u8, payload: &[u8], is_ipv6: bool, more_follows: bool) -> Option<Self> {
        let length = payload.len();
        match protocol {
            number if number == icmp_of(is_ipv6) => {
                let echo = if is_ipv6 { 128 } else { 8 };
                match payload {
                    _ if length < 8 => None,
                    [kind, 0, ..] if *kind == echo => Some(Self::Echo),
                    [kind, ..] if is_error(*kind, is_ipv6) => Some(Self::IcmpError),
                    _ => Some(Self::OtherIcmp),
                }
            }
            6 if length < 20 => None,
            6 => {
                let header = usize::from(payload[12] >> 4) * 4;
                (header >= 20 && header <= length).then(|| Self::Tcp { flags: payload[13] })
            }
            17 if length < 8 => None,
            17 => {
                let stated = usize::from(word(payload, 4));
                (stated >= 8 && (stated <= length || more_follows)).then_some(Self::Udp)
            }
            132 => Chunks::read(payload, more_follows).map(|chunks| Self::Sctp { chunks }),
            _ => Some(Self::OtherProtocol),
        }
    }
}
