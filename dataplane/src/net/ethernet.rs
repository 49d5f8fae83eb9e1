//! Ethernet II framing. Read IEEE 802.3 §3 and RFC 894 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Mac;

/// Octets of an untagged Ethernet header.
pub const HEADER_BYTES: usize = 14;

/// `ETH_P_IP` of `linux/if_ether.h`, in network order.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// `ETH_P_IPV6` of `linux/if_ether.h`, in network order.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// The header in front of each packet.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    destination: [u8; 6],
    source: [u8; 6],
    /// What follows, in network order.
    pub ethertype: [u8; 2],
}

impl Header {
    /// Returns the view over the first octets of a frame, or `None` if they are too few.
    #[inline]
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<&Self> {
        Self::split(frame).map(|(header, _)| header)
    }

    /// Returns the view over the first octets of a frame, and what follows; `None` if they are too few.
    #[inline]
    #[must_use]
    pub fn split(frame: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(frame).ok()
    }

    /// Returns the writable view over the first octets of a frame.
    #[inline]
    #[must_use]
    pub fn writable(frame: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(frame).ok().map(|(header, _)| header)
    }

    /// Returns the station the frame is for.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> Mac {
        Mac(self.destination)
    }

    /// Returns the station that sent the frame.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Mac {
        Mac(self.source)
    }

    /// Addresses the frame for its next link.
    #[inline]
    pub const fn readdress(&mut self, source: Mac, destination: Mac) {
        self.source = source.0;
        self.destination = destination.0;
    }

    /// Sends the frame back to the station it came from.
    pub const fn turn_round(&mut self) {
        core::mem::swap(&mut self.source, &mut self.destination);
    }
}
