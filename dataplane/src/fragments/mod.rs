//! Fragments: the later ones follow the first of their datagram, which alone has the ports. No reassembly.
//!
//! The first fragment is processed like any packet; what became of it is the [`Fate`] of the others. Those that
//! come before it wait, in bounded number and time. Each worker knows the datagrams that are its own (`worker`'s
//! exchange sees to that), in memory of a fixed size: whoever floods it makes older entries give way, so that
//! fragments in order go on (RFC 4787 §11, REQ-14a), and nothing grows.
//!
//! Overlaps condemn the datagram, as RFC 5722 §4 decides for IPv6 and Linux does for IPv4 since CVE-2018-5391;
//! a fragment of which every octet has come is a duplicate and dropped by itself, as in Linux.
//! Source: `net/ipv4/ip_fragment.c`, `ip_frag_queue`; `net/ipv4/inet_fragment.c`, `inet_frag_queue_insert`.
//! DEVIATION: fragments before the one that overlaps have left already; the receiver drops them by its own rule.
//!
//! Reading order: [`Fragment`] the facts · [`Fragments`] here · `received` which octets came · [`Fate`] what
//! becomes of them · `table` and `waiting` where they are kept · [`cut`] packets too long for a link.

pub mod cut;
mod fate;
mod fragment;
mod received;
mod table;
mod waiting;

use foldhash::quality::RandomState;

pub use fate::Fate;
pub use fragment::{BLOCK_BYTES, DatagramId, Fragment};
pub use table::DatagramRef;
pub use waiting::Departure;

use crate::clock::Now;
use crate::routes::DeviceIndex;
use crate::verdict::DropReason;
use crate::xsk::{FRAME_BYTES, Frame};
use table::Datagrams;
use waiting::Waiting;

/// Datagrams under way at one worker at most; 1.2 KB each.
pub const DATAGRAMS: u32 = 2048;
/// Octets of frames that wait at one worker at most.
pub const WAITING_BYTES: usize = 4 << 20;
/// Fragments of one source that wait at one worker at most.
pub const WAITING_PER_SOURCE: usize = 64;
/// How long a fragment waits for the first at most. Source: `include/net/ip.h`, `IP_FRAG_TIME`.
const PATIENCE_NS: u64 = 30_000_000_000;
/// How long a decision is remembered while fragments are missing.
///
/// Short, since a fast sender uses its 65,536 identifications again within a second (RFC 4963 §2).
const MEMORY_NS: u64 = 5_000_000_000;
/// Datagrams whose time is over that are taken out at once.
const EXPIRE_BUDGET: usize = 64;

/// Where a fragment stands in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admitted {
    /// It is the first: process it, then tell [`Fragments::decide`].
    First(DatagramRef),
    /// The first has been here: it shares its fate.
    Later(Fate),
    /// The first is still to come: give it to [`Fragments::wait`].
    Early(DatagramRef),
}

/// What one worker knows of datagrams in fragments.
#[derive(Debug)]
pub struct Fragments {
    datagrams: Datagrams,
    waiting: Waiting,
}

impl Fragments {
    /// Makes the table; at most a quarter of the worker's `frames` wait. Nothing is allocated afterwards.
    #[must_use]
    pub fn new(frames: u32, hasher: RandomState) -> Self {
        let capacity = ((WAITING_BYTES / FRAME_BYTES) as u32).min(frames / 4);
        Self { datagrams: Datagrams::new(DATAGRAMS, hasher), waiting: Waiting::new(capacity) }
    }

    /// Takes note of a fragment and says where it stands.
    ///
    /// Others may end their wait by it: ask [`Fragments::leave`] afterwards.
    ///
    /// # Errors
    /// The reason why it is dropped.
    pub fn admit(&mut self, fragment: &Fragment, now: Now) -> Result<Admitted, DropReason> {
        match self.fate(&fragment.datagram) {
            Some(Fate::Drop(reason @ (DropReason::FragmentOverlap | DropReason::FragmentContradiction))) => {
                return Err(reason);
            }
            None if !fragment.is_first() => self.make_room_to_wait(fragment)?,
            _ => {}
        }
        let at = self.open(&fragment.datagram, now).ok_or(DropReason::FragmentEvicted)?;
        let datagram = self.datagrams.get_mut(at).ok_or(DropReason::FragmentEvicted)?;
        let (noted, fate) = (datagram.received.insert(fragment), datagram.fate);
        let is_complete = datagram.received.is_complete();
        match noted {
            Err(DropReason::FragmentDuplicate) => return Err(DropReason::FragmentDuplicate),
            Err(reason) => {
                self.settle(at, Fate::Drop(reason), now);
                return Err(reason);
            }
            Ok(()) => {}
        }
        match fate {
            Some(fate) => {
                if is_complete {
                    self.datagrams.remove(at);
                }
                Ok(Admitted::Later(fate))
            }
            None if fragment.is_first() => Ok(Admitted::First(at)),
            None => Ok(Admitted::Early(at)),
        }
    }

    /// Says what becomes of a datagram whose first fragment was [`Admitted::First`]. Those that waited for it leave
    /// next.
    pub fn decide(&mut self, at: DatagramRef, fate: Fate, now: Now) {
        self.settle(at, fate, now);
        if self.datagrams.get_mut(at).is_some_and(|datagram| datagram.received.is_complete()) {
            self.datagrams.remove(at);
        }
    }

    /// Lets a fragment that is [`Admitted::Early`] wait.
    ///
    /// # Errors
    /// Gives the frame back if there is no room, which [`Fragments::admit`] has seen to.
    pub fn wait(
        &mut self,
        at: DatagramRef,
        frame: Frame,
        device: DeviceIndex,
    ) -> Result<(), (Frame, DropReason)> {
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return Err((frame, DropReason::FragmentEvicted));
        };
        let pushed = self.waiting.push(&mut datagram.waiting, frame, device, datagram.id.source);
        pushed.map_err(|frame| (frame, DropReason::FragmentEvicted))
    }

    /// Takes out the next fragment whose wait is over.
    pub fn leave(&mut self) -> Option<Departure> {
        self.waiting.leave()
    }

    /// Forgets datagrams whose time is over, a bounded number at once; ask [`Fragments::leave`] afterwards.
    pub fn expire(&mut self, now: Now) {
        let is_over = |since: Now, limit_ns| now.ns().saturating_sub(since.ns()) >= limit_ns;
        for _ in 0..EXPIRE_BUDGET {
            if let Some((at, since)) = self.datagrams.oldest_undecided()
                && is_over(since, PATIENCE_NS)
            {
                self.evict(at, DropReason::FragmentTimeout);
            } else if let Some((at, since)) = self.datagrams.oldest_decided()
                && is_over(since, MEMORY_NS)
            {
                self.datagrams.remove(at);
            } else {
                return;
            }
        }
    }

    /// Returns how many frames the fragments take that wait.
    #[must_use]
    pub const fn waiting_frames(&self) -> usize {
        self.waiting.frames()
    }

    fn fate(&mut self, id: &DatagramId) -> Option<Fate> {
        let at = self.datagrams.lookup(id)?;
        self.datagrams.get_mut(at)?.fate
    }

    /// Sees that one more fragment of a source can wait; those that have waited longest give way.
    fn make_room_to_wait(&mut self, fragment: &Fragment) -> Result<(), DropReason> {
        if self.waiting.of_source(fragment.datagram.source) >= WAITING_PER_SOURCE {
            return Err(DropReason::FragmentSourceFull);
        }
        if self.waiting.is_full()
            && let Some((oldest, _)) = self.datagrams.oldest_undecided()
        {
            self.evict(oldest, DropReason::FragmentEvicted);
        }
        Ok(())
    }

    /// Finds a datagram, or puts it in; if there is no room, the oldest that was decided gives way.
    ///
    /// There is one: of the undecided there are no more than fragments can wait.
    fn open(&mut self, id: &DatagramId, now: Now) -> Option<DatagramRef> {
        if let Some(at) = self.datagrams.lookup(id) {
            return Some(at);
        }
        if let Some(at) = self.datagrams.insert(*id, now) {
            return Some(at);
        }
        let (oldest, _) = self.datagrams.oldest_decided()?;
        self.datagrams.remove(oldest);
        self.datagrams.insert(*id, now)
    }

    fn settle(&mut self, at: DatagramRef, fate: Fate, now: Now) {
        if let Some(datagram) = self.datagrams.get_mut(at) {
            self.waiting.dismiss(std::mem::take(&mut datagram.waiting), fate);
            self.datagrams.decide(at, fate, now);
        }
    }

    fn evict(&mut self, at: DatagramRef, reason: DropReason) {
        if let Some(datagram) = self.datagrams.get_mut(at) {
            self.waiting.dismiss(std::mem::take(&mut datagram.waiting), Fate::Drop(reason));
            self.datagrams.remove(at);
        }
    }
}
