//! Namespaces for the tests of both ends: a client and a sink, or two wires.
#![allow(dead_code, reason = "each test program takes what it needs")]

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

/// The station of every device of [`Wires`].
pub(crate) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Two wires in one namespace: `client` to `west`, `east` to `backend`.
pub(crate) struct Wires {
    name: String,
    _turn: File,
}

impl Wires {
    /// Builds them, or says why not.
    pub(crate) fn new(name: &str, queues: u32) -> Option<Self> {
        if !std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            println!("skipped: needs root");
            return None;
        }
        let turn = File::options().create(true).append(true).open("/tmp/tidegate-rig.lock").unwrap();
        turn.lock().unwrap();
        let wires = Self { name: format!("tgwires-{name}-{}", std::process::id()), _turn: turn };
        run(&format!("ip netns add {}", wires.name));
        for (one, other) in [("client", "west"), ("east", "backend")] {
            let with = format!("numrxqueues {queues} numtxqueues {queues}");
            run(&format!(
                "ip -n {} link add {one} {with} address 02:00:00:00:00:01 type veth peer name {other} {with}
                 address 02:00:00:00:00:01",
                wires.name
            ));
        }
        for device in ["client", "west", "east", "backend"] {
            for command in [
                "sysctl -qw net.ipv6.conf.DEVICE.disable_ipv6=1",
                "ethtool -K DEVICE tx off tso off gso off",
                "ip link set DEVICE up",
            ] {
                run(&format!("ip netns exec {} {}", wires.name, command.replace("DEVICE", device)));
            }
        }
        Some(wires)
    }

    /// Its namespace.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a piece of work in its namespace.
    pub(crate) fn enter(&self, work: impl FnOnce() + Send) {
        tidegate_bench::netns::within(&self.name, || {
            work();
            Ok(())
        })
        .unwrap();
    }

    /// The index of a device in the namespace of the calling thread.
    pub(crate) fn index(name: &str) -> u32 {
        let links = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
        let text = String::from_utf8_lossy(&links.stdout).into_owned();
        text.split(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let _may_not_exist = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
