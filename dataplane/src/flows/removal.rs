//! How a flow leaves the table: the second half of the round that [`super::table`] describes, and the sweep.

use core::ops::Range;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::calendar::{NEVER, STRETCH};
use super::memory::{Memory, Word};
use super::record::{Meta, Record, Status};
use super::table::Table;
use super::{Direction, FlowRef};
use crate::clock::Now;

/// Where one worker's sweep stands in its part of the records.
#[derive(Clone, Debug)]
pub struct Cursor {
    worker: u32,
    workers: u32,
    next: u32,
    /// Stretches that the sweep under way has still to pass.
    left: u32,
    /// The second that it began in; `None` before the first.
    begun: Option<u32>,
}

/// Due seconds that a sweep looks at for each stretch of records that it may look through.
const PASSED_PER_STRETCH: usize = 128;

impl Cursor {
    /// Makes the cursor of one of `workers` equal parts, which together are the whole table.
    ///
    /// A `worker` beyond the last has an empty part; zero workers count as one.
    #[must_use]
    pub const fn part(worker: u32, workers: u32) -> Self {
        let workers = if workers == 0 { 1 } else { workers };
        Self { worker, workers, next: 0, left: 0, begun: None }
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

    /// Returns the records of the part: whole stretches, since one cursor alone looks through a stretch.
    fn records(&self, capacity: u32) -> Range<u32> {
        let stretches = u64::from(capacity.div_ceil(STRETCH));
        let border = |worker: u32| {
            let worker = u64::from(worker.min(self.workers));
            let record = stretches * worker / u64::from(self.workers) * u64::from(STRETCH);
            u32::try_from(record).map_or(capacity, |record| record.min(capacity))
        };
        border(self.worker)..border(self.worker.saturating_add(1))
    }

    /// Begins a sweep if none is under way and the second is another than that of the last.
    fn begin_sweep(&mut self, capacity: u32, now: Now) {
        if self.left == 0 && self.begun != Some(now.seconds()) {
            self.begun = Some(now.seconds());
            self.left = self.records(capacity).len().div_ceil(STRETCH as usize) as u32;
        }
    }

    /// Passes one stretch of the part and returns its number.
    #[inline]
    fn pass(&mut self, part: &Range<u32>) -> u32 {
        if !part.contains(&self.next) {
            self.next = part.start;
        }
        let stretch = self.next / STRETCH;
        self.next = self.next.saturating_add(STRETCH);
        self.left = self.left.saturating_sub(1);
        stretch
    }

    /// Says whether the last sweep stopped before it was through the part, its budget being spent.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.left > 0
    }
}

/// What a look at one record found.
enum Look {
    /// No flow, or one that others are about to remove.
    Nothing,
    /// A flow that may be over from this second on.
    Due(u64),
    /// A flow that was over, and is removed.
    Expired,
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

    /// Goes on with the sweep of the cursor's part, or begins one if the last began in another second: looks through up
    /// to `budget` stretches that are due, and removes the flows that were silent for too long.
    ///
    /// A flow is never removed before its timeout; a packet in the very instant of its removal does not save it.
    pub(super) fn expire(&self, cursor: &mut Cursor, now: Now, budget: usize) -> usize {
        cursor.begin_sweep(self.memory.capacity(), now);
        if !cursor.is_under_way() {
            return 0;
        }
        let part = cursor.records(self.memory.capacity());
        let (mut passed, mut looked_through, mut expired) = (0, 0, 0);
        while cursor.is_under_way() && looked_through < budget && passed / PASSED_PER_STRETCH < budget {
            let stretch = cursor.pass(&part);
            passed += 1;
            if self.calendar.is_due(stretch, now.seconds()) {
                looked_through += 1;
                expired += self.look_through(stretch, now);
            }
        }
        expired
    }

    fn look_through(&self, stretch: u32, now: Now) -> usize {
        self.calendar.begin(stretch, &self.memory);
        let first = stretch * STRETCH;
        let (mut expired, mut earliest) = (0, NEVER);
        for number in first..first.saturating_add(STRETCH).min(self.memory.capacity()) {
            match self.expire_one(number, now) {
                Look::Nothing => {}
                Look::Due(second) => earliest = earliest.min(second),
                Look::Expired => expired += 1,
            }
        }
        self.calendar.end(stretch, earliest);
        expired
    }

    fn expire_one(&self, number: u32, now: Now) -> Look {
        let Some(record) = Record::of(&self.memory, number) else { return Look::Nothing };
        let meta = record.meta();
        if !matches!(meta.status(), Status::Live | Status::Building) {
            return Look::Nothing;
        }
        let seen = record.seen.load(Relaxed);
        let due = meta.state().map_or(0, |state| self.over_at(seen as u32, state));
        // The flow that the record has next is noted by whoever makes it live.
        if (seen >> 32) as u32 != meta.generation() || due > u64::from(now.seconds()) {
            return Look::Due(due);
        }
        if meta.status() == Status::Live && self.remove_as(number, &record, meta) {
            return Look::Expired;
        }
        Look::Due(u64::from(now.seconds()) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_workers_are_the_whole_table_once() {
        for (capacity, workers) in [(1, 1), (10, 3), (2, 5), (640, 3), (641, 5), (u32::MAX, 7)] {
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
