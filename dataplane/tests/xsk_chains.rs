//! Packets in several frames on real devices: all of them crosses or nothing, and frames are conserved.
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

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Steering};
use tidegate_dataplane::xsk::{
    Frame, FrameMemory, FramePool, PACKET_BYTES_MAX, Socket, SocketConfig, takes_chains,
};
use xsk_rig::{Namespace, Packet, PacketSocket, device, now, until};

const CLIENT: [u8; 4] = [192, 0, 2, 7];
const VIP: [u8; 4] = [10, 96, 0, 10];
const RING: u32 = 64;

fn config(device: DeviceIndex) -> SocketConfig {
    SocketConfig {
        device,
        queue: 0,
        rx_ring: RING,
        tx_ring: RING,
        fill_ring: RING,
        completion_ring: RING,
        receives: true,
        zero_copy: false,
        chains: true,
    }
}

/// `client` ── `west` (sockets) `east` ── `backend`, all with an MTU of 9,000.
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
            let mode = steering.attach_for_chains(device(name), name, 1, want).unwrap();
            assert_eq!(mode == AttachMode::Generic, want == AttachPreference::GenericOnly);
            let socket = Socket::bind(&memory, &config(device(name)), &mut pool).unwrap();
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
        for mut frame in self.burst.drain(..) {
            self.memory.octets_mut(&mut frame)[22] -= 1;
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
        let in_hand: usize = self.burst.iter().map(Frame::frames).sum();
        assert_eq!(self.pool.len() as u32 + in_hand as u32 + lent, self.memory.frames());
        assert_eq!((self.west.strays(), self.east.strays()), (0, 0));
    }
}

fn with_rig(want: AttachPreference, test: impl FnOnce(Rig) + Send) {
    if !takes_chains().unwrap() {
        println!("skipped: this kernel has no packets in several frames");
        return;
    }
    let Some(namespace) = Namespace::new() else { return };
    for (one, other) in [("client", "west"), ("backend", "east")] {
        namespace.veth(one, other, 1);
        namespace.ip(&format!("link set {one} mtu 9000"));
        namespace.ip(&format!("link set {other} mtu 9000"));
    }
    namespace.enter(|| test(Rig::new(want)));
}

fn numbered(number: u32, bytes: usize) -> Vec<u8> {
    let mut packet = Packet::udp((CLIENT, 4000), (VIP, 53));
    packet.payload = (0..bytes - 42).map(|place| (place as u32 * 7 + number) as u8).collect();
    packet.octets()
}

/// Sends packets of every kind of length across and compares all octets.
fn cross(rig: &mut Rig, packets: u32) {
    for number in 0..packets {
        let bytes = 60 + (number as usize * 677) % (9014 - 60 + 1);
        rig.steering.heartbeat(0).unwrap().beat(now());
        let mut sent = numbered(number, bytes);
        rig.client.send(&sent);
        until("the packet is forwarded", || rig.turn() == 1);
        let mut arrived = None;
        until("the packet arrives", || {
            rig.turn();
            arrived = rig.backend.receive();
            arrived.is_some()
        });
        sent[22] -= 1;
        assert!(arrived.unwrap() == sent, "packet {number} of {bytes} octets arrived as it was sent");
    }
    until("all is sent", || {
        rig.turn();
        rig.east.outstanding().tx == 0
    });
    assert_eq!(rig.pool.len() as u32, 4 * RING);
}

fn assert_nothing_was_lost(rig: &Rig) {
    let (west, east) = (rig.west.statistics().unwrap(), rig.east.statistics().unwrap());
    assert_eq!(
        (west.rx_dropped, west.rx_ring_full, west.rx_invalid_descs, east.tx_invalid_descs),
        (0, 0, 0, 0)
    );
}

#[test]
fn packets_of_all_lengths_up_to_an_mtu_of_9000_cross_two_devices_whole() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        cross(&mut rig, 2_000);
        assert_nothing_was_lost(&rig);
    });
}

#[test]
fn in_generic_mode_they_cross_too() {
    with_rig(AttachPreference::GenericOnly, |mut rig| {
        cross(&mut rig, 500);
        assert_nothing_was_lost(&rig);
    });
}

#[test]
fn a_packet_that_the_tx_ring_has_no_room_for_leaves_no_part_of_itself_there() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        let octets = numbered(1, PACKET_BYTES_MAX.min(9014));
        let mut sent = 0;
        let refused = loop {
            let packet = rig.memory.write_packet(&octets, &mut rig.pool).unwrap();
            match rig.east.transmit(packet) {
                Ok(()) => sent += 1,
                Err(packet) => break packet,
            }
        };
        assert_eq!((sent, rig.east.outstanding().tx), (RING / 3, RING / 3 * 3));
        assert_eq!((refused.frames(), refused.packet_bytes()), (3, octets.len()));
        rig.pool.push(refused);
        let mut single = rig.pool.pop().unwrap();
        single.set_len(60);
        rig.east.transmit(single).expect("one place is left, and it is as if nothing had been tried");
        let mut arrived = 0;
        until("all arrive", || {
            rig.turn();
            arrived += u32::from(rig.backend.receive().is_some_and(|packet| packet == octets));
            arrived == sent
        });
        until("all is sent", || {
            rig.turn();
            rig.east.outstanding().tx == 0
        });
    });
}

#[test]
fn a_burst_takes_packets_and_not_frames_and_a_full_ring_loses_whole_packets() {
    with_rig(AttachPreference::NativeThenGeneric, |mut rig| {
        rig.steering.heartbeat(0).unwrap().beat(now());
        for number in 0..RING {
            rig.client.send(&numbered(number, 9014));
        }
        assert_eq!(rig.west.receive(&mut rig.burst, 2), 2);
        assert_eq!(rig.west.receive(&mut rig.burst, 64), (RING / 3 - 2) as usize);
        for (number, packet) in rig.burst.iter_mut().enumerate() {
            let mut octets = vec![0; PACKET_BYTES_MAX];
            let bytes = rig.memory.copy_packet(packet, &mut octets).unwrap();
            assert!(octets[..bytes] == numbered(number as u32, 9014));
        }
        rig.assert_frames_are_conserved();
        let lost = rig.west.statistics().unwrap();
        assert_eq!(u64::from(RING - RING / 3), lost.rx_dropped + lost.rx_ring_full, "{lost:?}");
        rig.burst.drain(..).for_each(|packet| rig.pool.push(packet));
        rig.west.refill(&mut rig.pool);
        cross(&mut rig, 20);
    });
}

#[test]
fn a_socket_that_is_not_for_packets_in_several_frames_gives_them_back() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 1);
    namespace.enter(|| {
        let (memory, mut pool) = FrameMemory::new(2 * RING).unwrap();
        let plain = SocketConfig { chains: false, ..config(device("near")) };
        let mut socket = Socket::bind(&memory, &plain, &mut pool).unwrap();
        let packet = memory.write_packet(&numbered(1, 5000), &mut pool).unwrap();
        assert!(!socket.takes(&packet));
        let packet = socket.transmit(packet).unwrap_err();
        assert_eq!((packet.frames(), socket.outstanding().tx), (2, 0));
        pool.push(packet);
        assert_eq!(pool.len() as u32, RING);
    });
}
