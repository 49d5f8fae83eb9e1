//! What a start does with the records that an earlier process left.
//!
//! The records are the truth and the index follows from them. A record is live only between the moment when both its
//! keys are published and the moment when the first is taken out, so every live record is a whole flow, and nothing
//! else is. The scan empties the index and publishes the live records again; a process that dies during the scan has
//! changed no live record, so the next scan keeps the same flows.

use core::sync::atomic::Ordering::Relaxed;

use crossbeam::utils::CachePadded;

use super::calendar::Calendar;
use super::index;
use super::key::KeyHasher;
use super::memory::{FreeRecords, Memory, Word};
use super::record::{Meta, Record, Status};
use super::table::Table;
use super::{Direction, FlowRef, Timeouts};

/// How many records a start kept and dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scan {
    pub(super) kept: u32,
    pub(super) dropped: u32,
}

impl<M: Memory> Table<M> {
    /// Makes a table of memory that no thread uses: all zero, or as an earlier process left it.
    ///
    /// Costs a pass over all records and an allocation of the queue of free ones.
    pub(super) fn start(memory: M, secret: [u64; 2]) -> (Self, Scan) {
        let free = M::Free::with_room_for(memory.capacity());
        let calendar = Calendar::new(memory.capacity());
        let (hasher, hand, timeouts) = (KeyHasher::new(secret), CachePadded::default(), Timeouts::default());
        let table = Self { memory, hasher, free, hand, calendar, timeouts };
        index::clear_all(&table.memory);
        let mut scan = Scan::default();
        // From the last, so that the first is the first to be taken.
        for number in (0..table.memory.capacity()).rev() {
            let Some(record) = Record::of(&table.memory, number) else { break };
            let meta = record.meta();
            if table.is_kept(number, &record, meta) {
                record.forget_next_hops(meta.generation());
                record.set_account(0);
                table.calendar.advance(number, 0);
                scan.kept += 1;
                continue;
            }
            scan.dropped += u32::from(meta.status() != Status::Free);
            table.release(&record, FlowRef { record: number, generation: meta.generation() });
        }
        (table, scan)
    }

    fn is_kept(&self, number: u32, record: &Record<'_, M::Word>, meta: Meta) -> bool {
        let is_dated = (record.seen.load(Relaxed) >> 32) as u32 == meta.generation();
        if meta.status() != Status::Live || meta.state().is_none() || !is_dated {
            return false;
        }
        let Some(contents) = record.contents() else { return false };
        let request = self.candidate(contents.key(Direction::Request), Direction::Request);
        let reply = self.candidate(contents.key(Direction::Reply), Direction::Reply);
        self.publish_again(number, &request, &reply)
    }
}
