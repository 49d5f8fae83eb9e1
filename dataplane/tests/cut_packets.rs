//! Golden cases of packets too long for their link: over IPv4 they leave in pieces, over IPv6 never.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fragment_rig;
mod path_rig;

use fragment_rig::*;
use path_rig::*;
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

fn narrow(rig: &mut Rig, mtu: usize) {
    let mut devices = rig.snapshot.devices.to_vec();
    devices.iter_mut().filter(|device| device.index == POD_SIDE).for_each(|device| device.mtu = mtu);
    rig.snapshot.devices = devices.into();
}

#[test]
fn a_datagram_too_long_for_its_link_leaves_in_pieces() {
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    let left = octets(rig.carry(CLIENT_SIDE, &[question(1400, 7)]), Out::Device(POD_SIDE));
    assert_eq!(left, cut_at(&forwarded_question(1400, 7), &[552, 1104]));
    rig.assert_counters(&[
        ("rx_packets", 1),
        ("tx_packets", 3),
        ("forwarded", 1),
        ("originated", 2),
        ("flows_inserted", 1),
    ]);
}

#[test]
fn a_fragment_too_long_for_its_link_is_cut_again() {
    let mut rig = Rig::new();
    narrow(&mut rig, 1400);
    let pieces = cut(&question(4000, 7));
    let left = octets(rig.carry(CLIENT_SIDE, &pieces), Out::Device(POD_SIDE));
    assert_eq!(left.len(), 5);
    assert_eq!(join(&left), [forwarded_question(4000, 7)]);
    assert!(left.iter().all(|piece| piece.len() <= ETHERNET + 1400));
}

#[test]
fn a_fragment_too_long_for_its_link_that_may_not_be_cut_is_a_named_drop() {
    let mut rig = Rig::new();
    narrow(&mut rig, 1400);
    let whole = question(2800, 7);
    let mut pieces = [piece(&whole, 0, 1280), piece(&whole, 1280, 2760), piece(&whole, 2760, 2808)];
    for piece in &mut pieces {
        piece[20] |= 0x40;
        fix_ip_checksum(piece);
    }
    assert_eq!(rig.carry(CLIENT_SIDE, &pieces).len(), 2);
    rig.assert_counters(&[
        ("rx_packets", 3),
        ("tx_packets", 2),
        ("forwarded", 2),
        ("flows_inserted", 1),
        ("drop_exceeds_mtu", 1),
    ]);
}

#[test]
fn a_packet_that_was_held_is_cut_when_it_leaves() {
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    assert!(rig.carry(CLIENT_SIDE, &[long(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, 1400, 7)]).is_empty());
    let mut known = neighbours();
    known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC)));
    rig.learn(&known);
    let left = octets(rig.release(), Out::Device(POD_SIDE));
    assert_eq!(join(&left), [long(TO_POD, (C, (QUIET_POD, 8080)), 63, 1400, 7)]);
}

/// Puts options behind the fixed header.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut long = frame[..34].to_vec();
    long.extend(options);
    long.extend(&frame[34..]);
    long[14] = 0x45 + (options.len() / 4) as u8;
    let bytes = (long.len() - ETHERNET) as u16;
    long[16..18].copy_from_slice(&bytes.to_be_bytes());
    fix_ip_checksum(&mut long);
    long
}

#[test]
fn options_go_into_every_piece_only_if_they_say_so() {
    // Record route is for the first piece alone, router alert for all (RFC 791 3.1, RFC 2113).
    let (record_route, router_alert) = ([7, 3, 4], [0x94, 4, 0, 0]);
    let options = [&record_route[..], &[1], &router_alert].concat();
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    let left = rig.carry(CLIENT_SIDE, &[with_options(&question(1400, 7), &options)]);
    let left = octets(left, Out::Device(POD_SIDE));
    assert_eq!(left[0][34..42], options);
    for piece in &left[1..] {
        assert_eq!((header_bytes(piece), &piece[34..38]), (24, &router_alert[..]));
    }
    assert_eq!(join(&left), [with_options(&forwarded_question(1400, 7), &options)]);
}

#[test]
fn what_cannot_be_cut_is_a_named_drop() {
    let whole = question(1400, 7);
    let unfragmentable = udp(FROM_CLIENT, (C, V), 64, &[0; 1400]);
    for (name, mtu, packet) in [
        ("drop_malformed_ipv4", 576, with_options(&whole, &[0x94, 9, 0, 0])),
        ("drop_malformed_ipv4", 576, with_options(&whole, &[1, 1, 1, 0x94])),
        ("drop_exceeds_mtu", 27, whole.clone()),
        ("drop_exceeds_mtu", 30, question(1600, 7)),
    ] {
        let mut rig = Rig::new();
        narrow(&mut rig, mtu);
        assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
        rig.assert_counters(&[("rx_packets", 1), ("flows_inserted", 1), (name, 1)]);
    }
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    rig.carry(CLIENT_SIDE, &[unfragmentable]);
    assert_eq!(rig.path.counters.forwarded, 0);
}

#[test]
fn without_frames_for_all_pieces_none_leaves() {
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    let kept: Vec<_> =
        std::iter::from_fn(|| (rig.path.pool.len() > 2).then(|| rig.path.pool.pop())).collect();
    rig.path.counters.frames_total -= kept.len() as u64;
    assert!(rig.carry(CLIENT_SIDE, &[question(1400, 7)]).is_empty());
    rig.assert_counters(&[("rx_packets", 1), ("drop_no_frame", 1), ("flows_inserted", 1)]);
}

#[test]
fn a_transmit_ring_that_fills_between_pieces_drops_the_packet_once() {
    let mut rig = Rig::new();
    narrow(&mut rig, 576);
    rig.wire.room = Some(1);
    assert_eq!(rig.carry(CLIENT_SIDE, &[question(1400, 7)]).len(), 1);
    rig.assert_counters(&[
        ("rx_packets", 1),
        ("tx_packets", 1),
        ("originated", 1),
        ("drop_tx_ring_full", 1),
        ("flows_inserted", 1),
    ]);
}

/// A whole IPv6 packet of a length, headers included.
fn ipv6_question(macs: (Mac, Mac), ends: Ends, hop_limit: u8, bytes: usize) -> Vec<u8> {
    udp(macs, ends, hop_limit, &vec![7; bytes - 48])
}

#[test]
fn over_ipv6_nothing_is_cut_and_the_sender_told() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        narrow(&mut rig, 1280);
        let most = ipv6_question(FROM_CLIENT, (C, V), 64, 1280);
        assert_eq!(rig.one(CLIENT_SIDE, &most).1, ipv6_question(TO_POD, (C, P), 63, 1280));
        let asked = ipv6_question(FROM_CLIENT, (C, V), 64, 1281);
        let quote = &asked[14..14 + 1280 - 48];
        let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, too_big(1280), quote);
        assert_eq!(rig.one(CLIENT_SIDE, &asked), (Out::Device(CLIENT_SIDE), expected));
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 1),
            ("flows_inserted", 1),
            ("answered_fragmentation_needed", 1),
        ]);
    });
}

#[test]
fn over_ipv6_fragments_too_long_for_their_link_are_answered_once_by_the_first() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        narrow(&mut rig, 1400);
        let pieces = cut(&question(4000, 7));
        let (out, answer) = rig.one(CLIENT_SIDE, &pieces[0]);
        let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, too_big(1400), &pieces[0][14..14 + 1232]);
        assert_eq!((out, answer), (Out::Device(CLIENT_SIDE), expected));
        assert!(rig.carry(CLIENT_SIDE, &pieces[1..]).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 3),
            ("tx_packets", 1),
            ("answered_fragmentation_needed", 1),
            ("drop_fragment_refused", 2),
        ]);
    });
}

#[test]
fn over_ipv6_a_later_fragment_longer_than_its_first_and_its_link_is_answered_with_its_mtu() {
    over_ipv6(|| {
        let whole = question(2800, 7);
        let pieces = [piece(&whole, 0, 1280), piece(&whole, 1280, 2728), piece(&whole, 2728, 2808)];
        let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, too_big(1400), &pieces[1][14..14 + 1232]);
        // Each also waits for the first.
        for order in [[0, 1, 2], [1, 2, 0]] {
            let mut rig = Rig::new();
            narrow(&mut rig, 1400);
            let left = rig.carry(CLIENT_SIDE, &order.map(|number| pieces[number].clone()));
            let told = left.iter().filter(|(out, _)| *out == Out::Device(CLIENT_SIDE));
            assert_eq!(told.map(|(_, octets)| octets).collect::<Vec<_>>(), [&expected]);
            rig.assert_counters(&[
                ("rx_packets", 3),
                ("tx_packets", 3),
                ("forwarded", 2),
                ("flows_inserted", 1),
                ("answered_fragmentation_needed", 1),
            ]);
        }
    });
}
