//! Connections that were not seen to begin, that share a port, and that come again.

use super::*;

#[test]
fn a_segment_in_mid_stream_is_picked_up_and_one_that_opens_nothing_is_reset() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b"data"));
        assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, "A", b"data")));
        let (out, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, ((CLIENT, 40_001), V), 64, "SA", b""));
        assert_eq!(out, Out::Device(CLIENT_SIDE));
        assert_ne!(octets[transport() + 13] & 4, 0);
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 1),
            ("answered_reset", 1),
            ("flows_inserted", 1),
            ("flows_picked_up", 1),
        ]);
    });
}

#[test]
fn a_connection_whose_fin_is_the_first_segment_seen_is_picked_up_too() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "FA", b"last"));
        assert_eq!(sent, (Out::Device(POD_SIDE), tcp(TO_POD, (C, P), 63, "FA", b"last")));
        let sent = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "A", b""));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), tcp(TO_CLIENT, (V, C), 63, "A", b"")));
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("flows_picked_up", 1),
        ]);
    });
}

#[test]
fn a_client_port_in_use_to_two_services_with_one_backend_keeps_the_replies_apart() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let other = (OTHER_VIP, 80);
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"one"));
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, other), 64, b"two"));
        let changed = u16::from_be_bytes([octets[transport()], octets[transport() + 1]]);
        assert_ne!(changed, 40_000);
        assert_eq!(octets, udp(TO_POD, ((CLIENT, changed), P), 63, b"two"));
        let (_, first) = rig.one(POD_SIDE, &udp(FROM_POD, (P, C), 64, b"re one"));
        assert_eq!(first, udp(TO_CLIENT, (V, C), 63, b"re one"));
        let (_, second) = rig.one(POD_SIDE, &udp(FROM_POD, (P, (CLIENT, changed)), 64, b"re two"));
        assert_eq!(second, udp(TO_CLIENT, (other, C), 63, b"re two"));
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 4),
            ("forwarded", 4),
            ("flows_inserted", 2),
            ("flows_port_changed", 1),
        ]);
    });
}

#[test]
fn a_syn_on_the_ports_of_a_closed_connection_asks_the_rules_again() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "RA", b""));
        rig.snapshot.services = rig.snapshot.services.with([(ip(VIP), Some(both(10, &[(POD, 9090)])))]);
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        assert_eq!(sent.1, tcp(TO_POD, (C, (POD, 9090)), 63, "S", b""));
        assert_eq!(rig.flows.len(), 1);
    });
}

#[test]
fn a_syn_in_time_wait_goes_to_the_backend_as_it_is_and_by_the_rules_of_the_moment() {
    over_both_families(|| {
        for moved in [false, true] {
            let mut rig = Rig::new();
            rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
            rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "SA", b""));
            for flags in ["A", "FA"] {
                rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, flags, b""));
            }
            rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "FA", b""));
            rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b""));
            if moved {
                rig.snapshot.services =
                    rig.snapshot.services.with([(ip(VIP), Some(both(10, &[(POD, 9090)])))]);
            }
            // The number is the old connection's first one again: the backend may refuse it, we do not.
            let backend = if moved { (POD, 9090) } else { P };
            let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
            assert_eq!(sent.1, tcp(TO_POD, (C, backend), 63, "S", b""));
            assert_eq!(rig.flows.len(), 1);
            assert_eq!(rig.path.counters.flows_inserted, 2);
            // What still comes of the old connection is for the client only if it is of the same flow.
            let (out, _) = rig.one(POD_SIDE, &tcp(FROM_POD, (P, C), 64, "FA", b""));
            assert_eq!(out, if moved { Out::Punt } else { Out::Device(CLIENT_SIDE) });
        }
    });
}
