//! When each stretch of records is to be looked at again, so that a sweep passes over those where nothing can be over yet.
//!
//! # The invariant
//!
//! The due second of a stretch is no later than the first second in which a live flow of it may be removed, but while a
//! sweep looks through the stretch.
//!
//! - Who makes a flow live, or its time shorter, lowers the due second afterwards. Packets make it longer only.
//! - A sweep first forgets the due second, then looks, then lowers it to the earliest that it has seen. A change that
//!   it did not see lowers it again: of a change and the look that follows forgetting, at least one sees the other. An
//!   insertion looks at the due second before it writes, so a sequentially consistent fence stands there on both sides;
//!   a change of state always writes.
//!
//! Nothing of it is in the table's file: a start finds every stretch with a flow due at once.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};

use super::memory::Memory;

/// Records of a stretch; those of 64 IPv4 flows fill a page of 4 KiB.
pub(super) const STRETCH: u32 = 64;
/// The due second of a stretch without a flow.
pub(super) const NEVER: u64 = u64::MAX;

/// A due second that threads share.
pub(super) trait Due: From<u64> {
    fn load(&self) -> u64;
    /// Replaces the value by [`NEVER`]; sees all that was done before the value was lowered to what it was.
    fn forget(&self);
    /// Replaces a later value by `second`; whoever forgets that sees all that was done before.
    fn lower(&self, second: u64);
}

impl Due for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        Self::load(self, Relaxed)
    }

    fn forget(&self) {
        self.swap(NEVER, AcqRel);
    }

    fn lower(&self, second: u64) {
        self.fetch_min(second, AcqRel);
    }
}

/// The due seconds of all stretches of a table.
pub(super) struct Calendar<D>(Box<[D]>);

impl<D: Due> Calendar<D> {
    /// Makes the calendar of a table without flows.
    pub(super) fn new(capacity: u32) -> Self {
        Self((0..capacity.div_ceil(STRETCH)).map(|_| D::from(NEVER)).collect())
    }

    /// Says whether a flow of the stretch may be over.
    #[inline]
    pub(super) fn is_due(&self, stretch: u32, second: u32) -> bool {
        self.0.get(stretch as usize).is_some_and(|due| due.load() <= u64::from(second))
    }

    /// Notes that a flow which was made live may be over from that second on. A sequentially consistent fence stands
    /// between its words and this call. Costs a reading where others of the stretch are over earlier.
    #[inline]
    pub(super) fn note(&self, record: u32, second: u64) {
        if let Some(due) = self.0.get((record / STRETCH) as usize)
            && due.load() > second
        {
            due.lower(second);
        }
    }

    /// Notes that a flow may be over from that second on, earlier than before.
    pub(super) fn advance(&self, record: u32, second: u64) {
        if let Some(due) = self.0.get((record / STRETCH) as usize) {
            due.lower(second);
        }
    }

    /// Makes every stretch with a flow due at once.
    pub(super) fn all_due(&self) {
        self.0.iter().filter(|due| due.load() != NEVER).for_each(|due| due.lower(0));
    }

    /// Begins the look through a stretch.
    pub(super) fn begin(&self, stretch: u32, memory: &impl Memory) {
        if let Some(due) = self.0.get(stretch as usize) {
            due.forget();
            // Pairs with the fence before `note`.
            memory.fence(SeqCst);
        }
    }

    /// Ends the look through a stretch, with the earliest second that was seen there.
    pub(super) fn end(&self, stretch: u32, second: u64) {
        if let Some(due) = self.0.get(stretch as usize) {
            due.lower(second);
        }
    }

    /// Returns the bytes that it takes.
    pub(super) const fn bytes(&self) -> usize {
        size_of_val::<[D]>(&self.0)
    }
}
