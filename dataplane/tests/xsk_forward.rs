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

use std::time::{Duration, Instant};

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::AttachPreference;
use tidegate_dataplane::xsk::{FrameMemory, Mode, Outstanding, Socket, SocketConfig};
use xsk_rig::relay::{Relay, datagram, equal_rings};
use xsk_rig::{Namespace, PacketSocket, device, now, until};

const RING: u32 = 256;

fn config(device: DeviceIndex) -> SocketConfig {
    equal_rings(device, RING)
}

fn with_relay(want: AttachPreference, test: impl FnOnce(Relay) + Send) {
    Relay::run(1500, want, config, test);
}

fn numbered(number: u32, payload: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; payload];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    datagram(payload)
}

fn cross(relay: &mut Relay, packets: u32) {
    let mut next = 0;
    while next < packets {
        let batch = next..packets.min(next + 100);
        for number in batch.clone() {
            relay.steering.heartbeat(0).unwrap().beat(now());
            relay.client.send(&numbered(number, 4 + (number % 1400) as usize));
        }
        let mut forwarded = 0;
        until("the batch is forwarded", || {
            forwarded += relay.turn();
            forwarded == batch.len()
        });
        for number in batch.clone() {
            let mut arrived = None;
            until("the packet arrives", || {
                relay.east.kick();
                arrived = relay.backend.receive();
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
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        cross(&mut relay, 100_000);
        assert!(relay.backend.receive().is_none(), "nothing arrives twice");
        until("all is sent", || {
            relay.turn();
            relay.east.outstanding().tx == 0
        });
        assert_eq!(relay.west.outstanding(), Outstanding { fill: RING, tx: 0 });
        assert_eq!(relay.pool.len() as u32, 4 * RING);
        let statistics = relay.west.statistics().unwrap();
        assert_eq!((statistics.rx_dropped, statistics.rx_ring_full, statistics.rx_invalid_descs), (0, 0, 0));
        assert_eq!(relay.east.statistics().unwrap().tx_invalid_descs, 0);
        let counters = relay.steering.counters().unwrap();
        assert!(counters.contains(&("redirected_to_vip", 100_000)), "{counters:?}");
    });
}

#[test]
fn packets_cross_in_generic_mode_too() {
    with_relay(AttachPreference::GenericOnly, |mut relay| cross(&mut relay, 1_000));
}

#[test]
fn packets_cross_when_the_worker_runs_the_driver_itself() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        assert!(!relay.west.busy_polls());
        relay.west.prefer_busy_poll().unwrap();
        relay.east.prefer_busy_poll().unwrap();
        assert!(relay.west.busy_polls() && relay.east.busy_polls());
        cross(&mut relay, 1_000);
    });
}

#[test]
fn what_a_slow_worker_misses_is_counted_by_the_kernel_and_frames_are_conserved() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        relay.steering.heartbeat(0).unwrap().beat(now());
        for number in 0..2 * RING {
            relay.client.send(&numbered(number, 40));
        }
        let lost = |relay: &Relay| {
            let statistics = relay.west.statistics().unwrap();
            statistics.rx_dropped + statistics.rx_ring_full
        };
        until("the ring overflows", || lost(&relay) == u64::from(RING));
        let mut received = 0;
        until("the rest is forwarded", || {
            received += relay.turn();
            received == RING as usize
        });
        cross_back_to_normal(&mut relay);
    });
}

/// What waits at the backend is taken; then a batch crosses as ever.
fn cross_back_to_normal(relay: &mut Relay) {
    let mut waiting = 0;
    until("the kept packets arrive", || {
        waiting += usize::from(relay.backend.receive().is_some());
        waiting == RING as usize
    });
    cross(relay, 200);
}

#[test]
fn a_stale_heartbeat_leaves_packets_to_the_kernel() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        let kernel = PacketSocket::open(device("west"));
        relay.steering.heartbeat(0).unwrap().beat(tidegate_dataplane::clock::Now::from_ns(1));
        relay.client.send(&numbered(7, 40));
        let mut passed = None;
        until("the kernel has it", || {
            passed = kernel.receive();
            passed.is_some()
        });
        assert_eq!(passed.unwrap(), numbered(7, 40));
        assert_eq!(relay.west.receive(&mut relay.burst, 64), 0);
        relay.steering.heartbeat(0).unwrap().beat(now());
        relay.client.send(&numbered(8, 40));
        until("the worker has the next", || relay.west.receive(&mut relay.burst, 64) == 1);
        assert_eq!(relay.memory.octets(&relay.burst[0]), numbered(8, 40));
        assert!(kernel.receive().is_none(), "the kernel does not have it too");
        relay.assert_frames_are_conserved();
    });
}

#[test]
fn a_full_tx_ring_gives_the_frame_back_and_a_burst_of_capacity_takes_no_more() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        let mut refused = 0;
        for number in 0..RING + 10 {
            let mut frame = relay.pool.pop().unwrap();
            let octets = numbered(number, 40);
            relay.memory.octets_mut(&mut frame)[..octets.len()].copy_from_slice(&octets);
            frame.set_len(octets.len());
            if let Err(frame) = relay.east.transmit(frame) {
                refused += 1;
                relay.pool.push(frame);
            }
        }
        assert_eq!((refused, relay.east.outstanding().tx), (10, RING));
        relay.east.kick();
        assert!(relay.east.kicks().calls <= u64::from(RING / 32 + 1), "{:?}", relay.east.kicks());
        assert_eq!(relay.east.kicks().put_off, 0);
        let mut completed = 0;
        until("all is sent", || {
            completed += relay.east.complete(&mut relay.pool);
            completed == RING as usize
        });
        let calls = relay.east.kicks().calls;
        relay.east.kick();
        assert_eq!(relay.east.kicks().calls, calls, "an empty ring costs no system call");

        relay.steering.heartbeat(0).unwrap().beat(now());
        (0..80).for_each(|number| relay.client.send(&numbered(number, 40)));
        let mut received = 0;
        until("a burst is full", || {
            received += relay.west.receive(&mut relay.burst, usize::MAX);
            received == 64
        });
        assert_eq!(relay.west.receive(&mut relay.burst, usize::MAX), 0);
        assert_eq!(relay.burst.capacity(), 64);
        relay.assert_frames_are_conserved();
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
