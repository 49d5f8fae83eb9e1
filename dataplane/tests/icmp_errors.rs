//! Golden cases of ICMP errors: those that pass, translated, and those of our own. Expected packets are built by an
//! independent encoder, checksums included.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use std::sync::Arc;

use etherparse::{IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder};
use path_rig::*;
use proptest::prelude::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Found, Key};
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::{Mac, Port, Protocol};
use tidegate_dataplane::snapshot::Device;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);
/// A router between us and the other side.
const ROUTER: [u8; 4] = [192, 0, 2, 66];

const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

const PORT_UNREACHABLE: Says = Says(UNREACHABLE, 3, [0; 4]);
const TOO_BIG_FOR_1200: Says = Says(UNREACHABLE, 4, [0, 0, 0x04, 0xb0]);

fn quoted_udp(ends: Ends) -> Vec<u8> {
    ip_of(&udp(TO_POD, ends, 62, b"question"))
}

fn quoted_tcp(ends: Ends) -> Vec<u8> {
    ip_of(&tcp(TO_POD, ends, 62, "A", b"a segment of some length"))
}

/// Cuts a quote as it is to leave; the checksum of TCP covers what was cut off, too, so it is right as it stands.
///
/// Of a checksum that is cut in two nothing can be known: that octet is to leave as it came.
fn cut(leaves_as: &[u8], came_as: &[u8], length: usize) -> Vec<u8> {
    let mut quote = leaves_as[..length.min(leaves_as.len())].to_vec();
    if quote[9] == 6 && quote.len() == usize::from(quote[0] & 15) * 4 + 17 {
        *quote.last_mut().unwrap() = came_as[quote.len() - 1];
    }
    quote
}

/// A rig in which the client has sent to the Service and the pod has answered, by both protocols.
fn with_flows() -> Rig {
    let mut rig = Rig::new();
    rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
    rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"answer"));
    rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
    rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "SA", b""));
    rig
}

/// Asserts every counter, those of [`with_flows`] not counted.
#[track_caller]
fn assert_counted(rig: &Rig, more: &[(&'static str, u64)]) {
    let mut expected = vec![("rx_packets", 4), ("tx_packets", 4), ("forwarded", 4), ("flows_inserted", 2)];
    for (name, count) in more {
        match expected.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known += count,
            None => expected.push((name, *count)),
        }
    }
    rig.assert_counters(&expected);
}

#[test]
fn an_error_of_the_backend_comes_from_the_service_and_quotes_what_the_client_sent() {
    let mut rig = with_flows();
    for (sent, known) in [(quoted_udp((C, P)), quoted_udp((C, V))), (quoted_tcp((C, P)), quoted_tcp((C, V)))]
    {
        let left = rig.one(POD_SIDE, &icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &sent));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, PORT_UNREACHABLE, &known);
        assert_eq!(left, (Out::Device(CLIENT_SIDE), expected));
    }
    assert_counted(&rig, &[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2)]);
}

#[test]
fn an_error_of_a_router_behind_keeps_the_routers_address_and_its_mtu() {
    let mut rig = with_flows();
    for says in [TOO_BIG_FOR_1200, Says(TIME_EXCEEDED, 0, [0; 4]), Says(PARAMETER_PROBLEM, 0, [20, 0, 0, 0])]
    {
        let left = rig.one(POD_SIDE, &icmp_error(FROM_POD, ROUTER, CLIENT, 60, says, &quoted_tcp((C, P))));
        let expected = icmp_error(TO_CLIENT, ROUTER, CLIENT, 59, says, &quoted_tcp((C, V)));
        assert_eq!(left, (Out::Device(CLIENT_SIDE), expected), "{says:?}");
    }
    assert_counted(&rig, &[("rx_packets", 3), ("tx_packets", 3), ("forwarded", 3)]);
}

#[test]
fn an_error_about_a_reply_reaches_the_backend_and_quotes_what_it_sent() {
    let mut rig = with_flows();
    for from in [ROUTER, CLIENT] {
        for (sent, known) in
            [(quoted_udp((V, C)), quoted_udp((P, C))), (quoted_tcp((V, C)), quoted_tcp((P, C)))]
        {
            let left = rig.one(CLIENT_SIDE, &icmp_error(FROM_CLIENT, from, VIP, 64, TOO_BIG_FOR_1200, &sent));
            let expected = icmp_error(TO_POD, from, POD, 63, TOO_BIG_FOR_1200, &known);
            assert_eq!(left, (Out::Device(POD_SIDE), expected));
        }
    }
    assert_counted(&rig, &[("rx_packets", 4), ("tx_packets", 4), ("forwarded", 4)]);
}

#[test]
fn an_error_about_a_flow_with_a_changed_port_quotes_the_clients_own_port() {
    let mut rig = with_flows();
    let other = (OTHER_VIP, 80);
    let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, other), 64, b"question"));
    let changed = (CLIENT, u16::from_be_bytes([octets[34], octets[35]]));
    assert_ne!(changed, C);
    let sent = icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &quoted_udp((changed, P)));
    let (_, left) = rig.one(POD_SIDE, &sent);
    assert_eq!(left, icmp_error(TO_CLIENT, OTHER_VIP, CLIENT, 63, PORT_UNREACHABLE, &quoted_udp((C, other))));
}

#[test]
fn a_quote_may_be_cut_anywhere_behind_its_ports_and_nowhere_before() {
    for (sent, known) in [
        (quoted_udp((C, P)), quoted_udp((C, V))),
        (quoted_tcp((C, P)), quoted_tcp((C, V))),
        (with_options(quoted_tcp((C, P))), with_options(quoted_tcp((C, V)))),
    ] {
        let least = usize::from(sent[0] & 15) * 4 + 8;
        for length in 0..=sent.len() {
            let mut rig = with_flows();
            let came = icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &sent[..length]);
            if length < least {
                assert!(rig.carry(POD_SIDE, &[came]).is_empty(), "{length}");
                assert_counted(&rig, &[("rx_packets", 1), ("drop_malformed_quote", 1)]);
            } else {
                let left = rig.one(POD_SIDE, &came);
                let expected =
                    icmp_error(TO_CLIENT, VIP, CLIENT, 63, PORT_UNREACHABLE, &cut(&known, &sent, length));
                assert_eq!(left, (Out::Device(CLIENT_SIDE), expected), "{length}");
            }
        }
    }
}

#[test]
fn octets_behind_the_quoted_packet_are_not_taken_for_its_checksum() {
    let mut rig = with_flows();
    // The quoted packet says that it ends after its ports; what follows belongs to the error (RFC 4884).
    let short = |ends: Ends| {
        let mut quote = quoted_tcp(ends);
        quote[2..4].copy_from_slice(&28u16.to_be_bytes());
        fix_ip_checksum(&mut quote);
        quote[28..].fill(0xee);
        quote
    };
    let (_, left) =
        rig.one(POD_SIDE, &icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &short((C, P))));
    assert_eq!(left, icmp_error(TO_CLIENT, VIP, CLIENT, 63, PORT_UNREACHABLE, &short((C, V))));
}

#[test]
fn a_quoted_zero_udp_checksum_stays_zero() {
    let mut rig = with_flows();
    let without = |mut quote: Vec<u8>| {
        quote[26..28].fill(0);
        quote
    };
    let sent = icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &without(quoted_udp((C, P))));
    let (_, left) = rig.one(POD_SIDE, &sent);
    assert_eq!(left, icmp_error(TO_CLIENT, VIP, CLIENT, 63, PORT_UNREACHABLE, &without(quoted_udp((C, V)))));
}

#[test]
fn a_quoted_header_that_a_router_has_damaged_stays_as_wrong_as_it_was() {
    let mut rig = with_flows();
    let damaged = |ends: Ends| {
        let mut quote = quoted_udp(ends);
        quote[8] = 1;
        quote
    };
    let (_, left) =
        rig.one(POD_SIDE, &icmp_error(FROM_POD, ROUTER, CLIENT, 64, TOO_BIG_FOR_1200, &damaged((C, P))));
    assert_eq!(left, icmp_error(TO_CLIENT, ROUTER, CLIENT, 63, TOO_BIG_FOR_1200, &damaged((C, V))));
}

#[test]
fn an_error_neither_changes_the_state_of_its_flow_nor_keeps_it_alive() {
    let mut rig = with_flows();
    let before = [found(&rig, Protocol::Udp), found(&rig, Protocol::Tcp)];
    rig.now = Now::from_seconds(109);
    for quote in [quoted_udp((C, P)), quoted_tcp((C, P))] {
        rig.one(POD_SIDE, &icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &quote));
    }
    assert_eq!([found(&rig, Protocol::Udp), found(&rig, Protocol::Tcp)], before);
}

/// What the flow table says to a request of the client; the cached next hops left aside.
fn found(rig: &Rig, protocol: Protocol) -> Found {
    let key = Key {
        source: CLIENT.into(),
        destination: VIP.into(),
        source_port: Port::new(40_000),
        destination_port: Port::new(80),
        protocol,
    };
    rig.flows.ipv4.lookup(rig.flows.ipv4.hash(&key), &key).unwrap()
}

#[test]
fn an_error_waits_for_its_next_hop_as_any_packet_of_the_flow() {
    let mut rig = with_flows();
    let (known, unknown) = (neighbours(), vec![neighbours()[1]]);
    rig.learn(&unknown);
    let sent = icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &quoted_udp((C, P)));
    assert!(rig.carry(POD_SIDE, &[sent]).is_empty());
    assert_eq!(rig.wire.wanted, [next_hop(CLIENT_SIDE, CLIENT)]);
    rig.learn(&known);
    assert!(matches!(known[0].1, NeighbourState::Reachable(_)));
    let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, PORT_UNREACHABLE, &quoted_udp((C, V)));
    assert_eq!(rig.release(), [(Out::Device(CLIENT_SIDE), expected)]);
    assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]);
}

#[test]
fn an_error_about_no_flow_goes_to_the_kernel_as_it_came() {
    let other = (CLIENT, 40_001);
    for (from, to, quote) in [
        (POD, CLIENT, quoted_udp((other, P))),
        // A lie: it goes to another than the one who sent what it quotes.
        (POD, [10, 1, 0, 3], quoted_udp((C, P))),
        (POD, CLIENT, later_fragment(quoted_udp((C, P)))),
        (POD, CLIENT, ip_of(&ping(TO_POD, CLIENT, POD, 63, false))),
    ] {
        let mut rig = with_flows();
        let sent = icmp_error(FROM_POD, from, to, 64, PORT_UNREACHABLE, &quote);
        let left = rig.one(POD_SIDE, &sent);
        assert_eq!(left, (Out::Punt, icmp_error(TO_KERNEL, from, to, 64, PORT_UNREACHABLE, &quote)));
        assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 1), ("punted", 1)]);
    }
}

#[test]
fn each_error_that_cannot_pass_is_a_named_drop() {
    let about_reply = quoted_udp((V, C));
    let says = |kind| Says(kind, 0, [0; 4]);
    let nested = ip_of(&icmp_error(TO_POD, CLIENT, POD, 62, PORT_UNREACHABLE, &about_reply));
    let lies = |place: usize, value: u8| {
        let mut quote = about_reply.clone();
        quote[place] = value;
        quote
    };
    let to_vip = |ttl, says, quote: &[u8]| icmp_error(FROM_CLIENT, ROUTER, VIP, ttl, says, quote);
    let mut damaged = to_vip(64, PORT_UNREACHABLE, &about_reply);
    *damaged.last_mut().unwrap() ^= 1;
    for (name, packet) in [
        ("drop_nested_icmp_error", to_vip(64, PORT_UNREACHABLE, &nested)),
        ("drop_source_quench", to_vip(64, says(SOURCE_QUENCH), &about_reply)),
        ("drop_icmp_redirect", to_vip(64, says(REDIRECT), &about_reply)),
        ("drop_icmp_checksum", damaged),
        ("drop_ttl_exceeded", to_vip(1, PORT_UNREACHABLE, &about_reply)),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, &lies(0, 0x65))),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, &lies(0, 0x44))),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, &lies(0, 0x4f))),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, &lies(3, 19))),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, &lies(3, 27))),
        ("drop_malformed_quote", to_vip(64, PORT_UNREACHABLE, b"")),
        ("drop_unsupported_icmp", to_vip(64, PORT_UNREACHABLE, &quoted_udp((V, (CLIENT, 40_001))))),
        ("drop_unsupported_icmp", to_vip(64, PORT_UNREACHABLE, &quoted_udp(((OTHER_VIP, 80), C)))),
        ("drop_unsupported_icmp", to_vip(64, PORT_UNREACHABLE, &later_fragment(about_reply.clone()))),
        (
            "drop_unallocated_address",
            icmp_error(
                FROM_CLIENT,
                ROUTER,
                UNALLOCATED,
                64,
                PORT_UNREACHABLE,
                &quoted_udp(((UNALLOCATED, 80), C)),
            ),
        ),
        ("drop_malformed_transport", cut_to(to_vip(64, PORT_UNREACHABLE, b""), 7)),
    ] {
        let mut rig = with_flows();
        assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
        assert_counted(&rig, &[("rx_packets", 1), (name, 1)]);
    }
}

#[test]
fn a_packet_whose_ttl_ends_here_is_answered_by_the_gateway_and_quoted_as_it_came() {
    let in_transit = Says(TIME_EXCEEDED, 0, [0; 4]);
    let mut rig = Rig::new();
    for asked in [
        udp(FROM_CLIENT, (C, V), 1, b"a new flow"),
        udp(FROM_CLIENT, (C, V), 0, b""),
        udp(FROM_CLIENT, (C, (VIP, 33_434)), 1, &[7; 1400]),
        tcp(FROM_CLIENT, (C, V), 1, "S", b""),
        ping(FROM_CLIENT, CLIENT, VIP, 1, false),
    ] {
        let (out, left) = rig.one(CLIENT_SIDE, &asked);
        let quote = &asked[14..asked.len().min(14 + 576 - 28)];
        assert_eq!(
            (out, left),
            (Out::Device(CLIENT_SIDE), icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, in_transit, quote))
        );
    }
    rig.assert_counters(&[("rx_packets", 5), ("tx_packets", 5), ("answered_time_exceeded", 5)]);
    assert_eq!(rig.flows.len(), 0, "what goes no further opens no flow");
}

#[test]
fn a_packet_of_a_flow_whose_ttl_ends_here_is_answered_in_both_directions() {
    let in_transit = Says(TIME_EXCEEDED, 0, [0; 4]);
    let mut rig = with_flows();
    let asked = tcp(FROM_CLIENT, (C, V), 1, "A", b"more");
    let (_, left) = rig.one(CLIENT_SIDE, &asked);
    assert_eq!(left, icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, in_transit, &ip_of(&asked)));
    let asked = udp(FROM_POD, (P, C), 1, b"more");
    let (_, left) = rig.one(POD_SIDE, &asked);
    assert_eq!(left, icmp_error(TO_POD, POD_SIDE_GATEWAY, POD, 64, in_transit, &ip_of(&asked)));
    assert_counted(&rig, &[("rx_packets", 2), ("tx_packets", 2), ("answered_time_exceeded", 2)]);
}

#[test]
fn a_packet_too_long_for_the_next_link_is_answered_with_its_mtu() {
    let mut rig = with_flows();
    shorten_links(&mut rig);
    let long = [9; 1200];
    for asked in [
        tcp(FROM_CLIENT, (C, V), 64, "A", &long),
        udp(FROM_CLIENT, (C, V), 64, &long),
        udp(FROM_CLIENT, ((CLIENT, 50_000), V), 64, &long),
    ] {
        let (out, left) = rig.one(CLIENT_SIDE, &asked);
        let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, TOO_BIG_FOR_1200, &asked[14..14 + 548]);
        assert_eq!((out, left), (Out::Device(CLIENT_SIDE), expected));
    }
    let reply = tcp(FROM_POD, (P, C), 64, "A", &long);
    let (_, left) = rig.one(POD_SIDE, &reply);
    let too_big_for_1220 = Says(UNREACHABLE, 4, [0, 0, 0x04, 0xc4]);
    assert_eq!(left, icmp_error(TO_POD, POD_SIDE_GATEWAY, POD, 64, too_big_for_1220, &reply[14..14 + 548]));
    assert_counted(&rig, &[("rx_packets", 4), ("tx_packets", 4), ("answered_fragmentation_needed", 4)]);
}

#[test]
fn a_packet_as_long_as_the_next_link_allows_passes() {
    let mut rig = with_flows();
    shorten_links(&mut rig);
    let most = [9; 1200 - 40];
    let (_, left) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", &most));
    assert_eq!(left, tcp(TO_POD, (C, P), 63, "A", &most));
}

#[test]
fn a_packet_that_may_be_cut_is_cut_and_nobody_told_of_the_next_links_mtu() {
    let mut rig = with_flows();
    shorten_links(&mut rig);
    let mut asked = udp(FROM_CLIENT, (C, V), 64, &[9; 1200]);
    asked[20] = 0;
    fix_ip_checksum(&mut asked[14..]);
    let left = rig.carry(CLIENT_SIDE, &[asked]);
    assert!(left.iter().all(|(out, _)| *out == Out::Device(POD_SIDE)));
    assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 2), ("forwarded", 1), ("originated", 1)]);
}

#[test]
fn nobody_is_told_what_went_to_many_or_came_by_a_link_where_we_have_no_address() {
    let ended = udp(FROM_CLIENT, (C, V), 1, b"");
    let mut to_many = ended.clone();
    to_many[..6].fill(0xff);
    let mut rig = Rig::new();
    assert!(rig.carry(CLIENT_SIDE, &[to_many]).is_empty());
    let nameless =
        rig.snapshot.devices.iter().map(|device| Device { addresses: Arc::new([]), ..device.clone() });
    rig.snapshot.devices = nameless.collect();
    assert!(rig.carry(CLIENT_SIDE, &[ended]).is_empty());
    rig.assert_counters(&[("rx_packets", 2), ("drop_ttl_exceeded", 2)]);
}

#[test]
fn errors_and_resets_of_ours_share_one_limit_and_echo_replies_have_none() {
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
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn every_translated_error_has_all_its_checksums_right(
        (is_tcp, about_request, by_end) in any::<(bool, bool, bool)>(),
        says in (prop_oneof![Just(3u8), Just(11), Just(12)], any::<u8>(), any::<[u8; 4]>()),
        (outer, quoted) in (options(), options()),
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        quoted_octets in prop_oneof![8..24usize, 8..700usize],
        padding in 0..20usize,
    ) {
        let mut rig = with_flows();
        let says = Says(says.0, says.1, says.2);
        let protocol = if is_tcp { 6 } else { 17 };
        let length = 20 + quoted.len() + quoted_octets;
        let whole = |ends| segment(ends, protocol, &quoted, &payload);
        let came = |ends| cut(&whole(ends), &whole(ends), length);
        let leaves = |ends, came: Ends| cut(&whole(ends), &whole(came), length);
        // Where the packet and its error came from and went to: (device, from, to, quote) each.
        let (from, to) = if about_request {
            let (end, known) = if by_end { (POD, VIP) } else { (ROUTER, ROUTER) };
            ((POD_SIDE, FROM_POD, end, CLIENT, came((C, P))), (CLIENT_SIDE, TO_CLIENT, known, CLIENT, leaves((C, V), (C, P))))
        } else {
            let end = if by_end { CLIENT } else { ROUTER };
            ((CLIENT_SIDE, FROM_CLIENT, end, VIP, came((V, C))), (POD_SIDE, TO_POD, end, POD, leaves((P, C), (V, C))))
        };
        let mut sent = error_with_options((from.1, from.2, from.3), 64, &outer, says, &from.4);
        let mut expected = error_with_options((to.1, to.2, to.3), 63, &outer, says, &to.4);
        sent.extend(vec![0xee; padding]);
        expected.extend(vec![0xee; padding]);
        prop_assert_eq!(rig.one(from.0, &sent), (Out::Device(to.0), expected));
    }

    #[test]
    fn no_octets_of_an_error_disturb_the_accounts(
        by_pod in any::<bool>(),
        bent in proptest::collection::vec((34..120usize, any::<u8>()), 0..6),
        length in 34..120usize,
        repaired in any::<bool>(),
    ) {
        let mut rig = with_flows();
        let mut sent = if by_pod {
            icmp_error(FROM_POD, POD, CLIENT, 64, PORT_UNREACHABLE, &quoted_tcp((C, P)))
        } else {
            icmp_error(FROM_CLIENT, ROUTER, VIP, 64, PORT_UNREACHABLE, &quoted_tcp((V, C)))
        };
        for (place, value) in bent {
            if let Some(octet) = sent.get_mut(place) {
                *octet = value;
            }
        }
        sent = cut_to(sent, length.saturating_sub(34));
        if repaired && sent.len() >= 38 {
            sent[36..38].fill(0);
            let sum = slow_sum(&sent[34..]);
            sent[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        for (out, left) in rig.carry(if by_pod { POD_SIDE } else { CLIENT_SIDE }, &[sent]) {
            prop_assert_eq!(slow_sum(&left[14..34]), 0);
            if matches!(out, Out::Device(_)) {
                prop_assert_eq!(slow_sum(&left[34..]), 0);
            }
        }
    }

    #[test]
    fn no_octets_at_all_disturb_the_accounts(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut rig = with_flows();
        for (device, macs, to) in [(POD_SIDE, FROM_POD, CLIENT), (CLIENT_SIDE, FROM_CLIENT, VIP)] {
            let mut sent = icmp_error(macs, ROUTER, to, 64, PORT_UNREACHABLE, &message);
            // Type and code are the message's own, too.
            sent.splice(34..34 + message.len().min(8), message.iter().copied().take(8));
            rig.carry(device, &[sent]);
        }
    }
}

/// An IP packet with options; its checksums are those of the whole, whatever is cut from it later.
fn segment(ends: Ends, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ((source, source_port), (destination, destination_port)) = ends;
    let header = Ipv4Header {
        time_to_live: 62,
        protocol: IpNumber(protocol),
        source,
        destination,
        options: options.try_into().unwrap(),
        ..Default::default()
    };
    let builder = PacketBuilder::ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()));
    let mut packet = Vec::new();
    match protocol {
        6 => builder.tcp(source_port, destination_port, 7, 9).write(&mut packet, payload).unwrap(),
        _ => builder.udp(source_port, destination_port).write(&mut packet, payload).unwrap(),
    }
    packet
}

fn error_with_options(
    (macs, source, destination): ((Mac, Mac), [u8; 4], [u8; 4]),
    ttl: u8,
    options: &[u8],
    says: Says,
    quote: &[u8],
) -> Vec<u8> {
    let header = Ipv4Header {
        time_to_live: ttl,
        source,
        destination,
        options: options.try_into().unwrap(),
        ..Default::default()
    };
    let builder = PacketBuilder::ethernet2(macs.0.0, macs.1.0)
        .ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .icmpv4_raw(says.0, says.1, says.2);
    let mut packet = Vec::new();
    builder.write(&mut packet, quote).unwrap();
    packet
}

/// The links become shorter: 1200 octets to the pods, 1220 to the client.
fn shorten_links(rig: &mut Rig) {
    let mtu = |device: &Device| if device.index == POD_SIDE { 1200 } else { 1220 };
    let shorter = rig.snapshot.devices.iter().map(|device| Device { mtu: mtu(device), ..device.clone() });
    rig.snapshot.devices = shorter.collect();
}

/// Four octets of options in an IP packet.
fn with_options(packet: Vec<u8>) -> Vec<u8> {
    let mut long = packet[..20].to_vec();
    long.extend([1, 1, 1, 0]);
    long.extend(&packet[20..]);
    long[0] = 0x46;
    let total = u16::from_be_bytes([long[2], long[3]]) + 4;
    long[2..4].copy_from_slice(&total.to_be_bytes());
    fix_ip_checksum(&mut long);
    long
}

fn later_fragment(mut packet: Vec<u8>) -> Vec<u8> {
    packet[7] = 3;
    fix_ip_checksum(&mut packet);
    packet
}

/// Cuts a frame's IP payload, and its total length with it.
fn cut_to(mut frame: Vec<u8>, payload: usize) -> Vec<u8> {
    frame.truncate(34 + payload);
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    fix_ip_checksum(&mut frame[14..]);
    frame
}

/// Recomputes the checksum of an IP header in full, the slow way.
fn fix_ip_checksum(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = slow_sum(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn slow_sum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
