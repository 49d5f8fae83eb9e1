//! Who gives way when the table is full (design decision 13).
//!
//! A hand goes round over all records, one place for all workers, and each search goes on where the last one ended. So a
//! flow that came in by taking a place is the last whose turn it is: when a flood of opened connections fills what is
//! left by established ones, each has about as long as the flood takes to fill that once, and a client that answers
//! within that time gets through.
//!
//! A flow is dropped by replacing the very word that its state was read from, so one that was confirmed meanwhile stays.

use core::sync::atomic::Ordering::Relaxed;

use super::memory::Memory;
use super::record::{Record, Status};
use super::table::Table;
use super::{Direction, State};

/// Records that an insertion into a full table looks at; they lie side by side, so each costs a few ns.
pub(super) const PROBES: u32 = 64;

impl<M: Memory> Table<M> {
    /// Removes one flow that may give way; false if none is among the records that `probes` allows to look at.
    pub(super) fn evict(&self, probes: &mut u32) -> bool {
        let mut number = self.hand.load(Relaxed);
        let mut is_evicted = false;
        while *probes > 0 && !is_evicted {
            *probes -= 1;
            if number >= self.memory.capacity() {
                number = 0;
            }
            is_evicted = self.evict_one(number);
            number = number.saturating_add(1);
        }
        // Of two workers at once the later one decides where to go on: some records are then looked at twice or next time.
        self.hand.store(number, Relaxed);
        is_evicted
    }

    /// Asks for the cache lines that so many evictions will read and write.
    pub(super) fn prefetch_evictions(&self, count: usize) {
        let (first, capacity) = (self.hand.load(Relaxed), self.memory.capacity());
        let numbers = || (first..capacity).chain(0..first.min(capacity)).take(count);
        for number in numbers() {
            self.memory.prefetch_record(number);
            self.memory.prefetch_identity(number);
        }
        for contents in
            numbers().filter_map(|number| Record::of(&self.memory, number)?.contents::<M::Address>())
        {
            for direction in [Direction::Request, Direction::Reply] {
                self.prefetch(self.hasher.hash(&contents.key(direction)));
            }
        }
    }

    fn evict_one(&self, number: u32) -> bool {
        let Some(record) = Record::of(&self.memory, number) else { return false };
        let meta = record.meta();
        meta.status() == Status::Live
            && meta.state().is_none_or(State::gives_way)
            && self.remove_as(number, &record, meta)
    }
}
