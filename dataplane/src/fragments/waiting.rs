//! Fragments that came before the first of their datagram, in a fixed number of places.

use std::net::IpAddr;

use super::fate::Fate;
use crate::routes::DeviceIndex;
use crate::verdict::DropReason;
use crate::xsk::Frame;

/// No place.
const NONE: u32 = u32::MAX;
/// The source of a place that is free: above any address.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
struct Place {
    frame: Option<Frame>,
    device: DeviceIndex,
    fate: Fate,
    next: u32,
}

/// Fragments in the order they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    first: u32,
    last: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

/// A fragment whose wait is over.
#[derive(Debug)]
pub struct Departure {
    /// The fragment.
    pub frame: Frame,
    /// The device that it came by.
    pub device: DeviceIndex,
    /// What becomes of it.
    pub fate: Fate,
}

/// All fragments that wait at one worker, and those that are about to leave.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Box<[Place]>,
    /// Sources of the fragments, place by place; apart from the places, so that counting them reads few lines.
    sources: Box<[u64]>,
    free: u32,
    leaving: Line,
    /// Frames of all fragments that wait.
    frames: usize,
}

impl Waiting {
    /// Makes room for `capacity` fragments.
    pub(super) fn new(capacity: u32) -> Self {
        let place = |number: u32| Place {
            frame: None,
            device: DeviceIndex(0),
            fate: Fate::Drop(DropReason::FragmentTimeout),
            next: if number + 1 < capacity { number + 1 } else { NONE },
        };
        Self {
            places: (0..capacity).map(place).collect(),
            sources: vec![NOBODY; capacity as usize].into(),
            free: if capacity > 0 { 0 } else { NONE },
            leaving: Line::default(),
            frames: 0,
        }
    }

    /// Says whether one more would be too many: there are as many frames as places, be it for fewer fragments.
    pub(super) const fn is_full(&self) -> bool {
        self.free == NONE || self.frames >= self.places.len()
    }

    /// Returns how many frames the fragments take that wait.
    pub(super) const fn frames(&self) -> usize {
        self.frames
    }

    /// Counts the fragments of one source; reads 8 octets for each place.
    pub(super) fn of_source(&self, source: IpAddr) -> usize {
        let wanted = network(source);
        self.sources.iter().filter(|source| **source == wanted).count()
    }

    /// Puts a fragment at the end of its datagram's line.
    ///
    /// # Errors
    /// Gives the frame back if every place is taken.
    pub(super) fn push(
        &mut self,
        line: &mut Line,
        frame: Frame,
        device: DeviceIndex,
        source: IpAddr,
    ) -> Result<(), Frame> {
        let number = self.free;
        let Some(place) = self.places.get_mut(number as usize) else { return Err(frame) };
        self.free = std::mem::replace(&mut place.next, NONE);
        self.frames += frame.frames();
        place.frame = Some(frame);
        place.device = device;
        if let Some(kept) = self.sources.get_mut(number as usize) {
            *kept = network(source);
        }
        self.join(line, Line { first: number, last: number });
        Ok(())
    }

    /// Ends the wait of a datagram's fragments: they leave next, in their order.
    pub(super) fn dismiss(&mut self, line: Line, fate: Fate) {
        let mut number = line.first;
        while let Some(place) = self.places.get_mut(number as usize) {
            place.fate = fate;
            number = place.next;
        }
        let mut leaving = self.leaving;
        self.join(&mut leaving, line);
        self.leaving = leaving;
    }

    /// Takes out the next fragment whose wait is over.
    pub(super) fn leave(&mut self) -> Option<Departure> {
        let number = self.leaving.first;
        let place = self.places.get_mut(number as usize)?;
        let frame = place.frame.take()?;
        let (device, fate) = (place.device, place.fate);
        self.leaving.first = std::mem::replace(&mut place.next, self.free);
        if self.leaving.first == NONE {
            self.leaving.last = NONE;
        }
        self.free = number;
        if let Some(source) = self.sources.get_mut(number as usize) {
            *source = NOBODY;
        }
        self.frames -= frame.frames();
        Some(Departure { frame, device, fate })
    }

    /// Appends one line to another.
    fn join(&mut self, line: &mut Line, tail: Line) {
        if tail.first == NONE {
            return;
        }
        match self.places.get_mut(line.last as usize) {
            Some(last) => last.next = tail.first,
            None => line.first = tail.first,
        }
        line.last = tail.last;
    }
}

/// Returns what fragments are counted by: the sender, of IPv6 its network of 64 bits, since a host has that to itself
/// (RFC 7421).
const fn network(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(address) => address.to_bits() as u64,
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}
