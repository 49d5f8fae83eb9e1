//! Random histories: the packet path and a slow gateway send the same octets and count the same, step by step, over
//! both versions of IP at once.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod history;
mod path_rig;
mod slow_gateway;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use history::pair::Pair;
use history::{CLIENTS, DESTINATIONS, address};
use path_rig::{CLIENT_MAC, CLIENT_SIDE_MAC};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use slow_gateway::datagram::Five;
use slow_gateway::packets::{self, Segment};
use tidegate_dataplane::masquerade::Mode;
use tidegate_dataplane::verdict::DropReason;

/// Steps that are taken if `TIDEGATE_HISTORY_STEPS` does not say how many.
const STEPS: u64 = 200_000;
/// Steps of the longest history; the mean is half of it.
const LONGEST: usize = 160;
/// Histories that are drawn before the steps are counted.
const HISTORIES: u32 = 64;

/// Drops for what histories lack: a second worker, a socket too few, few frames, packets longer than one, wide ranges of
/// ports, a device without an address, a flood of fragments or of packets to be answered, a hundred Services with one
/// backend, Services that not everybody may call, endpoints that leave. And those that 200,000 steps may miss.
const OUT_OF_REACH: &[&str] = &[
    "drop_flow_contended",
    "drop_hand_over_full",
    "drop_no_tx_queue",
    "drop_no_frame",
    "drop_answer_too_long",
    "drop_oversized_packet",
    "drop_short_first_frame",
    "drop_no_multi_buffer",
    "drop_long_icmp_error",
    "drop_masquerade_search_paused",
    "drop_no_masquerade_address",
    "drop_fragment_evicted",
    "drop_icmp_rate_limited",
    "drop_no_source_port",
    "drop_source_range",
    "drop_no_local_endpoint",
    "drop_late_reply",
    "drop_exceeds_mtu",
    "drop_hairpin",
];

#[test]
fn the_packet_path_and_a_slow_gateway_send_and_count_the_same() {
    let least = std::env::var("TIDEGATE_HISTORY_STEPS").map_or(STEPS, |steps| steps.parse().unwrap());
    // Two or six flows of a version fill its table, and no bucket of its index before.
    let capacity = prop::sample::select(vec![2, 6, 512, 512]);
    let mode = prop::sample::select(vec![Mode::Auto, Mode::Auto, Mode::Always, Mode::Never]);
    let steps = prop::collection::vec(history::strategies::step(), 1..LONGEST);
    let histories = (capacity, mode, steps);
    let (taken, counted) = (Cell::new(0), RefCell::new(BTreeMap::new()));
    while taken.get() < least {
        let config =
            ProptestConfig { failure_persistence: None, cases: HISTORIES, ..ProptestConfig::default() };
        let result = TestRunner::new(config).run(&histories, |(capacity, mode, steps)| {
            let mut pair = Pair::new(capacity, mode);
            for step in &steps {
                pair.take(step)?;
                taken.set(taken.get() + 1);
            }
            for (name, count) in &pair.slow.counters {
                *counted.borrow_mut().entry(*name).or_insert(0) += count;
            }
            Ok(())
        });
        if let Err(TestError::Fail(reason, history)) = result {
            panic!("{reason}\nin {history:#?}");
        }
        result.unwrap();
    }
    assert!(taken.get() >= least);
    println!("{} steps, and of their packets: {:#?}", taken.get(), counted.borrow());
    let unseen = DropReason::ALL.iter().map(|reason| reason.name());
    let unseen: Vec<_> =
        unseen.filter(|name| !counted.borrow().contains_key(name) && !OUT_OF_REACH.contains(name)).collect();
    assert!(unseen.is_empty(), "no packet was dropped for {unseen:?}");
}

proptest! {
    #[test]
    fn the_slow_checksums_are_those_of_an_independent_encoder(
        is_ipv6 in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
        port in any::<u16>(),
        flags in prop::sample::select(vec!["S", "SA", "FA", "R"]),
        is_reply in any::<bool>(),
    ) {
        let over = |encode: &dyn Fn() -> Vec<u8>| if is_ipv6 { path_rig::over_ipv6(encode) } else { encode() };
        let five = Five {
            protocol: 17,
            source: address(CLIENTS[0], is_ipv6),
            source_port: port,
            destination: address(DESTINATIONS[0], is_ipv6),
            destination_port: 80,
        };
        let macs = (CLIENT_MAC, CLIENT_SIDE_MAC);
        let ends = ((CLIENTS[0], port), (DESTINATIONS[0], 80));
        let stations = [CLIENT_SIDE_MAC.0, CLIENT_MAC.0].concat().try_into().unwrap();
        let encoded = over(&|| path_rig::udp(macs, ends, 64, &payload));
        prop_assert_eq!(packets::udp(stations, five, 64, &payload), encoded);
        let encoded = over(&|| path_rig::ping(macs, CLIENTS[0], DESTINATIONS[0], 64, is_reply));
        let kind = match (is_ipv6, is_reply) {
            (false, reply) => if reply { 0 } else { 8 },
            (true, reply) => 128 + u8::from(reply),
        };
        let message = [&[kind, 0, 0, 0, 0, 7, 0, 1], &b"is anybody there"[..]].concat();
        prop_assert_eq!(packets::icmp(stations, five, 64, message), encoded);
        let encoded = over(&|| path_rig::tcp(macs, ends, 64, flags, &payload));
        let bits = flags.chars().map(|flag| match flag { 'S' => 2, 'A' => 16, 'F' => 1, _ => 4 }).sum();
        let acknowledgment = if flags.contains('A') { 2000 } else { 0 };
        let segment = Segment { sequence: 1000, acknowledgment, flags: bits, window: 4096, payload };
        let own = packets::tcp(stations, Five { protocol: 6, ..five }, 64, &segment);
        prop_assert_eq!(own, encoded);
    }
}

#[test]
fn addresses_of_histories_are_what_their_names_say() {
    let of = |place: usize, is_ipv6| address(CLIENTS[place], is_ipv6);
    assert!(of(4, false).is_loopback() && of(4, true).is_loopback());
    let IpAddr::V6(of_a_link) = of(3, true) else { panic!("an IPv6 address") };
    assert!(of_a_link.is_unicast_link_local());
    assert_eq!(of(0, true), "fd00:a:1::2".parse::<Ipv6Addr>().unwrap());
}
