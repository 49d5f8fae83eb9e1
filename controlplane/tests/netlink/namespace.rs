//! Network namespaces that a test makes, enters and leaves nothing of.

// Entering a namespace and sending raw frames have no safe binding in the standard library.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_dataplane::routes::DeviceIndex;

/// A namespace; deleted when dropped, also by a failed test.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes an empty namespace with `lo` up; `None`, and a line that says so, without root.
    pub(crate) fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return None;
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("tgnl-{}-{number}", std::process::id()) };
        run("ip", &["netns", "add", &namespace.name]);
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Runs `ip` with these words in the namespace and returns what it prints; panics if it fails.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split_whitespace());
        run("ip", &arguments)
    }

    /// Runs `ip -j` and returns the objects it lists.
    pub(crate) fn ip_json(&self, words: &str) -> Vec<serde_json::Value> {
        let text = self.ip(&format!("-j {words}"));
        if text.trim().is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&text).expect("ip -j prints JSON")
        }
    }

    /// Writes a setting below `/proc/sys/net` of the namespace.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| std::fs::write(format!("/proc/sys/net/{name}"), value).expect(name));
    }

    /// Joins this namespace and `other` by a veth pair, one end in each, both up.
    pub(crate) fn join(&self, end: &str, other: &Self, other_end: &str) {
        self.ip(&format!("link add {end} type veth peer name {other_end} netns {}", other.name));
        self.ip(&format!("link set {end} up"));
        other.ip(&format!("link set {other_end} up"));
    }

    /// Runs `test` on a thread of its own inside the namespace.
    pub(crate) fn enter<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let inside = move || {
            // SAFETY: the descriptor is open for the whole call, and only this thread, which ends with the
            // test, changes its namespace.
            let joined = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(joined, 0, "setns {path}: {}", io::Error::last_os_error());
            test()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs an asynchronous test inside the namespace, on a one-threaded runtime as the control thread has
    /// it.
    pub(crate) fn enter_async<T: Send, F: Future<Output = T>>(&self, test: impl FnOnce() -> F + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(test())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A panic here would hide the test's own.
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} could not be deleted", self.name);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Sends one whole Ethernet frame out of a device, as a worker does.
pub(crate) fn send_frame(device: DeviceIndex, frame: &[u8]) {
    // SAFETY: socket takes no pointers; its result is checked before use.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(raw >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(device.0).expect("an index fits"),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the frame and the address live through the call, and the lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&address).cast(),
            size,
        )
    };
    assert_eq!(usize::try_from(sent), Ok(frame.len()), "send: {}", io::Error::last_os_error());
}
