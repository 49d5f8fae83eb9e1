//! Random histories of endpoints that come and go, packets and the clock: what flows may do when their endpoint has left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tidegate::cluster::{Endpoint, EndpointSlice, Event, ObjectName, SlicePort};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::neighbours::NeighbourState;
use tidegate_dataplane::net::Protocol;

use crate::path_rig::*;
use crate::world::World;

/// Both Services have the same Pods, so an endpoint that has left the one may be listed by the other.
const SERVICES: [(&str, [u8; 4]); 2] = [("one", VIP), ("two", OTHER_VIP)];
const PODS: [[u8; 4]; 3] = [[10, 244, 0, 11], [10, 244, 0, 12], [10, 244, 0, 13]];
const GRACE_NS: u64 = 1_000_000_000;
const HISTORIES: [u32; 2] = [200, 4000];

/// What the slices of a Service port say of a Pod.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Says {
    Nothing,
    Ready,
    Terminating,
    NotReady,
}

/// A Service and one of its ports: TCP is the first, UDP the second.
type ServicePort = (usize, usize);

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A flow by its client's port, which is one Service port's alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Flow {
    service_port: ServicePort,
    number: u16,
}

impl Flow {
    const fn port(self) -> u16 {
        40_000 + 1000 * self.service_port.0 as u16 + 100 * self.service_port.1 as u16 + self.number
    }

    fn of(port: u16) -> Self {
        let at = port - 40_000;
        Self { service_port: (usize::from(at / 1000), usize::from(at / 100 % 10)), number: at % 100 }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The slice of a Service port says this of each Pod.
    Slice(ServicePort, [Says; 3]),
    /// A client's packet; flags are of TCP.
    Request(Flow, &'static str),
    /// A packet of a Pod that the flow went to at some time.
    Reply(Flow, usize, &'static str),
    Wait(Duration),
    /// Silent connections are looked at.
    Probe,
    KeepHouse,
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    (0..2_usize, 0..2_usize)
}

fn flow() -> impl Strategy<Value = Flow> {
    (service_port(), 0..3_u16).prop_map(|(service_port, number)| Flow { service_port, number })
}

fn step() -> impl Strategy<Value = Step> {
    let says = || {
        prop_oneof![
            3 => Just(Says::Nothing),
            4 => Just(Says::Ready),
            1 => Just(Says::Terminating),
            1 => Just(Says::NotReady)
        ]
    };
    let wait = prop_oneof![4 => 1..300_u64, 1 => Just(999), 2 => Just(1000), 1 => 1000..3000_u64];
    prop_oneof![
        3 => (service_port(), says(), says(), says()).prop_map(|(at, a, b, c)| Step::Slice(at, [a, b, c])),
        8 => (flow(), select(vec!["S", "A", "A"])).prop_map(|(flow, flags)| Step::Request(flow, flags)),
        6 => (flow(), 0..3_usize, select(vec!["SA", "A"]))
            .prop_map(|(flow, place, flags)| Step::Reply(flow, place, flags)),
        3 => wait.prop_map(|milliseconds| Step::Wait(Duration::from_millis(milliseconds))),
        2 => Just(Step::Probe),
        1 => Just(Step::KeepHouse),
    ]
}

/// What is asked of the history.
#[derive(Default, Debug)]
struct Seen {
    forwarded: u32,
    /// Packets of TCP that went to an endpoint that had left, within the grace time.
    within_grace: u32,
    resets: u32,
    moved: u32,
    late: u32,
}

struct History {
    world: World,
    says: BTreeMap<ServicePort, [Says; 3]>,
    /// Since when a Service port no longer lists a Pod.
    left: BTreeMap<(ServicePort, usize), Now>,
    /// RSTs to a Pod since then.
    resets: BTreeMap<(Flow, usize), u32>,
    /// Pods that a flow went to, the last one last.
    went_to: BTreeMap<Flow, Vec<usize>>,
    seen: Seen,
}

impl History {
    fn new() -> Self {
        let service = |(name, address): (&str, [u8; 4])| {
            let address = std::net::Ipv4Addr::from(address);
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: dev}}\nspec:\n  clusterIP: {address}\n  ports:\n  - {{name: web, port: 80, protocol: TCP}}\n  - {{name: voice, port: 80, protocol: UDP}}\n---\n"
            )
        };
        let mut history = Self {
            world: World::new(&SERVICES.map(service).concat()),
            says: BTreeMap::new(),
            left: BTreeMap::new(),
            resets: BTreeMap::new(),
            went_to: BTreeMap::new(),
            seen: Seen::default(),
        };
        for service_port in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            history.say(service_port, [Says::Ready; 3]);
        }
        history
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Slice(service_port, says) => self.say(*service_port, *says),
            Step::Request(flow, flags) => self.request(*flow, flags),
            Step::Reply(flow, place, flags) => self.reply(*flow, *place, flags),
            Step::Wait(time) => self.world.wait(*time),
            Step::Probe => {
                let World { rig, .. } = &mut self.world;
                rig.path.probe_departed(&rig.snapshot, rig.now, &mut rig.wire);
                let left = rig.collect();
                self.judge(&left);
            }
            Step::KeepHouse => self.world.keep_house(),
        }
        self.know_neighbours();
    }

    fn know_neighbours(&mut self) {
        let mut known = neighbours();
        known.extend(PODS.map(|pod| (next_hop(POD_SIDE, pod), NeighbourState::Reachable(POD_MAC))));
        self.world.rig.learn(&known);
    }

    fn say(&mut self, service_port: ServicePort, says: [Says; 3]) {
        let (name, _) = SERVICES[service_port.0];
        let port = ["web", "voice"][service_port.1];
        let endpoints = PODS.iter().zip(says).filter(|(_, says)| *says != Says::Nothing);
        let slice = EndpointSlice {
            name: ObjectName::new("dev", &format!("{name}-{port}")),
            service: ObjectName::new("dev", name),
            endpoints: endpoints.map(|(pod, says)| endpoint(*pod, says)).collect(),
            ports: vec![SlicePort { name: port.into(), protocol: PROTOCOLS[service_port.1], port: 8080 }],
        };
        self.says.insert(service_port, says);
        for (pod, says) in says.into_iter().enumerate() {
            if says == Says::Nothing {
                self.left.entry((service_port, pod)).or_insert(self.world.rig.now);
            } else {
                self.left.remove(&(service_port, pod));
                self.resets.retain(|(flow, own), _| (flow.service_port, *own) != (service_port, pod));
            }
        }
        self.world.tell([Event::SliceApplied(Arc::new(slice))]);
        self.know_neighbours();
    }

    fn request(&mut self, flow: Flow, flags: &str) {
        let ends = ((CLIENT, flow.port()), (SERVICES[flow.service_port.0].1, 80));
        let packet = match PROTOCOLS[flow.service_port.1] {
            Protocol::Tcp => tcp(FROM_CLIENT, ends, 64, flags, b""),
            _ => udp(FROM_CLIENT, ends, 64, b"x"),
        };
        let left = self.world.rig.carry(CLIENT_SIDE, &[packet]);
        self.judge(&left);
    }

    fn reply(&mut self, flow: Flow, place: usize, flags: &str) {
        let Some(pods) = self.went_to.get(&flow) else { return };
        let ends = ((PODS[pods[place % pods.len()]], 8080), (CLIENT, flow.port()));
        let packet = match PROTOCOLS[flow.service_port.1] {
            Protocol::Tcp => tcp(FROM_POD, ends, 64, flags, b""),
            _ => udp(FROM_POD, ends, 64, b"x"),
        };
        let before = self.world.counter("drop_late_reply");
        let left = self.world.rig.carry(POD_SIDE, &[packet]);
        self.seen.late += u32::from(self.world.counter("drop_late_reply") > before);
        // Handed to the kernel it would go on as it is.
        assert!(left.iter().all(|(out, _)| *out != Out::Punt), "{flow:?}: a late reply as it came");
        self.judge(&left);
    }

    /// Asserts of every packet that leaves what the rules say of its flow.
    fn judge(&mut self, left: &[(Out, Vec<u8>)]) {
        for (out, packet) in left {
            match *out {
                Out::Device(POD_SIDE) => self.judge_request(packet),
                // An error of ours comes from the Service's address, too.
                _ => assert!(packet[26..28] == [10, 96] || packet[26..30] == GATEWAY, "{packet:?}"),
            }
        }
    }

    fn judge_request(&mut self, packet: &[u8]) {
        let flow = Flow::of(u16::from_be_bytes([packet[34], packet[35]]));
        let pod = PODS.iter().position(|pod| packet[30..34] == *pod).unwrap();
        let says = self.says[&flow.service_port][pod];
        let is_reset = flow.service_port.1 == 0 && packet[47] & 0x04 != 0;
        let now = self.world.rig.now;
        self.seen.forwarded += 1;
        if flow.service_port.1 == 1 {
            assert!(
                matches!(says, Says::Ready | Says::Terminating),
                "{flow:?}: a datagram to Pod {pod}, of which is said {says:?}"
            );
        } else if let Some(since) = self.left.get(&(flow.service_port, pod)) {
            if now.ns() < since.ns() + GRACE_NS {
                self.seen.within_grace += 1;
            } else {
                assert!(is_reset, "{flow:?}: to Pod {pod}, which left {:?} ago", now.ns() - since.ns());
                let resets = self.resets.entry((flow, pod)).or_default();
                *resets += 1;
                assert!(*resets == 1, "{flow:?}: a second RST to Pod {pod}");
                self.seen.resets += 1;
            }
        }
        let went_to = self.went_to.entry(flow).or_default();
        if went_to.last() != Some(&pod) {
            self.seen.moved += u32::from(!went_to.is_empty());
            went_to.retain(|own| *own != pod);
            went_to.push(pod);
        }
    }
}

fn endpoint(address: [u8; 4], says: Says) -> Endpoint {
    Endpoint {
        ready: says == Says::Ready,
        serving: says != Says::NotReady,
        terminating: says == Says::Terminating,
        ..Endpoint::ready_at(ip(address))
    }
}

#[test]
fn k26_k27_after_the_grace_time_nothing_but_one_rst_goes_where_the_service_port_no_longer_lists_an_endpoint()
{
    let is_long = std::env::var_os("TIDEGATE_LONG").is_some();
    let config = ProptestConfig {
        cases: HISTORIES[usize::from(is_long)],
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let total = std::cell::RefCell::new(Seen::default());
    // Within the minute that late replies are known for.
    let steps = prop::collection::vec(step(), 80);
    let result = proptest::test_runner::TestRunner::new(config).run(&steps, |steps| {
        let mut history = History::new();
        steps.iter().for_each(|step| history.take(step));
        let (mut total, seen) = (total.borrow_mut(), history.seen);
        total.forwarded += seen.forwarded;
        total.within_grace += seen.within_grace;
        total.resets += seen.resets;
        total.moved += seen.moved;
        total.late += seen.late;
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let total = total.into_inner();
    println!("{total:?}");
    let Seen { forwarded, within_grace, resets, moved, late } = total;
    assert!([forwarded, within_grace, resets, moved, late].iter().all(|count| *count > 20), "{total:?}");
}
