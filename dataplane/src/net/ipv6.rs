//! The IPv6 header. Read RFC 8200 §3 first; what may follow it is in [`super::header_chain`].

use std::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Address;
use super::header_chain::HOP_BY_HOP;

/// Octets of the header.
pub const HEADER_BYTES: usize = 40;

/// IP protocol number of `ICMPv6` (RFC 4443 §1).
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Longest packet that every link takes whole, in octets (RFC 8200 §5).
pub const MINIMUM_MTU: usize = 1280;

/// The header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    version_class_flow: [u8; 4],
    payload_length: [u8; 2],
    /// What follows the header (IANA protocol numbers).
    pub next_header: u8,
    /// Links that the packet may still cross.
    pub hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

impl Header {
    /// Returns the view over a packet's first octets.
    ///
    /// The view exists only if version and payload length agree with the octets at hand:
    /// `40 <= total_bytes() <= packet.len()`. A jumbogram is refused: its payload length of zero says nothing
    /// (RFC 2675 §3).
    #[inline]
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<&Self> {
        Self::parse_cut(packet).filter(|header| header.total_bytes() <= packet.len())
    }

    /// Returns the view over the first octets of a packet that may be cut short behind its header.
    ///
    /// Of the lengths only these agree: `40 <= packet.len()` and `40 <= total_bytes()`.
    #[inline]
    #[must_use]
    pub fn parse_cut(packet: &[u8]) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(packet).ok()?;
        let [version_class, ..] = header.version_class_flow;
        (version_class >> 4 == 6 && !header.may_be_jumbogram()).then_some(header)
    }

    /// Returns the writable view over the header of a packet that was parsed before.
    #[inline]
    #[must_use]
    pub fn writable(header: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(header).ok().map(|(header, _)| header)
    }

    /// Says whether the length stands in an option: without one, a payload of no octets holds no options header.
    const fn may_be_jumbogram(&self) -> bool {
        u16::from_be_bytes(self.payload_length) == 0 && self.next_header == HOP_BY_HOP
    }

    /// Returns the length of header and payload, in octets; what follows is padding of the link.
    #[inline]
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        HEADER_BYTES + u16::from_be_bytes(self.payload_length) as usize
    }

    /// Returns sender and receiver as words.
    #[inline]
    #[must_use]
    pub fn addresses(&self) -> [u64; 4] {
        Ipv6Addr::pair(self.source(), self.destination())
    }

    /// Returns the sender.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.source)
    }

    /// Returns the receiver; while a routing header has segments left, only the next of them.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.destination)
    }

    /// Replaces both addresses; no checksum of this header has to follow.
    #[inline]
    pub const fn readdress(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        self.source = source.octets();
        self.destination = destination.octets();
    }

    /// Replaces both addresses and takes one from the hop limit.
    #[inline]
    pub const fn translate(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        self.readdress(source, destination);
        self.hop_limit = self.hop_limit.saturating_sub(1);
    }

    /// Writes the header of a packet that we originate; `total_bytes` includes it.
    #[must_use]
    pub const fn originate(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next_header: u8,
        total_bytes: u16,
    ) -> Self {
        Self {
            version_class_flow: [0x60, 0, 0, 0],
            payload_length: total_bytes.saturating_sub(HEADER_BYTES as u16).to_be_bytes(),
            next_header,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
        }
    }

    /// Exchanges sender and receiver and starts a fresh hop limit of 64, for an answer in place.
    pub const fn turn_round(&mut self) {
        core::mem::swap(&mut self.source, &mut self.destination);
        self.hop_limit = 64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv6Header};
    use proptest::prelude::*;

    fn written(header: Ipv6Header, payload: &[u8]) -> Vec<u8> {
        [&header.to_bytes(), payload].concat()
    }

    fn header(payload_length: u16, next_header: u8) -> Ipv6Header {
        Ipv6Header {
            traffic_class: 0xb9,
            flow_label: 0xa_bcde.try_into().unwrap(),
            payload_length,
            next_header: IpNumber(next_header),
            hop_limit: 7,
            source: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            destination: [0xfd; 16],
        }
    }

    proptest! {
        #[test]
        fn a_view_of_any_octets_reads_what_etherparse_reads(
            octets in proptest::collection::vec(any::<u8>(), 0..80),
            is_version_6 in any::<bool>(),
        ) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut().filter(|_| is_version_6) {
                *first = 0x60 | *first & 0x0f;
            }
            if let Some(high) = octets.get_mut(4).filter(|_| is_version_6) {
                *high = 0;
            }
            let oracle = Ipv6Header::from_slice(&octets).ok();
            let cut = oracle.filter(|(header, _)| header.payload_length != 0 || header.next_header.0 != 0);
            prop_assert_eq!(Header::parse_cut(&octets).is_some(), cut.is_some());
            let whole = cut.filter(|(header, rest)| usize::from(header.payload_length) <= rest.len());
            prop_assert_eq!(Header::parse(&octets).is_some(), whole.is_some());
            if let (Some(view), Some((oracle, _))) = (Header::parse(&octets), whole) {
                prop_assert_eq!(view.source(), oracle.source_addr());
                prop_assert_eq!(view.destination(), oracle.destination_addr());
                prop_assert_eq!(view.next_header, oracle.next_header.0);
                prop_assert_eq!(view.hop_limit, oracle.hop_limit);
                prop_assert_eq!(view.total_bytes(), 40 + usize::from(oracle.payload_length));
            }
        }

        #[test]
        fn a_translation_changes_addresses_and_hop_limit_and_nothing_else(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), hop_limit in 0..=u8::MAX,
        ) {
            let before = Ipv6Header { hop_limit, ..header(4, 17) };
            let mut packet = written(before.clone(), b"data");
            Header::writable(&mut packet).unwrap().translate(source.into(), destination.into());
            let after = Ipv6Header { hop_limit: hop_limit.saturating_sub(1), source, destination, ..before };
            prop_assert_eq!(packet, written(after, b"data"));
        }
    }

    #[test]
    fn an_answer_in_place_keeps_class_and_flow_label() {
        let before = header(0, 59);
        let mut packet = written(before.clone(), b"");
        Header::writable(&mut packet).unwrap().turn_round();
        let (source, destination) = (before.destination, before.source);
        assert_eq!(packet, written(Ipv6Header { hop_limit: 64, source, destination, ..before }, b""));
    }

    #[test]
    fn a_header_of_ours_is_what_etherparse_would_write() {
        let [source, destination] = ["fd00::1", "2001:db8::2"].map(|text| text.parse::<Ipv6Addr>().unwrap());
        let ours = Header::originate(source, destination, PROTOCOL_ICMPV6, 48);
        let oracle = Ipv6Header {
            traffic_class: 0,
            flow_label: 0.try_into().unwrap(),
            payload_length: 8,
            next_header: IpNumber::IPV6_ICMP,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
        };
        assert_eq!(ours.as_bytes(), oracle.to_bytes());
    }

    #[test]
    fn a_jumbogram_is_refused_and_an_empty_packet_is_not() {
        let option = [17, 0, 0xc2, 4, 0, 1, 0, 0];
        assert!(Header::parse(&written(header(0, 0), &option)).is_none());
        assert!(Header::parse_cut(&written(header(0, 0), &option)).is_none());
        assert_eq!(Header::parse(&written(header(0, 59), &[])).unwrap().total_bytes(), HEADER_BYTES);
    }

    #[test]
    fn a_quoted_packet_may_be_shorter_than_it_says() {
        let quote = written(header(1240, 6), &[0; 8]);
        assert!(Header::parse(&quote).is_none());
        assert_eq!(Header::parse_cut(&quote).unwrap().total_bytes(), 1280);
        assert!(Header::parse_cut(&quote[..39]).is_none());
    }
}
