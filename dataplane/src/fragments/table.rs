//! The datagrams whose fragments are under way, found by identity and kept in the order of their age.
//!
//! Fixed slots; each is in one chain of a hash bucket and in one of two queues: of the undecided, whose first
//! fragment is still to come, or of the decided. A free slot is in the chain of free slots. Slots are named by
//! their numbers, and every number is looked up with `get`: a wrong one would miss, never reach elsewhere.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use super::fate::Fate;
use super::fragment::DatagramId;
use super::received::Received;
use super::waiting::Line;
use crate::clock::Now;

/// No slot.
const NONE: u32 = u32::MAX;

/// Names a slot while its datagram is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramRef(u32);

/// A datagram under way.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) id: DatagramId,
    pub(super) received: Received,
    /// What was decided by the first fragment; `None` until it comes.
    pub(super) fate: Option<Fate>,
    /// When its first fragment was decided; before that, when any of it came.
    pub(super) since: Now,
    /// Fragments that wait for the first.
    pub(super) waiting: Line,
    chained: u32,
    older: u32,
    newer: u32,
}

/// A queue through the slots, oldest first.
#[derive(Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
}

/// All datagrams under way at one worker.
#[derive(Debug)]
pub(super) struct Datagrams {
    slots: Box<[Datagram]>,
    /// First slot of each chain; a power of two of them.
    buckets: Box<[u32]>,
    free: u32,
    undecided: Queue,
    decided: Queue,
    hasher: RandomState,
}

impl Datagrams {
    /// Makes room for `capacity` datagrams.
    pub(super) fn new(capacity: u32, hasher: RandomState) -> Self {
        let nobody = DatagramId {
            source: std::net::Ipv4Addr::UNSPECIFIED.into(),
            destination: std::net::Ipv4Addr::UNSPECIFIED.into(),
            protocol: 0,
            identification: [0; 4],
        };
        let slot = |number: u32| Datagram {
            id: nobody,
            received: Received::default(),
            fate: None,
            since: Now::default(),
            waiting: Line::default(),
            chained: if number + 1 < capacity { number + 1 } else { NONE },
            older: NONE,
            newer: NONE,
        };
        Self {
            slots: (0..capacity).map(slot).collect(),
            buckets: vec![NONE; (capacity as usize * 2).next_power_of_two()].into(),
            free: if capacity > 0 { 0 } else { NONE },
            undecided: Queue { oldest: NONE, newest: NONE },
            decided: Queue { oldest: NONE, newest: NONE },
            hasher,
        }
    }

    pub(super) fn get_mut(&mut self, at: DatagramRef) -> Option<&mut Datagram> {
        self.slots.get_mut(at.0 as usize)
    }

    fn slot(&mut self, number: u32) -> Option<&mut Datagram> {
        self.slots.get_mut(number as usize)
    }

    pub(super) fn lookup(&self, id: &DatagramId) -> Option<DatagramRef> {
        let mut at = *self.buckets.get(self.bucket(id))?;
        loop {
            let slot = self.slots.get(at as usize)?;
            if slot.id == *id {
                return Some(DatagramRef(at));
            }
            at = slot.chained;
        }
    }

    /// Puts a datagram in, which is not in yet; `None` if no slot is free.
    pub(super) fn insert(&mut self, id: DatagramId, now: Now) -> Option<DatagramRef> {
        let number = self.free;
        let bucket = self.bucket(&id);
        let first = self.buckets.get_mut(bucket)?;
        let slot = self.slots.get_mut(number as usize)?;
        self.free = slot.chained;
        slot.chained = std::mem::replace(first, number);
        slot.id = id;
        slot.received = Received::default();
        slot.fate = None;
        slot.since = now;
        slot.waiting = Line::default();
        self.enqueue(number, false);
        Some(DatagramRef(number))
    }

    /// Notes what was decided about a datagram; its age counts from now on.
    pub(super) fn decide(&mut self, at: DatagramRef, fate: Fate, now: Now) {
        self.dequeue(at.0);
        let Some(slot) = self.get_mut(at) else { return };
        slot.fate = Some(fate);
        slot.since = now;
        self.enqueue(at.0, true);
    }

    /// Takes a datagram out.
    pub(super) fn remove(&mut self, at: DatagramRef) {
        let DatagramRef(number) = at;
        self.dequeue(number);
        let Some(slot) = self.slots.get(number as usize) else { return };
        let (bucket, next) = (self.bucket(&slot.id), slot.chained);
        let mut link = self.buckets.get_mut(bucket);
        while let Some(place) = link {
            if *place == number {
                *place = next;
                break;
            }
            let beyond = *place;
            link = self.slots.get_mut(beyond as usize).map(|slot| &mut slot.chained);
        }
        let free = std::mem::replace(&mut self.free, number);
        if let Some(slot) = self.slot(number) {
            slot.chained = free;
        }
    }

    /// Returns the undecided datagram that has waited longest.
    pub(super) fn oldest_undecided(&self) -> Option<(DatagramRef, Now)> {
        self.oldest(self.undecided.oldest)
    }

    /// Returns the datagram whose decision is oldest.
    pub(super) fn oldest_decided(&self) -> Option<(DatagramRef, Now)> {
        self.oldest(self.decided.oldest)
    }

    fn oldest(&self, number: u32) -> Option<(DatagramRef, Now)> {
        self.slots.get(number as usize).map(|slot| (DatagramRef(number), slot.since))
    }

    fn bucket(&self, id: &DatagramId) -> usize {
        self.hasher.hash_one(id) as usize & (self.buckets.len() - 1)
    }

    const fn queue(&mut self, decided: bool) -> &mut Queue {
        if decided { &mut self.decided } else { &mut self.undecided }
    }

    fn enqueue(&mut self, number: u32, decided: bool) {
        let older = std::mem::replace(&mut self.queue(decided).newest, number);
        match self.slot(older) {
            Some(slot) => slot.newer = number,
            None => self.queue(decided).oldest = number,
        }
        if let Some(slot) = self.slot(number) {
            (slot.older, slot.newer) = (older, NONE);
        }
    }

    fn dequeue(&mut self, number: u32) {
        let Some(slot) = self.slot(number) else { return };
        let (older, newer, decided) = (slot.older, slot.newer, slot.fate.is_some());
        match self.slot(older) {
            Some(slot) => slot.newer = newer,
            None => self.queue(decided).oldest = newer,
        }
        match self.slot(newer) {
            Some(slot) => slot.older = older,
            None => self.queue(decided).newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::verdict::DropReason;

    fn id(number: u8) -> DatagramId {
        let address = std::net::IpAddr::from([10, 0, 0, number]);
        DatagramId { source: address, destination: address, protocol: 17, identification: [0, 0, 0, number] }
    }

    proptest! {
        #[test]
        fn a_table_says_what_two_plain_queues_say(
            steps in proptest::collection::vec((0..4u8, 0..12u8), 1..300),
        ) {
            let mut table = Datagrams::new(8, RandomState::default());
            let (mut undecided, mut decided) = (VecDeque::new(), VecDeque::new());
            for (second, (step, number)) in steps.into_iter().enumerate() {
                let now = Now::from_seconds(second as u32);
                let known = table.lookup(&id(number));
                let model = |queue: &VecDeque<(u8, Now)>| queue.iter().position(|(other, _)| *other == number);
                prop_assert_eq!(known.is_some(), model(&undecided).or(model(&decided)).is_some());
                match (step, known) {
                    (0, None) => {
                        let inserted = table.insert(id(number), now);
                        prop_assert_eq!(inserted.is_some(), undecided.len() + decided.len() < 8);
                        if inserted.is_some() {
                            undecided.push_back((number, now));
                        }
                    }
                    (1, Some(at)) => if let Some(place) = model(&undecided) {
                        table.decide(at, Fate::Drop(DropReason::NoRoute), now);
                        undecided.remove(place);
                        decided.push_back((number, now));
                    },
                    (2, Some(at)) => {
                        table.remove(at);
                        undecided.retain(|(other, _)| *other != number);
                        decided.retain(|(other, _)| *other != number);
                    }
                    _ => {}
                }
                for (said, queue) in [(table.oldest_undecided(), &undecided), (table.oldest_decided(), &decided)] {
                    let wanted = queue.front().map(|(number, since)| (table.lookup(&id(*number)).unwrap(), *since));
                    prop_assert_eq!(said, wanted);
                }
            }
        }
    }
}
