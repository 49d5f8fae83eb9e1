//! All memory of the packet path is there when it starts: no packet waits for the kernel to find a page.
//!
//! Only what a worker does per burst is measured, as in `allocations`.
#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::Cursors;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::worker::BURST;

/// Flows of the run: their records and index are some hundred pages, most of which no packet met before.
const FLOWS: u16 = 20_000;

/// Returns how many pages the kernel had to find for this thread so far (getrusage(2)).
fn faults() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to our own value of the type that the call writes.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) }, 0);
    // SAFETY: all zero is such a value, and the call has written it.
    let usage = unsafe { usage.assume_init() };
    usage.ru_minflt + usage.ru_majflt
}

/// Carries packets and returns how many pages had to be found meanwhile.
fn carry(rig: &mut Rig, device: DeviceIndex, packets: impl Iterator<Item = Vec<u8>>) -> i64 {
    let mut found = 0;
    let packets: Vec<Vec<u8>> = packets.collect();
    for packets in packets.chunks(BURST) {
        let mut burst = rig.burst(packets);
        rig.wire.sent.reserve(BURST);
        let before = faults();
        let Rig { path, snapshot, now, wire, .. } = rig;
        path.carry(device, &mut burst, snapshot, *now, wire);
        found += faults() - before;
        assert_eq!(rig.collect().len(), packets.len());
    }
    found
}

#[test]
fn a_page_that_is_touched_first_would_be_noticed() {
    let before = faults();
    let pages = std::hint::black_box(vec![1_u8; 64 << 20]);
    assert!(faults() > before);
    drop(pages);
}

#[test]
fn flows_that_come_speak_and_go_meet_no_page_that_was_not_there() {
    over_both_families(|| {
        let mut rig = Rig::with_flows(u32::from(FLOWS) * 2);
        let to_vip = |port| udp(FROM_CLIENT, ((CLIENT, port), (VIP, 80)), 64, b"question");
        let from_pod = |port| udp(FROM_POD, ((POD, 8080), (CLIENT, port)), 64, b"answer");
        // The code itself and the stack are met by the first packets.
        carry(&mut rig, CLIENT_SIDE, (0..256).map(|_| to_vip(9)));
        carry(&mut rig, POD_SIDE, (0..256).map(|_| from_pod(9)));
        let ports = 1_024..1_024 + FLOWS;
        assert_eq!(carry(&mut rig, CLIENT_SIDE, ports.clone().map(to_vip)), 0, "new flows");
        assert_eq!(carry(&mut rig, POD_SIDE, ports.map(from_pod)), 0, "their replies");
        assert_eq!(rig.flows.len(), usize::from(FLOWS) + 1);
        let late = Now::from_ns(rig.now.ns() + 1_000_000_000_000);
        let mut cursors = Cursors::part(0, 1);
        let before = faults();
        let expired = rig.flows.expire(&mut cursors, late, usize::MAX);
        assert_eq!((expired, faults() - before), (usize::from(FLOWS) + 1, 0), "the sweep");
    });
}
