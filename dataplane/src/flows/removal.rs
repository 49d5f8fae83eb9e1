//! How a flow leaves the table: the second half of the round that [`super::table`] describes, and the sweep.

use core::ops::Range;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::memory::{Memory, Word};
use super::record::{Meta, Record, Status};
use super::table::Table;
use super::{Direction, FlowRef, Timeouts};
use crate::clock::Now;

/// Where one worker's sweep stands in its part of the records.
#[derive(Clone, Debug)]
pub struct Cursor {
    worker: u32,
    workers: u32,
    next: u32,
}

impl Cursor {
    /// Makes the cursor of one of `workers` equal parts, which together are the whole table.
    ///
    /// A `worker` beyond the last has an empty part; zero workers count as one.
    #[must_use]
    pub const fn part(worker: u32, workers: u32) -> Self {
        Self { worker, workers: if workers == 0 { 1 } else { workers }, next: 0 }
    }

    /// Returns how many records of a table of that capacity are in the part.
    #[must_use]
    pub fn size(&self, capacity: usize) -> usize {
        self.records(u32::try_from(capacity).unwrap_or(u32::MAX)).len()
    }

    /// Returns the next records, `budget` of them or all of the part, and goes on behind them; begins anew at the end.
    pub(super) fn advance(&mut self, capacity: u32, budget: usize) -> impl Iterator<Item = u32> {
        let part = self.records(capacity);
        (0..budget.min(part.len())).map(move |_| {
            if !part.contains(&self.next) {
                self.next = part.start;
            }
            let number = self.next;
            self.next = self.next.saturating_add(1);
            number
        })
    }

    fn records(&self, capacity: u32) -> Range<u32> {
        let border = |worker: u32| {
            let worker = u64::from(worker.min(self.workers));
            (u64::from(capacity) * worker / u64::from(self.workers)) as u32
        };
        border(self.worker)..border(self.worker.saturating_add(1))
    }
}

impl<M: Memory> Table<M> {
    /// Removes a flow; false if it is gone or another thread removes it.
    pub(super) fn remove(&self, flow: FlowRef) -> bool {
        let Some(record) = Record::of(&self.memory, flow.record) else { return false };
        loop {
            let meta = record.meta();
            if !meta.is_live(flow.generation) {
                return false;
            }
            if self.remove_as(flow.record, &record, meta) {
                return true;
            }
        }
    }

    /// Removes the live flow whose first word is `meta`; false if that word has changed.
    pub(super) fn remove_as(&self, number: u32, record: &Record<'_, M::Word>, meta: Meta) -> bool {
        if !record.meta.replace(meta.0, meta.with_status(Status::Dying).0, AcqRel) {
            return false;
        }
        if let Some(contents) = record.contents() {
            let request = self.candidate(contents.key(Direction::Request), Direction::Request);
            let reply = self.candidate(contents.key(Direction::Reply), Direction::Reply);
            self.clear_slots(number, &request, &reply);
        }
        self.release(record, FlowRef { record: number, generation: meta.generation() });
        true
    }

    /// Looks at up to `budget` records of the cursor's part and removes the flows that were silent for too long.
    ///
    /// A flow is never removed before its timeout; a packet in the very instant of its removal does not save it.
    pub(super) fn expire(&self, cursor: &mut Cursor, now: Now, budget: usize, timeouts: &Timeouts) -> usize {
        let numbers = cursor.advance(self.memory.capacity(), budget);
        numbers.map(|number| usize::from(self.expire_one(number, now, timeouts))).sum()
    }

    fn expire_one(&self, number: u32, now: Now, timeouts: &Timeouts) -> bool {
        let Some(record) = Record::of(&self.memory, number) else { return false };
        let meta = record.meta();
        if meta.status() != Status::Live {
            return false;
        }
        let seen = record.seen.load(Relaxed);
        let is_silent = meta.state().is_none_or(|state| {
            // Both moments are cut to whole seconds, so equality may be a second early.
            now.seconds().saturating_sub(seen as u32) > timeouts.seconds(state)
        });
        is_silent && (seen >> 32) as u32 == meta.generation() && self.remove_as(number, &record, meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_workers_are_the_whole_table_once() {
        for (capacity, workers) in [(1, 1), (10, 3), (2, 5), (u32::MAX, 7)] {
            let mut next = 0;
            for worker in 0..workers {
                let part = Cursor::part(worker, workers).records(capacity);
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, capacity);
            assert!(Cursor::part(workers, workers).records(capacity).is_empty());
        }
    }
}
