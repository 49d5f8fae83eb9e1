//! `ICMPv6` messages. Read RFC 4443 first.
//!
//! Unlike ICMP's, the checksum covers a pseudo-header ([`super::checksum::pseudo_header`]), so a change of addresses
//! changes it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Difference;

/// Octets of the header.
pub const HEADER_BYTES: usize = 8;

/// Destination Unreachable Message.
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// Packet Too Big Message.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time Exceeded Message.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter Problem Message.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo Request Message.
pub const ECHO_REQUEST: u8 = 128;
/// Echo Reply Message.
pub const ECHO_REPLY: u8 = 129;

/// Code of [`DESTINATION_UNREACHABLE`]: port unreachable.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: hop limit exceeded in transit.
pub const EXCEEDED_IN_TRANSIT: u8 = 0;

/// Says whether messages of a type are errors, which quote the packet that they are about.
///
/// Source: RFC 4443 §2.1, "error messages are identified as such by a zero in the high-order bit of their message Type
/// field values".
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    kind & 0x80 == 0
}

/// The first eight octets of each message.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    /// What the message says.
    pub kind: u8,
    /// Its variant.
    pub code: u8,
    checksum: [u8; 2],
    rest: [u8; 4],
}

impl Header {
    /// Returns the view over a message's first octets.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(message).ok().map(|(header, _)| header)
    }

    /// Returns the writable view over a message's first octets.
    #[must_use]
    pub fn writable(message: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(message).ok().map(|(header, _)| header)
    }

    /// Turns an Echo Request into its Echo Reply; identifier, sequence number and data stay (RFC 4443 §4.2).
    ///
    /// The addresses are exchanged with it, which leaves their sum as it was.
    pub const fn answer_echo(&mut self) {
        let old = [self.kind, self.code];
        self.kind = ECHO_REPLY;
        self.amend(Difference::NONE.word(old, [self.kind, self.code]));
    }

    /// Makes a message of that type and code; the checksum is left zero.
    #[must_use]
    pub const fn new(kind: u8, code: u8) -> Self {
        Self { kind, code, checksum: [0, 0], rest: [0; 4] }
    }

    /// Makes the message that asks for packets no longer than the next link's MTU; the checksum is left zero.
    ///
    /// Source: RFC 4443 §3.2.
    #[must_use]
    pub const fn packet_too_big(next_hop_mtu: u32) -> Self {
        Self { rest: next_hop_mtu.to_be_bytes(), ..Self::new(PACKET_TOO_BIG, 0) }
    }

    /// Repairs the checksum after a change of what it covers.
    pub const fn amend(&mut self, difference: Difference) {
        self.checksum = difference.apply(self.checksum);
    }

    /// Sets the checksum.
    pub const fn set_checksum(&mut self, checksum: [u8; 2]) {
        self.checksum = checksum;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::super::{Address, checksum};
    use super::*;
    use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
    use etherparse::{IcmpEchoHeader, Icmpv6Header, Icmpv6Type};
    use proptest::prelude::*;

    const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const DESTINATION: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    fn by_etherparse(kind: Icmpv6Type, source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) -> Vec<u8> {
        let header = Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), data).unwrap();
        [&header.to_bytes(), data].concat()
    }

    fn ours(mut header: Header, data: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + data.len()) as u16;
        let sum = checksum::pseudo_header(SOURCE, DESTINATION, 58, length);
        header.set_checksum(sum.octets(header.as_bytes()).octets(data).checksum());
        [header.as_bytes(), data].concat()
    }

    #[test]
    fn errors_of_ours_are_what_etherparse_would_write() {
        let quote: Vec<u8> = (0..101).collect();
        let cases = [
            (Header::packet_too_big(70_000), Icmpv6Type::PacketTooBig { mtu: 70_000 }),
            (
                Header::new(DESTINATION_UNREACHABLE, PORT_UNREACHABLE),
                Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
            ),
            (
                Header::new(TIME_EXCEEDED, EXCEEDED_IN_TRANSIT),
                Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
            ),
        ];
        for (header, kind) in cases {
            assert_eq!(ours(header, &quote), by_etherparse(kind, SOURCE, DESTINATION, &quote));
            assert!(is_error(header.kind));
        }
        assert!(is_error(PARAMETER_PROBLEM) && !is_error(ECHO_REQUEST) && !is_error(ECHO_REPLY));
    }

    proptest! {
        #[test]
        fn an_echo_reply_has_the_checksum_of_a_fresh_one(
            id in any::<u16>(), seq in any::<u16>(), data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let echo = IcmpEchoHeader { id, seq };
            let mut message = by_etherparse(Icmpv6Type::EchoRequest(echo), SOURCE, DESTINATION, &data);
            Header::writable(&mut message).unwrap().answer_echo();
            prop_assert_eq!(message, by_etherparse(Icmpv6Type::EchoReply(echo), DESTINATION, SOURCE, &data));
        }

        #[test]
        fn a_message_to_other_addresses_has_the_checksum_of_a_fresh_one(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
            let kind = Icmpv6Type::PacketTooBig { mtu: 1400 };
            let mut message = by_etherparse(kind, SOURCE, DESTINATION, &data);
            let difference = SOURCE.replaced(source, DESTINATION.replaced(destination, Difference::NONE));
            Header::writable(&mut message).unwrap().amend(difference);
            prop_assert_eq!(message, by_etherparse(kind, source, destination, &data));
        }
    }

    #[test]
    fn a_view_exists_only_over_eight_octets() {
        assert!(Header::parse(&[128, 0, 0, 0, 0, 0, 0]).is_none());
        let octets = [128, 7, 1, 2, 3, 4, 5, 6, 7];
        let header = Header::parse(&octets).unwrap();
        assert_eq!((header.kind, header.code, header.as_bytes()), (ECHO_REQUEST, 7, &octets[..8]));
    }
}
