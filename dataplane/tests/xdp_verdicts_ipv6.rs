//! The XDP program's decisions about IPv6, packet by packet, each with the counter it counts in.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod steer_rig;
mod xsk_rig;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steer_rig::packet6::{DESTINATION_OPTIONS, Extension, HOP_BY_HOP, Packet6, ROUTING};
use steer_rig::{
    CLIENT, CLIENT6, ENDPOINT, ENDPOINT6, Frame, LONE_VIP6, OWN6, STRANGER6, VIP, VIP6, with_served,
};
use tidegate_dataplane::masquerade::PortRange;
use tidegate_dataplane::net::{Port, Protocol};
use xsk_rig::Packet;

const TO_VIP: &str = "redirected_to_vip";
const FROM_ENDPOINT: &str = "redirected_from_endpoint";
const ABOUT_ENDPOINT: &str = "redirected_about_endpoint";
const TO_MASQUERADE_PORT: &str = "redirected_to_masquerade_port";
const NOT_OURS: &str = "passed_not_ours";
const OWN_ADDRESS: &str = "passed_own_address";
const NOT_IP: &str = "passed_not_ip";

/// Octets of headers before the transport header, if there are no extension headers.
const HEADERS: usize = 40;

/// Returns one extension header of each kind that is walked, whole and not of a fragment.
fn each_kind() -> [Extension; 5] {
    [
        Extension::options(HOP_BY_HOP, 8),
        Extension::options(ROUTING, 24),
        Extension::options(DESTINATION_OPTIONS, 16),
        Extension::authentication(28),
        Extension::fragment(0, false),
    ]
}

fn reply() -> Packet6 {
    Packet6::udp((ENDPOINT6, 8080), (CLIENT6, 40000))
}

#[test]
fn what_goes_to_a_vip_is_taken_whatever_it_is() {
    with_served(|mut served| {
        let vip = Packet6::udp((CLIENT6, 40000), (VIP6, 53));
        let mut expect = |packet: &Packet6| served.expect(packet, true, TO_VIP);
        expect(&vip);
        expect(&Packet6::udp((CLIENT6, 40000), (LONE_VIP6, 80)));
        for protocol in [1, 6, 50, 59, 132, 135, 253] {
            expect(&vip.of(protocol));
        }
        expect(&vip.behind(each_kind()));
        expect(&vip.behind([Extension::fragment(0, true)]));
        expect(&vip.behind([Extension::fragment(1448, false)]));
        expect(&vip.behind(vec![Extension::options(HOP_BY_HOP, 8); 12]));
        expect(&vip.cut(HEADERS));
        expect(&vip.cut(HEADERS + 3));
        expect(&Packet6 { payload_length: Some(0), ..vip });
    });
}

#[test]
fn a_ping_to_a_vip_is_taken_and_one_to_an_own_address_passes() {
    with_served(|mut served| {
        for kind in [128, 129] {
            served.expect(&Packet6::icmp(kind, CLIENT6, VIP6), true, TO_VIP);
            served.expect(&Packet6::icmp(kind, CLIENT6, OWN6), false, OWN_ADDRESS);
            served.expect(&Packet6::icmp(kind, ENDPOINT6, CLIENT6), false, NOT_OURS);
        }
    });
}

#[test]
fn what_comes_from_an_endpoint_is_taken_by_port_and_its_fragments_by_address() {
    with_served(|mut served| {
        let reply = reply();
        served.expect(&reply, true, FROM_ENDPOINT);
        let other_port = Packet6 { ports: (8081, 40000), ..reply.clone() };
        served.expect(&other_port, false, NOT_OURS);
        for (at, has_more) in [(0, true), (8, true), (1448, false)] {
            let piece = [Extension::fragment(at, has_more)];
            served.expect(&reply.behind(piece.clone()), true, FROM_ENDPOINT);
            served.expect(&other_port.behind(piece.clone()), true, FROM_ENDPOINT);
            served.expect(&other_port.behind(piece.clone()).of(50), true, FROM_ENDPOINT);
            let stranger = Packet6 { source: STRANGER6, ..reply.behind(piece) };
            served.expect(&stranger, false, NOT_OURS);
        }
        let whole = [Extension::fragment(0, false)];
        served.expect(&reply.behind(whole.clone()), true, FROM_ENDPOINT);
        served.expect(&other_port.behind(whole), false, NOT_OURS);
        served.expect(&reply.of(6), false, NOT_OURS);
        served.expect(&reply.of(58), false, NOT_OURS);
        served.expect(&Packet6::udp((STRANGER6, 8080), (CLIENT6, 40000)), false, NOT_OURS);
        served.expect(&Packet6::udp((CLIENT6, 40000), (ENDPOINT6, 8080)), false, NOT_OURS);
    });
}

#[test]
fn ports_are_found_behind_every_kind_of_extension_header() {
    with_served(|mut served| {
        let (reply, other_port) = (reply(), Packet6 { ports: (8081, 40000), ..reply() });
        for header in each_kind() {
            served.expect(&reply.behind([header.clone()]), true, FROM_ENDPOINT);
            served.expect(&other_port.behind([header.clone()]), false, NOT_OURS);
            let stop = [header, Extension::options(50, 8)];
            served.expect(&reply.behind(stop), false, NOT_OURS);
        }
        served.expect(&reply.behind(each_kind()), true, FROM_ENDPOINT);
        served.expect(&other_port.behind(each_kind()), false, NOT_OURS);
        let shortest = Extension::said(51, 0, 8);
        served.expect(&reply.behind([shortest.clone()]), true, FROM_ENDPOINT);
        served.expect(&other_port.behind([shortest]), false, NOT_OURS);
        let mut reserved = Extension::fragment(0, false);
        reserved.rest[0] = 0xff;
        reserved.rest[2] = 0x06;
        served.expect(&other_port.behind([reserved]), false, NOT_OURS);
    });
}

#[test]
fn beyond_eight_extension_headers_or_1024_octets_of_them_addresses_decide_alone() {
    with_served(|mut served| {
        let (reply, other_port) = (reply(), Packet6 { ports: (8081, 40000), ..reply() });
        let headers = |count| vec![Extension::options(DESTINATION_OPTIONS, 8); count];
        let long = |rest: usize| {
            vec![Extension::options(HOP_BY_HOP, 1000), Extension::options(DESTINATION_OPTIONS, rest)]
        };
        for within in [headers(8), long(24)] {
            served.expect(&reply.behind(within.clone()), true, FROM_ENDPOINT);
            served.expect(&other_port.behind(within), false, NOT_OURS);
        }
        for beyond in [headers(9), headers(30), long(32), long(2048)] {
            served.expect(&reply.behind(beyond.clone()), true, FROM_ENDPOINT);
            served.expect(&other_port.behind(beyond.clone()), true, FROM_ENDPOINT);
            let stranger = Packet6 { source: STRANGER6, ..reply.behind(beyond.clone()) };
            served.expect(&stranger, false, NOT_OURS);
            let own = Packet6 { destination: OWN6, ..reply.behind(beyond) };
            served.expect(&own, false, OWN_ADDRESS);
        }
        served.steering.set_masquerade_ports(PortRange::new(61_000, 62_000)).unwrap();
        let own = Packet6 { destination: OWN6, ..reply.behind(headers(9)) };
        served.expect(&own, true, TO_MASQUERADE_PORT);
        served.expect(&Packet6 { source: STRANGER6, ..own }, false, OWN_ADDRESS);
    });
}

#[test]
fn what_lies_about_lengths_or_is_cut_has_no_ports() {
    with_served(|mut served| {
        let reply = reply();
        let options = reply.behind([Extension::options(DESTINATION_OPTIONS, 16)]);
        served.expect(&reply.cut(HEADERS + 4), true, FROM_ENDPOINT);
        served.expect(&reply.cut(HEADERS + 3), false, NOT_OURS);
        served.expect(&options.cut(HEADERS + 16 + 4), true, FROM_ENDPOINT);
        for cut in HEADERS..HEADERS + 16 + 4 {
            served.expect(&options.cut(cut), false, NOT_OURS);
        }
        let says = |packet: &Packet6, bytes| Packet6 { payload_length: Some(bytes), ..packet.clone() };
        served.expect(&says(&reply, 4), true, FROM_ENDPOINT);
        served.expect(&says(&reply, 9000), true, FROM_ENDPOINT);
        served.expect(&says(&options, 20), true, FROM_ENDPOINT);
        for bytes in 0..4 {
            served.expect(&says(&reply, bytes), false, NOT_OURS);
        }
        for bytes in 0..20 {
            served.expect(&says(&options, bytes), false, NOT_OURS);
        }
        for length in [0, 2, 7, 100, 255] {
            let lying = Extension::said(DESTINATION_OPTIONS, length, 16);
            served.expect(&reply.behind([lying]), false, NOT_OURS);
        }
        let fragment = reply.behind([Extension::fragment(1448, false)]);
        served.expect(&fragment.cut(HEADERS + 8), true, FROM_ENDPOINT);
        served.expect(&fragment.cut(HEADERS + 7), false, NOT_OURS);
        served.expect(&says(&fragment, 7), false, NOT_OURS);
    });
}

#[test]
fn an_error_about_a_packet_to_an_endpoint_is_taken() {
    with_served(|mut served| {
        let sent = Packet6::udp((CLIENT6, 40000), (ENDPOINT6, 8080));
        let error = |quote: &Packet6| Packet6::error(3, STRANGER6, CLIENT6, quote);
        for kind in 0..=255 {
            let packet = Packet6::error(kind, ENDPOINT6, CLIENT6, &sent);
            match kind {
                1..=4 => served.expect(&packet, true, ABOUT_ENDPOINT),
                130..=137 | 143 => served.expect(&packet, false, "passed_link_message"),
                _ => served.expect(&packet, false, NOT_OURS),
            }
        }
        let taken = [
            error(&sent).behind(each_kind()),
            error(&sent.behind(each_kind())),
            error(&sent.behind(each_kind())).behind(each_kind()),
            error(&sent.behind(vec![Extension::options(HOP_BY_HOP, 8); 8])),
            error(&sent.behind([Extension::fragment(0, true)])),
            error(&sent).cut(HEADERS + 8 + HEADERS + 4),
        ];
        for packet in taken {
            served.expect(&packet, true, ABOUT_ENDPOINT);
        }
        let whole = u16::try_from(8 + HEADERS + 4).unwrap();
        served.expect(&Packet6 { payload_length: Some(whole), ..error(&sent) }, true, ABOUT_ENDPOINT);
        let passed = [
            Packet6 { payload_length: Some(whole - 1), ..error(&sent) },
            Packet6 { payload_length: Some(8 + 39), ..error(&sent) },
            error(&sent).cut(HEADERS + 8 + HEADERS + 3),
            error(&sent).cut(HEADERS + 8 + 39),
            error(&sent).behind([Extension::fragment(0, true)]),
            error(&sent).behind([Extension::fragment(1448, false)]),
            error(&sent).behind(vec![Extension::options(HOP_BY_HOP, 8); 9]),
            error(&sent.behind([Extension::fragment(1448, false)])),
            error(&sent.behind(vec![Extension::options(HOP_BY_HOP, 8); 9])),
            error(&Packet6 { payload_length: Some(3), ..sent.clone() }),
            error(&Packet6 { ports: (40000, 8081), ..sent.clone() }),
            error(&Packet6 { version: 4, ..sent.clone() }),
            error(&sent.of(6)),
            error(&sent.of(58)),
            error(&reply()),
            error(&sent).of(1),
        ];
        for packet in passed {
            served.expect(&packet, false, NOT_OURS);
        }
    });
}

#[test]
fn an_error_of_one_family_never_quotes_the_other() {
    with_served(|mut served| {
        let sent = Packet::udp((CLIENT, 40000), (ENDPOINT, 8080));
        let in_ipv6 =
            Packet6 { payload: sent.octets()[14..].to_vec(), ..Packet6::icmp(3, STRANGER6, CLIENT6) };
        served.expect(&in_ipv6, false, NOT_OURS);
        let sent6 = Packet6::udp((CLIENT6, 40000), (ENDPOINT6, 8080));
        let quote = sent6.octets()[14..].to_vec();
        let in_ipv4 = Packet { payload: quote, ..Packet::icmp(3, CLIENT, CLIENT, &sent) };
        served.expect(&in_ipv4, false, NOT_OURS);
        served.expect(&Packet { protocol: 58, ..Packet::icmp(3, CLIENT, CLIENT, &sent) }, false, NOT_OURS);
    });
}

#[test]
fn an_error_goes_first_where_its_own_destination_belongs() {
    with_served(|mut served| {
        let sent = Packet6::udp((OWN6, 40000), (ENDPOINT6, 8080));
        served.expect(&Packet6::error(1, ENDPOINT6, OWN6, &sent), false, OWN_ADDRESS);
        let answer = Packet6::udp((VIP6, 80), (CLIENT6, 40000));
        served.expect(&Packet6::error(2, STRANGER6, VIP6, &answer), true, TO_VIP);
        served.expect(&Packet6::error(2, STRANGER6, CLIENT6, &answer), false, NOT_OURS);
    });
}

#[test]
fn the_boxs_own_traffic_passes_also_from_endpoints() {
    with_served(|mut served| {
        served.expect(&Packet6::udp((CLIENT6, 40000), (OWN6, 22)), false, OWN_ADDRESS);
        let own = Packet6::udp((ENDPOINT6, 8080), (OWN6, 40000));
        served.expect(&own, false, OWN_ADDRESS);
        served.expect(&own.behind([Extension::fragment(1448, false)]), false, OWN_ADDRESS);
        served.steering.insert_own_address(VIP6.into()).unwrap();
        served.expect(&Packet6::udp((CLIENT6, 40000), (VIP6, 80)), false, OWN_ADDRESS);
    });
}

#[test]
fn an_endpoints_reply_to_a_masquerade_port_of_ours_is_taken_and_nothing_else_to_our_addresses() {
    with_served(|mut served| {
        let reply = |port| Packet6::udp((ENDPOINT6, 8080), (OWN6, port));
        served.expect(&reply(61_500), false, OWN_ADDRESS);
        served.steering.set_masquerade_ports(PortRange::new(61_000, 62_000)).unwrap();
        for port in [61_000, 61_500, 62_000] {
            served.expect(&reply(port), true, TO_MASQUERADE_PORT);
            served.expect(&reply(port).behind(each_kind()), true, TO_MASQUERADE_PORT);
        }
        for port in [0, 60_999, 62_001] {
            served.expect(&reply(port), false, OWN_ADDRESS);
        }
        let reply = reply(61_500);
        for (at, has_more) in [(0, true), (1448, false)] {
            let piece = reply.behind([Extension::fragment(at, has_more)]);
            served.expect(&piece, true, TO_MASQUERADE_PORT);
            served.expect(&Packet6 { source: STRANGER6, ..piece }, false, OWN_ADDRESS);
        }
        served.expect(&reply.of(6), false, OWN_ADDRESS);
        served.expect(&Packet6 { ports: (8081, 61_500), ..reply.clone() }, false, OWN_ADDRESS);
        served.expect(&Packet6 { source: STRANGER6, ..reply.clone() }, false, OWN_ADDRESS);
        served.expect(&reply.cut(HEADERS + 3), false, OWN_ADDRESS);

        let error = |port| {
            let sent = Packet6::udp((OWN6, port), (ENDPOINT6, 8080));
            Packet6::error(3, STRANGER6, OWN6, &sent)
        };
        served.expect(&error(61_500), true, ABOUT_ENDPOINT);
        served.expect(&error(60_999), false, OWN_ADDRESS);
        served.steering.insert_listener(OWN6.into(), Port::new(61_500), Protocol::Udp).unwrap();
        served.expect(&reply, false, "passed_listener");
    });
}

#[test]
fn a_listener_passes_before_any_service_rule() {
    with_served(|mut served| {
        served.steering.insert_listener(VIP6.into(), Port::new(53), Protocol::Udp).unwrap();
        let query = Packet6::udp((CLIENT6, 40000), (VIP6, 53));
        served.expect(&query, false, "passed_listener");
        served.expect(&query.behind(each_kind()), false, "passed_listener");
        served.expect(&query.of(6), true, TO_VIP);
        served.expect(&Packet6::udp((CLIENT6, 40000), (VIP6, 9153)), true, TO_VIP);
        served.steering.remove_listener(VIP6.into(), Port::new(53), Protocol::Udp).unwrap();
        served.expect(&query, true, TO_VIP);
    });
}

#[test]
fn what_stations_of_a_link_tell_each_other_passes_even_to_a_vip() {
    with_served(|mut served| {
        for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
            for destination in [VIP6, OWN6, ENDPOINT6, CLIENT6] {
                let message = Packet6::icmp(kind, ENDPOINT6, destination);
                served.expect(&message, false, "passed_link_message");
                let alert = [Extension::options(HOP_BY_HOP, 8)];
                served.expect(&message.behind(alert), false, "passed_link_message");
            }
        }
        for kind in [127, 129, 138, 142, 144] {
            served.expect(&Packet6::icmp(kind, ENDPOINT6, VIP6), true, TO_VIP);
        }
        served.expect(&Packet6::icmp(135, CLIENT6, VIP6).of(1), true, TO_VIP);
    });
}

#[test]
fn what_is_for_a_group_or_for_an_address_of_the_link_passes() {
    with_served(|mut served| {
        served.steering.insert_vip("fe00::".parse().unwrap(), 7).unwrap();
        served.steering.insert_endpoint("fe80::5".parse().unwrap(), Port::new(8080), Protocol::Udp).unwrap();
        let to = |destination: &str| Packet6 { destination: destination.parse().unwrap(), ..reply() };
        for group in ["ff02::1", "ff02::1:ff00:1", "ff05::2", "ff00::", "ffff::1"] {
            served.expect(&to(group), false, "passed_group_destination");
        }
        for link_local in ["fe80::1", "febf:ffff::1"] {
            served.expect(&to(link_local), false, "passed_link_local");
        }
        served.expect(&to("fe7f::1"), true, TO_VIP);
        served.expect(&to("fec0::1"), true, TO_VIP);
        let mut multicast = Packet6::udp((CLIENT6, 40000), (VIP6, 53));
        multicast.ethernet_destination = [0x33, 0x33, 0, 0, 0, 1];
        served.expect(&multicast, false, "passed_group_destination");
        multicast.ethernet_destination = [2, 0, 0, 0, 0, 0x99];
        served.expect(&multicast, false, "passed_other_station");
    });
}

#[test]
fn what_is_tagged_or_no_packet_of_its_ethertype_passes() {
    with_served(|mut served| {
        let vip = Packet6::udp((CLIENT6, 40000), (VIP6, 53));
        for ethertype in [0x0800, 0x8100, 0x88a8, 0x86dc] {
            served.expect(&Packet6 { ethertype, ..vip.clone() }, false, NOT_IP);
        }
        for version in [0, 4, 5, 7, 15] {
            served.expect(&Packet6 { version, ..vip.clone() }, false, NOT_IP);
        }
        served.expect(&vip.cut(HEADERS - 1), false, NOT_IP);
        served.expect(&vip.cut(0), false, NOT_IP);
    });
}

#[test]
fn an_address_that_stands_for_ipv4_is_none_in_an_ipv6_packet() {
    with_served(|mut served| {
        let mapped = |address: [u8; 4]| Ipv4Addr::from(address).to_ipv6_mapped();
        served.expect(&Packet6::udp((CLIENT6, 40000), (mapped(VIP), 53)), false, NOT_IP);
        served.expect(&Packet6::udp((mapped(ENDPOINT), 8080), (CLIENT6, 40000)), false, NOT_IP);
        served.expect(&Packet6::udp((mapped(CLIENT), 8080), (VIP6, 53)), false, NOT_IP);
        let sent = Packet6::udp((CLIENT6, 40000), (mapped(ENDPOINT), 8080));
        served.expect(&Packet6::error(3, STRANGER6, CLIENT6, &sent), false, NOT_OURS);
    });
}

#[test]
fn a_prefix_of_one_family_takes_nothing_of_the_other() {
    with_served(|mut served| {
        let (to4, to6) =
            (Packet::udp((CLIENT, 40000), (CLIENT, 53)), Packet6::udp((CLIENT6, 40000), (CLIENT6, 53)));
        served.steering.insert_vip([0; 4].into(), 0).unwrap();
        served.expect(&to4, true, TO_VIP);
        served.expect(&to6, false, NOT_OURS);
        served.steering.remove_vip([0; 4].into(), 0).unwrap();
        for (prefix, length) in [("::", 0), ("::", 80), ("::ffff:0:0", 96)] {
            let address: Ipv6Addr = prefix.parse().unwrap();
            let error = served.steering.insert_vip(address.into(), length).unwrap_err().to_string();
            assert!(error.contains("which is IPv4's"), "{error}");
        }
        served.steering.insert_vip("2000::".parse().unwrap(), 3).unwrap();
        served.expect(&to6, true, TO_VIP);
        served.expect(&to4, false, NOT_OURS);
    });
}

#[test]
fn entries_come_and_go_and_an_address_stays_while_one_endpoint_has_it() {
    with_served(|mut served| {
        let fragment = reply().behind([Extension::fragment(1448, false)]);
        let (address, first, second): (IpAddr, _, _) = (ENDPOINT6.into(), Port::new(8080), Port::new(9090));
        served.steering.insert_endpoint(address, second, Protocol::Tcp).unwrap();
        served.steering.remove_endpoint(address, first, Protocol::Udp).unwrap();
        served.expect(&fragment, true, FROM_ENDPOINT);
        served.steering.remove_endpoint(address, second, Protocol::Tcp).unwrap();
        served.expect(&fragment, false, NOT_OURS);
        let vip = Packet6::udp((CLIENT6, 40000), (VIP6, 53));
        served.steering.insert_vip(VIP6.into(), 128).unwrap();
        served.steering.remove_vip("fd00:96::ffff".parse().unwrap(), 112).unwrap();
        served.expect(&vip, true, TO_VIP);
        served.steering.remove_vip(VIP6.into(), 128).unwrap();
        served.expect(&vip, false, NOT_OURS);
        served.steering.remove_own_address(OWN6.into()).unwrap();
        served.expect(&Packet6::udp((CLIENT6, 40000), (OWN6, 22)), false, NOT_OURS);
        let error = served.steering.insert_vip(VIP6.into(), 129).unwrap_err().to_string();
        assert_eq!(error, "XDP program: VIP prefix length 129: must be below 129");
    });
}
