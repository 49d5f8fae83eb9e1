//! IP headers of both versions read octet by octet, and written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::chain::{self, Broken, Chain, FRAGMENT};
use super::checksum::{missing, set_word, sum, word};

/// Octets of an Ethernet header.
pub const LINK: usize = 14;
/// Octets of an IPv6 header.
pub const IPV6: usize = 40;

/// Which octets of the data of a larger datagram a fragment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub more: bool,
    /// What groups the pieces of one datagram besides the addresses: of IPv4 the protocol, and the identification.
    pub group: (u8, u32),
}

/// What the headers of a packet in a frame say.
#[derive(Clone, Debug)]
pub struct Headers {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// What follows the headers.
    pub protocol: u8,
    /// Where the headers end.
    pub transport: usize,
    /// Where the packet ends; what follows is padding.
    pub end: usize,
    pub piece: Option<Piece>,
    /// Says that not all headers are walked, so that the rest is not known.
    pub is_hidden: bool,
}

/// What a frame is if not a packet that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    Foreign,
    Lies(&'static str),
}

fn four(octets: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 4] = octets[at..at + 4].try_into().unwrap();
    Ipv4Addr::from(octets).into()
}

fn sixteen(octets: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = octets[at..at + 16].try_into().unwrap();
    Ipv6Addr::from(octets).into()
}

/// The octets of an address.
pub fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Where the addresses stand, in octets from the start of the packet.
pub fn place_of_addresses(is_ipv6: bool) -> std::ops::Range<usize> {
    if is_ipv6 { 8..IPV6 } else { 12..20 }
}

/// Sender and receiver of a packet that is there at least that far.
pub fn addresses(packet: &[u8], is_ipv6: bool) -> (IpAddr, IpAddr) {
    if is_ipv6 { (sixteen(packet, 8), sixteen(packet, 24)) } else { (four(packet, 12), four(packet, 16)) }
}

/// Where the links that a packet may still cross are counted, in octets from the start of a frame.
pub fn place_of_ttl(is_ipv6: bool) -> usize {
    if is_ipv6 { LINK + 7 } else { LINK + 8 }
}

pub fn is_ipv6(frame: &[u8]) -> bool {
    frame[LINK] >> 4 == 6
}

/// The length of the packet in a frame, without padding.
pub fn length(frame: &[u8]) -> usize {
    if is_ipv6(frame) {
        IPV6 + usize::from(word(frame, LINK + 4))
    } else {
        usize::from(word(frame, LINK + 2))
    }
}

impl Headers {
    pub fn read(frame: &[u8]) -> Result<Self, Unreadable> {
        match frame.get(12..LINK) {
            Some([0x08, 0x00]) => Self::read_ipv4(frame).map_err(Unreadable::Lies),
            Some([0x86, 0xdd]) => Self::read_ipv6(frame).map_err(Unreadable::Lies),
            _ => Err(Unreadable::Foreign),
        }
    }

    fn read_ipv4(frame: &[u8]) -> Result<Self, &'static str> {
        let malformed = Err("drop_malformed_ipv4");
        let packet = &frame[LINK..];
        if packet.len() < 20 || packet[0] >> 4 != 4 {
            return malformed;
        }
        let (header, total) = (usize::from(packet[0] & 15) * 4, usize::from(word(packet, 2)));
        if header < 20 || total < header || total > packet.len() || sum(&packet[..header]) != 0 {
            return malformed;
        }
        let (field, identification) = (word(packet, 6), u32::from(word(packet, 4)));
        let (more, start) = (field & 0x2000 != 0, usize::from(field & 0x1fff) * 8);
        let piece = if more || start > 0 {
            // Header and data of the joined datagram are at most what its length field can say.
            Some(piece(start, total - header, header, more, (packet[9], identification))?)
        } else {
            None
        };
        let (source, destination) = addresses(packet, false);
        let (transport, end) = (LINK + header, LINK + total);
        Ok(Self { source, destination, protocol: packet[9], transport, end, piece, is_hidden: false })
    }

    fn read_ipv6(frame: &[u8]) -> Result<Self, &'static str> {
        let malformed = Err("drop_malformed_ipv6");
        let packet = &frame[LINK..];
        if packet.len() < IPV6 || packet[0] >> 4 != 6 {
            return malformed;
        }
        let payload = usize::from(word(packet, 4));
        // A jumbogram says its length elsewhere.
        if (payload == 0 && packet[6] == 0) || IPV6 + payload > packet.len() {
            return malformed;
        }
        let packet = &packet[..IPV6 + payload];
        let (source, destination) = addresses(packet, true);
        let (end, is_hidden) = (LINK + packet.len(), true);
        let chain = match chain::walk(packet) {
            Err(Broken::TooLong) => {
                let (transport, piece) = (LINK + IPV6, None);
                return Ok(Self { source, destination, protocol: 0, transport, end, piece, is_hidden });
            }
            Err(Broken::Wrong) => return malformed,
            Ok(chain) if chain.has_segments_left(packet) => return Err("drop_routing_header"),
            Ok(chain) => chain,
        };
        let piece = Self::ipv6_piece(&chain, packet)?;
        let (protocol, transport, is_hidden) = (chain.protocol, LINK + chain.end, false);
        Ok(Self { source, destination, protocol, transport, end, piece, is_hidden })
    }

    /// `None` if the packet is whole, also if it says so in a fragment header (RFC 6946).
    fn ipv6_piece(chain: &Chain, packet: &[u8]) -> Result<Option<Piece>, &'static str> {
        let Some(header) = chain.headers.iter().find(|header| header.kind == FRAGMENT) else {
            return Ok(None);
        };
        let field = word(packet, header.start + 2);
        let (more, start) = (field & 1 == 1, usize::from(field & 0xfff8));
        if !more && start == 0 {
            return Ok(None);
        }
        let identification = super::checksum::long(packet, header.start + 4);
        let before = header.start - IPV6;
        piece(start, packet.len() - header.end, before, more, (0, identification)).map(Some)
    }
}

/// `before` are the octets that each piece has in front of its data.
fn piece(
    start: usize,
    length: usize,
    before: usize,
    more: bool,
    group: (u8, u32),
) -> Result<Piece, &'static str> {
    if length == 0 || (more && !length.is_multiple_of(8)) || before + start + length > 65_535 {
        return Err("drop_malformed_fragment");
    }
    Ok(Piece { start, end: start + length, more, group })
}

/// Computes the IPv4 header checksum in full; IPv6 has none.
pub fn mend(frame: &mut [u8]) {
    if is_ipv6(frame) {
        return;
    }
    let end = LINK + usize::from(frame[LINK] & 15) * 4;
    set_word(frame, LINK + 10, 0);
    let checksum = missing(0, sum(&frame[LINK..end]));
    set_word(frame, LINK + 10, checksum);
}

/// Makes a frame. `stations` is the receiver's MAC, then the sender's.
pub fn packet(
    stations: [u8; 12],
    (source, destination): (IpAddr, IpAddr),
    ttl: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = stations.to_vec();
    if source.is_ipv6() {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([protocol, ttl]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
    }
    frame.extend(octets_of(source));
    frame.extend(octets_of(destination));
    frame.extend(payload);
    mend(&mut frame);
    frame
}
