//! How many words an operation looks at, at most, however full the table is.

use std::cell::Cell;
use std::rc::Rc;

use super::heap::{Heap, hooked};
use super::*;

const CAPACITY: u32 = 4_000;
/// Slots of two buckets.
const SLOTS: usize = 16;

/// Returns how many words `body` reads and writes.
fn accesses<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let count = Rc::new(Cell::new(0));
    let counter = Rc::clone(&count);
    let value = hooked(move |_| counter.set(counter.get() + 1), body);
    (value, count.get())
}

for_both_families! {
    a_look_up_reads_sixteen_slots_and_one_record_however_full_the_table_is,
    an_insertion_looks_at_each_bucket_of_its_keys_thrice,
    nine_of_ten_keys_are_in_their_first_bucket_when_the_table_is_full,
}

fn a_look_up_reads_sixteen_slots_and_one_record_however_full_the_table_is<A: Address>() {
    let heap = Heap::<A>::new(CAPACITY);
    let (table, _) = Table::start(&heap, SECRET);
    for number in 0..CAPACITY {
        table.insert(&own_flow(number), NOW).unwrap();
    }
    // Its slot once more, its words, and its first again.
    let record = 1 + super::super::record::words::<A>() + 1;
    for number in 0..4 * CAPACITY {
        let key = key::<A>(number);
        let hash = table.hasher.hash(&key);
        let (found, count) = accesses(|| table.lookup(hash, &key));
        assert_eq!(found.is_some(), number < 2 * CAPACITY);
        assert!(count <= SLOTS + if found.is_some() { record } else { 0 }, "{count} words for key {number}");
    }
}

fn an_insertion_looks_at_each_bucket_of_its_keys_thrice<A: Address>() {
    let heap = Heap::<A>::new(CAPACITY);
    let (table, _) = Table::start(&heap, SECRET);
    // For each key: a look whether it is taken, one for an empty slot, one for a rival.
    let slots = 2 * 3 * SLOTS;
    // Its words and identities once, its first word four times more, both slots written, and read as one's own.
    let record = super::super::record::words::<A>() + 2 + 4 + 2 + 2;
    for number in 0..CAPACITY {
        let (inserted, count) = accesses(|| table.insert(&own_flow(number), NOW));
        assert!(inserted.is_ok());
        assert!(count <= slots + record, "{count} words for flow {number}");
    }
}

fn nine_of_ten_keys_are_in_their_first_bucket_when_the_table_is_full<A: Address>() {
    let heap = Heap::<A>::new(CAPACITY);
    let (table, _) = Table::start(&heap, SECRET);
    for number in 0..CAPACITY {
        table.insert(&own_flow(number), NOW).unwrap();
    }
    let is_in_first = |number: &u32| !table.seek(table.hasher.hash(&key::<A>(*number))).is_unknown();
    let in_first = (0..2 * CAPACITY).filter(is_in_first).count() as u32;
    assert!(in_first >= 2 * CAPACITY * 9 / 10, "{in_first} of {}", 2 * CAPACITY);
    // What is not there is in the second.
    let is_in_second = |number: &u32| !table.seek_on(table.hasher.hash(&key::<A>(*number))).is_unknown();
    let in_either = (0..2 * CAPACITY).filter(|number| is_in_first(number) || is_in_second(number)).count();
    assert_eq!(in_either as u32, 2 * CAPACITY);
}
