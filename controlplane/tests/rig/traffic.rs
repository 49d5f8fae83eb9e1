//! A client that keeps sending until it is answered.

use std::io::Read;
use std::process::{Child, Stdio};

use super::{PEER, Rig};

/// Datagrams of the client, a hundred a second, until the first answer.
pub(crate) struct Traffic(Child);

impl Traffic {
    /// Starts to send.
    pub(crate) fn start(rig: &Rig, address: &str, port: &str) -> Self {
        let mut probe = rig.command("jump", &["python3", PEER, "probe", address, port, "20"]);
        Self(probe.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for the first answer.
    #[track_caller]
    pub(crate) fn await_answer(mut self) {
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success() && said.trim() != "nothing", "{status}: {said}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _no_use_for_its_status = self.0.wait();
    }
}
