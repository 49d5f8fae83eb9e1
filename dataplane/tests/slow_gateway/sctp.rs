//! SCTP packets: which chunks they have, their checksum in full, and the kernel's table of states, spelled out.

use super::checksum::word;
use super::flow::State::{self, *};

/// Octets of the common header.
pub const HEADER: usize = 12;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Types of chunks, a bit each; types from 15 on are one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chunks(u16);

impl Chunks {
    fn has(self, kind: u8) -> bool {
        self.0 >> kind.min(15) & 1 == 1
    }

    /// Reads the first sixteen; `None` if one lies about its length, or is where RFC 9260 does not allow it.
    pub fn read(packet: &[u8], more_follows: bool) -> Option<Self> {
        let mut kinds: Vec<u8> = vec![];
        let mut at = HEADER;
        while at + 4 <= packet.len() && kinds.len() < 16 {
            let length = usize::from(word(packet, at + 2));
            if length < 4 || (at + length > packet.len() && !more_follows) {
                return None;
            }
            kinds.push(packet[at]);
            at += length.div_ceil(4) * 4;
        }
        let is_alone = |kind: &u8| [INIT, INIT_ACK, SHUTDOWN_COMPLETE].contains(kind);
        let is_first = |kind: &u8| [COOKIE_ECHO, COOKIE_ACK].contains(kind);
        let others = kinds.get(1..)?;
        if (kinds.len() > 1 && kinds.iter().any(is_alone)) || others.iter().any(is_first) {
            return None;
        }
        Some(Self(kinds.iter().fold(0, |bits, kind| bits | 1 << (*kind).min(15))))
    }

    /// Says that nobody waits for an answer (RFC 9260 §8.4).
    pub fn are_an_end(self) -> bool {
        self.has(ABORT) || self.has(SHUTDOWN_COMPLETE)
    }

    pub fn is_init(self) -> bool {
        self.has(INIT)
    }
}

/// The states in the columns of the tables below.
const COLUMNS: [(&str, State); 8] = [
    ("CL", SctpClosed),
    ("CW", SctpCookieWait),
    ("CE", SctpCookieEchoed),
    ("ES", SctpEstablished),
    ("SS", SctpShutdownSent),
    ("SR", SctpShutdownRecd),
    ("SA", SctpShutdownAckSent),
    ("HS", SctpHeartbeatSent),
];

/// `net/netfilter/nf_conntrack_proto_sctp.c`, `sctp_conntracks`: by the type of the chunk, for the client and for the
/// backend; what is invalid there is a dot here. In the order in which chunks stand in a packet (RFC 9260 §6.10).
const TABLE: [(u8, &str, &str); 10] = [
    (INIT, "CL CW CE ES CL CL SA CW", "CL CW CE ES SS SR SA ."),
    (INIT_ACK, "CL CW CE ES SS SR SA CL", "CW CW CE ES SS SR SA ."),
    (COOKIE_ECHO, "CL CE CE ES SS SR SA CL", "CL CE CE ES SS SR SA ."),
    (COOKIE_ACK, "CL CW ES ES SS SR SA CL", "CL CW ES ES SS SR SA ."),
    (5, "CL CW CE ES SS SR SA HS", "CL CW CE ES SS SR SA ES"),
    (9, "CL CW CE ES SS SR SA CL", "CL CW CL ES SS SR SA ."),
    (7, "CL CW CE SS SS SR SA CL", "CL CW CE SR SS SR SA ."),
    (SHUTDOWN_ACK, "CL CW CE ES SA SA SA SA", "CL CW CE ES SA SA SA ."),
    (SHUTDOWN_COMPLETE, "CL CW CE ES SS SR CL CL", "CL CW CE ES SS SR CL ."),
    (ABORT, "CL CL CL CL CL CL CL CL", "CL CL CL CL CL CL CL ."),
];

impl State {
    /// The state that a packet of the client opens an association in: at its start, or at another of its paths.
    pub fn of_first_sctp(chunks: Chunks) -> Option<Self> {
        match () {
            () if chunks.has(ABORT) => None,
            () if chunks.has(INIT) => Some(SctpClosed),
            () if chunks.has(HEARTBEAT) => Some(SctpHeartbeatSent),
            () if chunks.has(SHUTDOWN_ACK) => Some(SctpShutdownAckSent),
            () => None,
        }
    }

    pub fn after_sctp(self, chunks: Chunks, is_reply: bool) -> Self {
        let mut state = self;
        for (kind, request, reply) in TABLE {
            if chunks.has(kind) {
                let cells = if is_reply { reply } else { request };
                let column = COLUMNS.iter().position(|(_, known)| *known == state).unwrap();
                let cell = cells.split_whitespace().nth(column).unwrap();
                state = COLUMNS.iter().find(|(name, _)| *name == cell).map_or(state, |(_, next)| *next);
            }
        }
        state
    }
}

/// CRC32c bit by bit (RFC 9260 Appendix A).
pub fn crc(octets: impl IntoIterator<Item = u8>) -> u32 {
    let mut remainder = !0_u32;
    for octet in octets {
        remainder ^= u32::from(octet);
        for _ in 0..8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !remainder
}

/// What stands in the place of the checksum.
pub fn stated(packet: &[u8]) -> u32 {
    u32::from_le_bytes(packet[8..HEADER].try_into().unwrap())
}

/// What is to stand there.
pub fn right(packet: &[u8]) -> u32 {
    crc([&packet[..8], &[0; 4], &packet[HEADER..]].concat())
}

pub fn state_checksum(packet: &mut [u8], checksum: u32) {
    packet[8..HEADER].copy_from_slice(&checksum.to_le_bytes());
}
