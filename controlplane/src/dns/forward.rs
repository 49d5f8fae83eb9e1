//! Questions that others have to answer: who may ask, who is asked, and how often.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::cache::{Cache, Key, Kind};
use super::complaints::Complaints;
use super::events::{Event, Gauge};
use super::loops::Token;
use super::upstream;
pub(super) use super::upstream::Manner;
use super::upstream_counters::UpstreamCounters;
use super::{Counters, Error, Name};

/// How long one upstream has for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that may wait at once; more are refused. CoreDNS' `max_concurrent` in kubeadm's Corefile.
const MAX_WAITING: usize = 1000;

/// Who answers what the cluster zone does not, and for whom.
#[derive(Clone, Debug, Default)]
pub struct ForwardSettings {
    /// Asked about all other names, in this order; none means that those are refused.
    pub upstreams: Vec<SocketAddr>,
    /// Asked instead about names at and below a domain.
    pub stubs: Vec<(String, SocketAddr)>,
    /// Sources that may have questions forwarded; this is no open resolver.
    pub allow: Vec<IpNet>,
    /// Find out which upstreams lead back to us, by a question to each.
    pub probe_loops: bool,
}

/// Why there is no answer from upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No upstream answered in time.
    Unanswered,
}

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Upstream,
    Cache,
}

/// One server that is asked.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// What it is asked comes back to us.
    pub(super) loops: AtomicBool,
    pub(super) counters: Arc<UpstreamCounters>,
}

/// Upstreams of a domain.
#[derive(Debug)]
struct Route {
    domain: Name,
    upstreams: Vec<Arc<Upstream>>,
    /// The upstream that answered last is asked first, so that a dead one does not cost each client its
    /// time-out.
    preferred: AtomicUsize,
}

/// What the askers of a question wait for.
type Outcome = Option<Result<Message, Failure>>;

/// Asks upstreams: equal questions once at a time, and once again only when the answer has aged.
pub(super) struct Forwarder {
    /// Longest domain first.
    routes: Vec<Route>,
    allow: Vec<IpNet>,
    waiting: Arc<Semaphore>,
    in_flight: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
    cache: Mutex<Cache>,
    token: Token,
    complaints: Complaints,
    answer_timeout: Duration,
}

/// A source that may ask, about a name that somebody knows.
pub(super) struct Admission {
    route: usize,
    waiting: Arc<Semaphore>,
}

/// A question's place among those that wait.
pub(super) struct Place {
    route: usize,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// Takes a place, or counts that there is none.
    pub(super) fn or_busy(self, counters: &Counters) -> Option<Place> {
        match self.waiting.try_acquire_owned() {
            Ok(permit) => Some(Place { route: self.route, _permit: permit }),
            Err(_) => {
                counters.count(Event::ForwardBusy);
                None
            }
        }
    }
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
        let mut add = |domain: Name, address: SocketAddr| {
            if address.ip().is_unspecified() || address.port() == 0 || listen.contains(&address) {
                return Err(Error::Upstream(address));
            }
            let counters = Arc::new(UpstreamCounters::new(address));
            let upstream = Arc::new(Upstream { address, loops: AtomicBool::new(false), counters });
            match routes.iter_mut().find(|route| route.domain == domain) {
                Some(route) => route.upstreams.push(upstream),
                None => {
                    let preferred = AtomicUsize::new(0);
                    routes.push(Route { domain, upstreams: vec![upstream], preferred });
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
        Ok(Self {
            routes,
            allow: settings.allow,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            in_flight: Mutex::default(),
            cache: Mutex::new(Cache::new()),
            token: Token::new(),
            complaints: Complaints::default(),
            answer_timeout: ANSWER_TIMEOUT,
        })
    }

    /// Returns all upstreams; one that serves several domains is there several times.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.routes.iter().flat_map(|route| &route.upstreams)
    }

    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// Says whether a name is one that we made up to find loops; then it has come back to us.
    pub(super) fn note_loop(&self, name: &Name, counters: &Counters) -> bool {
        let Some(number) = self.token.number_in(name) else { return false };
        if let Some(upstream) = self.upstreams().nth(number)
            && !upstream.loops.swap(true, Ordering::Relaxed)
        {
            counters.raise(Gauge::Loops);
            tracing::error!(
                "upstream {}: what it is asked comes back to us; it is not asked any more",
                upstream.address
            );
        }
        true
    }

    /// Lets a source ask about a name; `None` is for REFUSED.
    pub(super) fn admit(&self, name: &Name, source: IpAddr) -> Option<Admission> {
        let source = source.to_canonical();
        if !self.allow.iter().any(|network| network.contains(&source)) {
            return None;
        }
        let route = self.routes.iter().position(|route| name.is_within(&route.domain))?;
        Some(Admission { route, waiting: Arc::clone(&self.waiting) })
    }

    /// Gets an answer: from the cache, from an equal question that is on its way, or from an upstream.
    pub(super) async fn ask(
        self: &Arc<Self>,
        place: Place,
        query: &Query,
        manner: Manner,
        counters: &Arc<Counters>,
    ) -> Result<(Message, Source), Failure> {
        let key = key(query, manner);
        if let Some(message) = self.lookup(&key, counters) {
            return Ok((message, Source::Cache));
        }
        let mut answered = self.join(key, place.route, query, manner, counters);
        let outcome = answered.wait_for(Option::is_some).await.map_err(|_| Failure::Unanswered)?.clone();
        outcome.unwrap_or(Err(Failure::Unanswered)).map(|message| (message, Source::Upstream))
    }

    fn lookup(&self, key: &Key, counters: &Counters) -> Option<Message> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.lookup(key, Instant::now());
        counters.count(match &found {
            Some((_, Kind::Success)) => Event::CacheHitSuccess,
            Some((_, Kind::Denial)) => Event::CacheHitDenial,
            None => Event::CacheMiss,
        });
        found.map(|(message, _)| message)
    }

    /// Waits with those who asked the same before, or starts to ask; that goes on if the client goes away.
    fn join(
        self: &Arc<Self>,
        key: Key,
        route: usize,
        query: &Query,
        manner: Manner,
        counters: &Arc<Counters>,
    ) -> watch::Receiver<Outcome> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answered) = in_flight.get(&key) {
            counters.count(Event::Coalesced);
            return answered.clone();
        }
        let (answer, answered) = watch::channel(None);
        in_flight.insert(key.clone(), answered.clone());
        let (forwarder, query, counters) = (Arc::clone(self), query.clone(), Arc::clone(counters));
        tokio::spawn(async move {
            let outcome = forwarder.ask_upstreams(route, &query, manner).await;
            if let Ok(message) = &outcome {
                forwarder.keep(key.clone(), message, &counters);
            }
            forwarder.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            answer.send_replace(Some(outcome));
        });
        answered
    }

    fn keep(&self, key: Key, message: &Message, counters: &Counters) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = cache.insert(key, message, Instant::now());
        (0..evicted).for_each(|_| counters.count(Event::CacheEviction));
        counters.set(Gauge::CacheSuccess, cache.len(Kind::Success));
        counters.set(Gauge::CacheDenial, cache.len(Kind::Denial));
    }

    /// Asks the upstreams of a route one after the other until one answers.
    async fn ask_upstreams(&self, route: usize, query: &Query, manner: Manner) -> Result<Message, Failure> {
        let Some(route) = self.routes.get(route) else { return Err(Failure::Unanswered) };
        let first = route.preferred.load(Ordering::Relaxed);
        for turn in 0..route.upstreams.len() {
            let at = (first + turn) % route.upstreams.len();
            let Some(upstream) = route.upstreams.get(at) else { continue };
            if upstream.loops.load(Ordering::Relaxed) {
                continue;
            }
            let began = Instant::now();
            let answer = upstream::ask(upstream.address, query, manner, self.answer_timeout).await;
            let code = answer.as_ref().ok().map(|message| message.metadata.response_code.into());
            upstream.counters.note(code, began.elapsed());
            match answer {
                Ok(answer) => {
                    route.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => self.complaints.note(upstream.address, &error, Instant::now()),
            }
        }
        Err(Failure::Unanswered)
    }
}

/// Returns what makes a question equal to another. How it goes upstream is no part of it: the answer is the same.
fn key(query: &Query, manner: Manner) -> Key {
    Key {
        name: Name::from_labels(query.name().iter()).unwrap_or_else(Name::root),
        qtype: query.query_type().into(),
        recursion_desired: manner.recursion_desired,
        checking_disabled: manner.checking_disabled,
        edns_dnssec_ok: manner.edns_dnssec_ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_beyond_those_that_may_wait_is_refused_at_once() {
        let upstream = "127.0.0.1:9".parse().expect("an address");
        let settings = ForwardSettings {
            upstreams: vec![upstream],
            allow: vec!["127.0.0.0/8".parse().expect("a CIDR")],
            ..ForwardSettings::default()
        };
        let origin = Name::parse("cluster.local").expect("a name");
        let forwarder = Forwarder::new(settings, &[], &origin).expect("a forwarder");
        let counters = Counters::default();
        let place =
            || forwarder.admit(&Name::root(), [127, 0, 0, 1].into()).expect("may ask").or_busy(&counters);
        let mut waiting: Vec<Place> = (0..MAX_WAITING).map(|_| place().expect("a place")).collect();
        assert!(place().is_none());
        waiting.pop();
        assert!(place().is_some());
    }
}
