//! The flow table: which packets belong together, and what becomes of them.
//!
//! One table for all workers, of fixed capacity, in one mapping that outlives the process. Both directions of a flow are
//! found by the packet's own key in at most two buckets of eight slots. No operation takes a lock or allocates.
//!
//! Each family has a table of its own, [`FlowTables`] has both; the code is the same for any [`Address`].
//!
//! The rooms, in reading order: [`Key`] and [`Direction`] · [`State`] and [`Timeouts`] · [`NewFlow`], [`FlowRef`],
//! [`Found`] · `table` (the invariant, look-up, changes of a flow) · `insertion` · `removal` · `eviction` · `recovery`
//! (what a start keeps) · `record` and `index` (which fact in which bits) · `memory` (words, and nothing else), `lanes` (eight of them at
//! once) · `mapping` and `file` (where the words live).

mod calendar;
mod eviction;
mod file;
mod flow;
mod free;
mod index;
mod insertion;
mod key;
mod lanes;
mod mapping;
mod memory;
mod record;
mod recovery;
mod removal;
mod state;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod timeouts;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;

pub use file::{OpenError, Refusal};
pub use flow::{EndpointId, FlowRef, Found, InsertError, NewFlow, Scanned, ServicePortId};
pub use key::{Direction, Key, KeyHash, Sought};
pub use record::NEXT_HOP_BITS;
pub use removal::Cursor;
pub use state::State;
pub use tables::{Cursors, FlowTables, Memories};
pub use timeouts::{TimeoutError, Timeouts};

use crate::clock::Now;
use crate::net::Address;
use file::{BootId, OpenFile};
use mapping::{Layout, Mapping};
use memory::Memory;
use table::Table;

/// What [`FlowTable::open`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Live flows taken over.
    pub kept: u32,
    /// Flows cut short in their making or removal, or not valid.
    pub dropped: u32,
    /// Why an existing file was emptied instead; `None` also if there was none.
    pub refused: Option<Refusal>,
}

/// A table of the flows of one family, shared by all workers.
///
/// Takes 112 bytes per flow in the mapping and 8 in the process, 176 and 8 for IPv6. A look-up reads three cache
/// lines, four for IPv6: two of the index and the record.
pub struct FlowTable<A: Address = Ipv4Addr> {
    table: Table<Mapping<A>>,
    /// Holds the lock; after the table, so that the mapping is gone when the lock is.
    _lock: Option<File>,
}

impl<A: Address> FlowTable<A> {
    /// Makes an empty table that ends with the process.
    ///
    /// # Errors
    /// If the capacity is zero or more than 2^28 flows, or the memory is not to be had.
    pub fn in_memory(capacity: u32) -> Result<Self, OpenError> {
        let failed = |action| {
            move |error| OpenError::System { path: Path::new("(in memory)").to_owned(), action, error }
        };
        let layout = Layout::new(capacity).ok_or(OpenError::Capacity(capacity))?;
        let mapping = Mapping::anonymous(layout).map_err(failed("map"))?;
        let secret = file::random_secret().map_err(failed("get random numbers for"))?;
        Ok(Self { table: Table::start(mapping, secret).0, _lock: None })
    }

    /// Opens the table in a file, or makes it, and locks it for as long as the value lives.
    ///
    /// Flows that were live when an earlier process of this boot ended are kept, however it ended. The directory must
    /// exist. Costs a pass over the whole file.
    ///
    /// # Errors
    /// If another process has the file open, if the file is not ours alone (owner, mode 0600), or if a system call
    /// fails. Content that does not fit is no error: the table starts empty and [`Recovery::refused`] says why.
    pub fn open(path: &Path, capacity: u32) -> Result<(Self, Recovery), OpenError> {
        let boot = BootId::read().map_err(|error| OpenError::System {
            path: path.to_owned(),
            action: "read the boot id for",
            error,
        })?;
        Self::open_in(path, capacity, boot)
    }

    fn open_in(path: &Path, capacity: u32, boot: BootId) -> Result<(Self, Recovery), OpenError> {
        let OpenFile { mapping, lock, secret, refusal } = file::open(path, capacity, boot)?;
        let (table, scan) = Table::start(mapping, secret);
        let recovery = Recovery { kept: scan.kept, dropped: scan.dropped, refused: refusal };
        Ok((Self { table, _lock: Some(lock) }, recovery))
    }

    /// Sets how long flows may be silent; else it is [`Timeouts::DEFAULT`].
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.table.timeouts = timeouts;
        self.table.calendar.all_due();
        self
    }

    /// Hashes a key for this table.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &Key<A>) -> KeyHash {
        self.table.hasher.hash(key)
    }

    /// Asks for the cache lines of the index that a look-up will read.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.table.prefetch(hash);
    }

    /// Asks for the cache line of the index that a look-up will read first.
    #[inline]
    pub fn prefetch_first(&self, hash: KeyHash) {
        self.table.prefetch_first(hash);
    }

    /// Seeks a key where most are in the index, and asks for its record, or for where the others are; worth its cost some
    /// packets after [`FlowTable::prefetch_first`].
    #[inline]
    #[must_use]
    pub fn seek(&self, hash: KeyHash) -> Sought {
        self.table.seek(hash)
    }

    /// Seeks a key where the others are, some packets after [`FlowTable::seek`] did not find it; what is unknown then is in
    /// no flow.
    #[inline]
    #[must_use]
    pub fn seek_on(&self, hash: KeyHash) -> Sought {
        self.table.seek_on(hash)
    }

    /// Finds the live flow of a packet whose key was sought before; `sought` may be the key's hash alone.
    #[inline(always)]
    #[must_use]
    pub fn lookup_sought(&self, sought: Sought, key: &Key<A>) -> Option<Found<A>> {
        self.table.lookup_sought(sought, key)
    }

    /// Asks for what so many insertions will write, as far as it is known before their keys are.
    pub fn prefetch_insertions(&self, count: usize) {
        self.table.prefetch_insertions(count);
    }

    /// Finds the live flow of a packet; `hash` is that of `key`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: KeyHash, key: &Key<A>) -> Option<Found<A>> {
        self.table.lookup(hash, key)
    }

    /// Inserts a flow if both its keys are free. If the table is full, a flow that is half-open, one-way or over gives
    /// way ([`State::gives_way`]); such flows are added to `evicted`.
    ///
    /// Costs more in a full table: up to 64 records are looked at, each search going on where the last one ended.
    ///
    /// # Errors
    /// If a key is taken or being taken by another worker, or there is no room and no flow seen that gives way; nothing
    /// of the flow is left then.
    pub fn insert_evicting(
        &self,
        new: &NewFlow<A>,
        now: Now,
        evicted: &mut u64,
    ) -> Result<FlowRef, InsertError> {
        self.table.insert_evicting(new, now, evicted)
    }

    /// Inserts a flow if both its keys are free and there is room.
    ///
    /// # Errors
    /// If a key is taken or being taken by another worker, or there is no room; nothing of the flow is left then.
    pub fn insert(&self, new: &NewFlow<A>, now: Now) -> Result<FlowRef, InsertError> {
        self.table.insert(new, now)
    }

    /// Moves a flow from one state to another; false if it is gone or its state is not `from`.
    pub fn change_state(&self, flow: FlowRef, from: State, to: State, now: Now) -> bool {
        self.table.change_state(flow, from, to, now)
    }

    /// Notes that a packet of the flow was seen. Writes at most once a second, whatever the number of workers.
    #[inline]
    pub fn touch(&self, found: &Found<A>, now: Now) {
        self.table.touch(found, now);
    }

    /// Caches a next hop for one direction of a flow; zero empties the cache.
    ///
    /// The table keeps [`NEXT_HOP_BITS`] bits: the rest hold the flow's generation, so that a late writer never sends
    /// the packets of the next flow in this record astray. False, and nothing is cached, if `next_hop` is wider.
    pub fn cache_next_hop(&self, flow: FlowRef, direction: Direction, next_hop: u64) -> bool {
        self.table.cache_next_hop(flow, direction, next_hop)
    }

    /// Removes a flow; false if it is gone or another worker removes it at this moment.
    pub fn remove(&self, flow: FlowRef) -> bool {
        self.table.remove(flow)
    }

    /// Goes on with the sweep of the cursor's part, removes the flows that were silent for longer than their timeout,
    /// and returns how many. A sweep begins with each second, or when the last one has ended.
    ///
    /// Looks through at most `budget` stretches of 64 records, those in which a flow may be over, and passes at most 128
    /// for each of them; [`Cursor::is_under_way`] tells whether some are left.
    pub fn expire(&self, cursor: &mut Cursor, now: Now, budget: usize) -> usize {
        self.table.expire(cursor, now, budget)
    }

    /// Calls `each` with the live flows among the next `budget` records of the cursor's part whose identities are wanted.
    ///
    /// A record whose flow is not wanted costs a look at its identities, which lie side by side. A flow that comes or
    /// goes meanwhile may be missed.
    pub fn scan(
        &self,
        cursor: &mut Cursor,
        budget: usize,
        is_wanted: impl Fn(ServicePortId, EndpointId) -> bool,
        each: impl FnMut(Scanned<A>),
    ) {
        self.table.scan(cursor, budget, is_wanted, each);
    }

    /// Returns the identities of a live flow.
    #[must_use]
    pub fn ids(&self, flow: FlowRef) -> Option<(ServicePortId, EndpointId)> {
        self.table.ids(flow)
    }

    /// Calls `each` with the identities of every live flow, as often as there are flows.
    ///
    /// For the control thread: costs a pass over all records. A flow that comes or goes meanwhile may be missed.
    pub fn endpoints_in_use(&self, each: impl FnMut(ServicePortId, EndpointId)) {
        self.table.endpoints_in_use(each);
    }

    /// Counts the live flows of each state, in the order of [`State::ALL`].
    ///
    /// For the control thread: costs a pass over all records, unless there is no flow. A flow that changes meanwhile
    /// counts as one or the other.
    #[must_use]
    pub fn count_states(&self) -> [u64; State::ALL.len()] {
        let mut counts = [0; _];
        if !self.is_empty() {
            self.table.states(|state| {
                if let Some(count) = counts.get_mut(usize::from(state.number()) - 1) {
                    *count += 1;
                }
            });
        }
        counts
    }

    /// Returns the number of records in use, those that just come or go included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Says whether no record is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the most flows the table can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.table.memory.capacity() as usize
    }

    /// Returns the bytes that the table takes: the mapping, the stack of free records and when stretches are due.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.memory.bytes() + self.capacity() * size_of::<u64>() + self.table.calendar.bytes()
    }
}

impl<A: Address> core::fmt::Debug for FlowTable<A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FlowTable").field("capacity", &self.capacity()).field("len", &self.len()).finish()
    }
}
