//! Random frames of both families under random rules: the XDP program decides as the slow model does.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod steer_rig;
mod xsk_rig;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use steer_rig::model::{self, Rule, Socket};
use steer_rig::packet6::{Extension, Packet6};
use steer_rig::{
    CLIENT, CLIENT6, ENDPOINT, ENDPOINT6, Frame, LONE_VIP, LONE_VIP6, OWN, OWN6, STRANGER, STRANGER6, Served,
    VIP, VIP6,
};
use tidegate_dataplane::xdp::counters::NAMES;
use xsk_rig::{Namespace, Packet, STATION};

/// Sets of rules, each with some frames: 25,600 frames.
const CASES: u32 = 800;
const FRAMES: usize = 32;

const PROTOCOLS: [u8; 3] = [6, 17, 132];
const PORTS: [u16; 3] = [53, 8080, 61_500];

/// Returns everything that the program may be told.
fn all_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::Masquerade];
    let mut vip = |address: &str, bits| rules.push(Rule::Vip(address.parse().unwrap(), bits));
    vip("10.96.0.0", 16);
    vip("10.96.0.10", 32);
    vip("198.51.100.0", 25);
    vip("203.0.113.2", 31);
    vip("fd00:96::", 112);
    vip("fd00:96::", 12);
    vip("2001:db8:ff::9", 128);
    vip("2001:db8:3::2", 127);
    for address in [IpAddr::from(OWN), OWN6.into(), VIP.into(), VIP6.into(), IpAddr::from([0, 0, 0, 1])] {
        rules.push(Rule::Own(address));
    }
    for protocol in PROTOCOLS {
        for port in PORTS {
            for address in [IpAddr::from(ENDPOINT), ENDPOINT6.into(), IpAddr::from(CLIENT), CLIENT6.into()] {
                rules.push(Rule::Endpoint(Socket(address, port, protocol)));
            }
        }
        for address in [IpAddr::from(OWN), OWN6.into()] {
            rules.push(Rule::Served(Socket(address, 8080, protocol)));
        }
        for address in [IpAddr::from(OWN), OWN6.into(), VIP6.into()] {
            rules.push(Rule::Listener(Socket(address, 53, protocol)));
        }
    }
    rules
}

fn address4() -> impl Strategy<Value = [u8; 4]> {
    let known = vec![CLIENT, VIP, LONE_VIP, OWN, ENDPOINT, STRANGER];
    prop_oneof![20 => select(known), 1 => select(vec![[224, 0, 0, 5], [255; 4], [0, 0, 0, 1]]), 1 => any::<[u8; 4]>()]
}

fn address6() -> impl Strategy<Value = Ipv6Addr> {
    let known = vec![CLIENT6, VIP6, LONE_VIP6, OWN6, ENDPOINT6, STRANGER6];
    let odd = ["::1", "ff02::1", "fe80::5", "::ffff:10.96.0.10", "::ffff:10.244.1.5", "::10.96.0.10"];
    let odd = odd.map(|address| address.parse().unwrap()).to_vec();
    prop_oneof![20 => select(known), 2 => select(odd), 1 => any::<[u8; 16]>().prop_map(Ipv6Addr::from)]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![6 => select(PORTS.to_vec()), 1 => select(vec![0, 60_999, 61_000, 62_000, 62_001, 40_000])]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![12 => select(PROTOCOLS.to_vec()), 1 => select(vec![0, 1, 50, 51, 58, 59, 60]), 1 => any::<u8>()]
}

/// Returns mostly `None`: the truth.
fn lie<T: std::fmt::Debug>(lies: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.1, lies)
}

/// Boxed, as the ones below: what proptest keeps to shrink a packet would overflow a test's stack.
fn packet4() -> BoxedStrategy<Packet> {
    let fragment =
        prop_oneof![8 => Just(0), 1 => Just(0x2000), 1 => select(vec![0x2001, 0x1fff, 0x4000, 185])];
    let addressing = (address4(), address4(), port(), port(), protocol());
    (addressing, fragment, 0..=10_usize, lie(0..16_u8), lie(0..80_u16))
        .prop_map(
            |((source, destination, from, to, protocol), fragment, words, header_length, total_length)| {
                Packet {
                    protocol,
                    fragment,
                    options: vec![1; words * 4],
                    header_length,
                    total_length,
                    ..Packet::udp((source, from), (destination, to))
                }
            },
        )
        .boxed()
}

fn extension() -> BoxedStrategy<Extension> {
    let kind = || select(vec![0_u8, 43, 60]);
    prop_oneof![
        6 => (kind(), 1..4_usize).prop_map(|(kind, units)| Extension::options(kind, units * 8)),
        1 => (kind(), 40..129_usize).prop_map(|(kind, units)| Extension::options(kind, units * 8)),
        3 => (2..8_usize).prop_map(|words| Extension::authentication(words * 4)),
        1 => (any::<u8>(), any::<u8>(), 1..4_usize).prop_map(|(kind, said, units)| Extension::said(kind, said, units * 8)),
        2 => (select(vec![0, 0, 0, 8, 1448, 0xfff8]), any::<bool>()).prop_map(|(at, more)| Extension::fragment(at, more)),
    ]
    .boxed()
}

fn packet6() -> BoxedStrategy<Packet6> {
    let extensions = prop_oneof![
        3 => Just(Vec::new()),
        3 => proptest::collection::vec(extension(), 1..4),
        1 => proptest::collection::vec(extension(), 5..11),
    ];
    let addressing = (address6(), address6(), port(), port(), protocol());
    (addressing, extensions, lie(0..120_u16))
        .prop_map(|((source, destination, from, to, protocol), extensions, payload_length)| Packet6 {
            protocol,
            extensions,
            payload_length,
            ..Packet6::udp((source, from), (destination, to))
        })
        .boxed()
}

/// Returns packets, and ICMP messages that quote some.
fn plain_or_error() -> BoxedStrategy<Vec<u8>> {
    let type4 = prop_oneof![4 => select(vec![3_u8, 4, 5, 11, 12]), 1 => any::<u8>()];
    let type6 = prop_oneof![4 => 1..=4_u8, 1 => select(vec![128_u8, 130, 135, 137, 143]), 1 => any::<u8>()];
    prop_oneof![
        packet4().prop_map(|packet| packet.octets()),
        packet6().prop_map(|packet| packet.octets()),
        (packet4(), type4, quote(4)).prop_map(|(packet, kind, payload)| {
            Packet { protocol: 1, ports: (u16::from(kind) << 8, 0), payload, ..packet }.octets()
        }),
        (packet6(), type6, quote(6)).prop_map(|(packet, kind, payload)| {
            Packet6 { protocol: 58, ports: (u16::from(kind) << 8, 0), payload, ..packet }.octets()
        }),
    ]
    .boxed()
}

/// Returns what an error quotes: seldom a packet of the wrong family.
fn quote(family: u32) -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        if family == 4 { 9 } else { 1 } => packet4().prop_map(|packet| packet.octets()[14..].to_vec()),
        if family == 6 { 9 } else { 1 } => packet6().prop_map(|packet| packet.octets()[14..].to_vec()),
    ]
    .boxed()
}

/// Returns frames, some of which are cut, for another station, of another ethertype or bent anywhere.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let station = prop_oneof![20 => Just(STATION), 1 => any::<[u8; 6]>()];
    let ethertype = lie(select(vec![0x0800_u16, 0x86dd, 0x8100]));
    let bent = lie(proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4));
    (plain_or_error(), station, ethertype, bent, lie(14..200_usize)).prop_map(
        |(mut octets, station, ethertype, bent, cut)| {
            octets[..6].copy_from_slice(&station);
            if let Some(ethertype) = ethertype {
                octets[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            for (at, octet) in bent.into_iter().flatten() {
                let at = at.index(octets.len());
                octets[at] = octet;
            }
            octets.truncate(cut.unwrap_or(octets.len()));
            octets
        },
    )
}

/// Makes the program know exactly these rules.
fn follow(served: &mut Served, known: &mut BTreeSet<Rule>, rules: BTreeSet<Rule>) {
    for rule in known.difference(&rules) {
        rule.remove(&mut served.steering);
    }
    for rule in rules.difference(known) {
        rule.insert(&mut served.steering);
    }
    *known = rules;
}

/// Runs the program on random frames under random rules; returns how many were counted in which counter.
fn compare_with_model() -> BTreeMap<&'static str, u32> {
    let all = all_rules();
    let rules = proptest::collection::vec(proptest::bool::weighted(0.5), all.len());
    let strategy = (rules, proptest::collection::vec(frame(), FRAMES));
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let served = RefCell::new((Served::without_rules(), BTreeSet::new()));
    let seen = RefCell::new(BTreeMap::new());
    let result = TestRunner::new(config).run(&strategy, |(chosen, frames)| {
        let (served, known) = &mut *served.borrow_mut();
        let chosen = all.iter().zip(chosen).filter_map(|(rule, is_chosen)| is_chosen.then_some(*rule));
        follow(served, known, chosen.collect());
        for frame in frames {
            served.beat();
            let (taken, counter) = served.verdict_of(&frame, 0);
            prop_assert_eq!(counter, model::decide(known, &frame), "{:02x?}", &frame);
            prop_assert_eq!(taken, counter.starts_with("redirected"));
            *seen.borrow_mut().entry(counter).or_insert(0) += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    seen.into_inner()
}

#[test]
fn the_program_decides_on_random_frames_as_the_model_does() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.veth("near", "far", 2);
    let seen = namespace.enter(compare_with_model);
    println!("{seen:?}");
    for name in NAMES.iter().filter(|name| !matches!(**name, "passed_no_socket" | "passed_no_heartbeat")) {
        assert!(seen.get(name).is_some_and(|frames| *frames >= 20), "{name} hardly came about: {seen:?}");
    }
}
