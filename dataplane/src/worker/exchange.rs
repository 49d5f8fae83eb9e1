//! Hands fragments to the worker that they belong to, so that one worker sees all of a datagram.
//!
//! Frames lie in the memory of one worker and cannot change hands, so the octets are copied: out of the giver's
//! frame into a parcel, out of that into a frame of the taker. Between each two workers there is a ring of parcels
//! for each direction, all made at the start; a parcel is in one of two queues, full or empty, or in the hand of
//! the worker that copies. A network card steers all fragments of a datagram to one queue, mostly: this is rare.

use std::hash::BuildHasher;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use foldhash::quality::RandomState;

use super::Bell;
use crate::fragments::DatagramId;
use crate::routes::DeviceIndex;
use crate::xsk::PACKET_BYTES_MAX;

/// Parcels from one worker to another at most; 9 KB each.
pub(super) const PARCELS: usize = 32;

/// Octets of one packet on its way from worker to worker.
pub(super) struct Parcel {
    pub(super) device: DeviceIndex,
    len: usize,
    octets: [u8; PACKET_BYTES_MAX],
}

impl Parcel {
    fn empty() -> Box<Self> {
        Box::new(Self { device: DeviceIndex(0), len: 0, octets: [0; PACKET_BYTES_MAX] })
    }

    pub(super) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// The parcels from one worker to another.
struct Ring {
    full: ArrayQueue<Box<Parcel>>,
    empty: ArrayQueue<Box<Parcel>>,
}

impl Ring {
    fn new() -> Self {
        let ring = Self { full: ArrayQueue::new(PARCELS), empty: ArrayQueue::new(PARCELS) };
        for _ in 0..PARCELS {
            let _has_room = ring.empty.push(Parcel::empty());
        }
        ring
    }
}

/// What all workers share: a ring for each giver and taker, and how to wake each.
struct Rings {
    rings: Box<[Option<Ring>]>,
    bells: Box<[Arc<Bell>]>,
}

/// One worker's place among all.
pub struct Exchange {
    shared: Arc<Rings>,
    /// Which worker this is.
    worker: usize,
    workers: usize,
    /// Decides which datagram is whose; the same at all workers, unknown to senders.
    hasher: RandomState,
    /// Workers that were given something in this round.
    given: Box<[bool]>,
}

impl Exchange {
    /// Makes the place of each worker; `bells` are theirs, in their order.
    #[must_use]
    pub fn between(bells: &[Arc<Bell>]) -> Vec<Self> {
        let workers = bells.len();
        let pairs = (0..workers * workers).map(|pair| (pair / workers, pair % workers));
        let shared = Arc::new(Rings {
            rings: pairs.map(|(giver, taker)| (giver != taker).then(Ring::new)).collect(),
            bells: bells.into(),
        });
        let hasher = RandomState::default();
        let place = |worker| Self {
            shared: Arc::clone(&shared),
            worker,
            workers,
            hasher: hasher.clone(),
            given: vec![false; workers].into(),
        };
        (0..workers).map(place).collect()
    }

    /// Makes the place of a worker that has no others beside it.
    #[must_use]
    pub fn alone() -> Self {
        let shared = Arc::new(Rings { rings: Box::default(), bells: Box::default() });
        Self { shared, worker: 0, workers: 1, hasher: RandomState::default(), given: Box::default() }
    }

    /// Returns the worker that a datagram belongs to, or `None` if that is this one.
    pub(super) fn other_owner(&self, datagram: &DatagramId) -> Option<usize> {
        if self.workers < 2 {
            return None;
        }
        let owner = (self.hasher.hash_one(datagram) % self.workers as u64) as usize;
        (owner != self.worker).then_some(owner)
    }

    /// Has `copy` write a packet into a parcel for another worker and say how long it is; false if all parcels to it are on
    /// their way.
    pub(super) fn give(
        &mut self,
        taker: usize,
        device: DeviceIndex,
        copy: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let Some(ring) = self.ring(self.worker, taker) else { return false };
        let Some(mut parcel) = ring.empty.pop() else { return false };
        parcel.device = device;
        // What is too long for a parcel is no packet that is carried (`PACKET_BYTES_MAX`).
        parcel.len = copy(&mut parcel.octets).unwrap_or_default();
        // Never full: there are as many places as parcels.
        let given = ring.full.push(parcel).is_ok();
        if let Some(told) = self.given.get_mut(taker) {
            *told = true;
        }
        given
    }

    /// Copies the next packet that another worker gave this one; `copy` gets its octets.
    pub(super) fn take<T>(&self, giver: usize, copy: impl FnOnce(&Parcel) -> T) -> Option<T> {
        let ring = self.ring(giver, self.worker)?;
        let parcel = ring.full.pop()?;
        let copied = copy(&parcel);
        // Never full: there are as many places as parcels.
        let _has_room = ring.empty.push(parcel);
        Some(copied)
    }

    /// Returns how many workers there are.
    pub(super) const fn workers(&self) -> usize {
        self.workers
    }

    /// Wakes the workers that were given something since the last time: a system call for each.
    pub(super) fn wake_takers(&mut self) {
        for (given, bell) in self.given.iter_mut().zip(&self.shared.bells) {
            if std::mem::take(given) {
                bell.ring();
            }
        }
    }

    fn ring(&self, giver: usize, taker: usize) -> Option<&Ring> {
        self.shared.rings.get(giver * self.workers + taker)?.as_ref()
    }
}

impl core::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Exchange").field("worker", &self.worker).field("workers", &self.workers).finish()
    }
}
