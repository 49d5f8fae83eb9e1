//! Where packets go: to the kernel, or by a next hop that is known, awaited, lost or moved.

use super::*;

#[test]
fn what_belongs_to_no_flow_and_no_rule_goes_to_the_kernel_as_it_came() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let direct = udp(FROM_POD, (P, C), 64, b"a reply to a client that asked the pod itself");
        let sent = rig.one(POD_SIDE, &direct);
        assert_eq!(
            sent,
            (Out::Punt, udp(TO_KERNEL, (P, C), 64, b"a reply to a client that asked the pod itself"))
        );
        let arp = [&FROM_POD.1.0[..], &FROM_POD.0.0, &[8, 6], &[0; 28]].concat();
        let (out, octets) = rig.one(POD_SIDE, &arp);
        assert_eq!((out, &octets[12..]), (Out::Punt, &arp[12..]));
        rig.assert_counters(&[("rx_packets", 2), ("tx_packets", 2), ("punted", 2)]);
    });
}

#[test]
fn a_packet_for_a_local_endpoint_or_an_unserved_device_goes_to_the_kernel_already_rewritten() {
    over_both_families(|| {
        let mut rig = Rig::new();
        for (to, backend) in [(LOCAL_VIP, [10, 1, 0, 1]), (ELSEWHERE_VIP, [172, 16, 0, 5])] {
            let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, (to, 80)), 64, b"x"));
            assert_eq!(sent, (Out::Punt, udp(TO_KERNEL, (C, (backend, 8080)), 63, b"x")));
        }
        rig.assert_counters(&[("rx_packets", 2), ("tx_packets", 2), ("punted", 2), ("flows_inserted", 2)]);
    });
}

#[test]
fn the_first_packet_to_an_unresolved_next_hop_waits_and_is_not_lost() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let quiet = (QUIET_VIP, 80);
        let packets: Vec<_> = (0..3).map(|n| udp(FROM_CLIENT, (C, quiet), 64, &[n])).collect();
        assert!(rig.carry(CLIENT_SIDE, &packets).is_empty());
        assert_eq!(rig.wire.wanted, [next_hop(POD_SIDE, QUIET_POD)]);
        rig.assert_counters(&[("rx_packets", 3), ("held", 3), ("flows_inserted", 1)]);
        assert!(rig.release().is_empty());

        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC)));
        rig.learn(&known);
        let left: Vec<_> = rig.release();
        let expected: Vec<_> =
            (0..3).map(|n| (Out::Device(POD_SIDE), udp(TO_POD, (C, (QUIET_POD, 8080)), 63, &[n]))).collect();
        assert_eq!(left, expected);
        rig.assert_counters(&[("rx_packets", 3), ("tx_packets", 3), ("forwarded", 3), ("flows_inserted", 1)]);
    });
}

#[test]
fn packets_wait_for_a_next_hop_only_in_bounded_number_and_time() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let packets: Vec<_> = (0..40).map(|n| udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, &[n])).collect();
        assert!(rig.carry(CLIENT_SIDE, &packets).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 40),
            ("held", 32),
            ("drop_hold_full", 8),
            ("flows_inserted", 1),
        ]);
        rig.now = Now::from_seconds(104);
        assert!(rig.release().is_empty());
        rig.assert_counters(&[
            ("rx_packets", 40),
            ("drop_hold_full", 8),
            ("drop_hold_timeout", 32),
            ("flows_inserted", 1),
        ]);
    });
}

#[test]
fn a_next_hop_that_failed_ends_the_wait() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, b"x")]);
        let mut known = neighbours();
        known.push((next_hop(POD_SIDE, QUIET_POD), NeighbourState::Failed));
        rig.learn(&known);
        assert!(rig.release().is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_neighbour_failed", 1), ("flows_inserted", 1)]);
    });
}

#[test]
fn a_next_hop_that_moves_is_followed_by_established_flows() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"1"));
        let moved = tidegate_dataplane::net::Mac([2, 0, 0, 0, 2, 99]);
        let mut known = neighbours();
        known[1].1 = NeighbourState::Reachable(moved);
        rig.learn(&known);
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"2"));
        assert_eq!(octets, udp((POD_SIDE_MAC, moved), (C, P), 63, b"2"));
    });
}
