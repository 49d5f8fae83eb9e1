//! K25, K31 and K36: endpoints on the gateway itself, errors and fragments, and SCTP.

use etherparse::{IpNumber, PacketBuilder};
use tidegate_dataplane::net::Mac;

use crate::path_rig::*;
use crate::world::{PORTS, READY, World, service, slice};

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);

fn world() -> World {
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &slice(&[("10.244.0.11", READY)])));
    world.rig.learn(&neighbours());
    world
}

#[test]
fn k25_an_endpoint_on_the_gateway_itself_gets_its_packets_by_the_kernel() {
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &slice(&[("10.1.0.1", READY)])));
    world.rig.learn(&neighbours());
    let call = udp(FROM_CLIENT, (C, V), 64, b"to the gateway");
    let delivered = udp(TO_KERNEL, (C, (GATEWAY, 8080)), 63, b"to the gateway");
    assert_eq!(world.call(&call), (Out::Punt, delivered));
    assert_eq!((world.counter("punted"), world.counter("forwarded")), (1, 0));
}

#[test]
fn k25_another_host_that_is_an_endpoint_is_served_as_a_pod_is() {
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &slice(&[("10.1.0.9", READY)])));
    let known = tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC);
    let host = [10, 1, 0, 9];
    world.rig.learn(&[(next_hop(CLIENT_SIDE, host), known)]);
    let (out, sent) = world.call(&tcp(FROM_CLIENT, (C, V), 64, "S", b""));
    assert_eq!((out, &sent[30..34]), (Out::Device(CLIENT_SIDE), &host[..]));
    assert_eq!(sent[26..30], GATEWAY, "its replies to a client on its own link would pass us by");
}

#[test]
fn k31_an_error_of_an_endpoint_comes_from_the_service_and_quotes_what_the_client_sent() {
    let mut world = world();
    let call = udp(FROM_CLIENT, (C, V), 64, b"is anybody there");
    let (_, sent) = world.call(&call);
    let error = icmp_error(FROM_POD, POD, CLIENT, 64, port_unreachable(), &ip_of(&sent));
    let (out, told) = world.rig.one(POD_SIDE, &error);
    assert_eq!((out, &told[26..34]), (Out::Device(CLIENT_SIDE), &[VIP, CLIENT].concat()[..]));
    let quote = &told[42..];
    assert_eq!((&quote[12..20], &quote[20..24]), (&[CLIENT, VIP].concat()[..], &ip_of(&call)[20..24]));
}

#[test]
fn k31_fragments_follow_the_first_one_to_its_endpoint() {
    let mut world = world();
    let whole = udp(FROM_CLIENT, (C, V), 64, &[7; 1992]);
    let piece = |from: usize, to: usize, more: bool| {
        let mut piece = whole[..34].to_vec();
        piece.extend(&whole[34 + from..34 + to]);
        let offset = (from as u16 / 8) | if more { 0x2000 } else { 0 };
        piece[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        piece[18..20].copy_from_slice(&[0xab, 0xcd]);
        piece[20..22].copy_from_slice(&offset.to_be_bytes());
        with_right_header_checksum(piece)
    };
    // The later one comes first.
    assert_eq!(world.rig.carry(CLIENT_SIDE, &[piece(1000, 2000, false)]), []);
    let left = world.rig.carry(CLIENT_SIDE, &[piece(0, 1000, true)]);
    let went_to: Vec<_> = left.iter().map(|(out, sent)| (*out, &sent[30..34])).collect();
    assert_eq!(went_to, [(Out::Device(POD_SIDE), &POD[..]), (Out::Device(POD_SIDE), &POD[..])]);
}

fn with_right_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[24..26].fill(0);
    let words = packet[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.fold(0, |sum, word| (sum + word) % 0xffff);
    packet[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// Computes CRC32c one bit after another. Source: RFC 9260 Appendix A.
fn crc32c(octets: &[u8]) -> [u8; 4] {
    let step = |rest: u32| rest >> 1 ^ if rest & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let add = |rest: u32, octet: &u8| (0..8).fold(rest ^ u32::from(*octet), |rest, _| step(rest));
    (!octets.iter().fold(u32::MAX, add)).to_le_bytes()
}

/// An SCTP packet with one chunk.
fn sctp(macs: (Mac, Mac), ends: Ends, ttl: u8, chunk: u8) -> Vec<u8> {
    let ((source, source_port), (destination, destination_port)) = ends;
    let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    let mut segment = [&ports[..], b"tag.", &[0; 4], &[chunk, 0, 0, 20], &[9; 16]].concat();
    let checksum = crc32c(&segment);
    segment[8..12].copy_from_slice(&checksum);
    let builder = PacketBuilder::ethernet2(macs.0.0, macs.1.0).ipv4(source, destination, ttl);
    let mut packet = Vec::new();
    builder.write(&mut packet, IpNumber::SCTP, &segment).unwrap();
    packet
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A Service with SCTP and UDP on one number, and its slice.
fn associations(endpoints: &[(&str, &str)]) -> String {
    let ports = "externalIPs: [203.0.113.80]\nports:\n- {name: voice, port: 80, protocol: UDP}\n- {name: signal, port: 80, protocol: SCTP, nodePort: 30080}\ntype: NodePort\n";
    let slice = slice(endpoints)
        .replace("{name: web, port: 8080, protocol: TCP}", "{name: signal, port: 9090, protocol: SCTP}");
    service("10.96.0.1", ports) + &slice
}

#[test]
fn k36_sctp_has_its_own_ports_at_every_address_of_a_service() {
    let mut world = World::new(&associations(&[("10.244.0.11", READY)]));
    world.rig.learn(&neighbours());
    let pod = (POD, 9090);
    for (number, to) in [(1, V), (2, ([203, 0, 113, 80], 80)), (3, (GATEWAY, 30_080))] {
        let client = (CLIENT, 40_000 + number);
        let sent = world.call(&sctp(FROM_CLIENT, (client, to), 64, INIT));
        assert_eq!(sent, (Out::Device(POD_SIDE), sctp(TO_POD, (client, pod), 63, INIT)), "{to:?}");
        let answer = world.rig.one(POD_SIDE, &sctp(FROM_POD, (pod, client), 64, INIT_ACK));
        assert_eq!(answer, (Out::Device(CLIENT_SIDE), sctp(TO_CLIENT, (to, client), 63, INIT_ACK)), "{to:?}");
    }
    assert_eq!(world.call(&udp(FROM_CLIENT, (C, V), 64, b"x")).1[36..38], P.1.to_be_bytes());
}

#[test]
fn k36_an_sctp_endpoint_is_chosen_as_any_other_and_left_when_it_no_longer_serves() {
    const PODS: [(&str, &str); 2] = [("10.244.0.11", READY), ("10.244.0.12", READY)];
    let mut worlds = [World::new(&associations(&PODS)), World::new(&associations(&PODS))];
    let know = |world: &mut World| {
        let known = tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC);
        let hops = [[10, 244, 0, 11], [10, 244, 0, 12]].map(|pod| (next_hop(POD_SIDE, pod), known));
        world.rig.learn(&hops);
    };
    let mut shares = [0; 2];
    for port in 20_000..20_200 {
        let init = sctp(FROM_CLIENT, ((CLIENT, port), V), 64, INIT);
        let chosen = worlds.each_mut().map(|world| {
            know(world);
            world.call(&init).1[33]
        });
        assert_eq!(chosen[0], chosen[1], "the same on every gateway");
        shares[usize::from(chosen[0] - 11)] += 1;
    }
    assert!(shares.iter().all(|share| *share > 60), "{shares:?}");
    let [mut world, _] = worlds;
    world.say(&associations(&PODS[1..]));
    know(&mut world);
    for port in 20_000..20_200 {
        assert_eq!(world.call(&sctp(FROM_CLIENT, ((CLIENT, port), V), 64, INIT)).1[33], 12);
    }
    assert_eq!(world.counter("flows_repicked"), shares[0]);
}
