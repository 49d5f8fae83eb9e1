//! The memory that packets lie in, cut into frames; the frames nobody uses.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::chain::Chains;
use super::mapping::Mapping;

/// Octets of a frame; also the unit in which the kernel is told where frames begin.
pub const FRAME_BYTES: usize = 4096;

/// Octets the kernel leaves free before a packet that it receives; a frame from the pool begins there too.
///
/// Source: `include/uapi/linux/bpf.h`, `XDP_PACKET_HEADROOM`.
pub(super) const PACKET_OFFSET: u16 = 256;

/// The next number of a [`FrameMemory`]; never given twice.
static NEXT_AREA: AtomicU32 = AtomicU32::new(0);

/// The frames of one worker: one range of memory that each of its sockets registers as its own umem.
///
/// Registering the same range once per socket (and not one umem shared by sockets) keeps each device's mode its
/// own: one zero-copy NIC and one veth exchange frames without a copy in user space. Pages are faulted in at
/// start; the kernel pins them once per socket.
#[derive(Debug)]
pub struct FrameMemory {
    mapping: Mapping,
    frames: u32,
    area: u32,
    /// For each frame, the socket that it is lent to, 0 for none. Written by the worker alone, two stores a packet: so
    /// what comes back was lent, and the frames of a device that vanished are found.
    borrowers: Box<[AtomicU32]>,
    next_borrower: AtomicU32,
    /// Which frames follow one another in packets of several.
    pub(super) chains: Arc<Chains>,
}

/// A socket, as the memory knows it: the one that frames are lent to. Never 0, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Borrower(u32);

/// One frame in hand: the right to read and write its octets. With it go the frames that follow it, if a packet does not
/// fit one ([`super::chain`]): whoever has the first has the packet.
///
/// Neither `Copy` nor `Clone`. Dropping one loses the frame until the memory ends: push it into the pool instead.
#[derive(Debug)]
#[must_use = "a dropped frame is lost: push it into the pool"]
pub struct Frame {
    pub(super) index: u32,
    /// The number of the memory it belongs to, so that another memory refuses it.
    pub(super) area: u32,
    /// Where the packet begins in the frame. `offset + len <= FRAME_BYTES` always.
    pub(super) offset: u16,
    pub(super) len: u16,
    /// Octets of the packet in the frames that follow.
    pub(super) tail_bytes: u16,
    /// How many frames follow; their places are known to [`Chains`].
    pub(super) tails: u8,
}

/// The free frames of a memory, last in first out, so that the frame handed out is the one still in the cache.
///
/// Preallocated for all frames of its memory; it never grows.
#[derive(Debug)]
pub struct FramePool {
    frames: Vec<Frame>,
    area: u32,
    chains: Arc<Chains>,
}

impl FrameMemory {
    /// Maps memory for `frames` frames and returns it with the pool that holds them all.
    ///
    /// Pages of 2 MiB are taken if the kernel has enough of them reserved, else ordinary ones.
    /// Fails with the kernel's error if there is no memory, with `InvalidInput` for no or too many frames.
    pub fn new(frames: u32) -> io::Result<(Arc<Self>, FramePool)> {
        let bytes = (frames as usize).checked_mul(FRAME_BYTES).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mapping = Mapping::huge(bytes).or_else(|_| Mapping::ordinary(bytes))?;
        let area = NEXT_AREA.fetch_add(1, Ordering::Relaxed);
        let chains = Arc::new(Chains::new(frames));
        let memory = Self {
            mapping,
            frames,
            area,
            borrowers: (0..frames).map(|_| AtomicU32::new(0)).collect(),
            next_borrower: AtomicU32::new(1),
            chains: Arc::clone(&chains),
        };
        let free = (0..frames).rev().map(|index| Frame::free(index, area));
        Ok((Arc::new(memory), FramePool { frames: free.collect(), area, chains }))
    }

    /// Returns how many frames the memory has.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Returns where the memory lies in this process; for reports.
    #[must_use]
    pub fn addresses(&self) -> std::ops::Range<usize> {
        let start = self.mapping.start().addr().get();
        start..start + self.mapping.bytes()
    }

    /// Returns the packet's octets, exactly `frame.len()`: of a packet in several frames those in the first. None for a
    /// frame of another memory.
    #[must_use]
    pub fn octets<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let Some(packet) = self.packet(frame) else { return &[] };
        // SAFETY: `packet` lies in the mapping, `offset + len <= FRAME_BYTES`, and anonymous pages are always
        // initialised. The frame is borrowed, so nobody holds it mutably, and the kernel does not have it: giving
        // it away would have moved it.
        unsafe { slice::from_raw_parts(packet.as_ptr(), frame.len()) }
    }

    /// Returns the octets from the packet's first one to the end of the frame: the packet and its tail room. Of a packet in
    /// several frames those in the first, without room, since what comes next is in the next one.
    ///
    /// Writing past the packet takes [`Frame::set_len`] to be sent. None for a frame of another memory.
    #[must_use]
    pub fn octets_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let Some(packet) = self.packet(frame) else { return &mut [] };
        // SAFETY: as in `octets`, to the frame's end; and the frame is borrowed mutably, of which there is only one
        // per index, so no other slice of these octets exists.
        unsafe { slice::from_raw_parts_mut(packet.as_ptr(), frame.room()) }
    }

    /// Asks the processor to fetch the packet's first cache line, to be there when the burst comes to it.
    pub fn prefetch(&self, frame: &Frame) {
        let Some(packet) = self.packet(frame) else { return };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint that faults on no address; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(packet.as_ptr().cast::<i8>());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = packet;
    }

    fn packet(&self, frame: &Frame) -> Option<NonNull<u8>> {
        debug_assert_eq!(frame.area, self.area, "a frame is used with the memory it belongs to");
        if frame.area != self.area {
            return None;
        }
        let at = frame.index as usize * FRAME_BYTES + usize::from(frame.offset);
        // SAFETY: a frame of this area has `index < frames` and `offset <= FRAME_BYTES`, and the mapping has at
        // least `frames * FRAME_BYTES` octets.
        Some(unsafe { self.mapping.start().add(at) })
    }

    /// Returns whether `frame` is one of this memory's.
    pub(super) fn owns(&self, frame: &Frame) -> bool {
        frame.area == self.area
    }

    /// Returns where the frames begin and how many octets they take: what is registered as umem.
    pub(super) fn extent(&self) -> (NonNull<u8>, usize) {
        (self.mapping.start(), self.frames as usize * FRAME_BYTES)
    }

    /// Returns what to call one more socket.
    pub(super) fn borrower(&self) -> Borrower {
        Borrower(self.next_borrower.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives a frame to the kernel by a socket and returns the descriptor's address of its packet.
    ///
    /// The caller has seen that the frame is this memory's ([`Self::owns`]).
    pub(super) fn lend(&self, frame: Frame, to: Borrower) -> u64 {
        if let Some(borrower) = self.borrowers.get(frame.index as usize) {
            debug_assert_eq!(borrower.load(Ordering::Relaxed), 0, "frame {} was lent twice", frame.index);
            borrower.store(to.0, Ordering::Relaxed);
        }
        u64::from(frame.index) * FRAME_BYTES as u64 + u64::from(frame.offset)
    }

    /// Takes a frame back from the kernel: the one whose packet of `len` octets is at `address`, from the socket that
    /// it was lent to.
    ///
    /// Returns `None` for an address outside the memory, or of a frame that this socket was not lent. A length past the
    /// frame's end is cut there.
    ///
    /// # Safety
    /// The kernel has given back what is at `address` and will not touch it again.
    pub(super) unsafe fn take_back(&self, address: u64, len: u32, from: Borrower) -> Option<Frame> {
        let index = u32::try_from(address / FRAME_BYTES as u64).ok()?;
        let offset = (address % FRAME_BYTES as u64) as u16;
        let borrower = self.borrowers.get(index as usize)?;
        if borrower.load(Ordering::Relaxed) != from.0 {
            debug_assert!(false, "frame {index} came back twice");
            return None;
        }
        borrower.store(0, Ordering::Relaxed);
        let mut frame = Frame { offset, ..Frame::free(index, self.area) };
        frame.len = len.min(frame.room() as u32) as u16;
        Some(frame)
    }
}

impl FrameMemory {
    /// Takes back all that a socket was lent; returns how many frames.
    ///
    /// Costs one look at each frame of the memory.
    ///
    /// # Safety
    /// The kernel has done with this socket's rings and with the frames in them.
    pub(super) unsafe fn reclaim(&self, from: Borrower, pool: &mut FramePool) -> usize {
        let mut reclaimed = 0;
        for (index, borrower) in (0..).zip(&self.borrowers) {
            if borrower.load(Ordering::Relaxed) == from.0 {
                borrower.store(0, Ordering::Relaxed);
                pool.push(Frame::free(index, self.area));
                reclaimed += 1;
            }
        }
        reclaimed
    }
}

impl Frame {
    /// Makes the handle of a frame without a packet. There is one of each index at a time; that is for the caller to see to.
    const fn free(index: u32, area: u32) -> Self {
        Self { index, area, offset: PACKET_OFFSET, len: 0, tail_bytes: 0, tails: 0 }
    }

    /// Returns how many octets of the packet are in this frame: all, unless others follow.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Returns the length of the whole packet in octets, with the frames that follow.
    #[must_use]
    pub fn packet_bytes(&self) -> usize {
        usize::from(self.len) + usize::from(self.tail_bytes)
    }

    /// Returns how many octets of the packet are in the frames that follow.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        usize::from(self.tail_bytes)
    }

    /// Returns how many frames the packet takes.
    #[must_use]
    pub fn frames(&self) -> usize {
        1 + usize::from(self.tails)
    }

    /// Says whether other frames follow in the packet.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        self.tails != 0
    }

    /// Returns whether there is no packet in the frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the packet's length; at most what is left of the frame, to which a greater one is cut. A packet in several
    /// frames is shortened by [`FramePool::shorten`].
    pub fn set_len(&mut self, len: usize) {
        debug_assert!(!self.is_chained(), "what follows would have a hole before it");
        debug_assert!(len <= self.room(), "{len} octets do not fit the frame");
        self.len = len.min(self.room()) as u16;
    }

    /// Returns how many octets there are for the packet in this frame, from its first one: up to the frame's end, or to
    /// where the next frame goes on.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.is_chained() { self.len() } else { FRAME_BYTES - usize::from(self.offset) }
    }
}

impl FramePool {
    /// Makes an empty pool with room for so many frames of a memory.
    #[must_use]
    pub fn with_room(memory: &FrameMemory, frames: usize) -> Self {
        Self { frames: Vec::with_capacity(frames), area: memory.area, chains: Arc::clone(&memory.chains) }
    }

    /// Moves frames of another pool of the same memory here, until this one is full or that one empty.
    pub fn take_from(&mut self, other: &mut Self) {
        while other.area == self.area && self.frames.len() < self.frames.capacity() {
            let Some(frame) = other.frames.pop() else { return };
            self.frames.push(frame);
        }
    }

    /// Takes a free frame, empty, with the kernel's headroom before the packet; `None` if all are in use.
    pub fn pop(&mut self) -> Option<Frame> {
        let mut frame = self.frames.pop()?;
        frame.offset = PACKET_OFFSET;
        frame.len = 0;
        Some(frame)
    }

    /// Puts a frame back, and those that follow it. One of another memory is refused (and lost).
    pub fn push(&mut self, mut frame: Frame) {
        debug_assert_eq!(frame.area, self.area, "a frame returns to the pool it came from");
        if frame.is_chained() {
            self.shorten(&mut frame, 0);
        }
        if frame.area == self.area && self.frames.len() < self.frames.capacity() {
            self.frames.push(frame);
        }
    }

    /// Cuts a packet in several frames off behind so many octets; the frames that it does not need any more are put back.
    ///
    /// A packet that is not longer stays as it is.
    #[cold]
    pub fn shorten(&mut self, packet: &mut Frame, bytes: usize) {
        if packet.area != self.area || bytes >= packet.packet_bytes() {
            return;
        }
        let mut rest = self.chains.split(packet);
        packet.len = packet.len.min(bytes.min(FRAME_BYTES) as u16);
        while let Some(mut tail) = rest {
            rest = self.chains.split(&mut tail);
            let kept = bytes.saturating_sub(packet.packet_bytes()).min(tail.len());
            if kept == 0 {
                self.push(tail);
            } else {
                tail.len = kept as u16;
                if let Err(tail) = self.chains.append(packet, tail) {
                    self.push(tail);
                }
            }
        }
    }

    /// Returns how many frames are free.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns whether no frame is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_in_the_pool_once_at_start() {
        let (memory, mut pool) = FrameMemory::new(64).unwrap();
        let mut frames: Vec<_> = std::iter::from_fn(|| pool.pop()).collect();
        assert_eq!(frames.len(), 64);
        for (number, frame) in frames.iter_mut().enumerate() {
            memory.octets_mut(frame)[..8].copy_from_slice(&(number as u64).to_be_bytes());
            frame.set_len(8);
        }
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(memory.octets(frame), (number as u64).to_be_bytes());
        }
        frames.into_iter().for_each(|frame| pool.push(frame));
        assert_eq!(pool.len(), 64);
    }

    #[test]
    fn octets_are_the_packet_and_octets_mut_the_packet_and_its_tail_room() {
        let (memory, mut pool) = FrameMemory::new(2).unwrap();
        let mut frame = pool.pop().unwrap();
        assert!(memory.octets(&frame).is_empty());
        assert_eq!(memory.octets_mut(&mut frame).len(), FRAME_BYTES - usize::from(PACKET_OFFSET));
        frame.set_len(60);
        assert_eq!(memory.octets(&frame).len(), 60);
        pool.push(frame);
    }

    #[test]
    fn a_frame_comes_back_where_the_kernel_put_its_packet() {
        let (memory, mut pool) = FrameMemory::new(4).unwrap();
        let socket = memory.borrower();
        let address = memory.lend(pool.pop().unwrap(), socket);
        assert_eq!(address % FRAME_BYTES as u64, u64::from(PACKET_OFFSET));
        // SAFETY: the frame was just lent and nobody else has it.
        let frame = unsafe { memory.take_back(address + 2, 100, socket) }.unwrap();
        assert_eq!((frame.len(), frame.room()), (100, FRAME_BYTES - usize::from(PACKET_OFFSET) - 2));
        pool.push(frame);
        let fresh = pool.pop().unwrap();
        assert_eq!((fresh.len(), fresh.room()), (0, FRAME_BYTES - usize::from(PACKET_OFFSET)));
        pool.push(fresh);
    }

    #[test]
    fn an_address_outside_the_memory_makes_no_frame() {
        let (memory, _pool) = FrameMemory::new(4).unwrap();
        for address in [4 * FRAME_BYTES as u64, u64::from(u32::MAX), u64::MAX] {
            // SAFETY: the address is of no frame, so there is none to be had twice.
            assert!(unsafe { memory.take_back(address, 1, memory.borrower()) }.is_none());
        }
    }

    #[test]
    fn a_length_past_the_frame_is_cut_at_its_end() {
        let (memory, mut pool) = FrameMemory::new(1).unwrap();
        let socket = memory.borrower();
        let address = memory.lend(pool.pop().unwrap(), socket);
        // SAFETY: the frame was just lent and nobody else has it.
        let frame = unsafe { memory.take_back(address, u32::MAX, socket) }.unwrap();
        assert_eq!(memory.octets(&frame).len(), FRAME_BYTES - usize::from(PACKET_OFFSET));
        pool.push(frame);
    }

    #[test]
    #[should_panic(expected = "came back twice")]
    #[cfg(debug_assertions)]
    fn a_frame_that_comes_back_twice_is_noticed() {
        let (memory, mut pool) = FrameMemory::new(1).unwrap();
        let socket = memory.borrower();
        let address = memory.lend(pool.pop().unwrap(), socket);
        // SAFETY: the first return is right; the second is what must panic before it makes a frame.
        let _first = unsafe { memory.take_back(address, 1, socket) };
        // SAFETY: see above.
        let _second = unsafe { memory.take_back(address, 1, socket) };
    }

    #[test]
    fn what_a_socket_was_lent_and_nothing_else_is_reclaimed() {
        let (memory, mut pool) = FrameMemory::new(8).unwrap();
        let (gone, other) = (memory.borrower(), memory.borrower());
        let lent: Vec<u64> = (0..3).map(|_| memory.lend(pool.pop().unwrap(), gone)).collect();
        memory.lend(pool.pop().unwrap(), other);
        // SAFETY: the frame was just lent and nobody else has it.
        let back = unsafe { memory.take_back(lent[1], 60, gone) }.unwrap();
        // SAFETY: no kernel has any of these frames.
        assert_eq!(unsafe { memory.reclaim(gone, &mut pool) }, 2);
        assert_eq!((pool.len(), back.len()), (6, 60));
        // SAFETY: as above.
        assert_eq!(unsafe { memory.reclaim(gone, &mut pool) }, 0);
        pool.push(back);
    }

    #[test]
    fn frames_move_between_pools_as_far_as_there_is_room() {
        let (memory, mut pool) = FrameMemory::new(8).unwrap();
        let mut part = FramePool::with_room(&memory, 3);
        part.take_from(&mut pool);
        assert_eq!((part.len(), pool.len()), (3, 5));
        pool.take_from(&mut part);
        assert_eq!((part.len(), pool.len()), (0, 8));
        let (stranger, _) = FrameMemory::new(1).unwrap();
        let mut foreign = FramePool::with_room(&stranger, 3);
        foreign.take_from(&mut pool);
        assert_eq!((foreign.len(), pool.len()), (0, 8));
    }

    #[test]
    fn no_frames_and_too_many_frames_are_errors() {
        assert_eq!(FrameMemory::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(FrameMemory::new(u32::MAX).is_err());
    }
}
