//! Frames of another implementation of AF_XDP sockets (xsk-rs) pass through ours, in both directions.
//!
//! `client` (xsk-rs) ── `west` (ours) `east` (ours) ── `backend` (xsk-rs), on each of several queues.

mod ends_rig;

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ends_rig::Wires;
use tidegate_bench::traffic::ends::Collector;
use tidegate_bench::traffic::frame::{Stamp, Stations, Template};
use tidegate_bench::traffic::port::{BURST, Port};
use tidegate_bench::traffic::targets::{Protocol, Targets};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachPreference, Steering};
use tidegate_dataplane::xsk::{Frame, FrameMemory, FramePool, Socket, SocketConfig};

const QUEUES: u32 = 3;
const RING: u32 = 512;
const FRAMES_PER_QUEUE: u32 = 1500;

/// Whether sockets of one side lie on one memory.
#[derive(Clone, Copy, Debug)]
enum Memory {
    Shared,
    Separate,
}

/// A worker's sockets on one queue of both devices, and their frames.
struct Carrier {
    west: Socket,
    east: Socket,
    west_memory: (Arc<FrameMemory>, FramePool),
    /// `None` if it is that of the west.
    east_memory: Option<(Arc<FrameMemory>, FramePool)>,
    burst: Vec<Frame>,
}

impl Carrier {
    fn bind(queue: u32, memory: Memory) -> Self {
        let mut west_memory = FrameMemory::new(8 * RING).unwrap();
        let west = Socket::bind(&west_memory.0, &config("west", queue), &mut west_memory.1).unwrap();
        let mut east_memory = match memory {
            Memory::Shared => None,
            Memory::Separate => Some(FrameMemory::new(8 * RING).unwrap()),
        };
        let (frames, pool) = east_memory.as_mut().unwrap_or(&mut west_memory);
        let east = Socket::bind(frames, &config("east", queue), pool).unwrap();
        Self { west, east, west_memory, east_memory, burst: Vec::with_capacity(BURST) }
    }

    /// Sends on by the other device what came by each: the frame itself on one memory, else a copy.
    fn turn(&mut self) {
        let Self { west, east, west_memory, east_memory, burst } = self;
        match east_memory {
            None => {
                carry(west, east, burst);
                carry(east, west, burst);
                let pool = &mut west_memory.1;
                west.complete(pool);
                east.complete(pool);
                west.refill(pool);
                east.refill(pool);
            }
            Some(east_memory) => {
                copy(west, west_memory, east, east_memory, burst);
                copy(east, east_memory, west, west_memory, burst);
            }
        }
    }
}

fn carry(from: &mut Socket, to: &mut Socket, burst: &mut Vec<Frame>) {
    from.receive(burst, BURST);
    burst.drain(..).for_each(|frame| to.transmit(frame).expect("the ring takes a burst"));
    to.kick();
}

fn copy(
    from: &mut Socket,
    (source, source_pool): &mut (Arc<FrameMemory>, FramePool),
    to: &mut Socket,
    (target, target_pool): &mut (Arc<FrameMemory>, FramePool),
    burst: &mut Vec<Frame>,
) {
    from.receive(burst, BURST);
    for frame in burst.drain(..) {
        let mut copied = target_pool.pop().unwrap();
        target.octets_mut(&mut copied)[..frame.len()].copy_from_slice(source.octets(&frame));
        copied.set_len(frame.len());
        to.transmit(copied).expect("the ring takes a burst");
        source_pool.push(frame);
    }
    to.kick();
    to.complete(target_pool);
    from.refill(source_pool);
}

fn config(name: &str, queue: u32) -> SocketConfig {
    SocketConfig {
        device: device(name),
        queue,
        rx_ring: RING,
        tx_ring: RING,
        fill_ring: RING,
        completion_ring: 2 * RING,
        receives: true,
        zero_copy: true,
        chains: false,
    }
}

fn device(name: &str) -> DeviceIndex {
    let index = Wires::index(name);
    DeviceIndex(index)
}

fn ports(name: &str, memory: Memory) -> Vec<Port> {
    match memory {
        Memory::Shared => Port::open_sharing(name, QUEUES).unwrap(),
        Memory::Separate => (0..QUEUES).map(|queue| Port::open(name, queue).unwrap()).collect(),
    }
}

/// Frames of all lengths, each unlike any other of its queue.
fn frame(queue: usize, number: u32) -> Vec<u8> {
    let stations = Stations { gateway: ends_rig::STATION, client: [2, 0, 0, 0, 0, 9] };
    let template = Template::new(stations, 60 + (number as usize * 7) % 1455);
    let flow = Targets::alternating(100).flow(number, Protocol::Udp);
    let mut octets = vec![0; 2048];
    let stamp = Stamp { flow: queue as u32, sequence: number, due_ns: 0 };
    let length = template.write_datagram(&mut octets, &flow, stamp);
    octets.truncate(length);
    octets
}

/// Sends numbered frames by each queue of `from` and sees that each arrives whole by the same queue of `to`.
fn cross(from: &mut [Port], to: &mut [Port], carriers: &mut [Carrier], steering: &Steering) {
    let heartbeat = steering.heartbeat(0).unwrap();
    for start in (0..FRAMES_PER_QUEUE).step_by(BURST) {
        let batch = start..(start + BURST as u32).min(FRAMES_PER_QUEUE);
        heartbeat.beat(Now::read());
        for (queue, port) in from.iter_mut().enumerate() {
            for number in batch.clone() {
                let octets = frame(queue, number);
                let staged = port.stage(|place| {
                    place[..octets.len()].copy_from_slice(&octets);
                    octets.len()
                });
                assert!(staged.unwrap(), "a frame is free");
            }
            port.flush().unwrap();
        }
        let mut next = vec![batch.start; QUEUES as usize];
        let patience = Instant::now() + Duration::from_secs(5);
        while next.iter().any(|number| *number < batch.end) {
            heartbeat.beat(Now::read());
            carriers.iter_mut().for_each(Carrier::turn);
            for (queue, (port, next)) in to.iter_mut().zip(&mut next).enumerate() {
                port.receive(|octets| {
                    assert!(
                        octets == frame(queue, *next),
                        "frame {next} of queue {queue} arrives as it was sent"
                    );
                    *next += 1;
                });
            }
            from.iter_mut().for_each(|port| port.flush().unwrap());
            assert!(Instant::now() < patience, "arrived up to {next:?} of {batch:?}");
        }
    }
}

fn pass_both_ways(ours: Memory, theirs: Memory) {
    let Some(wires) = Wires::new(&format!("{ours:?}{theirs:?}").to_lowercase(), QUEUES) else { return };
    wires.enter(|| {
        let mut steering = Steering::load().unwrap();
        for name in ["west", "east"] {
            steering.attach(device(name), name, QUEUES, AttachPreference::NativeThenGeneric).unwrap();
        }
        let bind = |queue| Carrier::bind(queue, ours);
        let mut carriers: Vec<Carrier> = (0..QUEUES).map(bind).collect();
        for (queue, carrier) in (0..).zip(&carriers) {
            steering.serve_queue(device("west"), queue, carrier.west.as_fd(), 0).unwrap();
            steering.serve_queue(device("east"), queue, carrier.east.as_fd(), 0).unwrap();
        }
        steering.insert_vip(std::net::Ipv4Addr::new(10, 96, 0, 0).into(), 16).unwrap();
        let (mut client, mut backend) = (ports("client", theirs), ports("backend", theirs));
        let mut collectors = ["client", "backend"].map(|name| Collector::attach(name).unwrap());
        for (collector, ports) in collectors.iter_mut().zip([&client, &backend]) {
            for (queue, port) in (0..).zip(ports) {
                collector.give(queue, port).unwrap();
            }
        }
        cross(&mut client, &mut backend, &mut carriers, &steering);
        cross(&mut backend, &mut client, &mut carriers, &steering);
        for carrier in &carriers {
            assert_eq!((carrier.west.strays(), carrier.east.strays()), (0, 0));
            assert_eq!(carrier.west.statistics().unwrap().rx_dropped, 0);
        }
    });
}

#[test]
fn frames_of_xsk_rs_pass_when_our_devices_share_one_memory() {
    pass_both_ways(Memory::Shared, Memory::Separate);
}

#[test]
fn frames_of_xsk_rs_pass_when_each_of_our_devices_has_its_own_memory() {
    pass_both_ways(Memory::Separate, Memory::Separate);
}

#[test]
fn frames_of_xsk_rs_queues_on_one_memory_pass_through_our_shared_memory() {
    pass_both_ways(Memory::Shared, Memory::Shared);
}

#[test]
fn frames_of_xsk_rs_queues_on_one_memory_pass_through_our_separate_memories() {
    pass_both_ways(Memory::Separate, Memory::Shared);
}

#[test]
fn the_rig_leaves_no_namespace_behind() {
    let Some(wires) = Wires::new("gone", 1) else { return };
    let name = wires.name().to_owned();
    drop(wires);
    assert!(!fs::exists(format!("/run/netns/{name}")).unwrap());
}
