//! How a gateway waits for packets, and what it says of its memory.

mod rig;

use rig::gateway::Gateway;
use rig::{ENT_DEV, Rig, Shape};

#[test]
fn a_gateway_that_polls_without_pause_drives_the_queues_itself_and_serves() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start_with(&rig, &["--polling", "busy"]);
    for device in ["client0", "pods0"] {
        gateway.await_line("how it polls", |line| {
            line.contains(&format!("device {device} queue 0: copy mode, busy-polled"))
        });
    }
    for _ in 0..20 {
        assert_eq!(rig.curl(&format!("http://{ENT_DEV}:8080/")).status, 0);
    }
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn a_gateway_says_on_which_pages_its_frames_and_flow_tables_lie() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    let mut gateway = Gateway::start_with(&rig, &["--frames", "4096"]);
    gateway.await_line("the pages of frames", |line| line.contains("frames of worker 0: 16 MiB"));
    gateway.await_line("the pages of flow tables", |line| {
        line.contains("flow tables: ") && line.contains("huge pages")
    });
    gateway.stop();
}
