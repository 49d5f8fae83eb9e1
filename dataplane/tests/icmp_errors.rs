//! Golden cases of ICMP errors about flows, which pass translated. Expected packets are built by an independent encoder,
//! checksums included.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod error_rig;
mod path_rig;

use std::net::IpAddr;

use error_rig::*;
use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Found, Key};
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::{Port, Protocol};

const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;

/// What a router says that does not understand octet 20 of the header.
fn parameter_problem() -> Says {
    if is_ipv6() { Says(4, 0, [0, 0, 0, 20]) } else { Says(12, 0, [20, 0, 0, 0]) }
}

#[test]
fn an_error_of_the_backend_comes_from_the_service_and_quotes_what_the_client_sent() {
    over_both_families(|| {
        let mut rig = with_flows();
        for (sent, known) in
            [(quoted_udp((C, P)), quoted_udp((C, V))), (quoted_tcp((C, P)), quoted_tcp((C, V)))]
        {
            let left = rig.one(POD_SIDE, &icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &sent));
            let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &known);
            assert_eq!(left, (Out::Device(CLIENT_SIDE), expected));
        }
        assert_counted(&rig, &[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2)]);
    });
}

#[test]
fn an_error_of_a_router_behind_keeps_the_routers_address_and_its_mtu() {
    over_both_families(|| {
        let mut rig = with_flows();
        for says in [too_big(1300), time_exceeded(), parameter_problem()] {
            let sent = icmp_error(FROM_POD, ROUTER, CLIENT, 60, says, &quoted_tcp((C, P)));
            let expected = icmp_error(TO_CLIENT, ROUTER, CLIENT, 59, says, &quoted_tcp((C, V)));
            assert_eq!(rig.one(POD_SIDE, &sent), (Out::Device(CLIENT_SIDE), expected), "{says:?}");
        }
        assert_counted(&rig, &[("rx_packets", 3), ("tx_packets", 3), ("forwarded", 3)]);
    });
}

#[test]
fn an_error_about_a_reply_reaches_the_backend_and_quotes_what_it_sent() {
    over_both_families(|| {
        let mut rig = with_flows();
        for from in [ROUTER, CLIENT] {
            for (sent, known) in
                [(quoted_udp((V, C)), quoted_udp((P, C))), (quoted_tcp((V, C)), quoted_tcp((P, C)))]
            {
                let sent = icmp_error(FROM_CLIENT, from, VIP, 64, too_big(1300), &sent);
                let expected = icmp_error(TO_POD, from, POD, 63, too_big(1300), &known);
                assert_eq!(rig.one(CLIENT_SIDE, &sent), (Out::Device(POD_SIDE), expected));
            }
        }
        assert_counted(&rig, &[("rx_packets", 4), ("tx_packets", 4), ("forwarded", 4)]);
    });
}

#[test]
fn an_error_about_a_flow_with_a_changed_port_quotes_the_clients_own_port() {
    over_both_families(|| {
        let mut rig = with_flows();
        let other = (OTHER_VIP, 80);
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, other), 64, b"question"));
        let at = 14 + ip_header_bytes();
        let changed = (CLIENT, u16::from_be_bytes([octets[at], octets[at + 1]]));
        assert_ne!(changed, C);
        let about = |ends| quoted_udp(ends);
        let sent = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &about((changed, P)));
        let expected = icmp_error(TO_CLIENT, OTHER_VIP, CLIENT, 63, port_unreachable(), &about((C, other)));
        assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
    });
}

#[test]
fn a_quote_may_be_cut_anywhere_behind_its_ports_and_nowhere_before() {
    over_both_families(|| {
        let more = if is_ipv6() { 8 } else { 4 };
        for (sent, known, transport, is_tcp) in [
            (quoted_udp((C, P)), quoted_udp((C, V)), ip_header_bytes(), false),
            (quoted_tcp((C, P)), quoted_tcp((C, V)), ip_header_bytes(), true),
            (
                with_options(quoted_tcp((C, P))),
                with_options(quoted_tcp((C, V))),
                ip_header_bytes() + more,
                true,
            ),
        ] {
            for length in 0..=sent.len() {
                let mut rig = with_flows();
                let came = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &sent[..length]);
                if length < transport + 8 {
                    assert!(rig.carry(POD_SIDE, &[came]).is_empty(), "{length}");
                    assert_counted(&rig, &[("rx_packets", 1), ("drop_malformed_quote", 1)]);
                } else {
                    let quote = cut(&known, &sent, length, transport, is_tcp);
                    let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &quote);
                    let left = rig.one(POD_SIDE, &came);
                    assert_eq!(left, (Out::Device(CLIENT_SIDE), expected), "{length}");
                }
            }
        }
    });
}

#[test]
fn octets_behind_the_quoted_packet_are_not_taken_for_its_checksum() {
    over_both_families(|| {
        let mut rig = with_flows();
        // The quoted packet says that it ends after its ports; what follows belongs to the error (RFC 4884).
        let short = |ends: Ends| {
            let mut quote = quoted_tcp(ends);
            let end = ip_header_bytes() + 8;
            let (at, length) = if is_ipv6() { (4, 8_u16) } else { (2, 28) };
            quote[at..at + 2].copy_from_slice(&length.to_be_bytes());
            fix_ip_checksum(&mut quote);
            quote[end..].fill(0xee);
            quote
        };
        let sent = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &short((C, P)));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &short((C, V)));
        assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
    });
}

#[test]
fn a_quoted_zero_udp_checksum_stays_zero() {
    over_both_families(|| {
        let mut rig = with_flows();
        let without = |mut quote: Vec<u8>| {
            quote[ip_header_bytes() + 6..][..2].fill(0);
            quote
        };
        let about = |ends| without(quoted_udp(ends));
        let sent = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &about((C, P)));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &about((C, V)));
        assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
    });
}

#[test]
fn a_quoted_header_that_a_router_has_damaged_stays_as_wrong_as_it_was() {
    let mut rig = with_flows();
    let damaged = |ends: Ends| {
        let mut quote = quoted_udp(ends);
        quote[8] = 1;
        quote
    };
    let sent = icmp_error(FROM_POD, ROUTER, CLIENT, 64, too_big(1300), &damaged((C, P)));
    let expected = icmp_error(TO_CLIENT, ROUTER, CLIENT, 63, too_big(1300), &damaged((C, V)));
    assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
}

#[test]
fn an_error_neither_changes_the_state_of_its_flow_nor_keeps_it_alive() {
    over_both_families(|| {
        let mut rig = with_flows();
        let before = [found(&rig, Protocol::Udp), found(&rig, Protocol::Tcp)];
        rig.now = Now::from_seconds(109);
        for quote in [quoted_udp((C, P)), quoted_tcp((C, P))] {
            rig.one(POD_SIDE, &icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &quote));
        }
        assert_eq!([found(&rig, Protocol::Udp), found(&rig, Protocol::Tcp)], before);
    });
}

/// What the flow table says to a request of the client, as text; the cached next hops left aside.
fn found(rig: &Rig, protocol: Protocol) -> String {
    let (source_port, destination_port) = (Port::new(40_000), Port::new(80));
    match (ip(CLIENT), ip(VIP)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let key = Key::new((source, source_port), (destination, destination_port), protocol);
            let flows = &rig.flows.ipv4;
            format!("{:?}", Found { next_hop: 0, ..flows.lookup(flows.hash(&key), &key).unwrap() })
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let key = Key::new((source, source_port), (destination, destination_port), protocol);
            let flows = &rig.flows.ipv6;
            format!("{:?}", Found { next_hop: 0, ..flows.lookup(flows.hash(&key), &key).unwrap() })
        }
        _ => unreachable!("one family at a time"),
    }
}

#[test]
fn an_error_waits_for_its_next_hop_as_any_packet_of_the_flow() {
    over_both_families(|| {
        let mut rig = with_flows();
        let (known, unknown) = (neighbours(), vec![neighbours()[1]]);
        rig.learn(&unknown);
        let sent = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &quoted_udp((C, P)));
        assert!(rig.carry(POD_SIDE, &[sent]).is_empty());
        assert_eq!(rig.wire.wanted, [next_hop(CLIENT_SIDE, CLIENT)]);
        rig.learn(&known);
        assert!(matches!(known[0].1, NeighbourState::Reachable(_)));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), &quoted_udp((C, V)));
        assert_eq!(rig.release(), [(Out::Device(CLIENT_SIDE), expected)]);
        assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]);
    });
}

#[test]
fn an_error_about_no_flow_goes_to_the_kernel_as_it_came() {
    over_both_families(|| {
        let other = (CLIENT, 40_001);
        for (from, to, quote) in [
            (POD, CLIENT, quoted_udp((other, P))),
            // A lie: it goes to another than the one who sent what it quotes.
            (POD, [10, 1, 0, 3], quoted_udp((C, P))),
            (POD, CLIENT, later_fragment(quoted_udp((C, P)))),
            (POD, CLIENT, ip_of(&ping(TO_POD, CLIENT, POD, 63, false))),
        ] {
            let mut rig = with_flows();
            let sent = icmp_error(FROM_POD, from, to, 64, port_unreachable(), &quote);
            let left = rig.one(POD_SIDE, &sent);
            assert_eq!(left, (Out::Punt, icmp_error(TO_KERNEL, from, to, 64, port_unreachable(), &quote)));
            assert_counted(&rig, &[("rx_packets", 1), ("tx_packets", 1), ("punted", 1)]);
        }
    });
}

#[test]
fn each_error_that_cannot_pass_is_a_named_drop() {
    over_both_families(|| {
        let about_reply = quoted_udp((V, C));
        let nested = ip_of(&icmp_error(TO_POD, CLIENT, POD, 62, port_unreachable(), &about_reply));
        let to_vip = |ttl, quote: &[u8]| icmp_error(FROM_CLIENT, ROUTER, VIP, ttl, port_unreachable(), quote);
        let lies = |place: usize, value: u8| {
            let mut quote = about_reply.clone();
            quote[place] = value;
            to_vip(64, &quote)
        };
        let mut damaged = to_vip(64, &about_reply);
        *damaged.last_mut().unwrap() ^= 1;
        let length = if is_ipv6() { 5 } else { 3 };
        let before = if is_ipv6() { 0 } else { 20 };
        let unallocated = quoted_udp(((UNALLOCATED, 80), C));
        for (name, packet) in [
            ("drop_nested_icmp_error", to_vip(64, &nested)),
            ("drop_icmp_checksum", damaged),
            ("drop_ttl_exceeded", to_vip(1, &about_reply)),
            ("drop_malformed_quote", lies(0, if is_ipv6() { 0x45 } else { 0x65 })),
            ("drop_malformed_quote", lies(length, before + 7)),
            ("drop_malformed_quote", to_vip(64, b"")),
            ("drop_unsupported_icmp", to_vip(64, &quoted_udp((V, (CLIENT, 40_001))))),
            ("drop_unsupported_icmp", to_vip(64, &quoted_udp(((OTHER_VIP, 80), C)))),
            ("drop_unsupported_icmp", to_vip(64, &later_fragment(about_reply.clone()))),
            (
                "drop_unallocated_address",
                icmp_error(FROM_CLIENT, ROUTER, UNALLOCATED, 64, port_unreachable(), &unallocated),
            ),
            ("drop_malformed_transport", cut_to(to_vip(64, b""), 7)),
        ] {
            let mut rig = with_flows();
            assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
            assert_counted(&rig, &[("rx_packets", 1), (name, 1)]);
        }
    });
}

#[test]
fn errors_that_only_ipv4_has_or_whose_header_lies_are_named_drops() {
    let about_reply = quoted_udp((V, C));
    let lies = |value: u8| {
        let mut quote = about_reply.clone();
        quote[0] = value;
        quote
    };
    let to_vip = |kind, quote: &[u8]| icmp_error(FROM_CLIENT, ROUTER, VIP, 64, Says(kind, 0, [0; 4]), quote);
    for (name, packet) in [
        ("drop_source_quench", to_vip(SOURCE_QUENCH, &about_reply)),
        ("drop_icmp_redirect", to_vip(REDIRECT, &about_reply)),
        ("drop_malformed_quote", to_vip(3, &lies(0x44))),
        ("drop_malformed_quote", to_vip(3, &lies(0x4f))),
    ] {
        let mut rig = with_flows();
        assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty(), "{name}");
        assert_counted(&rig, &[("rx_packets", 1), (name, 1)]);
    }
}
