//! The immutable table of all names.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use super::name::InvalidName;
use super::service_names::{Claim, ServiceNames, service_name};
use super::trie::Trie;
use super::{Data, Name, Owner, Record};
use crate::cluster::{Cluster, Dirty, ObjectName};

/// Longest that the SOA itself may be kept, seconds; CoreDNS' limit.
const MAX_SOA_TTL: u32 = 300;

/// What `<address>.<namespace>.pod` names say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodNames {
    /// They do not exist.
    Disabled,
    /// Each stands for the address it spells, in every namespace that exists.
    Insecure,
}

/// What a zone needs to know besides the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneSettings {
    /// The cluster domain, `cluster.local`.
    pub domain: String,
    /// TTL of records and of negative answers, seconds.
    pub ttl: u32,
    /// The first serial; by convention Unix time, so that it grows over restarts.
    pub serial: u32,
    /// Addresses whose reverse names are ours alone: what is unknown there does not exist.
    pub service_cidrs: Vec<IpNet>,
    /// Where the server listens: the addresses of the name server's name.
    pub servers: Vec<IpAddr>,
    /// What pod names say.
    pub pods: PodNames,
}

impl Default for ZoneSettings {
    /// Returns the defaults of the command line, with the present time as serial.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() as u32);
        Self {
            domain: "cluster.local".into(),
            ttl: 30,
            serial: now,
            service_cidrs: Vec::new(),
            servers: Vec::new(),
            pods: PodNames::Insecure,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Namespace {
    /// The Namespace object exists.
    declared: bool,
    /// Services in it; a name below it makes it exist as a node, object or not.
    services: usize,
}

/// The names of a cluster at one moment.
///
/// A clone shares everything; [`Zone::updated`] shares all but what changed.
#[derive(Clone)]
pub struct Zone {
    fixed: Arc<Fixed>,
    serial: u32,
    synced: bool,
    namespaces: Trie<Arc<str>, Namespace>,
    services: Trie<ObjectName, Arc<ServiceNames>>,
    reverse: Trie<IpAddr, Arc<BTreeSet<Claim>>>,
}

struct Fixed {
    settings: ZoneSettings,
    origin: Name,
    server: Name,
    mailbox: Name,
    hash: RandomState,
}

impl Zone {
    /// Makes an empty zone that is not synced: it answers SERVFAIL until [`Zone::set_synced`].
    ///
    /// # Errors
    /// The domain is no name, or leaves no room for names below it.
    pub fn new(settings: ZoneSettings) -> Result<Self, InvalidName> {
        let origin = Name::parse(&settings.domain)?;
        let below = |labels: &[&'static [u8]]| {
            origin.below(labels.iter().copied()).ok_or_else(|| InvalidName::TooLong(settings.domain.clone()))
        };
        let (server, mailbox) = (below(&[b"ns", b"dns"])?, below(&[b"hostmaster"])?);
        let serial = settings.serial;
        let fixed = Arc::new(Fixed { settings, origin, server, mailbox, hash: RandomState::new() });
        Ok(Self {
            fixed,
            serial,
            synced: false,
            namespaces: Trie::new(),
            services: Trie::new(),
            reverse: Trie::new(),
        })
    }

    /// Returns the zone after a change, with the next serial if names changed at all.
    ///
    /// Costs the Services named in `dirty`, times the depth of the table (log32 of its size), not the cluster.
    #[must_use]
    pub fn updated(&self, cluster: &Cluster, dirty: &Dirty) -> Self {
        let mut next = self.clone();
        let mut changed = false;
        for name in &dirty.namespaces {
            let declared = cluster.has_namespace(name);
            changed |= next.change_namespace(name, |namespace| namespace.declared = declared);
        }
        for name in &dirty.services {
            let names = cluster.service(name).and_then(|service| {
                ServiceNames::build(service, cluster.slices_of(name), &self.fixed.origin).map(Arc::new)
            });
            changed |= next.replace(name, names);
        }
        if changed {
            next.serial = next.serial.wrapping_add(1);
        }
        next
    }

    /// Says that every source has been read: from now on an unknown name does not exist.
    pub fn set_synced(&mut self) {
        self.synced = true;
    }

    /// Says whether every source has been read.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Returns the serial of the SOA.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Returns the name of the zone.
    #[must_use]
    pub fn origin(&self) -> &Name {
        &self.fixed.origin
    }

    /// Returns what the zone was made with.
    #[must_use]
    pub fn settings(&self) -> &ZoneSettings {
        &self.fixed.settings
    }

    /// Returns the SOA of the zone, or of a reverse zone, whose apex is `apex`.
    pub(super) fn soa(&self, apex: &Name) -> Record {
        let ttl = self.fixed.settings.ttl;
        let data = Data::Soa {
            server: self.fixed.server.clone(),
            mailbox: self.fixed.mailbox.clone(),
            serial: self.serial,
            minimum: ttl,
        };
        Record { owner: Owner::Name(apex.clone()), ttl: ttl.min(MAX_SOA_TTL), data }
    }

    pub(super) fn namespace_exists(&self, name: &[u8]) -> bool {
        let found = self.namespaces.lookup(self.hash(&[name]), |own| own.as_bytes() == name);
        found.is_some_and(|namespace| namespace.exists())
    }

    pub(super) fn service(&self, namespace: &[u8], name: &[u8]) -> Option<&ServiceNames> {
        let is = |own: &ObjectName| own.name.as_bytes() == name && own.namespace.as_bytes() == namespace;
        self.services.lookup(self.hash(&[namespace, name]), is).map(|names| &**names)
    }

    /// Returns why an address has reverse names, in the order of answering; never an empty set.
    pub(super) fn claims(&self, address: IpAddr) -> Option<&BTreeSet<Claim>> {
        self.reverse.lookup(self.hash_address(address), |own| *own == address).map(|claims| &**claims)
    }

    /// Returns the name servers with their addresses: the Services that listen where we do, else our own name.
    pub(super) fn name_servers(&self) -> Vec<(Name, Vec<IpAddr>)> {
        let mut servers: Vec<(Name, Vec<IpAddr>)> = Vec::new();
        for &address in &self.fixed.settings.servers {
            let Some(Claim::Service(service)) = self.claims(address).and_then(BTreeSet::first) else {
                continue;
            };
            let Some(name) = service_name(self.origin(), service, None) else { continue };
            match servers.iter_mut().find(|(own, _)| *own == name) {
                Some((_, addresses)) => addresses.push(address),
                None => servers.push((name, vec![address])),
            }
        }
        if servers.is_empty() {
            servers.push((self.fixed.server.clone(), self.server_addresses()));
        }
        servers
    }

    /// Returns the addresses of `ns.dns.<zone>`: where we listen, but not loopback.
    pub(super) fn server_addresses(&self) -> Vec<IpAddr> {
        self.fixed.settings.servers.iter().copied().filter(|address| !address.is_loopback()).collect()
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.fixed.hash.build_hasher();
        for part in parts {
            hasher.write(part);
            hasher.write_u8(0);
        }
        hasher.finish()
    }

    fn hash_address(&self, address: IpAddr) -> u64 {
        self.fixed.hash.hash_one(address)
    }

    /// Changes a namespace's entry and says whether its name appeared or went.
    fn change_namespace(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Namespace)) -> bool {
        let hash = self.hash(&[name.as_bytes()]);
        let before = self.namespaces.lookup(hash, |own| own == name).copied().unwrap_or_default();
        let mut after = before;
        change(&mut after);
        if after.exists() {
            self.namespaces.insert(hash, name.clone(), after);
        } else {
            self.namespaces.remove(hash, name);
        }
        before.exists() != after.exists()
    }

    /// Puts a Service's names in the place of what it had, and says whether that changed anything.
    fn replace(&mut self, name: &ObjectName, names: Option<Arc<ServiceNames>>) -> bool {
        let hash = self.hash(&[name.namespace.as_bytes(), name.name.as_bytes()]);
        let before = self.services.lookup(hash, |own| own == name).cloned();
        if before == names {
            return false;
        }
        let claims =
            |names: &Option<Arc<ServiceNames>>| names.as_ref().map(|n| n.claims()).unwrap_or_default();
        let (old, new) = (claims(&before), claims(&names));
        for (address, claim) in old.difference(&new) {
            self.change_claims(*address, |claims| claims.remove(claim));
        }
        for (address, claim) in new.difference(&old) {
            self.change_claims(*address, |claims| claims.insert(claim.clone()));
        }
        let (had, has) = (usize::from(before.is_some()), usize::from(names.is_some()));
        self.change_namespace(&name.namespace, |namespace| {
            namespace.services = namespace.services + has - had;
        });
        match names {
            Some(names) => self.services.insert(hash, name.clone(), names),
            None => self.services.remove(hash, name),
        }
        true
    }

    fn change_claims(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeSet<Claim>) -> bool) {
        let hash = self.hash_address(address);
        let mut claims = self.claims(address).cloned().unwrap_or_default();
        change(&mut claims);
        if claims.is_empty() {
            self.reverse.remove(hash, &address);
        } else {
            self.reverse.insert(hash, address, Arc::new(claims));
        }
    }
}

impl Namespace {
    fn exists(self) -> bool {
        self.declared || self.services > 0
    }
}
