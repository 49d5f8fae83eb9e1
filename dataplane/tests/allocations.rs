//! The packet path allocates nothing and frees nothing, whatever the packets (design decision 11).
//!
//! Only what a worker does per burst is measured; the rig around it may allocate. Counts are per thread, so that tests
//! that run side by side do not disturb each other.
#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod chain_rig;
mod fragment_rig;
mod path_rig;
#[path = "allocations/rules.rs"]
mod rules;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::sync::Arc;

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
/// Its endpoint has an IPv6 address only.
const IPV6_VIP: [u8; 4] = [10, 96, 0, 9];

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

/// Calls of the allocator by one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Calls {
    allocations: u64,
    deallocations: u64,
}

thread_local! {
    // Made without a call of the allocator, which would not end.
    static CALLS: Cell<Calls> = const { Cell::new(Calls { allocations: 0, deallocations: 0 }) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every request goes unchanged to `System`, which upholds the contract; the count touches no memory but the
// thread's own cell, which needs no allocator and no destructor. Zeroed and resized memory come through the trait's
// default methods, which call these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(Calls { allocations: CALLS.get().allocations + 1, ..CALLS.get() });
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CALLS.set(Calls { deallocations: CALLS.get().deallocations + 1, ..CALLS.get() });
        // SAFETY: the pointer came from `alloc` above, so from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does something and returns what it asked of the allocator.
fn calls_of<T>(body: impl FnOnce() -> T) -> (T, Calls) {
    let before = CALLS.get();
    let value = body();
    let after = CALLS.get();
    let calls = Calls {
        allocations: after.allocations - before.allocations,
        deallocations: after.deallocations - before.deallocations,
    };
    (value, calls)
}

/// Does something that must not ask the allocator for anything.
#[track_caller]
fn without_allocator<T>(body: impl FnOnce() -> T) -> T {
    let (value, calls) = calls_of(body);
    assert_eq!(calls, Calls { allocations: 0, deallocations: 0 });
    value
}

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
fn a_vector_of_one_octet_would_be_noticed() {
    let ((), calls) = calls_of(|| drop(black_box(Vec::<u8>::with_capacity(1))));
    assert_eq!(calls, Calls { allocations: 1, deallocations: 1 });
    let (vector, calls) = calls_of(|| black_box(vec![0_u64; 8]));
    assert_eq!(calls, Calls { allocations: 1, deallocations: 0 });
    let ((), calls) = calls_of(|| drop(vector));
    assert_eq!(calls, Calls { allocations: 0, deallocations: 1 });
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
fn no_drop_that_packets_can_cause_asks_anything_of_the_allocator() {
    let mut rig = warm_rig(16_384);
    rig.snapshot.masquerade.mode = Mode::Never;
    rig.snapshot.services = rig.snapshot.services.with([(ip(IPV6_VIP), Some(ipv6_only()))]);
    let ipv6 = over_ipv6(|| (ip(VIP), both(10, &[(POD, 8080)])));
    rig.snapshot.services = rig.snapshot.services.with([(ipv6.0, Some(ipv6.1))]);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &hopeless_packets()), 0);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &over_ipv6(hopeless_ipv6_packets)), 0);

    rig.wire.full = true;
    let refused = [
        udp(FROM_CLIENT, (C, V), 64, b"x"),
        ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        udp(FROM_CLIENT, (C, (VIP, 81)), 64, b"x"),
    ];
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &refused), 0);
    rig.wire.full = false;

    let ended = many(1100, |_| udp(FROM_CLIENT, (C, V), 1, b""));
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &ended), 999, "the limit's thousandth was the refusal");
    hold_in_vain(&mut rig);
    send_fragments_in_vain(&mut rig);
    exhaust_source_ports(&mut rig);
    masquerade_in_vain(&mut rig);

    let mut full = warm_rig(16);
    for n in 0..200 {
        carry(&mut full, CLIENT_SIDE, &[udp(FROM_CLIENT, ((CLIENT, 100 + n), V), 64, b"")]);
        carry(&mut full, POD_SIDE, &[udp(FROM_POD, (P, (CLIENT, 100 + n)), 64, b"")]);
    }
    assert!(full.path.counters.flows_evicted > 0, "a flow that nobody answered gave way");

    let seen = [&rig.path.counters, &full.path.counters, &rules::call_in_vain()];
    let unseen: BTreeSet<&str> = DropReason::ALL
        .iter()
        .filter(|reason| seen.iter().all(|counters| counters.drops(**reason) == 0))
        .map(|reason| reason.name())
        .collect();
    // The first two take a second worker, the third and fourth a socket that is missing or for others, the fifth an SCTP
    // Service, the sixth a driver that puts headers apart; for the last no frame is short enough.
    assert_eq!(
        unseen,
        BTreeSet::from([
            "drop_flow_contended",
            "drop_hand_over_full",
            "drop_no_tx_queue",
            "drop_no_multi_buffer",
            "drop_sctp_fragment",
            "drop_short_first_frame",
            "drop_answer_too_long",
        ])
    );
}

/// Packets that are each dropped for a reason of their own, or one known before.
fn hopeless_packets() -> Vec<Vec<u8>> {
    let changed = |mut packet: Vec<u8>, place: usize, octet: u8| {
        packet[place] = octet;
        set_ip_checksum(&mut packet);
        packet
    };
    let plain = || udp(FROM_CLIENT, (C, V), 64, b"payload");
    let first = ip_of(&udp(TO_CLIENT, (V, (CLIENT, 9)), 63, b"to the flow of the warm rig"));
    let about_first =
        |ttl, kind, quote: &[u8]| icmp_error(FROM_CLIENT, CLIENT, VIP, ttl, Says(kind, 0, [0; 4]), quote);
    let to = |vip| udp(FROM_CLIENT, (C, (vip, 80)), 64, b"");
    vec![
        plain()[..20].to_vec(),
        changed(plain(), 14, 0x4f),
        changed(plain(), 39, 7),
        changed(tcp(FROM_CLIENT, (C, V), 64, "S", b""), 46, 0xf0),
        changed(plain(), 20, 0x20),
        changed(plain(), 23, 50),
        ping(FROM_CLIENT, CLIENT, VIP, 64, true),
        udp(FROM_CLIENT, (([127, 0, 0, 1], 1), V), 64, b""),
        about_first(1, 3, &first),
        about_first(64, 4, &first),
        about_first(64, 5, &first),
        about_first(64, 3, &first[..27]),
        about_first(64, 3, &ip_of(&about_first(64, 3, &first))),
        changed(about_first(64, 3, &first), 70, 0xff),
        to(UNALLOCATED),
        ping(FROM_CLIENT, CLIENT, UNALLOCATED, 64, false),
        tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "RA", b""),
        to(IPV6_VIP),
        to(HAIRPIN_VIP),
        to(UNROUTED_VIP),
        udp(FROM_CLIENT, (C, V), 64, &[7; 9_300]),
        about_first(64, 3, &[7; 5_000]),
    ]
}

/// Packets that can go nowhere because of what only IPv6 has.
fn hopeless_ipv6_packets() -> Vec<Vec<u8>> {
    let plain = || udp(FROM_CLIENT, (C, V), 64, b"payload");
    let link_local = |mut packet: Vec<u8>| {
        packet[22..24].copy_from_slice(&[0xfe, 0x80]);
        packet
    };
    vec![
        plain()[..60].to_vec(),
        chained(&plain(), &vec![destination_options(1); 9]),
        chained(&plain(), &[destination_options(1), hop_by_hop(1)]),
        chained(&plain(), &[routing(1)]),
        link_local(plain()),
    ]
}

/// Lets packets wait for a next hop that stays unknown, then for one that fails.
fn hold_in_vain(rig: &mut Rig) {
    let quiet = next_hop(POD_SIDE, QUIET_POD);
    let waiting = many(40, |_| udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, b"wait"));
    assert_eq!(carry(rig, CLIENT_SIDE, &waiting), 0);
    rig.now = Now::from_seconds(400);
    assert_eq!(release(rig), 0);
    assert_eq!(carry(rig, CLIENT_SIDE, &waiting), 0);
    let mut known = neighbours();
    known.push((quiet, NeighbourState::Failed));
    rig.learn(&known);
    assert_eq!(release(rig), 0);
}

/// Drops fragments for each reason there is, and a packet that there are no frames to cut into.
fn send_fragments_in_vain(rig: &mut Rig) {
    let whole = |number| fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 4000]), number);
    let refused = fragmentable(udp(FROM_CLIENT, (C, (VIP, 81)), 64, &[7; 4000]), 5);
    let segment = fragmentable(tcp(FROM_CLIENT, (C, V), 64, "S", &[7; 400]), 6);
    let lying = [
        raw_piece(&whole(1), 1480, &[], false),
        piece(&segment, 0, 8),
        piece(&whole(2), 0, 1480),
        piece(&whole(2), 0, 1480),
        piece(&whole(2), 1472, 2960),
        raw_piece(&whole(3), 1480, &[7; 8], false),
        raw_piece(&whole(3), 2960, &[7; 8], false),
    ];
    carry(rig, CLIENT_SIDE, &lying);
    carry(rig, CLIENT_SIDE, &cut(&refused));
    let early = |number: u16, client: u8| {
        let client = ([10, 1, 7, client], 7);
        let whole = fragmentable(udp(FROM_CLIENT, (client, V), 64, &[7; 4000]), number);
        piece(&whole, 1480, 2960)
    };
    let from_one = many(70, |number| early(number, 0));
    carry(rig, CLIENT_SIDE, &from_one);
    let from_many = many(200, |number| early(number, number as u8));
    carry(rig, CLIENT_SIDE, &from_many);
    rig.now = Now::from_seconds(500);
    for _ in 0..40 {
        let Rig { path, snapshot, now, wire, .. } = rig;
        without_allocator(|| path.expire_fragments(snapshot, *now, wire));
    }
    rig.collect();
    send_too_long_packets(rig);
}

/// Cuts what is too long for a link, also without the frames for it, and drops what may not be cut.
fn send_too_long_packets(rig: &mut Rig) {
    let devices = Arc::clone(&rig.snapshot.devices);
    let narrow = |device: &Device| Device { mtu: 576, ..device.clone() };
    rig.snapshot.devices = devices.iter().map(narrow).collect();
    let mut pieces = cut(&fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 4000]), 8));
    assert_eq!(carry(rig, CLIENT_SIDE, &pieces[..1]), 3);
    pieces[1][20] |= 0x40;
    set_ip_checksum(&mut pieces[1]);
    assert_eq!(carry(rig, CLIENT_SIDE, &pieces[1..]), 2);
    let kept: Vec<_> =
        std::iter::from_fn(|| (rig.path.pool.len() > 2).then(|| rig.path.pool.pop())).collect();
    let packet = [fragmentable(udp(FROM_CLIENT, (C, V), 64, &[7; 1400]), 9)];
    rig.path.counters.frames_total -= kept.len() as u64;
    assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
    rig.path.counters.frames_total += kept.len() as u64;
    kept.into_iter().flatten().for_each(|frame| rig.path.pool.push(frame));
    rig.snapshot.devices = devices;
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

/// Asks so many Services with one backend from one client port that no other source port is tried for the last.
fn exhaust_source_ports(rig: &mut Rig) {
    let vips = many(150, |n| vec![10, 96, 1, n as u8]);
    let vips: Vec<[u8; 4]> = vips.into_iter().map(|octets| octets.try_into().unwrap()).collect();
    rig.snapshot.services = rig.snapshot.services.with(
        vips.iter().zip(1000_u64..).map(|(vip, number)| (ip(*vip), Some(both(number * 2, &[(POD, 8080)])))),
    );
    let packets: Vec<_> =
        vips.iter().map(|vip| udp(FROM_CLIENT, ((CLIENT, 7), (*vip, 80)), 64, b"")).collect();
    carry(rig, CLIENT_SIDE, &packets);
}

/// Masquerades to a destination that has all ports of a small range in use, of one too wide to search at once, and by
/// a device without an address.
fn masquerade_in_vain(rig: &mut Rig) {
    let address = POD_SIDE_GATEWAY.into();
    for port in 1..=9_000 {
        let (source_port, destination_port) = (Port::new(8080), Port::new(port));
        let reply = Key {
            source: POD.into(),
            destination: address,
            source_port,
            destination_port,
            protocol: Protocol::Udp,
        };
        let request = Key { source: [192, 0, 2, 1].into(), ..reply };
        let (service, endpoint, state) = (ServicePortId(1), EndpointId(1), State::UdpStream);
        let taken = NewFlow {
            request,
            reply,
            service,
            endpoint,
            state,
            ip_difference: 0,
            transport_difference: 0,
            account: 0,
        };
        rig.flows.ipv4.insert(&taken, rig.now).unwrap();
    }
    let packet = [udp(FROM_CLIENT, ((CLIENT, 44_444), V), 64, b"x")];
    for last in [10, 9_000] {
        let ports = PortRange::new(1, last).unwrap();
        rig.snapshot.masquerade = Masquerade { mode: Mode::Always, ports };
        assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
    }
    let bare = |device: &Device| Device { addresses: Arc::new([]), ..device.clone() };
    rig.snapshot.devices = rig.snapshot.devices.iter().map(bare).collect();
    assert_eq!(carry(rig, CLIENT_SIDE, &packet), 0);
}

fn ipv6_only() -> VirtualAddress {
    let backend = Backend { address: Ipv6Addr::LOCALHOST.into(), port: Port::new(8080), id: EndpointId(6) };
    VirtualAddress::new(vec![ServicePort {
        protocol: Protocol::Udp,
        port: Port::new(80),
        id: ServicePortId(6),
        backends: Arc::new(Backends::new(vec![backend])),
        terms: Terms::default(),
    }])
}

fn set_ip_checksum(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
}
