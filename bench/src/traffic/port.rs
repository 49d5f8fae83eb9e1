//! A device's queue as the generator sees it, by xsk-rs: frames out in bursts, frames in one by one.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Frames that are sent with one system call: as many as the kernel takes in copy mode (`TX_BATCH_SIZE`).
pub const BURST: usize = 32;

const SEND_RING: u32 = 2048;
/// As long as a generator that has to wait for its core may take not to lose what comes meanwhile: 16 ms at a million
/// packets per second.
const RECEIVE_RING: u32 = 16_384;
/// Octets of a frame: room for a packet of 1,514 after the 256 that the kernel leaves free (`XDP_PACKET_HEADROOM`).
const FRAME_BYTES: u32 = 2048;
/// Frames that only ever go out.
const SEND_FRAMES: usize = 4096;
/// Frames that only ever come in: they fill the fill ring.
const RECEIVE_FRAMES: usize = RECEIVE_RING as usize;
/// Attempts at a queue whose last socket was just closed, 5 ms apart.
const BUSY_ATTEMPTS: u32 = 200;

/// A socket with memory of its own on one queue.
pub struct Port {
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Frames to send that are neither staged nor with the kernel.
    free: Vec<FrameDesc>,
    staged: Vec<FrameDesc>,
    received: Vec<FrameDesc>,
}

impl Port {
    /// Opens a socket in the namespace of the calling thread. No program is attached: that is the caller's.
    pub fn open(device: &str, queue: u32) -> Result<Self> {
        let (umem, frames) = memory(1)?;
        Self::with_memory(umem, frames, device, queue)
    }

    /// Opens sockets on queues 0 to `queues` of a device, all on one memory.
    pub fn open_sharing(device: &str, queues: u32) -> Result<Vec<Self>> {
        let (umem, mut frames) = memory(queues)?;
        let of_one = SEND_FRAMES + RECEIVE_FRAMES;
        let open =
            |queue| Self::with_memory(umem.clone(), frames.split_off(frames.len() - of_one), device, queue);
        (0..queues).map(open).collect()
    }

    fn with_memory(umem: Umem, mut free: Vec<FrameDesc>, device: &str, queue: u32) -> Result<Self> {
        let socket = SocketConfig::builder()
            .rx_queue_size(QueueSize::new(RECEIVE_RING)?)
            .tx_queue_size(QueueSize::new(SEND_RING)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_COPY)
            .build();
        let (tx, rx, rings) = bind(socket, &umem, device, queue)?;
        let (mut fill, completion) = rings.ok_or_else(|| anyhow!("no fill ring"))?;
        let receiving = free.split_off(SEND_FRAMES);
        // SAFETY: the frames are of this memory, were just made, and are used nowhere else.
        let filled = unsafe { fill.produce(&receiving) };
        anyhow::ensure!(filled == receiving.len(), "the fill ring took {filled} frames");
        let received = vec![FrameDesc::default(); BURST];
        Ok(Self { umem, tx, rx, fill, completion, free, staged: Vec::with_capacity(BURST), received })
    }

    /// Writes a frame to be sent; `write` gets its octets and returns how many it used. False if no frame is free.
    ///
    /// Sends when a burst is full.
    pub fn stage(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<bool> {
        let Some(mut descriptor) = self.free.pop() else {
            self.flush()?;
            return Ok(false);
        };
        // SAFETY: the frame is of this memory, and being free it is with nobody else.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(usize::MAX);
        let length = write(data.contents_mut());
        data.cursor().set_pos(length);
        self.staged.push(descriptor);
        if self.staged.len() == BURST {
            self.flush()?;
        }
        Ok(true)
    }

    /// Sends what is staged and takes back what was sent. What the kernel puts off is sent by a later call.
    pub fn flush(&mut self) -> Result<()> {
        // SAFETY: staged frames are of this memory and were free; they leave `staged` when the ring has them.
        let sent = unsafe { self.tx.produce(&self.staged) };
        self.staged.drain(..sent);
        if self.tx.needs_wakeup() {
            self.tx.wakeup().context("sending")?;
        }
        let mut done = [FrameDesc::default(); 2 * BURST];
        loop {
            // SAFETY: the queue is that of this memory.
            let count = unsafe { self.completion.consume(&mut done) };
            self.free.extend_from_slice(&done[..count]);
            if count < done.len() {
                return Ok(());
            }
        }
    }

    /// Hands each frame that arrived to `read`, up to a burst; returns how many.
    pub fn receive(&mut self, mut read: impl FnMut(&[u8])) -> usize {
        // SAFETY: the queue is that of this memory.
        let count = unsafe { self.rx.consume(&mut self.received) };
        let arrived = &self.received[..count];
        for descriptor in arrived {
            // SAFETY: the kernel gave the frame back and does not have it until it is in the fill ring again.
            read(unsafe { self.umem.data(descriptor) }.contents());
        }
        // SAFETY: the frames are of this memory and their octets are not looked at any more. There is room: the ring
        // is as long as there are frames that come in.
        unsafe { self.fill.produce(arrived) };
        count
    }

    /// Returns how many frames are with the kernel, to be sent.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        SEND_FRAMES - self.free.len()
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.tx.fd().as_raw_fd()
    }
}

/// Makes memory for some sockets.
fn memory(sockets: u32) -> Result<(Umem, Vec<FrameDesc>)> {
    let config = UmemConfig::builder()
        .fill_queue_size(QueueSize::new(RECEIVE_RING)?)
        .comp_queue_size(QueueSize::new(2 * SEND_RING)?)
        .frame_size(FrameSize::new(FRAME_BYTES).context("size of frames")?)
        .build()
        .context("layout of frames")?;
    let frames = NonZeroU32::new((SEND_FRAMES + RECEIVE_FRAMES) as u32 * sockets).context("no frames")?;
    Ok(Umem::new(config, frames, false)?)
}

type Rings = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

fn bind(config: SocketConfig, umem: &Umem, device: &str, queue: u32) -> Result<Rings> {
    let interface = device.parse().with_context(|| format!("device {device:?}"))?;
    let mut attempts = 0;
    loop {
        // SAFETY: no program is loaded by it, so it is never detached twice; no other socket shares the memory.
        match unsafe { Socket::new(config, umem, &interface, queue) } {
            Ok(rings) => return Ok(rings),
            Err(_busy) if attempts < BUSY_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error).with_context(|| format!("socket on {device} queue {queue}")),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
