//! K14: a client's connections stay with one endpoint.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::path_rig::*;
use crate::world::{NOT_READY, PORTS, READY, World, annotated_service, slice};

const EXTERNAL: [u8; 4] = [203, 0, 113, 80];
const PODS: [&str; 4] = ["10.244.0.11", "10.244.0.12", "10.244.0.13", "10.244.0.14"];

/// Choice at random, so that what stays stays by affinity.
fn manifests(without: u8) -> String {
    let config = "sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    let ports = format!("{PORTS}- {{name: other, port: 81, protocol: TCP}}\n");
    let spec = format!("sessionAffinity: ClientIP\n{config}\nexternalIPs: [203.0.113.80]\n{ports}");
    let gone = format!("10.244.0.{without}");
    let pods = PODS.map(|pod| (pod, if pod == gone { NOT_READY } else { READY }));
    let slice = slice(&pods).replace("endpoints:", "- {name: other, port: 8080, protocol: TCP}\nendpoints:");
    annotated_service("10.96.0.1", "choice: random", &spec) + &slice
}

#[test]
fn k14_a_client_keeps_its_endpoint_by_any_port_and_address_until_it_was_silent() {
    let mut world = World::new(&manifests(0));
    let first = world.open(CLIENT, 40_000, VIP, 80);
    for port in 40_001..40_020 {
        let to = if port % 2 == 0 { VIP } else { EXTERNAL };
        assert_eq!(world.open(CLIENT, port, to, 80), first);
    }
    for port in [40_100, 40_101, 40_102] {
        world.wait(Duration::from_secs(59));
        assert_eq!(world.open(CLIENT, port, VIP, 80), first, "each new connection refreshes it");
    }
    let mut later = BTreeSet::new();
    for port in 40_200..40_230 {
        world.wait(Duration::from_secs(61));
        later.insert(world.open(CLIENT, port, VIP, 80));
    }
    assert!(later.len() > 1, "a client that was silent is chosen for anew");
}

#[test]
fn k14_packets_of_a_connection_do_not_refresh_affinity() {
    let mut world = World::new(&manifests(0));
    let mut endpoints = BTreeSet::new();
    for round in 0..20 {
        endpoints.insert(world.open(CLIENT, 40_000 + round, VIP, 80));
        for _ in 0..2 {
            world.wait(Duration::from_secs(31));
            let more = tcp(FROM_CLIENT, ((CLIENT, 40_000 + round), (VIP, 80)), 64, "A", b"more");
            world.rig.carry(CLIENT_SIDE, &[more]);
        }
    }
    assert!(endpoints.len() > 1);
}

#[test]
fn k14_affinity_ends_when_its_endpoint_is_no_longer_usable_and_begins_with_another() {
    let mut world = World::new(&manifests(0));
    let first = world.open(CLIENT, 40_000, VIP, 80);
    world.say(&manifests(first));
    let second = world.open(CLIENT, 40_001, VIP, 80);
    assert_ne!(second, first);
    world.say(&manifests(0));
    for port in 40_002..40_020 {
        assert_eq!(
            world.open(CLIENT, port, VIP, 80),
            second,
            "what came back is not what the client has now"
        );
    }
}

#[test]
fn k14_affinity_is_not_shared_between_ports_of_a_service_nor_between_clients() {
    let mut world = World::new(&manifests(0));
    let endpoint = |world: &mut World, client: u8, port| world.open([10, 1, 0, client], 40_000, VIP, port);
    let per_port: BTreeSet<(u8, u8)> = (100..120)
        .map(|client| (endpoint(&mut world, client, 80), endpoint(&mut world, client, 81)))
        .collect();
    assert!(per_port.iter().any(|(first, second)| first != second));
    assert!(per_port.iter().map(|(first, _)| first).collect::<BTreeSet<_>>().len() > 1);
}

#[test]
fn with_maglev_affinity_sends_a_client_to_the_same_endpoint_on_every_gateway() {
    let maglev = manifests(0).replace("choice: 'random'", "choice: 'maglev'");
    let (mut one, mut other) = (World::new(&maglev), World::new(&maglev));
    let mut endpoints = BTreeSet::new();
    for client in 100..130 {
        let at_one = one.open([10, 1, 0, client], 40_000, VIP, 80);
        assert_eq!(other.open([10, 1, 0, client], 50_000, EXTERNAL, 80), at_one);
        endpoints.insert(at_one);
    }
    assert!(endpoints.len() > 1);
}
