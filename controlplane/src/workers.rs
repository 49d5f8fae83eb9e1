//! Starting and ending the workers: memory, sockets, threads pinned to their cores; and their sockets on devices that
//! come back.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tidegate_dataplane::accounts::Accounts;
use tidegate_dataplane::counters::Published;
use tidegate_dataplane::flows::Cursors;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::snapshot::Subscriber;
use tidegate_dataplane::worker::{
    Bell, Exchange, Order, Orders, Path, Polling, PuntAddresses, ServedQueue, Shared, Worker,
};
use tidegate_dataplane::xdp::{AttachMode, Steering};
use tidegate_dataplane::xsk::{FrameMemory, FramePool, Mode, Socket, SocketConfig};

use crate::frame_limit;
use crate::punt_device::PuntDevice;

/// Descriptors in the longest rings that a socket gets.
///
/// A worker that has to wait for its core for a tick of the kernel's scheduler (4 ms at 250 Hz) loses nothing at a
/// million packets per second. Rings twice as long carry less: what the frames in them take of the cache is missing.
const LONGEST_RING: u32 = 4096;
/// How long a worker may take to give frames away for a new socket, and how often that is looked at.
const LENDING_LIMIT: Duration = Duration::from_millis(500);
const LENDING_POLL: Duration = Duration::from_millis(1);

/// A device to serve, with its XDP program attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachedDevice {
    /// The kernel's number.
    pub index: DeviceIndex,
    /// The kernel's name.
    pub name: String,
    /// Receive queues, all of which get a socket.
    pub queues: u32,
    /// How the program is attached.
    pub attach_mode: AttachMode,
    /// Whether packets may come in several buffers.
    pub chains: bool,
}

/// How one socket came out; for the log and the metrics.
#[derive(Debug)]
pub struct SocketReport {
    /// Name of the device.
    pub device: String,
    /// Queue of the device.
    pub queue: u32,
    /// Worker that serves it.
    pub worker: usize,
    /// Native or generic.
    pub attach_mode: AttachMode,
    /// Whether packets may take several frames.
    pub chains: bool,
    /// Zero-copy or copy, as the kernel says (XDP_OPTIONS).
    pub mode: Mode,
    /// Why the kernel refused zero-copy, if it was asked.
    pub zero_copy_refusal: Option<io::Error>,
    /// Whether the worker runs the driver's receive side.
    pub busy_polls: bool,
    /// Why the kernel refused that, if it was asked.
    pub busy_poll_refusal: Option<io::Error>,
}

impl SocketReport {
    /// Says how the socket came out.
    pub fn log(&self) {
        let (attach, mode) = crate::status::mode_names(self);
        let Self { device, queue, worker, .. } = self;
        let chains = if self.chains { ", multi-buffer" } else { "" };
        let polls = if self.busy_polls { ", busy-polled" } else { "" };
        tracing::info!(
            "device {device} queue {queue}: {mode} mode{chains}{polls}, {attach} XDP, worker {worker}"
        );
        if let Some(error) = &self.zero_copy_refusal {
            tracing::info!("device {device} queue {queue}: zero-copy refused: {error}");
        }
        if let Some(error) = &self.busy_poll_refusal {
            tracing::info!("device {device} queue {queue}: busy polling refused: {error}");
        }
    }
}

/// What the control thread keeps of a worker, to give it sockets.
struct Place {
    bell: Arc<Bell>,
    orders: Arc<Orders>,
    memory: Option<Arc<FrameMemory>>,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { bell: Arc::new(Bell::new().context("eventfd")?), orders: Arc::default(), memory: None })
    }

    fn give(&self, order: Order) -> anyhow::Result<()> {
        let given = self.orders.give(order);
        self.bell.ring();
        given.map_err(|_| anyhow!("too many orders wait for the worker"))
    }
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    places: Vec<Place>,
    shared: Shared,
    /// Descriptors in each ring of a socket.
    ring: u32,
    /// What Services have carried, of each worker.
    pub accounts: Vec<Accounts>,
    /// Counters of each worker.
    pub published: Vec<Arc<Published>>,
    /// All sockets.
    pub sockets: Vec<SocketReport>,
}

/// What the workers are started with.
pub struct Plan<'a> {
    /// Devices to serve.
    pub devices: &'a [AttachedDevice],
    /// One core for each worker.
    pub cores: &'a [usize],
    /// Frames of each worker.
    pub frames: u32,
    /// Where packets go that are the kernel's.
    pub punt: &'a PuntDevice,
    /// What all workers share.
    pub shared: Shared,
}

impl Workers {
    /// Binds all sockets, then starts one pinned thread for each core.
    ///
    /// # Errors
    /// Names the device and queue that could not be bound, or the core that could not be had.
    pub fn start(
        plan: Plan<'_>,
        steering: &mut Steering,
        subscribers: Vec<Subscriber>,
    ) -> anyhow::Result<Self> {
        // Dropped at an error below, it ends the workers that run already.
        let mut workers = Self {
            threads: Vec::new(),
            places: Vec::new(),
            shared: plan.shared.clone(),
            ring: ring_length(plan.frames, most_queues(plan.devices, plan.cores.len())),
            accounts: Vec::new(),
            published: Vec::new(),
            sockets: Vec::new(),
        };
        for _ in plan.cores {
            workers.places.push(Place::new()?);
        }
        let bells: Vec<Arc<Bell>> = workers.places.iter().map(|place| Arc::clone(&place.bell)).collect();
        let ends = subscribers.into_iter().zip(Exchange::between(&bells));
        for (number, (core, (subscriber, exchange))) in plan.cores.iter().zip(ends).enumerate() {
            let worker = workers.build(&plan, steering, number, subscriber, exchange)?;
            workers.spawn(worker, number, *core)?;
        }
        Ok(workers)
    }

    fn build(
        &mut self,
        plan: &Plan<'_>,
        steering: &mut Steering,
        number: usize,
        subscriber: Subscriber,
        exchange: Exchange,
    ) -> anyhow::Result<Worker> {
        let (memory, mut pool) = FrameMemory::new(plan.frames)
            .with_context(|| format!("worker {number}: cannot map {} frames", plan.frames))?;
        let mut queues = Vec::new();
        for device in plan.devices {
            for queue in (0..device.queues).filter(|queue| *queue as usize % plan.cores.len() == number) {
                queues.push(self.bind(device, queue, number, &memory, &mut pool, steering)?);
            }
        }
        let mut config = self.socket_config(plan.punt.transmit, number as u32, false);
        config.chains = frame_limit::needs_chains(plan.punt.mtu);
        let punt = Socket::bind(&memory, &config, &mut pool).context("punt device tide0")?;
        let addresses = PuntAddresses { source: plan.punt.transmit_mac, destination: plan.punt.receive_mac };
        let published = Arc::new(Published::default());
        self.published.push(Arc::clone(&published));
        let place = self.places.get_mut(number).context("worker without a place")?;
        place.memory = Some(Arc::clone(&memory));
        let path = Path::new(memory, pool, Arc::clone(&plan.shared.flows), addresses)
            .with_exchange(exchange)
            .with_part(number as u32, plan.cores.len() as u32);
        self.accounts.push(path.accounts.clone());
        Ok(Worker {
            path,
            queues,
            punt,
            subscriber,
            heartbeat: steering.heartbeat(number as u32)?,
            cursors: Cursors::part(number as u32, plan.cores.len() as u32),
            published,
            bell: Arc::clone(&place.bell),
            orders: Arc::clone(&place.orders),
            shared: plan.shared.clone(),
        })
    }

    fn bind(
        &mut self,
        device: &AttachedDevice,
        queue: u32,
        worker: usize,
        memory: &Arc<FrameMemory>,
        pool: &mut FramePool,
        steering: &mut Steering,
    ) -> anyhow::Result<ServedQueue> {
        let mut config = self.socket_config(device.index, queue, true);
        // A program in generic mode sees packets after the driver has copied them out of its own buffers.
        config.zero_copy = device.attach_mode == AttachMode::Native;
        config.chains = device.chains;
        let mut socket = Socket::bind(memory, &config, pool)
            .with_context(|| format!("device {} queue {queue}", device.name))?;
        steering
            .serve_queue(device.index, queue, socket.as_fd(), worker as u32)
            .with_context(|| format!("device {} queue {queue}", device.name))?;
        let busy_poll_refusal = match self.shared.polling {
            Polling::Busy => socket.prefer_busy_poll().err(),
            Polling::Adaptive => None,
        };
        self.sockets.push(SocketReport {
            device: device.name.clone(),
            queue,
            worker,
            attach_mode: device.attach_mode,
            chains: device.chains,
            mode: socket.mode(),
            zero_copy_refusal: socket.zero_copy_refusal().map(io::Error::from_raw_os_error),
            busy_polls: socket.busy_polls(),
            busy_poll_refusal,
        });
        Ok(ServedQueue { device: device.index, socket })
    }

    const fn socket_config(&self, device: DeviceIndex, queue: u32, receives: bool) -> SocketConfig {
        SocketConfig {
            device,
            queue,
            rx_ring: self.ring,
            tx_ring: self.ring,
            fill_ring: self.ring,
            completion_ring: self.ring,
            receives,
            zero_copy: true,
            chains: false,
        }
    }

    fn spawn(&mut self, worker: Worker, number: usize, core: usize) -> anyhow::Result<()> {
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
            let _ = tell.send(pinned);
            if pinned {
                worker.run();
            }
        });
        self.threads.push(thread.with_context(|| format!("worker {number}: cannot start a thread"))?);
        match told.recv_timeout(Duration::from_secs(5)) {
            Ok(true) => Ok(()),
            _ => bail!("--cores: core {core} is not to be had for this process"),
        }
    }

    /// Gives the workers their sockets on a device that came back, those that they have not yet.
    ///
    /// Blocks this thread while the kernel pins the workers' memory for the new sockets; the workers go on meanwhile.
    ///
    /// # Errors
    /// Names the device and queue, or the worker. Call it again: what was given is not given twice.
    pub async fn serve(&mut self, device: &AttachedDevice, steering: &mut Steering) -> anyhow::Result<()> {
        for number in 0..self.places.len() {
            let has = |queue: &u32| {
                self.sockets.iter().any(|socket| socket.device == device.name && socket.queue == *queue)
            };
            let own = (0..device.queues).filter(|queue| *queue as usize % self.places.len() == number);
            let missing: Vec<u32> = own.filter(|queue| !has(queue)).collect();
            if missing.is_empty() {
                continue;
            }
            let (memory, mut pool) = self.borrow_frames(number, missing.len() * self.ring as usize).await?;
            let mut bound = Ok(());
            for queue in missing {
                bound = match self.bind(device, queue, number, &memory, &mut pool, steering) {
                    Ok(socket) => self.order(number, Order::Serve(Box::new(socket))),
                    Err(error) => Err(error),
                };
                if bound.is_err() {
                    break;
                }
            }
            self.order(number, Order::Return(pool))?;
            bound?;
        }
        Ok(())
    }

    /// Has all workers leave a device that is gone.
    pub fn leave(&mut self, device: DeviceIndex, name: &str) {
        self.sockets.retain(|socket| socket.device != name);
        for number in 0..self.places.len() {
            if let Err(error) = self.order(number, Order::Leave(device)) {
                tracing::error!("device {name}: {error:#}");
            }
        }
    }

    /// Has a worker give frames away.
    async fn borrow_frames(
        &self,
        number: usize,
        frames: usize,
    ) -> anyhow::Result<(Arc<FrameMemory>, FramePool)> {
        let place = self.places.get(number).context("worker without a place")?;
        let memory = Arc::clone(place.memory.as_ref().context("worker without memory")?);
        // What an earlier try did not wait for goes back first.
        if let Some(late) = place.orders.lent() {
            self.order(number, Order::Return(late))?;
        }
        self.order(number, Order::Lend(FramePool::with_room(&memory, frames)))?;
        let lent = async {
            loop {
                if let Some(pool) = place.orders.lent() {
                    return pool;
                }
                tokio::time::sleep(LENDING_POLL).await;
            }
        };
        let pool = tokio::time::timeout(LENDING_LIMIT, lent).await;
        Ok((memory, pool.map_err(|_| anyhow!("worker {number}: gave no frames within {LENDING_LIMIT:?}"))?))
    }

    fn order(&self, number: usize, order: Order) -> anyhow::Result<()> {
        let place = self.places.get(number).context("worker without a place")?;
        place.give(order).with_context(|| format!("worker {number}"))
    }

    /// Returns where each worker's frames lie in memory.
    #[must_use]
    pub fn frame_addresses(&self) -> Vec<Range<usize>> {
        self.places.iter().filter_map(|place| Some(place.memory.as_ref()?.addresses())).collect()
    }

    /// Ends a sleep of the workers, so that they take up a snapshot at once.
    pub fn wake(&self) {
        self.places.iter().for_each(|place| place.bell.ring());
    }

    /// Returns a worker that has ended without being asked to, if there is one.
    #[must_use]
    pub fn lost(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Ends all workers and waits for them; their sockets close.
    pub fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

impl Drop for Workers {
    /// Whatever ends the gateway ends the workers before the XDP program and its maps go.
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns how many queues the worker has that has most of them: queue `n` of each device is for worker `n` modulo
/// their number.
fn most_queues(devices: &[AttachedDevice], workers: usize) -> u32 {
    let of_worker_0 = devices.iter().map(|device| device.queues.div_ceil(workers.max(1) as u32));
    of_worker_0.sum()
}

/// Returns the length of rings, a power of two, with which the fill rings of a worker take at most half of its frames.
fn ring_length(frames: u32, queues: u32) -> u32 {
    let share = frames / (2 * queues.max(1));
    (1 << share.max(1).ilog2()).min(LONGEST_RING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_rings_take_at_most_half_of_a_workers_frames() {
        for (frames, queues, ring) in
            [(16_384, 2, 4096), (16_384, 3, 2048), (4096, 2, 1024), (4096, 64, 32), (1_048_576, 1, 4096)]
        {
            assert_eq!(ring_length(frames, queues), ring, "{frames} frames, {queues} queues");
            assert!(ring * queues <= frames / 2);
        }
    }

    #[test]
    fn the_first_worker_has_most_queues() {
        let device = |queues| AttachedDevice {
            index: DeviceIndex(1),
            name: "eth0".to_owned(),
            queues,
            attach_mode: AttachMode::Native,
            chains: false,
        };
        for (queues, workers, most) in
            [(vec![1, 1], 1, 2), (vec![4, 2], 2, 3), (vec![3, 1], 2, 3), (vec![8], 3, 3)]
        {
            let devices: Vec<_> = queues.into_iter().map(device).collect();
            assert_eq!(most_queues(&devices, workers), most);
        }
    }
}
