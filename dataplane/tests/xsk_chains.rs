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

use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::xdp::AttachPreference;
use tidegate_dataplane::xsk::{FrameMemory, PACKET_BYTES_MAX, Socket, SocketConfig, takes_chains};
use xsk_rig::relay::{Relay, datagram, equal_rings};
use xsk_rig::{Namespace, device, now, until};

const RING: u32 = 64;

fn config(device: DeviceIndex) -> SocketConfig {
    SocketConfig { zero_copy: false, chains: true, ..equal_rings(device, RING) }
}

fn with_relay(want: AttachPreference, test: impl FnOnce(Relay) + Send) {
    if !takes_chains().unwrap() {
        println!("skipped: this kernel has no packets in several frames");
        return;
    }
    Relay::run(9000, want, config, test);
}

fn numbered(number: u32, bytes: usize) -> Vec<u8> {
    datagram((0..bytes - 42).map(|place| (place as u32 * 7 + number) as u8).collect())
}

/// Sends packets of every kind of length across and compares all octets.
fn cross(relay: &mut Relay, packets: u32) {
    for number in 0..packets {
        let bytes = 60 + (number as usize * 677) % (9014 - 60 + 1);
        relay.steering.heartbeat(0).unwrap().beat(now());
        let mut sent = numbered(number, bytes);
        relay.client.send(&sent);
        until("the packet is forwarded", || relay.turn() == 1);
        let mut arrived = None;
        until("the packet arrives", || {
            relay.turn();
            arrived = relay.backend.receive();
            arrived.is_some()
        });
        sent[22] -= 1;
        assert!(arrived.unwrap() == sent, "packet {number} of {bytes} octets arrived as it was sent");
    }
    until("all is sent", || {
        relay.turn();
        relay.east.outstanding().tx == 0
    });
    assert_eq!(relay.pool.len() as u32, 4 * RING);
}

fn assert_nothing_was_lost(relay: &Relay) {
    let (west, east) = (relay.west.statistics().unwrap(), relay.east.statistics().unwrap());
    assert_eq!(
        (west.rx_dropped, west.rx_ring_full, west.rx_invalid_descs, east.tx_invalid_descs),
        (0, 0, 0, 0)
    );
}

#[test]
fn packets_of_all_lengths_up_to_an_mtu_of_9000_cross_two_devices_whole() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        cross(&mut relay, 2_000);
        assert_nothing_was_lost(&relay);
    });
}

#[test]
fn in_generic_mode_they_cross_too() {
    with_relay(AttachPreference::GenericOnly, |mut relay| {
        cross(&mut relay, 500);
        assert_nothing_was_lost(&relay);
    });
}

#[test]
fn a_packet_that_the_tx_ring_has_no_room_for_leaves_no_part_of_itself_there() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        let octets = numbered(1, PACKET_BYTES_MAX.min(9014));
        let mut sent = 0;
        let refused = loop {
            let packet = relay.memory.write_packet(&octets, &mut relay.pool).unwrap();
            match relay.east.transmit(packet) {
                Ok(()) => sent += 1,
                Err(packet) => break packet,
            }
        };
        assert_eq!((sent, relay.east.outstanding().tx), (RING / 3, RING / 3 * 3));
        assert_eq!((refused.frames(), refused.packet_bytes()), (3, octets.len()));
        relay.pool.push(refused);
        let mut single = relay.pool.pop().unwrap();
        single.set_len(60);
        relay.east.transmit(single).expect("one place is left, and it is as if nothing had been tried");
        let mut arrived = 0;
        until("all arrive", || {
            relay.turn();
            arrived += u32::from(relay.backend.receive().is_some_and(|packet| packet == octets));
            arrived == sent
        });
        until("all is sent", || {
            relay.turn();
            relay.east.outstanding().tx == 0
        });
    });
}

#[test]
fn a_burst_takes_packets_and_not_frames_and_a_full_ring_loses_whole_packets() {
    with_relay(AttachPreference::NativeThenGeneric, |mut relay| {
        relay.steering.heartbeat(0).unwrap().beat(now());
        for number in 0..RING {
            relay.client.send(&numbered(number, 9014));
        }
        assert_eq!(relay.west.receive(&mut relay.burst, 2), 2);
        assert_eq!(relay.west.receive(&mut relay.burst, 64), (RING / 3 - 2) as usize);
        for (number, packet) in relay.burst.iter_mut().enumerate() {
            let mut octets = vec![0; PACKET_BYTES_MAX];
            let bytes = relay.memory.copy_packet(packet, &mut octets).unwrap();
            assert!(octets[..bytes] == numbered(number as u32, 9014));
        }
        relay.assert_frames_are_conserved();
        let lost = relay.west.statistics().unwrap();
        assert_eq!(u64::from(RING - RING / 3), lost.rx_dropped + lost.rx_ring_full, "{lost:?}");
        relay.burst.drain(..).for_each(|packet| relay.pool.push(packet));
        relay.west.refill(&mut relay.pool);
        cross(&mut relay, 20);
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
