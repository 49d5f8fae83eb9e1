//! A rig with flows for ICMP errors to be about, and packets as errors quote them.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a test crate's module; not each test uses all")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use tidegate_dataplane::snapshot::Device;

use crate::path_rig::*;

pub const C: ([u8; 4], u16) = (CLIENT, 40_000);
pub const V: ([u8; 4], u16) = (VIP, 80);
pub const P: ([u8; 4], u16) = (POD, 8080);
/// A router between us and the other side.
pub const ROUTER: [u8; 4] = [192, 0, 2, 66];

pub fn quoted_udp(ends: Ends) -> Vec<u8> {
    ip_of(&udp(TO_POD, ends, 62, b"question"))
}

pub fn quoted_tcp(ends: Ends) -> Vec<u8> {
    ip_of(&tcp(TO_POD, ends, 62, "A", b"a segment of some length"))
}

/// Cuts a quote as it is to leave; its transport header begins at `transport`. The checksum of TCP covers what was cut
/// off, too, so it is right as it stands.
///
/// Of a checksum that is cut in two nothing can be known: that octet is to leave as it came.
pub fn cut(leaves_as: &[u8], came_as: &[u8], length: usize, transport: usize, is_tcp: bool) -> Vec<u8> {
    let mut quote = leaves_as[..length.min(leaves_as.len())].to_vec();
    if is_tcp && quote.len() == transport + 17 {
        *quote.last_mut().unwrap() = came_as[quote.len() - 1];
    }
    quote
}

/// A rig in which the client has sent to the Service and the pod has answered, by both protocols.
pub fn with_flows() -> Rig {
    let mut rig = Rig::new();
    rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
    rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"answer"));
    rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
    rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "SA", b""));
    rig
}

/// Asserts every counter, those of [`with_flows`] not counted.
#[track_caller]
pub fn assert_counted(rig: &Rig, more: &[(&'static str, u64)]) {
    let mut expected = vec![("rx_packets", 4), ("tx_packets", 4), ("forwarded", 4), ("flows_inserted", 2)];
    for (name, count) in more {
        match expected.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known += count,
            None => expected.push((name, *count)),
        }
    }
    rig.assert_counters(&expected);
}

/// How much of a packet in a frame our own errors quote.
pub fn quoted_octets(frame: &[u8]) -> usize {
    let longest = if is_ipv6() { 1280 } else { 576 };
    (frame.len() - 14).min(longest - ip_header_bytes() - 8)
}

/// The links become shorter: 1300 octets to the pods, 1320 to the client.
pub fn shorten_links(rig: &mut Rig) {
    let mtu = |device: &Device| if device.index == POD_SIDE { 1300 } else { 1320 };
    let shorter = rig.snapshot.devices.iter().map(|device| Device { mtu: mtu(device), ..device.clone() });
    rig.snapshot.devices = shorter.collect::<Vec<_>>().into();
}

/// Takes the addresses of all devices away.
pub fn forget_addresses(rig: &mut Rig) {
    let nameless =
        rig.snapshot.devices.iter().map(|device| Device { addresses: Arc::new([]), ..device.clone() });
    rig.snapshot.devices = nameless.collect::<Vec<_>>().into();
}

/// Four octets of options in an IPv4 packet, or eight of an extension header in an IPv6 packet.
pub fn with_options(packet: Vec<u8>) -> Vec<u8> {
    let header = ip_header_bytes();
    let mut long = packet[..header].to_vec();
    if is_ipv6() {
        long.extend([packet[6], 0, 1, 4, 0, 0, 0, 0]);
        long[6] = 60;
        long[5] += 8;
    } else {
        long.extend([1, 1, 1, 0]);
        long[0] = 0x46;
        long[3] += 4;
    }
    long.extend(&packet[header..]);
    fix_ip_checksum(&mut long);
    long
}

/// Says that a packet is a fragment of which others came before.
pub fn later_fragment(mut packet: Vec<u8>) -> Vec<u8> {
    if is_ipv6() {
        let header = [packet[6], 0, 0, 24, 0, 0, 0, 7];
        packet.splice(40..40, header);
        packet[6] = 44;
        packet[5] += 8;
    } else {
        packet[7] = 3;
        fix_ip_checksum(&mut packet);
    }
    packet
}

/// Cuts a frame's IP payload, and the length in its header with it.
pub fn cut_to(mut frame: Vec<u8>, payload: usize) -> Vec<u8> {
    frame.truncate(14 + ip_header_bytes() + payload);
    let (at, length) = if is_ipv6() { (18, frame.len() - 54) } else { (16, frame.len() - 14) };
    frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    fix_ip_checksum(&mut frame[14..]);
    frame
}

/// Recomputes the checksum of an IPv4 header in full, the slow way; IPv6 has none.
pub fn fix_ip_checksum(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let length = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = slow_sum(&packet[..length]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

pub fn slow_sum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What the checksum of an ICMP message in a frame of the builders covers; with a right checksum the sum is zero.
pub fn icmp_sum(frame: &[u8]) -> u16 {
    if !is_ipv6() {
        return slow_sum(&frame[34..]);
    }
    let length = ((frame.len() - 54) as u32).to_be_bytes();
    slow_sum(&[&frame[22..54], &length, &[0, 0, 0, 58], &frame[54..]].concat())
}
