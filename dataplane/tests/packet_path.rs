//! Golden cases of the packet path. Expected packets are built by an independent encoder, checksums included.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "packet_path/answers.rs"]
mod answers;
#[path = "packet_path/connections.rs"]
mod connections;
#[path = "packet_path/drops.rs"]
mod drops;
mod path_rig;
#[path = "packet_path/ways_out.rs"]
mod ways_out;

use std::net::Ipv6Addr;

use etherparse::PacketBuilder;
use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::services::VirtualAddress;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

#[test]
fn a_datagram_to_a_service_goes_to_its_backend_and_the_reply_comes_back_from_the_service() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        assert_eq!(sent, (Out::Device(POD_SIDE), udp(TO_POD, (C, P), 63, b"question")));
        let sent = rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"answer"));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), udp(TO_CLIENT, (V, C), 63, b"answer")));
        rig.assert_counters(&[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2), ("flows_inserted", 1)]);
    });
}

#[test]
fn a_connection_goes_both_ways_through_its_whole_life() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for (from_client, flags, payload) in [
            (true, "S", &b""[..]),
            (false, "SA", b""),
            (true, "A", b""),
            (true, "A", b"GET /"),
            (false, "A", b"200 OK"),
            (false, "FA", b""),
            (true, "FA", b""),
            (false, "A", b""),
        ] {
            if from_client {
                let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, flags, payload));
                assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, flags, payload)));
            } else {
                let sent = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, flags, payload));
                assert_eq!(sent, (Out::Device(CLIENT_SIDE), tcp(TO_CLIENT, (V, C), 63, flags, payload)));
            }
        }
        rig.assert_counters(&[("rx_packets", 8), ("tx_packets", 8), ("forwarded", 8), ("flows_inserted", 1)]);
    });
}

#[test]
fn an_established_flow_stays_on_its_backend_when_the_service_changes() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        rig.snapshot.services =
            rig.snapshot.services.with([(ip(VIP), Some(both(10, &[([10, 244, 0, 12], 9090)])))]);
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b"more"));
        assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, "A", b"more")));
    });
}

#[test]
fn a_zero_udp_checksum_stays_zero() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let without = |mut packet: Vec<u8>| {
            packet[transport() + 6..][..2].fill(0);
            packet
        };
        let sent = rig.one(CLIENT_SIDE, &without(udp(FROM_CLIENT, (C, V), 64, b"x")));
        assert_eq!(sent, (Out::Device(POD_SIDE), without(udp(TO_POD, (C, P), 63, b"x"))));
    });
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_sent_as_all_ones() {
    over_both_families(|| {
        let payloads = (0..=u16::MAX).map(u16::to_be_bytes);
        let packets = payloads.map(|octets| (octets, udp(TO_POD, (C, P), 63, &octets)));
        let (payload, expected) =
            packets.into_iter().find(|(_, packet)| packet[transport() + 6..][..2] == [0xff, 0xff]).unwrap();
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, &payload));
        assert_eq!(sent, (Out::Device(POD_SIDE), expected));
    });
}

#[test]
fn padding_of_the_link_is_carried_along_and_not_looked_at() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let padded = |mut packet: Vec<u8>| {
            packet.resize(packet.len() + 7, 0xee);
            packet
        };
        let sent = rig.one(CLIENT_SIDE, &padded(udp(FROM_CLIENT, (C, V), 64, b"x")));
        assert_eq!(sent, (Out::Device(POD_SIDE), padded(udp(TO_POD, (C, P), 63, b"x"))));
    });
}

#[test]
fn padding_of_the_link_does_not_make_a_packet_too_long_for_its_link() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let most = vec![9; 1500 - ip_header_bytes() - 8];
        let padded = |mut packet: Vec<u8>| {
            packet.resize(packet.len() + 7, 0xee);
            packet
        };
        let sent = rig.one(CLIENT_SIDE, &padded(udp(FROM_CLIENT, (C, V), 64, &most)));
        assert_eq!(sent, (Out::Device(POD_SIDE), padded(udp(TO_POD, (C, P), 63, &most))));
    });
}

#[test]
fn ipv4_options_are_walked() {
    let mut rig = Rig::new();
    let with_options = |packet: Vec<u8>| {
        let mut long = packet[..34].to_vec();
        long.extend([1, 1, 1, 0]);
        long.extend(&packet[34..]);
        long[14] = 0x46;
        let total = u16::from_be_bytes([long[16], long[17]]) + 4;
        long[16..18].copy_from_slice(&total.to_be_bytes());
        fix_ip_checksum(&mut long);
        long
    };
    let sent = rig.one(CLIENT_SIDE, &with_options(udp(FROM_CLIENT, (C, V), 64, b"x")));
    assert_eq!(sent, (Out::Device(POD_SIDE), with_options(udp(TO_POD, (C, P), 63, b"x"))));
}

/// Recomputes the header checksum in full, the slow way.
fn fix_ip_checksum(packet: &mut [u8]) {
    let length = usize::from(packet[14] & 15) * 4;
    packet[24..26].fill(0);
    let sum = slow_sum(&packet[14..14 + length]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn slow_sum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A sum over octets with their own right checksum is zero.
#[track_caller]
fn assert_checksums(frame: &[u8]) {
    let mut covered = Vec::new();
    let length = ((frame.len() - transport()) as u32).to_be_bytes();
    if is_ipv6() {
        covered.extend(&frame[22..54]);
        covered.extend([&[0, frame[20]][..], &length].concat());
    } else {
        assert_eq!(slow_sum(&frame[14..34]), 0, "IPv4");
        if frame[23] != 1 {
            covered.extend(&frame[26..34]);
            covered.extend([&[0, frame[23]][..], &length].concat());
        }
    }
    covered.extend(&frame[transport()..]);
    assert_eq!(slow_sum(&covered), 0, "transport");
}

/// Where the transport header starts in a frame of the builders.
fn transport() -> usize {
    14 + ip_header_bytes()
}
