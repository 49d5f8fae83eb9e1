//! A zero-copy socket that runs out of frames, again and again, while packets go on arriving.
//!
//! A driver that finds the fill ring empty stops looking at it and sets the wake-up flag; frames put into the ring
//! then do nothing until a system call wakes it. Copy mode never sets that flag, so only this can miss the call.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Heartbeat, Steering};
use tidegate_dataplane::xsk::{Frame, FrameMemory, FramePool, Mode, Socket, SocketConfig};

use crate::datagrams::{number, numbered};

/// Frames of the socket; far fewer than the NIC's own queue has places, so that it takes them all.
const FRAMES: u32 = 64;
/// Frames that each refill returns.
const REFILL: usize = 16;
/// Times the socket is drained and refilled.
const ROUNDS: u64 = 16;
/// Without a packet for this long the socket counts as drained; many are sent meanwhile.
const QUIET: Duration = Duration::from_millis(150);
/// How long frames that were refilled may take to come back with packets.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

struct Drained {
    socket: Socket,
    memory: Arc<FrameMemory>,
    pool: FramePool,
    heartbeat: Heartbeat,
    in_hand: Vec<Frame>,
    seen: HashSet<u32>,
    // Detaches the program when it goes.
    _steering: Steering,
}

/// Binds `device` and drains it of what is sent to `address`.
pub(crate) fn drain(device: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let mut drained = Drained::bind(device, address)?;
    drained.take(FRAMES as usize).context("the first packets")?;
    for round in 0..ROUNDS {
        drained.stays_empty().with_context(|| format!("round {round}"))?;
        drained.refill();
        drained.take(REFILL).with_context(|| format!("round {round}: after the refill"))?;
    }
    let packets = u64::from(FRAMES) + ROUNDS * REFILL as u64;
    println!("drained {ROUNDS} times, {packets} packets, one for each frame given, zero-copy");
    Ok(())
}

impl Drained {
    fn bind(device: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let index =
            DeviceIndex(fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?.trim().parse()?);
        let mut steering = Steering::load()?;
        let attached = steering.attach(index, device, 1, AttachPreference::NativeThenGeneric)?;
        ensure!(attached == AttachMode::Native, "the XDP program is attached in {attached:?} mode");
        let (memory, mut pool) = FrameMemory::new(FRAMES)?;
        let config = SocketConfig {
            device: index,
            queue: 0,
            rx_ring: FRAMES,
            tx_ring: FRAMES,
            fill_ring: FRAMES,
            completion_ring: FRAMES,
            receives: true,
            zero_copy: true,
            chains: false,
        };
        let socket = Socket::bind(&memory, &config, &mut pool)?;
        ensure!(socket.mode() == Mode::ZeroCopy, "the socket is in {:?} mode", socket.mode());
        steering.serve_queue(index, 0, socket.as_fd(), 0)?;
        steering.insert_vip(address.into(), 32)?;
        let heartbeat = steering.heartbeat(0)?;
        let in_hand = Vec::with_capacity(FRAMES as usize);
        Ok(Self { socket, memory, pool, heartbeat, in_hand, seen: HashSet::new(), _steering: steering })
    }

    /// Receives until `packets` have come, each whole and none twice, and takes their frames in hand.
    fn take(&mut self, packets: usize) -> anyhow::Result<()> {
        let (start, mut taken) = (Instant::now(), 0);
        while taken < packets {
            self.heartbeat.beat(Now::read());
            let old = self.in_hand.len();
            taken += self.socket.receive(&mut self.in_hand, packets - taken);
            for frame in &self.in_hand[old..] {
                let payload =
                    self.memory.octets(frame).get(HEADERS..).context("a packet too short for UDP")?;
                let number = number(payload)?;
                ensure!(payload == numbered(number), "packet {number} is not what was sent");
                ensure!(self.seen.insert(number), "packet {number} came twice");
            }
            ensure!(start.elapsed() < PATIENCE, "{taken} of {packets} packets came in {PATIENCE:?}");
            thread::yield_now();
        }
        self.frames_are_conserved()
    }

    /// Sees that nothing is received while the kernel has no frame.
    fn stays_empty(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < QUIET {
            self.heartbeat.beat(Now::read());
            let received = self.socket.receive(&mut self.in_hand, 1);
            ensure!(received == 0, "a packet came although the kernel has no frame");
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(self.socket.outstanding().fill == 0, "{:?}", self.socket.outstanding());
        Ok(())
    }

    fn refill(&mut self) {
        self.in_hand.drain(..REFILL).for_each(|frame| self.pool.push(frame));
        self.socket.refill(&mut self.pool);
    }

    fn frames_are_conserved(&self) -> anyhow::Result<()> {
        let lent = self.socket.outstanding();
        let owned = self.pool.len() + self.in_hand.len() + (lent.fill + lent.tx) as usize;
        ensure!(owned == FRAMES as usize, "{owned} of {FRAMES} frames are accounted for");
        ensure!(self.socket.strays() == 0, "{} descriptors of no frame of ours", self.socket.strays());
        Ok(())
    }
}
