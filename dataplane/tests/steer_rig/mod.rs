//! The XDP program on a device of a namespace of its own, with rules of both families.
#![allow(dead_code, reason = "each test program takes what it needs")]

pub(crate) mod model;
pub(crate) mod packet6;

use std::fmt::Debug;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::{AttachPreference, Steering};
use tidegate_dataplane::xsk::{FrameMemory, FramePool, Socket, SocketConfig};

use crate::xsk_rig::{Namespace, Packet, device, now};

pub(crate) const CLIENT: [u8; 4] = [192, 0, 2, 7];
/// Of the service CIDR 10.96.0.0/16.
pub(crate) const VIP: [u8; 4] = [10, 96, 0, 10];
pub(crate) const LONE_VIP: [u8; 4] = [198, 51, 100, 9];
pub(crate) const OWN: [u8; 4] = [192, 0, 2, 1];
pub(crate) const ENDPOINT: [u8; 4] = [10, 244, 1, 5];
pub(crate) const STRANGER: [u8; 4] = [203, 0, 113, 3];

pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// Of the service CIDR fd00:96::/112.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10);
pub(crate) const LONE_VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9);
pub(crate) const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const ENDPOINT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 5);
pub(crate) const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 3);

/// A packet of any family, made into a frame.
pub(crate) trait Frame: Debug {
    fn octets(&self) -> Vec<u8>;
}

impl Frame for Packet {
    fn octets(&self) -> Vec<u8> {
        self.octets()
    }
}

/// A device whose queue 0 is served by worker 3 of the two queues it has.
pub(crate) struct Served {
    pub(crate) steering: Steering,
    pub(crate) device: DeviceIndex,
    pub(crate) socket: Socket,
    _pool: FramePool,
}

impl Served {
    pub(crate) fn new() -> Self {
        let mut served = Self::without_rules();
        let steering = &mut served.steering;
        steering.insert_vip([10, 96, 0, 0].into(), 16).unwrap();
        steering.insert_vip(LONE_VIP.into(), 32).unwrap();
        steering.insert_own_address(OWN.into()).unwrap();
        steering.insert_endpoint(ENDPOINT.into(), Port::new(8080), Protocol::Udp).unwrap();
        steering.insert_vip(VIP6.into(), 112).unwrap();
        steering.insert_vip(LONE_VIP6.into(), 128).unwrap();
        steering.insert_own_address(OWN6.into()).unwrap();
        steering.insert_endpoint(ENDPOINT6.into(), Port::new(8080), Protocol::Udp).unwrap();
        served
    }

    pub(crate) fn without_rules() -> Self {
        let device = device("near");
        let mut steering = Steering::load().unwrap();
        steering.attach(device, "near", 2, AttachPreference::NativeThenGeneric).unwrap();
        let (memory, mut pool) = FrameMemory::new(256).unwrap();
        let config = SocketConfig {
            device,
            queue: 0,
            rx_ring: 64,
            tx_ring: 64,
            fill_ring: 64,
            completion_ring: 64,
            receives: true,
            zero_copy: true,
            chains: false,
        };
        let socket = Socket::bind(&memory, &config, &mut pool).unwrap();
        steering.serve_queue(device, 0, socket.as_fd(), 3).unwrap();
        Self { steering, device, socket, _pool: pool }
    }

    /// Runs the program on a packet; returns whether it was taken and the one counter that counted it.
    pub(crate) fn verdict_of(&mut self, octets: &[u8], queue: u32) -> (bool, &'static str) {
        let before = self.steering.counters().unwrap();
        let taken = self.steering.would_take(octets, self.device, queue).unwrap();
        let after = self.steering.counters().unwrap();
        let mut counted = Vec::new();
        for ((name, before), (_, after)) in before.into_iter().zip(after) {
            assert!(after - before <= 1);
            counted.extend((after > before).then_some(name));
        }
        assert_eq!(counted.len(), 1, "counted once: {counted:?}");
        (taken, counted[0])
    }

    pub(crate) fn beat(&self) {
        self.steering.heartbeat(3).unwrap().beat(now());
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, packet: &impl Frame, taken: bool, counter: &str) {
        self.beat();
        assert_eq!(self.verdict_of(&packet.octets(), 0), (taken, counter), "{packet:?}");
    }
}

/// Runs a test on a served device in a namespace of its own.
pub(crate) fn with_served(test: impl FnOnce(Served) + Send) {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 2);
    namespace.enter(|| test(Served::new()));
}
