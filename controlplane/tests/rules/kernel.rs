//! What the model says of random clusters, beside what the kernel does by rules of kube-proxy's shape.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::kube_proxy;
use crate::model::{
    Address, Call, Called, Cluster, Protocol, Verdict, Way, called, hides_client, is_in, verdict,
};
use crate::namespace::Namespace;
use crate::path_rig::{FROM_CLIENT, GATEWAY, POD_SIDE_GATEWAY, tcp, udp};
use crate::random;

/// Random clusters, and the calls in each.
const CLUSTERS: u32 = 200;
const CALLS: usize = 40;

/// Nobody's address, beyond the default route.
const LAST: Address = [192, 0, 2, 1];
/// The first source port of calls; each has its own, so that none belongs to a flow of another.
const FIRST_PORT: u16 = 1024;

/// What the kernel made of a packet.
#[derive(Clone, PartialEq, Debug)]
enum Observed {
    /// It came out at the pods' device, to this address and port, from this address.
    Sent { to: (Address, u16), from: Address },
    /// Port unreachable.
    Refused,
    /// It was delivered to the box itself.
    Delivered,
    /// Nothing came out.
    Silence,
}

/// What we decide otherwise than kube-proxy, and why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Exception {
    /// K24: replies of endpoints come back through a gateway, so servers see their clients; kube-proxy hides clients from
    /// outside the cluster at every ClusterIP, since a reply to a node's client would go past the node.
    ShowsClientOfClusterIp,
    /// K24: likewise where the external policy is Cluster.
    ShowsClientOfExternalAddress,
    /// K24: a client that is itself chosen is hidden wherever it runs; kube-proxy does so on the client's node alone, and
    /// packets of another node's Pod do not come to it by the Service's address.
    HidesHairpinOfAnotherNode,
    /// Design decision 14: a gateway that is no node has no endpoints of its own, and Local means Cluster.
    LocalMeansClusterWithoutNode,
}

/// Says by which exception a difference from the model is one that was decided; `None` if it is a fault.
fn exception(cluster: &Cluster, call: Call, expected: &Verdict, observed: &Observed) -> Option<Exception> {
    let Called::Port(service, _, way) = called(cluster, call) else { return None };
    let Verdict::OneOf(usable) = expected else { return None };
    let is_pod = is_in(call.from, cluster.pod_network);
    let is_local = if way == Way::ClusterIp { service.internal_local } else { service.external_local };
    match observed {
        Observed::Silence if cluster.node.is_none() && is_local => {
            Some(Exception::LocalMeansClusterWithoutNode)
        }
        Observed::Sent { to, from } if usable.contains(to) => match way {
            _ if *from == call.from && call.from == to.0 => Some(Exception::HidesHairpinOfAnotherNode),
            _ if *from != POD_SIDE_GATEWAY => None,
            Way::ClusterIp if !is_pod => Some(Exception::ShowsClientOfClusterIp),
            Way::External | Way::Balancer | Way::NodePort if !is_local => {
                Some(Exception::ShowsClientOfExternalAddress)
            }
            _ => None,
        },
        _ => None,
    }
}

fn agrees(call: Call, expected: &Verdict, observed: &Observed) -> bool {
    match (expected, observed) {
        (Verdict::OneOf(usable), Observed::Sent { to, from }) => {
            let seen = if hides_client(call, to.0) { POD_SIDE_GATEWAY } else { call.from };
            usable.contains(to) && *from == seen
        }
        (Verdict::Refused, Observed::Refused) | (Verdict::Dropped(_), Observed::Silence) => true,
        (Verdict::TheKernels, Observed::Sent { to, from }) => {
            (*to, *from) == ((call.to, call.port), call.from)
        }
        (Verdict::TheKernels, Observed::Delivered) => true,
        _ => false,
    }
}

/// A kernel that forwards between a client's device and the pods', in a namespace, and the other ends in another.
struct Kernel {
    gateway: Namespace,
    _ends: Namespace,
    frames: Child,
    to_send: ChildStdin,
    came: BufReader<ChildStdout>,
    next_port: u16,
    /// One rig per machine at a time.
    _turn: File,
}

impl Kernel {
    /// `None`, and a line that says why, without root or nft.
    fn up() -> Option<Self> {
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: nft is not installed");
            return None;
        }
        let turn = File::options().create(true).append(true).open("/tmp/tidegate-rig.lock").unwrap();
        turn.lock().unwrap();
        let (gateway, ends) = (Namespace::new()?, Namespace::new()?);
        ends.sysctl("ipv6/conf/default/disable_ipv6", "1");
        gateway.sysctl("ipv6/conf/default/disable_ipv6", "1");
        gateway.join("client0", &ends, "client1");
        gateway.join("pods0", &ends, "pods1");
        configure(&gateway);
        let mut frames = ends.enter(|| {
            Command::new("python3")
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rules/frames.py"))
                .args(["client1", "pods1", &std::net::Ipv4Addr::from(LAST).to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        Some(Self {
            to_send: frames.stdin.take().unwrap(),
            came: BufReader::new(frames.stdout.take().unwrap()),
            gateway,
            _ends: ends,
            frames,
            next_port: FIRST_PORT,
            _turn: turn,
        })
    }

    fn load(&self, rules: &str) {
        self.gateway.enter(|| {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success(), "nft refuses:\n{rules}");
        });
    }

    /// Sends one packet for each call and says what became of it.
    fn observe(&mut self, calls: &[Call]) -> Vec<Observed> {
        let mut batch = String::new();
        let mut ports = Vec::new();
        for call in calls {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            ports.push(self.next_port);
            let ends = ((call.from, self.next_port), (call.to, call.port));
            batch += &hexadecimal(&match call.protocol {
                Protocol::Tcp => tcp(FROM_CLIENT, ends, 64, "S", &tag(self.next_port)),
                Protocol::Udp => udp(FROM_CLIENT, ends, 64, &tag(self.next_port)),
            });
        }
        let last = ((calls[0].from, 9), (LAST, 9));
        batch += &hexadecimal(&udp(FROM_CLIENT, last, 64, b"last"));
        writeln!(self.to_send, "{batch}").unwrap();
        let mut came = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.came.read_line(&mut line).unwrap() > 0, "frames.py ended");
            let Some((_, frame)) = line.trim().split_once(' ') else { break };
            came.push(octets(frame));
        }
        calls.iter().zip(ports).map(|(call, port)| became(*call, port, &came)).collect()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _may_have_ended = self.frames.kill();
        let _no_use_for_its_status = self.frames.wait();
    }
}

/// Addresses, routes, neighbours that need no asking, and settings of the forwarding kernel.
fn configure(gateway: &Namespace) {
    // Frames are built for the MAC of the rig on octets. A new MAC makes a device forget its neighbours.
    gateway.ip("link set client0 address 02:00:00:00:01:01");
    for (device, address) in [("client0", GATEWAY), ("pods0", POD_SIDE_GATEWAY)] {
        let address = std::net::Ipv4Addr::from(address);
        gateway.ip(&format!("addr add {address}/24 dev {device}"));
        gateway.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0");
    }
    gateway.ip("route add default via 10.244.0.254");
    let neighbour = |address: &str, device: &str| {
        gateway.ip(&format!("neigh add {address} lladdr 02:00:00:00:09:09 dev {device} nud permanent"));
    };
    for number in (11..16).chain([77, 254]) {
        neighbour(&format!("10.244.0.{number}"), "pods0");
    }
    neighbour("10.1.0.2", "client0");
    neighbour("10.1.0.3", "client0");
    gateway.sysctl("ipv4/conf/all/rp_filter", "0");
    gateway.sysctl("ipv4/ip_forward", "1");
    gateway.sysctl("ipv4/icmp_ratemask", "0");
}

/// What tells a delivery to the box itself from kube-proxy's refusal: a rule behind its own.
const BEHIND: &str = "table ip behind {
    chain input {
        type filter hook input priority 10
        iifname client0 reject with icmp admin-prohibited
    }
}";

/// Payload by which a packet is known, also in an ICMP error's quote.
fn tag(port: u16) -> Vec<u8> {
    format!("call {port:05}").into_bytes()
}

/// Finds what became of a call among the frames that came.
fn became(call: Call, port: u16, came: &[Vec<u8>]) -> Observed {
    const ICMP: u8 = 1;
    let tag = tag(port);
    let mut own = came.iter().filter(|frame| frame.ends_with(&tag));
    let Some(frame) = own.next() else { return Observed::Silence };
    assert!(own.next().is_none(), "{call:?}: answered twice");
    let address = |at: usize| -> Address { frame[at..at + 4].try_into().unwrap() };
    if frame[23] != ICMP {
        let port = u16::from_be_bytes([frame[36], frame[37]]);
        return Observed::Sent { to: (address(30), port), from: address(26) };
    }
    assert_eq!(address(30), call.from);
    match frame[34..36] {
        [3, 3] => Observed::Refused,
        [3, 13] => Observed::Delivered,
        _ => panic!("{call:?}: ICMP {:?}", &frame[34..36]),
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>() + "\n"
}

fn octets(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<_> = hexadecimal.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn the_kernel_by_kube_proxys_rules_does_what_the_model_says_but_for_what_was_decided_otherwise() {
    let Some(kernel) = Kernel::up() else { return };
    kernel.load(BEHIND);
    let kernel = RefCell::new(kernel);
    let config = ProptestConfig {
        cases: CLUSTERS,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let seen = RefCell::new(BTreeMap::<String, u32>::new());
    let exceptions = RefCell::new(BTreeMap::<Exception, u32>::new());
    let strategy = (random::cluster(), prop::collection::vec(random::call(), CALLS));
    let result = TestRunner::new(config).run(&strategy, |(cluster, calls)| {
        let calls: Vec<Call> = calls.into_iter().map(|call| random::aimed(&cluster, call)).collect();
        let mut kernel = kernel.borrow_mut();
        kernel.load(&kube_proxy::rules(&cluster));
        for (call, observed) in calls.iter().zip(kernel.observe(&calls)) {
            let expected = verdict(&cluster, *call);
            if !agrees(*call, &expected, &observed) {
                let why = exception(&cluster, *call, &expected, &observed);
                prop_assert!(
                    why.is_some(),
                    "{call:?} of {cluster:?}: expected {expected:?}, the kernel {observed:?}"
                );
                *exceptions.borrow_mut().entry(why.unwrap()).or_default() += 1;
            } else {
                let name = match expected {
                    Verdict::OneOf(_) => "served".to_owned(),
                    other => format!("{other:?}"),
                };
                *seen.borrow_mut().entry(name).or_default() += 1;
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let (seen, exceptions) = (seen.into_inner(), exceptions.into_inner());
    println!("{seen:?} {exceptions:?}");
    assert!(seen.len() == 6 && seen.values().all(|count| *count > 5), "each verdict comes about: {seen:?}");
    assert_eq!(exceptions.len(), 4, "each exception comes about: {exceptions:?}");
}
