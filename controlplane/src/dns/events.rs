//! What is counted, by name.

/// Who made an answer, in CoreDNS' words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Maker {
    /// The cluster's zone.
    Kubernetes,
    /// An upstream.
    Forward,
    /// An upstream, earlier.
    Cache,
    /// Nobody: the question was none of a kind that is answered.
    Nobody,
}

pub(super) const MAKERS: [(Maker, &str); 4] = [
    (Maker::Kubernetes, "kubernetes"),
    (Maker::Forward, "forward"),
    (Maker::Cache, "cache"),
    (Maker::Nobody, ""),
];

/// How a forwarded question ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ForwardResult {
    /// An upstream answered, now or earlier.
    Ok,
    /// No upstream answered.
    Failed,
    /// The source may not, or too many were waiting.
    Refused,
}

pub(super) const FORWARD_RESULTS: [&str; 3] = ["ok", "failed", "refused"];

/// What happens on the way of messages, besides answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Too short, or a response: not answered.
    Ignored,
    /// The kernel did not take a reply.
    ReplyLost,
    /// TCP connections taken.
    TcpAccepted,
    /// TCP connections closed at once, because there were too many, or too many of one client.
    TcpRefused,
    /// TCP connections closed because nothing came.
    TcpIdle,
    /// TCP connections closed because the client did not read.
    TcpSlow,
    /// Questions that waited for another one's answer.
    Coalesced,
    /// Found in the cache: an answer.
    CacheHitSuccess,
    /// Found in the cache: that there is nothing.
    CacheHitDenial,
    /// Not found in the cache.
    CacheMiss,
    /// Put out of the cache to make room.
    CacheEviction,
    /// Refused because too many waited already.
    ForwardBusy,
}

/// Names of the events' counters, in their order; those of one name differ by the label `type`.
pub(super) const EVENTS: [(&str, &str, &str); 12] = [
    ("dns_ignored", "", "Messages that are not answered: too short, or responses"),
    ("dns_replies_lost", "", "Replies that the kernel did not take"),
    ("dns_tcp_accepted", "", "TCP connections taken"),
    ("dns_tcp_refused", "", "TCP connections closed at once: too many, or too many of one client"),
    ("dns_tcp_idle", "", "TCP connections closed because nothing came"),
    ("dns_tcp_slow", "", "TCP connections closed because the client did not read"),
    ("dns_forward_coalesced", "", "Questions that waited for an equal one's answer"),
    ("coredns_cache_hits", "success", "Questions answered from the cache"),
    ("coredns_cache_hits", "denial", "Questions answered from the cache"),
    ("coredns_cache_misses", "", "Questions that the cache could not answer"),
    ("coredns_cache_evictions", "success", "Answers put out of the cache to make room"),
    ("coredns_forward_max_concurrent_rejects", "", "Questions refused because too many waited"),
];

/// Values that rise and fall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gauge {
    /// Answers in the cache.
    CacheSuccess,
    /// Denials in the cache.
    CacheDenial,
    /// Open TCP connections.
    TcpOpen,
    /// Upstreams that lead back to us.
    Loops,
    /// Whether the names are known.
    Synced,
}

pub(super) const GAUGES: [(&str, &str, &str); 5] = [
    ("coredns_cache_entries", "success", "Entries of the cache"),
    ("coredns_cache_entries", "denial", "Entries of the cache"),
    ("dns_tcp_open", "", "TCP connections that are open"),
    ("dns_forward_loops", "", "Upstreams that are not asked because they lead back to us"),
    ("dns_synced", "", "1 once every source has been read and names are answered"),
];
