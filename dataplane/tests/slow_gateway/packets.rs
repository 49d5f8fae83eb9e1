//! Makes packets, with their checksums computed in full.

use super::checksum::{missing, set_word, sum};
use super::datagram::{Datagram, Five, covered, icmp_of};
use super::{ip, sctp};

/// A segment to be made: what the headers do not have from elsewhere.
#[derive(Clone, Debug)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub window: u16,
    pub payload: Vec<u8>,
}

fn packet(stations: [u8; 12], ends: Five, ttl: u8, payload: &[u8]) -> Vec<u8> {
    ip::packet(stations, (ends.source, ends.destination), ttl, ends.protocol, payload)
}

/// Makes a frame with a TCP segment. `stations` is the receiver's MAC, then the sender's.
pub fn tcp(stations: [u8; 12], ends: Five, ttl: u8, segment: &Segment) -> Vec<u8> {
    let mut header = [0; 20];
    set_word(&mut header, 0, ends.source_port);
    set_word(&mut header, 2, ends.destination_port);
    header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, segment.flags]);
    set_word(&mut header, 14, segment.window);
    with_checksum(&packet(stations, ends, ttl, &[&header[..], &segment.payload].concat()))
}

/// Makes a frame with a UDP datagram.
pub fn udp(stations: [u8; 12], ends: Five, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 8];
    set_word(&mut header, 0, ends.source_port);
    set_word(&mut header, 2, ends.destination_port);
    set_word(&mut header, 4, 8 + payload.len() as u16);
    with_checksum(&packet(stations, ends, ttl, &[&header[..], payload].concat()))
}

/// Makes a frame with an SCTP packet of these chunks; `wrong_by` is added to its checksum.
pub fn sctp(stations: [u8; 12], ends: Five, ttl: u8, chunks: &[(u8, Vec<u8>)], wrong_by: u32) -> Vec<u8> {
    let mut payload = vec![0; sctp::HEADER];
    set_word(&mut payload, 0, ends.source_port);
    set_word(&mut payload, 2, ends.destination_port);
    payload[4..8].copy_from_slice(b"vtag");
    for (kind, value) in chunks {
        payload.extend([*kind, 0]);
        payload.extend((4 + value.len() as u16).to_be_bytes());
        payload.extend(value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    let checksum = sctp::right(&payload) ^ wrong_by;
    sctp::state_checksum(&mut payload, checksum);
    packet(stations, ends, ttl, &payload)
}

/// Makes a frame with an ICMP message; the ports of `ends` do not count.
pub fn icmp(stations: [u8; 12], ends: Five, ttl: u8, mut message: Vec<u8>) -> Vec<u8> {
    let protocol = icmp_of(ends.source.is_ipv6());
    set_word(&mut message, 2, 0);
    let checksum = missing(0, sum(&covered(ends.source, ends.destination, protocol, &message)));
    set_word(&mut message, 2, checksum);
    packet(stations, Five { protocol, ..ends }, ttl, &message)
}

fn with_checksum(octets: &[u8]) -> Vec<u8> {
    let mut datagram = Datagram::read(octets).unwrap();
    datagram.mend_transport(0);
    datagram.octets
}
