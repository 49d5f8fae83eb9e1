//! A process that dies before any one of its writes leaves a table that a start makes sound.

use core::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::InsertError;
use super::heap::{Access, Heap, hooked};
use super::*;

struct Crash;

/// Runs `body` until it is about to make its write number `writes`, counted from zero; says whether it came to its end.
fn survives(writes: usize, body: impl FnOnce()) -> bool {
    let left = Cell::new(writes);
    let hook = move |access| {
        if access == Access::Read {
            return;
        }
        match left.get().checked_sub(1) {
            Some(fewer) => left.set(fewer),
            None => resume_unwind(Box::new(Crash)),
        }
    };
    match catch_unwind(AssertUnwindSafe(|| hooked(hook, body))) {
        Ok(()) => true,
        Err(cause) if cause.is::<Crash>() => false,
        Err(cause) => resume_unwind(cause),
    }
}

/// The number of the flow that comes last; its two keys share no bucket.
fn third<A: Address>(table: &Table<&Heap<A>>) -> u32 {
    let buckets = |number| index::buckets(table.hasher.hash(&key::<A>(number)), table.memory.buckets());
    (3..).find(|n| buckets(2 * n).iter().all(|bucket| !buckets(2 * n + 1).contains(bucket))).unwrap()
}

/// Returns how many words of a record an insertion writes before *building*.
const fn written_words<A: Address>() -> usize {
    5 + 2 * size_of::<A::Pair>() / 8
}

/// Lets a process die at each of its writes in `act`, on a table with flows 1 and 2; returns for every such death how
/// many flows the start kept and dropped.
fn deaths<A: Address>(act: impl Fn(&Table<&Heap<A>>, [FlowRef; 2])) -> Vec<(u32, u32)> {
    let mut outcomes = Vec::new();
    loop {
        let heap = Heap::<A>::new(64);
        let (table, _) = Table::start(&heap, SECRET);
        let flows = [1, 2].map(|number| table.insert(&own_flow(number), NOW).unwrap());
        let ended = survives(outcomes.len(), || act(&table, flows));
        let (table, scan) = Table::start(&heap, SECRET);
        assert_eq!(assert_sound(&table).len() as u32, scan.kept);
        assert_eq!(table.ids(flows[0]), Some((own_flow::<A>(1).service, own_flow::<A>(1).endpoint)));
        for number in [2, third(&table)] {
            let _ = table.insert(&own_flow(number), NOW);
        }
        assert_eq!(assert_sound(&table).len(), 3, "whatever is not there goes in, whatever is there stays");
        if ended {
            return outcomes;
        }
        outcomes.push((scan.kept, scan.dropped));
    }
}

for_both_families! {
    a_death_within_an_insertion_leaves_the_other_flows_and_nothing_of_the_new_one,
    a_death_within_a_withdrawal_leaves_the_other_flows,
    a_death_within_a_removal_leaves_the_flow_whole_or_gone,
    a_death_within_a_change_of_state_keeps_the_flow,
    a_death_within_a_start_loses_no_live_flow,
    a_start_with_another_secret_keeps_every_flow,
}

fn a_death_within_an_insertion_leaves_the_other_flows_and_nothing_of_the_new_one<A: Address>() {
    let outcomes = deaths::<A>(|table, _| {
        table.insert(&own_flow(third(table)), NOW).unwrap();
    });
    let (unclaimed, started) = outcomes.split_first().unwrap();
    assert_eq!(*unclaimed, (2, 0));
    // 2 identities, building, 2 keys, live.
    assert_eq!(started, vec![(2, 1); written_words::<A>() + 6]);
}

fn a_death_within_a_withdrawal_leaves_the_other_flows<A: Address>() {
    let outcomes = deaths::<A>(|table, _| {
        // The reply key goes in, the request key finds no slot.
        let new = own_flow(third(table));
        for bucket in index::buckets(table.hasher.hash(&new.request), table.memory.buckets()) {
            for word in (&table.memory).bucket(bucket).unwrap() {
                word.replace(0, u64::MAX, Relaxed);
            }
        }
        assert_eq!(table.insert(&new, NOW), Err(InsertError::Full));
    });
    // Two full buckets and the claim; 2 identities, building, a key, the key again, free.
    assert_eq!(outcomes, [vec![(2, 0); 17], vec![(2, 1); written_words::<A>() + 6]].concat());
}

fn a_death_within_a_removal_leaves_the_flow_whole_or_gone<A: Address>() {
    let outcomes = deaths::<A>(|table, flows| {
        assert!(table.remove(flows[1]));
    });
    // Before dying; request slot, reply slot, free.
    assert_eq!(outcomes, [(2, 0), (1, 1), (1, 1), (1, 1)]);
}

fn a_death_within_a_change_of_state_keeps_the_flow<A: Address>() {
    let outcomes = deaths::<A>(|table, flows| {
        assert!(table.change_state(flows[1], State::SynSent, State::SynRecv, Now::from_seconds(2_000)));
    });
    assert_eq!(outcomes, [(2, 0), (2, 0)]);
}

fn a_death_within_a_start_loses_no_live_flow<A: Address>() {
    let heap = Heap::<A>::new(4);
    let (table, _) = Table::start(&heap, SECRET);
    for number in 1..=3 {
        table.insert(&own_flow(number), NOW).unwrap();
    }
    let mut writes = 0;
    while !survives(writes, || drop(Table::start(&heap, SECRET))) {
        writes += 1;
    }
    assert!(writes > 6);
    let (table, scan) = Table::start(&heap, SECRET);
    assert_eq!((scan.kept, scan.dropped), (3, 0));
    assert_eq!(assert_sound(&table).len(), 3);
}

fn a_start_with_another_secret_keeps_every_flow<A: Address>() {
    let heap = Heap::<A>::new(4);
    Table::start(&heap, SECRET).0.insert(&own_flow(1), NOW).unwrap();
    let (table, scan) = Table::start(&heap, [1, 2]);
    assert_eq!((scan.kept, scan.dropped, assert_sound(&table).len()), (1, 0, 1));
}
