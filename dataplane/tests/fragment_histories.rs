//! Random datagrams in random pieces, in random order with duplicates, through one worker and through several:
//! joined again, they are what the datagrams would have been whole, over both families at once. And histories that mean
//! harm.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fragment_rig;
mod path_rig;

use std::collections::BTreeSet;
use std::sync::Arc;

use fragment_rig::*;
use path_rig::*;
use proptest::prelude::*;
use proptest::sample::Index;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::FlowTables;
use tidegate_dataplane::fragments::WAITING_PER_SOURCE;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::worker::{Bell, Exchange, Path};
use tidegate_dataplane::xsk::FrameMemory;

const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);
const FRAMES: u32 = 2048;

/// One datagram: who sends it, its data, and where it is cut.
#[derive(Clone, Debug)]
struct Plan {
    is_ipv6: bool,
    client: u8,
    is_reply: bool,
    data: Vec<u8>,
    cuts: BTreeSet<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let data = (0..5000usize, any::<u8>()).prop_map(|(bytes, salt)| {
        (0..bytes).map(|at| (at * 31 + at / 256) as u8 ^ salt).collect::<Vec<u8>>()
    });
    let cuts = proptest::collection::vec(any::<Index>(), 0..8);
    (any::<bool>(), 0..4u8, any::<bool>(), data, cuts).prop_map(|(is_ipv6, client, is_reply, data, cuts)| {
        let most = if is_ipv6 { 1448 } else { 1480 };
        let blocks = (data.len() + 8) / 8;
        let regular = (most..data.len() + 8).step_by(most);
        let random =
            cuts.iter().map(|cut| cut.index(blocks) * 8).filter(|cut| *cut > 0 && *cut < data.len() + 8);
        let cuts = random.chain(regular).collect();
        Plan { is_ipv6, client, is_reply, data, cuts }
    })
}

impl Plan {
    fn client(&self) -> ([u8; 4], u16) {
        ([10, 1, 0, 2], 40_000 + u16::from(self.client))
    }

    /// The device that it comes by, and the whole packet.
    fn arrives(&self, number: usize) -> (DeviceIndex, Vec<u8>) {
        let (device, macs, ends) = if self.is_reply {
            (POD_SIDE, FROM_POD, (P, self.client()))
        } else {
            (CLIENT_SIDE, FROM_CLIENT, (self.client(), V))
        };
        let packet = over_family(self.is_ipv6, || udp(macs, ends, 64, &self.data));
        (device, fragmentable(packet, number as u16))
    }

    /// The device that it leaves by, and the whole packet as the independent encoder makes it.
    fn leaves(&self, number: usize) -> (DeviceIndex, Vec<u8>) {
        let (device, macs, ends) = if self.is_reply {
            (CLIENT_SIDE, TO_CLIENT, (V, self.client()))
        } else {
            (POD_SIDE, TO_POD, (self.client(), P))
        };
        let packet = over_family(self.is_ipv6, || udp(macs, ends, 63, &self.data));
        (device, fragmentable(packet, number as u16))
    }
}

/// The pieces of all datagrams and some of them twice, in an order that keys decide.
fn history(plans: &[Plan], keys: &[u32], twice: &[Index]) -> Vec<(DeviceIndex, Vec<u8>)> {
    let mut pieces = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let (device, whole) = plan.arrives(number);
        let places: Vec<_> = plan.cuts.iter().copied().collect();
        pieces.extend(cut_at(&whole, &places).into_iter().map(|piece| (device, piece)));
    }
    let again: Vec<_> = twice.iter().map(|at| pieces[at.index(pieces.len())].clone()).collect();
    pieces.extend(again);
    let mut keyed: Vec<_> = pieces.into_iter().zip(keys.iter().cycle()).collect();
    keyed.sort_by_key(|(_, key)| **key);
    keyed.into_iter().map(|(piece, _)| piece).collect()
}

fn assert_all_left(left: &[(Out, Vec<u8>)], plans: &[Plan]) {
    for device in [CLIENT_SIDE, POD_SIDE] {
        let by: Vec<_> =
            left.iter().filter(|(out, _)| *out == Out::Device(device)).map(|(_, o)| o.clone()).collect();
        let mut joined = join(&by);
        let leaving = plans.iter().enumerate().map(|(number, plan)| plan.leaves(number));
        let mut expected: Vec<_> =
            leaving.filter(|(by, _)| *by == device).map(|(_, packet)| packet).collect();
        joined.sort();
        expected.sort();
        assert_eq!(joined, expected);
    }
}

fn narrow(rig: &mut Rig, mtu: usize) {
    let mut devices = rig.snapshot.devices.to_vec();
    devices.iter_mut().for_each(|device| device.mtu = mtu);
    rig.snapshot.devices = devices.into();
}

/// As many workers as wanted, on one flow table.
fn workers(count: usize) -> Vec<Rig> {
    let flows = Arc::new(FlowTables::in_memory(1024).unwrap());
    let bells: Vec<_> = (0..count).map(|_| Arc::new(Bell::new().unwrap())).collect();
    let worker = |exchange| {
        let (memory, pool) = FrameMemory::new(FRAMES).unwrap();
        let mut path = Path::new(memory, pool, Arc::clone(&flows), PUNT).with_exchange(exchange);
        path.counters.frames_total = u64::from(FRAMES);
        Rig {
            path,
            flows: Arc::clone(&flows),
            snapshot: dual_stack_snapshot(),
            wire: Recorder::default(),
            now: Now::from_seconds(100),
        }
    };
    let mut rigs: Vec<_> = Exchange::between(&bells).into_iter().map(worker).collect();
    for (client, is_ipv6) in (0..4).flat_map(|client| [(client, false), (client, true)]) {
        let plan = Plan { is_ipv6, client, is_reply: false, data: Vec::new(), cuts: BTreeSet::new() };
        rigs[0].one(CLIENT_SIDE, &plan.arrives(0).1);
    }
    rigs
}

/// Lets a worker take what others gave it, and returns what left.
fn take_over(rig: &mut Rig) -> Vec<(Out, Vec<u8>)> {
    rig.path.take_over(&rig.snapshot, rig.now, &mut rig.wire);
    rig.carry(CLIENT_SIDE, &[])
}

fn sum(rigs: &[Rig], count: impl Fn(&Rig) -> u64) -> u64 {
    rigs.iter().map(count).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn datagrams_in_any_pieces_and_any_order_leave_as_they_would_whole(
        plans in prop_oneof![
            2 => proptest::collection::vec(plan(), 1..6),
            1 => proptest::collection::vec(plan().prop_map(|plan| Plan { is_ipv6: false, ..plan }), 1..6),
        ],
        keys in proptest::collection::vec(any::<u32>(), 1..80),
        twice in proptest::collection::vec(any::<Index>(), 0..6),
        burst in 1..20usize,
        mtu in 576..1501usize,
        count in 1..4usize,
    ) {
        let mut rigs = workers(count);
        // Over IPv6 nothing is cut, so only where no piece is IPv6 the links may be too narrow.
        let mtu = if plans.iter().any(|plan| plan.is_ipv6) { 1500 } else { mtu };
        rigs.iter_mut().for_each(|rig| narrow(rig, mtu));
        let mut left = Vec::new();
        let pieces = history(&plans, &keys, &twice);
        let mut key = keys.iter().cycle();
        for ((device, octets), next) in pieces.iter().zip(keys.iter().cycle().skip(1)) {
            let rig = &mut rigs[*next as usize % count];
            left.extend(rig.carry(*device, std::slice::from_ref(octets)));
            if key.next().unwrap() % burst as u32 == 0 {
                rigs.iter_mut().for_each(|rig| left.extend(take_over(rig)));
            }
        }
        rigs.iter_mut().for_each(|rig| left.extend(take_over(rig)));
        assert_all_left(&left, &plans);
        let (given, taken) = (sum(&rigs, |r| r.path.counters.handed_over), sum(&rigs, |r| r.path.counters.taken_over));
        prop_assert_eq!(given, taken);
        // What is left are copies of pieces whose datagram was whole already.
        for rig in &mut rigs {
            let waiting = rig.path.counters.held;
            prop_assert!(waiting <= twice.len() as u64);
            rig.now = Now::from_seconds(131);
            rig.path.expire_fragments(&rig.snapshot, rig.now, &mut rig.wire);
            rig.carry(CLIENT_SIDE, &[]);
            prop_assert_eq!(rig.path.counters.held, 0);
            prop_assert_eq!(rig.path.pool.len(), FRAMES as usize);
        }
    }

    #[test]
    fn no_history_of_fragments_waits_beyond_the_caps_or_upsets_the_accounts(
        steps in proptest::collection::vec((0..6u8, 0..20u8, 0..40usize, 0..30usize, any::<bool>(), 0..9u32), 1..600),
        frames in 0..3usize,
    ) {
        let mut rig = Rig::new();
        rig.snapshot = dual_stack_snapshot();
        let room = rig.path.memory.frames() as usize / 4;
        for (source, identification, start, blocks, more, seconds) in steps {
            let client = ([10, 1, 0, 100 + source], 40_000);
            let to = if identification % 5 == 0 { (EMPTY_VIP, 80) } else { V };
            let whole = over_family(source % 2 == 1, || udp(FROM_CLIENT, (client, to), 64, &[0; 8]));
            let whole = fragmentable(whole, u16::from(identification));
            let octets = raw_piece(&whole, start * 8, &vec![identification; blocks * 8 + frames], more);
            rig.carry(CLIENT_SIDE, &[octets]);
            prop_assert!(rig.path.held_frames() <= room.min(6 * WAITING_PER_SOURCE));
            if seconds == 0 {
                rig.now = Now::from_ns(rig.now.ns() + 3_000_000_000);
                rig.path.expire_fragments(&rig.snapshot, rig.now, &mut rig.wire);
                rig.carry(CLIENT_SIDE, &[]);
            }
        }
        rig.now = Now::from_ns(rig.now.ns() + 31_000_000_000);
        for _ in 0..100 {
            rig.path.expire_fragments(&rig.snapshot, rig.now, &mut rig.wire);
        }
        rig.carry(CLIENT_SIDE, &[]);
        prop_assert_eq!(rig.path.held_frames(), 0);
        prop_assert_eq!(rig.path.pool.len(), 512);
    }
}

#[test]
fn a_full_ring_between_workers_is_a_named_drop_and_both_accounts_hold() {
    let mut rigs = workers(2);
    let plan = |number: usize| {
        let is_ipv6 = number % 2 == 1;
        let plan =
            Plan { is_ipv6, client: 0, is_reply: false, data: vec![0; 100], cuts: BTreeSet::from([56]) };
        cut_at(&plan.arrives(number).1, &[56])
    };
    for number in 0..200 {
        rigs[0].carry(CLIENT_SIDE, &plan(number));
    }
    let counters = &rigs[0].path.counters;
    let given = counters.handed_over;
    let full = counters.named().find(|(name, ..)| *name == "drop_hand_over_full").unwrap().2;
    assert_eq!(given, 32);
    assert!(full > 0);
    assert_eq!(counters.forwarded - 8 + given + full, 400);
    let left = take_over(&mut rigs[1]);
    assert_eq!(left.len(), 32);
    assert_eq!(rigs[1].path.counters.taken_over, 32);
}

#[test]
fn a_worker_without_frames_leaves_what_it_was_given_until_it_has_some() {
    let mut rigs = workers(2);
    let mut number = 0;
    while rigs[0].path.counters.handed_over == 0 {
        let is_ipv6 = number % 2 == 1;
        let plan = Plan { is_ipv6, client: 0, is_reply: false, data: vec![0; 100], cuts: BTreeSet::new() };
        number += 1;
        rigs[0].carry(CLIENT_SIDE, &cut_at(&plan.arrives(number).1, &[56]));
    }
    let mut kept: Vec<_> = std::iter::from_fn(|| rigs[1].path.pool.pop()).collect();
    rigs[1].path.counters.frames_total = 0;
    assert!(take_over(&mut rigs[1]).is_empty());
    assert_eq!(rigs[1].path.counters.taken_over, 0);
    rigs[1].path.counters.frames_total = u64::from(FRAMES);
    kept.drain(..).for_each(|frame| rigs[1].path.pool.push(frame));
    assert_eq!(take_over(&mut rigs[1]).len(), 2);
}
