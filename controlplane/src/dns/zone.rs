//! The immutable table of all names.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use super::name::{InvalidName, NameRef};
use super::service_names::{Claim, Claims, Rules, ServiceNames, service_name};
use super::trie::Trie;
use super::{Data, Name, Owner, PodNames, Record, ZoneSettings};
use crate::cluster::{Cluster, Dirty, ObjectName, Pod, ServiceKind};

/// Longest that the SOA itself may be kept, seconds; CoreDNS' limit.
const MAX_SOA_TTL: u32 = 300;

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
    reverse: Trie<IpAddr, Claims>,
    /// Pods that may be named, and the same by address; empty unless names of pods are verified.
    pods: Trie<ObjectName, Arc<Pod>>,
    pods_at: Trie<IpAddr, Arc<BTreeSet<ObjectName>>>,
    /// The Services that have our listen addresses, also of namespaces that are not served.
    listening: Arc<BTreeMap<ObjectName, BTreeSet<IpAddr>>>,
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
            pods: Trie::new(),
            pods_at: Trie::new(),
            listening: Arc::default(),
        })
    }

    /// Returns the zone after a change, with the next serial if names changed at all.
    ///
    /// Costs the Services named in `dirty`, times the depth of the table (log32 of its size), not the
    /// cluster.
    #[must_use]
    pub fn updated(&self, cluster: &Cluster, dirty: &Dirty) -> Self {
        let mut next = self.clone();
        let mut changed = false;
        let settings = &self.fixed.settings;
        for name in dirty.namespaces.iter().filter(|name| settings.exposes(name.as_bytes())) {
            let declared = cluster.has_namespace(name);
            changed |= next.change_namespace(name, |namespace| namespace.declared = declared);
        }
        let rules = Rules {
            origin: &self.fixed.origin,
            endpoint_pod_names: settings.endpoint_pod_names,
            hide_empty: settings.hide_empty,
        };
        for name in &dirty.services {
            changed |= next.change_listening(cluster, name);
            if settings.exposes(name.namespace.as_bytes()) {
                let known = next.service(name.namespace.as_bytes(), name.name.as_bytes());
                let own = known.map_or_else(|| Arc::new(name.clone()), |known| Arc::clone(&known.name));
                let build = |service| ServiceNames::build(own, service, cluster.slices_of(name), &rules);
                let names = cluster.service(name).and_then(|service| build(service)).map(Arc::new);
                changed |= next.replace(name, names);
            }
        }
        if settings.pods == PodNames::Verified {
            for name in &dirty.pods {
                changed |= next.replace_pod(name, cluster.pod(name));
            }
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
    ///
    /// DEVIATION: CoreDNS' serial is the time of the last change in seconds; this one grows with each change.
    pub(super) fn soa(&self, apex: NameRef<'_>) -> Record {
        let minimum = self.fixed.settings.negative_ttl;
        let data = Data::Soa {
            server: self.fixed.server.clone(),
            mailbox: self.fixed.mailbox.clone(),
            serial: self.serial,
            minimum,
        };
        let is_ours = apex == self.fixed.origin.as_name_ref();
        let owner = if is_ours { self.fixed.origin.clone() } else { apex.to_name() };
        Record { owner: Owner::Name(owner), ttl: minimum.min(MAX_SOA_TTL), data }
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
    pub(super) fn claims(&self, address: IpAddr) -> Option<&[Claim]> {
        self.reverse.lookup(self.hash_address(address), |own| *own == address).map(Claims::as_slice)
    }

    /// Returns a Pod of a namespace that has an address; `None` unless names of pods are verified.
    pub(super) fn pod_at(&self, namespace: &[u8], address: IpAddr) -> Option<&ObjectName> {
        let pods = self.pods_at.lookup(self.hash_address(address), |own| *own == address)?;
        pods.iter().find(|pod| pod.namespace.as_bytes() == namespace)
    }

    /// Returns the name servers with their addresses: the Services that listen where we do, else our own
    /// name.
    pub(super) fn name_servers(&self) -> Vec<(Name, Vec<IpAddr>)> {
        let server = |(service, addresses): (&ObjectName, &BTreeSet<IpAddr>)| {
            Some((service_name(self.origin(), service, None)?, addresses.iter().copied().collect()))
        };
        let servers: Vec<(Name, Vec<IpAddr>)> = self.listening.iter().filter_map(server).collect();
        if servers.is_empty() { vec![(self.fixed.server.clone(), self.server_addresses())] } else { servers }
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

    /// Notes whether a Service listens where we do, and says whether that changed.
    fn change_listening(&mut self, cluster: &Cluster, name: &ObjectName) -> bool {
        let own = &self.fixed.settings.servers;
        let listens: BTreeSet<IpAddr> = match cluster.service(name).map(|service| &service.kind) {
            Some(ServiceKind::ClusterIp(addresses)) => {
                addresses.iter().filter(|address| own.contains(address)).copied().collect()
            }
            _ => BTreeSet::new(),
        };
        if self.listening.get(name).cloned().unwrap_or_default() == listens {
            return false;
        }
        let listening = Arc::make_mut(&mut self.listening);
        if listens.is_empty() {
            listening.remove(name);
        } else {
            listening.insert(name.clone(), listens);
        }
        true
    }

    /// Puts a Pod in the place of what it was, and says whether that changed a name.
    fn replace_pod(&mut self, name: &ObjectName, pod: Option<&Arc<Pod>>) -> bool {
        let exposed = self.fixed.settings.exposes(name.namespace.as_bytes());
        let pod = pod.filter(|_| exposed);
        let hash = self.hash(&[name.namespace.as_bytes(), name.name.as_bytes()]);
        let before = self.pods.lookup(hash, |own| own == name).cloned();
        let addresses = |pod: Option<&Arc<Pod>>| -> BTreeSet<IpAddr> {
            pod.into_iter().flat_map(|pod| pod.addresses.iter().copied()).collect()
        };
        let (old, new) = (addresses(before.as_ref()), addresses(pod));
        for &address in old.symmetric_difference(&new) {
            let at = self.hash_address(address);
            let mut pods = self.pods_at.lookup(at, |own| *own == address).cloned().unwrap_or_default();
            let changed = Arc::make_mut(&mut pods);
            if !changed.remove(name) {
                changed.insert(name.clone());
            }
            if changed.is_empty() {
                self.pods_at.remove(at, &address);
            } else {
                self.pods_at.insert(at, address, pods);
            }
        }
        match pod {
            Some(pod) => self.pods.insert(hash, name.clone(), Arc::clone(pod)),
            None => self.pods.remove(hash, name),
        }
        old != new
    }

    fn change_claims(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeSet<Claim>) -> bool) {
        let hash = self.hash_address(address);
        let mut claims: BTreeSet<Claim> = self.claims(address).into_iter().flatten().cloned().collect();
        change(&mut claims);
        match Claims::of(claims) {
            Some(claims) => self.reverse.insert(hash, address, claims),
            None => self.reverse.remove(hash, &address),
        }
    }
}

impl Namespace {
    fn exists(self) -> bool {
        self.declared || self.services > 0
    }
}

#[cfg(test)]
mod tests;
