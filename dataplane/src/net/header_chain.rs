//! What stands between the IPv6 header and the header of the upper layer. Read RFC 8200 §4 and RFC 7112 first.
//!
//! The walk is bounded, since the sender chooses what it costs. It reads no option: what a router does not know there
//! is none of its business (RFC 8200 §4.3), and the rest is the receiver's.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::ipv6;

/// Next header value of the Hop-by-Hop Options header (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Next header value of the Routing header (RFC 8200 §4.4).
pub const ROUTING: u8 = 43;
/// Next header value of the Fragment header (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;
/// Next header value of the Authentication Header (RFC 4302 §2).
pub const AUTHENTICATION: u8 = 51;
/// Next header value that says that nothing follows (RFC 8200 §4.7).
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header value of the Destination Options header (RFC 8200 §4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that a packet may have: RFC 8200 §4.1 knows six, one of which may be there twice.
pub const HEADERS_MAX: usize = 8;
/// Octets that they may have together; the XDP program looks as far.
pub const CHAIN_BYTES_MAX: usize = 1024;

/// Octets of the Fragment header (RFC 8200 §4.5).
pub const FRAGMENT_BYTES: usize = 8;

/// Why there is no [`HeaderChain`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BrokenChain {
    /// A header ends behind the octets at hand; in a first fragment RFC 7112 §5 forbids it.
    Truncated,
    /// More than [`HEADERS_MAX`] headers, or longer than [`CHAIN_BYTES_MAX`].
    TooLong,
    /// A Hop-by-Hop Options header that is not the first (RFC 8200 §4.1), or a second Fragment header.
    Misplaced,
}

/// The facts of a packet's extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderChain {
    /// Protocol of the upper layer; [`NO_NEXT_HEADER`] if there is none. In a fragment that is not the first: of the
    /// header that follows the Fragment header in the first, be it an extension header.
    pub protocol: u8,
    /// Where the upper-layer header starts, in octets from the start of the IPv6 header. In a fragment that is not
    /// the first: where its data starts.
    pub upper_offset: usize,
    /// What the Fragment header says, also that of an atomic fragment (RFC 6946).
    pub fragment: Option<FragmentHeader>,
    /// Segments left in a routing header: unless zero, the destination is not the one that the upper layer's
    /// checksum covers (RFC 8200 §8.1), and no flow is to be found by it.
    pub segments_left: u8,
}

/// The facts of a Fragment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentHeader {
    /// Where the header starts, in octets from the start of the IPv6 header.
    pub at: usize,
    /// First header behind it in the first fragment.
    pub next_header: u8,
    /// Place of the fragment's data in that of its packet, in octets.
    pub offset_bytes: usize,
    /// Says whether more fragments follow.
    pub more: bool,
    /// Groups the fragments of one packet.
    pub identification: [u8; 4],
}

/// The Fragment header as it stands in a packet.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FragmentOctets {
    next_header: u8,
    reserved: u8,
    offset_flags: [u8; 2],
    identification: [u8; 4],
}

impl HeaderChain {
    /// Walks the extension headers of a packet that `header` begins.
    ///
    /// `packet` may be cut short, as a quoted one is; then the upper-layer header may be, too, or miss. What is behind
    /// the packet's own length is never read: `upper_offset <= packet.len().min(header.total_bytes())`. Costs a few
    /// loads for each header, and one comparison if there is none.
    ///
    /// # Errors
    /// [`BrokenChain`] says what is wrong.
    #[inline]
    pub fn parse(header: &ipv6::Header, packet: &[u8]) -> Result<Self, BrokenChain> {
        let chain = Self {
            protocol: header.next_header,
            upper_offset: ipv6::HEADER_BYTES,
            fragment: None,
            segments_left: 0,
        };
        if !is_extension(header.next_header) {
            return Ok(chain);
        }
        let packet = packet.get(..header.total_bytes()).unwrap_or(packet);
        chain.walk(packet)
    }

    /// Says whether the packet is one piece of a larger one; an atomic fragment is not (RFC 6946 §2).
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        matches!(self.fragment, Some(fragment) if !fragment.is_atomic())
    }

    fn walk(mut self, packet: &[u8]) -> Result<Self, BrokenChain> {
        for place in 0.. {
            if !is_extension(self.protocol) || self.is_behind_first_fragment() {
                break;
            }
            if place == HEADERS_MAX {
                return Err(BrokenChain::TooLong);
            }
            if self.protocol == HOP_BY_HOP && place > 0 {
                return Err(BrokenChain::Misplaced);
            }
            self.step(packet)?;
        }
        Ok(self)
    }

    fn step(&mut self, packet: &[u8]) -> Result<(), BrokenChain> {
        let rest = packet.get(self.upper_offset..).ok_or(BrokenChain::Truncated)?;
        let [next_header, length, _, segments_left, ..] = *rest else { return Err(BrokenChain::Truncated) };
        // Source: RFC 8200 §4.3, §4.4, §4.6 "in 8-octet units, not including the first 8 octets"; RFC 4302 §2.2 "in
        // 32-bit words, minus 2".
        let length = usize::from(length);
        let header_bytes = match self.protocol {
            FRAGMENT => FRAGMENT_BYTES,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        let header = rest.get(..header_bytes).ok_or(BrokenChain::Truncated)?;
        match self.protocol {
            FRAGMENT if self.fragment.is_some() => return Err(BrokenChain::Misplaced),
            FRAGMENT => self.fragment = FragmentHeader::parse(header, self.upper_offset),
            ROUTING => self.segments_left = self.segments_left.max(segments_left),
            _ => {}
        }
        self.protocol = next_header;
        self.upper_offset += header_bytes;
        if self.upper_offset > ipv6::HEADER_BYTES + CHAIN_BYTES_MAX {
            return Err(BrokenChain::TooLong);
        }
        Ok(())
    }

    fn is_behind_first_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_first())
    }
}

impl FragmentHeader {
    fn parse(header: &[u8], at: usize) -> Option<Self> {
        let (octets, _) = FragmentOctets::ref_from_prefix(header).ok()?;
        let offset_flags = u16::from_be_bytes(octets.offset_flags);
        Some(Self {
            at,
            next_header: octets.next_header,
            offset_bytes: usize::from(offset_flags & !7),
            more: offset_flags & 1 != 0,
            identification: octets.identification,
        })
    }

    /// Says whether the packet carries the start of its data, and so the upper-layer header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset_bytes == 0
    }

    /// Says whether the packet is the only piece, so that there is nothing to wait for. Source: RFC 6946 §2.
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.is_first() && !self.more
    }
}

/// Says whether a header of this kind is walked over.
///
/// Mobility, HIP and shim6 are not: nothing that has flows follows them. ESP hides what does.
/// Source: `net/ipv6/exthdrs_core.c`, `ipv6_ext_hdr`.
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

#[cfg(test)]
mod tests;
