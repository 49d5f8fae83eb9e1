//! Threads that take turns at every single access of a word, in orders drawn from seeds.
//!
//! Finds what goes wrong in some interleaving; says nothing about the order in which a processor shows its writes.
#![expect(clippy::disallowed_types, reason = "the scheduler of the test is not the packet path")]

use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::super::{Cursor, InsertError};
use super::heap::{Heap, hooked};
use super::*;

/// Orders drawn for each test and family.
fn seeds() -> Range<u64> {
    0..if is_long() { 3_000 } else { 105 }
}

struct Turns {
    state: Mutex<TurnState>,
    passed: Condvar,
}

struct TurnState {
    holder: usize,
    running: Vec<bool>,
    random: u64,
    /// How many accesses a stretch has on average.
    stretch: u64,
}

impl TurnState {
    /// Draws who goes on.
    fn draw(&mut self) {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let others: Vec<usize> = (0..self.running.len()).filter(|&thread| self.running[thread]).collect();
        let stays = self.running[self.holder] && !(self.random >> 40).is_multiple_of(self.stretch);
        if !stays && !others.is_empty() {
            self.holder = others[(self.random >> 33) as usize % others.len()];
        }
    }
}

impl Turns {
    fn wait_for(&self, thread: usize) {
        let state = self.state.lock().unwrap();
        drop(self.passed.wait_while(state, |state| state.holder != thread).unwrap());
    }

    fn pass(&self, thread: usize) {
        let mut state = self.state.lock().unwrap();
        state.draw();
        if state.holder == thread {
            return;
        }
        self.passed.notify_all();
        drop(self.passed.wait_while(state, |state| state.holder != thread).unwrap());
    }

    fn leave(&self, thread: usize) {
        let mut state = self.state.lock().unwrap();
        state.running[thread] = false;
        state.draw();
        self.passed.notify_all();
    }
}

type Role<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs the roles as threads, one access at a time.
fn interleave(seed: u64, roles: Vec<Role<'_>>) {
    // Some mishaps need two threads in step, some need one to overtake the other by a whole operation.
    let stretch = 1 << (seed % 7);
    let state = TurnState { holder: 0, running: vec![true; roles.len()], random: seed, stretch };
    let turns = Arc::new(Turns { state: Mutex::new(state), passed: Condvar::new() });
    thread::scope(|scope| {
        for (number, role) in roles.into_iter().enumerate() {
            let turns = Arc::clone(&turns);
            scope.spawn(move || {
                turns.wait_for(number);
                let hooked_turns = Arc::clone(&turns);
                let result =
                    catch_unwind(AssertUnwindSafe(|| hooked(move |_| hooked_turns.pass(number), role)));
                turns.leave(number);
                result.unwrap_or_else(|cause| resume_unwind(cause));
            });
        }
    });
}

/// Inserts two flows at the same time; returns both results.
fn insert_both<A: Address>(
    seed: u64,
    table: &Table<&Heap<A>>,
    flows: [NewFlow<A>; 2],
) -> [Result<FlowRef, InsertError>; 2] {
    let mut results = [Err(InsertError::Full); 2];
    let roles = results
        .iter_mut()
        .zip(flows)
        .map(|(result, new)| -> Role<'_> { Box::new(move || *result = table.insert(&new, NOW)) });
    interleave(seed, roles.collect());
    results
}

for_both_families! {
    of_two_insertions_with_a_common_key_at_most_one_wins,
    a_look_up_finds_no_flow_whose_insertion_fails,
    two_insertions_without_a_common_key_both_win,
    an_insertion_during_the_removal_of_its_key_ends_in_one_flow_or_none,
    a_flow_is_removed_by_one_of_those_who_try,
    a_look_up_never_mixes_two_flows_of_one_record,
    of_two_insertions_into_a_full_table_each_takes_the_place_of_another_flow,
    a_flow_that_is_confirmed_does_not_give_way,
    a_flow_that_stays_is_found_whatever_comes_and_goes_beside_it,
}

fn of_two_insertions_with_a_common_key_at_most_one_wins<A: Address>() {
    let pairs = [
        [flow(1, 2), flow(1, 2)],
        [flow(1, 2), flow(1, 3)],
        [flow(1, 2), flow(3, 2)],
        [flow(1, 2), flow(2, 1)],
        [flow(1, 2), flow(2, 3)],
    ];
    let mut outcomes = Vec::new();
    for seed in seeds() {
        for pair in pairs {
            let heap = Heap::<A>::new(2);
            let (table, _) = Table::start(&heap, SECRET);
            let results = insert_both(seed, &table, pair);
            let winners = results.iter().filter(|result| result.is_ok()).count();
            assert!(winners <= 1, "seed {seed}: {results:?}");
            assert_eq!(assert_sound(&table).len(), winners, "seed {seed}");
            assert!(results.iter().all(|result| *result != Err(InsertError::Full)), "seed {seed}");
            outcomes.extend(results.map(Result::err));
        }
    }
    assert!(outcomes.contains(&Some(InsertError::Contended)), "the threads met");
}

fn a_look_up_finds_no_flow_whose_insertion_fails<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(2);
        let (table, _) = Table::start(&heap, SECRET);
        let mut results = [Err(InsertError::Full); 2];
        let [first, second] = &mut results;
        let mut found = Vec::new();
        interleave(
            seed,
            vec![
                Box::new(|| *first = table.insert(&flow(1, 2), NOW)),
                Box::new(|| *second = table.insert(&flow(3, 2), NOW)),
                Box::new(|| {
                    for number in [1, 2, 3, 1, 2, 3] {
                        found.extend(table.lookup(table.hasher.hash(&key::<A>(number)), &key(number)));
                    }
                }),
            ],
        );
        assert!(
            found.iter().all(|found| results.contains(&Ok(found.flow))),
            "seed {seed}: {found:?}, {results:?}"
        );
    }
}

fn two_insertions_without_a_common_key_both_win<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(2);
        let (table, _) = Table::start(&heap, SECRET);
        let results = insert_both(seed, &table, [flow(1, 2), flow(3, 4)]);
        assert!(results.iter().all(Result::is_ok), "seed {seed}: {results:?}");
        assert_eq!(assert_sound(&table).len(), 2);
    }
}

fn an_insertion_during_the_removal_of_its_key_ends_in_one_flow_or_none<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(2);
        let (table, _) = Table::start(&heap, SECRET);
        let old = table.insert(&flow(1, 2), NOW).unwrap();
        let mut inserted = Err(InsertError::Full);
        interleave(
            seed,
            vec![
                Box::new(|| assert!(table.remove(old))),
                Box::new(|| inserted = table.insert(&flow(2, 1), NOW)),
            ],
        );
        assert_eq!(assert_sound(&table), Vec::from_iter(inserted), "seed {seed}");
        assert_ne!(inserted, Err(InsertError::Contended), "seed {seed}: a removal hinders nobody");
    }
}

fn a_flow_is_removed_by_one_of_those_who_try<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(2);
        let (table, _) = Table::start(&heap, SECRET);
        let old = table.insert(&flow(1, 2), NOW).unwrap();
        let mut counts = [0; 3];
        let [removed, expired, changed] = &mut counts;
        let late = Now::from_seconds(9_000);
        interleave(
            seed,
            vec![
                Box::new(|| *removed = usize::from(table.remove(old))),
                Box::new(|| *expired = table.expire(&mut Cursor::part(0, 1), late, 2)),
                Box::new(|| {
                    *changed = usize::from(table.change_state(old, State::SynSent, State::Close, NOW));
                }),
            ],
        );
        assert_eq!(counts[0] + counts[1], 1, "seed {seed}: {counts:?}");
        assert!(assert_sound(&table).is_empty());
    }
}

fn a_look_up_never_mixes_two_flows_of_one_record<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(1);
        let (table, _) = Table::start(&heap, SECRET);
        let flows = [flow(1, 2), flow(1, 3)];
        let first = table.insert(&flows[0], NOW).unwrap();
        let hash = table.hasher.hash(&key::<A>(1));
        let look = || {
            if let Some(found) = table.lookup(hash, &key(1)) {
                let whole =
                    flows.iter().find(|new| new.reply.reversed() == found.leaves_as).expect("a known flow");
                assert_eq!(found.transport_difference, whole.transport_difference, "seed {seed}");
                let ids = table.ids(found.flow);
                assert!(ids.is_none_or(|ids| ids == (whole.service, whole.endpoint)), "seed {seed}");
            }
        };
        interleave(
            seed,
            vec![
                Box::new(|| {
                    assert!(table.remove(first));
                    let second = table.insert(&flows[1], NOW).unwrap();
                    assert!(table.remove(second));
                    table.insert(&flows[0], NOW).unwrap();
                }),
                Box::new(|| (0..4).for_each(|_| look())),
            ],
        );
    }
}

fn a_flow_that_stays_is_found_whatever_comes_and_goes_beside_it<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(3);
        let (table, _) = Table::start(&heap, SECRET);
        let stays = table.insert(&flow(1, 2), NOW).unwrap();
        let churn = |number| {
            for _ in 0..2 {
                let new = table.insert(&flow(number, number + 1), NOW).unwrap();
                assert!(table.remove(new));
            }
        };
        interleave(
            seed,
            vec![
                Box::new(|| churn(3)),
                Box::new(|| churn(5)),
                Box::new(|| {
                    for number in [1, 2, 1, 2] {
                        let found = table.lookup(table.hasher.hash(&key::<A>(number)), &key(number));
                        assert_eq!(found.map(|found| found.flow), Some(stays), "seed {seed}");
                    }
                }),
            ],
        );
        assert_eq!(assert_sound(&table), [stays]);
    }
}

fn of_two_insertions_into_a_full_table_each_takes_the_place_of_another_flow<A: Address>() {
    for seed in seeds() {
        let heap = Heap::<A>::new(2);
        let (table, _) = Table::start(&heap, SECRET);
        for new in [flow(1, 2), flow(3, 4)] {
            table.insert(&new, NOW).unwrap();
        }
        let (mut results, mut counts) = ([Err(InsertError::Full); 2], [0; 2]);
        let ([first, second], [first_count, second_count]) = (&mut results, &mut counts);
        interleave(
            seed,
            vec![
                Box::new(|| *first = table.insert_evicting(&flow(5, 6), NOW, first_count)),
                Box::new(|| *second = table.insert_evicting(&flow(7, 8), NOW, second_count)),
            ],
        );
        // One may find the only flow left in the other's making: then it is refused, and that record stays.
        let inserted = results.iter().flatten().count();
        assert!(inserted > 0, "seed {seed}");
        assert!(counts.iter().sum::<u64>() >= inserted as u64, "seed {seed}: {counts:?}");
        let live = assert_sound(&table);
        assert!(results.iter().flatten().all(|flow| live.contains(flow)), "seed {seed}: {results:?}");
    }
}

fn a_flow_that_is_confirmed_does_not_give_way<A: Address>() {
    let mut outcomes = Vec::new();
    for seed in seeds() {
        let heap = Heap::<A>::new(1);
        let (table, _) = Table::start(&heap, SECRET);
        let old = table.insert(&flow(1, 2), NOW).unwrap();
        let (mut inserted, mut confirmed, mut evicted) = (Err(InsertError::Full), false, 0);
        interleave(
            seed,
            vec![
                Box::new(|| inserted = table.insert_evicting(&flow(3, 4), NOW, &mut evicted)),
                Box::new(|| confirmed = table.change_state(old, State::SynSent, State::Established, NOW)),
            ],
        );
        assert_ne!(inserted.is_ok(), confirmed, "seed {seed}");
        assert_eq!((evicted == 1, table.ids(old).is_some()), (!confirmed, confirmed), "seed {seed}");
        assert_eq!(assert_sound(&table).len(), 1);
        outcomes.push(confirmed);
    }
    assert!(outcomes.contains(&true) && outcomes.contains(&false), "either can win");
}
