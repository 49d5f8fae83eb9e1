//! Questions that others have to answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Error, Name};

/// How long one upstream has for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that may wait at once; more are refused. CoreDNS' `max_concurrent` in kubeadm's Corefile.
const MAX_IN_FLIGHT: usize = 1000;
/// The payload that we can take over UDP, octets; what passes without fragments (DNS flag day 2020).
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// Octets of the largest datagram worth reading: upstreams that ignore the payload asked for.
const DATAGRAM_OCTETS: usize = 4096;

/// Who answers what the cluster zone does not, and for whom.
#[derive(Clone, Debug, Default)]
pub struct ForwardSettings {
    /// Asked about all other names, in this order; none means that those are refused.
    pub upstreams: Vec<SocketAddr>,
    /// Asked instead about names at and below a domain.
    pub stubs: Vec<(String, SocketAddr)>,
    /// Sources that may have questions forwarded; this is no open resolver.
    pub allow: Vec<IpNet>,
}

/// Why there is no answer from upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// Too many questions wait already.
    Busy,
    /// No upstream answered in time.
    Unanswered,
}

/// What of a client's question goes upstream besides name and type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    /// The client's DO bit, if it spoke EDNS.
    pub(super) edns_dnssec_ok: Option<bool>,
    pub(super) tcp: bool,
}

/// Upstreams of a domain.
#[derive(Debug)]
pub(super) struct Route {
    domain: Name,
    upstreams: Vec<SocketAddr>,
    /// The upstream that answered last is asked first, so that a dead one does not cost each client its
    /// time-out.
    preferred: AtomicUsize,
}

/// Asks upstreams. Costs a socket per question: a fresh random port for each.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Longest domain first.
    routes: Vec<Route>,
    allow: Vec<IpNet>,
    in_flight: Semaphore,
    answer_timeout: Duration,
}

impl Forwarder {
    /// Checks the settings against where we listen and what is ours.
    ///
    /// # Errors
    /// Names an upstream that is ourselves, or a stub domain that is no name or ours.
    pub(super) fn new(
        settings: ForwardSettings,
        listen: &[SocketAddr],
        origin: &Name,
    ) -> Result<Self, Error> {
        let mut routes: Vec<Route> = Vec::new();
        let mut add = |domain: Name, upstream: SocketAddr| {
            if upstream.ip().is_unspecified() || upstream.port() == 0 || listen.contains(&upstream) {
                return Err(Error::Upstream(upstream));
            }
            match routes.iter_mut().find(|route| route.domain == domain) {
                Some(route) => route.upstreams.push(upstream),
                None => {
                    let upstreams = vec![upstream];
                    routes.push(Route { domain, upstreams, preferred: AtomicUsize::new(0) });
                }
            }
            Ok(())
        };
        for (domain, upstream) in settings.stubs {
            let domain = Name::parse(&domain).map_err(Error::Stub)?;
            if domain.is_within(origin) {
                return Err(Error::StubInZone(domain));
            }
            add(domain, upstream)?;
        }
        settings.upstreams.into_iter().try_for_each(|upstream| add(Name::root(), upstream))?;
        routes.sort_by_key(|route| std::cmp::Reverse(route.domain.octets().len()));
        let in_flight = Semaphore::new(MAX_IN_FLIGHT);
        Ok(Self { routes, allow: settings.allow, in_flight, answer_timeout: ANSWER_TIMEOUT })
    }

    /// Returns whom to ask about a name on behalf of a source; `None` is for REFUSED.
    pub(super) fn route(&self, name: &Name, source: IpAddr) -> Option<&Route> {
        let source = source.to_canonical();
        if !self.allow.iter().any(|network| network.contains(&source)) {
            return None;
        }
        self.routes.iter().find(|route| name.is_within(&route.domain))
    }

    /// Asks the upstreams of a route one after the other until one answers.
    ///
    /// An answer is a message with our id, our question and QR, from the address asked, whatever its code.
    /// One that is truncated is fetched again over TCP; if that fails it stands as it is.
    pub(super) async fn ask(&self, route: &Route, query: &Query, manner: Manner) -> Result<Message, Failure> {
        let _permit = self.in_flight.try_acquire().map_err(|_| Failure::Busy)?;
        let first = route.preferred.load(Ordering::Relaxed);
        for turn in 0..route.upstreams.len() {
            let at = (first + turn) % route.upstreams.len();
            let upstream = route.upstreams[at];
            match self.ask_one(upstream, query, manner).await {
                Ok(answer) => {
                    route.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => tracing::debug!(%upstream, %query, %error, "no answer from upstream"),
            }
        }
        Err(Failure::Unanswered)
    }

    async fn ask_one(&self, upstream: SocketAddr, query: &Query, manner: Manner) -> io::Result<Message> {
        let message = question(query, manner);
        let octets = message.to_vec().map_err(io::Error::other)?;
        let limit = self.answer_timeout;
        if manner.tcp {
            return timeout(limit, over_tcp(upstream, &octets, &message)).await?;
        }
        let answer = timeout(limit, over_udp(upstream, &octets, &message)).await??;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        match timeout(limit, over_tcp(upstream, &octets, &message)).await {
            Ok(Ok(whole)) => Ok(whole),
            _ => Ok(answer),
        }
    }
}

/// Makes the message to send, with a random id.
fn question(query: &Query, manner: Manner) -> Message {
    let mut message = Message::query();
    message.add_query(query.clone());
    message.metadata.recursion_desired = manner.recursion_desired;
    message.metadata.checking_disabled = manner.checking_disabled;
    if let Some(dnssec_ok) = manner.edns_dnssec_ok {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
    message
}

/// Says whether a message answers a question. Source: RFC 5452 §9.1.
fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

async fn over_udp(upstream: SocketAddr, octets: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr =
        if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Port 0: the kernel picks one at random. Connected: only the upstream's datagrams arrive, and its ICMP
    // errors.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(octets).await?;
    let mut datagram = vec![0; DATAGRAM_OCTETS];
    loop {
        let length = socket.recv(&mut datagram).await?;
        let Some(received) = datagram.get(..length) else { continue };
        // What is not an answer to this question may be forged: the real one can still come.
        if let Ok(answer) = Message::from_vec(received)
            && answers(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, octets: &[u8], question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), octets].concat()).await?;
    let mut received = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut received).await?;
    let answer = Message::from_vec(&received).map_err(io::Error::other)?;
    answers(&answer, question).then_some(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name as AskedName, RecordType};

    use super::*;

    #[test]
    fn a_question_beyond_those_that_may_wait_is_refused_at_once() {
        let upstream = "127.0.0.1:9".parse().expect("an address");
        let settings = ForwardSettings {
            upstreams: vec![upstream],
            stubs: vec![],
            allow: vec!["127.0.0.0/8".parse().expect("a CIDR")],
        };
        let origin = Name::parse("cluster.local").expect("a name");
        let forwarder = Forwarder::new(settings, &[], &origin).expect("a forwarder");
        let _waiting = forwarder.in_flight.try_acquire_many(MAX_IN_FLIGHT as u32).expect("all are free");
        let route = forwarder.route(&origin, [127, 0, 0, 1].into()).expect("a route");
        let manner =
            Manner { recursion_desired: true, checking_disabled: false, edns_dnssec_ok: None, tcp: false };
        let query = Query::query(AskedName::root(), RecordType::NS);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let answer = runtime.block_on(forwarder.ask(route, &query, manner));
        assert_eq!(answer.err(), Some(Failure::Busy));
    }
}
