//! The flow tables of both families, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{Cursor, EndpointId, FlowTable, Key, OpenError, Recovery, Scanned, ServicePortId, Timeouts};
use crate::clock::Now;
use crate::departed::Socket;
use crate::net::Address;
use crate::{affinity, tombstones};

/// One table of each family.
#[derive(Debug)]
pub struct FlowTables {
    /// Flows of IPv4 packets.
    pub ipv4: FlowTable<Ipv4Addr>,
    /// Flows of IPv6 packets.
    pub ipv6: FlowTable<Ipv6Addr>,
    /// The endpoints that clients are bound to ([`crate::affinity`]).
    pub affinity: Memories,
    /// Replies that come too late ([`crate::tombstones`]).
    pub tombstones: Memories,
}

/// Two tables of the same kind as the flows', which remember something else.
#[derive(Debug)]
pub struct Memories {
    /// Of IPv4 addresses.
    pub ipv4: FlowTable<Ipv4Addr>,
    /// Of IPv6 addresses.
    pub ipv6: FlowTable<Ipv6Addr>,
}

impl Memories {
    fn in_memory(capacity: u32, timeouts: Timeouts) -> Result<Self, OpenError> {
        Ok(Self {
            ipv4: FlowTable::in_memory(capacity)?.with_timeouts(timeouts),
            ipv6: FlowTable::in_memory(capacity)?.with_timeouts(timeouts),
        })
    }

    fn open(directory: &Path, name: &str, capacity: u32, timeouts: Timeouts) -> Result<Self, OpenError> {
        let open = |family| directory.join(format!("{name}-{family}"));
        Ok(Self {
            ipv4: FlowTable::open(&open("ipv4"), capacity)?.0.with_timeouts(timeouts),
            ipv6: FlowTable::open(&open("ipv6"), capacity)?.0.with_timeouts(timeouts),
        })
    }

    fn expire(&self, cursors: &mut [Cursor; 2], now: Now, budget: usize) {
        let [ipv4, ipv6] = cursors;
        self.ipv4.expire(ipv4, now, budget);
        self.ipv6.expire(ipv6, now, budget);
    }
}

/// Flows for each entry of affinity and for each tombstone, but no fewer than [`LEAST_MEMORIES`] of these.
const FLOWS_PER_MEMORY: u32 = 8;
const LEAST_MEMORIES: u32 = 64;

/// Returns the capacity of affinity, and of tombstones, beside that many flows.
const fn memories(flows: u32) -> u32 {
    let wanted = flows / FLOWS_PER_MEMORY;
    if wanted < LEAST_MEMORIES { LEAST_MEMORIES } else { wanted }
}

impl FlowTables {
    /// Names of the files that [`FlowTables::open`] makes: for IPv4, for IPv6.
    pub const FILES: [&str; 2] = ["flows-ipv4", "flows-ipv6"];

    /// Makes two empty tables of this capacity each, which end with the process.
    ///
    /// # Errors
    /// As [`FlowTable::in_memory`].
    pub fn in_memory(capacity: u32) -> Result<Self, OpenError> {
        Ok(Self {
            ipv4: FlowTable::in_memory(capacity)?,
            ipv6: FlowTable::in_memory(capacity)?,
            affinity: Memories::in_memory(memories(capacity), affinity::TIMEOUTS)?,
            tombstones: Memories::in_memory(memories(capacity), tombstones::TIMEOUTS)?,
        })
    }

    /// Opens both tables in their files in a directory, or makes them, with this capacity each.
    ///
    /// Returns what was found for IPv4 and for IPv6, in the order of [`FlowTables::FILES`].
    ///
    /// # Errors
    /// As [`FlowTable::open`].
    pub fn open(directory: &Path, capacity: u32) -> Result<(Self, [Recovery; 2]), OpenError> {
        let [ipv4, ipv6] = Self::FILES.map(|name| directory.join(name));
        let (ipv4, recovery4) = FlowTable::open(&ipv4, capacity)?;
        let (ipv6, recovery6) = FlowTable::open(&ipv6, capacity)?;
        let affinity = Memories::open(directory, "affinity", memories(capacity), affinity::TIMEOUTS)?;
        let tombstones = Memories::open(directory, "tombstones", memories(capacity), tombstones::TIMEOUTS)?;
        Ok((Self { ipv4, ipv6, affinity, tombstones }, [recovery4, recovery6]))
    }

    /// Sets how long flows may be silent; else it is [`Timeouts::DEFAULT`].
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        let Self { ipv4, ipv6, affinity, tombstones } = self;
        let (ipv4, ipv6) = (ipv4.with_timeouts(timeouts), ipv6.with_timeouts(timeouts));
        Self { ipv4, ipv6, affinity, tombstones }
    }

    /// Goes on with the sweeps of each cursor's part, removes the flows that were silent for longer than their timeout,
    /// and returns how many.
    ///
    /// Costs a few comparisons when all is looked at for this second; else as much as [`FlowTable::expire`] with that
    /// budget, for each family.
    pub fn expire(&self, cursors: &mut Cursors, now: Now, budget: usize) -> usize {
        let budget_of_memories = budget.div_ceil(FLOWS_PER_MEMORY as usize);
        self.affinity.expire(&mut cursors.affinity, now, budget_of_memories);
        self.tombstones.expire(&mut cursors.tombstones, now, budget_of_memories);
        self.ipv4.expire(&mut cursors.ipv4, now, budget) + self.ipv6.expire(&mut cursors.ipv6, now, budget)
    }

    /// Calls `each` with the identities of every live flow of either family, as often as there are flows.
    ///
    /// For the control thread: costs a pass over all records. A flow that comes or goes meanwhile may be missed.
    pub fn endpoints_in_use(&self, mut each: impl FnMut(ServicePortId, EndpointId)) {
        self.ipv4.endpoints_in_use(&mut each);
        self.ipv6.endpoints_in_use(each);
    }

    /// Returns Service port, endpoint and the endpoint's socket of every live flow, each once.
    ///
    /// For the control thread: costs a pass over all records.
    #[must_use]
    pub fn sockets_in_use(&self) -> Vec<((ServicePortId, EndpointId), Socket)> {
        let mut found = BTreeMap::new();
        note_sockets(&self.ipv4, |pair, reply| {
            found.insert(pair, socket(reply));
        });
        note_sockets(&self.ipv6, |pair, reply| {
            found.insert(pair, socket(reply));
        });
        found.into_iter().collect()
    }

    /// Returns the sockets of endpoints whose replies come too late.
    #[must_use]
    pub fn sockets_with_tombstones(&self) -> BTreeSet<Socket> {
        let mut found = BTreeSet::new();
        note_sockets(&self.tombstones.ipv4, |_, reply| {
            found.insert(socket(reply.reversed()));
        });
        note_sockets(&self.tombstones.ipv6, |_, reply| {
            found.insert(socket(reply.reversed()));
        });
        found
    }

    /// Calls `each` with every endpoint whose replies come too late, as often as there are flows that it lost.
    pub fn endpoints_with_tombstones(&self, mut each: impl FnMut(EndpointId)) {
        self.tombstones.ipv4.endpoints_in_use(|_, endpoint| each(endpoint));
        self.tombstones.ipv6.endpoints_in_use(|_, endpoint| each(endpoint));
    }

    /// Returns the number of records in use, those that just come or go included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// Says whether no record is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the most flows that both tables can hold together.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ipv4.capacity() + self.ipv6.capacity()
    }

    /// Returns the bytes that both tables take: the mappings and the queues of free records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ipv4.bytes() + self.ipv6.bytes()
    }
}

fn note_sockets<A: Address>(table: &FlowTable<A>, mut each: impl FnMut((ServicePortId, EndpointId), Key<A>)) {
    let mut all = Cursor::part(0, 1);
    let take = |flow: Scanned<A>| each((flow.service, flow.endpoint), flow.reply);
    table.scan(&mut all, table.capacity(), |_, _| true, take);
}

/// Returns the source of a key.
fn socket<A: Address>(key: Key<A>) -> Socket {
    (key.source().into(), key.source_port(), key.protocol)
}

/// Where one worker's sweep stands in its part of both tables.
#[derive(Clone, Debug)]
pub struct Cursors {
    ipv4: Cursor,
    ipv6: Cursor,
    affinity: [Cursor; 2],
    tombstones: [Cursor; 2],
}

impl Cursors {
    /// Makes the cursors of one of `workers` equal parts, as [`Cursor::part`].
    #[must_use]
    pub const fn part(worker: u32, workers: u32) -> Self {
        const fn part(worker: u32, workers: u32) -> Cursor {
            Cursor::part(worker, workers)
        }
        Self {
            ipv4: part(worker, workers),
            ipv6: part(worker, workers),
            affinity: [part(worker, workers), part(worker, workers)],
            tombstones: [part(worker, workers), part(worker, workers)],
        }
    }

    /// Says whether something is left of the sweeps that began last.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        let Self { ipv4, ipv6, affinity, tombstones } = self;
        [ipv4, ipv6].into_iter().chain(affinity).chain(tombstones).any(Cursor::is_under_way)
    }
}
