//! Sockets on the listen addresses.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::Error;

/// Room for a burst of questions while the control thread is busy with something else, bytes.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const BACKLOG: i32 = 1024;
/// Tries to find a port that is free for both protocols, where the kernel chooses.
const PORT_TRIES: usize = 16;

/// The two sockets of a listen address; both have the same address and port.
pub(super) struct Pair {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    pub(super) address: SocketAddr,
}

impl Pair {
    /// Binds UDP and TCP on an address of this machine.
    ///
    /// Replies leave from it because the sockets are bound to it: no wildcard address is accepted.
    ///
    /// # Errors
    /// Names the address, the protocol and, if another process has it, that process.
    pub(super) fn bind(listen: SocketAddr) -> Result<Self, Error> {
        if listen.ip().is_unspecified() {
            return Err(Error::Unspecified(listen));
        }
        let tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
        let mut last = None;
        for _ in 0..tries {
            match Self::try_bind(listen) {
                Ok(pair) => return Ok(pair),
                Err((protocol, source)) => last = Some((protocol, source)),
            }
        }
        let (protocol, source) = last.unwrap_or(("udp", io::ErrorKind::AddrInUse.into()));
        let in_use = source.kind() == io::ErrorKind::AddrInUse;
        let occupant = in_use.then(|| occupant(listen, protocol)).flatten();
        Err(Error::Listen { address: listen, protocol, source, occupant })
    }

    fn try_bind(listen: SocketAddr) -> Result<Self, (&'static str, io::Error)> {
        let udp = bind_udp(listen).map_err(|error| ("udp", error))?;
        let address = udp.local_addr().map_err(|error| ("udp", error))?;
        let tcp = bind_tcp(address).map_err(|error| ("tcp", error))?;
        Ok(Self { udp, tcp, address })
    }
}

fn socket(listen: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), kind, None)?;
    socket.set_nonblocking(true)?;
    if listen.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_udp(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(listen, Type::DGRAM)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&listen.into())?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(listen, Type::STREAM)?;
    // Connections of a server that ended just now would keep the port for a minute.
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Names the process that holds an address, as `comm (pid n)`; `None` if it cannot be seen.
///
/// Source: proc(5), `/proc/net/udp`, `/proc/pid/fd`.
fn occupant(listen: SocketAddr, protocol: &str) -> Option<String> {
    let inode = ["", "6"].iter().find_map(|family| {
        let table = fs::read_to_string(format!("/proc/net/{protocol}{family}")).ok()?;
        table.lines().skip(1).find_map(|line| holder_inode(line, listen).map(str::to_owned))
    })?;
    let link = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files.find(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))?;
        let comm = fs::read_to_string(process.path().join("comm")).ok()?;
        Some(format!("{} (pid {pid})", comm.trim()))
    })
}

/// Returns the inode of a socket table's line if that socket is in the way of binding `listen`.
fn holder_inode(line: &str, listen: SocketAddr) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let address = table_address(address)?;
    let same = u16::from_str_radix(port, 16).ok()? == listen.port();
    let covers = address == listen.ip() || address.is_unspecified();
    // Listening TCP is state 0A, bound UDP 07; connections of others are not in the way.
    let bound = matches!(fields.nth(1)?, "0A" | "07");
    (same && covers && bound).then(|| fields.nth(5)).flatten()
}

/// Reads an address as the kernel prints it: 32-bit words in the order of the machine's octets, in
/// hexadecimal.
fn table_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let octets = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_reported_with_the_process_that_has_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _guard = runtime.enter();
        let first = Pair::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let error = Pair::bind(first.address).err().expect("the port is taken");
        let text = error.to_string();
        let own = format!("(pid {})", std::process::id());
        assert!(text.contains(&first.address.to_string()), "{text}");
        assert!(text.contains("in use by") && text.contains(&own), "{text}");
    }

    #[test]
    fn a_wildcard_address_is_refused() {
        let error = Pair::bind("0.0.0.0:53".parse().expect("an address")).err().expect("a refusal");
        assert_eq!(
            error.to_string(),
            "cannot listen on 0.0.0.0:53: name an address, so that replies leave from it"
        );
    }
}
