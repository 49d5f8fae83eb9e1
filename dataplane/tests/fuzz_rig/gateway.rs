//! Two gateways that get the same packets, one with zeros behind each in its frame, the other with ones: what they send
//! must be the same, or something read what is not of the packet. And what holds for every packet.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Subject;
use super::step::Step;
use super::wire::{self, LINK, is_transport_right};
use crate::path_rig::*;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursors, EndpointId, ServicePortId};
use tidegate_dataplane::neighbours::Neighbours;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::packet::Parsed;
use tidegate_dataplane::routes::{DeviceIndex, Route, RouteKind, RouteTable, Routes};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, Services, Terms, VirtualAddress};
use tidegate_dataplane::snapshot::{Device, Snapshot};

const BEHIND: [u8; 2] = [0x00, 0xff];
const FRAMES: usize = 512;
const MTU: usize = 1500;

type Left = Vec<(Out, Vec<u8>)>;

/// The gateways.
pub struct Twins([Twin; 2]);

struct Twin {
    rig: Rig,
    cursors: Cursors,
}

impl Twins {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| {
            let mut rig = Rig::with_flows(256);
            rig.snapshot = both_families();
            Twin { rig, cursors: Cursors::part(0, 1) }
        }))
    }
}

impl Subject for Twins {
    fn take(&mut self, step: &Step) -> u64 {
        let before = self.0[0].counts();
        let [one, other] = [0, 1].map(|twin| self.0[twin].take(step, BEHIND[twin]));
        let after = self.0[0].counts();
        let moved: BTreeMap<&str, u64> = after
            .iter()
            .map(|(name, count)| (*name, count - before[name]))
            .filter(|(_, more)| *more > 0)
            .collect();
        assert_twins_agree(&one, &other);
        one.iter().for_each(assert_sound);
        if let Some(frame) = step.frame() {
            assert_follows(frame, &one, &moved);
        }
        feature(&one, &moved)
    }

    fn finish(&mut self) {
        for twin in &mut self.0 {
            twin.wait(40_000);
            assert_eq!(twin.rig.path.held_frames(), 0, "what waits leaves in time");
            assert_eq!(twin.rig.path.pool.len(), FRAMES, "no frame is lost");
        }
    }
}

impl Twin {
    fn take(&mut self, step: &Step, behind: u8) -> Left {
        match step {
            Step::Client(frame) => self.carry(CLIENT_SIDE, frame, behind),
            Step::Pod(frame) => self.carry(POD_SIDE, frame, behind),
            Step::Wait(ms) => self.wait(*ms),
        }
    }

    fn carry(&mut self, device: DeviceIndex, octets: &[u8], behind: u8) -> Left {
        let Rig { path, snapshot, wire, now, .. } = &mut self.rig;
        let mut frame = path.pool.pop().unwrap();
        let room = path.memory.octets_mut(&mut frame);
        room.fill(behind);
        room[..octets.len()].copy_from_slice(octets);
        frame.set_len(octets.len());
        path.carry(device, &mut vec![frame], snapshot, *now, wire);
        self.rig.collect()
    }

    fn wait(&mut self, ms: u32) -> Left {
        let Rig { path, snapshot, wire, now, flows } = &mut self.rig;
        *now = Now::from_ns(now.ns() + u64::from(ms) * 1_000_000);
        flows.expire(&mut self.cursors, *now, flows.capacity());
        for _ in 0..40 {
            path.expire_fragments(snapshot, *now, wire);
        }
        path.release(snapshot, *now, wire);
        self.rig.collect()
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let is_event =
            |name: &str| !name.ends_with("_bytes") && !name.starts_with("frames_") && name != "held";
        self.rig
            .path
            .counters
            .named()
            .filter(|(name, ..)| is_event(name))
            .map(|(name, _, count)| (name, count))
            .collect()
    }
}

/// The search for a masquerade port begins at a secret place, which each twin has its own.
fn is_masqueraded(frame: &[u8]) -> bool {
    let own = [GATEWAY, POD_SIDE_GATEWAY];
    let is_own = |address: &[u8]| own.iter().any(|own| address == own || address == ipv6(*own).octets());
    let has_own = |frame: &[u8]| wire::addresses(frame).is_some_and(|(from, to)| is_own(from) || is_own(to));
    has_own(frame) || wire::quoted(frame).is_some_and(|quote| has_own(&quote))
}

fn assert_twins_agree(one: &Left, other: &Left) {
    assert_eq!(one.len(), other.len(), "as many packets, whatever is behind them");
    for ((out, frame), (other_out, other_frame)) in one.iter().zip(other) {
        let may_differ = is_masqueraded(frame) && is_masqueraded(other_frame);
        assert_eq!((out, frame.len()), (other_out, other_frame.len()), "the same way, whatever is behind");
        assert!(may_differ || frame == other_frame, "the same octets, whatever is behind them");
    }
}

/// What holds for every frame that leaves by a device, whatever came.
fn assert_sound((out, frame): &(Out, Vec<u8>)) {
    if *out == Out::Punt {
        return;
    }
    assert!(Parsed::parse(frame).is_ok(), "what leaves can be parsed: {frame:02x?}");
    let places = wire::places(frame).expect("what leaves fits its frame");
    assert!(wire::is_header_right(frame, places), "the checksum of its header is right: {frame:02x?}");
    assert!(places.end - LINK <= MTU, "its link takes it");
}

/// What holds for the frames that one frame has caused to leave.
fn assert_follows(came: &[u8], left: &Left, moved: &BTreeMap<&str, u64>) {
    let is_error = wire::quoted(came).is_some();
    assert!(!is_error || !moved.contains_key("flows_inserted"), "an error opens no flow");
    // A fragment lets others go that waited for it, and says nothing of them.
    if wire::places(came).is_some_and(|places| places.fragment.is_some()) {
        return;
    }
    let is_forwarded = moved.contains_key("forwarded");
    for (_, frame) in left.iter().filter(|(out, _)| *out != Out::Punt) {
        assert!(frame.len() <= came.len() || !is_forwarded, "nothing is added to what goes on");
        if is_forwarded {
            assert_eq!(
                wire::is_udp_without(came),
                wire::is_udp_without(frame),
                "none stays none: {frame:02x?}"
            );
        }
        match is_transport_right(came) {
            Some(true) => {
                assert_ne!(is_transport_right(frame), Some(false), "right stays right: {frame:02x?}");
            }
            Some(false) if is_forwarded && !is_icmp(came) => {
                assert_eq!(is_transport_right(frame), Some(false), "wrong stays wrong: {frame:02x?}");
            }
            _ => {}
        }
        let (Some(quoted), Some(quote), true) = (wire::quoted(came), wire::quoted(frame), is_forwarded)
        else {
            continue;
        };
        assert_ne!(is_transport_right(frame), Some(false), "the checksum of an error is right: {frame:02x?}");
        assert_eq!(quoted.len(), quote.len(), "a quote keeps its length");
        assert_eq!(
            is_transport_right(&quoted),
            is_transport_right(&quote),
            "as right as it was: {frame:02x?}"
        );
        if let (Some(before), Some(after)) = (wire::places(&quoted), wire::places(&quote)) {
            assert_eq!(wire::is_header_right(&quoted, before), wire::is_header_right(&quote, after));
        }
    }
}

fn is_icmp(frame: &[u8]) -> bool {
    wire::places(frame).is_some_and(|places| matches!(places.protocol, 1 | 58))
}

/// What was new about a step, as far as one can see from outside: what was counted, and what kinds of packets left.
fn feature(left: &Left, moved: &BTreeMap<&str, u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    moved.keys().for_each(|name| name.hash(&mut hasher));
    let kinds: BTreeSet<_> = left.iter().map(|(out, frame)| (*out == Out::Punt, kind(frame))).collect();
    kinds.hash(&mut hasher);
    hasher.finish()
}

/// Family, transport, and whether it is a fragment or quotes another.
fn kind(frame: &[u8]) -> (bool, u8, bool, bool) {
    let Some(places) = wire::places(frame) else { return (false, 0, false, false) };
    let known = matches!(places.protocol, 1 | 6 | 17 | 58 | 132);
    let protocol = if known { places.protocol } else { 0 };
    (places.is_ipv6, protocol, places.fragment.is_some(), wire::quoted(frame).is_some())
}

/// The gateway of the golden cases, for both families and all protocols at once.
fn both_families() -> Snapshot {
    let cidrs = || prefix([10, 96, 0, 0], 16);
    let services = Services::new([cidrs(), over_ipv6(cidrs)]).with(services()).with(over_ipv6(services));
    let addresses = |own| Arc::from([prefix(own, 24), over_ipv6(|| prefix(own, 24))]);
    let device = |index, mac, own| Device { index, mac, mtu: MTU, addresses: addresses(own) };
    Snapshot {
        links_generation: 1,
        routes: Arc::new(Routes::new(routes().into_iter().chain(over_ipv6(routes)))),
        neighbours: Arc::new(Neighbours::new(neighbours().into_iter().chain(over_ipv6(neighbours)))),
        devices: Arc::new([
            device(CLIENT_SIDE, CLIENT_SIDE_MAC, GATEWAY),
            device(POD_SIDE, POD_SIDE_MAC, POD_SIDE_GATEWAY),
        ]),
        ..Snapshot::empty(services)
    }
}

fn services() -> Vec<(std::net::IpAddr, Option<VirtualAddress>)> {
    let backends = [
        (VIP, Some(POD)),
        (OTHER_VIP, Some(POD)),
        (EMPTY_VIP, None),
        (ELSEWHERE_VIP, Some([172, 16, 0, 5])),
        (LOCAL_VIP, Some(GATEWAY)),
        (UNROUTED_VIP, Some([203, 0, 113, 1])),
        (QUIET_VIP, Some(QUIET_POD)),
        (HAIRPIN_VIP, Some(CLIENT)),
    ];
    backends.into_iter().map(|(vip, backend)| (ip(vip), Some(virtual_address(vip, backend)))).collect()
}

fn virtual_address(vip: [u8; 4], backend: Option<[u8; 4]>) -> VirtualAddress {
    let number = u64::from(vip[3]) * 8 + u64::from(is_ipv6()) * 4096;
    let port = |protocol: Protocol| {
        let members = backend.map(|address| Backend {
            address: ip(address),
            port: Port::new(8080),
            id: EndpointId(number + u64::from(protocol.number()) * 65_536),
        });
        let backends = Arc::new(Backends::new(members.into_iter().collect()));
        let id = ServicePortId(number + u64::from(protocol.number()) % 8);
        ServicePort { protocol, port: Port::new(80), id, backends, terms: Terms::default() }
    };
    VirtualAddress::new([Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(port).to_vec())
}

fn routes() -> Vec<Route> {
    let link = |device| RouteKind::Unicast { device, gateway: None };
    let route = |table, to, length, kind| {
        let network = prefix(to, length);
        Route { table, destination: network.address, prefix_length: network.length, metric: 0, kind }
    };
    vec![
        route(RouteTable::Local, GATEWAY, 32, RouteKind::Local),
        route(RouteTable::Main, [10, 1, 0, 0], 24, link(CLIENT_SIDE)),
        route(RouteTable::Main, [10, 244, 0, 0], 24, link(POD_SIDE)),
        route(RouteTable::Main, [172, 16, 0, 0], 16, link(ELSEWHERE)),
    ]
}
