//! Start, clean end, restart and crash, through the real binary in the namespace rig.

mod rig;

use rig::conversation::Conversation;
use rig::gateway::{Gateway, refused_start};
use rig::traces::{differences, kernel_state};
use rig::{CLIENT, ENT_DEV, ENT_PROD, Rig, Shape};

#[track_caller]
fn assert_serves(rig: &Rig) {
    let seen = rig.curl(&format!("http://{ENT_DEV}:8080/"));
    assert!(seen.output.ends_with(CLIENT), "{}{}", seen.output, seen.errors);
    assert_eq!(rig.output("jump", &["dig", "+short", "ent.dev.svc.cluster.local"]), ENT_DEV);
}

/// Makes the gateway learn its next hops in another order than it did before it ended: a flow that was kept must not
/// take one by the place that its own had then.
#[track_caller]
fn meet_other_neighbours_first(rig: &Rig) {
    for _ in 0..6 {
        let seen = rig.curl(&format!("http://{ENT_PROD}:8080/"));
        assert!(seen.output.ends_with(CLIENT), "{}{}", seen.output, seen.errors);
    }
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let before = kernel_state(&rig);
    let gateway = Gateway::start(&rig);
    assert_serves(&rig);
    let running = kernel_state(&rig);
    assert!(running.contains("tide0") && running.contains("10.96.0.10"), "{running}");
    gateway.stop();
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn k37_an_established_connection_survives_a_restart() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let gateway = Gateway::start(&rig);
    let mut talks: Vec<_> = (0..4).map(|_| Conversation::open(&rig, ENT_DEV, "9000")).collect();
    let first: Vec<_> = talks.iter_mut().map(|talk| talk.say("line")).collect();
    assert!(first.iter().all(|answer| answer.ends_with(&format!("{CLIENT} line"))), "{first:?}");
    gateway.stop();
    let gateway = Gateway::start(&rig);
    meet_other_neighbours_first(&rig);
    let second: Vec<_> = talks.iter_mut().map(|talk| talk.say("line")).collect();
    assert_eq!(second, first);
    assert_serves(&rig);
    gateway.assert_accounts_balance();
}

#[test]
fn a_start_after_a_kill_serves_on_and_clears_what_was_left_and_only_that() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.output("gw", &["ip", "addr", "add", "10.96.0.77/32", "dev", "lo"]);
    let before = kernel_state(&rig);
    let gateway = Gateway::start(&rig);
    let mut talk = Conversation::open(&rig, ENT_DEV, "9000");
    let first = talk.say("line");
    gateway.kill();
    let left = kernel_state(&rig);
    assert!(!left.contains("prog/xdp"), "{left}");
    let gateway = Gateway::start(&rig);
    meet_other_neighbours_first(&rig);
    assert_serves(&rig);
    assert_eq!(talk.say("line"), first);
    gateway.assert_accounts_balance();
    gateway.stop();
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn an_address_that_was_there_before_stays() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.output("gw", &["ip", "addr", "add", "10.96.0.10/32", "dev", "lo"]);
    let before = kernel_state(&rig);
    let gateway = Gateway::start(&rig);
    assert_serves(&rig);
    gateway.stop();
    assert_eq!(differences(&before, &kernel_state(&rig)), [""; 0]);
}

#[test]
fn a_second_gateway_on_the_same_devices_is_refused_and_the_first_serves_on() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    let (status, errors) = refused_start(&rig, &["client0", "pods0"], &[]);
    assert!([1, 2].contains(&status), "status {status}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(gateway.lives());
    assert_serves(&rig);
    gateway.assert_accounts_balance();
}
