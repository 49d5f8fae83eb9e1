//! Flows that take the gateway's address, through the real binary in the namespace rig.

mod rig;

use std::collections::BTreeSet;

use rig::conversation::Conversation;
use rig::gateway::Gateway;
use rig::manifests::service;
use rig::{CLIENT, ENT_DEV, Rig, Shape};

/// The gateway's address on the pods' side.
const GATEWAY: &str = "10.244.0.1";
const DEV_1: &str = "10.244.0.11";
/// ClusterIP of a Service whose pods do not listen.
const DEAF: &str = "10.96.1.30";
/// A port of the default range, for programs of the gateway itself.
const WITHIN: &str = "61500";

/// Asks the Service over HTTP from a namespace; the answer is the pod's name and the source that it saw.
#[track_caller]
fn ask(rig: &Rig, namespace: &str) -> String {
    rig.output(namespace, &["curl", "-sS", "--max-time", "5", &format!("http://{ENT_DEV}:8080/")])
}

#[test]
fn client_and_pods_in_one_subnet_behind_one_interface_work_by_default() {
    let Some(rig) = Rig::up(Shape::OneSubnet) else { return };
    let gateway = Gateway::start(&rig);
    let answers: BTreeSet<String> = (0..20).map(|_| ask(&rig, "jump")).collect();
    assert_eq!(answers, BTreeSet::from([format!("dev-1 {GATEWAY}"), format!("dev-2 {GATEWAY}")]));
    let answer = rig.peer("jump", &["udp", ENT_DEV, "8080", "hello"]);
    assert!(answer.ends_with(&format!("{GATEWAY} hello")), "answered {answer}");
    let body = format!("curl -sS --max-time 15 http://{ENT_DEV}:8080/bytes/2000000 | wc -c");
    assert_eq!(rig.output("jump", &["bash", "-c", &body]), "2000000");
    let mut talks: Vec<_> = (0..5).map(|_| Conversation::open(&rig, ENT_DEV, "9000")).collect();
    for talk in &mut talks {
        assert!(talk.say("line").ends_with(&format!("{GATEWAY} line")));
    }
    assert_eq!(rig.output("jump", &["dig", "+short", "ent.dev.svc.cluster.local"]), ENT_DEV);
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("flows_masqueraded"), 27, "{counters:#?}");
    assert!(counters.drops().is_empty(), "{counters:#?}");
    gateway.stop();
}

#[test]
fn a_pod_that_is_itself_chosen_reaches_itself_and_sees_the_gateway() {
    for shape in [Shape::TwoInterfaces, Shape::OneSubnet] {
        let Some(rig) = Rig::up(shape) else { return };
        let gateway = Gateway::start(&rig);
        let answers: BTreeSet<String> = (0..20).map(|_| ask(&rig, "dev-1")).collect();
        assert_eq!(answers, BTreeSet::from([format!("dev-1 {GATEWAY}"), format!("dev-2 {GATEWAY}")]));
        let datagrams: BTreeSet<String> =
            (0..20).map(|_| rig.peer("dev-1", &["udp", ENT_DEV, "8080", "hello"])).collect();
        assert!(datagrams.contains(&format!("dev-1 {GATEWAY} hello")), "{datagrams:?}");
        let counters = gateway.assert_accounts_balance();
        assert!(counters.drops().is_empty(), "{counters:#?}");
    }
}

#[test]
fn a_pod_port_where_nobody_listens_refuses_datagrams_of_a_masqueraded_client() {
    let Some(rig) = Rig::up(Shape::OneSubnet) else { return };
    let deaf = service("dev", "deaf", DEAF, "enterprise").replace("targetPort: 8080", "targetPort: 7000");
    rig.manifests.write("deaf.yaml", &deaf);
    let gateway = Gateway::start(&rig);
    for namespace in ["jump", "dev-1"] {
        assert_eq!(rig.peer(namespace, &["udp", DEAF, "8080", "hello"]), "refused");
    }
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("answered"), 0, "the pod refused, not the gateway: {counters:#?}");
    assert_eq!(counters.value("forwarded"), 4, "two datagrams and the errors: {counters:#?}");
}

#[test]
fn always_hides_every_client_behind_the_gateway() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start_with(&rig, &["--masquerade", "always", "--masquerade-ports", "62000-62099"]);
    let answers: BTreeSet<String> = (0..10).map(|_| ask(&rig, "jump")).collect();
    assert!(answers.iter().all(|answer| answer.ends_with(GATEWAY)), "{answers:?}");
    let mut talk = Conversation::open(&rig, ENT_DEV, "9000");
    let first = talk.say("line");
    assert!(first.ends_with(&format!("{GATEWAY} line")), "{first}");
    let seen = ["dev-1", "dev-2"].map(|pod| rig.output(pod, &["ss", "-tnH", "sport", "=", ":9000"])).concat();
    // The server's socket takes both families, so the address is shown as an IPv4-mapped one.
    let port = seen.split_once(&format!("{GATEWAY}]:")).and_then(|(_, port)| port.trim().parse::<u16>().ok());
    assert!(port.is_some_and(|port| (62_000..=62_099).contains(&port)), "{seen}");
    gateway.assert_accounts_balance();
}

#[test]
fn never_shows_every_client() {
    let Some(rig) = Rig::up(Shape::OneInterface) else { return };
    let reserved = rig.output("gw", &["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]);
    let gateway = Gateway::start_with(&rig, &["--masquerade", "never"]);
    let answers: BTreeSet<String> = (0..10).map(|_| ask(&rig, "jump")).collect();
    assert!(answers.iter().all(|answer| answer.ends_with(CLIENT)), "{answers:?}");
    let now = rig.output("gw", &["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]);
    assert_eq!(now, reserved);
    gateway.assert_accounts_balance();
}

#[test]
fn programs_of_the_gateway_on_ports_of_the_range_are_not_disturbed() {
    let Some(rig) = Rig::up(Shape::OneSubnet) else { return };
    rig.start_peer("gw", &["serve", "gateway", WITHIN, "61501"]);
    let gateway = Gateway::start(&rig);
    ask(&rig, "jump");
    let before = gateway.counters();
    let url = format!("http://{GATEWAY}:{WITHIN}/");
    for (namespace, address) in [("jump", "10.244.0.2"), ("dev-1", DEV_1)] {
        let seen = rig.output(namespace, &["curl", "-sS", "--max-time", "5", &url]);
        assert_eq!(seen, format!("gateway {address}"));
    }
    // The replies come from an endpoint to a port of the range, so they are taken, and handed to the kernel.
    let url = format!("http://{DEV_1}:8080/");
    let seen = rig.output("gw", &["curl", "-sS", "--max-time", "5", "--local-port", "62500", &url]);
    assert_eq!(seen, format!("dev-1 {GATEWAY}"));
    let answer = rig.peer("gw", &["udp", DEV_1, "8080", "hello", "62501"]);
    assert_eq!(answer, format!("dev-1 {GATEWAY} hello"));
    let after = gateway.assert_accounts_balance();
    let punted = after.grown(&before, "punted");
    assert!(punted >= 4, "{after:#?}");
    assert_eq!(after.grown(&before, "rx_packets"), punted, "{after:#?}");
}

#[test]
fn the_ports_are_reserved_in_the_kernel_while_we_run_and_only_ours_are_given_back() {
    let Some(rig) = Rig::up(Shape::OneSubnet) else { return };
    let set = |ports: &str| {
        rig.output("gw", &["sysctl", "-w", &format!("net.ipv4.ip_local_reserved_ports={ports}")]);
    };
    let reserved = || rig.output("gw", &["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]);
    set("8080,62000-62010");
    let gateway = Gateway::start(&rig);
    assert_eq!(reserved(), "8080,61000-65535");
    gateway.stop();
    assert_eq!(reserved(), "8080,62000-62010");

    let gateway = Gateway::start(&rig);
    gateway.kill();
    assert_eq!(reserved(), "8080,61000-65535");
    set("8080,9999,61000-65535");
    let gateway = Gateway::start_with(&rig, &["--masquerade-ports", "50000-50009"]);
    assert_eq!(reserved(), "8080,9999,50000-50009,62000-62010");
    gateway.stop();
    assert_eq!(reserved(), "8080,9999,62000-62010");
}
