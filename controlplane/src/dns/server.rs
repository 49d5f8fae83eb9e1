//! The server: sockets, questions and what becomes of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use super::forward::{ForwardSettings, Forwarder};
use super::listen::Pair;
use super::name::InvalidName;
use super::responder::Responder;
use super::tcp::{self, Connections, TcpLimits};
use super::{Counters, Name, Zone, loops, udp};

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
    /// What connections may cost.
    pub tcp: TcpLimits,
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
    /// A task for each socket, which ends only if the socket breaks.
    sockets: JoinSet<String>,
    /// Looks for upstreams that lead back to us.
    _watch: JoinSet<()>,
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
        let probe_loops = settings.forward.probe_loops && !pairs.is_empty();
        let forwarder = Forwarder::new(settings.forward, &addresses, settings.zone.load().origin())?;
        let forwarder = Arc::new(forwarder);
        counters.show_upstreams(forwarder.upstreams().map(|one| Arc::clone(&one.counters)).collect());
        let (mut sockets, mut watch) = (JoinSet::new(), JoinSet::new());
        if probe_loops {
            watch.spawn(loops::watch(Arc::clone(&forwarder), Arc::clone(&counters)));
        }
        let responder = Arc::new(Responder::new(settings.zone, forwarder, counters, settings.log_queries));
        let (connections, limits) = (Arc::new(Connections::default()), settings.tcp);
        for Pair { udp, tcp, address } in pairs {
            let (responder, connections) = (Arc::clone(&responder), Arc::clone(&connections));
            let same = Arc::clone(&responder);
            sockets.spawn(async move { format!("{address} (udp): {}", udp::serve(udp, same).await) });
            sockets.spawn(async move {
                format!("{address} (tcp): {}", tcp::serve(tcp, responder, connections, limits).await)
            });
        }
        Ok(Self { sockets, _watch: watch, addresses })
    }

    /// Returns the addresses in use, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until a socket has failed for good, and says how; pending as long as all is well.
    pub async fn failed(&mut self) -> String {
        match self.sockets.join_next().await {
            Some(Ok(how)) => format!("the DNS server ended: {how}"),
            Some(Err(error)) => format!("the DNS server ended: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Stops listening and closes all sockets; questions in flight are dropped, clients ask again.
    pub async fn shutdown(mut self) {
        self.sockets.shutdown().await;
    }
}
