//! What is not ours stays the kernel's, through the real binary in the namespace rig.

mod rig;

use std::time::Duration;

use rig::gateway::Gateway;
use rig::{CLIENT, ENT_DEV, Rig, Shape, eventually};

const DEV_1: &str = "10.244.0.11";

#[test]
fn a_client_that_talks_to_a_pod_directly_is_routed_by_the_kernel() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.let_the_kernel_forward();
    let gateway = Gateway::start(&rig);
    let seen = rig.curl(&format!("http://{DEV_1}:8080/"));
    assert_eq!((seen.status, seen.output), (0, format!("dev-1 {CLIENT}")), "{}", seen.errors);
    assert_eq!(rig.peer("jump", &["udp", DEV_1, "8080", "hello"]), format!("dev-1 {CLIENT} hello"));
    let counters = gateway.assert_accounts_balance();
    assert!(counters.value("punted") > 0, "{counters:#?}");
    assert_eq!(counters.value("forwarded"), 0, "{counters:#?}");
}

#[test]
fn a_kernel_that_does_not_forward_keeps_a_client_from_the_pods_own_address() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let seen = rig.run("jump", &["curl", "-sS", "--max-time", "1", &format!("http://{DEV_1}:8080/")]);
    assert_eq!(seen.status, 28, "{}{}", seen.output, seen.errors);
    gateway.assert_accounts_balance();
}

#[test]
fn the_gateways_own_connections_to_an_endpoint_are_not_touched() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let before = gateway.counters();
    let said = rig.output("gw", &["curl", "-sS", "--max-time", "5", &format!("http://{DEV_1}:8080/")]);
    assert_eq!(said, "dev-1 10.244.0.1");
    assert_eq!(rig.peer("gw", &["udp", DEV_1, "8080", "hello"]), "dev-1 10.244.0.1 hello");
    let after = gateway.assert_accounts_balance();
    assert_eq!(after.grown(&before, "rx_packets"), 0, "{after:#?}");
}

#[test]
fn a_server_on_the_gateway_itself_is_reached_by_clients_and_by_pods() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.start_peer("gw", &["serve", "gateway"]);
    let gateway = Gateway::start(&rig);
    assert_eq!(rig.curl("http://10.1.0.1:8080/").output, format!("gateway {CLIENT}"));
    let said = rig.output("dev-1", &["curl", "-sS", "--max-time", "5", "http://10.244.0.1:8080/"]);
    assert_eq!(said, format!("gateway {DEV_1}"));
    gateway.assert_accounts_balance();
}

#[test]
fn a_stopped_process_becomes_a_pass_to_the_kernel_within_half_a_second() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.let_the_kernel_forward();
    let gateway = Gateway::start(&rig);
    assert_eq!(rig.peer("jump", &["udp", DEV_1, "8080", "hello"]), format!("dev-1 {CLIENT} hello"));
    assert!(gateway.counters().value("punted") > 0, "a worker has its part in this, for a start");
    gateway.signal("STOP");
    // The probe's own start takes some of the time, so the bound is not taken for more exact than it is.
    let answer = rig.peer("jump", &["probe", DEV_1, "8080", "5"]);
    gateway.signal("CONT");
    let passed_after: u64 = answer.parse().unwrap_or_else(|_| panic!("the probe saw {answer}"));
    assert!(passed_after < 600, "passed to the kernel after {passed_after} ms");
    eventually("the Service answers again", Duration::from_secs(5), || {
        let seen = rig.run("jump", &["curl", "-sS", "--max-time", "1", &format!("http://{ENT_DEV}:8080/")]);
        (seen.status == 0).then_some(())
    });
    gateway.assert_accounts_balance();
}
