//! Golden cases of fragments: what leaves, joined again, is the datagram as it would have left whole.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fragment_rig;
mod path_rig;

use fragment_rig::*;
use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::fragments::WAITING_PER_SOURCE;
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::Mac;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

/// A datagram that differs from place to place.
fn long(macs: (Mac, Mac), ends: Ends, ttl: u8, bytes: usize, identification: u16) -> Vec<u8> {
    let payload: Vec<u8> =
        (0..bytes).map(|at| (at * 7 + at / 251 + usize::from(identification)) as u8).collect();
    fragmentable(udp(macs, ends, ttl, &payload), identification)
}

fn question(bytes: usize, identification: u16) -> Vec<u8> {
    long(FROM_CLIENT, (C, V), 64, bytes, identification)
}

fn forwarded_question(bytes: usize, identification: u16) -> Vec<u8> {
    long(TO_POD, (C, P), 63, bytes, identification)
}

/// What left, of which all must have left by one way.
fn octets(left: Vec<(Out, Vec<u8>)>, way: Out) -> Vec<Vec<u8>> {
    left.into_iter()
        .map(|(out, octets)| {
            assert_eq!(out, way);
            octets
        })
        .collect()
}

/// Lets time pass.
fn wait(rig: &mut Rig, seconds: u32) -> Vec<(Out, Vec<u8>)> {
    rig.now = Now::from_ns(rig.now.ns() + u64::from(seconds) * 1_000_000_000);
    rig.path.expire_fragments(&rig.snapshot, rig.now, &mut rig.wire);
    rig.carry(CLIENT_SIDE, &[])
}

#[test]
fn a_long_datagram_and_its_long_reply_pass_in_the_pieces_they_came_in() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let left = rig.carry(CLIENT_SIDE, &cut(&question(20_000, 7)));
        assert_eq!(octets(left, Out::Device(POD_SIDE)), cut(&forwarded_question(20_000, 7)));
        let left = rig.carry(POD_SIDE, &cut(&long(FROM_POD, (P, C), 64, 20_000, 7)));
        assert_eq!(octets(left, Out::Device(CLIENT_SIDE)), cut(&long(TO_CLIENT, (V, C), 63, 20_000, 7)));
        rig.assert_counters(&[
            ("rx_packets", 28),
            ("tx_packets", 28),
            ("forwarded", 28),
            ("flows_inserted", 1),
        ]);
    });
}

#[test]
fn fragments_before_the_first_wait_for_it_and_leave_in_order_after_it() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&question(4000, 7));
        assert!(rig.carry(CLIENT_SIDE, &[pieces[2].clone(), pieces[1].clone()]).is_empty());
        rig.assert_counters(&[("rx_packets", 2), ("held", 2)]);
        assert_eq!(rig.path.counters.frames_held, 2);
        let left = octets(rig.carry(CLIENT_SIDE, &pieces[..1]), Out::Device(POD_SIDE));
        let expected = cut(&forwarded_question(4000, 7));
        assert_eq!(left, [&expected[0], &expected[2], &expected[1]].map(Clone::clone));
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("forwarded", 3), ("flows_inserted", 1)]);
    });
}

#[test]
fn a_changed_client_port_holds_for_the_whole_datagram() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, (OTHER_VIP, 80)), 64, b"the port is in use"));
        let left = join(&octets(rig.carry(CLIENT_SIDE, &cut(&question(3000, 7))), Out::Device(POD_SIDE)));
        let at = ETHERNET + header_bytes(&left[0]);
        let changed = u16::from_be_bytes([left[0][at], left[0][at + 1]]);
        assert_ne!(changed, 40_000);
        assert_eq!(left, [long(TO_POD, ((CLIENT, changed), P), 63, 3000, 7)]);
    });
}

#[test]
fn a_segment_in_fragments_belongs_to_its_connection() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        let segment = |macs, ends, ttl| fragmentable(tcp(macs, ends, ttl, "A", &[9; 2000]), 7);
        let left = rig.carry(CLIENT_SIDE, &cut(&segment(FROM_CLIENT, (C, V), 64)));
        assert_eq!(octets(left, Out::Device(POD_SIDE)), cut(&segment(TO_POD, (C, P), 63)));
    });
}

#[test]
fn a_long_ping_of_a_virtual_address_is_answered() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let long_ping = |macs, from, to, ttl, reply: bool| {
            let mut packet = ping(macs, from, to, ttl, reply);
            packet.extend([0; 2984]);
            let (at, bytes) = if is_ipv6() { (18, packet.len() - 54) } else { (16, packet.len() - ETHERNET) };
            packet[at..at + 2].copy_from_slice(&(bytes as u16).to_be_bytes());
            fragmentable(packet, 9)
        };
        let pieces = cut(&long_ping(FROM_CLIENT, CLIENT, VIP, 64, false));
        let shuffled = [&pieces[1], &pieces[0], &pieces[2]].map(Clone::clone);
        let left = octets(rig.carry(CLIENT_SIDE, &shuffled), Out::Device(CLIENT_SIDE));
        assert_eq!(join(&left), [long_ping(TO_CLIENT, VIP, CLIENT, 64, true)]);
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("answered_echo", 3)]);
    });
}

#[test]
fn a_datagram_without_endpoints_is_refused_once() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&long(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, 5000, 7));
        let shuffled = [&pieces[1], &pieces[0], &pieces[2], &pieces[3]].map(Clone::clone);
        let left = rig.carry(CLIENT_SIDE, &shuffled);
        assert_eq!(left.len(), 1);
        let (Says(kind, code, _), at) = (port_unreachable(), ETHERNET + ip_header_bytes());
        assert_eq!(left[0].1[at..at + 2], [kind, code]);
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 1),
            ("answered_port_unreachable", 1),
            ("drop_fragment_refused", 3),
        ]);
    });
}

#[test]
fn a_datagram_of_no_flow_and_no_rule_goes_to_the_kernel_as_it_came_also_what_waited() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&long(FROM_POD, (P, C), 64, 4000, 7));
        assert!(rig.carry(POD_SIDE, &pieces[1..2]).is_empty());
        let left = rig.carry(POD_SIDE, &[pieces[0].clone(), pieces[2].clone()]);
        assert_eq!(join(&octets(left, Out::Punt)), [long(TO_KERNEL, (P, C), 64, 4000, 7)]);
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("punted", 3)]);
    });
}

#[test]
fn a_datagram_for_a_local_endpoint_goes_to_the_kernel_rewritten() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let left = rig.carry(CLIENT_SIDE, &cut(&long(FROM_CLIENT, (C, (LOCAL_VIP, 80)), 64, 4000, 7)));
        let expected = long(TO_KERNEL, (C, ([10, 1, 0, 1], 8080)), 63, 4000, 7);
        assert_eq!(octets(left, Out::Punt), cut(&expected));
    });
}

#[test]
fn a_datagram_to_an_unresolved_next_hop_waits_as_a_whole() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&long(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, 4000, 7));
        assert!(rig.carry(CLIENT_SIDE, &[pieces[1].clone(), pieces[0].clone()]).is_empty());
        rig.assert_counters(&[("rx_packets", 2), ("held", 2), ("flows_inserted", 1)]);
        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC)));
        rig.learn(&known);
        let mut left = rig.release();
        left.extend(rig.carry(CLIENT_SIDE, &pieces[2..]));
        let expected = long(TO_POD, (C, (QUIET_POD, 8080)), 63, 4000, 7);
        assert_eq!(join(&octets(left, Out::Device(POD_SIDE))), [expected]);
    });
}

#[test]
fn the_identification_may_be_used_again_once_a_datagram_is_whole() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for is_reversed in [false, true, false, false, true] {
            let mut pieces = cut(&question(2000, 7));
            if is_reversed {
                pieces.reverse();
            }
            let left = rig.carry(CLIENT_SIDE, &pieces);
            assert_eq!(octets(left, Out::Device(POD_SIDE)), cut(&forwarded_question(2000, 7)));
        }
        rig.assert_counters(&[
            ("rx_packets", 10),
            ("tx_packets", 10),
            ("forwarded", 10),
            ("flows_inserted", 1),
        ]);
    });
}

#[test]
fn an_overlap_ends_its_datagram_and_what_waits_of_it() {
    over_both_families(|| {
        let whole = question(4000, 7);
        for early in [false, true] {
            let mut rig = Rig::new();
            if !early {
                rig.one(CLIENT_SIDE, &piece(&whole, 0, 1440));
            }
            let behind = [piece(&whole, 1440, 2880), piece(&whole, 2872, 3968), piece(&whole, 2880, 4008)];
            let left = rig.carry(CLIENT_SIDE, &behind).len() as u64;
            assert_eq!(left, u64::from(!early));
            if early {
                assert!(rig.carry(CLIENT_SIDE, &[piece(&whole, 0, 1440)]).is_empty());
            }
            let dropped = ("drop_fragment_overlap", 3 - left + u64::from(early));
            let sent = left + u64::from(!early);
            rig.assert_counters(
                &[
                    ("rx_packets", 4),
                    dropped,
                    ("tx_packets", sent),
                    ("forwarded", sent),
                    ("flows_inserted", 1),
                ][..if early { 2 } else { 5 }],
            );
        }
    });
}

#[test]
fn two_ends_of_one_datagram_end_it() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let whole = question(4000, 7);
        let pieces = [
            piece(&whole, 0, 1440),
            raw_piece(&whole, 2960, &[1; 100], false),
            raw_piece(&whole, 3200, &[2; 100], false),
            piece(&whole, 1440, 2880),
        ];
        assert_eq!(rig.carry(CLIENT_SIDE, &pieces).len(), 2);
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 2),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("drop_fragment_contradiction", 2),
        ]);
    });
}

#[test]
fn a_duplicate_is_dropped_and_the_datagram_goes_on() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&question(4000, 7));
        let sent = [1, 1, 0, 0, 1, 2].map(|at: usize| pieces[at].clone());
        let left = octets(rig.carry(CLIENT_SIDE, &sent), Out::Device(POD_SIDE));
        assert_eq!(left.len(), 3);
        assert_eq!(join(&left), [forwarded_question(4000, 7)]);
        rig.assert_counters(&[
            ("rx_packets", 6),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("flows_inserted", 1),
            ("drop_fragment_duplicate", 3),
        ]);
    });
}

#[test]
fn fragments_that_lie_are_named_drops_and_leave_nothing_behind() {
    over_both_families(|| {
        let whole = question(4000, 7);
        // IPv6 counts without its own header.
        let beyond = if is_ipv6() { 65_528 } else { 65_512 };
        let segment = fragmentable(tcp(FROM_CLIENT, (C, V), 64, "S", &[0; 200]), 8);
        let mut with_options = segment.clone();
        let data_offset = ETHERNET + header_bytes(&segment) + 12;
        with_options[data_offset] = 0xf0;
        for (name, lie) in [
            ("drop_malformed_fragment", raw_piece(&whole, 0, &[], true)),
            ("drop_malformed_fragment", raw_piece(&whole, 1480, &[], false)),
            ("drop_malformed_fragment", raw_piece(&whole, 1480, &[0; 12], true)),
            ("drop_malformed_fragment", raw_piece(&whole, beyond, &[0; 16], false)),
            ("drop_malformed_fragment", raw_piece(&whole, beyond, &[0; 8], true)),
            ("drop_tiny_fragment", piece(&segment, 0, 8)),
            ("drop_tiny_fragment", piece(&segment, 0, 16)),
            ("drop_tiny_fragment", piece(&with_options, 0, 56)),
        ] {
            let mut rig = Rig::new();
            assert!(rig.carry(CLIENT_SIDE, &[lie]).is_empty(), "{name}");
            rig.assert_counters(&[("rx_packets", 1), (name, 1)]);
        }
    });
}

#[test]
fn each_fragment_has_a_ttl_and_a_source_of_its_own_to_answer_for() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let mut pieces = cut(&question(4000, 7));
        let ttl = ttl_at(&pieces[1]);
        pieces[1][ttl] = 1;
        fix_ip_checksum(&mut pieces[1]);
        let left = rig.carry(CLIENT_SIDE, &pieces);
        // RFC 1122 §3.2.2 forbids errors about later fragments, RFC 4443 §2.4 does not.
        let told = usize::from(is_ipv6());
        assert_eq!(left.iter().filter(|(out, _)| *out == Out::Device(CLIENT_SIDE)).count(), told);
        assert_eq!(left.len(), 2 + told);
        let mut martian = cut(&long(FROM_CLIENT, (([127, 0, 0, 1], 1), V), 64, 4000, 7));
        if is_ipv6() {
            let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
            martian.iter_mut().for_each(|piece| piece[22..38].copy_from_slice(&loopback));
        }
        assert!(rig.carry(CLIENT_SIDE, &martian).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 6),
            ("tx_packets", 2 + told as u64),
            ("forwarded", 2),
            ("flows_inserted", 1),
            (if is_ipv6() { "answered_time_exceeded" } else { "drop_ttl_exceeded" }, 1),
            ("drop_martian_source", 3),
        ]);
    });
}

#[test]
fn a_wait_in_vain_ends_after_thirty_seconds() {
    over_both_families(|| {
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 7))[1..]).is_empty());
        assert!(wait(&mut rig, 29).is_empty());
        rig.assert_counters(&[("rx_packets", 2), ("held", 2)]);
        assert!(wait(&mut rig, 1).is_empty());
        rig.assert_counters(&[("rx_packets", 2), ("drop_fragment_timeout", 2)]);
        assert_eq!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 7))).len(), 3);
    });
}

#[test]
fn a_decision_is_remembered_for_five_seconds() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let pieces = cut(&question(5500, 7));
        assert_eq!(rig.carry(CLIENT_SIDE, &pieces[..1]).len(), 1);
        wait(&mut rig, 4);
        assert_eq!(rig.carry(CLIENT_SIDE, &pieces[1..2]).len(), 1);
        wait(&mut rig, 1);
        assert!(rig.carry(CLIENT_SIDE, &pieces[2..3]).is_empty());
        assert_eq!(rig.path.counters.held, 1);
    });
}

#[test]
fn one_source_has_a_bounded_number_of_waiting_fragments() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let flood = |identification| piece(&question(4000, identification), 1440, 2880);
        let floods: Vec<_> = (0..100).map(flood).collect();
        assert!(rig.carry(CLIENT_SIDE, &floods).is_empty());
        let most = WAITING_PER_SOURCE as u64;
        rig.assert_counters(&[
            ("rx_packets", 100),
            ("held", most),
            ("drop_fragment_source_full", 100 - most),
        ]);
        assert_eq!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 1000))).len(), 3);
        wait(&mut rig, 30);
        assert_eq!(rig.path.counters.held, 0);
        rig.carry(CLIENT_SIDE, &floods[..2]);
        assert_eq!(rig.path.counters.held, 2);
    });
}

#[test]
fn a_flood_from_many_sources_makes_the_oldest_give_way_and_fragments_in_order_pass() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let room = 512 / 4;
        for number in 0..1000u16 {
            let source = ([10, (number >> 8) as u8, number as u8, 9], 1);
            let flood = piece(&long(FROM_CLIENT, (source, V), 64, 4000, number), 1440, 2880);
            assert!(rig.carry(CLIENT_SIDE, &[flood]).is_empty());
            assert!(rig.path.held_frames() <= room);
        }
        rig.assert_counters(&[("rx_packets", 1000), ("held", room as u64), ("drop_fragment_evicted", 872)]);
        assert_eq!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 7))).len(), 3);
        let pieces = cut(&question(4000, 8));
        let shuffled = [&pieces[1], &pieces[2], &pieces[0]].map(Clone::clone);
        assert_eq!(rig.carry(CLIENT_SIDE, &shuffled).len(), 3);
    });
}

#[test]
fn a_flood_of_first_fragments_makes_the_oldest_decision_give_way() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for number in 0..5000u16 {
            assert_eq!(rig.carry(CLIENT_SIDE, &cut(&question(4000, number))[..1]).len(), 1);
        }
        assert_eq!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 4999))[1..]).len(), 2);
        assert!(rig.carry(CLIENT_SIDE, &cut(&question(4000, 0))[1..2]).is_empty());
        assert_eq!(rig.path.counters.held, 1);
    });
}

#[test]
fn over_ipv4_a_fragment_that_starts_in_the_tcp_header_is_a_named_drop() {
    let segment = fragmentable(tcp(FROM_CLIENT, (C, V), 64, "S", &[0; 200]), 8);
    for start in [8, 16] {
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &[piece(&segment, start, 200)]).is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_tiny_fragment", 1)]);
    }
}
