//! The shortest packets of each kind, as they come from the wire: 60 octets, checksums right.

use tidegate_dataplane::flows::Key;
use tidegate_dataplane::net::checksum::{Sum, pseudo_header};
use tidegate_dataplane::net::{Protocol, tcp};

/// Octets of each packet: the least that Ethernet has, its checksum not counted.
pub const PACKET_BYTES: usize = 60;

const LINK_BYTES: usize = 14;
const IP_HEADER_BYTES: usize = 20;
const TRANSPORT_AT: usize = LINK_BYTES + IP_HEADER_BYTES;
/// Octets behind the IPv4 header of UDP and ICMP; a TCP segment without data is shorter, and the rest padding.
const PAYLOAD_BYTES: usize = PACKET_BYTES - TRANSPORT_AT;

type Packet = [u8; PACKET_BYTES];

/// Makes a UDP datagram.
#[must_use]
pub fn udp(key: &Key) -> Packet {
    let mut transport = [0; PAYLOAD_BYTES];
    put(&mut transport, 0, key.source_port().0);
    put(&mut transport, 2, key.destination_port().0);
    put(&mut transport, 4, (PAYLOAD_BYTES as u16).to_be_bytes());
    let sum = checksum(key, &transport);
    put(&mut transport, 6, sum);
    ipv4(key, Protocol::Udp.number(), &transport)
}

/// Makes a TCP segment without data.
#[must_use]
pub fn tcp(key: &Key, flags: tcp::Flags) -> Packet {
    let mut transport = [0; tcp::HEADER_BYTES];
    put(&mut transport, 0, key.source_port().0);
    put(&mut transport, 2, key.destination_port().0);
    put(&mut transport, 12, [5 << 4, flags.0]);
    put(&mut transport, 14, [0xff, 0xff]);
    let sum = checksum(key, &transport);
    put(&mut transport, 16, sum);
    ipv4(key, Protocol::Tcp.number(), &transport)
}

/// Makes an ICMP Echo between the two addresses of a key.
#[must_use]
pub fn echo(key: &Key) -> Packet {
    let mut message = [0x5a; PAYLOAD_BYTES];
    put(&mut message, 0, [8, 0]);
    put(&mut message, 2, [0, 0]);
    let sum = Sum::default().octets(&message).checksum();
    put(&mut message, 2, sum);
    ipv4(key, 1, &message)
}

fn checksum(key: &Key, transport: &[u8]) -> [u8; 2] {
    pseudo_header(key.source(), key.destination(), key.protocol.number(), transport.len() as u16)
        .octets(transport)
        .checksum()
}

fn ipv4(key: &Key, protocol: u8, payload: &[u8]) -> Packet {
    let mut packet = [0; PACKET_BYTES];
    packet[..LINK_BYTES].copy_from_slice(&[2, 1, 0, 0, 0, 1, 2, 9, 9, 9, 9, 9, 8, 0]);
    let header = &mut packet[LINK_BYTES..TRANSPORT_AT];
    header[0] = 0x45;
    put(header, 2, ((IP_HEADER_BYTES + payload.len()) as u16).to_be_bytes());
    put(header, 8, [64, protocol]);
    header[12..16].copy_from_slice(&key.source().octets());
    header[16..20].copy_from_slice(&key.destination().octets());
    let sum = Sum::default().octets(header).checksum();
    put(header, 10, sum);
    packet[TRANSPORT_AT..TRANSPORT_AT + payload.len()].copy_from_slice(payload);
    packet
}

fn put(octets: &mut [u8], at: usize, word: [u8; 2]) {
    octets[at..at + 2].copy_from_slice(&word);
}
