//! The namespace rig as tests see it: a client, a gateway and pods, built by `tools/rig`, with the real binary in
//! the gateway. Reading order: [`Rig`] the namespaces and what runs in them, [`gateway`] the daemon,
//! [`manifests`] what it follows, [`counters`] what it shows, [`traces`] what it leaves behind, [`conversation`] a
//! client that stays, [`traffic`] one that keeps sending, [`jumping_clock`] what sets the daemon's clock.

#![allow(dead_code, reason = "each test program takes what it needs")]

pub(crate) mod conversation;
pub(crate) mod counters;
pub(crate) mod gateway;
pub(crate) mod jumping_clock;
pub(crate) mod manifests;
pub(crate) mod traces;
pub(crate) mod traffic;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use manifests::Manifests;

/// ClusterIP of the Service `ent` in `dev`, which has the pods `dev-1` and `dev-2`.
pub(crate) const ENT_DEV: &str = "10.96.1.10";
/// ClusterIP of the Service `ent` in `prod`, which has the pods `prod-1` and `prod-2`.
pub(crate) const ENT_PROD: &str = "10.96.2.10";
/// ClusterIPs of the Service `both` in `dev`, which has the pods `dev-1` and `dev-2` in both families.
pub(crate) const BOTH: [&str; 2] = ["10.96.7.10", "fd00:96::710"];
/// ClusterIP of the Service `hollow` in `dev`, which selects no pod.
pub(crate) const HOLLOW: &str = "10.96.1.20";
/// Address of cluster DNS.
pub(crate) const DNS: &str = "10.96.0.10";
/// The client's address.
pub(crate) const CLIENT: &str = "10.1.0.2";
/// The client's IPv6 address.
pub(crate) const CLIENT_IPV6: &str = "fd00:1::2";
/// Pods that run from the start, with their addresses.
pub(crate) const PODS: [(&str, &str); 4] = [
    ("dev-1", "10.244.0.11"),
    ("dev-2", "10.244.0.12"),
    ("prod-1", "10.244.0.21"),
    ("prod-2", "10.244.0.22"),
];

const PREFIX: &str = "tgtest";
/// The programs at the ends of the rig.
pub(crate) const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/peer.py");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/rig");

/// How the gateway is wired.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// `client0` to the client, `pods0` to the LAN of the pods.
    TwoInterfaces,
    /// `lan0` only, on a LAN that carries both subnets.
    OneInterface,
    /// As `OneInterface`, with one subnet of clients and pods, who have no route by the gateway but to Services.
    OneSubnet,
    /// As `TwoInterfaces`, with two queues on every device.
    TwoQueues,
}

/// The namespaces, removed with all that runs in them when the value goes.
pub(crate) struct Rig {
    pub(crate) shape: Shape,
    pub(crate) manifests: Manifests,
    scratch: tempfile::TempDir,
    peers: RefCell<Vec<Child>>,
    _turn: File,
}

/// What a program in a namespace printed, and how it ended.
pub(crate) struct Seen {
    /// Exit status; 124 if it took more than 20 s and was ended.
    pub(crate) status: i32,
    /// Standard output without the white space at its ends.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
    /// From start to end.
    pub(crate) took: Duration,
}

impl Rig {
    /// Builds the rig with a server in each pod and the manifests of all; `None`, with the reason on standard
    /// output, if this process may not. Waits for its turn: one rig per machine.
    pub(crate) fn up(shape: Shape) -> Option<Self> {
        if !is_root() {
            println!("skipped: needs root");
            return None;
        }
        let turn = File::options().create(true).append(true).open("/tmp/tidegate-rig.lock").unwrap();
        turn.lock().unwrap();
        let arguments: &[&str] = match shape {
            Shape::TwoInterfaces => &["up"],
            Shape::OneInterface => &["up", "--one-interface"],
            Shape::OneSubnet => &["up", "--one-subnet"],
            Shape::TwoQueues => &["up", "--queues", "2"],
        };
        run_script(arguments);
        // The flow table wants memory behind its file, and /run is a disk on some machines.
        let scratch = tempfile::Builder::new().prefix("tidegate-rig").tempdir_in("/dev/shm").unwrap();
        let rig = Self {
            shape,
            manifests: Manifests::create(scratch.path()),
            scratch,
            peers: RefCell::default(),
            _turn: turn,
        };
        rig.serve_pods();
        Some(rig)
    }

    /// Starts what each pod runs; all at once, since the interpreter's start is what takes time.
    fn serve_pods(&self) {
        let starting: Vec<_> = PODS.iter().map(|(pod, _)| self.begin_peer(pod, &["serve", pod])).collect();
        starting.into_iter().for_each(await_listening);
    }

    /// Adds a pod with a server in it; its manifest is the caller's to write.
    pub(crate) fn add_pod(&self, name: &str, address: &str) {
        self.add_host(name, address);
        self.start_peer(name, &["serve", name]);
    }

    /// Adds a host on the LAN of the pods that runs nothing.
    pub(crate) fn add_host(&self, name: &str, address: &str) {
        run_script(&["add", name, address]);
    }

    /// Joins two namespaces by a link: (namespace, device, address with prefix length, MTU) of each end.
    pub(crate) fn join(&self, ends: [(&str, &str, &str, u32); 2]) {
        let [(first, first_device, ..), (second, second_device, ..)] = ends;
        let second = qualified(second);
        let veth = ["type", "veth", "peer", "name", second_device, "netns", &second];
        self.output(first, &[&["ip", "link", "add", first_device], &veth[..]].concat());
        for (namespace, device, address, mtu) in ends {
            let configure = format!(
                "ip addr add {address} dev {device} && ip link set {device} mtu {mtu} up &&
                 ethtool -K {device} tx off tso off gso off gro off"
            );
            self.output(namespace, &["bash", "-c", &configure]);
        }
    }

    /// Deletes the gateway's device to the pods, as a driver that is unloaded does.
    pub(crate) fn delete_pods_device(&self) {
        self.output("gw", &["ip", "link", "del", "pods0"]);
    }

    /// Makes the gateway's device to the pods anew: the same name and addresses, another number and MAC.
    pub(crate) fn make_pods_device(&self) {
        run_script(&["reconnect"]);
    }

    /// Removes a pod's namespace and the server in it.
    pub(crate) fn remove_pod(&self, name: &str) {
        run_script(&["remove", name]);
    }

    /// Starts a server of `peer.py` in a namespace and waits until it listens. It ends with the rig.
    pub(crate) fn start_peer(&self, namespace: &str, program: &[&str]) {
        await_listening(self.begin_peer(namespace, program));
    }

    fn begin_peer(&self, namespace: &str, program: &[&str]) -> BufReader<ChildStdout> {
        let mut peer = self
            .command(namespace, &["python3", PEER])
            .args(program)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(peer.stdout.take().unwrap());
        self.peers.borrow_mut().push(peer);
        said
    }

    /// Runs a program in a namespace to its end.
    pub(crate) fn run(&self, namespace: &str, arguments: &[&str]) -> Seen {
        let start = Instant::now();
        let output = Command::new("timeout")
            .args(["20", "ip", "netns", "exec", &qualified(namespace)])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Seen {
            status: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Runs a program that must end with status 0 and gives what it printed.
    #[track_caller]
    pub(crate) fn output(&self, namespace: &str, arguments: &[&str]) -> String {
        let seen = self.run(namespace, arguments);
        assert_eq!(seen.status, 0, "{arguments:?} in {namespace}: {}{}", seen.output, seen.errors);
        seen.output
    }

    /// Runs a client program of `peer.py` to its end.
    #[track_caller]
    pub(crate) fn peer(&self, namespace: &str, program: &[&str]) -> String {
        self.output(namespace, &[&["python3", PEER], program].concat())
    }

    /// Fetches a page at the client; status 7 is a refused connection, 28 a time-out after 5 s.
    pub(crate) fn curl(&self, url: &str) -> Seen {
        self.run("jump", &["curl", "-sS", "--max-time", "5", url])
    }

    /// A program in a namespace, not yet started. `ip` replaces itself by it, so the child's id is the program's.
    pub(crate) fn command(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &qualified(namespace)]).args(arguments);
        command
    }

    /// Lets the gateway's kernel route what passes to it.
    pub(crate) fn let_the_kernel_forward(&self) {
        self.output("gw", &["sysctl", "-w", "net.ipv4.ip_forward=1"]);
    }

    /// A directory of the rig's own, gone with it.
    pub(crate) fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Directory of the flow table.
    pub(crate) fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for peer in self.peers.get_mut() {
            let _may_have_ended = peer.kill();
            let _no_use_for_its_status = peer.wait();
        }
        let _told_on_stderr = Command::new(SCRIPT).args(["down", "--prefix", PREFIX]).status();
    }
}

fn await_listening(mut peer: BufReader<ChildStdout>) {
    let mut line = String::new();
    peer.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "listening", "a server of the rig did not start");
}

fn run_script(arguments: &[&str]) {
    let status = Command::new(SCRIPT).args(arguments).args(["--prefix", PREFIX]).status().unwrap();
    assert!(status.success(), "tools/rig {arguments:?}: {status}");
}

fn qualified(namespace: &str) -> String {
    format!("{PREFIX}-{namespace}")
}

/// True if this process is root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Asks again and again until there is an answer; a test fails that waits longer than `limit`.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
