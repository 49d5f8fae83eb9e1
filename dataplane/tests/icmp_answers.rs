//! Golden cases of ICMP errors of our own.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod error_rig;
mod path_rig;

use error_rig::*;
use path_rig::*;
use tidegate_dataplane::clock::Now;

#[test]
fn a_packet_whose_ttl_ends_here_is_answered_by_the_gateway_and_quoted_as_it_came() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for asked in [
            udp(FROM_CLIENT, (C, V), 1, b"a new flow"),
            udp(FROM_CLIENT, (C, V), 0, b""),
            udp(FROM_CLIENT, (C, (VIP, 33_434)), 1, &[7; 1400]),
            tcp(FROM_CLIENT, (C, V), 1, "S", b""),
            ping(FROM_CLIENT, CLIENT, VIP, 1, false),
        ] {
            let quote = &asked[14..14 + quoted_octets(&asked)];
            let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, time_exceeded(), quote);
            assert_eq!(rig.one(CLIENT_SIDE, &asked), (Out::Device(CLIENT_SIDE), expected));
        }
        rig.assert_counters(&[("rx_packets", 5), ("tx_packets", 5), ("answered_time_exceeded", 5)]);
        assert_eq!(rig.flows.len(), 0, "what goes no further opens no flow");
    });
}

#[test]
fn a_packet_of_a_flow_whose_ttl_ends_here_is_answered_in_both_directions() {
    over_both_families(|| {
        let mut rig = with_flows();
        let asked = tcp(FROM_CLIENT, (C, V), 1, "A", b"more");
        let (_, left) = rig.one(CLIENT_SIDE, &asked);
        assert_eq!(left, icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, time_exceeded(), &ip_of(&asked)));
        let asked = udp(FROM_POD, (P, C), 1, b"more");
        let (_, left) = rig.one(POD_SIDE, &asked);
        assert_eq!(left, icmp_error(TO_POD, POD_SIDE_GATEWAY, POD, 64, time_exceeded(), &ip_of(&asked)));
        assert_counted(&rig, &[("rx_packets", 2), ("tx_packets", 2), ("answered_time_exceeded", 2)]);
    });
}

#[test]
fn a_packet_too_long_for_the_next_link_is_answered_with_its_mtu() {
    over_both_families(|| {
        let mut rig = with_flows();
        shorten_links(&mut rig);
        let long = [9; 1300];
        for asked in [
            tcp(FROM_CLIENT, (C, V), 64, "A", &long),
            udp(FROM_CLIENT, (C, V), 64, &long),
            udp(FROM_CLIENT, ((CLIENT, 50_000), V), 64, &long),
        ] {
            let quote = &asked[14..14 + quoted_octets(&asked)];
            let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, too_big(1300), quote);
            assert_eq!(rig.one(CLIENT_SIDE, &asked), (Out::Device(CLIENT_SIDE), expected));
        }
        let reply = tcp(FROM_POD, (P, C), 64, "A", &long);
        let quote = &reply[14..14 + quoted_octets(&reply)];
        let expected = icmp_error(TO_POD, POD_SIDE_GATEWAY, POD, 64, too_big(1320), quote);
        assert_eq!(rig.one(POD_SIDE, &reply).1, expected);
        assert_counted(&rig, &[("rx_packets", 4), ("tx_packets", 4), ("answered_fragmentation_needed", 4)]);
    });
}

#[test]
fn a_packet_as_long_as_the_next_link_allows_passes() {
    over_both_families(|| {
        let mut rig = with_flows();
        shorten_links(&mut rig);
        let most = vec![9; 1300 - 20 - ip_header_bytes()];
        let (_, left) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", &most));
        assert_eq!(left, tcp(TO_POD, (C, P), 63, "A", &most));
    });
}

#[test]
fn a_packet_that_may_be_cut_is_cut_and_nobody_told_of_the_next_links_mtu() {
    let mut rig = with_flows();
    shorten_links(&mut rig);
    let mut asked = udp(FROM_CLIENT, (C, V), 64, &[9; 1300]);
    asked[20] = 0;
    fix_ip_checksum(&mut asked[14..]);
    let left = rig.carry(CLIENT_SIDE, &[asked]);
    assert!(left.iter().all(|(out, _)| *out == Out::Device(POD_SIDE)));
    assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 2), ("forwarded", 1), ("originated", 1)]);
}

#[test]
fn nobody_is_told_what_went_to_many_or_came_by_a_link_where_we_have_no_address() {
    over_both_families(|| {
        let ended = udp(FROM_CLIENT, (C, V), 1, b"");
        let mut to_many = ended.clone();
        to_many[..6].fill(0xff);
        let mut rig = Rig::new();
        assert!(rig.carry(CLIENT_SIDE, &[to_many]).is_empty());
        forget_addresses(&mut rig);
        assert!(rig.carry(CLIENT_SIDE, &[ended]).is_empty());
        rig.assert_counters(&[("rx_packets", 2), ("drop_ttl_exceeded", 2)]);
    });
}

#[test]
fn errors_and_resets_of_ours_share_one_limit_and_echo_replies_have_none() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let answered = [
            udp(FROM_CLIENT, (C, V), 1, b""),
            udp(FROM_CLIENT, (C, (VIP, 81)), 64, b""),
            tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "S", b""),
            ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        ];
        for _ in 0..400 {
            rig.carry(CLIENT_SIDE, &answered);
        }
        rig.assert_counters(&[
            ("rx_packets", 1600),
            ("tx_packets", 1400),
            ("answered_time_exceeded", 334),
            ("answered_port_unreachable", 333),
            ("answered_reset", 333),
            ("answered_echo", 400),
            ("drop_icmp_rate_limited", 200),
        ]);
        rig.now = Now::from_ns(rig.now.ns() + 1_000_000);
        assert_eq!(rig.carry(CLIENT_SIDE, &answered).len(), 2, "one more a millisecond, and the ping");
    });
}

#[test]
fn both_families_share_the_limit_of_errors() {
    let mut rig = Rig::new();
    let ended = over_ipv6(|| udp(FROM_CLIENT, (C, V), 1, b""));
    for _ in 0..1000 {
        rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, V), 1, b"")]);
    }
    rig.snapshot = over_ipv6(snapshot);
    assert!(rig.carry(CLIENT_SIDE, &[ended]).is_empty());
    rig.assert_counters(&[
        ("rx_packets", 1001),
        ("tx_packets", 1000),
        ("answered_time_exceeded", 1000),
        ("drop_icmp_rate_limited", 1),
    ]);
}
