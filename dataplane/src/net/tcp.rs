//! The TCP header. Read RFC 9293 §3.1 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Difference;
use super::{Port, Ports};

/// Octets of a header without options.
pub const HEADER_BYTES: usize = 20;

/// The control bits that connection tracking reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);

    /// Says whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Says whether any bit of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Joins two sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fixed part of the header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

impl Header {
    /// Returns the view over a segment's first octets; the data offset agrees with the octets at hand.
    #[inline]
    #[must_use]
    pub fn parse(segment: &[u8]) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(segment).ok()?;
        (header.header_bytes() >= HEADER_BYTES && header.header_bytes() <= segment.len()).then_some(header)
    }

    /// Returns the writable view over a segment that was parsed before.
    #[inline]
    #[must_use]
    pub fn writable(segment: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(segment).ok().map(|(header, _)| header)
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

    /// Returns the control bits.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> Flags {
        Flags(self.flags)
    }

    /// Returns the length of the header with its options, in octets.
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        (self.offset >> 4) as usize * 4
    }

    /// Returns the sequence number of the segment's first octet.
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.sequence)
    }

    /// Returns the next sequence number that the sender expects.
    #[must_use]
    pub const fn acknowledgment(&self) -> u32 {
        u32::from_be_bytes(self.acknowledgment)
    }

    /// Replaces both ports; `difference` covers ports and addresses (the pseudo-header).
    #[inline(always)]
    pub const fn translate(&mut self, source: Port, destination: Port, difference: Difference) {
        self.source = source.0;
        self.destination = destination.0;
        self.checksum = difference.apply(self.checksum);
    }

    /// Makes a RST without data; the checksum is left zero.
    #[must_use]
    pub const fn reset(source: Port, destination: Port, sequence: u32, acknowledgment: Option<u32>) -> Self {
        let (flags, acknowledgment) = match acknowledgment {
            Some(number) => (Flags::RST.with(Flags::ACK), number),
            None => (Flags::RST, 0),
        };
        Self {
            source: source.0,
            destination: destination.0,
            sequence: sequence.to_be_bytes(),
            acknowledgment: acknowledgment.to_be_bytes(),
            offset: 5 << 4,
            flags: flags.0,
            window: [0, 0],
            checksum: [0, 0],
            urgent: [0, 0],
        }
    }

    /// Makes an ACK without data and without a window; the checksum is left zero.
    #[must_use]
    pub const fn bare_ack(source: Port, destination: Port, sequence: u32, acknowledgment: u32) -> Self {
        let mut segment = Self::reset(source, destination, sequence, Some(acknowledgment));
        segment.flags = Flags::ACK.0;
        segment
    }

    /// Sets the checksum.
    pub const fn set_checksum(&mut self, checksum: [u8; 2]) {
        self.checksum = checksum;
    }
}
