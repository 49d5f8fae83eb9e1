//! TCP connections that a client holds while other things happen.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::{PEER, Rig};

/// One connection of the client, for lines.
pub(crate) struct Conversation {
    program: Child,
    said: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Conversation {
    /// Connects the client to a line server.
    #[track_caller]
    pub(crate) fn open(rig: &Rig, address: &str, port: &str) -> Self {
        Self::begin(rig, &["hold", address, port])
    }

    #[track_caller]
    fn begin(rig: &Rig, client: &[&str]) -> Self {
        let mut program = rig
            .command("jump", &[&["python3", PEER], client].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = program.stdin.take().unwrap();
        let answers = BufReader::new(program.stdout.take().unwrap());
        let mut conversation = Self { program, said, answers };
        assert_eq!(conversation.next_line(), "connected");
        conversation
    }

    /// Sends a line and gives the answer; `closed` or the name of the error if none came within 5 s.
    pub(crate) fn say(&mut self, line: &str) -> String {
        writeln!(self.said, "{line}").unwrap();
        self.next_line()
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _may_have_ended = self.program.kill();
        let _no_use_for_its_status = self.program.wait();
    }
}

/// Many connections of the client to a line server.
pub(crate) struct Many(Conversation);

impl Many {
    /// Connects the client so many times.
    #[track_caller]
    pub(crate) fn open(rig: &Rig, address: &str, port: &str, count: u32) -> Self {
        Self(Conversation::begin(rig, &["hold-many", address, port, &count.to_string()]))
    }

    /// Sends a line over each connection and counts the right answers.
    pub(crate) fn say(&mut self, line: &str) -> u32 {
        self.0.say(line).parse().unwrap()
    }
}

/// Silent connections of the client, which wait for their end.
pub(crate) struct Watch(Conversation);

impl Watch {
    /// Connects the client to a line server so many times.
    #[track_caller]
    pub(crate) fn open(rig: &Rig, address: &str, port: &str, count: u32) -> Self {
        Self(Conversation::begin(rig, &["watch-many", address, port, &count.to_string()]))
    }

    /// Waits until all are reset, and says when each was, in ns of the monotonic clock.
    #[track_caller]
    pub(crate) fn resets(mut self) -> Vec<u64> {
        let mut resets = Vec::new();
        loop {
            let line = self.0.next_line();
            if let Some(left) = line.strip_suffix(" left") {
                assert_eq!(left, "0", "connections that nobody told, beside {}", resets.len());
                return resets;
            }
            resets.push(line.parse().unwrap_or_else(|_| panic!("a connection ended otherwise: {line}")));
        }
    }
}
