//! What a Service promises its clients, through the real binary in the namespace rig.

mod rig;

use std::collections::BTreeSet;
use std::time::Duration;

use rig::gateway::Gateway;
use rig::{CLIENT, ENT_DEV, ENT_PROD, HOLLOW, Rig, Shape};

/// "At once": far below the second after which a client would send its SYN again.
const AT_ONCE: Duration = Duration::from_millis(700);

#[test]
fn a_client_reaches_every_pod_of_the_service_and_no_other_under_its_own_address() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let answers: BTreeSet<String> = (0..40)
        .map(|_| rig.output("jump", &["curl", "-sS", "--max-time", "5", "http://10.96.1.10:8080/"]))
        .collect();
    let wanted = [format!("dev-1 {CLIENT}"), format!("dev-2 {CLIENT}")];
    assert_eq!(answers, BTreeSet::from(wanted));
    let counters = gateway.assert_accounts_balance();
    assert!(counters.drops().is_empty(), "{counters:#?}");
}

#[test]
fn a_datagram_and_its_reply_count_as_two_forwarded_packets() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let before = gateway.assert_accounts_balance();
    let answer = rig.peer("jump", &["udp", ENT_PROD, "8080", "hello"]);
    assert!(
        [format!("prod-1 {CLIENT} hello"), format!("prod-2 {CLIENT} hello")].contains(&answer),
        "answered {answer}"
    );
    let after = gateway.assert_accounts_balance();
    for (name, packets) in [
        ("rx_packets", 2),
        ("tx_packets", 2),
        ("forwarded", 2),
        ("answered", 0),
        ("punted", 0),
        ("originated", 0),
    ] {
        assert_eq!(after.grown(&before, name), packets, "{name}: {after:#?}");
    }
    assert_eq!(after.drops(), before.drops());
}

#[test]
fn the_first_datagram_waits_until_its_neighbour_is_resolved() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    // Nothing has passed between the gateway and the pods yet; what was learned otherwise goes.
    rig.output("gw", &["ip", "neigh", "flush", "all"]);
    let answer = rig.peer("jump", &["udp", ENT_DEV, "8080", "first"]);
    assert!(answer.ends_with("first"), "answered {answer}");
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("held"), 0, "{counters:#?}");
}

#[test]
fn a_large_body_arrives_whole() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let digest = |namespace: &str, host: &str| {
        let fetch = format!("curl -sS --max-time 15 http://{host}:8080/bytes/20000000 | sha256sum");
        rig.output(namespace, &["bash", "-o", "pipefail", "-c", &fetch])
    };
    assert_eq!(digest("jump", ENT_DEV), digest("dev-1", "127.0.0.1"));
    gateway.assert_accounts_balance();
}

#[test]
fn a_cluster_ip_answers_ping() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    for address in [ENT_DEV, HOLLOW] {
        let said = rig.output("jump", &["ping", "-c", "3", "-i", "0.2", "-W", "2", address]);
        assert!(said.contains("3 received"), "{said}");
    }
    let counters = gateway.assert_accounts_balance();
    assert_eq!(counters.value("answered"), 6, "{counters:#?}");
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    assert_refused(&rig, HOLLOW, "8080");
    gateway.assert_accounts_balance();
}

#[test]
fn a_port_that_the_service_does_not_have_refuses_at_once() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    assert_refused(&rig, ENT_DEV, "8081");
    gateway.assert_accounts_balance();
}

#[track_caller]
fn assert_refused(rig: &Rig, address: &str, port: &str) {
    let seen = rig.curl(&format!("http://{address}:{port}/"));
    assert_eq!(seen.status, 7, "{}", seen.errors);
    assert!(seen.took < AT_ONCE, "refused after {:?}", seen.took);
    assert_eq!(rig.peer("jump", &["udp", address, port, "hello"]), "refused");
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    for (path, status) in [("/healthz", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/nothing", "404")]
    {
        assert_eq!(gateway.page(path).0, status, "{path}");
    }
}
