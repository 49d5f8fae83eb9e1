//! Devices that change while it runs, through the real binary in the namespace rig.

mod rig;

use std::time::{Duration, Instant};

use rig::conversation::Conversation;
use rig::gateway::Gateway;
use rig::traffic::Traffic;
use rig::{BOTH, ENT_DEV, HOLLOW, PODS, Rig, Shape, eventually};

/// From the moment a device is up again to the first answer.
const UP_LIMIT: Duration = Duration::from_secs(2);
/// The same for a carrier: the kernel looks at carriers once a second, and then repeats its ARP request, which went
/// nowhere, once a second.
const CARRIER_LIMIT: Duration = Duration::from_secs(4);
/// From the moment a device is made anew and up to the first answer, one round of ARP at both ends included.
const RETURN_LIMIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a second of traffic to a Service while a device of `namespace` is down; once it is up again, answers are
/// to come soon, and a connection that was there before is to go on.
#[track_caller]
fn assert_traffic_resumes_after_down_and_up(namespace: &str, device: &str, limit: Duration) {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut talk = Conversation::open(&rig, ENT_DEV, "9000");
    let first = talk.say("line");
    rig.output(namespace, &["ip", "link", "set", device, "down"]);
    let before = gateway.counters();
    let traffic = Traffic::start(&rig, ENT_DEV, "8080");
    eventually("a second of traffic", PATIENCE, || {
        (gateway.counters().grown(&before, "rx_packets") >= 100).then_some(())
    });
    assert_eq!(gateway.counters().grown(&before, "forwarded"), 0, "nothing gets through");
    rig.output(namespace, &["ip", "link", "set", device, "up"]);
    let up = Instant::now();
    traffic.await_answer();
    let took = up.elapsed();
    assert!(took < limit, "traffic resumed {took:?} after {device} was up");
    assert_eq!(talk.say("line"), first);
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn traffic_resumes_after_a_served_device_was_down() {
    assert_traffic_resumes_after_down_and_up("gw", "pods0", UP_LIMIT);
}

#[test]
fn traffic_resumes_after_a_served_device_had_no_carrier() {
    assert_traffic_resumes_after_down_and_up("lan", "gw", CARRIER_LIMIT);
}

#[test]
fn a_device_that_was_deleted_and_made_anew_is_served_again_while_the_others_went_on() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    let mut talk = Conversation::open(&rig, ENT_DEV, "9000");
    let first = talk.say("line");
    let mut talk_ipv6 = Conversation::open(&rig, BOTH[1], "9000");
    let first_ipv6 = talk_ipv6.say("line");
    assert_eq!(gateway.page("/readyz").0, "200");

    rig.delete_pods_device();
    gateway.await_line("the device that is gone", |line| line.contains("device pods0: gone"));
    let (status, text) = gateway.page("/readyz");
    assert_eq!((status.as_str(), text.as_str()), ("503", "device pods0: missing\n"));
    assert_eq!(rig.curl(&format!("http://{HOLLOW}:8080/")).status, 7, "the other device refuses as before");

    let traffic = Traffic::start(&rig, ENT_DEV, "8080");
    let before = gateway.counters();
    eventually("traffic meanwhile", PATIENCE, || {
        (gateway.counters().grown(&before, "rx_packets") >= 20).then_some(())
    });
    rig.make_pods_device();
    let made = Instant::now();
    traffic.await_answer();
    let took = made.elapsed();
    assert!(took < RETURN_LIMIT, "traffic resumed {took:?} after the device was there");
    // Who asks by IPv6 shows its link-local address only, so pods would notice the gateway's new MAC after a while.
    for (pod, _) in PODS {
        rig.output(pod, &["ip", "-6", "neigh", "flush", "all"]);
    }
    assert_eq!(talk.say("line"), first, "a connection from before goes on");
    assert_eq!(talk_ipv6.say("line"), first_ipv6, "a connection over IPv6 too");
    gateway.await_line("that it is served", |line| line.contains("device pods0: back and served"));
    assert_eq!(gateway.page("/readyz").0, "200");
    let counters = gateway.assert_accounts_balance();
    assert_eq!((counters.value("device_losses"), counters.value("device_returns")), (1, 1));
    gateway.stop();
}

#[test]
fn a_device_may_come_and_go_more_often_than_there_are_frames_for_its_rings() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    // Room for the rings of two devices and little more: what a device had must come back when it goes.
    let gateway = Gateway::start_with(&rig, &["--frames", "8192"]);
    for turn in 1..=4 {
        rig.delete_pods_device();
        rig.make_pods_device();
        eventually("the device is served again", PATIENCE, || {
            (gateway.counters().value("device_returns") == turn).then_some(())
        });
        let traffic = Traffic::start(&rig, ENT_DEV, "8080");
        traffic.await_answer();
    }
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn a_device_whose_mac_was_changed_serves_on() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut talk = Conversation::open(&rig, ENT_DEV, "9000");
    let first = talk.say("line");
    for (device, mac) in [("client0", "02:00:00:00:aa:01"), ("pods0", "02:00:00:00:aa:02")] {
        rig.output("gw", &["ip", "link", "set", device, "address", mac]);
    }
    // The others would ask again by themselves, but only after a while.
    for namespace in ["jump"].into_iter().chain(PODS.map(|(pod, _)| pod)) {
        rig.output(namespace, &["ip", "neigh", "flush", "all"]);
    }
    assert_eq!(talk.say("line"), first);
    assert_eq!(rig.curl(&format!("http://{ENT_DEV}:8080/")).status, 0);
    gateway.assert_accounts_balance();
    gateway.stop();
}
