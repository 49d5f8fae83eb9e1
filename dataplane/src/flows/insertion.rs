//! How a flow comes into the table: the first half of the round that [`super::table`] describes.

use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst};

use super::eviction;
use super::index::{self, Slot};
use super::memory::{FreeRecords, IDENTITY_WORDS, Memory, Word};
use super::record::{Meta, Record, Status};
use super::table::{Search, Table};
use super::{Direction, FlowRef, InsertError, Key, KeyHash, NewFlow, State};
use crate::clock::Now;
use crate::net::Address;

/// One key of a flow on its way into the index.
pub(super) struct Candidate<A: Address> {
    key: Key<A>,
    hash: KeyHash,
    direction: Direction,
}

/// A record that this thread alone writes.
pub(super) struct Claim<'a, W> {
    pub(super) flow: FlowRef,
    record: Record<'a, W>,
    identity: &'a [W; IDENTITY_WORDS],
}

impl<M: Memory> Table<M> {
    /// Inserts a flow if both its keys are free and a record is.
    pub(super) fn insert(&self, new: &NewFlow<M::Address>, now: Now) -> Result<FlowRef, InsertError> {
        self.insert_as(new, now, || self.claim())
    }

    /// Inserts a flow if both its keys are free; if no record is free, another flow may give way. Adds the flows that
    /// did to `evicted`.
    pub(super) fn insert_evicting(
        &self,
        new: &NewFlow<M::Address>,
        now: Now,
        evicted: &mut u64,
    ) -> Result<FlowRef, InsertError> {
        let mut probes = eviction::PROBES.min(self.memory.capacity());
        self.insert_as(new, now, || {
            loop {
                if let Some(claim) = self.claim() {
                    return Some(claim);
                }
                // What is evicted goes to whoever claims first, so it may take another.
                if !self.evict(&mut probes) {
                    return None;
                }
                *evicted += 1;
            }
        })
    }

    fn insert_as<'a>(
        &'a self,
        new: &NewFlow<M::Address>,
        now: Now,
        claim: impl FnOnce() -> Option<Claim<'a, M::Word>>,
    ) -> Result<FlowRef, InsertError> {
        if new.request == new.reply {
            return Err(InsertError::ReplyTaken);
        }
        let request = self.candidate(new.request, Direction::Request);
        let reply = self.candidate(new.reply, Direction::Reply);
        // A look first: most refusals then touch no shared line and disturb no other insertion.
        self.refuse_taken(&request, Slot::EMPTY)?;
        self.refuse_taken(&reply, Slot::EMPTY)?;

        let claim = claim().ok_or(InsertError::Full)?;
        claim.build(new, now);
        if let Err(error) = self.publish(&claim, &reply).and_then(|()| self.publish(&claim, &request)) {
            self.clear_slots(claim.flow.record, &request, &reply);
            self.release(&claim.record, claim.flow);
            return Err(error);
        }
        claim.set_meta(Status::Live, new.state);
        self.calendar.note(claim.flow.record, self.over_at(now.seconds(), new.state));
        Ok(claim.flow)
    }

    /// Asks for the cache lines that so many insertions will write: those of the records that they are likely to get,
    /// and in a full table those of the flows that are likely to give way, with their places in the index.
    pub(super) fn prefetch_insertions(&self, count: usize) {
        let mut free = 0;
        self.free.peek(count, |number| {
            self.memory.prefetch_record(number);
            self.memory.prefetch_identity(number);
            free += 1;
        });
        if free < count {
            self.prefetch_evictions(count - free);
        }
    }

    pub(super) fn candidate(&self, key: Key<M::Address>, direction: Direction) -> Candidate<M::Address> {
        Candidate { key, hash: self.hasher.hash(&key), direction }
    }

    /// Takes a free record and makes it this thread's own.
    pub(super) fn claim(&self) -> Option<Claim<'_, M::Word>> {
        while let Some(number) = self.free.pop() {
            let record = Record::of(&self.memory, number)?;
            let identity = self.memory.identity(number)?;
            let meta = record.meta();
            let flow = FlowRef { record: number, generation: meta.generation() };
            let claimed = Meta::new(flow.generation, Status::Claimed, None);
            if meta.status() == Status::Free && record.meta.replace(meta.0, claimed.0, AcqRel) {
                // A reader of the generation before that meets a word of this one must then see that its own has ended.
                self.memory.fence(Release);
                return Some(Claim { flow, record, identity });
            }
        }
        None
    }

    pub(super) fn publish(
        &self,
        claim: &Claim<'_, M::Word>,
        key: &Candidate<M::Address>,
    ) -> Result<(), InsertError> {
        let own = key.slot(claim.flow.record);
        if !index::publish(&self.memory, key.hash, own) {
            return Err(InsertError::Full);
        }
        // Pairs with the same fence of a rival: at least one of the two sees the other's slot.
        self.memory.fence(SeqCst);
        self.refuse_taken(key, own)
    }

    /// Refuses a key that a building or live record has, reached by any slot but `own`.
    fn refuse_taken(&self, key: &Candidate<M::Address>, own: Slot) -> Result<(), InsertError> {
        match self.search(key.hash, &key.key, own, |_| true) {
            Search::Nothing => Ok(()),
            Search::Flow(rival) if rival.meta.status() == Status::Live => Err(match key.direction {
                Direction::Request => InsertError::RequestTaken,
                Direction::Reply => InsertError::ReplyTaken,
            }),
            Search::Flow(_) | Search::Unsettled => Err(InsertError::Contended),
        }
    }

    /// Publishes both keys of a live record that a start found; false, and neither, if one cannot be had.
    ///
    /// Only for a start, before any thread uses the table.
    pub(super) fn publish_again(
        &self,
        record: u32,
        request: &Candidate<M::Address>,
        reply: &Candidate<M::Address>,
    ) -> bool {
        let place = |key: &Candidate<M::Address>| {
            self.refuse_taken(key, Slot::EMPTY).is_ok()
                && index::publish(&self.memory, key.hash, key.slot(record))
        };
        let placed = place(reply) && place(request);
        if !placed {
            self.clear_slots(record, request, reply);
        }
        placed
    }

    /// Takes both keys of a record out of the index, as far as they are in it.
    pub(super) fn clear_slots(
        &self,
        record: u32,
        request: &Candidate<M::Address>,
        reply: &Candidate<M::Address>,
    ) {
        index::clear(&self.memory, request.hash, request.slot(record));
        index::clear(&self.memory, reply.hash, reply.slot(record));
    }

    /// Ends the generation of a record whose slots are cleared, and gives it back.
    pub(super) fn release(&self, record: &Record<'_, M::Word>, flow: FlowRef) {
        let free = Meta::new(flow.generation.wrapping_add(1), Status::Free, None);
        record.meta.store(free.0, Release);
        // The queue has room for every record, and each is in it once at most.
        let returned = self.free.push(flow.record);
        debug_assert!(returned.is_ok(), "record {} was returned twice", flow.record);
    }
}

impl<W: Word> Claim<'_, W> {
    pub(super) fn build<A: Address>(&self, new: &NewFlow<A>, now: Now) {
        self.record.write(new, self.flow.generation, now.seconds());
        let [service, endpoint] = self.identity;
        service.store(new.service.0, Relaxed);
        endpoint.store(new.endpoint.0, Relaxed);
        self.set_meta(Status::Building, new.state);
    }

    fn set_meta(&self, status: Status, state: State) {
        let meta = Meta::new(self.flow.generation, status, Some(state));
        self.record.meta.store(meta.0, Release);
    }
}

impl<A: Address> Candidate<A> {
    const fn slot(&self, record: u32) -> Slot {
        Slot::new(self.hash, self.direction, record)
    }
}
