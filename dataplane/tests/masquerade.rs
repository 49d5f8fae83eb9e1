//! Golden cases of masqueraded flows, and random histories of them against a model.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod path_rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use path_rig::*;
use proptest::prelude::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::Cursors;
use tidegate_dataplane::masquerade::{Masquerade, Mode, PortRange};
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::{Mac, Prefix};
use tidegate_dataplane::routes::{Route, RouteKind, RouteTable, Routes};
use tidegate_dataplane::snapshot::Device;

type End = ([u8; 4], u16);

const C: End = (CLIENT, 40_000);
const V: End = (VIP, 80);
const P: End = (POD, 8080);
/// From a pod to the gateway and back, on a link that the client is on too.
const POD_TO_GATEWAY: (Mac, Mac) = (POD_MAC, CLIENT_SIDE_MAC);
const GATEWAY_TO_POD: (Mac, Mac) = (CLIENT_SIDE_MAC, POD_MAC);

fn masquerade(mode: Mode, first: u16, last: u16) -> Masquerade {
    Masquerade { mode, ports: PortRange::new(first, last).unwrap() }
}

/// A gateway with one device, `CLIENT_SIDE`, whose link has the subnets of clients and pods.
fn one_armed() -> Rig {
    let mut rig = Rig::new();
    let subnet = |destination: [u8; 4]| {
        let Prefix { address: destination, length: prefix_length } = prefix(destination, 24);
        let kind = RouteKind::Unicast { device: CLIENT_SIDE, gateway: None };
        Route { table: RouteTable::Main, destination, prefix_length, metric: 0, kind }
    };
    rig.snapshot.routes = Arc::new(Routes::new([subnet([10, 1, 0, 0]), subnet([10, 244, 0, 0])]));
    rig.snapshot.devices = Arc::new([Device {
        index: CLIENT_SIDE,
        mac: CLIENT_SIDE_MAC,
        mtu: 1500,
        addresses: Arc::new([prefix(GATEWAY, 24), prefix(POD_SIDE_GATEWAY, 24)]),
    }]);
    rig.learn(&[
        (next_hop(CLIENT_SIDE, CLIENT), NeighbourState::Reachable(CLIENT_MAC)),
        (next_hop(CLIENT_SIDE, POD), NeighbourState::Reachable(POD_MAC)),
    ]);
    rig
}

/// A packet's source, as it left.
fn source(octets: &[u8]) -> End {
    let transport = 14 + ip_header_bytes();
    let port = u16::from_be_bytes([octets[transport], octets[transport + 1]]);
    if is_ipv6() {
        // The addresses of the rig, in their short form.
        let [a, b, c, d] = [25, 27, 29, 37].map(|at: usize| octets[at]);
        assert_eq!(octets[22..38], ipv6([a, b, c, d]).octets());
        return ([a, b, c, d], port);
    }
    (octets[26..30].try_into().unwrap(), port)
}

fn expire(rig: &mut Rig, seconds: u32) {
    rig.now = Now::from_seconds(rig.now.seconds() + seconds);
    let flows = Arc::clone(&rig.flows);
    flows.expire(&mut Cursors::part(0, 1), rig.now, flows.capacity());
}

#[test]
fn auto_keeps_the_clients_address_where_the_reply_comes_back_through_us() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"x"));
        assert_eq!(sent, (Out::Device(POD_SIDE), udp(TO_POD, (C, P), 63, b"x")));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1), ("flows_inserted", 1)]);
    });
}

#[test]
fn auto_masquerades_where_client_and_backend_are_behind_one_device() {
    over_both_families(|| {
        let mut rig = one_armed();
        let (out, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        let own = source(&octets);
        assert_eq!(own.0, POD_SIDE_GATEWAY, "of two addresses the one in the backend's network");
        assert!((61_000..=65_535).contains(&own.1), "{own:?}");
        assert_eq!((out, octets), (Out::Device(CLIENT_SIDE), udp(GATEWAY_TO_POD, (own, P), 63, b"question")));
        let sent = rig.one(CLIENT_SIDE, &udp(POD_TO_GATEWAY, (P, own), 64, b"answer"));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), udp(TO_CLIENT, (V, C), 63, b"answer")));
        let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"more"));
        assert_eq!(sent.1, udp(GATEWAY_TO_POD, (own, P), 63, b"more"));
        rig.assert_counters(&[
            ("rx_packets", 3),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("flows_inserted", 1),
            ("flows_masqueraded", 1),
        ]);
    });
}

#[test]
fn a_masqueraded_connection_goes_both_ways_through_its_whole_life() {
    over_both_families(|| {
        let mut rig = one_armed();
        let (_, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "S", b""));
        let own = source(&octets);
        assert_eq!(octets, tcp(GATEWAY_TO_POD, (own, P), 63, "S", b""));
        for (from_client, flags, payload) in [
            (false, "SA", &b""[..]),
            (true, "A", b"GET /"),
            (false, "FA", b"200 OK"),
            (true, "FA", b""),
            (false, "A", b""),
        ] {
            if from_client {
                let (_, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, flags, payload));
                assert_eq!(octets, tcp(GATEWAY_TO_POD, (own, P), 63, flags, payload));
            } else {
                let (_, octets) = rig.one(CLIENT_SIDE, &tcp(POD_TO_GATEWAY, (P, own), 64, flags, payload));
                assert_eq!(octets, tcp(TO_CLIENT, (V, C), 63, flags, payload));
            }
        }
        rig.assert_counters(&[
            ("rx_packets", 6),
            ("tx_packets", 6),
            ("forwarded", 6),
            ("flows_inserted", 1),
            ("flows_masqueraded", 1),
        ]);
    });
}

#[test]
fn a_client_that_is_itself_chosen_reaches_itself_through_us() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let (to, itself) = ((HAIRPIN_VIP, 80), (CLIENT, 8080));
        let (out, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, to), 64, "S", b""));
        let own = source(&octets);
        assert_eq!(own.0, GATEWAY);
        assert_eq!((out, octets), (Out::Device(CLIENT_SIDE), tcp(TO_CLIENT, (own, itself), 63, "S", b"")));
        let sent = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (itself, own), 64, "SA", b""));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), tcp(TO_CLIENT, (to, C), 63, "SA", b"")));
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 2),
            ("forwarded", 2),
            ("flows_inserted", 1),
            ("flows_masqueraded", 1),
        ]);
    });
}

#[test]
fn always_masquerades_every_flow_that_we_send_on_ourselves() {
    over_both_families(|| {
        let mut rig = Rig::new();
        rig.snapshot.masquerade.mode = Mode::Always;
        let (out, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"x"));
        let own = source(&octets);
        assert_eq!(own.0, POD_SIDE_GATEWAY);
        assert_eq!((out, octets), (Out::Device(POD_SIDE), udp(TO_POD, (own, P), 63, b"x")));
        let sent = rig.one(POD_SIDE, &udp(FROM_POD, (P, own), 64, b"y"));
        assert_eq!(sent, (Out::Device(CLIENT_SIDE), udp(TO_CLIENT, (V, C), 63, b"y")));
        for (to, backend) in [(LOCAL_VIP, GATEWAY), (ELSEWHERE_VIP, [172, 16, 0, 5])] {
            let sent = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, (to, 80)), 64, b"x"));
            assert_eq!(sent, (Out::Punt, udp(TO_KERNEL, (C, (backend, 8080)), 63, b"x")));
        }
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 4),
            ("forwarded", 2),
            ("punted", 2),
            ("flows_inserted", 3),
            ("flows_masqueraded", 1),
        ]);
    });
}

#[test]
fn never_keeps_the_clients_address_and_drops_its_packets_to_itself() {
    over_both_families(|| {
        let mut rig = one_armed();
        rig.snapshot.masquerade.mode = Mode::Never;
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"x"));
        assert_eq!(octets, udp(GATEWAY_TO_POD, (C, P), 63, b"x"));
        assert!(rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, (HAIRPIN_VIP, 80)), 64, b"x")]).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 2),
            ("tx_packets", 1),
            ("forwarded", 1),
            ("flows_inserted", 1),
            ("drop_hairpin", 1),
        ]);
    });
}

#[test]
fn the_first_packet_of_a_masqueraded_flow_waits_for_its_next_hop_and_is_not_lost() {
    over_both_families(|| {
        let mut rig = one_armed();
        assert!(rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, (QUIET_VIP, 80)), 64, b"x")]).is_empty());
        rig.learn(&[(next_hop(CLIENT_SIDE, QUIET_POD), NeighbourState::Reachable(POD_MAC))]);
        let left = rig.release();
        let own = source(&left[0].1);
        assert_eq!(own.0, POD_SIDE_GATEWAY);
        let expected = udp(GATEWAY_TO_POD, (own, (QUIET_POD, 8080)), 63, b"x");
        assert_eq!(left, [(Out::Device(CLIENT_SIDE), expected)]);
    });
}

#[test]
fn one_port_serves_different_destinations_and_tells_their_replies_apart() {
    over_both_families(|| {
        let mut rig = one_armed();
        rig.snapshot.masquerade = masquerade(Mode::Auto, 61_000, 61_000);
        rig.snapshot.services = rig.snapshot.services.with([(ip(OTHER_VIP), Some(both(20, &[(POD, 9090)])))]);
        let own = (POD_SIDE_GATEWAY, 61_000);
        for (to, backend) in [(V, P), ((OTHER_VIP, 80), (POD, 9090))] {
            let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, to), 64, b"x"));
            assert_eq!(octets, udp(GATEWAY_TO_POD, (own, backend), 63, b"x"));
            let (_, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, to), 64, "S", b""));
            assert_eq!(
                octets,
                tcp(GATEWAY_TO_POD, (own, backend), 63, "S", b""),
                "protocols have ports of their own"
            );
        }
        for (to, backend) in [(V, P), ((OTHER_VIP, 80), (POD, 9090))] {
            let (_, octets) = rig.one(CLIENT_SIDE, &udp(POD_TO_GATEWAY, (backend, own), 64, b"y"));
            assert_eq!(octets, udp(TO_CLIENT, (to, C), 63, b"y"));
        }
        rig.assert_counters(&[
            ("rx_packets", 6),
            ("tx_packets", 6),
            ("forwarded", 6),
            ("flows_inserted", 4),
            ("flows_masqueraded", 4),
        ]);
    });
}

#[test]
fn a_client_port_within_the_range_is_kept_while_it_is_free() {
    over_both_families(|| {
        let mut rig = one_armed();
        let (_, first) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, ((CLIENT, 62_000), V), 64, b"x"));
        assert_eq!(source(&first), (POD_SIDE_GATEWAY, 62_000));
        let (_, second) =
            rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, ((CLIENT, 62_000), (OTHER_VIP, 80)), 64, b"x"));
        assert_ne!(source(&second), (POD_SIDE_GATEWAY, 62_000), "its reply key is the first flow's");
    });
}

#[test]
fn exhaustion_is_counted_and_over_when_a_flow_expires() {
    over_both_families(|| {
        let mut rig = one_armed();
        rig.snapshot.masquerade = masquerade(Mode::Auto, 61_000, 61_002);
        let packets: Vec<_> = (1..=5).map(|port| udp(FROM_CLIENT, ((CLIENT, port), V), 64, b"x")).collect();
        let used: BTreeSet<u16> =
            rig.carry(CLIENT_SIDE, &packets).iter().map(|(_, octets)| source(octets).1).collect();
        assert_eq!(used, BTreeSet::from([61_000, 61_001, 61_002]));
        assert!(rig.carry(CLIENT_SIDE, &packets[4..]).is_empty());
        rig.assert_counters(&[
            ("rx_packets", 6),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("flows_inserted", 3),
            ("flows_masqueraded", 3),
            ("drop_masquerade_ports_exhausted", 3),
        ]);
        expire(&mut rig, 31);
        assert_eq!(rig.carry(CLIENT_SIDE, &packets).len(), 3);
    });
}

#[test]
fn a_port_that_is_freed_within_a_burst_is_found_within_it() {
    over_both_families(|| {
        let mut rig = one_armed();
        rig.snapshot.masquerade = masquerade(Mode::Auto, 61_000, 61_000);
        let from = |port, to: [u8; 4], flags| tcp(FROM_CLIENT, ((CLIENT, port), (to, 80)), 64, flags, b"");
        let left = rig.carry(
            CLIENT_SIDE,
            &[
                from(1, VIP, "S"),
                from(1, VIP, "R"),
                from(2, VIP, "S"), // exhausted
                from(1, VIP, "S"), // replaces the closed flow and takes its port again
                from(3, VIP, "S"), // exhausted
            ],
        );
        assert_eq!(left.len(), 3);
        assert_eq!(rig.flows.len(), 1);
        rig.assert_counters(&[
            ("rx_packets", 5),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("flows_inserted", 2),
            ("flows_masqueraded", 2),
            ("drop_masquerade_ports_exhausted", 2),
        ]);
    });
}

/// Found by random histories: only what gave way to another masqueraded flow was noticed.
#[test]
fn a_port_whose_flow_gave_way_to_one_without_masquerade_is_found_within_the_burst() {
    over_both_families(|| {
        let mut rig = Rig::with_flows(1);
        rig.snapshot.masquerade = masquerade(Mode::Auto, 61_000, 61_000);
        let from = |port, to: [u8; 4]| tcp(FROM_CLIENT, ((CLIENT, port), (to, 80)), 64, "S", b"");
        let left = rig.carry(
            CLIENT_SIDE,
            &[
                from(1, HAIRPIN_VIP),
                from(2, HAIRPIN_VIP), // exhausted
                from(3, VIP),         // not masqueraded; the table is full
                from(4, HAIRPIN_VIP),
            ],
        );
        assert_eq!(left.len(), 3);
        rig.assert_counters(&[
            ("rx_packets", 4),
            ("tx_packets", 3),
            ("forwarded", 3),
            ("flows_inserted", 3),
            ("flows_masqueraded", 2),
            ("flows_evicted", 2),
            ("drop_masquerade_ports_exhausted", 1),
        ]);
    });
}

#[test]
fn a_segment_in_mid_stream_of_a_flow_that_would_be_masqueraded_is_reset() {
    over_both_families(|| {
        let mut rig = one_armed();
        let (out, octets) = rig.one(CLIENT_SIDE, &tcp(FROM_CLIENT, (C, V), 64, "A", b"data"));
        assert_eq!(out, Out::Device(CLIENT_SIDE));
        assert_eq!((source(&octets), octets[14 + ip_header_bytes() + 13] & 4), (V, 4));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("answered_reset", 1)]);
    });
}

#[test]
fn a_device_without_an_address_cannot_masquerade() {
    over_both_families(|| {
        let mut rig = one_armed();
        let bare = Device { addresses: Arc::new([]), ..rig.snapshot.devices[0].clone() };
        rig.snapshot.devices = Arc::new([bare]);
        assert!(rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (C, V), 64, b"x")]).is_empty());
        rig.assert_counters(&[("rx_packets", 1), ("drop_no_masquerade_address", 1)]);
    });
}

#[test]
fn errors_about_a_masqueraded_flow_are_translated_both_ways() {
    over_both_families(|| {
        let mut rig = one_armed();
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, V), 64, b"question"));
        let own = source(&octets);
        let says = port_unreachable();
        let quote = |ends| ip_of(&udp(TO_POD, ends, 62, b"question"));

        let sent = icmp_error(POD_TO_GATEWAY, POD, own.0, 64, says, &quote((own, P)));
        let expected = icmp_error(TO_CLIENT, VIP, CLIENT, 63, says, &quote((C, V)));
        assert_eq!(rig.one(CLIENT_SIDE, &sent), (Out::Device(CLIENT_SIDE), expected));

        let sent = icmp_error(FROM_CLIENT, CLIENT, VIP, 64, says, &quote((V, C)));
        let expected = icmp_error(GATEWAY_TO_POD, own.0, POD, 63, says, &quote((P, own)));
        assert_eq!(rig.one(CLIENT_SIDE, &sent), (Out::Device(CLIENT_SIDE), expected));
    });
}

#[test]
fn errors_about_a_clients_packets_to_itself_are_translated_both_ways() {
    over_both_families(|| {
        let mut rig = Rig::new();
        let (to, itself) = ((HAIRPIN_VIP, 80), (CLIENT, 8080));
        let (_, octets) = rig.one(CLIENT_SIDE, &udp(FROM_CLIENT, (C, to), 64, b"question"));
        let own = source(&octets);
        let says = port_unreachable();
        let quote = |ends| ip_of(&udp(TO_POD, ends, 62, b"question"));

        let sent = icmp_error(FROM_CLIENT, CLIENT, own.0, 64, says, &quote((own, itself)));
        let expected = icmp_error(TO_CLIENT, HAIRPIN_VIP, CLIENT, 63, says, &quote((C, to)));
        assert_eq!(rig.one(CLIENT_SIDE, &sent).1, expected);

        let sent = icmp_error(FROM_CLIENT, CLIENT, HAIRPIN_VIP, 64, says, &quote((to, C)));
        let expected = icmp_error(TO_CLIENT, own.0, CLIENT, 63, says, &quote((itself, own)));
        assert_eq!(rig.one(CLIENT_SIDE, &sent).1, expected);
    });
}

#[test]
fn a_packet_to_a_port_of_the_range_that_belongs_to_no_flow_goes_to_the_kernel() {
    over_both_families(|| {
        let mut rig = one_armed();
        let own = (POD_SIDE_GATEWAY, 61_500);
        let sent = rig.one(CLIENT_SIDE, &udp(POD_TO_GATEWAY, (P, own), 64, b"to a program on the gateway"));
        assert_eq!(sent, (Out::Punt, udp(TO_KERNEL, (P, own), 64, b"to a program on the gateway")));
        rig.assert_counters(&[("rx_packets", 1), ("tx_packets", 1), ("punted", 1)]);
    });
}

/// A datagram of a client to one of three Services, or a time in which flows may expire.
#[derive(Clone, Debug)]
enum Step {
    Datagram { client: u8, port: u16, service: usize },
    Reply { nth: usize },
    Pass { seconds: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 1..12u16, 0..3usize)
            .prop_map(|(client, port, service)| Step::Datagram { client, port, service }),
        2 => (0..40usize).prop_map(|nth| Step::Reply { nth }),
        1 => (1..80u32).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// What the model knows of one live flow.
#[derive(Clone, Copy, Debug)]
struct Live {
    masquerade_port: u16,
    last_seen: u32,
    replied: bool,
}

/// Which flow it is: client, its port, and the Service.
type Asked = (u8, u16, usize);

/// The ports that live flows to some of the Services have.
fn ports_to(model: &BTreeMap<Asked, Live>, is_asked: impl Fn(usize) -> bool) -> BTreeSet<u16> {
    let same = model.iter().filter(|((.., service), _)| is_asked(*service));
    same.map(|(_, live)| live.masquerade_port).collect()
}

/// Sends a reply to a client whose neighbour is not known: it is held, and leaves when that is.
fn reply_when_known(rig: &mut Rig, reply: &[u8], client: [u8; 4]) -> Vec<u8> {
    let pod = (next_hop(CLIENT_SIDE, POD), NeighbourState::Reachable(POD_MAC));
    let held = rig.path.counters.held;
    rig.carry(CLIENT_SIDE, &[reply.to_vec()]);
    assert_eq!(rig.path.counters.held, held + 1, "{client:?}");
    rig.learn(&[(next_hop(CLIENT_SIDE, client), NeighbourState::Reachable(CLIENT_MAC)), pod]);
    let left = rig.release();
    rig.learn(&[pod]);
    left[0].1.clone()
}

/// The model: a flow lives while it is not silent for too long, and is refused exactly if as many flows as there are
/// ports live to its destination.
fn follows_the_model(ports: u16, steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Two Services lead to one destination, a third to another.
    let services = [(VIP, 8080), (OTHER_VIP, 8080), (EMPTY_VIP, 9090)];
    let mut rig = one_armed();
    rig.snapshot.masquerade = masquerade(Mode::Auto, 61_000, 61_000 + ports - 1);
    rig.snapshot.services = rig.snapshot.services.with([(ip(EMPTY_VIP), Some(both(30, &[(POD, 9090)])))]);
    let mut model: BTreeMap<Asked, Live> = BTreeMap::new();
    let mut refused = 0;
    for step in steps {
        let now = rig.now.seconds();
        match step {
            Step::Datagram { client, port, service } => {
                let (address, backend_port) = services[service];
                let from = ([10, 1, 0, 100 + client], port);
                let left = rig.carry(CLIENT_SIDE, &[udp(FROM_CLIENT, (from, (address, 80)), 64, b"x")]);
                let key = (client, port, service);
                let in_use = ports_to(&model, |service| services[service].1 == backend_port);
                if let Some(live) = model.get_mut(&key) {
                    live.last_seen = now;
                    prop_assert_eq!(source(&left[0].1), (POD_SIDE_GATEWAY, live.masquerade_port));
                } else if in_use.len() == usize::from(ports) {
                    refused += 1;
                    prop_assert!(left.is_empty());
                } else {
                    prop_assert_eq!(left.len(), 1, "refused while a port is free");
                    let own = source(&left[0].1);
                    prop_assert!(!in_use.contains(&own.1), "{own:?} is in use");
                    let expected = udp(GATEWAY_TO_POD, (own, (POD, backend_port)), 63, b"x");
                    prop_assert_eq!(&left[0].1, &expected);
                    model.insert(key, Live { masquerade_port: own.1, last_seen: now, replied: false });
                }
            }
            Step::Reply { nth } => {
                let Some((&(client, port, service), _)) = model.iter().nth(nth) else { continue };
                let live = model.get_mut(&(client, port, service)).unwrap();
                (live.last_seen, live.replied) = (now, true);
                let (address, backend_port) = services[service];
                let own = (POD_SIDE_GATEWAY, live.masquerade_port);
                let to = ([10, 1, 0, 100 + client], port);
                let asked = udp(POD_TO_GATEWAY, ((POD, backend_port), own), 64, b"y");
                let expected = udp(TO_CLIENT, ((address, 80), to), 63, b"y");
                prop_assert_eq!(reply_when_known(&mut rig, &asked, to.0), expected);
            }
            Step::Pass { seconds } => {
                expire(&mut rig, seconds);
                let now = now + seconds;
                model.retain(|_, live| now - live.last_seen <= if live.replied { 120 } else { 30 });
                prop_assert_eq!(rig.flows.len(), model.len());
            }
        }
    }
    let counted = rig.path.counters.drops(tidegate_dataplane::verdict::DropReason::MasqueradePortsExhausted);
    prop_assert_eq!(counted, refused);
    Ok(())
}

proptest! {
    #[test]
    fn no_two_live_flows_share_a_reply_key_and_none_is_refused_while_a_port_is_free(
        is_ipv6 in any::<bool>(),
        ports in 1..9u16,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        over_family(is_ipv6, || follows_the_model(ports, steps))?;
    }
}
