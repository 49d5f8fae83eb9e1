//! Noise on the wire, through the real binary in the namespace rig.

mod rig;

use rig::gateway::Gateway;
use rig::{CLIENT, DNS, ENT_DEV, Rig, Shape};

const SEEDS: [&str; 3] = ["1", "2", "3"];

#[test]
fn noise_at_the_dns_port_disturbs_nobody() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    for seed in SEEDS {
        rig.peer("jump", &["noise", DNS, "53", "500", seed]);
        assert_eq!(rig.output("jump", &["dig", "+short", "+time=3", "ent.dev.svc.cluster.local"]), ENT_DEV);
    }
    assert!(gateway.lives());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    gateway.assert_accounts_balance();
}

#[test]
fn truncated_and_lying_packets_are_accounted_for_and_disturb_nobody() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start(&rig);
    rig.output("jump", &["ping", "-c", "1", "-W", "2", "10.1.0.1"]);
    for seed in SEEDS {
        rig.peer("jump", &["frames", "eth0", "10.1.0.1", CLIENT, ENT_DEV, "1000", seed]);
        let seen = rig.curl(&format!("http://{ENT_DEV}:8080/"));
        assert_eq!(seen.status, 0, "{}", seen.errors);
    }
    assert!(gateway.lives());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    let counters = gateway.assert_accounts_balance();
    assert!(!counters.drops().is_empty(), "no packet of the noise was dropped by name: {counters:#?}");
}
