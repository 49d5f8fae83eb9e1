//! Sockets of one worker on the near devices of two pairs; the test sits at the far ends.

use std::os::fd::AsFd;
use std::sync::Arc;

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Steering};
use tidegate_dataplane::xsk::{Frame, FrameMemory, FramePool, Mode, Socket, SocketConfig};

use super::{Namespace, Packet, PacketSocket, device, now};

pub(crate) const CLIENT: [u8; 4] = [192, 0, 2, 7];
pub(crate) const VIP: [u8; 4] = [10, 96, 0, 10];

/// Returns what a socket on queue 0 of a device is bound with, all its rings of one length.
pub(crate) fn equal_rings(device: DeviceIndex, length: u32) -> SocketConfig {
    SocketConfig {
        device,
        queue: 0,
        rx_ring: length,
        tx_ring: length,
        fill_ring: length,
        completion_ring: length,
        receives: true,
        zero_copy: true,
        chains: false,
    }
}

/// `client` ── `west` (sockets) `east` ── `backend`: what is sent to [`VIP`] goes across.
pub(crate) struct Relay {
    pub(crate) steering: Steering,
    pub(crate) memory: Arc<FrameMemory>,
    pub(crate) pool: FramePool,
    pub(crate) burst: Vec<Frame>,
    pub(crate) west: Socket,
    pub(crate) east: Socket,
    pub(crate) client: PacketSocket,
    pub(crate) backend: PacketSocket,
}

impl Relay {
    /// Makes the pairs, with that MTU, and runs `test` among them; its sockets are as `config` says.
    pub(crate) fn run(
        mtu: u32,
        want: AttachPreference,
        config: impl Fn(DeviceIndex) -> SocketConfig + Send,
        test: impl FnOnce(Self) + Send,
    ) {
        let Some(namespace) = Namespace::new() else { return };
        for (far, near) in [("client", "west"), ("backend", "east")] {
            namespace.veth(far, near, 1);
            namespace.ip(&format!("link set {far} mtu {mtu}"));
            namespace.ip(&format!("link set {near} mtu {mtu}"));
        }
        namespace.enter(|| test(Self::new(want, config)));
    }

    fn new(want: AttachPreference, config: impl Fn(DeviceIndex) -> SocketConfig) -> Self {
        let mut steering = Steering::load().unwrap();
        let (west, east) = (config(device("west")), config(device("east")));
        let (memory, mut pool) = FrameMemory::new(3 * (west.fill_ring + east.fill_ring)).unwrap();
        let mut serve = |name: &str, config: &SocketConfig| {
            let mode = if config.chains {
                steering.attach_for_chains(config.device, name, 1, want).unwrap()
            } else {
                steering.attach(config.device, name, 1, want).unwrap()
            };
            assert_eq!(mode == AttachMode::Generic, want == AttachPreference::GenericOnly);
            let socket = Socket::bind(&memory, config, &mut pool).unwrap();
            assert_eq!(socket.mode(), Mode::Copy, "veth has no zero-copy");
            assert_eq!(socket.zero_copy_refusal(), config.zero_copy.then_some(libc::EOPNOTSUPP));
            steering.serve_queue(config.device, 0, socket.as_fd(), 0).unwrap();
            socket
        };
        let (west, east) = (serve("west", &west), serve("east", &east));
        steering.insert_vip(VIP.into(), 32).unwrap();
        let (client, backend) = (PacketSocket::open(device("client")), PacketSocket::open(device("backend")));
        Self { steering, memory, pool, burst: Vec::with_capacity(64), west, east, client, backend }
    }

    /// One turn of a worker: what came from west leaves by east, its time to live one less.
    pub(crate) fn turn(&mut self) -> usize {
        self.steering.heartbeat(0).unwrap().beat(now());
        let received = self.west.receive(&mut self.burst, 64);
        if received == 0 {
            self.west.poll_device();
        }
        for mut frame in self.burst.drain(..) {
            self.memory.prefetch(&frame);
            self.memory.octets_mut(&mut frame)[22] -= 1;
            self.east.transmit(frame).expect("the tx ring takes a burst");
        }
        self.east.kick();
        self.east.complete(&mut self.pool);
        self.west.refill(&mut self.pool);
        self.assert_frames_are_conserved();
        received
    }

    pub(crate) fn assert_frames_are_conserved(&self) {
        let (west, east) = (self.west.outstanding(), self.east.outstanding());
        let lent = west.fill + west.tx + east.fill + east.tx;
        let in_hand: usize = self.burst.iter().map(Frame::frames).sum();
        assert_eq!(self.pool.len() as u32 + in_hand as u32 + lent, self.memory.frames());
        assert_eq!((self.west.strays(), self.east.strays()), (0, 0));
    }
}

/// Returns a datagram from the client to the Service with that payload.
pub(crate) fn datagram(payload: Vec<u8>) -> Vec<u8> {
    Packet { payload, ..Packet::udp((CLIENT, 40000), (VIP, 53)) }.octets()
}
