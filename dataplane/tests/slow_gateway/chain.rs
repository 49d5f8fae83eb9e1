//! IPv6 extension headers as a list (RFC 8200 §4).

use super::checksum::word;
use super::ip::IPV6;

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Headers, and octets of all of them, that are walked.
const MOST_HEADERS: usize = 8;
const MOST_OCTETS: usize = 1024;

/// One header and where it is in the packet.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u8,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug)]
pub struct Chain {
    pub headers: Vec<Header>,
    /// What follows the last.
    pub protocol: u8,
    /// Where that is.
    pub end: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Broken {
    TooLong,
    Wrong,
}

/// Reads the headers of a packet, of which there are at least the octets of an IPv6 header.
pub fn walk(packet: &[u8]) -> Result<Chain, Broken> {
    let mut chain = Chain { headers: vec![], protocol: packet[6], end: IPV6 };
    let kinds = [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS];
    while kinds.contains(&chain.protocol) && !chain.is_later_fragment(packet) {
        let (kind, start) = (chain.protocol, chain.end);
        let is_second = chain.headers.iter().any(|header| header.kind == kind);
        if chain.headers.len() == MOST_HEADERS {
            return Err(Broken::TooLong);
        }
        let is_misplaced = kind == HOP_BY_HOP && !chain.headers.is_empty();
        if is_misplaced || (kind == FRAGMENT && is_second) || packet.len() < start + 4 {
            return Err(Broken::Wrong);
        }
        let says = usize::from(packet[start + 1]);
        let end = start
            + match kind {
                FRAGMENT => 8,
                AUTHENTICATION => says * 4 + 8,
                _ => says * 8 + 8,
            };
        if packet.len() < end {
            return Err(Broken::Wrong);
        }
        if end - IPV6 > MOST_OCTETS {
            return Err(Broken::TooLong);
        }
        chain.headers.push(Header { kind, start, end });
        (chain.protocol, chain.end) = (packet[start], end);
    }
    Ok(chain)
}

impl Chain {
    fn is_later_fragment(&self, packet: &[u8]) -> bool {
        self.headers.iter().any(|header| header.kind == FRAGMENT && word(packet, header.start + 2) > 7)
    }

    pub fn is_of_first(&self, packet: &[u8]) -> bool {
        !self.is_later_fragment(packet)
    }

    pub fn has_segments_left(&self, packet: &[u8]) -> bool {
        self.headers.iter().any(|header| header.kind == ROUTING && packet[header.start + 3] > 0)
    }
}
