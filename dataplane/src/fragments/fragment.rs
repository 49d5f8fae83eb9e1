//! The facts of one fragment, parsed once. Read RFC 791 §3.2, RFC 815 and RFC 8200 §4.5 first.

use std::net::IpAddr;

use crate::family::Family;
use crate::net::{Protocol, ethernet, tcp};
use crate::verdict::DropReason;

/// Longest packet, headers included, in octets: what the length field of IPv4 can say.
///
/// IPv6 counts without its header (RFC 8200 §4.5); the 40 octets make no difference to any sender in use.
const PACKET_BYTES_MAX: usize = 65_535;

/// Octets that a fragment's length and offset are counted in (RFC 791 §3.2, "NFB").
pub const BLOCK_BYTES: usize = 8;

/// What the fragments of one datagram have in common.
///
/// Source: RFC 791 §3.2, "the internet identification field (ID), source, destination, and protocol fields"; RFC 8200
/// §4.5, "the same Source Address, Destination Address, and Fragment Identification".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatagramId {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// IP protocol number; zero for IPv6, whose fragments need not agree on it (RFC 8200 §4.5).
    pub protocol: u8,
    /// The sender's number of the datagram; of IPv4 in the last two octets.
    pub identification: [u8; 4],
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
    /// Makes a fragment of what its headers say: that it carries `bytes` octets from `start` on, behind `unfragmented`
    /// octets that are before the data in every fragment.
    ///
    /// # Errors
    /// [`DropReason::MalformedFragment`] if they lie: no octets, a length that is no multiple of 8 though more
    /// fragments follow, or an end past 65,535 octets.
    pub fn new(
        datagram: DatagramId,
        start: usize,
        bytes: usize,
        unfragmented: usize,
        more: bool,
    ) -> Result<Self, DropReason> {
        let end = start + bytes;
        let is_sound = bytes > 0
            && (!more || bytes.is_multiple_of(BLOCK_BYTES))
            && end + unfragmented <= PACKET_BYTES_MAX;
        if !is_sound {
            return Err(DropReason::MalformedFragment);
        }
        Ok(Self { datagram, start: start as u16, end: end as u16, more })
    }

    /// Reads the facts from a frame that was found to carry a fragment.
    ///
    /// # Errors
    /// As [`Fragment::new`]; and if the frame carries no such packet.
    pub fn of_frame<A: Family>(frame: &[u8]) -> Result<Self, DropReason> {
        A::fragment(frame.get(ethernet::HEADER_BYTES..).ok_or(A::MALFORMED)?)
    }

    /// Says whether it starts within the TCP header, which is the first fragment's alone.
    ///
    /// Source: RFC 3128 §4, "if FO=1 and PROTOCOL=TCP then drop packet"; here for the whole fixed header. Over IPv6 the
    /// rule that a first fragment has all headers (RFC 7112) and the one against overlaps do the same.
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
