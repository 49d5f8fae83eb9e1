//! Routes, next hops and MACs that change under a running transfer, through the real binary in the namespace rig.
//!
//! Behind the LAN of the pods there is the network of the pod `far`, which two routers lead to:
//!
//! ```text
//!   jump ── [gw] ── LAN ──┬── r1 ──┬── far
//!                         └── r2 ──┘
//! ```
//!
//! Answers of `far` always come by r2.

mod rig;

use std::time::Duration;

use rig::conversation::Conversation;
use rig::gateway::Gateway;
use rig::traffic::Stream;
use rig::{BOTH, Rig, Shape, eventually};

/// How soon a change of the kernel's tables reaches established flows.
const LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// What differs between the families.
struct Family {
    flag: &'static str,
    cluster_ip: &'static str,
    /// ClusterIP of the Service `both`.
    near: &'static str,
    network: &'static str,
    routers: [&'static str; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        flag: "-4",
        cluster_ip: "10.96.1.42",
        near: BOTH[0],
        network: "10.200.0.0/24",
        routers: ["10.244.0.91", "10.244.0.92"],
    },
    Family {
        flag: "-6",
        cluster_ip: "fd00:96::142",
        near: BOTH[1],
        network: "fd00:200::/64",
        routers: ["fd00:244::91", "fd00:244::92"],
    },
];

const FAR: &str = "apiVersion: v1
kind: Service
metadata: {name: far, namespace: dev}
spec:
  clusterIP: 10.96.1.42
  clusterIPs: [10.96.1.42, \"fd00:96::142\"]
  ipFamilyPolicy: RequireDualStack
  ports: [{name: echo, protocol: UDP, port: 8080}, {name: line, protocol: TCP, port: 9000}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-4, namespace: dev, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
ports: [{name: echo, protocol: UDP, port: 8080}, {name: line, protocol: TCP, port: 9000}]
endpoints: [{addresses: [10.200.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-6, namespace: dev, labels: {kubernetes.io/service-name: far}}
addressType: IPv6
ports: [{name: echo, protocol: UDP, port: 8080}, {name: line, protocol: TCP, port: 9000}]
endpoints: [{addresses: [\"fd00:200::2\"]}]
";

/// Adds the routers and what is behind them.
fn add_far_network(rig: &Rig) {
    rig.add_host("far", "10.244.0.90");
    rig.output("far", &["ip", "link", "del", "eth0"]);
    for (number, router) in [(1, "r1"), (2, "r2")] {
        rig.add_host(router, &format!("10.244.0.9{number}"));
        rig.output(router, &["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        let link = |end| format!("10.201.{number}.{end}/24");
        rig.join([(router, "behind", &link(1), 1500), ("far", router, &link(2), 1500)]);
        for (namespace, script) in [
            (
                router,
                format!(
                    "ip -6 addr add fd00:201:{number}::1/64 dev behind nodad &&
                ip route add 10.200.0.0/24 via 10.201.{number}.2 &&
                ip -6 route add fd00:200::/64 via fd00:201:{number}::2"
                ),
            ),
            ("far", format!("ip -6 addr add fd00:201:{number}::2/64 dev {router} nodad")),
        ] {
            rig.output(namespace, &["bash", "-c", &script]);
        }
    }
    let far = "ip addr add 10.200.0.2/32 dev lo && ip -6 addr add fd00:200::2/128 dev lo nodad &&
        ip route add default via 10.201.2.1 src 10.200.0.2 &&
        ip -6 route add default via fd00:201:2::1 src fd00:200::2";
    rig.output("far", &["bash", "-c", far]);
    rig.start_peer("far", &["serve", "far"]);
    rig.manifests.write("far.yaml", FAR);
}

/// Sets the gateway's route to `far` to these next hops.
fn lead(rig: &Rig, family: &Family, next_hops: &[&str]) {
    let mut command = vec!["ip", family.flag, "route", "replace", family.network];
    next_hops.iter().for_each(|router| command.extend(["nexthop", "via", router]));
    rig.output("gw", &command);
}

/// Packets that a router has sent on to `far`.
fn sent_on(rig: &Rig, router: &str) -> u64 {
    let count = rig.output(router, &["cat", "/sys/class/net/behind/statistics/tx_packets"]);
    count.parse().unwrap()
}

#[test]
fn a_route_that_changes_under_a_transfer_is_followed_within_a_second() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_network(&rig);
    FAMILIES.iter().for_each(|family| lead(&rig, family, &family.routers[..1]));
    let gateway = Gateway::start(&rig);
    for family in &FAMILIES {
        let mut talk = Conversation::open(&rig, family.cluster_ip, "9000");
        let first = talk.say("line");
        let stream = Stream::start(&rig, family.cluster_ip, "8080");
        let before = sent_on(&rig, "r2");
        lead(&rig, family, &family.routers[1..]);
        // Nothing gets through here any more, for this family.
        rig.output("r1", &["ip", family.flag, "route", "del", family.network]);
        eventually("packets by the other router", PATIENCE, || {
            (sent_on(&rig, "r2") > before + 100).then_some(())
        });
        let silence = stream.longest_silence();
        assert!(silence < LIMIT, "{}: silent for {silence:?}", family.network);
        assert_eq!(talk.say("line"), first, "{}", family.network);
    }
    gateway.assert_accounts_balance();
}

#[test]
fn flows_are_spread_over_the_next_hops_of_a_route_and_each_stays_on_its_own() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_network(&rig);
    FAMILIES.iter().for_each(|family| lead(&rig, family, &family.routers));
    let gateway = Gateway::start(&rig);
    let sent = || ["r1", "r2"].map(|router| sent_on(&rig, router));
    for family in &FAMILIES {
        let before = sent();
        // One flow for each, of some ten packets.
        let requests = format!(
            "for i in $(seq 16); do python3 - <<'P'\n\
             import socket\n\
             peer = socket.socket(socket.{}, socket.SOCK_DGRAM)\n\
             peer.connect(('{}', 8080))\n\
             peer.settimeout(5)\n\
             for _ in range(10):\n\
             \x20   peer.send(b'spread')\n\
             \x20   peer.recv(100)\n\
             P\ndone",
            if family.flag == "-4" { "AF_INET" } else { "AF_INET6" },
            family.cluster_ip
        );
        rig.output("jump", &["bash", "-e", "-c", &requests]);
        let after = sent();
        let each = [0, 1].map(|router| after[router] - before[router]);
        assert!(each.iter().all(|sent| *sent >= 10), "{}: {each:?}", family.network);
        let flows: u64 = each.iter().map(|sent| sent / 10).sum();
        assert!((15..=17).contains(&flows), "{}: flows changed their next hop: {each:?}", family.network);

        let stream = Stream::start(&rig, family.cluster_ip, "8080");
        lead(&rig, family, &family.routers[1..]);
        rig.output("r1", &["ip", family.flag, "route", "del", family.network]);
        let before = sent_on(&rig, "r2");
        eventually("packets by what is left", PATIENCE, || {
            (sent_on(&rig, "r2") > before + 100).then_some(())
        });
        let silence = stream.longest_silence();
        assert!(silence < LIMIT, "{}: silent for {silence:?}", family.network);
    }
    gateway.assert_accounts_balance();
}

#[test]
fn a_router_is_reached_by_its_link_local_address_for_both_families() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_network(&rig);
    let shown = rig.output("r2", &["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]);
    let router = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap();
    for Family { flag, network, .. } in &FAMILIES {
        let mut command = vec!["ip", flag, "route", "replace", network, "via"];
        command.extend((*flag == "-4").then_some("inet6").into_iter().chain([router, "dev", "pods0"]));
        rig.output("gw", &command);
    }
    let gateway = Gateway::start(&rig);
    for family in &FAMILIES {
        let answer = rig.peer("jump", &["udp", family.cluster_ip, "8080", "hello"]);
        assert!(answer.starts_with("far ") && answer.ends_with(" hello"), "{}: {answer}", family.network);
    }
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

/// Gives hosts new MACs under a stream, and returns how long it was silent.
fn silence_at_new_macs(
    rig: &Rig,
    gateway: &Gateway<'_>,
    address: &str,
    namespaces: &[&str],
    number: usize,
) -> Duration {
    let stream = Stream::start(rig, address, "8080");
    for namespace in namespaces {
        let name = namespace.as_bytes();
        // No two hosts may share one, or the LAN's bridge takes a host's packets to the other that spoke last.
        let mac = format!("02:00:00:{:02x}:{number:02x}:{:02x}", name[0], name[name.len() - 1]);
        rig.output(namespace, &["ip", "link", "set", "eth0", "address", &mac]);
    }
    let before = gateway.counters();
    eventually("a second of traffic", PATIENCE, || {
        (gateway.counters().grown(&before, "rx_packets") >= 200).then_some(())
    });
    stream.longest_silence()
}

#[test]
fn a_backend_and_a_router_that_change_their_mac_are_followed_within_a_second() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    add_far_network(&rig);
    FAMILIES.iter().for_each(|family| lead(&rig, family, &family.routers[1..]));
    let gateway = Gateway::start(&rig);
    // What takes over an address says so: by gratuitous ARP and an unsolicited Neighbor Advertisement.
    for namespace in ["dev-1", "dev-2", "r2"] {
        let notify = ["net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1"];
        rig.output(namespace, &["sysctl", "-w", notify[0], notify[1]]);
    }
    for (number, family) in FAMILIES.iter().enumerate() {
        for (address, namespaces) in [(family.near, &["dev-1", "dev-2"][..]), (family.cluster_ip, &["r2"])] {
            let silence = silence_at_new_macs(&rig, &gateway, address, namespaces, number);
            assert!(silence < LIMIT, "{address}: silent for {silence:?}");
        }
    }
    gateway.assert_accounts_balance();
}
