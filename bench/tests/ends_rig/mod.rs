//! A client and a sink, each in a namespace, joined by a pair of devices.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tidegate_bench::traffic::ends::Place;
use tidegate_bench::traffic::frame::Stations;
use tidegate_bench::traffic::generator::Generator;
use tidegate_bench::traffic::targets::Targets;

/// Removed when the value goes.
pub(crate) struct Rig {
    prefix: String,
    _turn: File,
}

impl Rig {
    /// Builds it, or says why not.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if !std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            println!("skipped: needs root");
            return None;
        }
        let turn = File::options().create(true).append(true).open("/tmp/tidegate-rig.lock").unwrap();
        turn.lock().unwrap();
        let rig = Self { prefix: format!("tgends-{name}-{}", std::process::id()), _turn: turn };
        let (client, sink) = (rig.place("client").namespace, rig.place("sink").namespace);
        run(&format!("ip netns add {client}"));
        run(&format!("ip netns add {sink}"));
        run(&format!(
            "ip -n {client} link add eth0 address 02:00:00:00:00:02 type veth
             peer name eth0 address 02:00:00:00:00:01 netns {sink}"
        ));
        for offloads in ["ip link set lo up", "ip link set eth0 up", "ethtool -K eth0 tx off tso off gso off"]
        {
            rig.client(offloads);
            rig.sink(offloads);
        }
        Some(rig)
    }

    /// Runs a command at the client.
    pub(crate) fn client(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.place("client").namespace));
    }

    /// Runs a command at the sink.
    pub(crate) fn sink(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.place("sink").namespace));
    }

    /// Opens the generator.
    pub(crate) fn generator(&self) -> Generator {
        let stations = Stations { gateway: [2, 0, 0, 0, 0, 1], client: [2, 0, 0, 0, 0, 2] };
        let targets = Targets::alternating(100);
        Generator::open(&self.place("client"), 0, &self.place("sink"), stations, targets).unwrap()
    }

    fn place(&self, end: &str) -> Place {
        Place { namespace: format!("{}-{end}", self.prefix), device: "eth0".to_owned() }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for end in ["client", "sink"] {
            let namespace = self.place(end).namespace;
            let _may_not_exist = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
