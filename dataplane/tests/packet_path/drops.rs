//! Packets that are dropped: each is counted by its reason.

use super::*;

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
