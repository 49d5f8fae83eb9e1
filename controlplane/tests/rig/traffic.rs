//! Clients that keep sending: until they are answered, or until they are told to stop.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use super::{PEER, Rig};

/// Datagrams of the client, a hundred a second, until the first answer.
pub(crate) struct Traffic(Child);

impl Traffic {
    /// Starts to send.
    pub(crate) fn start(rig: &Rig, address: &str, port: &str) -> Self {
        let patience = std::env::var("TIDEGATE_RIG_PATIENCE").unwrap_or_else(|_| "20".to_owned());
        let mut probe = rig.command("jump", &["python3", PEER, "probe", address, port, &patience]);
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

/// Datagrams of the client, a hundred a second, each answered.
pub(crate) struct Stream {
    program: Child,
    said: BufReader<ChildStdout>,
}

impl Stream {
    /// Starts to send and waits for the first answer.
    #[track_caller]
    pub(crate) fn start(rig: &Rig, address: &str, port: &str) -> Self {
        let mut stream = rig.command("jump", &["python3", PEER, "stream", address, port]);
        let mut program = stream.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(program.stdout.take().unwrap());
        let mut stream = Self { program, said };
        assert_eq!(stream.next_line(), "answered");
        stream
    }

    /// Stops, and says how long the longest silence was between two answers.
    #[track_caller]
    pub(crate) fn longest_silence(mut self) -> Duration {
        drop(self.program.stdin.take());
        let said = self.next_line();
        Duration::from_millis(said.parse().unwrap_or_else(|_| panic!("the stream said {said}")))
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _may_have_ended = self.program.kill();
        let _no_use_for_its_status = self.program.wait();
    }
}
