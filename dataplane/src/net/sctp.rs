//! The SCTP common header, and which chunks follow it. Read RFC 9260 §3 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::crc32c::Difference;
use super::{Port, Ports};

/// Octets of the common header.
pub const HEADER_BYTES: usize = 12;

/// Octets that every chunk begins with: type, flags and length (RFC 9260 §3.2).
const CHUNK_HEADER_BYTES: usize = 4;

/// Chunks of a packet that are looked at. What changes an association comes before data (RFC 9260 §6.10).
const CHUNKS_MAX: usize = 16;

/// The kinds of chunks in a packet, each a bit at the place of its type.
///
/// Their order is lost, and not missed: RFC 9260 §6.10 leaves no choice in it that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chunks(u16);

impl Chunks {
    /// User data.
    pub const DATA: Self = Self(1);
    /// Opens an association.
    pub const INIT: Self = Self(1 << 1);
    /// Answers [`Chunks::INIT`].
    pub const INIT_ACK: Self = Self(1 << 2);
    /// Probes a path.
    pub const HEARTBEAT: Self = Self(1 << 4);
    /// Answers [`Chunks::HEARTBEAT`].
    pub const HEARTBEAT_ACK: Self = Self(1 << 5);
    /// Ends an association at once.
    pub const ABORT: Self = Self(1 << 6);
    /// Begins the end.
    pub const SHUTDOWN: Self = Self(1 << 7);
    /// Answers [`Chunks::SHUTDOWN`].
    pub const SHUTDOWN_ACK: Self = Self(1 << 8);
    /// Tells of an error.
    pub const ERROR: Self = Self(1 << 9);
    /// Returns the cookie of [`Chunks::INIT_ACK`].
    pub const COOKIE_ECHO: Self = Self(1 << 10);
    /// Completes the opening.
    pub const COOKIE_ACK: Self = Self(1 << 11);
    /// Completes the end.
    pub const SHUTDOWN_COMPLETE: Self = Self(1 << 14);
    /// Any type above those of RFC 9260 §3.2.
    const OTHER: Self = Self(1 << 15);

    /// Chunks that share a packet with no other (RFC 9260 §6.10).
    const ALONE: Self = Self::INIT.with(Self::INIT_ACK).with(Self::SHUTDOWN_COMPLETE);
    /// Chunks that come first (RFC 9260 §5.1, steps C and D).
    const FIRST: Self = Self::COOKIE_ECHO.with(Self::COOKIE_ACK);

    /// Returns the kinds of chunks in a packet, whose common header `packet` begins with.
    ///
    /// `None` if it has none, if one is longer than the packet or shorter than its own header, or if one is where it
    /// must not be: Linux tracks no such packet either. Octets behind the last chunk do not count.
    /// Source: `net/netfilter/nf_conntrack_proto_sctp.c`, `do_basic_checks`.
    #[inline]
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Self::walk(packet, false)
    }

    /// Returns the kinds of chunks that begin in the first fragment of a packet.
    #[must_use]
    pub fn parse_first(packet: &[u8]) -> Option<Self> {
        Self::walk(packet, true)
    }

    fn walk(packet: &[u8], may_be_cut: bool) -> Option<Self> {
        let mut rest = packet.get(HEADER_BYTES..)?;
        let mut seen = Self::default();
        for _ in 0..CHUNKS_MAX {
            let Some([kind, _, high, low]) = rest.first_chunk::<CHUNK_HEADER_BYTES>() else { break };
            let kind = Self::of_type(*kind);
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let is_sound = length >= CHUNK_HEADER_BYTES && (may_be_cut || length <= rest.len());
            if !is_sound || !seen.may_precede(kind) {
                return None;
            }
            seen = seen.with(kind);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        (seen != Self::default()).then_some(seen)
    }

    /// Says whether a chunk of one kind may follow these.
    const fn may_precede(self, kind: Self) -> bool {
        self.0 == 0 || !self.with(kind).intersects(Self::ALONE) && !kind.intersects(Self::FIRST)
    }

    const fn of_type(number: u8) -> Self {
        if number < 15 { Self(1 << number) } else { Self::OTHER }
    }

    /// Says whether all of `other` are there.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Says whether any of `other` is there.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Joins two sets of kinds.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The common header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    source: [u8; 2],
    destination: [u8; 2],
    /// What the receiver chose to know its association by; zero with an INIT.
    pub verification_tag: [u8; 4],
    checksum: [u8; 4],
}

impl Header {
    /// Returns the view over a packet's first octets.
    #[inline]
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(packet).ok().map(|(header, _)| header)
    }

    /// Returns the writable view over a packet's first octets.
    #[inline]
    #[must_use]
    pub fn writable(packet: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(packet).ok().map(|(header, _)| header)
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

    /// Replaces both ports; the checksum covers no addresses.
    ///
    /// `packet_bytes` is the length of the whole SCTP packet, header included, and of a quoted one what it was; the
    /// first fragment does not tell it. A checksum of zero is changed like any other: to leave it out needs an error
    /// detection below SCTP that no packet we see has (RFC 9653 §5.1).
    pub fn translate(&mut self, source: Port, destination: Port, packet_bytes: u16) {
        let ports = |[a, b]: [u8; 2], [c, d]: [u8; 2]| [a, b, c, d];
        let (old, new) = (ports(self.source, self.destination), ports(source.0, destination.0));
        self.source = source.0;
        self.destination = destination.0;
        self.checksum = Difference::first_octets(old, new, packet_bytes).apply(self.checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::super::crc32c::tests::slow;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Writes a packet of these chunks, type and value, with a right checksum.
    fn packet(chunks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0x13, 0x88, 0x0b, 0x59, 1, 2, 3, 4, 0, 0, 0, 0];
        for (kind, value) in chunks {
            packet.extend([*kind, 0]);
            packet.extend((4 + value.len() as u16).to_be_bytes());
            packet.extend(*value);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        let checksum = slow(&packet);
        packet[8..12].copy_from_slice(&checksum);
        packet
    }

    /// Says whether the checksum is that of a whole pass over the packet.
    fn is_right(packet: &[u8]) -> bool {
        let mut covered = packet.to_vec();
        covered[8..12].fill(0);
        slow(&covered) == packet[8..12]
    }

    proptest! {
        #[test]
        fn a_translation_keeps_a_right_checksum_right_and_changes_nothing_else(
            value in vec(any::<u8>(), 0..1_500), source in any::<u16>(), destination in any::<u16>(),
        ) {
            let before = packet(&[(0, &value)]);
            let mut after = before.clone();
            let (source, destination) = (Port::new(source), Port::new(destination));
            let length = after.len() as u16;
            Header::writable(&mut after).unwrap().translate(source, destination, length);
            let header = Header::parse(&after).unwrap();
            prop_assert_eq!((header.source(), header.destination()), (source, destination));
            prop_assert!(is_right(&after));
            prop_assert_eq!(&after[4..8], &before[4..8]);
            prop_assert_eq!(&after[12..], &before[12..]);
        }

        #[test]
        fn a_wrong_checksum_stays_as_wrong_as_it_was(error in 1..=u32::MAX, port in any::<u16>()) {
            let mut packet = packet(&[(0, b"data")]);
            let damage = |packet: &mut Vec<u8>| {
                packet[8..12].iter_mut().zip(u32::to_be_bytes(error)).for_each(|(octet, bits)| *octet ^= bits);
            };
            damage(&mut packet);
            let length = packet.len() as u16;
            Header::writable(&mut packet).unwrap().translate(Port::new(port), Port::new(80), length);
            prop_assert!(!is_right(&packet));
            damage(&mut packet);
            prop_assert!(is_right(&packet));
        }

        #[test]
        fn a_translation_undone_leaves_the_packet_as_it_was(value in vec(any::<u8>(), 0..64), port in any::<u16>()) {
            let before = packet(&[(3, &value)]);
            let mut after = before.clone();
            let length = before.len() as u16;
            Header::writable(&mut after).unwrap().translate(Port::new(port), Port::new(80), length);
            let header = Header::parse(&before).unwrap();
            Header::writable(&mut after).unwrap().translate(header.source(), header.destination(), length);
            prop_assert_eq!(before, after);
        }

        #[test]
        fn no_octets_make_a_walk_panic(octets in vec(prop_oneof![Just(0u8), Just(4), any::<u8>()], 0..200)) {
            let whole = Chunks::parse(&octets);
            prop_assert!(whole.is_none() || whole == Chunks::parse_first(&octets));
            prop_assert_eq!(Header::parse(&octets).is_some(), octets.len() >= 12);
        }

        #[test]
        fn every_chunk_of_a_sound_packet_is_seen(
            kinds in vec(prop_oneof![0u8..=0, 3u8..=9, 64u8..=64], 1..=CHUNKS_MAX), value in vec(any::<u8>(), 0..9),
        ) {
            let chunks: Vec<(u8, &[u8])> = kinds.iter().map(|kind| (*kind, &value[..])).collect();
            let expected = kinds.iter().fold(0u16, |bits, kind| bits | 1 << (*kind).min(15));
            prop_assert_eq!(Chunks::parse(&packet(&chunks)), Some(Chunks(expected)));
        }
    }

    #[test]
    fn chunks_that_must_stand_alone_or_first_do() {
        let seen = |kinds: &[u8]| {
            let chunks: Vec<(u8, &[u8])> = kinds.iter().map(|kind| (*kind, &b"value"[..])).collect();
            Chunks::parse(&packet(&chunks))
        };
        for kind in [1, 2, 14] {
            assert_eq!(seen(&[kind]), Some(Chunks::of_type(kind)));
            assert_eq!(seen(&[kind, 0]), None);
            assert_eq!(seen(&[9, kind]), None);
        }
        assert_eq!(seen(&[10, 9, 0]), Some(Chunks::COOKIE_ECHO.with(Chunks::ERROR).with(Chunks::DATA)));
        assert_eq!(seen(&[11, 3, 0]).map(|chunks| chunks.contains(Chunks::COOKIE_ACK)), Some(true));
        assert_eq!((seen(&[0, 10]), seen(&[3, 11])), (None, None));
    }

    #[test]
    fn chunks_that_lie_about_their_length_are_refused() {
        let mut packet = packet(&[(7, b"0123")]);
        assert_eq!(Chunks::parse(&packet), Some(Chunks::SHUTDOWN));
        assert_eq!(Chunks::parse(&packet[..12]), None);
        packet[15] = 3;
        assert_eq!(Chunks::parse(&packet), None);
        packet[15] = 9;
        assert_eq!(Chunks::parse(&packet), None);
        assert_eq!(Chunks::parse_first(&packet), Some(Chunks::SHUTDOWN));
    }

    #[test]
    fn the_last_chunk_may_lack_its_padding_and_what_is_no_chunk_does_not_count() {
        let mut packet = packet(&[(7, b"0123"), (9, b"5")]);
        packet.truncate(packet.len() - 3);
        assert_eq!(Chunks::parse(&packet), Some(Chunks::SHUTDOWN.with(Chunks::ERROR)));
        packet.extend([0, 0, 0, 14, 0, 0]);
        assert_eq!(Chunks::parse(&packet), Some(Chunks::SHUTDOWN.with(Chunks::ERROR)));
    }

    #[test]
    fn a_quoted_packet_cut_behind_its_header_gets_the_checksum_of_the_whole() {
        let whole = packet(&[(0, &[0x77; 1_000])]);
        let mut quote = whole[..12].to_vec();
        Header::writable(&mut quote).unwrap().translate(Port::new(1), Port::new(2), whole.len() as u16);
        assert!(is_right(&[&quote, &whole[12..]].concat()));
    }
}
