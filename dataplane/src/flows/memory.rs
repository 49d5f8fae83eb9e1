//! The memory that the table's algorithm runs on: arrays of atomic words, and nothing else.
//!
//! The algorithm never names where its words live, so it runs unchanged on a file mapping, on words that stop the
//! thread at a chosen write (the crash tests), and on the words of a model checker.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::calendar::Due;
use super::lanes;
use crate::net::Address;

/// Slots of a bucket; one cache line.
pub(super) const BUCKET_SLOTS: usize = 8;
/// Words of a flow's identities, which packets do not need.
pub(super) const IDENTITY_WORDS: usize = 2;

/// One 64-bit word that threads share.
pub(super) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// Replaces `current` by `new`; says whether it did. `order` holds for success; a failure reads relaxed.
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool;

    /// Returns which words of a bucket have `wanted` in those bits of their high half that `mask` names; a bit each.
    /// Reads each word once, relaxed.
    #[inline]
    fn matching(bucket: &[Self; BUCKET_SLOTS], mask: u32, wanted: u32) -> u32
    where
        Self: Sized,
    {
        lanes::one_by_one(bucket.iter().map(|word| word.load(Ordering::Relaxed)), mask, wanted)
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }

    #[inline]
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.compare_exchange(current, new, order, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn matching(bucket: &[Self; BUCKET_SLOTS], mask: u32, wanted: u32) -> u32 {
        lanes::matching(bucket, mask, wanted)
    }
}

/// The numbers of the free records. It has room for every record, and each is in it once at most.
pub(super) trait FreeRecords {
    fn with_room_for(capacity: u32) -> Self;
    fn push(&self, record: u32) -> Result<(), u32>;
    fn pop(&self) -> Option<u32>;
    /// Calls `each` with the records that are likely to come next, at most `count`.
    fn peek(&self, count: usize, each: impl FnMut(u32));
    fn len(&self) -> usize;
}

/// The three arrays of a table. Numbers out of range give `None`, so that a number read from memory is never trusted.
pub(super) trait Memory {
    type Word: Word;
    /// The family of the flows; decides how long a record is.
    type Address: Address;
    /// What keeps the free records.
    type Free: FreeRecords;
    /// When stretches of records are due; not in the memory, but the process's own.
    type Due: Due;

    /// Returns the number of records; at least one.
    fn capacity(&self) -> u32;
    /// Returns the number of buckets; at least two.
    fn buckets(&self) -> u32;
    fn bucket(&self, number: u32) -> Option<&[Self::Word; BUCKET_SLOTS]>;
    /// Returns the [`super::record::words`] of a record.
    fn record(&self, number: u32) -> Option<&[Self::Word]>;
    fn identity(&self, number: u32) -> Option<&[Self::Word; IDENTITY_WORDS]>;

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }
    /// Asks for a bucket's cache line; changes nothing.
    fn prefetch_bucket(&self, _number: u32) {}
    /// Asks for a record's cache lines; changes nothing.
    fn prefetch_record(&self, _number: u32) {}
    /// Asks for the cache line of a record's identities; changes nothing.
    fn prefetch_identity(&self, _number: u32) {}
}
