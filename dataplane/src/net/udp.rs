//! The UDP header. Read RFC 768 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Difference;
use super::{Port, Ports};

/// Octets of the header.
pub const HEADER_BYTES: usize = 8;

/// The header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

impl Header {
    /// Returns the view over a datagram's first octets; its length field agrees with the octets at hand.
    #[inline]
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<&Self> {
        Self::parse_cut(datagram, 0)
    }

    /// Returns the view over a datagram's first octets, of which `missing` more are elsewhere.
    #[inline]
    #[must_use]
    pub fn parse_cut(datagram: &[u8], missing: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(datagram).ok()?;
        let length = u16::from_be_bytes(header.length) as usize;
        (length >= HEADER_BYTES && length <= datagram.len() + missing).then_some(header)
    }

    /// Returns the view over the first octets of a datagram of which more is still to come (RFC 791 §3.2).
    #[must_use]
    pub fn parse_first(datagram: &[u8]) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(datagram).ok()?;
        (u16::from_be_bytes(header.length) as usize >= HEADER_BYTES).then_some(header)
    }

    /// Returns the writable view over a datagram that was parsed before.
    #[inline]
    #[must_use]
    pub fn writable(datagram: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(datagram).ok().map(|(header, _)| header)
    }

    /// Returns both ports.
    #[inline]
    #[must_use]
    pub const fn ports(&self) -> Ports {
        Ports::new(self.source(), self.destination())
    }

    /// Returns the port of the sender.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Port {
        Port(self.source)
    }

    /// Returns the port of the receiver.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> Port {
        Port(self.destination)
    }

    /// Replaces both ports; `difference` covers ports and addresses (the pseudo-header).
    #[inline(always)]
    pub const fn translate(&mut self, source: Port, destination: Port, difference: Difference) {
        self.source = source.0;
        self.destination = destination.0;
        self.checksum = checksum_after(self.checksum, difference);
    }
}

/// Returns the checksum after a change of what it covers.
///
/// A zero checksum means "none" and stays zero; one computed as zero is sent as all ones (RFC 768).
#[inline(always)]
#[must_use]
pub const fn checksum_after(checksum: [u8; 2], difference: Difference) -> [u8; 2] {
    match (u16::from_ne_bytes(checksum), u16::from_ne_bytes(difference.apply(checksum))) {
        (0, _) => [0, 0],
        (_, 0) => [0xff, 0xff],
        (_, changed) => changed.to_ne_bytes(),
    }
}
