//! K26 as the design decides it: connections whose endpoint is in no slice any more are reset on both sides.

use std::time::Duration;

use crate::path_rig::*;
use crate::state::*;
use crate::world::{NOT_READY, READY, TERMINATING, World};

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
