//! What is answered in a Service's or its address' place: pings, refusals, resets.

use super::*;

#[test]
fn a_virtual_address_answers_ping() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &ping(FROM_CLIENT, CLIENT, VIP, 9, false));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), ping(TO_CLIENT, VIP, CLIENT, 64, true)));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("answered_echo", 1)]);
    });
}

#[test]
fn an_echo_of_zeros_is_answered_with_a_checksum_that_is_right() {
    let mut rig = Rig::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC.0, CLIENT_SIDE_MAC.0).ipv4(CLIENT, VIP, 64);
    let mut zeros = Vec::new();
    builder.icmpv4_echo_request(0, 0).write(&mut zeros, &[0; 8]).unwrap();
    let (_, octets) = rig.one(CLIENT_SIDE, &zeros);
    assert_eq!(octets[34..], [&[0, 0, 0xff, 0xff][..], &[0; 12]].concat());
    assert_checksums(&octets);
}

#[test]
fn octets_sent_are_those_of_the_answer_and_not_of_the_question() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let asked = tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "S", &[0; 1000]);
        let (_, answer) = rig.one(CLIENT_SIDE, &asked);
        assert_eq!(rig.path.counters.rx_bytes, asked.len() as u64);
        assert_eq!(rig.path.counters.tx_bytes, answer.len() as u64);
    });
}

#[test]
fn k19_a_service_without_endpoints_refuses_tcp_at_once() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let to = (EMPTY_VIP, 80);
        let (out, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, to), 64, "S", b""));
        assert_eq!(out, Out::Device(CLIENT_SIDE));
        let answer = etherparse::PacketHeaders::from_ethernet_slice(&octets).unwrap();
        let segment = answer.transport.clone().unwrap().tcp().unwrap();
        assert!(segment.rst && segment.ack && !segment.syn);
        assert_eq!((segment.sequence_number, segment.acknowledgment_number), (0, 1001));
        assert_eq!((segment.source_port, segment.destination_port), (80, 40_000));
        assert_checksums(&octets);
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("answered_reset", 1)]);
    });
}

#[test]
fn a_segment_with_ack_is_reset_with_the_number_it_acknowledges() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let (_, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "FA", b"data"));
        let answer = etherparse::PacketHeaders::from_ethernet_slice(&octets).unwrap();
        let segment = answer.transport.unwrap().tcp().unwrap();
        assert!(segment.rst && !segment.ack);
        assert_eq!(segment.sequence_number, 2000);
        assert_checksums(&octets);
    });
}

#[test]
fn k19_a_service_without_endpoints_refuses_udp_with_port_unreachable_that_quotes_the_packet() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for payload in [&b""[..], b"hello?", &[7; 1400]] {
            let asked = udp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, payload);
            let (out, octets) = rig.one(CLIENT_SIDE, &asked);
            assert_eq!(out, Out::Device(CLIENT_SIDE));
            let Says(kind, code, _) = port_unreachable();
            assert_eq!(octets[transport()..][..2], [kind, code]);
            let longest = if is_ipv6() { 1280 } else { 576 };
            let quoted = (asked.len() - 14).min(longest - ip_header_bytes() - 8);
            assert_eq!(octets.len(), transport() + 8 + quoted);
            assert_eq!(octets[transport() + 8..], asked[14..14 + quoted]);
            assert_checksums(&octets);
        }
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("answered_port_unreachable", 3)]);
    });
}

#[test]
fn k23_an_undefined_port_of_a_known_address_is_refused_and_an_unallocated_address_dropped() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, (VIP, 81)), 64, b"x"));
        let Says(kind, code, _) = port_unreachable();
        assert_eq!(octets[transport()..][..2], [kind, code]);
        let dropped = [
            udp(FROM_CLIENT, (C, (UNALLOCATED, 80)), 64, b"x"),
            ping(FROM_CLIENT, CLIENT, UNALLOCATED, 64, false),
        ];
        assert!(rig.carry(CLIENT_SIDE, &dropped).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 3),
            ("tx_packets", 1),
            ("answered_port_unreachable", 1),
            ("drop_unallocated_address", 2),
        ]);
    });
}

#[test]
fn a_removed_address_refuses_every_port_and_answers_no_ping_while_its_flows_go_on() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"before"));
        rig.snapshot.services = rig.snapshot.services.with([(ip(VIP), Some(VirtualAddress::removed()))]);
        let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"after"));
        assert_eq!(sent.0, Out::Device(POD_SIDE));
        let other = (CLIENT, 40_001);
        for port in [80, 81] {
            let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (other, (VIP, port)), 64, b"x"));
            let Says(kind, code, _) = port_unreachable();
            assert_eq!(octets[transport()..][..2], [kind, code]);
            let reset = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (other, (VIP, port)), 64, "S", b""));
            assert_eq!(reset.1[transport() + 13], 0x14, "RST and ACK");
        }
        assert!(rig.carry(CLIENT_SIDE, &[ping(FROM_CLIENT, CLIENT, VIP, 64, false)]).is_empty());
        rig.snapshot.services = rig.snapshot.services.with([(ip(VIP), None)]);
        let late = udp(FROM_CLIENT, (other, V), 64, b"x");
        assert!(rig.carry(CLIENT_SIDE, &[late]).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 8),
            ("tx_packets", 6),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("answered_port_unreachable", 2),
            ("answered_reset", 2),
            ("drop_unallocated_address", 2),
        ]);
    });
}

#[test]
fn a_reset_is_never_answered_by_a_reset() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for flags in ["R", "RA"] {
            for to in [(VIP, 80), (VIP, 81), (EMPTY_VIP, 80)] {
                assert!(rig.carry(CLIENT_SIDE, &[tcp(FROM_CLIENT, (C, to), 64, flags, b"")]).is_empty());
            }
        }
        rig.assert_counters(&[("rx_packets", 6), ("drop_stray_reset", 6)]);
    });
}
