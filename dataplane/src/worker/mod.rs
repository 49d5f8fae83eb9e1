//! The poll loop of a worker: the only place that knows both packets and sockets.
//!
//! Reading order: [`Worker::run`] here, `arrival` and `path` for what happens to a burst, `fragmented` for what is in
//! pieces, `departures` for connections that end, `exchange` for what belongs to another worker, `orders` for devices
//! that come and go, `polling` for when to sleep, `bell` for sleeping and waking.

mod arrival;
mod bell;
mod departures;
mod exchange;
mod fragmented;
mod orders;
mod path;
mod polling;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

pub use bell::Bell;
pub use exchange::Exchange;
pub use orders::{Order, Orders};
pub use path::{BURST, Path, Wire};
pub use polling::Polling;

use crate::clock::Now;
use crate::counters::Published;
use crate::flows::{Cursors, FlowTables};
use crate::neighbours::NextHop;
use crate::net::Mac;
use crate::routes::DeviceIndex;
use crate::snapshot::{Snapshot, Subscriber};
use crate::verdict::DropReason;
use crate::xdp::Heartbeat;
use crate::xsk::{Frame, FramePool, Socket, Statistics};
use polling::Patience;

/// Longest sleep: a fifth of the heartbeat's limit, so that an idle worker is never taken for dead.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// Longest sleep while packets wait for a next hop.
const SLEEP_WHILE_HOLDING: Duration = Duration::from_millis(10);
/// Stretches of 64 flow records that a round looks through for flows that are over: one with packets, one without.
///
/// The second takes some 10 µs, so that a packet which comes meanwhile hardly waits.
const EXPIRE_BUDGET: [usize; 2] = [1, 32];
/// How often the kernel's statistics of the sockets are read.
const STATISTICS_INTERVAL_NS: u64 = 1_000_000_000;

/// The MAC addresses of the two ends of the punt device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PuntAddresses {
    /// Of the end that we send on.
    pub source: Mac,
    /// Of the end where the kernel receives.
    pub destination: Mac,
}

/// A receive and transmit socket on one queue of a device that we serve.
pub struct ServedQueue {
    /// The device.
    pub device: DeviceIndex,
    /// Its socket.
    pub socket: Socket,
}

/// What all workers and the control thread share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The flows of all workers.
    pub flows: Arc<FlowTables>,
    /// Next hops that workers wait for.
    pub wanted: Arc<ArrayQueue<NextHop>>,
    /// Gets a datagram from workers when they have put something into `wanted`; never blocks.
    pub control_bell: Arc<UnixDatagram>,
    /// How workers wait for packets.
    pub polling: Polling,
    /// Set when the workers are to end.
    pub stop: Arc<AtomicBool>,
}

/// What one worker is made of.
pub struct Worker {
    /// Frames, flows, counters.
    pub path: Path,
    /// One socket for each queue that it serves.
    pub queues: Vec<ServedQueue>,
    /// The transmit-only socket on the punt device.
    pub punt: Socket,
    /// Where snapshots come from.
    pub subscriber: Subscriber,
    /// What the XDP program looks at before it sends us packets.
    pub heartbeat: Heartbeat,
    /// The part of the flow tables that it expires.
    pub cursors: Cursors,
    /// Where others read its counters.
    pub published: Arc<Published>,
    /// Ends its sleep.
    pub bell: Arc<Bell>,
    /// What it is to do about devices that come and go.
    pub orders: Arc<Orders>,
    /// What all workers share.
    pub shared: Shared,
}

impl Worker {
    /// Polls until `stop` is set. Nothing in here allocates (but for an order), locks or logs.
    pub fn run(self) {
        let Self {
            mut path,
            queues,
            punt,
            mut subscriber,
            heartbeat,
            mut cursors,
            published,
            bell,
            orders,
            shared,
        } = self;
        let mut sockets = Sockets {
            queues,
            punt,
            shared: shared.clone(),
            asked: false,
            lent: 0,
            gone: Statistics::default(),
        };
        let mut alarm = sockets.alarm(&bell);
        let mut burst = Vec::with_capacity(BURST);
        let mut patience = Patience::new(shared.polling);
        let mut statistics_at = Now::default();
        while !shared.stop.load(Ordering::Relaxed) {
            let now = Now::read();
            heartbeat.beat(now);
            if sockets.obey(&orders, &mut path.pool) {
                alarm = sockets.alarm(&bell);
            }
            let snapshot = subscriber.refresh();
            let received = sockets.carry_all(&mut path, &mut burst, snapshot, now)
                + path.take_over(snapshot, now, &mut sockets);
            path.expire_fragments(snapshot, now, &mut sockets);
            path.wake_takers();
            path.probe_departed(snapshot, now, &mut sockets);
            if !path.is_idle() {
                path.release(snapshot, now, &mut sockets);
            }
            sockets.finish(&mut path);
            let [busy, idle] = EXPIRE_BUDGET;
            let budget = if received > 0 { busy } else { idle };
            path.counters.flows_expired += shared.flows.expire(&mut cursors, now, budget) as u64;
            if now.ns().saturating_sub(statistics_at.ns()) >= STATISTICS_INTERVAL_NS {
                statistics_at = now;
                sockets.read_statistics(&mut path);
            }
            debug_assert!(path.counters.balances(), "{:?}", path.counters);
            published.publish(&path.counters);
            if received > 0 {
                patience.note(now);
            } else if patience.is_over(now) && !path.is_probing() && !cursors.is_under_way() {
                subscriber.park();
                alarm.sleep(if path.is_idle() { LONGEST_SLEEP } else { SLEEP_WHILE_HOLDING });
                bell.silence();
                subscriber.unpark();
            }
        }
    }
}

/// The sockets of one worker, as the wire of its path.
struct Sockets {
    queues: Vec<ServedQueue>,
    punt: Socket,
    shared: Shared,
    asked: bool,
    /// Frames that are with the control thread.
    lent: usize,
    /// The kernel's statistics of sockets whose device is gone.
    gone: Statistics,
}

impl Sockets {
    /// Lists what ends a sleep.
    fn alarm(&self, bell: &Bell) -> bell::Alarm {
        let descriptors = self.queues.iter().map(|queue| queue.socket.as_raw_fd());
        bell::Alarm::new(descriptors.chain([bell.as_raw_fd()]))
    }

    /// Does what the control thread wants; says whether it was anything.
    fn obey(&mut self, orders: &Orders, pool: &mut FramePool) -> bool {
        let mut obeyed = false;
        while let Some(order) = orders.next() {
            obeyed = true;
            match order {
                Order::Serve(queue) => {
                    self.lent = self.lent.saturating_sub(queue.socket.outstanding().fill as usize);
                    self.queues.push(*queue);
                }
                Order::Leave(device) => self.leave(device, pool),
                Order::Lend(part) => self.lent += orders.lend(part, pool),
                Order::Return(mut part) => {
                    self.lent = self.lent.saturating_sub(part.len());
                    pool.take_from(&mut part);
                }
            }
        }
        obeyed
    }

    fn leave(&mut self, device: DeviceIndex, pool: &mut FramePool) {
        for queue in self.queues.extract_if(.., |queue| queue.device == device) {
            self.gone += queue.socket.statistics().unwrap_or_default();
            // What a device that is there after all still has is lost; nobody tells us to leave such a one.
            let _reclaimed = queue.socket.reclaim(pool);
        }
    }

    /// Receives one burst from each queue and carries it; returns how many packets there were.
    fn carry_all(&mut self, path: &mut Path, burst: &mut Vec<Frame>, snapshot: &Snapshot, now: Now) -> usize {
        let mut received = 0;
        for position in 0..self.queues.len() {
            let Some(queue) = self.queues.get_mut(position) else { break };
            let device = queue.device;
            queue.socket.complete(&mut path.pool);
            let packets = queue.socket.receive(burst, BURST);
            if packets == 0 {
                queue.socket.poll_device();
            }
            received += packets;
            path.carry(device, burst, snapshot, now, self);
        }
        received
    }

    /// Ends a round: frames to the kernel, fresh frames for it, and the census of all frames.
    fn finish(&mut self, path: &mut Path) {
        self.punt.kick();
        self.punt.complete(&mut path.pool);
        let (mut fill, mut tx) = (0, u64::from(self.punt.outstanding().tx));
        for queue in &mut self.queues {
            queue.socket.kick();
            queue.socket.refill(&mut path.pool);
            let outstanding = queue.socket.outstanding();
            fill += u64::from(outstanding.fill);
            tx += u64::from(outstanding.tx);
        }
        if self.asked {
            self.asked = false;
            // A full socket means that the control thread has been told already.
            let _ = self.shared.control_bell.send(&[0]);
        }
        path.counters.frames_total = u64::from(path.memory.frames());
        path.counters.frames_free = (path.pool.len() + self.lent) as u64;
        path.counters.frames_fill = fill;
        path.counters.frames_tx = tx;
        path.counters.frames_held = path.held_frames() as u64;
    }

    fn read_statistics(&self, path: &mut Path) {
        let mut all = self.gone;
        self.queues.iter().filter_map(|queue| queue.socket.statistics().ok()).for_each(|own| all += own);
        path.counters.xsk_rx_ring_full = all.rx_ring_full;
        path.counters.xsk_fill_ring_empty = all.rx_fill_ring_empty_descs;
        path.counters.xsk_rx_dropped = all.rx_dropped;
        path.counters.xsk_invalid_descriptors = all.rx_invalid_descs + all.tx_invalid_descs;
    }
}

impl Wire for Sockets {
    fn transmit(&mut self, device: DeviceIndex, frame: Frame) -> Result<(), (Frame, DropReason)> {
        match self.queues.iter_mut().find(|queue| queue.device == device) {
            Some(queue) => queue.socket.transmit(frame).map_err(|frame| refusal(&queue.socket, frame)),
            None => Err((frame, DropReason::NoTxQueue)),
        }
    }

    fn punt(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        self.punt.transmit(frame).map_err(|frame| refusal(&self.punt, frame))
    }

    fn resolve(&mut self, next_hop: NextHop) {
        self.asked |= self.shared.wanted.push(next_hop).is_ok();
    }
}

/// Says why a socket gave a packet back.
#[cold]
fn refusal(socket: &Socket, packet: Frame) -> (Frame, DropReason) {
    let reason = if socket.takes(&packet) { DropReason::TxRingFull } else { DropReason::NoMultiBuffer };
    (packet, reason)
}
