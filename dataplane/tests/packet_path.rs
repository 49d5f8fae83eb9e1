//! Golden cases of the packet path. Expected packets are built by an independent encoder, checksums included.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

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

#[test]
fn a_segment_in_mid_stream_is_picked_up_and_one_that_opens_nothing_is_reset() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b"data"));
        assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, "A", b"data")));
        let (out, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, ((CLIENT, 40_001), V), 64, "SA", b""));
        assert_eq!(out, Out::Device(CLIENT_SIDE));
        assert_ne!(octets[transport() + 13] & 4, 0);
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 1),
            ("answered_reset", 1),
            ("flows_inserted", 1),
            ("flows_picked_up", 1),
        ]);
    });
}

#[test]
fn a_connection_whose_fin_is_the_first_segment_seen_is_picked_up_too() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "FA", b"last"));
        assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, "FA", b"last")));
        let sent = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "A", b""));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), tcp(TO_CLIENT, (V, C), 63, "A", b"")));
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("flows_picked_up", 1),
        ]);
    });
}

#[test]
fn a_client_port_in_use_to_two_services_with_one_backend_keeps_the_replies_apart() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let other = (OTHER_VIP, 80);
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"one"));
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, other), 64, b"two"));
        let changed = u16::from_be_bytes([octets[transport()], octets[transport() + 1]]);
        assert_ne!(changed, 40_000);
        assert_eq!(octets, udp(TO_POD, ((CLIENT, changed), P), 63, b"two"));
        let (_, first) = rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"re one"));
        assert_eq!(first, udp(TO_CLIENT, (V, C), 63, b"re one"));
        let (_, second) = rig.one(POD_SIDE, &udp(FROM_POD, (P, (CLIENT, changed)), 64, b"re two"));
        assert_eq!(second, udp(TO_CLIENT, (other, C), 63, b"re two"));
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 4),
            ("forwarded", 4),
            ("flows_inserted", 2),
            ("flows_port_changed", 1),
        ]);
    });
}

#[test]
fn a_syn_on_the_ports_of_a_closed_connection_asks_the_rules_again() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "RA", b""));
        rig.snapshot.services = rig.snapshot.services.with([(ip(VIP), Some(both(10, &[(POD, 9090)])))]);
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        assert_eq!(sent.1, tcp(TO_POD, (C, (POD, 9090)), 63, "S", b""));
        assert_eq!(rig.flows.len(), 1);
    });
}

#[test]
fn a_syn_in_time_wait_goes_to_the_backend_as_it_is_and_by_the_rules_of_the_moment() {
    over_both_families(|| {
        for moved in [false, true] {
            let mut rig = Rig::new();
            rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
            rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "SA", b""));
            for flags in ["A", "FA"] {
                rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, flags, b""));
            }
            rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "FA", b""));
            rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b""));
            if moved {
                rig.snapshot.services =
                    rig.snapshot.services.with([(ip(VIP), Some(both(10, &[(POD, 9090)])))]);
            }
            // The number is the old connection's first one again: the backend may refuse it, we do not.
            let backend = if moved { (POD, 9090) } else { P };
            let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
            assert_eq!(sent.1, tcp(TO_POD, (C, backend), 63, "S", b""));
            assert_eq!(rig.flows.len(), 1);
            assert_eq!(rig.path.counters.flows_inserted, 2);
            // What still comes of the old connection is for the client only if it is of the same flow.
            let (out, _) = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "FA", b""));
            assert_eq!(out, if moved { Out::Punt } else { Out::Device(CLIENT_SIDE) });
        }
    });
}

#[test]
fn what_belongs_to_no_flow_and_no_rule_goes_to_the_kernel_as_it_came() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let direct = udp(FROM_POD, (P, C), 64, b"a reply to a client that asked the pod itself");
        let sent = rig.one(POD_SIDE, &direct);
        assert_eq!(
            sent,
            (Out::Punt, udp(TO_KERNEL, (P, C), 64, b"a reply to a client that asked the pod itself"))
        );
        let arp = [&FROM_POD.1.0[..], &FROM_POD.0.0, &[8, 6], &[0; 28]].concat();
        let (out, octets) = rig.one(POD_SIDE, &arp);
        assert_eq!((out, &octets[12..]), (Out::Punt, &arp[12..]));
        rig.assert_counters(&[("rx_packets", 2), ("tx_packets", 2), ("punted", 2)]);
    });
}

#[test]
fn a_packet_for_a_local_endpoint_or_an_unserved_device_goes_to_the_kernel_already_rewritten() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for (to, backend) in [(LOCAL_VIP, [10, 1, 0, 1]), (ELSEWHERE_VIP, [172, 16, 0, 5])] {
            let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, (to, 80)), 64, b"x"));
            assert_eq!(sent, (Out::Punt, udp(TO_KERNEL, (C, (backend, 8080)), 63, b"x")));
        }
        rig.assert_counters(&[("rx_packets", 2), ("tx_packets", 2), ("punted", 2), ("flows_inserted", 2)]);
    });
}

#[test]
fn the_first_packet_to_an_unresolved_next_hop_waits_and_is_not_lost() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let quiet = (QUIET_VIP, 80);
        let packets: Vec<_> = (0..3).map(|n| udp(FROM_CLIENT, (C, quiet), 64, &[n])).collect();
        assert!(rig.carry(CLIENT_SIDE, &packets).is_empty());
        assert_eq!(rig.wire.wanted, [next_hop(POD_SIDE, QUIET_POD)]);
        rig.assert_counters(&[("rx_packets", 3), ("held", 3), ("flows_inserted", 1)]);
        assert!(rig.release().is_empty());

        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC)));
        rig.learn(&known);
        let left: Vec<_> = rig.release();
        let expected: Vec<_> =
            (0..3).map(|n| (Out::Device(POD_SIDE), udp(TO_POD, (C, (QUIET_POD, 8080)), 63, &[n]))).collect();
        assert_eq!(left, expected);
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("forwarded", 3), ("flows_inserted", 1)]);
    });
}

#[test]
fn packets_wait_for_a_next_hop_only_in_bounded_number_and_time() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let packets: Vec<_> = (0..40).map(|n| udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, &[n])).collect();
        assert!(rig.carry(CLIENT_SIDE, &packets).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 40),
            ("held", 32),
            ("drop_hold_full", 8),
            ("flows_inserted", 1),
        ]);
        rig.now = Now::from_seconds(104);
        assert!(rig.release().is_empty());
        rig.assert_counters(&[
            ("rx_packets", 40),
            ("drop_hold_full", 8),
            ("drop_hold_timeout", 32),
            ("flows_inserted", 1),
        ]);
    });
}

#[test]
fn a_next_hop_that_failed_ends_the_wait() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, b"x")]);
        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Failed));
        rig.learn(&known);
        assert!(rig.release().is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_neighbour_failed", 1), ("flows_inserted", 1)]);
    });
}

#[test]
fn a_next_hop_that_moves_is_followed_by_established_flows() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"1"));
        let moved = tidegate_dataplane::net::Mac([2, 0, 0, 0, 2, 99]);
        let mut known = neighbours();
        known[1].1 = NeighbourState::Reachable(moved);
        rig.learn(&known);
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"2"));
        assert_eq!(octets, udp((POD_SIDE_MAC, moved), (C, P), 63, b"2"));
    });
}

#[test]
fn each_packet_that_cannot_be_carried_is_a_named_drop() {
    over_both_families(|| {
        let protocol = |mut packet: Vec<u8>| {
            packet[if is_ipv6() { 20 } else { 23 }] = 50;
            if !is_ipv6() {
                fix_ip_checksum(&mut packet);
            }
            packet
        };
        for (name, packet, flows) in [
            ("drop_no_route", udp(FROM_CLIENT, (C, (UNROUTED_VIP, 80)), 64, b""), 0),
            ("drop_unsupported_protocol", protocol(udp(FROM_CLIENT, (C, V), 64, b"")), 0),
            ("drop_unsupported_icmp", ping(FROM_CLIENT, CLIENT, VIP, 64, true), 0),
        ] {
            let mut rig = Rig::new();
            assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
            rig.assert_counters(&[("rx_packets", 1), (name, 1)]);
            assert_eq!(rig.flows.len(), flows, "{name}");
        }
    });
}

#[test]
fn a_source_that_no_sender_can_have_is_a_named_drop() {
    let ipv4 = [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]];
    let ipv6 =
        ["::", "::1", "ff02::1", "::ffff:10.1.0.2"].map(|address| address.parse::<Ipv6Addr>().unwrap());
    let from_ipv4 = ipv4.map(|source| udp(FROM_CLIENT, ((source, 1), V), 64, b""));
    let from_ipv6 = ipv6.map(|source| {
        let link = PacketBuilder::ethernet2(CLIENT_MAC.0, CLIENT_SIDE_MAC.0);
        let mut packet = Vec::new();
        let builder = link.ipv6(source.octets(), path_rig::ipv6(VIP).octets(), 64).udp(1, 80);
        builder.write(&mut packet, b"").unwrap();
        packet
    });
    for packet in from_ipv4.into_iter().chain(from_ipv6) {
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_martian_source", 1)]);
    }
}

#[test]
fn a_full_transmit_ring_is_a_named_drop() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.wire.full = true;
        assert!(rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, V), 64, b"")]).is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_tx_ring_full", 1), ("flows_inserted", 1)]);
    });
}

#[test]
fn a_full_flow_table_is_a_named_drop_and_established_flows_go_on() {
    over_both_families(|| {
        let mut rig = Rig::with_flows(16);
        for port in 1..=16 {
            rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, ((CLIENT, port), V), 64, b"question"));
            rig.one(POD_SIDE, &udp(FROM_POD, (P, (CLIENT, port)), 64, b"answer"));
        }
        for port in 17..=64 {
            let refused = rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, ((CLIENT, port), V), 64, b"")]);
            assert!(refused.is_empty());
        }
        rig.assert_counters(&[
            ("rx_packets", 80),
            ("tx_packets", 32),
            ("forwarded", 32),
            ("flows_inserted", 16),
            ("drop_flow_table_full", 48),
        ]);
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, ((CLIENT, 1), V), 64, b"again"));
    });
}

#[test]
fn in_a_full_flow_table_a_flow_without_a_reply_gives_way_and_a_connection_stays() {
    over_both_families(|| {
        let mut rig = Rig::with_flows(4);
        for (from_client, flags) in [(true, "S"), (false, "SA"), (true, "A")] {
            let _ = if from_client {
                rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, flags, b""))
            } else {
                rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, flags, b""))
            };
        }
        for port in 1..=10 {
            rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, ((CLIENT, port), V), 64, "S", b""));
        }
        rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "A", b"still here"));
        rig.assert_counters(&[
            ("rx_packets", 14),
            ("tx_packets", 14),
            ("forwarded", 14),
            ("flows_inserted", 11),
            ("flows_evicted", 7),
        ]);
        // Who gave way was not reset: a reply to it is no packet of ours any more.
        let late = rig.one(POD_SIDE, &tcp(FROM_POD, (P, (CLIENT, 1)), 64, "SA", b""));
        assert_eq!(late.0, Out::Punt);
    });
}

#[test]
fn every_cut_of_a_packet_is_counted_and_none_is_forwarded() {
    over_both_families(|| {
        for packet in
            [tcp(FROM_CLIENT, (C, V), 64, "S", b"payload"), udp(FROM_CLIENT, (C, V), 64, b"payload")]
        {
            for length in 0..packet.len() {
                let mut rig = Rig::new();
                let left = rig.carry(CLIENT_SIDE, &[packet[..length].to_vec()]);
                let punted = u64::from(length < 14);
                assert_eq!(left.len() as u64, punted);
                let malformed = match (punted, is_ipv6()) {
                    (1, _) => "punted",
                    (_, true) => "drop_malformed_ipv6",
                    (_, false) => "drop_malformed_ipv4",
                };
                rig.assert_counters(
                    &[("rx_packets", 1), (malformed, 1), ("tx_packets", punted)][..2 + punted as usize],
                );
            }
        }
    });
}

#[test]
fn a_header_that_lies_about_its_lengths_is_a_named_drop() {
    let good = udp(FROM_CLIENT, (C, V), 64, b"payload");
    let lie = |place: usize, value: u8| {
        let mut packet = good.clone();
        packet[place] = value;
        packet
    };
    let segment = |offset: u8| {
        let mut packet = tcp(FROM_CLIENT, (C, V), 64, "S", b"");
        packet[46] = offset << 4;
        packet
    };
    for (name, packet) in [
        ("drop_malformed_ipv4", lie(14, 0x44)),
        ("drop_malformed_ipv4", lie(14, 0x4f)),
        ("drop_malformed_ipv4", lie(14, 0x65)),
        ("drop_malformed_ipv4", lie(17, 10)),
        ("drop_malformed_ipv4", lie(17, 255)),
        ("drop_malformed_transport", lie(39, 7)),
        ("drop_malformed_transport", lie(39, 200)),
        ("drop_malformed_transport", segment(4)),
        ("drop_malformed_transport", segment(15)),
    ] {
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
        rig.assert_counters(&[("rx_packets", 1), (name, 1)]);
    }
}

#[test]
fn a_packet_whose_header_checksum_is_wrong_opens_no_flow_and_gets_no_answer() {
    let wrong = |mut packet: Vec<u8>| {
        packet[25] ^= 1;
        packet
    };
    for packet in [
        udp(FROM_CLIENT, (C, V), 64, b"x"),
        tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "S", b""),
        ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        udp(FROM_POD, (P, C), 64, b"of no flow"),
    ] {
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &[wrong(packet)]).is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_malformed_ipv4", 1)]);
        assert!(rig.flows.is_empty());
    }
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
