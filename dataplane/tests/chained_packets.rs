//! Golden cases of packets in several frames: what becomes of a packet does not depend on how many it lies in.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fragment_rig;
mod path_rig;

use fragment_rig::*;
use path_rig::*;
use proptest::prelude::*;
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::Mac;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xsk::Frame;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

/// Sets the MTU of the client's and of the pod's link.
fn links(rig: &mut Rig, client_side: usize, pod_side: usize) {
    let mut devices = rig.snapshot.devices.to_vec();
    for device in &mut devices {
        device.mtu = if device.index == POD_SIDE { pod_side } else { client_side };
    }
    rig.snapshot.devices = devices.into();
}

fn jumbo() -> Rig {
    let mut rig = Rig::new();
    links(&mut rig, 9000, 9000);
    rig
}

/// Octets that differ from place to place.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn long(macs: (Mac, Mac), ends: Ends, ttl: u8, bytes: usize) -> Vec<u8> {
    udp(macs, ends, ttl, &payload(bytes))
}

/// Puts a packet into frames, of which the first ends at one place and others at further ones.
fn chain(rig: &mut Rig, packet: &[u8], cuts: &[usize]) -> Frame {
    let ends = cuts.iter().copied().chain([packet.len()]);
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let parts = starts.zip(ends).map(|(start, end)| &packet[start..end]);
    rig.path.memory.write_parts(parts, &mut rig.path.pool).unwrap()
}

fn carry_chain(rig: &mut Rig, device: DeviceIndex, packet: &[u8], cuts: &[usize]) -> Vec<(Out, Vec<u8>)> {
    let mut burst = vec![chain(rig, packet, cuts)];
    rig.path.carry(device, &mut burst, &rig.snapshot, rig.now, &mut rig.wire);
    rig.collect()
}

#[test]
fn a_datagram_and_a_segment_of_three_frames_are_translated_both_ways() {
    over_both_families(|| {
        let mut rig = jumbo();
        let bytes = 8_900;
        assert_eq!(rig.burst(&[long(FROM_CLIENT, (C, V), 64, bytes)])[0].frames(), 3);
        let mut rig = jumbo();
        let (out, left) = rig.one(CLIENT_SIDE, &long(FROM_CLIENT, (C, V), 64, bytes));
        assert!((out, left) == (Out::Device(POD_SIDE), long(TO_POD, (C, P), 63, bytes)));
        let (out, left) = rig.one(POD_SIDE, &long(FROM_POD, (P, C), 64, bytes));
        assert!((out, left) == (Out::Device(CLIENT_SIDE), long(TO_CLIENT, (V, C), 63, bytes)));
        rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "SA", b""));
        let segment = payload(8_960 - ip_header_bytes());
        let (_, left) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", &segment));
        assert!(left == tcp(TO_POD, (C, P), 63, "A", &segment));
        let (_, left) = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "A", &segment));
        assert!(left == tcp(TO_CLIENT, (V, C), 63, "A", &segment));
        rig.assert_counters(&[("rx_packets", 6), ("tx_packets", 6), ("forwarded", 6), ("flows_inserted", 2)]);
        assert_eq!((rig.path.counters.rx_bytes, rig.path.counters.tx_bytes), {
            let of_udp = 2 * long(FROM_CLIENT, (C, V), 64, bytes).len() as u64;
            let of_tcp = 2 * tcp(FROM_CLIENT, (C, V), 64, "A", &segment).len() as u64;
            let all = of_udp + of_tcp + 2 * tcp(FROM_CLIENT, (C, V), 64, "S", b"").len() as u64;
            (all, all)
        });
    });
}

#[test]
fn a_long_echo_is_answered_with_all_its_octets() {
    over_both_families(|| {
        let mut rig = jumbo();
        let data = payload(8_900);
        let (out, left) = rig.one(CLIENT_SIDE, &ping_of(&data, FROM_CLIENT, CLIENT, VIP, 64, false));
        assert_eq!(out, Out::Device(CLIENT_SIDE));
        assert!(left == ping_of(&data, TO_CLIENT, VIP, CLIENT, 64, true));
    });
}

#[test]
fn answers_that_quote_or_refuse_take_one_frame_and_the_others_are_free() {
    over_both_families(|| {
        let mut rig = jumbo();
        let expected = |says, asked: &[u8], own| {
            let longest = if is_ipv6() { 1280 } else { 576 } - ip_header_bytes() - 8;
            icmp_error(TO_CLIENT, own, CLIENT, 64, says, &asked[14..14 + longest])
        };
        let asked = long(FROM_CLIENT, (C, V), 1, 8_900);
        assert!(rig.one(CLIENT_SIDE, &asked).1 == expected(time_exceeded(), &asked, GATEWAY));
        let asked = long(FROM_CLIENT, (C, (VIP, 81)), 64, 8_900);
        assert!(rig.one(CLIENT_SIDE, &asked).1 == expected(port_unreachable(), &asked, VIP));
        links(&mut rig, 9000, 1500);
        let asked = long(FROM_CLIENT, (C, V), 64, 8_900);
        assert!(rig.one(CLIENT_SIDE, &asked).1 == expected(too_big(1500), &asked, GATEWAY));
        let (_, reset) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "S", &payload(8_000)));
        let at = 14 + ip_header_bytes();
        assert_eq!(reset.len(), at + 20);
        assert_eq!(reset[at + 8..at + 12], (1000_u32 + 8_000 + 1).to_be_bytes(), "all of it is acknowledged");
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 4),
            ("answered_time_exceeded", 1),
            ("answered_port_unreachable", 1),
            ("answered_fragmentation_needed", 1),
            ("answered_reset", 1),
        ]);
    });
}

#[test]
fn what_is_not_ours_goes_to_the_kernel_whole() {
    over_both_families(|| {
        let mut rig = jumbo();
        let asked = long(FROM_CLIENT, (C, ([203, 0, 113, 9], 80)), 64, 8_900);
        let (out, left) = rig.one(CLIENT_SIDE, &asked);
        assert!(out == Out::Punt && left == long(TO_KERNEL, (C, ([203, 0, 113, 9], 80)), 64, 8_900));
    });
}

#[test]
fn a_packet_of_several_frames_is_held_whole_and_its_frames_are_counted() {
    over_both_families(|| {
        let mut rig = jumbo();
        let held = long(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, 8_900);
        assert!(rig.carry(CLIENT_SIDE, &[held]).is_empty());
        assert_eq!((rig.path.counters.held, rig.path.held_frames()), (1, 3));
        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC)));
        rig.learn(&known);
        let left = rig.release();
        assert_eq!((left.len(), rig.path.held_frames()), (1, 0));
        assert!(left[0].1 == long(TO_POD, (C, (QUIET_POD, 8080)), 63, 8_900));
    });
}

#[test]
fn a_long_datagram_without_df_leaves_in_pieces_as_long_as_the_link_takes() {
    for mtu in [68, 576, 1500, 3_839, 4_500, 8_900] {
        let mut rig = Rig::new();
        links(&mut rig, 9000, mtu);
        let asked = fragmentable(long(FROM_CLIENT, (C, V), 64, 8_900), 7);
        let left: Vec<_> = rig.carry(CLIENT_SIDE, &[asked]).into_iter().map(|(_, octets)| octets).collect();
        assert!(left.iter().all(|piece| piece.len() <= ETHERNET + mtu), "{mtu}");
        assert!(join(&left) == [fragmentable(long(TO_POD, (C, P), 63, 8_900), 7)], "{mtu}");
        let pieces = 8_908_usize.div_ceil((mtu - 20) / 8 * 8);
        assert_eq!(left.len(), pieces);
        rig.assert_counters(&[
            ("rx_packets", 1),
            ("tx_packets", pieces as u64),
            ("forwarded", 1),
            ("originated", pieces as u64 - 1),
            ("flows_inserted", 1),
        ]);
    }
}

#[test]
fn without_frames_for_all_pieces_of_a_long_datagram_none_leaves() {
    let mut rig = Rig::new();
    links(&mut rig, 9000, 1500);
    let mut kept: Vec<_> = (0..512 - 6).filter_map(|_| rig.path.pool.pop()).collect();
    rig.path.counters.frames_total -= kept.len() as u64;
    let asked = fragmentable(long(FROM_CLIENT, (C, V), 64, 8_900), 7);
    assert!(rig.carry(CLIENT_SIDE, &[asked]).is_empty());
    rig.assert_counters(&[("rx_packets", 1), ("drop_no_frame", 1), ("flows_inserted", 1)]);
    assert_eq!(rig.path.pool.len(), 6);
    kept.drain(..).for_each(|frame| rig.path.pool.push(frame));
}

#[test]
fn fragments_in_several_frames_pass_in_any_order_and_wait_whole() {
    over_both_families(|| {
        let whole = fragmentable(long(FROM_CLIENT, (C, V), 64, 20_000), 7);
        let places = [8_944, 17_888];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut rig = jumbo();
            let pieces = cut_at(&whole, &places);
            let early = order.iter().take_while(|number| **number != 0).count() as u64;
            let mut left = Vec::new();
            for number in order {
                left.extend(rig.carry(CLIENT_SIDE, &[pieces[number].clone()]));
            }
            let left: Vec<_> = left.into_iter().map(|(_, octets)| octets).collect();
            assert!(join(&left) == [fragmentable(long(TO_POD, (C, P), 63, 20_000), 7)], "{order:?} {early}");
            rig.assert_counters(&[
                ("rx_packets", 3),
                ("tx_packets", 3),
                ("forwarded", 3),
                ("flows_inserted", 1),
            ]);
            assert_eq!(rig.path.pool.len(), 512);
        }
    });
}

#[test]
fn waiting_fragments_are_bounded_by_the_frames_that_they_take() {
    let mut rig = jumbo();
    let whole = fragmentable(long(FROM_CLIENT, (C, V), 64, 20_000), 7);
    for number in 0..200_u16 {
        let mut early = piece(&whole, 8_944, 17_888);
        early[18..20].copy_from_slice(&number.to_be_bytes());
        early[28..30].copy_from_slice(&(number / 8).to_be_bytes());
        fix_ip_checksum(&mut early);
        assert!(rig.carry(CLIENT_SIDE, &[early]).is_empty());
        assert!(rig.path.held_frames() <= 512 / 4 + 3, "a quarter of the frames");
    }
    let held = rig.path.counters.held;
    rig.assert_counters(&[("rx_packets", 200), ("held", held), ("drop_fragment_evicted", 200 - held)]);
}

#[test]
fn what_no_link_of_ours_carries_is_a_named_drop() {
    let longer = long(FROM_CLIENT, (C, V), 64, 9_216 - 42 + 1);
    let many: Vec<usize> = (0..8).map(|number| 1536 + number * 64).collect();
    let quote = long(FROM_POD, (P, C), 64, 5_000);
    let error = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &quote[14..]);
    for (name, packet, cuts) in [
        ("drop_oversized_packet", longer, vec![3840, 7680]),
        ("drop_oversized_packet", long(FROM_CLIENT, (C, V), 64, 3_000), many),
        ("drop_short_first_frame", long(FROM_CLIENT, (C, V), 64, 3_000), vec![1535]),
        ("drop_long_icmp_error", error, vec![3840]),
        ("drop_malformed_ipv4", long(FROM_CLIENT, (C, V), 64, 5_000)[..5_000].to_vec(), vec![3840]),
    ] {
        let mut rig = jumbo();
        assert!(carry_chain(&mut rig, CLIENT_SIDE, &packet, &cuts).is_empty(), "{name}");
        rig.assert_counters(&[("rx_packets", 1), (name, 1)]);
        assert_eq!(rig.path.pool.len(), 512);
    }
    let mut cut_short = long(FROM_CLIENT, (C, V), 64, 5_000);
    cut_short[38..40].copy_from_slice(&6_000_u16.to_be_bytes());
    let mut rig = jumbo();
    assert!(carry_chain(&mut rig, CLIENT_SIDE, &cut_short, &[3840]).is_empty());
    rig.assert_counters(&[("rx_packets", 1), ("drop_malformed_transport", 1)]);
}

#[test]
fn a_full_transmit_ring_drops_all_of_a_packet() {
    let mut rig = jumbo();
    rig.wire.full = true;
    assert!(rig.carry(CLIENT_SIDE, &[long(FROM_CLIENT, (C, V), 64, 8_900)]).is_empty());
    rig.assert_counters(&[("rx_packets", 1), ("drop_tx_ring_full", 1), ("flows_inserted", 1)]);
    assert_eq!(rig.path.pool.len(), 512);
}

#[test]
fn an_echo_with_extension_headers_is_answered_in_one_frame_only() {
    over_ipv6(|| {
        let mut asked = ping_of(&payload(2_000), FROM_CLIENT, CLIENT, VIP, 64, false);
        asked.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
        asked[20] = 60;
        asked[18..20].copy_from_slice(&2_016_u16.to_be_bytes());
        let mut rig = jumbo();
        assert!(rig.one(CLIENT_SIDE, &asked).1 == ping_of(&payload(2_000), TO_CLIENT, VIP, CLIENT, 64, true));
        assert!(carry_chain(&mut rig, CLIENT_SIDE, &asked, &[1536]).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 1),
            ("answered_echo", 1),
            ("drop_answer_too_long", 1),
        ]);
    });
}

proptest! {
    /// The one in a single frame is the model: whatever is done to it is done to the other.
    #[test]
    fn a_packet_in_several_frames_fares_as_it_does_in_one(
        kind in 0..7_usize,
        bytes in 1_600..3_700_usize,
        cuts in proptest::collection::btree_set(1_536..1_650_usize, 1..4),
        mtu in prop_oneof![Just(576_usize), Just(1_500), Just(2_000), Just(9_000)],
        is_ipv6 in any::<bool>(),
    ) {
        over_family(is_ipv6, || {
            let data = payload(bytes);
            let packet = match kind {
                0 => long(FROM_CLIENT, (C, V), 64, bytes),
                1 => tcp(FROM_CLIENT, (C, V), 64, "S", &data),
                2 => tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "A", &data),
                3 => ping_of(&data, FROM_CLIENT, CLIENT, VIP, 64, false),
                4 => long(FROM_CLIENT, (C, V), 1, bytes),
                5 => long(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, bytes),
                _ => fragmentable(long(FROM_CLIENT, (C, V), 64, bytes), 7),
            };
            let (mut one, mut several) = (jumbo(), jumbo());
            links(&mut one, 9_000, mtu);
            links(&mut several, 9_000, mtu);
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < packet.len()).collect();
            let expected = one.carry(CLIENT_SIDE, std::slice::from_ref(&packet));
            let left = carry_chain(&mut several, CLIENT_SIDE, &packet, &cuts);
            prop_assert!(left == expected);
            prop_assert_eq!(&several.path.counters, &one.path.counters);
            prop_assert_eq!(several.path.pool.len(), 512);
            Ok(())
        })?;
    }
}
