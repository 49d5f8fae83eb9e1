//! What a run needs of the box: kernel, AF_XDP, free doors, a free state directory.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};
use tidegate_dataplane::xdp::Steering;

use crate::cli::RunArguments;
use crate::netlink::Netlink;
use crate::printout::say;
use crate::punt_device::{RECEIVE_END, TRANSMIT_END};
use crate::settings;

/// The oldest kernel that a run starts on.
const OLDEST: (u32, u32) = (6, 1);
/// Features that are used where they are, with the kernel that brought them.
const FEATURES: [((u32, u32), &str); 3] = [
    ((6, 3), "asking a device for its XDP features"),
    ((6, 6), "frames longer than a buffer"),
    ((6, 8), "transmit metadata"),
];

/// Prints what the kernel is, and returns what would keep a run from starting.
///
/// # Errors
/// When the kernel's devices cannot be listed.
pub(super) async fn obstacles(arguments: &RunArguments, netlink: &Netlink) -> anyhow::Result<Vec<String>> {
    let mut obstacles = Vec::new();
    obstacles.extend(kernel());
    if let Err(error) = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None) {
        obstacles.push(format!("AF_XDP sockets: {error}; the kernel needs CONFIG_XDP_SOCKETS"));
    }
    // Loaded and let go at once; attached to nothing.
    obstacles.extend(Steering::load_with(settings::room(arguments)).err().map(|error| error.to_string()));
    for listen in arguments.dns_listen.iter().map(|listen| listen.0) {
        for (name, kind, protocol) in
            [("udp", Type::DGRAM, Protocol::UDP), ("tcp", Type::STREAM, Protocol::TCP)]
        {
            let fault = bind(listen, kind, protocol).err();
            obstacles.extend(fault.map(|error| format!("--dns-listen {listen} ({name}): {error}")));
        }
    }
    let fault = arguments.metrics.and_then(|address| bind(address, Type::STREAM, Protocol::TCP).err());
    obstacles.extend(fault.map(|error| format!("--metrics: cannot listen: {error}")));
    let state = &arguments.state_dir;
    if let Some(holder) = holder(&state.join("lock")) {
        obstacles.push(format!("--state-dir {}: in use by process {holder}", state.display()));
    }
    for name in [TRANSMIT_END, RECEIVE_END] {
        let Some(link) = netlink.link(name).await? else { continue };
        let ours = fs::canonicalize(state).is_ok_and(|state| {
            let marker = format!("state in {}", state.display());
            link.alias.as_deref().is_some_and(|alias| alias.ends_with(&marker))
        });
        if !ours {
            obstacles.push(format!("device {name}: exists and is not of --state-dir {}", state.display()));
        }
    }
    Ok(obstacles)
}

/// Prints the kernel's version and the features that it is too old for.
fn kernel() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    say(format_args!("kernel: Linux {release}"));
    let version = version(release)?;
    for (since, feature) in FEATURES.iter().filter(|(since, _)| version < *since) {
        say(format_args!("kernel: too old for {feature} ({}.{}); a run does without", since.0, since.1));
    }
    let too_old = || format!("Linux {release}: a run needs {}.{} or newer", OLDEST.0, OLDEST.1);
    (version < OLDEST).then(too_old)
}

/// Reads the first two numbers of a kernel release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Binds an address for a moment, whether or not a device has it, to see whether another process listens there.
fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    if kind == Type::STREAM {
        // As the real listeners: connections that ended just now are not in the way.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM { socket.listen(1) } else { Ok(()) }
}

/// Returns the process that holds a lock on a file, without touching the lock. Source: proc_locks(5).
fn holder(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    let device = metadata.dev();
    let file = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), metadata.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let process = fields.nth(4)?;
        (fields.next()? == file).then(|| process.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_as_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("7.2-rc1"), Some((7, 2)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn an_address_that_somebody_listens_on_is_seen_and_stays_usable() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, Type::STREAM, Protocol::TCP).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        bind(address, Type::STREAM, Protocol::TCP).unwrap();
        bind(address, Type::STREAM, Protocol::TCP).unwrap();
    }

    #[test]
    fn an_address_that_no_device_has_can_be_looked_at() {
        bind("192.0.2.1:53".parse().unwrap(), Type::DGRAM, Protocol::UDP).unwrap();
    }

    #[test]
    fn the_holder_of_a_lock_is_named_and_only_while_it_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder(&path), None);
        file.try_lock().unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        file.unlock().unwrap();
        assert_eq!(holder(&path), None);
    }
}
