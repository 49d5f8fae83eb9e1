//! What a zone is made with besides the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

/// What `<address>.<namespace>.pod` names say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodNames {
    /// They do not exist.
    Disabled,
    /// Each stands for the address it spells, in every namespace that exists.
    Insecure,
    /// Each stands for the address it spells if a Pod of the namespace has it.
    Verified,
}

/// What a zone needs to know besides the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneSettings {
    /// The cluster domain, `cluster.local`.
    pub domain: String,
    /// TTL of records, seconds.
    pub ttl: u32,
    /// For how long a negative answer may be kept, seconds.
    pub negative_ttl: u32,
    /// The first serial; by convention Unix time, so that it grows over restarts.
    pub serial: u32,
    /// Addresses whose reverse names are ours alone: what is unknown there does not exist.
    pub service_cidrs: Vec<IpNet>,
    /// Where the server listens: the addresses of the name server's name.
    pub servers: Vec<IpAddr>,
    /// What pod names say.
    pub pods: PodNames,
    /// Namespaces that names are served of; none means all.
    pub namespaces: BTreeSet<String>,
    /// No AAAA for any name, ours or not: for clusters without IPv6.
    pub aaaa_nodata: bool,
    /// An endpoint without hostname is named by its Pod, not by its address.
    pub endpoint_pod_names: bool,
    /// A Service with ClusterIPs but without a ready endpoint does not exist.
    pub hide_empty: bool,
}

impl Default for ZoneSettings {
    /// Returns the defaults of the command line, with the present time as serial.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() as u32);
        Self {
            domain: "cluster.local".into(),
            ttl: 30,
            negative_ttl: 30,
            serial: now,
            service_cidrs: Vec::new(),
            servers: Vec::new(),
            pods: PodNames::Insecure,
            namespaces: BTreeSet::new(),
            aaaa_nodata: false,
            endpoint_pod_names: false,
            hide_empty: false,
        }
    }
}

impl ZoneSettings {
    pub(super) fn exposes(&self, namespace: &[u8]) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|own| own.as_bytes() == namespace)
    }
}
