//! Golden cases of SCTP over both families. The checksum is computed bit by bit, over the whole packet.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use std::sync::Arc;

use etherparse::{IpNumber, PacketBuilder, PacketHeaders};
use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursors, EndpointId, ServicePortId};
use tidegate_dataplane::masquerade::Mode;
use tidegate_dataplane::net::{Mac, Port, Protocol};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Terms, VirtualAddress};

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 5000);
const P: ([u8; 4], u16) = (POD, 5001);

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Computes CRC32c one bit after another. Source: RFC 9260 Appendix A.
fn crc32c(octets: &[u8]) -> [u8; 4] {
    let mut remainder = u32::MAX;
    for octet in octets {
        remainder ^= u32::from(*octet);
        for _ in 0..8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!remainder).to_le_bytes()
}

/// An SCTP packet with one chunk.
fn segment(ends: Ends, chunk: u8, value: &[u8]) -> Vec<u8> {
    let ((_, source_port), (_, destination_port)) = ends;
    let length = (4 + value.len() as u16).to_be_bytes();
    let mut segment = [
        &source_port.to_be_bytes()[..],
        &destination_port.to_be_bytes(),
        b"tag.",
        &[0; 4],
        &[chunk, 0],
        &length,
        value,
    ]
    .concat();
    segment.resize(segment.len().next_multiple_of(4), 0);
    let checksum = crc32c(&segment);
    segment[8..12].copy_from_slice(&checksum);
    segment
}

fn packet(macs: (Mac, Mac), ends: Ends, ttl: u8, segment: &[u8]) -> Vec<u8> {
    let ((source, _), (destination, _)) = ends;
    let link = PacketBuilder::ethernet2(macs.0.0, macs.1.0);
    let network = if is_ipv6() {
        link.ipv6(ipv6(source).octets(), ipv6(destination).octets(), ttl)
    } else {
        link.ipv4(source, destination, ttl)
    };
    let mut packet = Vec::new();
    network.write(&mut packet, IpNumber::SCTP, segment).unwrap();
    packet
}

fn sctp(macs: (Mac, Mac), ends: Ends, ttl: u8, chunk: u8, value: &[u8]) -> Vec<u8> {
    packet(macs, ends, ttl, &segment(ends, chunk, value))
}

fn service(backends: &[([u8; 4], u16)]) -> VirtualAddress {
    let members = backends.iter().map(|(address, port)| Backend {
        address: ip(*address),
        port: Port::new(*port),
        id: EndpointId(u64::from(*port)),
    });
    VirtualAddress::new(vec![ServicePort {
        protocol: Protocol::Sctp,
        port: Port::new(5000),
        id: ServicePortId(7),
        backends: Arc::new(Backends::new(members.collect())),
        terms: Terms::default(),
    }])
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.snapshot.services =
        rig.snapshot.services.with([(ip(VIP), Some(service(&[P]))), (ip(EMPTY_VIP), Some(service(&[])))]);
    rig
}

/// Takes one packet of the client through, then one of the backend, and so on, and looks at each octet by octet.
fn converse(rig: &mut Rig, chunks: &[(bool, u8)]) {
    for (from_client, chunk) in chunks {
        if *from_client {
            let sent = rig.one(CLIENT_SIDE, &sctp(FROM_CLIENT, (C, V), 64, *chunk, b"some value"));
            assert_eq!(sent, (Out::Device(POD_SIDE), sctp(TO_POD, (C, P), 63, *chunk, b"some value")));
        } else {
            let sent = rig.one(POD_SIDE, &sctp(FROM_POD, (P, C), 64, *chunk, b"a longer value"));
            assert_eq!(
                sent,
                (Out::Device(CLIENT_SIDE), sctp(TO_CLIENT, (V, C), 63, *chunk, b"a longer value"))
            );
        }
    }
}

const OPENING: [(bool, u8); 4] = [(true, INIT), (false, INIT_ACK), (true, COOKIE_ECHO), (false, COOKIE_ACK)];
const ENDING: [(bool, u8); 3] = [(true, SHUTDOWN), (false, SHUTDOWN_ACK), (true, SHUTDOWN_COMPLETE)];

/// Returns how many flows are left after so many seconds of silence.
fn left_after(rig: &Rig, seconds: u32) -> usize {
    let now = Now::from_ns(rig.now.ns() + u64::from(seconds) * 1_000_000_000);
    rig.flows.expire(&mut Cursors::part(0, 1), now, rig.flows.capacity());
    rig.flows.len()
}

#[test]
fn an_association_goes_both_ways_through_its_whole_life_with_right_checksums() {
    over_both_families(|| {
        let mut rig = rig();
        converse(&mut rig, &OPENING);
        converse(&mut rig, &[(true, DATA), (false, DATA), (true, DATA)]);
        converse(&mut rig, &ENDING);
        rig.assert_counters(&[
            ("rx_packets", 10),
            ("tx_packets", 10),
            ("forwarded", 10),
            ("flows_inserted", 1),
        ]);
    });
}

#[test]
fn an_association_is_forgotten_by_the_timeouts_of_its_states() {
    over_both_families(|| {
        for (chunks, seconds) in [(&OPENING[..1], 10), (&OPENING[..2], 3), (&OPENING, 210)] {
            let mut rig = rig();
            converse(&mut rig, chunks);
            assert_eq!(left_after(&rig, seconds - 1), 1, "{chunks:?}");
            assert_eq!(left_after(&rig, seconds + 1), 0, "{chunks:?}");
        }
        let mut ended = rig();
        converse(&mut ended, &OPENING);
        converse(&mut ended, &[(false, ABORT)]);
        assert_eq!(left_after(&ended, 11), 0);
    });
}

#[test]
fn k19_an_association_with_a_service_without_endpoints_is_refused_with_port_unreachable() {
    over_both_families(|| {
        let mut rig = rig();
        let ends = (C, (EMPTY_VIP, 5000));
        let asked = sctp(FROM_CLIENT, ends, 64, INIT, b"");
        let left = rig.one(CLIENT_SIDE, &asked);
        let expected = icmp_error(TO_CLIENT, EMPTY_VIP, CLIENT, 64, port_unreachable(), &ip_of(&asked));
        assert_eq!(left, (Out::Device(CLIENT_SIDE), expected));
        for chunk in [ABORT, SHUTDOWN_COMPLETE] {
            assert!(rig.carry(CLIENT_SIDE, &[sctp(FROM_CLIENT, ends, 64, chunk, b"")]).is_empty());
        }
        rig.assert_counters(&[
            ("rx_packets", 3),
            ("tx_packets", 1),
            ("answered_port_unreachable", 1),
            ("drop_stray_reset", 2),
        ]);
    });
}

#[test]
fn a_packet_in_the_middle_of_an_association_that_nobody_knows_is_refused() {
    over_both_families(|| {
        let mut rig = rig();
        rig.one(CLIENT_SIDE, &sctp(FROM_CLIENT, (C, V), 64, DATA, b"lost"));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("answered_port_unreachable", 1)]);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    over_both_families(|| {
        let mut rig = rig();
        let damaged = |ends| {
            let mut segment = segment(ends, INIT, b"");
            segment[8] ^= 0x55;
            segment
        };
        let sent = rig.one(CLIENT_SIDE, &packet(FROM_CLIENT, (C, V), 64, &damaged((C, V))));
        assert_eq!(sent, (Out::Device(POD_SIDE), packet(TO_POD, (C, P), 63, &damaged((C, P)))));
    });
}

#[test]
fn a_masqueraded_association_has_right_checksums_both_ways() {
    over_both_families(|| {
        let mut rig = rig();
        rig.snapshot.masquerade.mode = Mode::Always;
        let (_, octets) = rig.one(CLIENT_SIDE, &sctp(FROM_CLIENT, (C, V), 64, INIT, b"x"));
        let at = 14 + ip_header_bytes();
        let own = (POD_SIDE_GATEWAY, u16::from_be_bytes([octets[at], octets[at + 1]]));
        assert_eq!(octets, sctp(TO_POD, (own, P), 63, INIT, b"x"));
        let (_, octets) = rig.one(POD_SIDE, &sctp(FROM_POD, (P, own), 64, INIT_ACK, b"y"));
        assert_eq!(octets, sctp(TO_CLIENT, (V, C), 63, INIT_ACK, b"y"));
    });
}

#[test]
fn an_error_about_an_association_quotes_what_its_sender_sent() {
    over_both_families(|| {
        let mut rig = rig();
        converse(&mut rig, &OPENING);
        let quote = |ends| ip_of(&sctp(TO_POD, ends, 62, DATA, b"too long for the next link"));
        for length in [8, 12, 40] {
            let cut = |ends| quote(ends)[..ip_header_bytes() + length].to_vec();
            let sent = icmp_error(FROM_POD, POD, CLIENT, 64, too_big(1280), &cut((C, P)));
            let expected = cut((C, V));
            let (_, left) = rig.one(POD_SIDE, &sent);
            assert_eq!(left, icmp_error(TO_CLIENT, VIP, CLIENT, 63, too_big(1280), &expected), "{length}");
        }
    });
}

#[test]
fn octets_behind_a_quoted_packet_are_not_taken_for_its_checksum() {
    over_both_families(|| {
        let mut rig = rig();
        converse(&mut rig, &OPENING);
        // The quoted packet says that it ends behind its verification tag; the rest belongs to the error (RFC 4884).
        let short = |ends| {
            let mut frame = sctp(TO_POD, ends, 62, DATA, b"cut");
            let header = 14 + ip_header_bytes();
            frame[header + 8..].fill(0xee);
            let (at, length) = if is_ipv6() { (18, 8_u16) } else { (16, 28) };
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            if !is_ipv6() {
                let right = PacketHeaders::from_ethernet_slice(&frame[..header + 8]).unwrap();
                let checksum = right.net.unwrap().ipv4_ref().unwrap().0.calc_header_checksum();
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            ip_of(&frame)
        };
        let sent = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &short((C, P)));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &short((C, V)));
        assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
    });
}

/// The two fragments of a segment, of which the first has 24 octets.
fn fragments(macs: (Mac, Mac), ends: Ends, ttl: u8) -> Vec<Vec<u8>> {
    let segment = segment(ends, INIT, &[7; 40]);
    let (first, later) = segment.split_at(24);
    let fragment = |data: &[u8], offset: u16, more: bool| {
        if is_ipv6() {
            let header =
                [&[132, 0][..], &(offset | u16::from(more)).to_be_bytes(), &[0, 0, 0, 9], data].concat();
            let mut packet = packet(macs, ends, ttl, &header);
            packet[20] = 44;
            return packet;
        }
        let mut packet = packet(macs, ends, ttl, data);
        packet[18..20].copy_from_slice(&[0, 9]);
        packet[20..22].copy_from_slice(&((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        packet[24..26].fill(0);
        let sum = packet[14..34]
            .chunks(2)
            .fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        packet
    };
    vec![fragment(first, 0, true), fragment(later, 24, false)]
}

#[test]
fn a_fragmented_packet_passes_if_its_ports_stay_and_is_a_named_drop_if_they_change() {
    over_both_families(|| {
        let mut changed = rig();
        assert!(changed.carry(CLIENT_SIDE, &fragments(FROM_CLIENT, (C, V), 64)).is_empty());
        changed.assert_counters(&[
            ("rx_packets", 2),
            ("flows_inserted", 1),
            ("drop_sctp_fragment", 1),
            ("drop_fragment_refused", 1),
        ]);

        let mut kept = rig();
        let same = (POD, 5000);
        kept.snapshot.services = kept.snapshot.services.with([(ip(VIP), Some(service(&[same])))]);
        let left = kept.carry(CLIENT_SIDE, &fragments(FROM_CLIENT, (C, V), 64));
        let expected = fragments(TO_POD, (C, same), 63).into_iter();
        assert_eq!(left, expected.map(|packet| (Out::Device(POD_SIDE), packet)).collect::<Vec<_>>());
    });
}

#[test]
fn a_packet_whose_chunks_lie_is_malformed() {
    over_both_families(|| {
        for lie in [0, 3, 200] {
            let mut rig = rig();
            let mut lying = segment((C, V), INIT, b"");
            lying[15] = lie;
            assert!(rig.carry(CLIENT_SIDE, &[packet(FROM_CLIENT, (C, V), 64, &lying)]).is_empty());
            rig.assert_counters(&[("rx_packets", 1), ("drop_malformed_transport", 1)]);
        }
    });
}

#[test]
fn a_packet_in_several_frames_has_a_right_checksum_behind_a_port_change() {
    over_both_families(|| {
        let mut rig = rig();
        let mut devices = rig.snapshot.devices.to_vec();
        devices.iter_mut().for_each(|device| device.mtu = 9000);
        rig.snapshot.devices = devices.into();
        converse(&mut rig, &[(true, INIT), (false, INIT_ACK), (true, COOKIE_ECHO), (false, COOKIE_ACK)]);
        let value: Vec<u8> = (0..8_801).map(|at| (at * 7 + at / 251) as u8).collect();
        let (_, left) = rig.one(CLIENT_SIDE, &sctp(FROM_CLIENT, (C, V), 64, DATA, &value));
        assert!(left == sctp(TO_POD, (C, P), 63, DATA, &value));
        let (_, left) = rig.one(POD_SIDE, &sctp(FROM_POD, (P, C), 64, DATA, &value));
        assert!(left == sctp(TO_CLIENT, (V, C), 63, DATA, &value));
    });
}
