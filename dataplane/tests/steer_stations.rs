//! A switch that floods hands a device the frames of other stations: they are not taken.
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

use tidegate_dataplane::net::Mac;
use tidegate_dataplane::xdp::{AttachPreference, Steering};
use tidegate_dataplane::xsk::{FrameMemory, Socket, SocketConfig};
use xsk_rig::{Namespace, Packet, PacketSocket, STATION, device, now, until};

const OTHER_STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const RING: u32 = 64;

const ENDS: [&str; 3] = ["client", "gateway", "other"];

/// Wires `client`, `gateway` and `other` to a bridge that forgets at once who is where.
fn wire_to_flooding_switch(namespace: &Namespace) {
    namespace.ip("link add switch type bridge ageing_time 0");
    for end in ENDS {
        namespace.veth(end, &format!("{end}-port"), 1);
        // Else the bridge would know the port by its own MAC, which is the gateway's.
        namespace.ip(&format!("link set {end}-port address 02:00:00:00:01:00"));
        namespace.ip(&format!("link set {end}-port master switch"));
    }
    namespace.ip(&format!("link set other address {}", Mac(OTHER_STATION)));
    namespace.ip("link set switch up");
    // Where a bridge's frames go through netfilter, it drops those whose IP checksum is not filled in.
    let _absent_without_br_netfilter =
        namespace.enter(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"));
}

/// Says whether the bridge forwards from and to all its ports: it waits for their carriers.
fn forwards() -> bool {
    let state = |end| std::fs::read_to_string(format!("/sys/class/net/{end}-port/brport/state")).unwrap();
    ENDS.iter().all(|end| state(end).trim() == "3")
}

#[test]
fn a_flooded_frame_is_taken_only_by_the_station_it_is_meant_for() {
    let Some(namespace) = Namespace::new() else { return };
    wire_to_flooding_switch(&namespace);
    namespace.enter(|| {
        let gateway = device("gateway");
        let mut steering = Steering::load().unwrap();
        steering.attach(gateway, "gateway", 1, AttachPreference::NativeThenGeneric).unwrap();
        let (memory, mut pool) = FrameMemory::new(4 * RING).unwrap();
        let config = SocketConfig {
            device: gateway,
            queue: 0,
            rx_ring: RING,
            tx_ring: RING,
            fill_ring: RING,
            completion_ring: RING,
            receives: true,
            zero_copy: true,
            chains: false,
        };
        let mut worker = Socket::bind(&memory, &config, &mut pool).unwrap();
        steering.serve_queue(gateway, 0, worker.as_fd(), 0).unwrap();
        steering.insert_vip([10, 96, 0, 10].into(), 32).unwrap();

        let client = PacketSocket::open(device("client"));
        let (kernel, other) = (PacketSocket::open(gateway), PacketSocket::open(device("other")));
        let to = |ethernet_destination| {
            let packet = Packet::udp(([192, 0, 2, 7], 40000), ([10, 96, 0, 10], 53));
            Packet { ethernet_destination, ..packet }.octets()
        };
        until("the switch forwards", forwards);
        let mut taken = Vec::with_capacity(RING as usize);
        steering.heartbeat(0).unwrap().beat(now());
        client.send(&to(OTHER_STATION));
        until("the other station has its frame", || other.receive() == Some(to(OTHER_STATION)));
        until("the gateway's kernel sees it too", || kernel.receive() == Some(to(OTHER_STATION)));
        assert_eq!(worker.receive(&mut taken, 64), 0);

        steering.heartbeat(0).unwrap().beat(now());
        client.send(&to(STATION));
        until("the worker has its frame", || worker.receive(&mut taken, 64) == 1);
        assert_eq!(memory.octets(&taken[0]), to(STATION));
        assert_eq!(kernel.receive(), None);
        let counters = steering.counters().unwrap();
        let count = |name| counters.iter().find(|(counter, _)| *counter == name).unwrap().1;
        assert_eq!((count("passed_other_station"), count("redirected_to_vip")), (1, 1), "{counters:?}");
    });
}
