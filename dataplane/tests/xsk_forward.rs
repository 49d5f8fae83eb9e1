//! Sockets on real devices: packets cross, frames are conserved, what is refused says why.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod xsk_rig;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Steering};
use tidegate_dataplane::xsk::{Frame, FrameMemory, FramePool, Mode, Outstanding, Socket, SocketConfig};
use xsk_rig::{Namespace, Packet, PacketSocket, device, now, until};

const CLIENT: [u8; 4] = [192, 0, 2, 7];
const VIP: [u8; 4] = [10, 96, 0, 10];
const RING: u32 = 256;

fn config(device: DeviceIndex) -> SocketConfig {
    SocketConfig {
        device,
        queue: 0,
        rx_ring: RING,
        tx_ring: RING,
        fill_ring: RING,
        completion_ring: RING,
        receives: true,
        zero_copy: true,
        chains: false,
    }
}

/// The near devices of two pairs, served by one worker; the test sits at the far ends.
///
/// `client` ── `west` (sockets) `east` ── `backend`
struct Rig {
    steering: Steering,
    memory: Arc<FrameMemory>,
    pool: FramePool,
    burst: Vec<Frame>,
    west: Socket,
    east: Socket,
    client: PacketSocket,
    backend: PacketSocket,
}

impl Rig {
    fn new(want: AttachPreference) -> Self {
        let mut steering = Steering::load().unwrap();
        let (memory, mut pool) = FrameMemory::new(6 * RING).unwrap();
        let mut serve = |name: &str| {
            let mode = steering.attach(device(name), name, 1, want).unwrap();
            assert_eq!(mode == AttachMode::Generic, want == AttachPreference::GenericOnly);
            let socket = Socket::bind(&memory, &config(device(name)), &mut pool).unwrap();
            assert_eq!(socket.mode(), Mode::Copy, "veth has no zero-copy");
            assert_eq!(socket.zero_copy_refusal(), Some(libc::EOPNOTSUPP));
            steering.serve_queue(device(name), 0, socket.as_fd(), 0).unwrap();
            socket
        };
        let (west, east) = (serve("west"), serve("east"));
        steering.insert_vip(VIP.into(), 32).unwrap();
        let (client, backend) = (PacketSocket::open(device("client")), PacketSocket::open(device("backend")));
        Self { steering, memory, pool, burst: Vec::with_capacity(64), west, east, client, backend }
    }

    /// One turn of a worker: what came from west leaves by east, its time to live one less.
    fn turn(&mut self) -> usize {
        self.steering.heartbeat(0).unwrap().beat(now());
        let received = self.west.receive(&mut self.burst, 64);
        if received == 0 {
            self.west.poll_device();
        }
        for mut frame in self.burst.drain(..) {
            self.memory.prefetch(&frame);
            let octets = self.memory.octets_mut(&mut frame);
            octets[22] -= 1;
            self.east.transmit(frame).expect("the tx ring takes a burst");
        }
        self.east.kick();
        self.east.complete(&mut self.pool);
        self.west.refill(&mut self.pool);
        self.assert_frames_are_conserved();
        received
    }

    fn assert_frames_are_conserved(&self) {
        let (west, east) = (self.west.outstanding(), self.east.outstanding());
        let lent = west.fill + west.tx + east.fill + east.tx;
        assert_eq!(self.pool.len() as u32 + self.burst.len() as u32 + lent, self.memory.frames());
        assert_eq!((self.west.strays(), self.east.strays()), (0, 0));
    }
}

fn with_rig(want: AttachPreference, test: impl FnOnce(Rig) + Send) {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("client", "west", 1);
    namespace.veth("backend", "east", 1);
    namespace.enter(|| test(Rig::new(want)));
}

fn numbered(number: u32, payload: usize) -> Vec<u8> {
    let mut packet = Packet::udp((CLIENT, 40000), (VIP, 53));
    packet.payload = vec![number as u8; payload];
    packet.payload[..4].copy_from_slice(&number.to_be_bytes());
    packet.octets()
}

fn cross(rig: &mut Rig, packets: u32) {
    let mut next = 0;
    while next < packets {
        let batch = next..packets.min(next + 100);
        for number in batch.clone() {
            rig.steering.heartbeat(0).unwrap().beat(now());
            rig.client.send(&numbered(number, 4 + (number % 1400) as usize));
        }
        let mut forwarded = 0;
        until("the batch is forwarded", || {
            forwarded += rig.turn();
            forwarded == batch.len()
        });
        for number in batch.clone() {
            let mut arrived = None;
            until("the packet arrives", || {
                rig.east.kick();
                arrived = rig.backend.receive();
                arrived.is_some()
            });
            let mut expected = numbered(number, 4 + (number % 1400) as usize);
            expected[22] -= 1;
            assert!(
                arrived.unwrap() == expected,
                "packet {number} arrived as it was sent but for its time to live"
            );
        }
        next = batch.end;
    }
}

#[test]
fn frames_are_conserved_over_100_000_packets_that_cross_two_devices() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        cross(&mut rig, 100_000);
        assert!(rig.backend.receive().is_none(), "nothing arrives twice");
        until("all is sent", || {
            rig.turn();
            rig.east.outstanding().tx == 0
        });
        assert_eq!(rig.west.outstanding(), Outstanding { fill: RING, tx: 0 });
        assert_eq!(rig.pool.len() as u32, 4 * RING);
        let statistics = rig.west.statistics().unwrap();
        assert_eq!((statistics.rx_dropped, statistics.rx_ring_full, statistics.rx_invalid_descs), (0, 0, 0));
        assert_eq!(rig.east.statistics().unwrap().tx_invalid_descs, 0);
        let counters = rig.steering.counters().unwrap();
        assert!(counters.contains(&("redirected_to_vip", 100_000)), "{counters:?}");
    });
}

#[test]
fn packets_cross_in_generic_mode_too() {
    with_rig(AttachPreference::GenericOnly, |mut rig| cross(&mut rig, 1_000));
}

#[test]
fn packets_cross_when_the_worker_runs_the_driver_itself() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        assert!(!rig.west.busy_polls());
        rig.west.prefer_busy_poll().unwrap();
        rig.east.prefer_busy_poll().unwrap();
        assert!(rig.west.busy_polls() && rig.east.busy_polls());
        cross(&mut rig, 1_000);
    });
}

#[test]
fn what_a_slow_worker_misses_is_counted_by_the_kernel_and_frames_are_conserved() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        rig.steering.heartbeat(0).unwrap().beat(now());
        for number in 0..2 * RING {
            rig.client.send(&numbered(number, 40));
        }
        let lost = |rig: &Rig| {
            let statistics = rig.west.statistics().unwrap();
            statistics.rx_dropped + statistics.rx_ring_full
        };
        until("the ring overflows", || lost(&rig) == u64::from(RING));
        let mut received = 0;
        until("the rest is forwarded", || {
            received += rig.turn();
            received == RING as usize
        });
        cross_back_to_normal(&mut rig);
    });
}

/// What waits at the backend is taken; then a batch crosses as ever.
fn cross_back_to_normal(rig: &mut Rig) {
    let mut waiting = 0;
    until("the kept packets arrive", || {
        waiting += usize::from(rig.backend.receive().is_some());
        waiting == RING as usize
    });
    cross(rig, 200);
}

#[test]
fn a_stale_heartbeat_leaves_packets_to_the_kernel() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        let kernel = PacketSocket::open(device("west"));
        rig.steering.heartbeat(0).unwrap().beat(tidegate_dataplane::clock::Now::from_ns(1));
        rig.client.send(&numbered(7, 40));
        let mut passed = None;
        until("the kernel has it", || {
            passed = kernel.receive();
            passed.is_some()
        });
        assert_eq!(passed.unwrap(), numbered(7, 40));
        assert_eq!(rig.west.receive(&mut rig.burst, 64), 0);
        rig.steering.heartbeat(0).unwrap().beat(now());
        rig.client.send(&numbered(8, 40));
        until("the worker has the next", || rig.west.receive(&mut rig.burst, 64) == 1);
        assert_eq!(rig.memory.octets(&rig.burst[0]), numbered(8, 40));
        assert!(kernel.receive().is_none(), "the kernel does not have it too");
        rig.assert_frames_are_conserved();
    });
}

#[test]
fn a_full_tx_ring_gives_the_frame_back_and_a_burst_of_capacity_takes_no_more() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        let mut refused = 0;
        for number in 0..RING + 10 {
            let mut frame = rig.pool.pop().unwrap();
            let octets = numbered(number, 40);
            rig.memory.octets_mut(&mut frame)[..octets.len()].copy_from_slice(&octets);
            frame.set_len(octets.len());
            if let Err(frame) = rig.east.transmit(frame) {
                refused += 1;
                rig.pool.push(frame);
            }
        }
        assert_eq!((refused, rig.east.outstanding().tx), (10, RING));
        rig.east.kick();
        assert!(rig.east.kicks().calls <= u64::from(RING / 32 + 1), "{:?}", rig.east.kicks());
        assert_eq!(rig.east.kicks().put_off, 0);
        let mut completed = 0;
        until("all is sent", || {
            completed += rig.east.complete(&mut rig.pool);
            completed == RING as usize
        });
        let calls = rig.east.kicks().calls;
        rig.east.kick();
        assert_eq!(rig.east.kicks().calls, calls, "an empty ring costs no system call");

        rig.steering.heartbeat(0).unwrap().beat(now());
        (0..80).for_each(|number| rig.client.send(&numbered(number, 40)));
        let mut received = 0;
        until("a burst is full", || {
            received += rig.west.receive(&mut rig.burst, usize::MAX);
            received == 64
        });
        assert_eq!(rig.west.receive(&mut rig.burst, usize::MAX), 0);
        assert_eq!(rig.burst.capacity(), 64);
        rig.assert_frames_are_conserved();
    });
}

#[test]
fn a_socket_that_only_sends_takes_no_frames_and_sends() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let (memory, mut pool) = FrameMemory::new(64).unwrap();
        let only_sends = SocketConfig { receives: false, ..config(device("near")) };
        let mut socket = Socket::bind(&memory, &only_sends, &mut pool).unwrap();
        socket.refill(&mut pool);
        assert_eq!((socket.outstanding(), pool.len()), (Outstanding::default(), 64));
        assert_eq!((socket.mode(), socket.zero_copy_refusal()), (Mode::Copy, None));
        let far = PacketSocket::open(device("far"));
        for number in 0..1_000 {
            let mut frame = pool.pop().unwrap();
            let octets = numbered(number, 40);
            memory.octets_mut(&mut frame)[..octets.len()].copy_from_slice(&octets);
            frame.set_len(octets.len());
            socket.transmit(frame).unwrap();
            socket.kick();
            until("it arrives", || far.receive().is_some_and(|arrived| arrived == octets));
            until("it is done", || socket.complete(&mut pool) == 1);
        }
        assert_eq!((socket.receive(&mut Vec::with_capacity(4), 4), pool.len()), (0, 64));
    });
}

#[test]
fn a_device_that_is_down_puts_packets_off_until_it_is_up() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let (memory, mut pool) = FrameMemory::new(2 * RING).unwrap();
        let mut socket = Socket::bind(&memory, &config(device("near")), &mut pool).unwrap();
        namespace.ip("link set near down");
        let mut frame = pool.pop().unwrap();
        frame.set_len(60);
        socket.transmit(frame).unwrap();
        socket.kick();
        assert_eq!((socket.kicks().put_off, socket.kicks().last_errno), (1, Some(libc::ENETDOWN)));
        assert_eq!(socket.outstanding().tx, 1);
        namespace.ip("link set near up");
        until("it is sent", || {
            socket.kick();
            socket.complete(&mut pool) == 1
        });
        assert_eq!(socket.outstanding().tx, 0);
    });
}

#[test]
fn a_refused_bind_says_where_and_why_and_gives_the_frames_back() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let near = device("near");
        let (memory, mut pool) = FrameMemory::new(2 * RING).unwrap();
        let mut refused = |config: SocketConfig| {
            let error = Socket::bind(&memory, &config, &mut pool).unwrap_err();
            assert_eq!(pool.len() as u32, 2 * RING);
            assert!(
                error.to_string().starts_with(&format!("AF_XDP socket on device {} queue", config.device.0))
            );
            (error.step, error.error.raw_os_error(), error.advice())
        };
        let (step, errno, advice) = refused(SocketConfig { queue: 5, ..config(near) });
        assert_eq!((step, errno), ("bind in copy mode", Some(libc::EINVAL)));
        assert!(advice.contains("no such queue"));
        let (step, errno, _) = refused(SocketConfig { device: DeviceIndex(9999), ..config(near) });
        assert_eq!((step, errno), ("bind in zero-copy mode", Some(libc::ENODEV)));
        let (step, errno, advice) = refused(SocketConfig { tx_ring: 100, ..config(near) });
        assert_eq!((step, errno), ("make the tx ring", Some(libc::EINVAL)));
        assert!(advice.contains("powers of two"));
        let (step, errno, _) = refused(SocketConfig { fill_ring: 4 * RING, ..config(near) });
        assert_eq!((step, errno), ("fill the fill ring", None));
    });
}

#[test]
fn a_queue_in_use_is_refused_after_a_second_and_free_again_soon_after_its_socket_is_gone() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let near = device("near");
        let (memory, mut pool) = FrameMemory::new(4 * RING).unwrap();
        let first = Socket::bind(&memory, &config(near), &mut pool).unwrap();
        let start = Instant::now();
        let error = Socket::bind(&memory, &config(near), &mut pool).unwrap_err();
        assert_eq!(error.error.raw_os_error(), Some(libc::EBUSY));
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert_eq!(pool.len() as u32, 3 * RING);
        drop(first);
        let second = Socket::bind(&memory, &config(near), &mut pool).unwrap();
        assert_eq!(second.outstanding().fill, RING);
        assert_eq!(pool.len() as u32, 2 * RING, "what the first socket held is lost to this memory");
    });
}
