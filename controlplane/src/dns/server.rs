//! The server: sockets, questions and what becomes of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::forward::{ForwardSettings, Forwarder};
use super::listen::Pair;
use super::name::InvalidName;
use super::responder::Responder;
use super::{Counters, Name, Zone};

/// How long a TCP connection may be silent, or not take what we send.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Replies that wait for a TCP client to read.
const TCP_WAITING_REPLIES: usize = 32;

/// What the server needs to start.
#[derive(Clone)]
pub struct ServerSettings {
    /// Addresses of this machine; port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// The names; whoever changes them swaps in another zone.
    pub zone: Arc<ArcSwap<Zone>>,
    /// What becomes of other names.
    pub forward: ForwardSettings,
    /// Log each question with its answer's code.
    pub log_queries: bool,
}

/// Why the server does not start.
#[derive(Debug)]
pub enum Error {
    /// A listen address is a wildcard.
    Unspecified(SocketAddr),
    /// A listen address cannot be used.
    Listen {
        /// Which.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// The process that has the address.
        occupant: Option<String>,
    },
    /// An upstream is ourselves, or no address that one could ask.
    Upstream(SocketAddr),
    /// A stub domain is no name.
    Stub(InvalidName),
    /// A stub domain is in the cluster zone, whose names are never forwarded.
    StubInZone(Name),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified(address) => {
                write!(f, "cannot listen on {address}: name an address, so that replies leave from it")
            }
            Self::Listen { address, protocol, occupant: Some(occupant), .. } => {
                write!(f, "cannot listen on {address} ({protocol}): in use by {occupant}")
            }
            Self::Listen { address, protocol, source, occupant: None } => {
                write!(f, "cannot listen on {address} ({protocol}): {source}")
            }
            Self::Upstream(upstream) => {
                write!(f, "upstream {upstream} is where we listen ourselves, or no address to ask")
            }
            Self::Stub(error) => write!(f, "stub domain {error}"),
            Self::StubInZone(domain) => {
                write!(f, "stub domain {domain} is in the cluster zone, whose names are never forwarded")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } => Some(source),
            Self::Stub(error) => Some(error),
            _ => None,
        }
    }
}

/// A running DNS server; stops when dropped.
pub struct Server {
    shell: hickory_server::Server<Responder>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Listens on UDP and TCP on every address, and answers in tasks of the present tokio runtime.
    ///
    /// # Errors
    /// Names the listen address, upstream or stub that is wrong; then nothing is left listening.
    pub fn start(settings: ServerSettings, counters: Arc<Counters>) -> Result<Self, Error> {
        let pairs = settings.listen.into_iter().map(Pair::bind).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = pairs.iter().map(|pair| pair.address).collect();
        let forwarder = Forwarder::new(settings.forward, &addresses, settings.zone.load().origin())?;
        let responder = Responder { zone: settings.zone, forwarder, counters, turn: AtomicUsize::new(0) };
        let mut shell = hickory_server::Server::new(responder);
        for pair in pairs {
            shell.register_socket(pair.udp);
            shell.register_listener(pair.tcp, TCP_IDLE, TCP_WAITING_REPLIES);
        }
        Ok(Self { shell, addresses })
    }

    /// Returns the addresses in use, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until a socket has failed for good, and says how; pending as long as all is well.
    pub async fn failed(&mut self) -> String {
        match self.shell.block_until_done().await {
            Ok(()) => "the DNS server ended".into(),
            Err(error) => format!("the DNS server ended: {error}"),
        }
    }

    /// Stops listening and closes all sockets; questions in flight are dropped, clients ask again.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.shell.shutdown_gracefully().await {
            tracing::warn!(%error, "the DNS server did not end cleanly");
        }
    }
}
