//! What a worker does with a socket: receive, refill, transmit, kick, complete.
#![allow(unsafe_code)]

use std::io;
use std::ops::AddAssign;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use super::bind::read_option;
use super::chain::{XDP_PKT_CONTD, join};
use super::mapping::Mapping;
use super::memory::{Borrower, Frame, FrameMemory, FramePool};
use super::ring::{Consumer, Producer};

/// Packets that one `sendto` takes in copy mode on kernels where that cannot be set.
///
/// Source: `net/xdp/xsk.c`, `TX_BATCH_SIZE`.
const TX_BATCH_SIZE: u32 = 32;

/// How packets get between the NIC and the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The NIC reads and writes the frames itself.
    ZeroCopy,
    /// The kernel copies each packet.
    Copy,
}

/// Frames that are not in user space: in a ring, or between the rings in kernel and NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outstanding {
    /// From [`Socket::refill`] to [`Socket::receive`]: fill ring, driver, rx ring.
    pub fill: u32,
    /// From [`Socket::transmit`] to [`Socket::complete`]: tx ring, driver, completion ring.
    pub tx: u32,
}

/// The kernel's counts of a socket, since it was made (`XDP_STATISTICS`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Packets lost for want of a free frame, or too long for one.
    pub rx_dropped: u64,
    /// Descriptors of the fill ring that the kernel refused.
    pub rx_invalid_descs: u64,
    /// Descriptors of the tx ring that the kernel refused; their frames do not come back.
    pub tx_invalid_descs: u64,
    /// Packets lost because the rx ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel found the tx ring empty.
    pub tx_ring_empty_descs: u64,
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.rx_dropped += other.rx_dropped;
        self.rx_invalid_descs += other.rx_invalid_descs;
        self.tx_invalid_descs += other.tx_invalid_descs;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty_descs += other.rx_fill_ring_empty_descs;
        self.tx_ring_empty_descs += other.tx_ring_empty_descs;
    }
}

/// What became of [`Socket::kick`]'s system calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kicks {
    /// System calls made.
    pub calls: u64,
    /// Kicks after which the kernel left packets in the tx ring: a later one takes them.
    pub put_off: u64,
    /// Why, the last time: mostly `EAGAIN`, `ENOBUFS`, `EBUSY`, `ENETDOWN` (device down), `ENXIO` (device gone).
    pub last_errno: Option<i32>,
}

/// An AF_XDP socket bound to one queue of one device; its worker's alone.
///
/// Dropping it closes it. Frames that are outstanding then are lost to their memory until that ends: the kernel
/// may still write into them, since it takes a queue down some time after the close. Of a device that is gone they
/// come back by [`Socket::reclaim`].
#[derive(Debug)]
pub struct Socket {
    // Fields drop in this order: the kernel stops first, then the rings are unmapped, then the frames.
    pub(super) fd: OwnedFd,
    pub(super) rx: Option<Consumer<libc::xdp_desc>>,
    pub(super) tx: Producer<libc::xdp_desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) _rings: [Option<Mapping>; 4],
    pub(super) memory: Arc<FrameMemory>,
    pub(super) borrower: Borrower,
    pub(super) mode: Mode,
    /// Whether packets may take several frames.
    pub(super) chains: bool,
    /// What has come of a packet whose last frame has not.
    pub(super) unfinished: Option<Frame>,
    pub(super) zero_copy_refusal: Option<i32>,
    /// Whether the worker runs the driver's receive side.
    pub(super) busy_polls: bool,
    pub(super) lent_to_receive: u32,
    pub(super) lent_to_transmit: u32,
    pub(super) strays: u64,
    pub(super) kicks: Kicks,
}

impl Socket {
    /// Returns the mode that the kernel says the socket is in.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the error that zero-copy was refused with, if it was tried.
    #[must_use]
    pub fn zero_copy_refusal(&self) -> Option<i32> {
        self.zero_copy_refusal
    }

    /// Moves received packets to the end of `burst`, at most `max` and never past its capacity; returns how many.
    ///
    /// A packet in several frames counts once, and comes when its last frame has come. No system call.
    pub fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> usize {
        let Some(rx) = &mut self.rx else { return 0 };
        let limit = max.min(burst.capacity() - burst.len());
        let (mut received, mut frames) = (0, 0);
        while received < limit {
            let Some(descriptor) = rx.take() else { break };
            // SAFETY: the kernel put this address into the rx ring, which returns a frame of the fill ring.
            match unsafe { self.memory.take_back(descriptor.addr, descriptor.len, self.borrower) } {
                Some(frame) if descriptor.options & XDP_PKT_CONTD == 0 && self.unfinished.is_none() => {
                    burst.push(frame);
                    received += 1;
                    frames += 1;
                }
                Some(frame) => {
                    let is_last = descriptor.options & XDP_PKT_CONTD == 0;
                    self.strays += u64::from(!join(&self.memory, &mut self.unfinished, frame));
                    if let Some(packet) = self.unfinished.take_if(|_| is_last) {
                        frames += packet.frames() as u32;
                        burst.push(packet);
                        received += 1;
                    }
                }
                None => self.strays += 1,
            }
        }
        rx.release();
        self.lent_to_receive = self.lent_to_receive.saturating_sub(frames);
        received
    }

    /// Tops the fill ring up from the pool, and wakes the driver if it asked for that.
    ///
    /// A system call only in zero-copy mode after the driver ran out of frames: without it nothing is received again.
    pub fn refill(&mut self, pool: &mut FramePool) {
        if self.rx.is_none() {
            return;
        }
        self.stage_fill(pool);
        if self.fill.needs_wakeup() && self.fill.waiting() > 0 {
            self.wake_receive();
        }
    }

    /// Fills and publishes the fill ring; nothing for a socket that does not receive.
    pub(super) fn stage_fill(&mut self, pool: &mut FramePool) {
        if self.rx.is_none() {
            return;
        }
        for _ in 0..self.fill.room() {
            let Some(frame) = pool.pop() else { break };
            if !self.memory.owns(&frame) {
                debug_assert!(false, "the pool is of another memory than the socket");
                pool.push(frame);
                break;
            }
            self.fill.stage(self.memory.lend(frame, self.borrower));
            self.lent_to_receive += 1;
        }
        self.fill.publish();
    }

    /// Stages a packet to be sent by the next [`Self::kick`], in all its frames or not at all.
    ///
    /// Gives the frame back if the tx ring is full, or the packet is in several frames and the socket is not for such
    /// ([`Self::takes`]); and (with an assertion in debug builds) a frame of another memory or without a packet, which the
    /// kernel would swallow.
    pub fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        let sendable = self.memory.owns(&frame) && !frame.is_empty();
        debug_assert!(sendable, "a frame to send is of the socket's memory and has a packet");
        if frame.is_chained() {
            return self.transmit_chain(frame);
        }
        if !sendable || (self.tx.cached_room() == 0 && self.tx.room() == 0) {
            return Err(frame);
        }
        let len = frame.len() as u32;
        let staged =
            self.tx.stage(libc::xdp_desc { addr: self.memory.lend(frame, self.borrower), len, options: 0 });
        debug_assert!(staged, "the ring has room");
        self.lent_to_transmit += 1;
        Ok(())
    }

    /// Hands what was staged to the kernel and sees that it is sent, by a system call if the kernel asks for one.
    ///
    /// In copy mode each call sends (on this CPU) what the kernel takes at a time, so it is repeated while it gets on;
    /// bounded by the ring's length. What the kernel puts off stays in the ring and is counted ([`Self::kicks`]):
    /// kick again later, also with nothing new staged. No system call if the ring is empty.
    pub fn kick(&mut self) {
        self.tx.publish();
        let mut waiting = self.tx.waiting();
        for _ in 0..=self.tx.entries() / TX_BATCH_SIZE {
            if waiting == 0 || !self.tx.needs_wakeup() {
                return;
            }
            self.kicks.calls += 1;
            let refused = self.wake_transmit().err().and_then(|error| error.raw_os_error());
            let (before, after) = (waiting, self.tx.waiting());
            waiting = after;
            match refused {
                None if self.mode == Mode::ZeroCopy => return,
                Some(_) if after < before => {}
                None if after == 0 => return,
                errno => {
                    self.kicks.last_errno = errno;
                    break;
                }
            }
        }
        if waiting > 0 {
            self.kicks.put_off += 1;
        }
    }

    fn wake_transmit(&self) -> io::Result<()> {
        // SAFETY: no buffer and no address are given.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Puts the frames of packets that have been sent back into the pool; returns how many. No system call.
    pub fn complete(&mut self, pool: &mut FramePool) -> usize {
        let mut completed = 0;
        while let Some(address) = self.completion.take() {
            // SAFETY: the kernel put this address into the completion ring, which returns a frame of the tx ring.
            match unsafe { self.memory.take_back(address, 0, self.borrower) } {
                Some(frame) => {
                    pool.push(frame);
                    completed += 1;
                }
                None => self.strays += 1,
            }
        }
        self.completion.release();
        self.lent_to_transmit = self.lent_to_transmit.saturating_sub(completed as u32);
        completed
    }

    /// Takes all outstanding frames back into the pool and closes the socket, whose device is gone.
    ///
    /// Call it when the kernel has told that the device went: it has done with the rings before it tells.
    ///
    /// # Errors
    /// Returns the socket if the kernel says that it still has its device.
    #[allow(clippy::result_large_err, reason = "the socket goes back to where it was")]
    pub fn reclaim(mut self, pool: &mut FramePool) -> Result<usize, Self> {
        // Source: net/xdp/xsk.c, `xsk_check_common`: ENXIO is the answer for a socket that `xsk_notifier` unbound.
        if self.wake_transmit().err().and_then(|error| error.raw_os_error()) != Some(libc::ENXIO) {
            return Err(self);
        }
        let unfinished = self.unfinished.take();
        let begun = unfinished.as_ref().map_or(0, Frame::frames);
        unfinished.into_iter().for_each(|packet| pool.push(packet));
        // SAFETY: the kernel has taken the socket off its device and waited for those who were at it, before it said
        // that the device went (`xsk_unbind_dev`); and the socket ends here, so that its rings give nothing back.
        Ok(begun + unsafe { self.memory.reclaim(self.borrower, pool) })
    }

    /// Returns how many frames this socket's rings, the kernel and the NIC have.
    #[must_use]
    pub fn outstanding(&self) -> Outstanding {
        Outstanding { fill: self.lent_to_receive, tx: self.lent_to_transmit }
    }

    /// Returns how many descriptors the kernel gave that are of no frame of ours; each lost a frame. Never seen.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// Returns what became of the kicks.
    #[must_use]
    pub fn kicks(&self) -> Kicks {
        self.kicks
    }

    /// Reads the kernel's counts: a system call.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: the option is answered with this struct.
        let counts: libc::xdp_statistics = unsafe { read_option(&self.fd, libc::XDP_STATISTICS) }?;
        Ok(Statistics {
            rx_dropped: counts.rx_dropped,
            rx_invalid_descs: counts.rx_invalid_descs,
            tx_invalid_descs: counts.tx_invalid_descs,
            rx_ring_full: counts.rx_ring_full,
            rx_fill_ring_empty_descs: counts.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: counts.tx_ring_empty_descs,
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
