//! Golden cases of what stands between an IPv6 header and its transport header (RFC 8200 §4, RFC 7112, RFC 6946).
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod chain_rig;
mod path_rig;

use chain_rig::*;
use etherparse::PacketBuilder;
use path_rig::*;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

/// Asserts that nothing leaves and one drop is counted.
#[track_caller]
fn assert_dropped(packet: Vec<u8>, name: &str) {
    let mut rig = Rig::new();
    assert!(rig.carry(CLIENT_SIDE, &[packet]).is_empty());
    rig.assert_counters(&[("rx_packets", 1), (name, 1)]);
    assert!(rig.flows.is_empty());
}

#[test]
fn extension_headers_are_walked_and_leave_as_they_came() {
    over_ipv6(|| {
        for chain in [
            vec![hop_by_hop(1)],
            vec![destination_options(3)],
            vec![routing(0)],
            vec![authentication()],
            vec![fragment(0, false, 7)],
            vec![
                hop_by_hop(1),
                destination_options(1),
                routing(0),
                fragment(0, false, 7),
                authentication(),
                destination_options(2),
            ],
        ] {
            let mut rig = Rig::new();
            for (asked, leaves) in [
                (udp(FROM_CLIENT, (C, V), 64, b"question"), udp(TO_POD, (C, P), 63, b"question")),
                (tcp(FROM_CLIENT, (C, V), 64, "S", b""), tcp(TO_POD, (C, P), 63, "S", b"")),
            ] {
                let sent = rig.one(CLIENT_SIDE, &chained(&asked, &chain));
                assert_eq!(sent, (Out::Device(POD_SIDE), chained(&leaves, &chain)));
            }
            let answer = chained(&udp(FROM_POD, (P, C), 64, b"answer"), &chain);
            let expected = chained(&udp(TO_CLIENT, (V, C), 63, b"answer"), &chain);
            assert_eq!(rig.one(POD_SIDE, &answer), (Out::Device(CLIENT_SIDE), expected));
            rig.assert_counters(&[
                ("rx_packets", 3),
                ("tx_packets", 3),
                ("forwarded", 3),
                ("flows_inserted", 2),
            ]);
        }
    });
}

#[test]
fn as_many_headers_as_are_walked_pass_and_what_more_of_them_hide_is_a_named_drop() {
    over_ipv6(|| {
        let asked = udp(FROM_CLIENT, (C, V), 64, b"x");
        for most in [vec![destination_options(1); 8], vec![destination_options(128)]] {
            let sent = Rig::new().one(CLIENT_SIDE, &chained(&asked, &most));
            assert_eq!(sent.1, chained(&udp(TO_POD, (C, P), 63, b"x"), &most));
        }
        for more in [vec![destination_options(1); 9], vec![hop_by_hop(1), destination_options(128)]] {
            assert_dropped(chained(&asked, &more), "drop_header_chain_too_long");
            let direct = chained(&udp(FROM_POD, (P, C), 64, b"x"), &more);
            let expected = chained(&udp(TO_KERNEL, (P, C), 64, b"x"), &more);
            assert_eq!(Rig::new().one(POD_SIDE, &direct), (Out::Punt, expected), "not to a Service");
        }
    });
}

#[test]
fn headers_that_lie_or_are_out_of_place_are_named_drops() {
    over_ipv6(|| {
        let asked = udp(FROM_CLIENT, (C, V), 64, b"x");
        let mut too_long = chained(&asked, &[destination_options(1)]);
        too_long[55] = 40;
        let mut cut = chained(&asked, &[destination_options(1)]);
        cut[18..20].copy_from_slice(&[0, 3]);
        for wrong in [
            chained(&asked, &[destination_options(1), hop_by_hop(1)]),
            chained(&asked, &[fragment(0, false, 7), fragment(0, false, 7)]),
            too_long,
            cut,
        ] {
            assert_dropped(wrong, "drop_malformed_ipv6");
        }
    });
}

#[test]
fn a_routing_header_with_segments_left_is_a_named_drop() {
    over_ipv6(|| {
        for segments_left in [1, 255] {
            let asked = udp(FROM_CLIENT, (C, V), 64, b"x");
            assert_dropped(chained(&asked, &[routing(segments_left)]), "drop_routing_header");
            let behind = [hop_by_hop(1), routing(0), routing(segments_left)];
            assert_dropped(chained(&asked, &behind), "drop_routing_header");
        }
    });
}

#[test]
fn an_atomic_fragment_has_nothing_to_do_with_the_fragments_of_its_identification() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        let later = chained(&udp(FROM_CLIENT, (C, V), 64, &[7; 16]), &[fragment(1448, false, 7)]);
        assert!(rig.carry(CLIENT_SIDE, &[later]).is_empty(), "it waits for its first");
        let atomic = chained(&udp(FROM_CLIENT, (C, V), 64, b"whole"), &[fragment(0, false, 7)]);
        for _ in 0..2 {
            let (_, left) = rig.one(CLIENT_SIDE, &atomic);
            let expected = chained(&udp(TO_POD, (C, P), 63, b"whole"), &[fragment(0, false, 7)]);
            assert_eq!(left, expected);
        }
        rig.assert_counters(&[
            ("rx_packets", 3),
            ("tx_packets", 2),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("held", 1),
        ]);
    });
}

/// A datagram in two pieces, with headers in front of the fragment header in both and behind it in the first.
fn in_two_pieces(whole: &[u8], before: &[Extension], behind: &[Extension]) -> Vec<Vec<u8>> {
    let data = chained(whole, behind)[54..].to_vec();
    let first_kind = behind.first().map_or(whole[20], |Extension(kind, _)| *kind);
    let piece = |from: usize, to: usize| {
        let mut piece = whole[..54].to_vec();
        piece[20] = first_kind;
        piece.extend(&data[from..to]);
        let header = fragment(from as u16, to < data.len(), 7);
        chained(&piece, &[before, &[header]].concat())
    };
    vec![piece(0, 80), piece(80, data.len())]
}

#[test]
fn fragments_with_headers_in_front_of_and_behind_the_fragment_header_follow_their_first() {
    over_ipv6(|| {
        let before = [hop_by_hop(1), destination_options(2), routing(0)];
        let behind = [authentication(), destination_options(1)];
        for (before, behind) in [(&before[..], &behind[..]), (&before, &[]), (&[], &behind)] {
            let pieces =
                |macs, ends, hop_limit| in_two_pieces(&udp(macs, ends, hop_limit, &[9; 200]), before, behind);
            let [first, second] = pieces(FROM_CLIENT, (C, V), 64).try_into().unwrap();
            for asked in [[first.clone(), second.clone()], [second, first]] {
                let mut rig = Rig::new();
                let left: Vec<_> =
                    rig.carry(CLIENT_SIDE, &asked).into_iter().map(|(_, octets)| octets).collect();
                assert_eq!(left, pieces(TO_POD, (C, P), 63));
            }
        }
    });
}

#[test]
fn a_first_fragment_without_all_headers_is_a_named_drop() {
    over_ipv6(|| {
        let asked = tcp(FROM_CLIENT, (C, V), 64, "S", &[9; 100]);
        let cut_in_the_chain = {
            let mut frame = chained(&asked, &[fragment(0, true, 7), destination_options(4)]);
            frame.truncate(54 + 8 + 16);
            frame[18..20].copy_from_slice(&24_u16.to_be_bytes());
            frame
        };
        assert_dropped(cut_in_the_chain, "drop_malformed_ipv6");
        let cut_in_the_transport_header = {
            let mut frame = chained(&asked, &[fragment(0, true, 7), destination_options(1)]);
            frame.truncate(54 + 8 + 8 + 16);
            frame[18..20].copy_from_slice(&32_u16.to_be_bytes());
            frame
        };
        assert_dropped(cut_in_the_transport_header, "drop_tiny_fragment");
    });
}

#[test]
fn a_jumbogram_and_a_payload_of_nothing_are_named_drops() {
    over_ipv6(|| {
        let mut jumbogram = chained(&udp(FROM_CLIENT, (C, V), 64, b"x"), &[hop_by_hop(1)]);
        jumbogram[18..20].fill(0);
        assert_dropped(jumbogram, "drop_malformed_ipv6");
        let mut nothing = udp(FROM_CLIENT, (C, V), 64, b"")[..54].to_vec();
        nothing[18..21].copy_from_slice(&[0, 0, 59]);
        assert_dropped(nothing.clone(), "drop_unsupported_protocol");
        nothing[20] = 17;
        assert_dropped(nothing, "drop_malformed_transport");
    });
}

#[test]
fn an_echo_with_extension_headers_is_answered_without_them() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        let asked =
            chained(&ping(FROM_CLIENT, CLIENT, VIP, 9, false), &[hop_by_hop(1), destination_options(3)]);
        let expected = ping(TO_CLIENT, VIP, CLIENT, 64, true);
        assert_eq!(rig.one(CLIENT_SIDE, &asked), (Out::Device(CLIENT_SIDE), expected));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("answered_echo", 1)]);
    });
}

#[test]
fn answers_of_ours_have_no_extension_headers_and_quote_those_of_the_question() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        let chain = [hop_by_hop(1), destination_options(1)];
        let refused = chained(&udp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, b"x"), &chain);
        let expected = icmp_error(TO_CLIENT, EMPTY_VIP, CLIENT, 64, port_unreachable(), &ip_of(&refused));
        assert_eq!(rig.one(CLIENT_SIDE, &refused).1, expected);
        let ended = chained(&udp(FROM_CLIENT, (C, V), 1, b"x"), &chain);
        let expected = icmp_error(TO_CLIENT, GATEWAY, CLIENT, 64, time_exceeded(), &ip_of(&ended));
        assert_eq!(rig.one(CLIENT_SIDE, &ended).1, expected);
        let syn = tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "S", b"");
        let bare = rig.one(CLIENT_SIDE, &syn);
        assert_eq!(rig.one(CLIENT_SIDE, &chained(&syn, &chain)), bare, "a RST");
    });
}

/// A packet whose source is an address that path_rig has no short form for.
fn from_address(mut frame: Vec<u8>, source: &str) -> Vec<u8> {
    frame[22..38].copy_from_slice(&source.parse::<std::net::Ipv6Addr>().unwrap().octets());
    frame
}

#[test]
fn a_packet_from_a_link_local_address_goes_to_no_backend() {
    over_ipv6(|| {
        let asked = udp(FROM_CLIENT, (C, V), 64, b"x");
        assert_dropped(from_address(asked.clone(), "fe80::2"), "drop_beyond_scope");
        assert_dropped(from_address(asked, "febf::2"), "drop_beyond_scope");
    });
}

/// A message of Neighbor Discovery or Multicast Listener Discovery.
fn of_the_link(source: &str, destination: &str, kind: u8) -> Vec<u8> {
    let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let link = PacketBuilder::ethernet2(CLIENT_MAC.0, CLIENT_SIDE_MAC.0);
    let builder = link.ipv6(octets(source), octets(destination), 255).icmpv6_raw(kind, 0, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 16]).unwrap();
    frame
}

#[test]
fn messages_of_the_link_go_to_the_kernel_unless_they_are_for_a_virtual_address() {
    over_ipv6(|| {
        let mut rig = Rig::new();
        let solicitation = of_the_link("fe80::2", "ff02::1:ff00:1", 135);
        let report = chained(&of_the_link("fe80::2", "ff02::16", 143), &[hop_by_hop(1)]);
        let probe = of_the_link("fe80::2", "fe80::1", 135);
        for message in [solicitation, report, probe] {
            let (out, left) = rig.one(CLIENT_SIDE, &message);
            assert_eq!((out, &left[12..]), (Out::Punt, &message[12..]));
        }
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("punted", 3)]);
        let vip = ipv6(VIP).to_string();
        assert_dropped(of_the_link("fd00:a:1::2", &vip, 135), "drop_unsupported_icmp");
        assert_dropped(of_the_link("::", "ff02::1:ff00:1", 135), "drop_martian_source");
    });
}
