//! K13: how an endpoint is chosen.

use std::collections::BTreeMap;

use crate::path_rig::*;
use crate::world::{PORTS, READY, World, annotated_service, slice};

const PODS: [(&str, &str); 3] = [("10.244.0.11", READY), ("10.244.0.12", READY), ("10.244.0.13", READY)];

fn world(annotations: &str) -> World {
    World::new(&(annotated_service("10.96.0.1", annotations, PORTS) + &slice(&PODS)))
}

fn shares(world: &mut World, connections: u16) -> BTreeMap<u8, u16> {
    let mut shares = BTreeMap::new();
    for port in 0..connections {
        *shares.entry(world.open(CLIENT, 20_000 + port, VIP, 80)).or_default() += 1;
    }
    shares
}

#[test]
fn k13_maglev_is_the_default_and_sends_a_flow_to_the_same_endpoint_on_every_gateway() {
    let (mut one, mut other) = (world(""), world("choice: maglev"));
    for port in 20_000..20_200 {
        assert_eq!(one.open(CLIENT, port, VIP, 80), other.open(CLIENT, port, VIP, 80));
    }
}

#[test]
fn k13_random_takes_every_endpoint_and_differs_between_gateways() {
    let (mut one, mut other) = (world("choice: random"), world("choice: random"));
    let mut differing = 0;
    for port in 20_000..20_300 {
        differing += u16::from(one.open(CLIENT, port, VIP, 80) != other.open(CLIENT, port, VIP, 80));
    }
    assert!((100..300).contains(&differing), "about two thirds of 300: {differing}");
}

#[test]
fn least_connections_evens_out() {
    let mut world = world("choice: least-connections");
    assert_eq!(shares(&mut world, 300), BTreeMap::from([(11, 100), (12, 100), (13, 100)]));
}

#[test]
fn weights_give_shares_with_every_choice() {
    let share = |choice: &str| {
        let mut world = world(&format!("choice: {choice}\nweights: 10.244.0.11=6,10.244.0.12=3"));
        shares(&mut world, 1000)
    };
    for (choice, tolerance) in [("maglev", 60), ("random", 60), ("least-connections", 1)] {
        let shares = share(choice);
        for (pod, expected) in [(11, 600), (12, 300), (13, 100)] {
            let found = i32::from(shares[&pod]);
            assert!((found - expected).abs() <= tolerance, "{choice}: {shares:?}");
        }
    }
}

#[test]
fn a_segment_in_mid_stream_is_picked_up_only_where_the_choice_says_where_the_first_one_went() {
    let segment = |port| tcp(FROM_CLIENT, ((CLIENT, port), (VIP, 80)), 64, "A", b"more");
    let mut maglev = world("");
    let left = maglev.rig.carry(CLIENT_SIDE, &[segment(20_000)]);
    assert_eq!((left.len(), maglev.counter("flows_picked_up")), (usize::from(!left.is_empty()), 1));
    for choice in ["random", "least-connections"] {
        let mut world = world(&format!("choice: {choice}"));
        let (out, answer) = world.call(&segment(20_000));
        assert_eq!((out, answer[47] & 0x04), (Out::Device(CLIENT_SIDE), 0x04), "{choice}: RST");
        assert_eq!(world.counter("flows_picked_up"), 0);
    }
}
