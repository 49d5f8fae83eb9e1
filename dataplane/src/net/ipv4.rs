//! The IPv4 header. Read RFC 791 §3.1 first.

use std::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Address;
use super::checksum::{self, Difference, Sum};

/// Octets of a header without options.
pub const HEADER_BYTES: usize = 20;

/// IP protocol number of ICMP (RFC 792).
pub const PROTOCOL_ICMP: u8 = 1;

/// Change of the header's sum when one is taken from the TTL, the high octet of its word: -0x0100 in ones' complement.
const HOP: Difference = Difference(u16::from_ne_bytes([0xfe, 0xff]));

/// `MF`: more fragments follow (RFC 791 §3.1).
const MORE_FRAGMENTS: u16 = 0x2000;
/// `DF`: don't fragment (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// The fragment offset, in units of 8 octets (RFC 791 §3.1).
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of the header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    version_ihl: u8,
    /// DSCP and ECN (RFC 2474, RFC 3168).
    pub type_of_service: u8,
    total_length: [u8; 2],
    /// Groups the fragments of one datagram.
    pub identification: [u8; 2],
    flags_offset: [u8; 2],
    /// Links that the packet may still cross.
    pub ttl: u8,
    /// What follows the header (IANA protocol numbers).
    pub protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

impl Header {
    /// Returns the view over a packet's first octets.
    ///
    /// The view exists only if version, header length and total length agree with the octets at hand:
    /// `20 <= header_bytes() <= total_bytes() <= packet.len()`.
    #[inline]
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(packet).ok()?;
        header.is_sound(packet.len()).then_some(header)
    }

    /// Returns the view over the first octets of a packet that may be cut short behind its header.
    ///
    /// Of the lengths only these agree: `20 <= header_bytes() <= packet.len()` and
    /// `header_bytes() <= total_bytes()`.
    #[inline]
    #[must_use]
    pub fn parse_cut(packet: &[u8]) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(packet).ok()?;
        (header.is_sound(usize::MAX) && header.header_bytes() <= packet.len()).then_some(header)
    }

    /// Returns the writable view over the header of a packet that was parsed before.
    #[inline]
    #[must_use]
    pub fn writable(header: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(header).ok().map(|(header, _)| header)
    }

    fn is_sound(&self, available: usize) -> bool {
        self.version_ihl >> 4 == 4
            && self.header_bytes() >= HEADER_BYTES
            && self.header_bytes() <= self.total_bytes()
            && self.total_bytes() <= available
    }

    /// Says whether the checksum is that of the header, which `packet` begins with, options included.
    ///
    /// Source: RFC 1812 §4.2.2.5, "a router MUST verify the IP checksum of any packet that is received, and MUST discard
    /// messages containing invalid checksums".
    #[inline(always)]
    #[must_use]
    pub fn has_right_checksum(&self, packet: &[u8]) -> bool {
        // In either order of octets: a sum of ones is its own mirror.
        // Nearly all headers are of this length, which the compiler then knows: three additions and no loop.
        match packet.first_chunk::<HEADER_BYTES>() {
            Some(header) if self.header_bytes() == HEADER_BYTES => checksum::is_all_ones(header),
            _ => packet.get(..self.header_bytes()).is_some_and(checksum::is_all_ones),
        }
    }

    /// Returns the length of the header with its options, in octets.
    #[inline]
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Returns the length of header and payload, in octets; what follows is padding of the link.
    #[inline]
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        u16::from_be_bytes(self.total_length) as usize
    }

    /// Says whether the packet is one piece of a larger datagram.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Says whether the sender wants the packet in one piece or not at all.
    #[inline]
    #[must_use]
    pub const fn is_unfragmentable(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & DONT_FRAGMENT != 0
    }

    /// Says whether the packet is a fragment that others follow.
    #[must_use]
    pub const fn has_more_fragments(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & MORE_FRAGMENTS != 0
    }

    /// Returns the place of the packet's data in that of its datagram, in octets.
    #[must_use]
    pub const fn fragment_offset_bytes(&self) -> usize {
        (u16::from_be_bytes(self.flags_offset) & FRAGMENT_OFFSET) as usize * 8
    }

    /// Says whether the packet carries the start of its datagram, and so the transport header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        u16::from_be_bytes(self.flags_offset) & FRAGMENT_OFFSET == 0
    }

    /// Returns sender and receiver as words.
    #[inline]
    #[must_use]
    pub fn addresses(&self) -> [u64; 1] {
        Ipv4Addr::pair(self.source(), self.destination())
    }

    /// Returns the sender.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Ipv4Addr {
        let [a, b, c, d] = self.source;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Returns the receiver.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> Ipv4Addr {
        let [a, b, c, d] = self.destination;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Replaces both addresses; `difference` is that of the addresses.
    #[inline(always)]
    pub const fn readdress(&mut self, source: Ipv4Addr, destination: Ipv4Addr, difference: Difference) {
        self.source = source.octets();
        self.destination = destination.octets();
        self.checksum = difference.apply(self.checksum);
    }

    /// Replaces both addresses and takes one from the TTL; `difference` is that of the addresses alone.
    #[inline(always)]
    pub const fn translate(&mut self, source: Ipv4Addr, destination: Ipv4Addr, difference: Difference) {
        let (ttl, change) = match self.ttl.checked_sub(1) {
            Some(ttl) => (ttl, difference.and(HOP)),
            None => (0, difference),
        };
        self.ttl = ttl;
        self.readdress(source, destination, change);
    }

    /// Writes a header without options for a packet that we originate, checksum included.
    #[must_use]
    pub fn originate(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, total_bytes: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            type_of_service: 0,
            total_length: total_bytes.to_be_bytes(),
            identification: [0, 0],
            flags_offset: [0x40, 0x00],
            ttl: 64,
            protocol,
            checksum: [0, 0],
            source: source.octets(),
            destination: destination.octets(),
        };
        header.checksum = Sum::default().octets(header.as_bytes()).checksum();
        header
    }

    /// Makes the header that of one piece of its packet; the checksum is left zero.
    ///
    /// `header_bytes` is a multiple of 4 and `offset_bytes` of 8.
    pub const fn become_piece(
        &mut self,
        header_bytes: usize,
        total_bytes: u16,
        offset_bytes: usize,
        more: bool,
    ) {
        self.version_ihl = 0x40 | (header_bytes / 4) as u8;
        self.total_length = total_bytes.to_be_bytes();
        let flags = u16::from_be_bytes(self.flags_offset) & !(MORE_FRAGMENTS | FRAGMENT_OFFSET);
        let more = if more { MORE_FRAGMENTS } else { 0 };
        self.flags_offset = (flags | more | (offset_bytes / 8) as u16 & FRAGMENT_OFFSET).to_be_bytes();
        self.checksum = [0, 0];
    }

    /// Sets the checksum, of the header with its options.
    pub const fn set_checksum(&mut self, checksum: [u8; 2]) {
        self.checksum = checksum;
    }

    /// Exchanges sender and receiver and starts a fresh TTL of 64, for an answer in place.
    pub fn turn_round(&mut self) {
        core::mem::swap(&mut self.source, &mut self.destination);
        let old = [self.ttl, self.protocol];
        self.ttl = 64;
        self.checksum = Difference::NONE.word(old, [self.ttl, self.protocol]).apply(self.checksum);
    }
}
