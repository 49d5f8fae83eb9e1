//! The facts of one fragment, parsed once. Read RFC 791 §3.2 and RFC 815 first.

use std::net::Ipv4Addr;

use crate::net::{Protocol, ethernet, ipv4, tcp};
use crate::verdict::DropReason;

/// Longest IPv4 packet, header included, in octets: what the length field can say.
const PACKET_BYTES_MAX: usize = 65_535;

/// Octets that a fragment's length and offset are counted in (RFC 791 §3.2, "NFB").
pub const BLOCK_BYTES: usize = 8;

/// What the fragments of one datagram have in common.
///
/// Source: RFC 791 §3.2, "the internet identification field (ID), source, destination, and protocol fields".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatagramId {
    /// The sender.
    pub source: Ipv4Addr,
    /// The receiver.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// The sender's number of the datagram.
    pub identification: [u8; 2],
}

/// Which octets of which datagram a packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// The datagram.
    pub datagram: DatagramId,
    /// Place of its first octet in the datagram's data; a multiple of 8.
    pub start: u16,
    /// Place behind its last octet; above `start`, and a multiple of 8 if more follow.
    pub end: u16,
    /// Says whether more fragments follow.
    pub more: bool,
}

impl Fragment {
    /// Reads the facts from the sound header of a fragment.
    ///
    /// # Errors
    /// [`DropReason::MalformedFragment`] if it lies: no octets, a length that is no multiple of 8 though more
    /// fragments follow, or an end past 65,535 octets.
    pub fn parse(header: &ipv4::Header) -> Result<Self, DropReason> {
        let more = header.has_more_fragments();
        let bytes = header.total_bytes() - header.header_bytes();
        let start = header.fragment_offset_bytes();
        let end = start + bytes;
        let is_sound = bytes > 0
            && (!more || bytes.is_multiple_of(BLOCK_BYTES))
            && end + header.header_bytes() <= PACKET_BYTES_MAX;
        if !is_sound {
            return Err(DropReason::MalformedFragment);
        }
        let datagram = DatagramId {
            source: header.source(),
            destination: header.destination(),
            protocol: header.protocol,
            identification: header.identification,
        };
        Ok(Self { datagram, start: start as u16, end: end as u16, more })
    }

    /// Reads the facts from a frame that was found to carry a fragment.
    ///
    /// # Errors
    /// As [`Fragment::parse`]; and if the frame carries no IPv4 packet.
    pub fn of_frame(frame: &[u8]) -> Result<Self, DropReason> {
        let header = frame.get(ethernet::HEADER_BYTES..).and_then(ipv4::Header::parse);
        Self::parse(header.ok_or(DropReason::MalformedIpv4)?)
    }

    /// Says whether it starts within the TCP header, which is the first fragment's alone.
    ///
    /// Source: RFC 3128 §4, "if FO=1 and PROTOCOL=TCP then drop packet"; here for the whole fixed header.
    #[must_use]
    pub const fn reaches_into_tcp_header(&self) -> bool {
        self.datagram.protocol == Protocol::Tcp.number() && (self.start as usize) < tcp::HEADER_BYTES
    }

    /// Says whether it carries the start of the datagram, and so the transport header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.start == 0
    }
}
