//! Packets that lie in more than one frame: a first frame and those that follow it.
//!
//! A packet longer than a frame comes as several descriptors (`XDP_PKT_CONTD`, Linux 6.6). Its first [`Frame`] stands for
//! all of it: which frames follow is written here, one word for each frame, so that a packet of one frame costs nothing
//! and a longer one no allocation. Headers are read and written in the first frame alone; the others only move along.
//! Source: `Documentation/networking/af_xdp.rst`, "Multi-Buffer Support".

use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::{FRAME_BYTES, Frame, FrameMemory, FramePool, PACKET_OFFSET};
use super::socket::Socket;

/// `XDP_PKT_CONTD` of `include/uapi/linux/if_xdp.h` (Linux 6.6): the packet goes on in the next descriptor.
pub(super) const XDP_PKT_CONTD: u32 = 1;

/// Most frames of one packet: what ice sends at once in zero-copy mode (`ICE_MAX_BUF_TXD`). Copy mode takes more, and
/// 9,216 octets come in three frames there.
pub const PACKET_FRAMES_MAX: usize = 8;

/// Longest packet that is carried, in octets from its Ethernet header on: what switches call a jumbo frame.
pub const PACKET_BYTES_MAX: usize = 9216;

/// Octets of a packet that a frame of the pool has room for.
const PART_BYTES_MAX: usize = FRAME_BYTES - PACKET_OFFSET as usize;

/// For each frame, which one follows it in its packet.
///
/// A word says something only while a [`Frame`] in hand counts on it (`tails`); it is written and read by whoever has
/// that frame, so no order between words is needed.
#[derive(Debug)]
pub(super) struct Chains {
    next: Box<[AtomicU64]>,
}

impl Chains {
    /// Makes room for the frames of a memory: 8 octets each.
    pub(super) fn new(frames: u32) -> Self {
        Self { next: (0..frames).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Takes the first frame of a packet off the others, and returns those as a packet of their own.
    pub(super) fn split(&self, first: &mut Frame) -> Option<Frame> {
        if first.tails == 0 {
            return None;
        }
        let word = self.next.get(first.index as usize)?.load(Ordering::Relaxed);
        let len = word as u16;
        let rest = Frame {
            index: (word >> 32) as u32,
            area: first.area,
            offset: (word >> 16) as u16,
            len,
            tail_bytes: first.tail_bytes.saturating_sub(len),
            tails: first.tails - 1,
        };
        first.tails = 0;
        first.tail_bytes = 0;
        Some(rest)
    }

    /// Puts a frame of the same memory behind the last of a packet. Costs a load for each frame that is there.
    ///
    /// Past 255 frames and past 65,535 octets only their number stays right: such a packet is of no use but to be dropped.
    ///
    /// # Errors
    /// Gives the frame back if there can be no more.
    pub(super) fn append(&self, packet: &mut Frame, tail: Frame) -> Result<(), Frame> {
        debug_assert!(!tail.is_chained() && tail.area == packet.area, "one frame of the same memory");
        let mut last = packet.index;
        for _ in 0..packet.tails {
            last =
                self.next.get(last as usize).map_or(last, |word| (word.load(Ordering::Relaxed) >> 32) as u32);
        }
        match (self.next.get(last as usize), packet.tails.checked_add(1)) {
            (Some(word), Some(tails)) => {
                let place = u64::from(tail.index) << 32 | u64::from(tail.offset) << 16 | u64::from(tail.len);
                word.store(place, Ordering::Relaxed);
                packet.tails = tails;
                packet.tail_bytes = packet.tail_bytes.saturating_add(tail.len);
                Ok(())
            }
            _ => Err(tail),
        }
    }
}

impl FrameMemory {
    /// Copies a packet out of all its frames to the start of `place`; returns its length, `None` if it is longer than that.
    pub fn copy_packet(&self, packet: &mut Frame, place: &mut [u8]) -> Option<usize> {
        let bytes = packet.packet_bytes();
        let (first, mut place) = place.get_mut(..bytes)?.split_at_mut_checked(packet.len())?;
        first.copy_from_slice(self.octets(packet));
        let mut rest = self.chains.split(packet);
        while let Some(mut tail) = rest {
            rest = self.chains.split(&mut tail);
            let (part, behind) = place.split_at_mut_checked(tail.len())?;
            part.copy_from_slice(self.octets(&tail));
            place = behind;
            let _there_is_room = self.chains.append(packet, tail);
        }
        Some(bytes)
    }

    /// Copies a packet into frames of the pool, as many as it takes and at least one; `None` if there are too few.
    pub fn write_packet(&self, octets: &[u8], pool: &mut FramePool) -> Option<Frame> {
        let nothing = octets.is_empty().then_some(octets);
        self.write_parts(octets.chunks(PART_BYTES_MAX).chain(nothing), pool)
    }

    /// Copies a packet that is cut in parts into as many frames of the pool; `None` if there are too few, or no part. A
    /// part has at most as many octets as a frame of the pool has room.
    pub fn write_parts<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        pool: &mut FramePool,
    ) -> Option<Frame> {
        let mut packet: Option<Frame> = None;
        for part in parts {
            let frame = pool.pop().map(|mut frame| {
                if let Some(place) = self.octets_mut(&mut frame).get_mut(..part.len()) {
                    place.copy_from_slice(part);
                }
                frame.set_len(part.len());
                frame
            });
            let refused = match (&mut packet, frame) {
                (None, Some(frame)) => {
                    packet = Some(frame);
                    None
                }
                (Some(packet), Some(frame)) => self.chains.append(packet, frame).err(),
                (_, None) => {
                    packet.into_iter().for_each(|packet| pool.push(packet));
                    return None;
                }
            };
            refused.into_iter().for_each(|frame| pool.push(frame));
        }
        packet
    }
}

impl Socket {
    /// Stages a packet in several frames, all of them or none.
    #[cold]
    pub(super) fn transmit_chain(&mut self, packet: Frame) -> Result<(), Frame> {
        let frames = packet.frames() as u32;
        let has_room = self.tx.cached_room() >= frames || self.tx.room() >= frames;
        if !has_room || !self.takes(&packet) || !self.memory.owns(&packet) {
            return Err(packet);
        }
        let mut rest = Some(packet);
        while let Some(mut frame) = rest {
            rest = self.memory.chains.split(&mut frame);
            let (len, options) = (frame.len() as u32, if rest.is_some() { XDP_PKT_CONTD } else { 0 });
            let staged =
                self.tx.stage(libc::xdp_desc { addr: self.memory.lend(frame, self.borrower), len, options });
            debug_assert!(staged, "the ring has room");
        }
        self.lent_to_transmit += frames;
        Ok(())
    }

    /// Says whether the socket sends packets in as many frames as this one.
    #[must_use]
    pub fn takes(&self, packet: &Frame) -> bool {
        !packet.is_chained() || self.chains && packet.frames() <= PACKET_FRAMES_MAX
    }
}

/// Puts a frame behind what has come of its packet; says whether it could be.
#[cold]
pub(super) fn join(memory: &FrameMemory, unfinished: &mut Option<Frame>, frame: Frame) -> bool {
    match unfinished {
        // The kernel has no packets of more frames than can be counted (`MAX_SKB_FRAGS`).
        Some(packet) => memory.chains.append(packet, frame).is_ok(),
        None => {
            *unfinished = Some(frame);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = PART_BYTES_MAX;

    fn numbered(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|number| (number % 251) as u8).collect()
    }

    fn copied(memory: &FrameMemory, packet: &mut Frame) -> Vec<u8> {
        let mut octets = vec![0; PACKET_BYTES_MAX];
        let bytes = memory.copy_packet(packet, &mut octets).unwrap();
        octets.truncate(bytes);
        octets
    }

    proptest! {
        #[test]
        fn a_packet_is_the_same_behind_any_cut_and_gives_every_frame_back(
            bytes in 0..PACKET_BYTES_MAX,
            cuts in proptest::collection::vec(0..PACKET_BYTES_MAX, 0..4),
        ) {
            let (memory, mut pool) = FrameMemory::new(8).unwrap();
            let mut expected = numbered(bytes);
            let mut packet = memory.write_packet(&expected, &mut pool).unwrap();
            prop_assert_eq!(packet.frames(), bytes.div_ceil(ROOM).max(1));
            for cut in cuts {
                if packet.is_chained() {
                    expected.truncate(cut);
                    pool.shorten(&mut packet, cut);
                }
                prop_assert_eq!(packet.packet_bytes(), expected.len());
                prop_assert_eq!(&copied(&memory, &mut packet), &expected);
                prop_assert_eq!(pool.len() + packet.frames(), 8);
            }
            pool.push(packet);
            prop_assert_eq!(pool.len(), 8);
        }
    }

    #[test]
    fn the_first_frame_of_several_has_no_room_behind_its_octets() {
        let (memory, mut pool) = FrameMemory::new(3).unwrap();
        let mut packet = memory.write_packet(&numbered(9000), &mut pool).unwrap();
        assert_eq!((packet.frames(), packet.len(), packet.tail_bytes()), (3, ROOM, 9000 - ROOM));
        pool.shorten(&mut packet, 5000);
        assert_eq!((packet.frames(), memory.octets_mut(&mut packet).len()), (2, ROOM));
        pool.push(packet);
        assert_eq!(pool.len(), 3);
    }

    #[test]
    fn a_packet_that_there_are_too_few_frames_for_takes_none() {
        let (memory, mut pool) = FrameMemory::new(2).unwrap();
        assert!(memory.write_packet(&numbered(9000), &mut pool).is_none());
        assert_eq!(pool.len(), 2);
        let mut packet = memory.write_packet(&numbered(5000), &mut pool).unwrap();
        assert_eq!(memory.copy_packet(&mut packet, &mut [0; 4999]), None, "it does not fit there");
        assert_eq!((packet.frames(), packet.packet_bytes()), (2, 5000));
        pool.push(packet);
    }

    #[test]
    fn a_packet_of_more_frames_than_can_be_counted_keeps_those_that_are() {
        let (memory, mut pool) = FrameMemory::new(300).unwrap();
        let mut packet = pool.pop().unwrap();
        packet.set_len(1);
        let refused = (0..299).filter_map(|_| {
            let mut tail = pool.pop().unwrap();
            tail.set_len(ROOM);
            memory.chains.append(&mut packet, tail).err()
        });
        let refused: Vec<Frame> = refused.collect();
        assert_eq!((packet.frames(), refused.len()), (256, 44));
        refused.into_iter().for_each(|frame| pool.push(frame));
        pool.push(packet);
        assert_eq!(pool.len(), 300);
    }
}
