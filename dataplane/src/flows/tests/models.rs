//! The table's own code under a model checker: every order in which threads take turns, up to a number of preemptions,
//! and in each of them every value that the language's memory model lets a thread read.
//!
//! Buckets have two slots that empty; the others are full for good. Of a record the words are scheduled in which the
//! flows of these tests differ.
#![expect(clippy::disallowed_types, reason = "the model is not the packet path")]

use core::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use loom::thread;

use super::super::calendar::{Due, NEVER};
use super::super::free::Stack;
use super::super::memory::{BUCKET_SLOTS, FreeRecords, IDENTITY_WORDS};
use super::super::{Cursor, Found, InsertError};
use super::*;

/// Slots of a bucket that are not full for good.
const SLOTS: usize = 2;
const BUCKETS: u32 = 2;

/// A word of the model.
enum ModelWord {
    /// Written without being read before: each access is a turn, and a load may give any value that it may give.
    Written(loom::sync::atomic::AtomicU64),
    /// The same, but read before it is written. Loom looks for other orders only between a write and the last access
    /// before it, and that is the reading by the same thread; so every access takes the turn first.
    Replaced {
        turn: loom::sync::atomic::AtomicU64,
        word: loom::sync::atomic::AtomicU64,
    },
    Unscheduled(AtomicU64),
    /// A slot that is never empty and leads nowhere.
    Full,
}

impl ModelWord {
    fn written() -> Self {
        Self::Written(loom::sync::atomic::AtomicU64::new(0))
    }

    fn replaced() -> Self {
        let [turn, word] = [0; 2].map(loom::sync::atomic::AtomicU64::new);
        Self::Replaced { turn, word }
    }

    fn take_turn(&self) {
        if let Self::Replaced { turn, .. } = self {
            turn.fetch_add(1, Relaxed);
        }
    }
}

impl Word for ModelWord {
    fn load(&self, order: Ordering) -> u64 {
        self.take_turn();
        match self {
            Self::Written(word) | Self::Replaced { word, .. } => word.load(order),
            Self::Unscheduled(word) => word.load(order),
            Self::Full => FULL_FOR_GOOD,
        }
    }

    fn store(&self, value: u64, order: Ordering) {
        self.take_turn();
        match self {
            Self::Written(word) | Self::Replaced { word, .. } => word.store(value, order),
            Self::Unscheduled(word) => word.store(value, order),
            Self::Full => {}
        }
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.take_turn();
        match self {
            Self::Written(word) | Self::Replaced { word, .. } => {
                word.compare_exchange(current, new, order, Relaxed).is_ok()
            }
            Self::Unscheduled(word) => word.compare_exchange(current, new, order, Relaxed).is_ok(),
            Self::Full => false,
        }
    }
}

/// Orders no more than a queue must: what came before a record was pushed comes before what follows its being popped.
struct ModelQueue {
    /// Never contended: loom passes the turn on at accesses of its own types only.
    records: Mutex<VecDeque<u32>>,
    turn: loom::sync::atomic::AtomicU64,
    handed_over: Vec<loom::sync::atomic::AtomicU64>,
}

impl FreeRecords for ModelQueue {
    fn with_room_for(capacity: u32) -> Self {
        let word = || loom::sync::atomic::AtomicU64::new(0);
        let handed_over = (0..capacity).map(|_| word()).collect();
        Self { records: Mutex::default(), turn: word(), handed_over }
    }

    fn push(&self, record: u32) -> Result<(), u32> {
        self.handed_over[record as usize].fetch_add(1, Ordering::Release);
        self.turn.fetch_add(1, Relaxed);
        self.records.lock().unwrap().push_back(record);
        Ok(())
    }

    fn pop(&self) -> Option<u32> {
        self.turn.fetch_add(1, Relaxed);
        let record = self.records.lock().unwrap().pop_front()?;
        self.handed_over[record as usize].fetch_add(1, Ordering::Acquire);
        Some(record)
    }

    fn peek(&self, _: usize, _: impl FnMut(u32)) {}

    fn len(&self) -> usize {
        self.records.lock().unwrap().len()
    }
}

thread_local! {
    /// Whether due seconds are scheduled: only where the test is about them, since that makes many more orders.
    static IS_CALENDAR_SCHEDULED: Cell<bool> = const { Cell::new(false) };
}

enum ModelDue {
    Scheduled(loom::sync::atomic::AtomicU64),
    Unscheduled(AtomicU64),
}

impl From<u64> for ModelDue {
    fn from(second: u64) -> Self {
        if IS_CALENDAR_SCHEDULED.get() {
            Self::Scheduled(loom::sync::atomic::AtomicU64::new(second))
        } else {
            Self::Unscheduled(AtomicU64::new(second))
        }
    }
}

impl Due for ModelDue {
    fn load(&self) -> u64 {
        match self {
            Self::Scheduled(second) => second.load(Relaxed),
            Self::Unscheduled(second) => second.load(Relaxed),
        }
    }

    fn forget(&self) {
        match self {
            Self::Scheduled(second) => second.swap(NEVER, Ordering::AcqRel),
            Self::Unscheduled(second) => second.swap(NEVER, Ordering::AcqRel),
        };
    }

    fn lower(&self, to: u64) {
        match self {
            Self::Scheduled(second) => second.fetch_min(to, Ordering::AcqRel),
            Self::Unscheduled(second) => second.fetch_min(to, Ordering::AcqRel),
        };
    }
}

struct ModelMemory {
    index: Vec<[ModelWord; BUCKET_SLOTS]>,
    records: Vec<[ModelWord; 8]>,
    identities: Vec<[ModelWord; IDENTITY_WORDS]>,
}

impl ModelMemory {
    fn new(capacity: u32) -> Self {
        let unscheduled = || ModelWord::Unscheduled(AtomicU64::new(0));
        let slot = |place| if place < SLOTS { ModelWord::replaced() } else { ModelWord::Full };
        // State; last second, ports and differences.
        let word = |place| match place {
            0 => ModelWord::replaced(),
            1..4 => ModelWord::written(),
            _ => unscheduled(),
        };
        Self {
            index: (0..BUCKETS).map(|_| std::array::from_fn(slot)).collect(),
            records: (0..capacity).map(|_| std::array::from_fn(word)).collect(),
            identities: (0..capacity).map(|_| std::array::from_fn(|_| unscheduled())).collect(),
        }
    }
}

impl Memory for ModelMemory {
    type Word = ModelWord;
    type Address = Ipv4Addr;
    type Free = ModelQueue;
    type Due = ModelDue;

    fn capacity(&self) -> u32 {
        self.records.len() as u32
    }

    fn buckets(&self) -> u32 {
        BUCKETS
    }

    fn bucket(&self, number: u32) -> Option<&[ModelWord; BUCKET_SLOTS]> {
        self.index.get(number as usize)
    }

    fn record(&self, number: u32) -> Option<&[ModelWord]> {
        self.records.get(number as usize).map(<[_; 8]>::as_slice)
    }

    fn identity(&self, number: u32) -> Option<&[ModelWord; IDENTITY_WORDS]> {
        self.identities.get(number as usize)
    }

    fn fence(&self, order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}

type ModelTable = Table<ModelMemory>;

/// Runs `body` on an empty table in every order, up to a number of preemptions and of runs (0.2 ms each).
fn in_every_order(body: impl Fn(Arc<ModelTable>) + Send + Sync + 'static, capacity: u32) {
    let mut builder = loom::model::Builder::new();
    let (preemptions, runs) = if is_long() { (3, 200_000) } else { (2, 3_000) };
    builder.preemption_bound = Some(preemptions);
    builder.max_permutations = Some(runs);
    builder.max_branches = 10_000;
    builder.check(move || body(Arc::new(Table::start(ModelMemory::new(capacity), SECRET).0)));
}

fn lookup(table: &ModelTable, number: u32) -> Option<Found> {
    table.lookup(table.hasher.hash(&key::<Ipv4Addr>(number)), &key(number))
}

/// Inserts each flow in a thread of its own; returns what became of both.
fn insert_both(table: &Arc<ModelTable>, flows: [NewFlow; 2]) -> [Result<FlowRef, InsertError>; 2] {
    let threads = flows.map(|new| {
        let table = Arc::clone(table);
        thread::spawn(move || table.insert(&new, NOW))
    });
    threads.map(|thread| thread.join().unwrap())
}

fn at_most_one_wins(first: NewFlow, second: NewFlow) {
    in_every_order(
        move |table| {
            let results = insert_both(&table, [first, second]);
            let winners = results.iter().filter(|result| result.is_ok()).count();
            assert!(winners <= 1, "{results:?}");
            assert_eq!(assert_sound(&table).len(), winners);
            assert!(!results.contains(&Err(InsertError::Full)));
        },
        2,
    );
}

#[test]
fn of_two_insertions_of_one_flow_at_most_one_wins() {
    at_most_one_wins(flow(1, 2), flow(1, 2));
}

#[test]
fn of_two_insertions_with_one_request_key_at_most_one_wins() {
    at_most_one_wins(flow(1, 2), flow(1, 3));
}

#[test]
fn of_two_insertions_with_each_others_keys_at_most_one_wins() {
    at_most_one_wins(flow(1, 2), flow(2, 1));
}

/// The same as below, between claim and *live* only, so that all of it is seen in the normal run. Here nothing but the
/// sequentially consistent fence helps: each thread may still see the other's slot as it was before.
#[test]
fn of_two_that_publish_a_key_one_into_a_slot_just_left_at_most_one_goes_on() {
    in_every_order(
        |table| {
            let table: &'static ModelTable = Box::leak(Box::new(table));
            let old = table.insert(&flow(5, 6), NOW).unwrap();
            let [first, second] = [flow(1, 2), flow(1, 3)].map(|new: NewFlow| {
                let claim = table.claim().unwrap();
                claim.build(&new, NOW);
                claim
            });
            let common = || table.candidate(key(1), Direction::Request);
            let rival = thread::spawn(move || table.publish(&first, &common()).is_ok());
            assert!(table.remove(old));
            let goes_on = table.publish(&second, &common()).is_ok();
            assert!(!(rival.join().unwrap() && goes_on));
        },
        3,
    );
}

#[test]
fn of_two_insertions_one_of_which_takes_a_slot_just_left_at_most_one_wins() {
    in_every_order(
        |table| {
            let old = table.insert(&flow(5, 6), NOW).unwrap();
            let rival = Arc::clone(&table);
            let first = thread::spawn(move || rival.insert(&flow(1, 2), NOW));
            assert!(table.remove(old));
            let second = table.insert(&flow(1, 3), NOW);
            let winners = usize::from(first.join().unwrap().is_ok()) + usize::from(second.is_ok());
            assert!(winners <= 1);
            assert_eq!(assert_sound(&table).len(), winners);
        },
        3,
    );
}

#[test]
fn two_insertions_without_a_common_key_both_win() {
    in_every_order(
        |table| {
            let results = insert_both(&table, [flow(1, 2), flow(3, 4)]);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            assert_eq!(assert_sound(&table).len(), 2);
        },
        2,
    );
}

#[test]
fn a_flow_is_found_whole_by_both_keys_or_not_at_all_while_it_is_inserted() {
    in_every_order(
        |table| {
            let inserter = Arc::clone(&table);
            let inserted = thread::spawn(move || inserter.insert(&flow(1, 2), NOW).unwrap());
            let [request, reply] = [1, 2].map(|number| lookup(&table, number));
            let flow = inserted.join().unwrap();
            for (found, direction, leaves_as) in
                [(request, Direction::Request, 2), (reply, Direction::Reply, 1)]
            {
                let Some(found) = found else { continue };
                assert_eq!((found.flow, found.direction, found.last_seen), (flow, direction, 1_000));
                assert_eq!(found.leaves_as, key(leaves_as).reversed());
            }
            assert!(request.is_none() || reply.is_some(), "found by one key, then by the other");
            assert_eq!(assert_sound(&table), [flow]);
        },
        1,
    );
}

#[test]
fn a_look_up_while_a_record_expires_and_is_used_again_gives_one_flow_whole() {
    in_every_order(
        |table| {
            let old = table.insert(&flow(1, 2), NOW).unwrap();
            let sweeper = Arc::clone(&table);
            let successor = thread::spawn(move || {
                let late = Now::from_seconds(9_000);
                assert_eq!(sweeper.expire(&mut Cursor::part(0, 1), late, 1), 1);
                sweeper.insert(&flow(1, 3), late).unwrap()
            });
            let found = lookup(&table, 1);
            let successor = successor.join().unwrap();
            if let Some(found) = found {
                let whole = if found.flow == old { (2, 1_000) } else { (3, 9_000) };
                assert!(found.flow == old || found.flow == successor);
                assert_eq!((found.leaves_as, found.last_seen), (key(whole.0).reversed(), whole.1));
            }
            assert_eq!(assert_sound(&table), [successor]);
        },
        1,
    );
}

#[test]
fn a_full_table_takes_one_flow_for_another_while_it_is_looked_up() {
    in_every_order(
        |table| {
            let old = table.insert(&flow(1, 2), NOW).unwrap();
            let rival = Arc::clone(&table);
            let later = Now::from_seconds(1_001);
            let inserted = thread::spawn(move || rival.insert_evicting(&flow(1, 4), later, &mut 0));
            let found = lookup(&table, 1);
            assert_eq!(inserted.join().unwrap(), Err(InsertError::RequestTaken));
            assert_eq!(found.map(|found| found.flow), Some(old));
            assert_eq!(assert_sound(&table), [old]);
        },
        1,
    );
}

#[test]
fn of_two_insertions_into_a_full_table_the_one_that_wins_is_whole() {
    in_every_order(
        |table| {
            table.insert(&flow(1, 2), NOW).unwrap();
            let rival = Arc::clone(&table);
            let first = thread::spawn(move || rival.insert_evicting(&flow(3, 4), NOW, &mut 0));
            let second = table.insert_evicting(&flow(5, 6), NOW, &mut 0);
            let first = first.join().unwrap();
            let live = assert_sound(&table);
            assert!(first.is_ok() || second.is_ok());
            // The second may have taken the place of the first once that was live.
            let last = live.first().copied().expect("one of them holds the record");
            assert!(first == Ok(last) || second == Ok(last));
        },
        1,
    );
}

#[test]
fn a_flow_that_is_confirmed_while_another_wants_its_place_stays_or_was_gone_before() {
    in_every_order(
        |table| {
            let old = table.insert(&flow(1, 2), NOW).unwrap();
            let rival = Arc::clone(&table);
            let inserted = thread::spawn(move || rival.insert_evicting(&flow(3, 4), NOW, &mut 0));
            let confirmed = table.change_state(old, State::SynSent, State::Established, NOW);
            let inserted = inserted.join().unwrap();
            assert_ne!(inserted.is_ok(), confirmed);
            let live = assert_sound(&table);
            assert_eq!(live, [inserted.unwrap_or(old)]);
        },
        1,
    );
}

/// A sweep that looks through a stretch while `change` makes a flow that is over earlier than all others there.
fn the_next_sweep_finds(change: fn(&ModelTable, FlowRef)) {
    in_every_order(
        move |_| {
            IS_CALENDAR_SCHEDULED.set(true);
            let table = Arc::new(Table::start(ModelMemory::new(2), SECRET).0);
            IS_CALENDAR_SCHEDULED.set(false);
            let old = table.insert(&NewFlow { state: State::Established, ..flow(3, 4) }, NOW).unwrap();
            // As an earlier sweep left it.
            assert_eq!(table.expire(&mut Cursor::part(0, 1), NOW, 1), 0);
            table.calendar.advance(0, 0);
            let changer = Arc::clone(&table);
            let changed = thread::spawn(move || change(&changer, old));
            assert_eq!(table.expire(&mut Cursor::part(0, 1), Now::from_seconds(1_001), 1), 0);
            changed.join().unwrap();
            let late = Now::from_seconds(1_001 + table.timeouts.seconds(State::SynSent));
            assert_eq!(table.expire(&mut Cursor::part(0, 1), late, 1), 1);
        },
        2,
    );
}

#[test]
fn a_flow_inserted_while_its_stretch_is_looked_through_is_found_when_it_is_over() {
    the_next_sweep_finds(|table, _| {
        table.insert(&flow(1, 2), NOW).unwrap();
    });
}

#[test]
fn a_flow_whose_time_is_made_shorter_while_its_stretch_is_looked_through_is_found_when_it_is_over() {
    the_next_sweep_finds(|table, old| {
        assert!(table.change_state(old, State::Established, State::Close, NOW));
    });
}

#[test]
#[expect(
    clippy::arc_with_non_send_sync,
    reason = "loom's threads take turns, and its cell says if they did not"
)]
fn threads_that_take_and_return_free_records_never_hold_one_at_once_and_lose_none() {
    loom::model(|| {
        let stack = Arc::new(Stack::of(3, |value| {
            let word = ModelWord::written();
            word.store(value, Relaxed);
            word
        }));
        (0..3).for_each(|record| stack.push(record).unwrap());
        let held: Arc<[loom::cell::UnsafeCell<u32>; 3]> = Arc::new([0; 3].map(loom::cell::UnsafeCell::new));
        let take_and_return = |stack: &Stack<ModelWord>, held: &[loom::cell::UnsafeCell<u32>; 3]| {
            let record = stack.pop().unwrap();
            // The model panics if another thread is in there, or if its writing is not seen.
            held[record as usize].with_mut(|_| {});
            stack.push(record).unwrap();
        };
        let (other, others) = (Arc::clone(&stack), Arc::clone(&held));
        let thread = thread::spawn(move || {
            let first = other.pop().unwrap();
            take_and_return(&other, &others);
            others[first as usize].with_mut(|_| {});
            other.push(first).unwrap();
        });
        take_and_return(&stack, &held);
        thread.join().unwrap();
        assert_eq!(stack.len(), 3);
        let mut left: Vec<u32> = std::iter::from_fn(|| stack.pop()).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2]);
    });
}
