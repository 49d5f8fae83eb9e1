//! K26, K27 and K30, and design decision 9: what happens to flows when endpoints go.

use std::time::Duration;

use crate::path_rig::*;
use crate::world::{NOT_READY, PORTS, READY, TERMINATING, World, annotated_service, service, slice};

pub(crate) const C: ([u8; 4], u16) = (CLIENT, 40_000);
pub(crate) const V: ([u8; 4], u16) = (VIP, 80);
pub(crate) const P: ([u8; 4], u16) = (POD, 8080);
/// The pod that stays when [`POD`] goes.
pub(crate) const OTHER: [u8; 4] = [10, 244, 0, 12];
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Only [`POD`] is there.
pub(crate) fn alone(annotations: &str) -> World {
    let mut world =
        World::new(&(annotated_service("10.96.0.1", annotations, PORTS) + &slice(&[("10.244.0.11", READY)])));
    let mut neighbours = neighbours();
    neighbours.push((
        next_hop(POD_SIDE, OTHER),
        tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC),
    ));
    world.rig.learn(&neighbours);
    world
}

/// Says these endpoints with the same Service, and keeps the neighbours.
pub(crate) fn say(world: &mut World, annotations: &str, endpoints: &[(&str, &str)]) {
    world.say(&(annotated_service("10.96.0.1", annotations, PORTS) + &slice(endpoints)));
    know_neighbours(world);
}

pub(crate) fn know_neighbours(world: &mut World) {
    let mut neighbours = neighbours();
    neighbours.push((
        next_hop(POD_SIDE, OTHER),
        tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC),
    ));
    world.rig.learn(&neighbours);
}

pub(crate) fn wait(world: &mut World, time: Duration) {
    world.wait(time);
    know_neighbours(world);
}

pub(crate) fn datagram(payload: &[u8]) -> Vec<u8> {
    udp(FROM_CLIENT, (C, V), 64, payload)
}

pub(crate) fn segment(flags: &str, payload: &[u8]) -> Vec<u8> {
    tcp(FROM_CLIENT, (C, V), 64, flags, payload)
}

/// Opens a connection to [`POD`].
pub(crate) fn connect(world: &mut World) {
    assert_eq!(world.call(&segment("S", b"")).0, Out::Device(POD_SIDE));
    let answer = tcp(FROM_POD, (P, C), 64, "SA", b"");
    assert_eq!(world.rig.one(POD_SIDE, &answer).0, Out::Device(CLIENT_SIDE));
    assert_eq!(world.call(&segment("A", b"")).0, Out::Device(POD_SIDE));
}

pub(crate) fn destination(packet: &[u8]) -> [u8; 4] {
    packet[30..34].try_into().unwrap()
}

/// Returns an IPv4 segment as the builder would have summed it.
pub(crate) fn with_right_checksums(frame: &[u8]) -> Vec<u8> {
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (Some(etherparse::NetHeaders::Ipv4(mut ip, _)), Some(etherparse::TransportHeader::Tcp(mut tcp))) =
        (headers.net, headers.transport)
    else {
        panic!("no segment")
    };
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).unwrap();
    let mut octets = frame[..14].to_vec();
    ip.write(&mut octets).unwrap();
    tcp.write(&mut octets).unwrap();
    octets
}

pub(crate) fn number(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

#[test]
fn k27_udp_goes_elsewhere_with_the_next_packet_when_its_endpoint_no_longer_serves() {
    for gone in [&[("10.244.0.12", READY)][..], &[("10.244.0.11", NOT_READY), ("10.244.0.12", READY)]] {
        let mut world = alone("");
        assert_eq!(destination(&world.call(&datagram(b"one")).1), POD);
        say(&mut world, "", gone);
        let reply = udp(FROM_POD, (P, C), 64, b"an answer on its way");
        let translated = udp(TO_CLIENT, (V, C), 63, b"an answer on its way");
        assert_eq!(
            world.rig.one(POD_SIDE, &reply),
            (Out::Device(CLIENT_SIDE), translated),
            "before the next packet"
        );
        assert_eq!(destination(&world.call(&datagram(b"two")).1), OTHER);
        assert_eq!(world.rig.carry(POD_SIDE, &[reply]), [], "after it");
        assert_eq!((world.counter("flows_repicked"), world.counter("drop_late_reply")), (1, 1));
    }
}

#[test]
fn k27_udp_stays_while_its_endpoint_serves_and_is_refused_when_the_last_one_goes() {
    let mut world = alone("");
    assert_eq!(destination(&world.call(&datagram(b"one")).1), POD);
    say(&mut world, "", &[("10.244.0.11", TERMINATING), ("10.244.0.12", READY)]);
    assert_eq!(destination(&world.call(&datagram(b"two")).1), POD, "it serves while it terminates");
    say(&mut world, "", &[]);
    let (out, answer) = world.call(&datagram(b"three"));
    assert_eq!((out, answer[34], answer[35]), (Out::Device(CLIENT_SIDE), 3, 3), "port unreachable");
    assert_eq!(world.rig.carry(POD_SIDE, &[udp(FROM_POD, (P, C), 64, b"late")]), []);
}

#[test]
fn k27_repick_off_leaves_datagrams_alone() {
    let mut world = alone("repick: off");
    assert_eq!(destination(&world.call(&datagram(b"one")).1), POD);
    say(&mut world, "repick: off", &[("10.244.0.12", READY)]);
    assert_eq!(destination(&world.call(&datagram(b"two")).1), POD);
}

#[test]
fn k27_changes_of_the_service_alone_disturb_no_flow() {
    let mut world = alone("");
    connect(&mut world);
    assert_eq!(destination(&world.call(&datagram(b"one")).1), POD);
    let endpoints = slice(&[("10.244.0.11", READY)]);
    let other_ports = PORTS.replace("port: 80", "port: 8000");
    for service in [service("10.96.0.1", &other_ports), String::new()] {
        world.say(&(service + &endpoints));
        wait(&mut world, 5 * GRACE);
        assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD);
        assert_eq!(destination(&world.call(&datagram(b"more")).1), POD);
    }
}

#[test]
fn flows_of_another_service_port_to_the_same_endpoint_stay() {
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: dev}\nspec:\n  clusterIP: 10.96.0.2\n  ports: [{name: voice, port: 80, protocol: UDP}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: other-1\n  namespace: dev\n  labels: {kubernetes.io/service-name: other}\naddressType: IPv4\nports: [{name: voice, port: 8080, protocol: UDP}]\nendpoints:\n- addresses: ['10.244.0.11']\n---\n";
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &slice(&[("10.244.0.11", READY)]) + other));
    let to_other = udp(FROM_CLIENT, ((CLIENT, 40_001), (OTHER_VIP, 80)), 64, b"x");
    world.call(&datagram(b"one"));
    world.call(&to_other);
    world.say(&(service("10.96.0.1", PORTS) + &slice(&[("10.244.0.12", READY)]) + other));
    know_neighbours(&mut world);
    assert_eq!(destination(&world.call(&to_other).1), POD);
    assert_eq!(destination(&world.call(&datagram(b"two")).1), OTHER);
}

#[test]
fn an_endpoint_stays_steered_while_late_replies_of_it_are_to_be_dropped() {
    let mut world = alone("");
    world.call(&datagram(b"one"));
    let steered =
        |world: &World| world.publication.steering.endpoints.iter().any(|key| key.address == ip(POD));
    say(&mut world, "", &[("10.244.0.12", READY)]);
    world.keep_house();
    assert!(steered(&world), "a flow is there");
    know_neighbours(&mut world);
    world.call(&datagram(b"two"));
    world.keep_house();
    assert!(steered(&world), "its replies are to be dropped");
    assert!(world.rig.snapshot.departed.is_empty(), "no flow of it is left");
    wait(&mut world, Duration::from_secs(62));
    let mut cursors = tidegate_dataplane::flows::Cursors::part(0, 1);
    world.rig.flows.expire(&mut cursors, world.rig.now, 100_000);
    world.keep_house();
    assert!(!steered(&world) && !world.publication.has_leaving());
}

#[test]
fn k30_a_terminating_endpoint_finishes_its_connections_and_gets_no_new_ones() {
    let mut world = alone("");
    connect(&mut world);
    say(&mut world, "", &[("10.244.0.11", TERMINATING), ("10.244.0.12", READY)]);
    for port in 41_000..41_050 {
        let call = tcp(FROM_CLIENT, ((CLIENT, port), V), 64, "S", b"");
        assert_eq!(destination(&world.call(&call).1), OTHER);
    }
    wait(&mut world, 60 * GRACE);
    assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD);
    assert_eq!(destination(&world.call(&segment("FA", b"")).1), POD);
}

#[test]
fn k28_segments_that_fit_no_state_are_carried_on() {
    let mut world = alone("");
    connect(&mut world);
    for flags in ["", "SA", "F"] {
        assert_eq!(world.call(&segment(flags, b"")).0, Out::Device(POD_SIDE), "{flags:?}");
    }
}
