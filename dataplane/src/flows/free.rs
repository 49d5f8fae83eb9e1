//! The numbers of the free records, last in first out: the record that the next flow gets is the one that is still in
//! the cache, and those behind it are known beforehand.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crossbeam::utils::CachePadded;

use super::memory::{FreeRecords, Word};

/// Stands for no record; no table has as many.
const NONE: u32 = u32::MAX;

/// A stack whose links are an array, so that it takes eight bytes a record and no thread ever waits.
///
/// The first word holds a tag above the number of the topmost record. Each change raises the tag, so that a thread which
/// was held up between its reading and its change does not take a stack for another with the same top.
pub(super) struct Stack<W> {
    top: CachePadded<W>,
    /// For each record on the stack: how many lie below it, and the next of them.
    links: Box<[W]>,
}

const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl<W: Word> Stack<W> {
    /// Makes an empty stack of words that `word` makes.
    pub(super) fn of(capacity: u32, word: impl Fn(u64) -> W) -> Self {
        let links = (0..capacity).map(|_| word(0)).collect();
        Self { top: CachePadded::new(word(pack(0, NONE))), links }
    }

    /// Returns how many records lie below one and which comes next. Means something only for one on the stack.
    fn below(&self, record: u32) -> Option<(u32, u32)> {
        Some(unpack(self.links.get(record as usize)?.load(Relaxed)))
    }
}

impl<W: Word> Stack<W> {
    /// Puts a record on top; gives back one that no table of this capacity has.
    pub(super) fn push(&self, record: u32) -> Result<(), u32> {
        let link = self.links.get(record as usize).ok_or(record)?;
        loop {
            let top = self.top.load(Acquire);
            let (tag, next) = unpack(top);
            let count = self.below(next).map_or(0, |(count, _)| count + 1);
            link.store(pack(count, next), Relaxed);
            // What was done to the record before comes before what is done to it after it was taken: whoever takes it
            // reads this word, or one that was put in its place by a replacement, which hands on what this one releases.
            if self.top.replace(top, pack(tag.wrapping_add(1), record), Release) {
                return Ok(());
            }
        }
    }

    /// Takes the topmost record.
    pub(super) fn pop(&self) -> Option<u32> {
        loop {
            let top = self.top.load(Acquire);
            let (tag, record) = unpack(top);
            // Another may have taken the record meanwhile and its link be of no stack; the tag then tells.
            let (_, next) = self.below(record)?;
            if self.top.replace(top, pack(tag.wrapping_add(1), next), Acquire) {
                return Some(record);
            }
        }
    }

    /// Calls `each` with the records that come next, at most `count`; a guess where other threads are at work.
    pub(super) fn peek(&self, count: usize, mut each: impl FnMut(u32)) {
        let (_, mut record) = unpack(self.top.load(Relaxed));
        for _ in 0..count {
            let Some((_, next)) = self.below(record) else { return };
            each(record);
            record = next;
        }
    }

    /// Returns how many records are on the stack, at some moment.
    pub(super) fn len(&self) -> usize {
        let (_, record) = unpack(self.top.load(Acquire));
        self.below(record).map_or(0, |(count, _)| count as usize + 1)
    }
}

impl FreeRecords for Stack<AtomicU64> {
    fn with_room_for(capacity: u32) -> Self {
        Self::of(capacity, AtomicU64::new)
    }

    #[inline]
    fn push(&self, record: u32) -> Result<(), u32> {
        Self::push(self, record)
    }

    #[inline]
    fn pop(&self) -> Option<u32> {
        Self::pop(self)
    }

    fn peek(&self, count: usize, each: impl FnMut(u32)) {
        Self::peek(self, count, each);
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}
