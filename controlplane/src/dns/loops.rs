//! Upstreams that lead back to us: found by a question that nobody else asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_proto::op::Query;
use hickory_proto::rr::{Name as AskedName, RecordType};

use super::events::Gauge;
use super::forward::Forwarder;
use super::upstream::{self, Manner};
use super::{Counters, Name};

/// How long an upstream has for the way back to us.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often upstreams that led back to us are looked at again.
const AGAIN: Duration = Duration::from_secs(60);

/// A label that no other process makes up.
#[derive(Debug)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // The keys of hash maps come from the kernel's random numbers.
        let random = || RandomState::new().hash_one(std::process::id());
        Self(format!("{:016x}{:016x}", random(), random()))
    }

    /// Returns the name that the upstream of this number is asked about.
    fn name(&self, number: usize) -> String {
        format!("{}.{number}.loop.", self.0)
    }

    /// Returns the number of the upstream that was asked about a name.
    pub(super) fn number_in(&self, name: &Name) -> Option<usize> {
        let mut labels = name.labels();
        let is_ours = labels.next() == Some(self.0.as_bytes());
        let number = labels.next().filter(|_| is_ours)?;
        str::from_utf8(number).ok()?.parse().ok()
    }
}

/// Asks each upstream about a name of its own; the questions that come back say which to leave alone.
///
/// Goes on for ever: an upstream that was mended is found within a minute.
pub(super) async fn watch(forwarder: Arc<Forwarder>, counters: Arc<Counters>) {
    let mut first = true;
    loop {
        for (number, upstream) in forwarder.upstreams().enumerate() {
            if !(first || upstream.loops.load(Ordering::Relaxed)) {
                continue;
            }
            if upstream.loops.swap(false, Ordering::Relaxed) {
                counters.lower(Gauge::Loops);
            }
            let Ok(name) = AskedName::from_ascii(forwarder.token().name(number)) else { continue };
            let query = Query::query(name, RecordType::HINFO);
            let manner = Manner {
                recursion_desired: true,
                checking_disabled: false,
                edns_dnssec_ok: None,
                tcp: false,
            };
            if let Err(error) = upstream::ask(upstream.address, &query, manner, PATIENCE).await {
                tracing::warn!("upstream {}: no answer to a first question: {error}", upstream.address);
            }
        }
        first = false;
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_upstream_is_found_in_our_own_names_only() {
        let (own, other) = (Token::new(), Token::new());
        assert_ne!(own.0, other.0);
        let name = |text: &str| Name::parse(text).expect("a name");
        assert_eq!(own.number_in(&name(&own.name(3))), Some(3));
        assert_eq!(other.number_in(&name(&own.name(3))), None);
        assert_eq!(own.number_in(&name("www.example.org")), None);
        assert_eq!(own.number_in(&Name::root()), None);
    }
}
