//! ICMP messages. Read RFC 792 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Difference;

/// Octets of the header.
pub const HEADER_BYTES: usize = 8;

/// Echo Reply Message.
pub const ECHO_REPLY: u8 = 0;
/// Destination Unreachable Message.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Source Quench Message; deprecated by RFC 6633.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect Message.
pub const REDIRECT: u8 = 5;
/// Echo Message.
pub const ECHO: u8 = 8;
/// Time Exceeded Message.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter Problem Message.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of [`DESTINATION_UNREACHABLE`]: no process listens at the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of [`DESTINATION_UNREACHABLE`]: fragmentation needed and DF set.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: time to live exceeded in transit.
pub const EXCEEDED_IN_TRANSIT: u8 = 0;

/// Says whether messages of a type are errors, which quote the packet that they are about.
///
/// Source: RFC 1122 §3.2.2, the list of ICMP error messages.
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
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

    /// Turns an Echo into its Echo Reply; identifier, sequence number and data stay (RFC 792).
    ///
    /// A difference cannot tell the two zeros of ones' complement apart. All ones is right for both: the reply to an Echo
    /// of zeros is all zeros, and only with that checksum sums to all ones (RFC 1071 §1).
    pub const fn answer_echo(&mut self) {
        let old = [self.kind, self.code];
        self.kind = ECHO_REPLY;
        let checksum = Difference::NONE.word(old, [self.kind, self.code]).apply(self.checksum);
        self.checksum = if u16::from_be_bytes(checksum) == 0 { [0xff, 0xff] } else { checksum };
    }

    /// Makes a message of that type and code; the checksum is left zero.
    #[must_use]
    pub const fn new(kind: u8, code: u8) -> Self {
        Self { kind, code, checksum: [0, 0], rest: [0; 4] }
    }

    /// Makes the message that asks for packets no longer than the next link's MTU; the checksum is left zero.
    ///
    /// Source: RFC 1191 §4, the next-hop MTU in the low-order 16 bits of the field that RFC 792 leaves unused.
    #[must_use]
    pub const fn fragmentation_needed(next_hop_mtu: u16) -> Self {
        let [high, low] = next_hop_mtu.to_be_bytes();
        Self { rest: [0, 0, high, low], ..Self::new(DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) }
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
