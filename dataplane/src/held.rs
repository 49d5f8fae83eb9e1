//! Packets that wait until the kernel has resolved their next hop, so that the first one is not lost.
//!
//! Bounded in number, per next hop and in time; nothing here allocates after the start.

use crate::clock::Now;
use crate::neighbours::{NeighbourState, NextHop};
use crate::net::Mac;
use crate::snapshot::Snapshot;
use crate::verdict::DropReason;
use crate::xsk::Frame;

/// Packets that one worker holds at most.
pub const CAPACITY: usize = 256;
/// Packets that wait for one next hop at most; the kernel's own queue (`unres_qlen`) holds about as many.
pub const PER_NEXT_HOP: usize = 32;
/// How long a packet waits: the kernel gives up after three probes of a second each.
const PATIENCE_NS: u64 = 3_500_000_000;
/// How often the kernel is asked again for one next hop.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

#[derive(Debug)]
struct Held {
    frame: Frame,
    next_hop: NextHop,
    since: Now,
    links_generation: u32,
}

/// What became of a held packet.
#[derive(Debug)]
pub enum Released {
    /// Its next hop is known: send it.
    Resolved(Frame, NextHop, Mac),
    /// It waited in vain.
    Dropped(Frame, DropReason),
}

/// The packets that one worker holds.
#[derive(Debug)]
pub struct HeldPackets {
    packets: Vec<Held>,
    /// Frames of all these packets.
    frames: usize,
    asked: Vec<(NextHop, Now)>,
}

impl Default for HeldPackets {
    fn default() -> Self {
        Self { packets: Vec::with_capacity(CAPACITY), frames: 0, asked: Vec::with_capacity(CAPACITY) }
    }
}

impl HeldPackets {
    /// Takes a packet to hold.
    ///
    /// # Errors
    /// Gives the frame back if too many packets wait already.
    pub fn push(
        &mut self,
        frame: Frame,
        next_hop: NextHop,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<(), Frame> {
        let same = self.packets.iter().filter(|held| held.next_hop == next_hop).count();
        if self.packets.len() >= CAPACITY || same >= PER_NEXT_HOP {
            return Err(frame);
        }
        let links_generation = snapshot.links_generation;
        self.frames += frame.frames();
        self.packets.push(Held { frame, next_hop, since: now, links_generation });
        Ok(())
    }

    /// Says whether the kernel is to be asked for a next hop now; true at most once a second for each.
    pub fn asks_for(&mut self, next_hop: NextHop, now: Now) -> bool {
        self.asked.retain(|(_, at)| now.ns().saturating_sub(at.ns()) < ASK_AGAIN_NS);
        if self.asked.len() >= CAPACITY || self.asked.iter().any(|(asked, _)| *asked == next_hop) {
            return false;
        }
        self.asked.push((next_hop, now));
        true
    }

    /// Takes out one packet whose wait is over, if there is one.
    pub fn release(&mut self, snapshot: &Snapshot, now: Now) -> Option<Released> {
        let place = self.packets.iter().position(|held| held.is_over(snapshot, now))?;
        let held = self.packets.remove(place);
        self.frames -= held.frame.frames();
        Some(match snapshot.neighbours.lookup(&held.next_hop) {
            Some(NeighbourState::Reachable(mac)) => Released::Resolved(held.frame, held.next_hop, mac),
            Some(NeighbourState::Failed) => Released::Dropped(held.frame, DropReason::NeighbourFailed),
            _ => Released::Dropped(held.frame, DropReason::HoldTimeout),
        })
    }

    /// Returns how many frames the packets take that wait.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Says whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

impl Held {
    /// A failure that was known before the packet came does not count: the kernel is being asked again.
    fn is_over(&self, snapshot: &Snapshot, now: Now) -> bool {
        let waited = now.ns().saturating_sub(self.since.ns());
        match snapshot.neighbours.lookup(&self.next_hop) {
            Some(NeighbourState::Reachable(_)) => true,
            Some(NeighbourState::Failed) if self.links_generation != snapshot.links_generation => true,
            _ => waited >= PATIENCE_NS,
        }
    }
}
