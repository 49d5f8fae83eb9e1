//! Golden cases of ICMPv6 errors whose quoted packet, or which themselves, have extension headers.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod chain_rig;
mod error_rig;
mod path_rig;

use chain_rig::*;
use error_rig::*;
use path_rig::*;

/// An error of the pod about a packet that the client sent.
fn of_pod(quote: &[u8]) -> Vec<u8> {
    icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), quote)
}

/// The same as it is to reach the client.
fn to_client(quote: &[u8]) -> Vec<u8> {
    icmp_error(TO_CLIENT, VIP, CLIENT, 63, port_unreachable(), quote)
}

#[test]
fn the_ports_of_a_quoted_packet_are_found_behind_its_extension_headers() {
    over_ipv6(|| {
        for chain in [
            vec![hop_by_hop(1), destination_options(2)],
            vec![routing(0), authentication()],
            vec![fragment(0, false, 7)],
            vec![fragment(0, true, 7), destination_options(1)],
            vec![destination_options(1); 8],
        ] {
            let mut rig = with_flows();
            for quoted in [quoted_udp, quoted_tcp] {
                let sent = chained_packet(&quoted((C, P)), &chain);
                let known = chained_packet(&quoted((C, V)), &chain);
                let left = rig.one(POD_SIDE, &of_pod(&sent));
                assert_eq!(left, (Out::Device(CLIENT_SIDE), to_client(&known)), "{chain:?}");
            }
            assert_counted(&rig, &[("rx_packets", 2), ("tx_packets", 2), ("forwarded", 2)]);
        }
    });
}

#[test]
fn a_quote_that_is_cut_in_its_extension_headers_is_a_named_drop() {
    over_ipv6(|| {
        let chain = [hop_by_hop(1), fragment(0, true, 7), destination_options(1)];
        let (sent, known) =
            (chained_packet(&quoted_tcp((C, P)), &chain), chained_packet(&quoted_tcp((C, V)), &chain));
        for length in 0..sent.len() {
            let mut rig = with_flows();
            let came = of_pod(&sent[..length]);
            if length < 64 + 8 {
                assert!(rig.carry(POD_SIDE, &[came]).is_empty(), "{length}");
                assert_counted(&rig, &[("rx_packets", 1), ("drop_malformed_quote", 1)]);
            } else {
                let (_, left) = rig.one(POD_SIDE, &came);
                assert_eq!(left, to_client(&cut(&known, &sent, length, 64, true)), "{length}");
            }
        }
    });
}

#[test]
fn a_quote_whose_ports_cannot_be_known_is_about_no_flow() {
    over_ipv6(|| {
        for chain in [vec![fragment(8, false, 7)], vec![fragment(1448, true, 7)], vec![routing(1)]] {
            let mut rig = with_flows();
            let quote = chained_packet(&quoted_udp((C, P)), &chain);
            let (out, left) = rig.one(POD_SIDE, &of_pod(&quote));
            assert_eq!(out, Out::Punt, "{chain:?}");
            assert_eq!(left[14..], of_pod(&quote)[14..]);
        }
    });
}

#[test]
fn a_quote_with_more_headers_than_are_walked_or_headers_out_of_place_is_a_named_drop() {
    over_ipv6(|| {
        for chain in [
            vec![destination_options(1); 9],
            vec![destination_options(1), hop_by_hop(1)],
            vec![fragment(0, false, 7), fragment(0, false, 7)],
        ] {
            let mut rig = with_flows();
            assert!(rig.carry(POD_SIDE, &[of_pod(&chained_packet(&quoted_udp((C, P)), &chain))]).is_empty());
            assert_counted(&rig, &[("rx_packets", 1), ("drop_malformed_quote", 1)]);
        }
    });
}

#[test]
fn an_error_keeps_its_own_extension_headers() {
    over_ipv6(|| {
        let mut rig = with_flows();
        let chain = [hop_by_hop(1), destination_options(1)];
        let sent = chained(&of_pod(&quoted_udp((C, P))), &chain);
        let expected = chained(&to_client(&quoted_udp((C, V))), &chain);
        assert_eq!(rig.one(POD_SIDE, &sent), (Out::Device(CLIENT_SIDE), expected));
    });
}

#[test]
fn an_error_of_a_type_that_nobody_has_defined_passes_as_others_do() {
    over_ipv6(|| {
        let mut rig = with_flows();
        let says = Says(100, 7, [1, 2, 3, 4]);
        let sent = icmp_error(FROM_POD, ROUTER, CLIENT, 64, says, &quoted_tcp((C, P)));
        let expected = icmp_error(TO_CLIENT, ROUTER, CLIENT, 63, says, &quoted_tcp((C, V)));
        assert_eq!(rig.one(POD_SIDE, &sent).1, expected);
    });
}

#[test]
fn an_error_from_a_link_local_address_goes_no_further() {
    over_ipv6(|| {
        let mut rig = with_flows();
        let mut sent = of_pod(&quoted_udp((C, P)));
        sent[22..38].copy_from_slice(&"fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        sent[56..58].fill(0);
        let sum = icmp_sum(&sent);
        sent[56..58].copy_from_slice(&sum.to_be_bytes());
        assert!(rig.carry(POD_SIDE, &[sent]).is_empty());
        assert_counted(&rig, &[("rx_packets", 1), ("drop_beyond_scope", 1)]);
    });
}
