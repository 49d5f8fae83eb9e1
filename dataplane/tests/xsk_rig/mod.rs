//! A network namespace of the test's own, and ways to send and see packets in it.
#![allow(dead_code, reason = "each test program takes what it needs")]

pub(crate) mod relay;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_dataplane::clock::Now;
use tidegate_dataplane::net::Mac;
use tidegate_dataplane::routes::DeviceIndex;

/// The MAC of devices and the destination of packets, unless a test says otherwise.
pub(crate) const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed on drop. While one lives no other test of the rig runs.
pub(crate) struct Namespace {
    name: String,
    _lock: File,
}

impl Namespace {
    /// Makes an empty namespace, or prints why the test is skipped.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: reads an id of this process.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return None;
        }
        let lock = File::create("/tmp/tidegate-rig.lock").unwrap();
        // SAFETY: waits for a lock on a file that is open.
        assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("tgxsk-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name, _lock: lock };
        namespace.enter(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        });
        Some(namespace)
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all);
    }

    /// Makes a pair of devices with `queues` queues each, up, silent, with [`STATION`] for MAC and with what a
    /// stack would join or leave unfinished off.
    pub(crate) fn veth(&self, one: &str, other: &str, queues: u32) {
        let each = format!("numrxqueues {queues} numtxqueues {queues}");
        self.ip(&format!("link add {one} {each} type veth peer name {other} {each}"));
        for device in [one, other] {
            self.ip(&format!("link set {device} address {} up arp off", Mac(STATION)));
            let options = ["tx", "off", "gso", "off", "tso", "off"];
            let mut all = vec!["netns", "exec", &self.name, "ethtool", "-K", device];
            all.extend(options);
            run("ip", &all);
        }
    }

    /// Runs `test` on a thread inside the namespace, with its own view of /sys.
    pub(crate) fn enter<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // SAFETY: moves only this thread, which ends with the test.
                assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                mount_sys();
                test()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _reported_by_ip = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
}

fn mount_sys() {
    // SAFETY: gives this thread mounts of its own.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let (root, sys, kind) = (c"/".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr());
    // SAFETY: the strings live; no data is given. Keeps the mount below from reaching other mount namespaces.
    let private =
        unsafe { libc::mount(ptr::null(), root, ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) };
    assert_eq!(private, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::mount(kind, sys, kind, 0, ptr::null()) }, 0);
}

/// Returns the number of a device of this thread's namespace.
pub(crate) fn device(name: &str) -> DeviceIndex {
    let c_name = CString::new(name).unwrap();
    // SAFETY: the string lives.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    assert_ne!(index, 0, "{name}");
    DeviceIndex(index)
}

/// Returns the time that the XDP program and the workers go by.
pub(crate) fn now() -> Now {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }, 0);
    Now::from_ns(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Calls `condition` until it holds; fails the test after 10 s.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::yield_now();
    }
}

/// A raw packet socket: sends whole frames by a device, sees what the kernel received from it.
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub(crate) fn open(device: DeviceIndex) -> Self {
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: makes a descriptor.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(every_protocol)) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let bytes: libc::c_int = 64 << 20;
        // SAFETY: the option's value lives and is of the size given.
        let grown = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                size_of_val(&bytes) as libc::socklen_t,
            )
        };
        assert_eq!(grown, 0);
        // SAFETY: all-zero octets are a value of this C struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = device.0 as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address lives and is of the length given.
        assert_eq!(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) }, 0);
        Self(fd)
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        // SAFETY: the octets live.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Returns the next packet that *arrived*: what this machine sent by the device is passed over.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 16_384];
        // SAFETY: all-zero octets are a value of this C struct.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        loop {
            let mut length = size_of_val(&from) as libc::socklen_t;
            // SAFETY: the kernel writes at most as many octets as each buffer is said to have.
            let octets = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    packet.as_mut_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let octets = usize::try_from(octets).ok()?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                packet.truncate(octets);
                return Some(packet);
            }
        }
    }
}

/// An IPv4 packet in an Ethernet frame, to be bent before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) ethernet_destination: [u8; 6],
    pub(crate) ethertype: u16,
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) protocol: u8,
    /// Offset in units of 8 octets and the flags above it.
    pub(crate) fragment: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
    /// What the header says, if not the truth.
    pub(crate) header_length: Option<u8>,
    pub(crate) total_length: Option<u16>,
    /// How many octets arrive, if not all.
    pub(crate) cut_at: Option<usize>,
}

impl Packet {
    /// Returns a UDP datagram.
    pub(crate) fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        Self {
            ethernet_destination: STATION,
            ethertype: 0x0800,
            source: source.0,
            destination: destination.0,
            protocol: 17,
            fragment: 0,
            options: Vec::new(),
            ports: (source.1, destination.1),
            payload: vec![0; 32],
            header_length: None,
            total_length: None,
            cut_at: None,
        }
    }

    /// Returns an ICMP error of that type that quotes a packet; `ports` and the octets behind them are its header.
    pub(crate) fn icmp(kind: u8, source: [u8; 4], destination: [u8; 4], quote: &Self) -> Self {
        let quote = quote.octets()[14..].to_vec();
        let error = Self::udp((source, u16::from(kind) << 8 | 1), (destination, 0));
        Self { protocol: 1, payload: quote, ..error }
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = header + 8 + self.payload.len();
        let mut octets = self.ethernet_destination.to_vec();
        octets.extend([2, 0, 0, 0, 0, 2]);
        octets.extend(self.ethertype.to_be_bytes());
        octets.push(0x40 | self.header_length.unwrap_or(header as u8 / 4));
        octets.push(0);
        octets.extend(self.total_length.unwrap_or(total as u16).to_be_bytes());
        octets.extend([0, 1]);
        octets.extend(self.fragment.to_be_bytes());
        octets.extend([64, self.protocol, 0, 0]);
        octets.extend(self.source);
        octets.extend(self.destination);
        octets.extend(&self.options);
        octets.extend(self.ports.0.to_be_bytes());
        octets.extend(self.ports.1.to_be_bytes());
        octets.extend((8 + self.payload.len() as u16).to_be_bytes());
        octets.extend([0, 0]);
        octets.extend(&self.payload);
        octets.truncate(self.cut_at.unwrap_or(octets.len()));
        octets
    }
}
