//! The packet path allocates nothing and frees nothing, whatever the packets (design decision 11).
//!
//! Only what a worker does per burst is measured; the rig around it may allocate. Counts are per thread, so that tests
//! that run side by side do not disturb each other.
#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::sync::Arc;

use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::counters::Published;
use tidegate_dataplane::flows::{Cursor, EndpointId, ServicePortId, Timeouts};
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::services::{Backend, Backends, ServicePort, VirtualAddress};
use tidegate_dataplane::snapshot::Publisher;
use tidegate_dataplane::verdict::DropReason;
use tidegate_dataplane::worker::BURST;

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
    let mut rig = warm_rig(1024);
    let requests = many(300, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"question"));
    let replies = many(300, |n| udp(FROM_POD, (P, (CLIENT, 1000 + n)), 64, b"answer"));
    for round in 0..3 {
        rig.now = Now::from_seconds(200 + round);
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &requests), 300);
        assert_eq!(carry(&mut rig, POD_SIDE, &replies), 300);
    }
    assert_eq!(rig.path.counters.flows_inserted, 301);
}

#[test]
fn connections_ask_nothing_of_the_allocator_from_syn_to_reopening() {
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
}

#[test]
fn echoes_refusals_and_what_goes_to_the_kernel_ask_nothing_of_the_allocator() {
    let mut rig = warm_rig(64);
    let empty = (EMPTY_VIP, 80);
    let packets = [
        ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        tcp(FROM_CLIENT, (C, empty), 64, "S", b""),
        tcp(FROM_CLIENT, (C, (VIP, 81)), 64, "FA", b"data"),
        udp(FROM_CLIENT, (C, empty), 64, b"short"),
        udp(FROM_CLIENT, (C, (VIP, 81)), 64, &[7; 1400]),
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
}

#[test]
fn holding_and_releasing_packets_asks_nothing_of_the_allocator() {
    let mut rig = warm_rig(64);
    let quiet = next_hop(POD_SIDE, QUIET_POD);
    let waiting = many(40, |n| udp(FROM_CLIENT, ((CLIENT, n % 8), (QUIET_VIP, 80)), 64, b"wait"));
    for seconds in 0..3 {
        rig.now = Now::from_seconds(300 + seconds * 10);
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &waiting), 0);
        assert_eq!(rig.path.held(), 32);
        assert_eq!(release(&mut rig), 0);
        let mut known = neighbours();
        known.push((quiet, NeighbourState::Reachable(POD_MAC)));
        rig.learn(&known);
        assert_eq!(release(&mut rig), 32);
        rig.learn(&neighbours());
    }
    assert_eq!(rig.wire.wanted.len(), 3);
}

#[test]
fn the_expiry_of_flows_asks_nothing_of_the_allocator() {
    let mut rig = warm_rig(1024);
    carry(&mut rig, CLIENT_SIDE, &many(500, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"")));
    let (mut cursor, timeouts) = (Cursor::part(0, 1), Timeouts::default());
    let flows = Arc::clone(&rig.flows);
    let expire = |seconds, cursor: &mut _| {
        without_allocator(|| flows.expire(cursor, Now::from_seconds(seconds), 2048, &timeouts))
    };
    assert_eq!(expire(110, &mut cursor), 0);
    assert_eq!(expire(1000, &mut cursor), 501);
    assert!(flows.is_empty());
    carry(&mut rig, CLIENT_SIDE, &many(500, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), V), 64, b"")));
    assert_eq!(flows.len(), 500);
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
fn no_drop_that_packets_can_cause_asks_anything_of_the_allocator() {
    let mut rig = warm_rig(4096);
    rig.snapshot.services = rig.snapshot.services.with([(ip(IPV6_VIP), Some(ipv6_only()))]);
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &hopeless_packets()), 0);

    rig.wire.full = true;
    let refused = [
        udp(FROM_CLIENT, (C, V), 64, b"x"),
        ping(FROM_CLIENT, CLIENT, VIP, 64, false),
        udp(FROM_CLIENT, (C, (VIP, 81)), 64, b"x"),
    ];
    assert_eq!(carry(&mut rig, CLIENT_SIDE, &refused), 0);
    rig.wire.full = false;

    hold_in_vain(&mut rig);
    exhaust_source_ports(&mut rig);

    let mut full = warm_rig(16);
    let sent =
        carry(&mut full, CLIENT_SIDE, &many(200, |n| udp(FROM_CLIENT, ((CLIENT, 100 + n), V), 64, b"")));
    assert!(sent < 16);

    let unseen: BTreeSet<&str> = DropReason::ALL
        .iter()
        .filter(|reason| rig.path.counters.drops(**reason) + full.path.counters.drops(**reason) == 0)
        .map(|reason| reason.name())
        .collect();
    // The first takes a second worker, the second a socket that is missing; the third no frame is short enough for.
    assert_eq!(unseen, BTreeSet::from(["drop_flow_contended", "drop_no_tx_queue", "drop_answer_too_long"]));
}

/// Packets that are each dropped for a reason of their own, or one known before.
fn hopeless_packets() -> Vec<Vec<u8>> {
    let changed = |mut packet: Vec<u8>, place: usize, octet: u8| {
        packet[place] = octet;
        set_ip_checksum(&mut packet);
        packet
    };
    let plain = || udp(FROM_CLIENT, (C, V), 64, b"payload");
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
        udp(FROM_CLIENT, (C, V), 1, b""),
        udp(FROM_CLIENT, (C, V), 64, &[0; 1480]),
        to(UNALLOCATED),
        ping(FROM_CLIENT, CLIENT, UNALLOCATED, 64, false),
        tcp(FROM_CLIENT, (C, (EMPTY_VIP, 80)), 64, "RA", b""),
        to(IPV6_VIP),
        to(HAIRPIN_VIP),
        to(UNROUTED_VIP),
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

fn ipv6_only() -> VirtualAddress {
    let backend = Backend { address: Ipv6Addr::LOCALHOST.into(), port: Port::new(8080), id: EndpointId(6) };
    VirtualAddress::new(vec![ServicePort {
        protocol: Protocol::Udp,
        port: Port::new(80),
        id: ServicePortId(6),
        backends: Arc::new(Backends::new(vec![backend])),
    }])
}

fn set_ip_checksum(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
}
