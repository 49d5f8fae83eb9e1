//! K26 to K31 and design decision 9: what happens to flows when endpoints go.

use std::time::Duration;

use crate::path_rig::*;
use crate::world::{NOT_READY, PORTS, READY, TERMINATING, World, annotated_service, service, slice};

const C: ([u8; 4], u16) = (CLIENT, 40_000);
const V: ([u8; 4], u16) = (VIP, 80);
const P: ([u8; 4], u16) = (POD, 8080);
/// The pod that stays when [`POD`] goes.
const OTHER: [u8; 4] = [10, 244, 0, 12];
const GRACE: Duration = Duration::from_secs(1);

/// Only [`POD`] is there.
fn alone(annotations: &str) -> World {
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
fn say(world: &mut World, annotations: &str, endpoints: &[(&str, &str)]) {
    world.say(&(annotated_service("10.96.0.1", annotations, PORTS) + &slice(endpoints)));
    know_neighbours(world);
}

fn know_neighbours(world: &mut World) {
    let mut neighbours = neighbours();
    neighbours.push((
        next_hop(POD_SIDE, OTHER),
        tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC),
    ));
    world.rig.learn(&neighbours);
}

fn wait(world: &mut World, time: Duration) {
    world.wait(time);
    know_neighbours(world);
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    udp(FROM_CLIENT, (C, V), 64, payload)
}

fn segment(flags: &str, payload: &[u8]) -> Vec<u8> {
    tcp(FROM_CLIENT, (C, V), 64, flags, payload)
}

/// Opens a connection to [`POD`].
fn connect(world: &mut World) {
    assert_eq!(world.call(&segment("S", b"")).0, Out::Device(POD_SIDE));
    let answer = tcp(FROM_POD, (P, C), 64, "SA", b"");
    assert_eq!(world.rig.one(POD_SIDE, &answer).0, Out::Device(CLIENT_SIDE));
    assert_eq!(world.call(&segment("A", b"")).0, Out::Device(POD_SIDE));
}

fn destination(packet: &[u8]) -> [u8; 4] {
    packet[30..34].try_into().unwrap()
}

/// Returns an IPv4 segment as the builder would have summed it.
fn with_right_checksums(frame: &[u8]) -> Vec<u8> {
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

fn number(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

#[test]
fn k26_a_connection_stays_while_its_endpoint_is_listed_whatever_its_conditions() {
    for conditions in
        [NOT_READY, TERMINATING, "conditions: {ready: false, serving: false, terminating: true}"]
    {
        let mut world = alone("");
        connect(&mut world);
        say(&mut world, "", &[("10.244.0.11", conditions), ("10.244.0.12", READY)]);
        wait(&mut world, 10 * GRACE);
        let (out, sent) = world.call(&segment("A", b"more"));
        assert_eq!((out, destination(&sent)), (Out::Device(POD_SIDE), POD), "{conditions}");
    }
}

#[test]
fn k26_a_connection_whose_endpoint_is_in_no_slice_is_reset_at_both_ends_after_the_grace_time() {
    let mut world = alone("");
    connect(&mut world);
    say(&mut world, "", &[("10.244.0.12", READY)]);
    wait(&mut world, GRACE - Duration::from_millis(1));
    assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD, "within the grace time");
    wait(&mut world, Duration::from_millis(1));
    let left = world.rig.carry(CLIENT_SIDE, &[segment("A", b"even more")]);
    let [(Out::Device(CLIENT_SIDE), to_client), (Out::Device(POD_SIDE), to_pod)] = &left[..] else {
        panic!("{left:?}")
    };
    // The rig's segments have number 1000 and acknowledge 2000.
    assert_eq!(
        (&to_client[26..34], number(to_client, 38), to_client[47]),
        (&[VIP, CLIENT].concat()[..], 2000, 0x04)
    );
    assert_eq!((&to_pod[26..34], number(to_pod, 38), to_pod[47]), (&[CLIENT, POD].concat()[..], 1000, 0x14));
    assert_eq!((to_pod[36], to_pod[37]), (0x1f, 0x90), "to the endpoint's port");
    // From now on nothing goes to the endpoint, and nothing of it to the client.
    let late = tcp(FROM_POD, (P, C), 64, "A", b"too late");
    assert_eq!(world.rig.carry(POD_SIDE, &[late]), []);
    assert_eq!(
        (world.counter("flows_reset"), world.counter("drop_late_reply"), world.counter("originated")),
        (1, 1, 1)
    );
    let (out, sent) = world.call(&segment("S", b""));
    assert_eq!((out, destination(&sent)), (Out::Device(POD_SIDE), OTHER), "a new connection goes elsewhere");
}

#[test]
fn k26_what_the_endpoint_says_after_the_grace_time_ends_the_connection_likewise() {
    let mut world = alone("");
    connect(&mut world);
    say(&mut world, "", &[("10.244.0.12", READY)]);
    wait(&mut world, GRACE);
    let left = world.rig.carry(POD_SIDE, &[tcp(FROM_POD, (P, C), 64, "A", b"news")]);
    let [(Out::Device(POD_SIDE), to_pod), (Out::Device(CLIENT_SIDE), to_client)] = &left[..] else {
        panic!("{left:?}")
    };
    assert_eq!((&to_pod[26..34], number(to_pod, 38)), (&[CLIENT, POD].concat()[..], 2000));
    assert_eq!((&to_client[26..34], number(to_client, 38)), (&[VIP, CLIENT].concat()[..], 1000));
}

#[test]
fn k26_an_endpoint_that_is_listed_again_within_the_grace_time_keeps_its_connections() {
    let mut world = alone("");
    connect(&mut world);
    for _ in 0..5 {
        say(&mut world, "", &[("10.244.0.12", READY)]);
        wait(&mut world, GRACE * 9 / 10);
        say(&mut world, "", &[("10.244.0.11", NOT_READY), ("10.244.0.12", READY)]);
        wait(&mut world, GRACE * 9 / 10);
    }
    wait(&mut world, 2 * GRACE);
    assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD);
}

#[test]
fn k26_the_grace_time_is_an_annotation_and_off_leaves_connections_alone() {
    for (annotation, before, after) in [("reset-after: 5s", 4_999, 5_000), ("reset-after: 250ms", 249, 250)] {
        let mut world = alone(annotation);
        connect(&mut world);
        say(&mut world, annotation, &[("10.244.0.12", READY)]);
        wait(&mut world, Duration::from_millis(before));
        assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD, "{annotation}");
        wait(&mut world, Duration::from_millis(after - before));
        assert_eq!(world.rig.carry(CLIENT_SIDE, &[segment("A", b"more")]).len(), 2, "{annotation}");
    }
    let mut world = alone("reset-after: off");
    connect(&mut world);
    say(&mut world, "reset-after: off", &[("10.244.0.12", READY)]);
    wait(&mut world, Duration::from_secs(3600));
    assert_eq!(destination(&world.call(&segment("A", b"more")).1), POD);
}

#[test]
fn k26_a_silent_client_is_asked_thrice_for_its_numbers_and_told_when_it_answers() {
    let mut world = alone("");
    connect(&mut world);
    say(&mut world, "", &[("10.244.0.12", READY)]);
    wait(&mut world, GRACE);
    let probe = |world: &mut World| {
        world.rig.path.probe_departed(&world.rig.snapshot, world.rig.now, &mut world.rig.wire);
        world.rig.collect()
    };
    let asked = probe(&mut world);
    let [(Out::Device(CLIENT_SIDE), question)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(
        (&question[26..34], question[47]),
        (&[VIP, CLIENT].concat()[..], 0x10),
        "a bare ACK in the Service's name"
    );
    assert!(etherparse::PacketHeaders::from_ethernet_slice(question).is_ok());
    assert_eq!(*question, with_right_checksums(question));
    assert!(probe(&mut world).is_empty(), "it has half a second");
    for _ in 0..2 {
        wait(&mut world, Duration::from_millis(500));
        assert_eq!(probe(&mut world).len(), 1);
    }
    let answered = world.rig.carry(CLIENT_SIDE, &[segment("A", b"")]);
    assert_eq!(answered.len(), 2, "RSTs to both");
    wait(&mut world, Duration::from_millis(500));
    assert!(probe(&mut world).is_empty());
    assert_eq!((world.counter("flows_reset"), world.counter("originated")), (1, 4));
}

#[test]
fn k26_the_connection_of_a_client_that_never_answers_is_forgotten_and_late_replies_dropped() {
    let mut world = alone("");
    connect(&mut world);
    say(&mut world, "", &[("10.244.0.12", READY)]);
    wait(&mut world, GRACE);
    for _ in 0..4 {
        world.rig.path.probe_departed(&world.rig.snapshot, world.rig.now, &mut world.rig.wire);
        let asked = world.rig.collect();
        assert!(asked.iter().all(|(out, _)| *out == Out::Device(CLIENT_SIDE)), "the endpoint is never asked");
        wait(&mut world, Duration::from_millis(500));
    }
    assert_eq!((world.rig.flows.len(), world.counter("originated"), world.counter("flows_reset")), (0, 3, 1));
    assert_eq!(world.rig.carry(POD_SIDE, &[tcp(FROM_POD, (P, C), 64, "A", b"too late")]), []);
    assert_eq!(world.counter("drop_late_reply"), 1);
}

#[test]
fn a_syn_that_nobody_answered_is_sent_elsewhere_when_its_endpoint_has_left() {
    let mut world = alone("");
    assert_eq!(destination(&world.call(&segment("S", b"")).1), POD);
    say(&mut world, "", &[("10.244.0.12", READY)]);
    assert_eq!(destination(&world.call(&segment("S", b"")).1), OTHER, "at once, without a grace time");
    let late = tcp(FROM_POD, (P, C), 64, "SA", b"");
    assert_eq!(world.rig.carry(POD_SIDE, &[late]), []);
    assert_eq!((world.counter("flows_repicked"), world.counter("drop_late_reply")), (1, 1));
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
