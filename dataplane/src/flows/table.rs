//! The algorithm of the flow table, over any [`Memory`].
//!
//! # The invariant
//!
//! No key belongs to two live flows, and a live flow has both its keys in the index.
//!
//! A record goes round: free → claimed → building → live → dying → free, the last step with the next generation.
//! - Insertion: claim a free record, write its words, *building*; publish the reply key, then look at both buckets of that
//!   key for another record, building or live, that has it; the request key likewise; then *live*. Whoever sees
//!   another withdraws: takes its slots out and frees its record.
//! - Of two insertions with a common key the one that publishes it second sees the first (a sequentially consistent
//!   fence stands between publishing and looking), so at most one goes on. If each sees the other, both withdraw.
//! - A full table: *dying* for a flow that gives way (see [`super::eviction`]), then a claim as above.
//! - Removal: *dying* by replacing the whole first word, so by one thread only; take the request slot out, then the
//!   reply slot; free. A dying flow is not found and hinders no insertion.
//!
//! Only the thread that holds a record claimed, building or dying writes its constant words and its slots. The
//! process may die between any two writes: *live* alone decides what a start keeps (see [`super::recovery`]).
//!
//! State, last second and next hops change while a flow lives. Each is one word that carries the generation, so that a
//! thread which was held up cannot write to the flow that has the record next.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crossbeam::utils::CachePadded;

use super::calendar::Calendar;
use super::index::{self, Slot};
use super::key::KeyHasher;
use super::memory::{FreeRecords, Memory, Word};
use super::record::{self, Glimpse, Meta, Record, Status};
use super::{
    Cursor, Direction, EndpointId, FlowRef, Found, Key, KeyHash, Scanned, ServicePortId, Sought, State,
    Timeouts,
};
use crate::clock::Now;

/// How often a slot is read again because its record changed hands meanwhile.
///
/// Each round means that the very key came back to the very slot, so the bound is never reached in practice.
const ROUNDS: usize = 8;

/// A flow table on some memory, and the free records of it.
pub(super) struct Table<M: Memory> {
    pub(super) memory: M,
    pub(super) hasher: KeyHasher,
    /// Private to the process; a start fills it anew.
    pub(super) free: M::Free,
    /// The record where the next search for one that gives way begins; private to the process, too.
    pub(super) hand: CachePadded<AtomicU32>,
    /// When to look for flows that are over; private to the process, too.
    pub(super) calendar: Calendar<M::Due>,
    pub(super) timeouts: Timeouts,
}

/// A flow seen through a slot.
pub(super) struct Sighting {
    pub(super) flow: FlowRef,
    pub(super) direction: Direction,
    pub(super) meta: Meta,
}

/// What a search in both buckets of a key gave.
pub(super) enum Search {
    Nothing,
    Flow(Sighting),
    /// A record changed hands in every round.
    Unsettled,
}

impl<M: Memory> Table<M> {
    /// Asks for the cache lines of both buckets.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        for bucket in index::buckets(hash, self.memory.buckets()) {
            self.memory.prefetch_bucket(bucket);
        }
    }

    /// Asks for the cache line of the bucket that most keys are in.
    #[inline]
    pub(super) fn prefetch_first(&self, hash: KeyHash) {
        self.memory.prefetch_bucket(index::first_bucket(hash, self.memory.buckets()));
    }

    /// Seeks the slot that leads to a hash in its first bucket, and asks for the cache lines of the record there; or for
    /// that of the second bucket, for [`Self::seek_on`].
    #[inline]
    pub(super) fn seek(&self, hash: KeyHash) -> Sought {
        let slot = index::slot_in(&self.memory, index::first_bucket(hash, self.memory.buckets()), hash);
        if slot.is_empty() {
            let [_, second] = index::buckets(hash, self.memory.buckets());
            self.memory.prefetch_bucket(second);
        } else {
            self.memory.prefetch_record(slot.record());
        }
        Sought { hash, slot }
    }

    /// Seeks in its second bucket what is not in the first.
    #[inline]
    pub(super) fn seek_on(&self, hash: KeyHash) -> Sought {
        let [_, second] = index::buckets(hash, self.memory.buckets());
        let slot = index::slot_in(&self.memory, second, hash);
        if !slot.is_empty() {
            self.memory.prefetch_record(slot.record());
        }
        Sought { hash, slot }
    }

    /// Finds the live flow of a packet.
    pub(super) fn lookup(&self, hash: KeyHash, key: &Key<M::Address>) -> Option<Found<M::Address>> {
        let places = index::places(&self.memory, hash);
        let slot = index::read(index::at_places(&self.memory, hash, places).next()?);
        self.lookup_sought(Sought { hash, slot }, key)
    }

    /// Finds the live flow of a packet, first where it was sought: another may have come since.
    // A call would hand on by memory what is found, to be read again at once.
    #[inline(always)]
    pub(super) fn lookup_sought(&self, sought: Sought, key: &Key<M::Address>) -> Option<Found<M::Address>> {
        let Sought { hash, mut slot } = sought;
        for _ in 0..ROUNDS {
            if let Some(found) = self.found_at(slot, key) {
                return Some(found);
            }
            slot = self.slot_of(hash, key);
            if slot.is_empty() {
                return None;
            }
        }
        None
    }

    /// Returns the slot that leads to the live flow of a key, or an empty one.
    #[inline(never)]
    fn slot_of(&self, hash: KeyHash, key: &Key<M::Address>) -> Slot {
        match self.search(hash, key, Slot::EMPTY, |status| status == Status::Live) {
            Search::Flow(sighting) => Slot::new(hash, sighting.direction, sighting.flow.record),
            Search::Nothing | Search::Unsettled => Slot::EMPTY,
        }
    }

    /// Reads the live flow that a slot led to, if it has the key.
    ///
    /// The slot need not be read again: a live record that has the key in the slot's direction is the flow of that key,
    /// of which there is one.
    #[inline(always)]
    fn found_at(&self, slot: Slot, key: &Key<M::Address>) -> Option<Found<M::Address>> {
        if slot.is_empty() {
            return None;
        }
        let record = Record::of(&self.memory, slot.record())?;
        let Glimpse::Whole(meta, contents) = record::glimpse(&self.memory, &record) else { return None };
        let direction = slot.direction();
        if meta.status() != Status::Live || contents.key(direction) != *key {
            return None;
        }
        let flow = FlowRef { record: slot.record(), generation: meta.generation() };
        let seen = record.seen.load(Relaxed);
        if (seen >> 32) as u32 != flow.generation {
            return None;
        }
        let (ip_difference, transport_difference) = contents.differences(direction);
        Some(Found {
            flow,
            direction,
            state: meta.state()?,
            leaves_as: contents.leaves_as(direction),
            ip_difference,
            transport_difference,
            next_hop: record.cached_next_hop(direction, flow.generation),
            last_seen: seen as u32,
            account: contents.account,
        })
    }

    /// Looks through both buckets for a flow that has the key and a wanted status, by any slot `except` one.
    #[inline]
    pub(super) fn search(
        &self,
        hash: KeyHash,
        key: &Key<M::Address>,
        except: Slot,
        is_wanted: impl Fn(Status) -> bool,
    ) -> Search {
        let mut nothing = Search::Nothing;
        let places = index::places(&self.memory, hash);
        for word in index::at_places(&self.memory, hash, places) {
            match self.look(word, hash, key, except, &is_wanted) {
                Search::Nothing => {}
                Search::Flow(sighting) => return Search::Flow(sighting),
                Search::Unsettled => nothing = Search::Unsettled,
            }
        }
        nothing
    }

    #[inline]
    fn look(
        &self,
        word: &M::Word,
        hash: KeyHash,
        key: &Key<M::Address>,
        except: Slot,
        is_wanted: &impl Fn(Status) -> bool,
    ) -> Search {
        for _ in 0..ROUNDS {
            let slot = index::read(word);
            if !slot.matches(hash) || slot == except {
                return Search::Nothing;
            }
            let Some(record) = Record::of(&self.memory, slot.record()) else { return Search::Nothing };
            match record::glimpse(&self.memory, &record) {
                Glimpse::Absent => return Search::Nothing,
                Glimpse::Torn => {}
                Glimpse::Whole(meta, contents) => {
                    let direction = slot.direction();
                    if !is_wanted(meta.status()) || contents.key(direction) != *key {
                        return Search::Nothing;
                    }
                    let flow = FlowRef { record: slot.record(), generation: meta.generation() };
                    return Search::Flow(Sighting { flow, direction, meta });
                }
            }
        }
        Search::Unsettled
    }

    /// Moves a flow from one state to another; false if it is gone or its state is not `from`.
    ///
    /// The second is written first: a sweep must not measure an old silence by the new state's timeout.
    pub(super) fn change_state(&self, flow: FlowRef, from: State, to: State, now: Now) -> bool {
        let Some(record) = Record::of(&self.memory, flow.record) else { return false };
        let seen = record.seen.load(Relaxed);
        if (seen as u32) < now.seconds() {
            refresh(&record, flow, seen as u32, now);
        }
        loop {
            let meta = record.meta();
            if !meta.is_live(flow.generation) || meta.state() != Some(from) {
                return false;
            }
            if record.meta.replace(meta.0, meta.with_state(to).0, AcqRel) {
                if self.timeouts.seconds(to) < self.timeouts.seconds(from) {
                    self.calendar.advance(flow.record, self.over_at(now.seconds(), to));
                }
                return true;
            }
        }
    }

    /// Notes that a packet of the flow was seen; writes only if the second is newer.
    #[inline]
    pub(super) fn touch(&self, found: &Found<M::Address>, now: Now) {
        if found.last_seen >= now.seconds() {
            return;
        }
        if let Some(record) = Record::of(&self.memory, found.flow.record) {
            refresh(&record, found.flow, found.last_seen, now);
        }
    }

    /// Caches a next hop; false and nothing written if it is too wide. A flow that is gone is not an error.
    pub(super) fn cache_next_hop(&self, flow: FlowRef, direction: Direction, next_hop: u64) -> bool {
        let Some(new) = record::pack_next_hop(flow.generation, next_hop) else { return false };
        if let Some(record) = Record::of(&self.memory, flow.record) {
            let word = record.next_hop(direction);
            let old = word.load(Relaxed);
            // Compared, so that a late writer does not empty the cache of the next flow. Who loses to another worker
            // may: that one knew as much.
            if record::is_next_hop_of(flow.generation, old) {
                word.replace(old, new, Relaxed);
            }
        }
        true
    }

    /// Returns the identities of a live flow.
    pub(super) fn ids(&self, flow: FlowRef) -> Option<(ServicePortId, EndpointId)> {
        let record = Record::of(&self.memory, flow.record)?;
        if !record.meta().is_live(flow.generation) {
            return None;
        }
        let [service, endpoint] = self.memory.identity(flow.record)?;
        let ids = (ServicePortId(service.load(Relaxed)), EndpointId(endpoint.load(Relaxed)));
        self.memory.fence(Acquire);
        (Meta(record.meta.load(Relaxed)).generation() == flow.generation).then_some(ids)
    }

    /// Calls `each` with the state of every live flow. Costs a pass over all records.
    pub(super) fn states(&self, mut each: impl FnMut(State)) {
        for number in 0..self.memory.capacity() {
            let Some(record) = Record::of(&self.memory, number) else { return };
            let meta = record.meta();
            if meta.status() == Status::Live
                && let Some(state) = meta.state()
            {
                each(state);
            }
        }
    }

    /// Calls `each` with every live flow's identities. Costs a pass over all records.
    pub(super) fn endpoints_in_use(&self, mut each: impl FnMut(ServicePortId, EndpointId)) {
        for number in 0..self.memory.capacity() {
            let Some(record) = Record::of(&self.memory, number) else { return };
            let generation = record.meta().generation();
            if let Some((service, endpoint)) = self.ids(FlowRef { record: number, generation }) {
                each(service, endpoint);
            }
        }
    }

    /// Calls `each` with the live flows of the next `budget` records whose identities are wanted.
    pub(super) fn scan(
        &self,
        cursor: &mut Cursor,
        budget: usize,
        is_wanted: impl Fn(ServicePortId, EndpointId) -> bool,
        mut each: impl FnMut(Scanned<M::Address>),
    ) {
        for number in cursor.advance(self.memory.capacity(), budget) {
            let Some([service, endpoint]) = self.memory.identity(number) else { continue };
            let (service, endpoint) =
                (ServicePortId(service.load(Relaxed)), EndpointId(endpoint.load(Relaxed)));
            if !is_wanted(service, endpoint) {
                continue;
            }
            let Some(record) = Record::of(&self.memory, number) else { continue };
            let Glimpse::Whole(meta, contents) = record::glimpse(&self.memory, &record) else { continue };
            let flow = FlowRef { record: number, generation: meta.generation() };
            // Read again with the generation: the record may have been another flow's a moment ago.
            let (Some(state), Some(ids)) = (meta.state(), self.ids(flow)) else { continue };
            if ids == (service, endpoint) {
                let (request, reply) = (contents.key(Direction::Request), contents.key(Direction::Reply));
                each(Scanned { flow, state, request, reply, service, endpoint });
            }
        }
    }

    /// Returns the first second in which a flow that was last seen in `second` is over.
    pub(super) const fn over_at(&self, second: u32, state: State) -> u64 {
        // Both moments are cut to whole seconds, so without the second more it might be early.
        second as u64 + self.timeouts.seconds(state) as u64 + 1
    }

    /// Returns the number of records in use.
    pub(super) fn len(&self) -> usize {
        self.memory.capacity() as usize - self.free.len()
    }
}

/// Moves the last second on, unless another worker just did or the record is another flow's by now.
fn refresh<W: Word>(record: &Record<'_, W>, flow: FlowRef, last_seen: u32, now: Now) {
    let old = record::seen(flow.generation, last_seen);
    record.seen.replace(old, record::seen(flow.generation, now.seconds()), Relaxed);
}
