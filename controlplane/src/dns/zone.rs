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
    /// Costs the Services named in `dirty`, times the depth of the table (log32 of its size), not the
    /// cluster.
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

    /// Returns the name servers with their addresses: the Services that listen where we do, else our own
    /// name.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{Endpoint, EndpointSlice, Event, Service, ServiceKind, ServicePort, SlicePort};
    use tidegate_dataplane::net::Protocol;

    type Contents = (
        BTreeMap<Arc<str>, Namespace>,
        BTreeMap<ObjectName, Arc<ServiceNames>>,
        BTreeMap<IpAddr, Arc<BTreeSet<Claim>>>,
    );

    fn contents(zone: &Zone) -> Contents {
        let mut all = Contents::default();
        zone.namespaces.for_each(|key, value| assert!(all.0.insert(key.clone(), *value).is_none()));
        zone.services.for_each(|key, value| assert!(all.1.insert(key.clone(), value.clone()).is_none()));
        zone.reverse.for_each(|key, value| assert!(all.2.insert(*key, value.clone()).is_none()));
        all
    }

    fn empty() -> Zone {
        Zone::new(ZoneSettings { serial: 7, ..ZoneSettings::default() }).expect("a zone")
    }

    fn everything(cluster: &Cluster) -> Dirty {
        Dirty {
            services: cluster.services().map(|service| service.name.clone()).collect(),
            namespaces: cluster.namespaces().cloned().collect(),
        }
    }

    fn object(number: u8) -> ObjectName {
        ObjectName::new(["dev", "prod"][usize::from(number % 2)], ["a", "b", "c"][usize::from(number % 3)])
    }

    /// Few addresses, so that Services and endpoints collide on them.
    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number % 4])
    }

    fn service_event(number: u8, shape: u8) -> Event {
        let kind = match shape % 3 {
            0 => ServiceKind::ClusterIp(vec![address(shape / 3)]),
            1 => ServiceKind::Headless,
            _ => ServiceKind::ExternalName("example.org".into()),
        };
        let ports = vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: u16::from(shape) + 1,
            node_port: None,
        }];
        Event::ServiceApplied(Arc::new(Service {
            name: object(number),
            kind,
            ports,
            foreign_proxy: false,
            traffic: crate::traffic::Traffic::default(),
        }))
    }

    fn slice_name(number: u8, of: u8) -> (ObjectName, ObjectName) {
        let service = object(of);
        let name = format!("{}-{}", service.name, number % 2);
        (ObjectName::new(&service.namespace, &name), service)
    }

    fn slice_event(number: u8, of: u8, shapes: &[u8]) -> Event {
        let (name, service) = slice_name(number, of);
        let endpoint = |&shape: &u8| Endpoint {
            address: address(shape),
            hostname: (shape & 8 != 0).then(|| "host".into()),
            ready: shape & 16 == 0,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            pod: None,
            hints: None,
        };
        let endpoints = shapes.iter().map(endpoint).collect();
        let ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }];
        Event::SliceApplied(Arc::new(EndpointSlice { name, service, endpoints, ports }))
    }

    fn event() -> impl Strategy<Value = Event> {
        let namespace = |number: u8| -> Arc<str> { ["dev", "prod", "empty"][usize::from(number % 3)].into() };
        prop_oneof![
            3 => (any::<u8>(), any::<u8>()).prop_map(|(number, shape)| service_event(number, shape)),
            2 => any::<u8>().prop_map(|number| Event::ServiceDeleted(object(number))),
            4 => (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..4))
                .prop_map(|(number, of, shapes)| slice_event(number, of, &shapes)),
            1 => (any::<u8>(), any::<u8>()).prop_map(|(number, of)| {
                let (name, service) = slice_name(number, of);
                Event::SliceDeleted { name, service }
            }),
            1 => any::<u8>().prop_map(move |number| Event::NamespaceApplied(namespace(number))),
            1 => any::<u8>().prop_map(move |number| Event::NamespaceDeleted(namespace(number))),
        ]
    }

    proptest! {
        #[test]
        fn updates_step_by_step_equal_a_fresh_build(
            batches in prop::collection::vec(prop::collection::vec(event(), 1..5), 1..20),
        ) {
            let (mut cluster, mut zone) = (Cluster::default(), empty());
            for batch in batches {
                let mut dirty = Dirty::default();
                batch.into_iter().for_each(|event| cluster.apply(event, &mut dirty));
                let (before, serial) = (contents(&zone), zone.serial());
                let next = zone.updated(&cluster, &dirty);
                let after = contents(&next);
                prop_assert_eq!(&after, &contents(&empty().updated(&cluster, &everything(&cluster))));
                prop_assert_eq!(&contents(&zone), &before, "the old zone has changed");
                let names = |all: &Contents| (all.0.keys().cloned().collect::<Vec<_>>(), all.1.clone());
                prop_assert_eq!(next.serial(), serial + u32::from(names(&after) != names(&before)));
                zone = next;
            }
        }
    }

    #[test]
    fn a_change_that_no_name_shows_keeps_the_serial() {
        let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
        cluster.apply(service_event(0, 1), &mut dirty);
        cluster.apply(slice_event(0, 0, &[1]), &mut dirty);
        let zone = empty().updated(&cluster, &dirty);
        assert_eq!(zone.serial(), 8);
        let mut dirty = Dirty::default();
        cluster.apply(slice_event(1, 0, &[16]), &mut dirty);
        assert!(!dirty.is_empty());
        // A slice more without a ready endpoint: its ports are names of nothing.
        assert_eq!(zone.updated(&cluster, &dirty).serial(), zone.serial());
    }

    #[test]
    fn a_domain_without_room_below_it_is_refused() {
        let domain = vec!["a".repeat(63); 3].join(".") + "." + &"b".repeat(60);
        assert!(Zone::new(ZoneSettings { domain, ..ZoneSettings::default() }).is_err());
    }

    #[test]
    fn an_endpoint_whose_name_would_be_too_long_is_left_out() {
        let domain = vec!["d".repeat(63); 3].join(".");
        let mut cluster = Cluster::default();
        let mut dirty = Dirty::default();
        cluster.apply(service_event(0, 1), &mut dirty);
        let mut slice = match slice_event(0, 0, &[1, 2]) {
            Event::SliceApplied(slice) => (*slice).clone(),
            other => panic!("{other:?} is no slice"),
        };
        slice.endpoints[0].hostname = Some("h".repeat(63).into());
        cluster.apply(Event::SliceApplied(Arc::new(slice)), &mut dirty);
        let zone = Zone::new(ZoneSettings { domain, ..ZoneSettings::default() }).expect("a zone");
        let zone = zone.updated(&cluster, &dirty);
        let names = zone.service(b"dev", b"a").expect("the Service");
        assert_eq!(*names.addresses, [address(2)]);
    }
}
