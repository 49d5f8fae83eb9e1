//! The packet path allocates nothing and frees nothing, whatever the packets (design decision 11).
//!
//! Only what a worker does per burst is measured; the rig around it may allocate. Counts are per thread, so that tests
//! that run side by side do not disturb each other.
#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "allocations/allocator.rs"]
mod allocator;
mod chain_rig;
#[path = "allocations/drops.rs"]
mod drops;
mod fragment_rig;
mod path_rig;
#[path = "allocations/rules.rs"]
mod rules;

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::Arc;

use allocator::without_allocator;
use chain_rig::{
    authentication, chained, chained_packet, destination_options, fragment, hop_by_hop, routing,
};
use fragment_rig::{cut, fragmentable, piece, raw_piece};
use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::counters::Published;
use tidegate_dataplane::flows::{Cursors, EndpointId, Key, NewFlow, ServicePortId, State};
use tidegate_dataplane::masquerade::{Masquerade, Mode, PortRange};
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Terms, VirtualAddress};
use tidegate_dataplane::snapshot::{Device, Publisher};
use tidegate_dataplane::verdict::DropReason;
use tidegate_dataplane::worker::{BURST, Bell, Exchange, Path};
use tidegate_dataplane::xsk::FrameMemory;

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

/// Makes a rig that has carried its first packet.
fn warm_rig(flows: u32) -> Rig {
    let mut rig = Rig::with_flows(flows);
    rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, ((CLIENT, 9), (VIP, 80)), 64, b"first"));
    rig
}

/// Carries packets in bursts; each burst must do without the allocator. Returns how many left.
#[track_caller]
fn carry(rig: &mut Rig, device: DeviceIndex, packets: &[Vec<u8>]) -> usize {
    let mut left = 0;
    for packets in packets.chunks(BURST) {
        let mut burst = rig.burst(packets);
        rig.wire.sent.reserve(BURST);
        rig.wire.wanted.reserve(BURST);
        let Rig { path, snapshot, now, wire, .. } = rig;
        without_allocator(|| path.carry(device, &mut burst, snapshot, *now, wire));
        left += rig.collect().len();
    }
    left
}

/// Releases held packets without the allocator. Returns how many left.
#[track_caller]
fn release(rig: &mut Rig) -> usize {
    rig.wire.sent.reserve(BURST);
    let Rig { path, snapshot, now, wire, .. } = rig;
    without_allocator(|| path.release(snapshot, *now, wire));
    rig.collect().len()
}

fn many(count: u16, packet: impl Fn(u16) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..count).map(packet).collect()
}

#[test]
fn new_and_established_datagrams_of_both_directions_ask_nothing_of_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(1024);
        let requests = many(300, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"question"));
        let replies = many(300, |n| udp(FROM_POD, (P, (CLIENT, 1000 + n)), 64, b"answer"));
        for round in 0..3 {
            rig.now = Now::from_seconds(200 + round);
            assert_eq!(carry(&mut rig, CLIENT_SIDE, &requests), 300);
            assert_eq!(carry(&mut rig, POD_SIDE, &replies), 300);
        }
        assert_eq!(rig.path.counters.flows_inserted, 301);
    });
}

#[test]
fn connections_ask_nothing_of_the_allocator_from_syn_to_reopening() {
    over_both_families(|| {
        let mut rig = warm_rig(1024);
        let from_client = |flags, port| tcp(FROM_CLIENT, ((CLIENT, port), V), 64, flags, b"");
        let from_pod = |flags, port| tcp(FROM_POD, (P, (CLIENT, port)), 64, flags, b"");
        for (requests, flags) in [
            (true, "S"),
            (false, "SA"),
            (true, "A"),
            (false, "A"),
            (false, "FA"),
            (true, "FA"),
            (false, "A"),
            (true, "S"),
            (false, "RA"),
            (true, "S"),
        ] {
            let (device, packets) = match requests {
                true => (CLIENT_SIDE, many(100, |n| from_client(flags, 2000 + n))),
                false => (POD_SIDE, many(100, |n| from_pod(flags, 2000 + n))),
            };
            assert_eq!(carry(&mut rig, device, &packets), 100, "{flags}");
        }
        assert_eq!(rig.path.counters.flows_inserted, 301, "the last two SYNs opened anew");
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &many(50, |n| from_client("A", 3000 + n))), 50);
        assert_eq!(rig.path.counters.flows_picked_up, 50);
    });
}

#[test]
fn echoes_refusals_and_what_goes_to_the_kernel_ask_nothing_of_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(64);
        let empty = (EMPTY_VIP, 80);
        let packets = [
            ping(FROM_CLIENT, CLIENT, VIP, 64, false),
            tcp(FROM_CLIENT, (C, empty), 64, "S", b""),
            tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "FA", b"data"),
            udp(FROM_CLIENT, (C, empty), 64, b"short"),
            udp(FROM_CLIENT, (C, (VIP, 81)), 64, &[7; 1400]),
            udp(FROM_CLIENT, (C, V), 1, b"x"),
            udp(FROM_CLIENT, (C, V), 64, &[7; 1480]),
            udp(FROM_CLIENT, (C, (LOCAL_VIP, 80)), 64, b"x"),
            udp(FROM_CLIENT, (C, (ELSEWHERE_VIP, 80)), 64, b"x"),
            udp(FROM_POD, (P, C), 64, b"of no flow"),
            [&FROM_POD.1.0[..], &FROM_POD.0.0, &[8, 6], &[0; 28]].concat(),
        ];
        for _ in 0..3 {
            assert_eq!(carry(&mut rig, CLIENT_SIDE, &packets), packets.len());
        }
        let counters = &rig.path.counters;
        assert_eq!((counters.answered_echo, counters.answered_reset), (3, 6));
        assert_eq!((counters.answered_port_unreachable, counters.punted), (6, 12));
        assert_eq!((counters.answered_time_exceeded, counters.answered_fragmentation_needed), (3, 3));
    });
}

#[test]
fn extension_headers_and_fragments_of_ipv6_ask_nothing_of_the_allocator() {
    over_ipv6(|| {
        let mut rig = warm_rig(64);
        let chain = [hop_by_hop(1), destination_options(2), routing(0), authentication()];
        let plain = udp(FROM_CLIENT, (C, V), 64, b"question");
        let about = ip_of(&udp(TO_POD, ((CLIENT, 9), P), 62, b"first"));
        let packets = [
            chained(&plain, &chain),
            chained(&plain, &[fragment(0, false, 7)]),
            chained(&plain, &vec![destination_options(1); 8]),
            chained(&ping(FROM_CLIENT, CLIENT, VIP, 64, false), &chain),
            chained(&tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "S", b""), &chain),
            chained(&udp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, b""), &chain),
            chained(&udp(FROM_CLIENT, (C, V), 1, b""), &chain),
            chained(&udp(FROM_POD, (P, C), 64, b"of a flow"), &chain),
            chained(&udp(FROM_POD, (P, (CLIENT, 5)), 64, b"of no flow"), &vec![destination_options(1); 9]),
            icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &chained_packet(&about, &chain)),
        ];
        for _ in 0..3 {
            assert_eq!(carry(&mut rig, CLIENT_SIDE, &packets), packets.len());
        }
        let pieces = cut(&fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 4000]), 8));
        let early = [pieces[1].clone(), pieces[2].clone(), pieces[0].clone()];
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &early), 3);
    });
}

#[test]
fn errors_about_flows_ask_nothing_of_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(64);
        let about = |ends| ip_of(&udp(TO_POD, ends, 62, b"first"));
        let unreachable = port_unreachable();
        let of_pod = icmp_error(FROM_POD, POD, CLIENT, 64, unreachable, &about(((CLIENT, 9), P)));
        let of_client = icmp_error(FROM_CLIENT, CLIENT, VIP, 64, unreachable, &about((V, (CLIENT, 9))));
        assert_eq!(carry(&mut rig, POD_SIDE, &vec![of_pod; 100]), 100);
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &vec![of_client; 100]), 100);
        assert_eq!(rig.path.counters.forwarded, 201);
    });
}

#[test]
fn holding_and_releasing_packets_asks_nothing_of_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(64);
        let quiet = next_hop(POD_SIDE, QUIET_POD);
        let waiting = many(40, |n| udp(FROM_CLIENT, ((CLIENT, n % 8), (QUIET_VIP, 80)), 64, b"wait"));
        for seconds in 0..3 {
            rig.now = Now::from_seconds(300 + seconds * 10);
            assert_eq!(carry(&mut rig, CLIENT_SIDE, &waiting), 0);
            assert_eq!(rig.path.held_frames(), 32);
            assert_eq!(release(&mut rig), 0);
            let mut known = neighbours();
            known.push((quiet, NeighbourState::Reachable(POD_MAC)));
            rig.learn(&known);
            assert_eq!(release(&mut rig), 32);
            rig.learn(&neighbours());
        }
        assert_eq!(rig.wire.wanted.len(), 3);
    });
}

#[test]
fn the_expiry_of_flows_asks_nothing_of_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(1024);
        carry(&mut rig, CLIENT_SIDE, &many(500, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"")));
        let mut cursor = Cursors::part(0, 1);
        let flows = Arc::clone(&rig.flows);
        let expire = |seconds, cursor: &mut _| {
            without_allocator(|| flows.expire(cursor, Now::from_seconds(seconds), 2048))
        };
        assert_eq!(expire(110, &mut cursor), 0);
        assert_eq!(expire(1000, &mut cursor), 501);
        assert!(flows.is_empty());
        carry(&mut rig, CLIENT_SIDE, &many(500, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"")));
        assert_eq!(flows.len(), 500);
    });
}

#[test]
fn a_new_snapshot_is_taken_and_the_counters_are_published_without_the_allocator() {
    let rig = warm_rig(64);
    let (mut publisher, mut subscribers) = Publisher::new(rig.snapshot.clone(), 1);
    let worker = &mut subscribers[0];
    worker.refresh();
    let published = Published::default();
    for generation in 1..4 {
        publisher.publish(rig.snapshot.clone());
        assert_eq!(without_allocator(|| worker.refresh().generation), generation);
        without_allocator(|| published.publish(&rig.path.counters));
    }
}

#[test]
fn packets_in_several_frames_are_forwarded_answered_held_and_cut_without_the_allocator() {
    let mut rig = warm_rig(64);
    let mut devices = rig.snapshot.devices.to_vec();
    devices.iter_mut().for_each(|device| device.mtu = 9_000);
    rig.snapshot.devices = devices.into();
    let long = |vip| udp(FROM_CLIENT, (C, (vip, 80)), 64, &[7; 8_900]);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &many(8, |_| long(VIP))), 8);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &[ping_of(&[7; 8_900], FROM_CLIENT, CLIENT, VIP, 64, false)]), 1);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &[long(QUIET_VIP)]), 0);
    assert_eq!(rig.path.held_frames(), 3);
    let mut devices = rig.snapshot.devices.to_vec();
    devices.iter_mut().for_each(|device| device.mtu = 1_500);
    rig.snapshot.devices = devices.into();
    let mut cuttable = long(VIP);
    cuttable[20] = 0;
    set_ip_checksum(&mut cuttable);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &[cuttable]), 7);
    assert_eq!(rig.path.counters.drops(DropReason::NoFrame), 0);
}

#[test]
fn fragments_are_handed_to_their_worker_without_the_allocator() {
    over_both_families(|| {
        let mut rigs = [warm_rig(64), warm_rig(64)];
        let bells: Vec<_> = (0..2).map(|_| Arc::new(Bell::new().unwrap())).collect();
        for (rig, exchange) in rigs.iter_mut().zip(Exchange::between(&bells)) {
            let (memory, pool) = FrameMemory::new(512).unwrap();
            rig.path = Path::new(memory, pool, Arc::clone(&rig.flows), PUNT).with_exchange(exchange);
            rig.path.counters.frames_total = 512;
        }
        let pieces: Vec<_> =
            (0..100).flat_map(|n| cut(&fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 2000]), n))).collect();
        let [giver, taker] = &mut rigs;
        carry(giver, CLIENT_SIDE, &pieces);
        taker.wire.sent.reserve(BURST);
        let Rig { path, snapshot, now, wire, .. } = taker;
        assert_eq!(without_allocator(|| path.take_over(snapshot, *now, wire)), 32);
        taker.collect();
        without_allocator(|| giver.path.wake_takers());
        assert!(bells[1].silence() && !bells[0].silence());
        assert!(giver.path.counters.drops(DropReason::HandOverFull) > 0);
    });
}

fn set_ip_checksum(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
}
