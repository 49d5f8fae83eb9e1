//! ICMP messages. Read RFC 792 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Difference;

/// Octets of the header.
pub const HEADER_BYTES: usize = 8;

/// Echo Reply Message.
pub const ECHO_REPLY: u8 = 0;
/// Destination Unreachable Message.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Echo Message.
pub const ECHO: u8 = 8;

/// Code of [`DESTINATION_UNREACHABLE`]: no process listens at the port.
pub const PORT_UNREACHABLE: u8 = 3;

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

    /// Sets the checksum.
    pub const fn set_checksum(&mut self, checksum: [u8; 2]) {
        self.checksum = checksum;
    }
}
