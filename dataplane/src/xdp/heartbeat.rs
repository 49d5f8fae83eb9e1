//! A worker's sign of life, written where the XDP program reads it.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::Error;
use super::steering::MAX_WORKERS;
use crate::clock::Now;
use crate::xsk::mapping::Mapping;

/// Octets between two workers' heartbeats: a cache line each (`struct heartbeat` in `maps.bpf.h`).
pub(super) const HEARTBEAT_BYTES: usize = 64;

/// A worker whose last heartbeat is older is dead or stopped: its queues pass to the kernel.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_millis(500);

/// One worker's heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    map: Arc<Mapping>,
    /// Where in the map; a multiple of [`HEARTBEAT_BYTES`] within it.
    at: usize,
}

impl Heartbeat {
    /// Makes the heartbeat of `worker` in the mapped values of the `heartbeats` array.
    pub(super) fn new(map: Arc<Mapping>, worker: u32) -> Result<Self, Error> {
        let at = worker as usize * HEARTBEAT_BYTES;
        if worker >= MAX_WORKERS || at + HEARTBEAT_BYTES > map.bytes() {
            return Err(Error::OutOfRange { what: "worker", value: worker, limit: MAX_WORKERS });
        }
        Ok(Self { map, at })
    }

    /// Says that the worker was at work at `now`: one store, no system call.
    ///
    /// For [`HEARTBEAT_LIMIT`] from `now` the program sends packets to the worker's sockets.
    pub fn beat(&self, now: Now) {
        self.last().store(now.ns(), Ordering::Relaxed);
    }

    /// Returns how long ago the worker was at work, as seen at `now`; `None` if it never was.
    #[must_use]
    pub fn age(&self, now: Now) -> Option<Duration> {
        let last = self.last().load(Ordering::Relaxed);
        // The worker's clock reading may be later than ours.
        (last != 0).then(|| Duration::from_nanos(now.ns().saturating_sub(last)))
    }

    fn last(&self) -> &AtomicU64 {
        // SAFETY: `at` leaves room for a heartbeat within the mapping (`new`), which is page-aligned and lives as long
        // as `map`; the word is only used atomically on this side, and read whole by the program.
        unsafe { self.map.start().add(self.at).cast::<AtomicU64>().as_ref() }
    }
}
