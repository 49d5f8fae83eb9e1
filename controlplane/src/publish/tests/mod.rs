//! Publication against recorded XDP maps, real snapshots, and workers that acknowledge when the test says so.

mod cost;
mod histories;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use arc_swap::ArcSwap;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::{Backend, Frontend, Services, VirtualAddress};
use tidegate_dataplane::snapshot::{Publisher, Snapshot, Subscriber};

use super::{InUse, Publication, Steering};
use crate::cluster::{Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName};
use crate::cluster::{Service, ServiceKind, ServicePort, SlicePort};
use crate::dns::{Name, Outcome, Reason, Type, Zone, ZoneSettings, resolve};
use crate::tables::{Compiler, EndpointKey, service_port_id};

pub(super) const LINGER: Duration = Duration::from_secs(1);

pub(super) fn object(name: &str) -> ObjectName {
    ObjectName::new("dev", name)
}

pub(super) fn vip(last: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, last])
}

pub(super) fn endpoint(last: u8) -> EndpointKey {
    let address = IpAddr::from([10, 244, 0, last]);
    EndpointKey { address, port: Port::new(8080), protocol: Protocol::Tcp }
}

pub(super) fn service_of(name: &str, kind: ServiceKind) -> Service {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Service {
        name: object(name),
        kind,
        ports: vec![port],
        foreign_proxy: false,
        traffic: crate::traffic::Traffic::default(),
    }
}

pub(super) fn applied(name: &str, kind: ServiceKind) -> Event {
    Event::ServiceApplied(Arc::new(service_of(name, kind)))
}

/// A Service with that ClusterIP.
pub(super) fn at(name: &str, address: u8) -> Event {
    applied(name, ServiceKind::ClusterIp(vec![vip(address)]))
}

pub(super) fn deleted(name: &str) -> Event {
    Event::ServiceDeleted(object(name))
}

/// The one slice of a Service, with ready endpoints on [`endpoint`]'s port.
pub(super) fn slice(service: &str, endpoints: &[u8]) -> Event {
    let ready = |last: &u8| Endpoint::ready_at(endpoint(*last).address);
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: object(&format!("{service}-1")),
        service: object(service),
        endpoints: endpoints.iter().map(ready).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    }))
}

/// Backends of an address in a snapshot.
pub(super) fn backends(snapshot: &Snapshot, address: IpAddr) -> Vec<Backend> {
    let table = snapshot.services.virtual_address(address);
    let ports = table.into_iter().flat_map(VirtualAddress::ports);
    ports.flat_map(|port| port.backends.members()).copied().collect()
}

pub(super) fn key(backend: &Backend) -> EndpointKey {
    EndpointKey { address: backend.address, port: backend.port, protocol: Protocol::Tcp }
}

/// What the zone says: each Service's addresses, and whether they are ClusterIPs.
pub(super) fn named(zone: &Zone, services: &[String]) -> BTreeMap<String, (bool, BTreeSet<String>)> {
    let mut named = BTreeMap::new();
    for service in services {
        let name = Name::parse(&format!("{service}.dev.svc.cluster.local")).unwrap();
        let verdict = resolve(zone, name.as_name_ref(), Type::A);
        let is_cluster_ip = matches!(verdict.reason, Reason::ClusterIp(_));
        match verdict.outcome {
            Outcome::Answer { records, .. } => {
                let data = records.iter().map(|record| format!("{:?}", record.data)).collect();
                named.insert(service.clone(), (is_cluster_ip, data));
            }
            Outcome::Chase { target, .. } => {
                named.insert(service.clone(), (false, BTreeSet::from([target.to_string()])));
            }
            Outcome::NxDomain(_) | Outcome::NoData(_) => {}
            other => panic!("{service}: {other:?}"),
        }
    }
    named
}

/// The XDP maps. Each change is checked against the names and the snapshot of that very moment.
pub(super) struct Maps {
    pub(super) endpoints: BTreeSet<EndpointKey>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) sockets: BTreeSet<Frontend>,
    pub(super) calls: usize,
    /// The most endpoints that are taken.
    pub(super) room: usize,
    /// Addresses that are not taken.
    pub(super) unwelcome: BTreeSet<IpAddr>,
    names: Arc<ArcSwap<Zone>>,
    services: Vec<String>,
    /// A worker that is always parked.
    witness: Subscriber,
}

impl Maps {
    fn is_named(&self, address: IpAddr) -> bool {
        let text = format!("A({address})");
        named(&self.names.load(), &self.services)
            .values()
            .any(|(is_vip, data)| *is_vip && data.contains(&text))
    }

    fn is_listed(&mut self, endpoint: &EndpointKey) -> bool {
        let snapshot = self.witness.refresh();
        (0..=255).any(|last| backends(snapshot, vip(last)).iter().any(|backend| key(backend) == *endpoint))
    }

    fn has_table(&mut self, address: IpAddr) -> bool {
        self.witness.refresh().services.virtual_address(address).is_some()
    }
}

impl Steering for Maps {
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        self.calls += 1;
        assert!(self.services.is_empty() || !self.is_listed(endpoint), "{endpoint:?} comes after its table");
        ensure!(self.endpoints.len() < self.room, "no room for {endpoint:?}");
        assert!(self.endpoints.insert(*endpoint), "{endpoint:?} twice");
        Ok(())
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        self.calls += 1;
        assert!(!self.is_listed(endpoint), "{endpoint:?} goes before its table");
        assert!(self.endpoints.remove(endpoint), "{endpoint:?} was not there");
        Ok(())
    }

    fn insert_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        let Frontend::Address(address) = frontend else {
            assert!(self.sockets.insert(frontend), "{frontend} twice");
            return Ok(());
        };
        self.calls += 1;
        assert!(self.has_table(address), "{address} comes before its table");
        assert!(!self.is_named(address), "{address} comes after its name");
        ensure!(!self.unwelcome.contains(&address), "{address} is unwelcome");
        assert!(self.addresses.insert(address), "{address} twice");
        Ok(())
    }

    fn remove_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        let Frontend::Address(address) = frontend else {
            assert!(self.sockets.remove(&frontend), "{frontend} was not there");
            return Ok(());
        };
        self.calls += 1;
        assert!(!self.has_table(address), "{address} goes before its table");
        assert!(!self.is_named(address), "{address} goes before its name");
        assert!(self.addresses.remove(&address), "{address} was not there");
        Ok(())
    }
}

/// A worker as the test moves it.
pub(super) struct Worker {
    subscriber: Subscriber,
    pub(super) held: Snapshot,
    pub(super) parked: bool,
    pub(super) behind_since: Option<Instant>,
}

/// A control loop with its workers, on a clock of its own.
pub(super) struct World {
    pub(super) publication: Publication<Maps>,
    pub(super) cluster: Cluster,
    pub(super) workers: Vec<Worker>,
    pub(super) flows: Vec<EndpointKey>,
    pub(super) now: Instant,
    names: Arc<ArcSwap<Zone>>,
    services: Vec<String>,
    waiting: Vec<Event>,
}

impl World {
    /// Makes a world whose names are those of `services`.
    pub(super) fn new(workers: usize, services: &[&str]) -> Self {
        let mut zone = Zone::new(ZoneSettings { serial: 1, ..ZoneSettings::default() }).unwrap();
        zone.set_synced();
        let names = Arc::new(ArcSwap::from_pointee(zone));
        let services: Vec<String> = services.iter().map(|name| (*name).to_owned()).collect();
        let first = Snapshot::empty(Services::new([]));
        let (publisher, mut subscribers) = Publisher::new(first.clone(), workers + 1);
        let mut witness = subscribers.pop().unwrap();
        witness.park();
        let maps = Maps {
            endpoints: BTreeSet::new(),
            addresses: BTreeSet::new(),
            sockets: BTreeSet::new(),
            calls: 0,
            room: usize::MAX,
            unwelcome: BTreeSet::new(),
            names: Arc::clone(&names),
            services: services.clone(),
            witness,
        };
        let worker =
            |subscriber| Worker { subscriber, held: first.clone(), parked: false, behind_since: None };
        Self {
            publication: Publication::new(maps, publisher, Compiler::default(), Arc::clone(&names), LINGER),
            cluster: Cluster::default(),
            workers: subscribers.into_iter().map(worker).collect(),
            flows: Vec::new(),
            now: Instant::now(),
            names,
            services,
            waiting: Vec::new(),
        }
    }

    /// Lets the source say these, which is heard when names are settled, and goes as far as possible.
    pub(super) fn say(&mut self, events: impl IntoIterator<Item = Event>) {
        self.waiting.extend(events);
        self.pump();
    }

    /// Goes as far as possible, as the control loop does when a deadline has come.
    pub(super) fn pump(&mut self) {
        self.publication.advance(&self.cluster, self.now);
        if self.publication.is_settled() && !self.waiting.is_empty() {
            let mut dirty = Dirty::default();
            for event in std::mem::take(&mut self.waiting) {
                self.cluster.apply(event, &mut dirty);
            }
            self.publication.apply(&self.cluster, &dirty, self.now);
        }
        let current = self.publication.publisher.current().generation;
        for worker in self.workers.iter_mut().filter(|worker| worker.held.generation < current) {
            worker.behind_since.get_or_insert(self.now);
        }
    }

    /// Lets time pass; the deadlines within it are kept.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.publication.next_deadline(self.now).filter(|at| *at < end) {
            self.now = self.now.max(deadline);
            self.pump();
        }
        self.now = end;
        self.pump();
    }

    /// Lets a worker begin a burst.
    pub(super) fn refresh(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        if worker.parked {
            worker.subscriber.unpark();
        }
        worker.held = worker.subscriber.refresh().clone();
        worker.parked = false;
        worker.behind_since = None;
        self.pump();
    }

    pub(super) fn refresh_all(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.refresh(worker));
    }

    /// Lets a worker sleep; before, it is done with its burst.
    pub(super) fn park(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.subscriber.park();
        worker.parked = true;
        self.pump();
    }

    /// What the housekeeping does about endpoints.
    pub(super) fn sweep(&mut self) {
        let service = service_port_id(&object("a"), "http", Protocol::Tcp);
        let pairs = self.flows.iter().map(|key| (service, key.id())).collect();
        self.publication.sweep_endpoints(|| InUse { pairs, ..InUse::default() }, self.now);
    }

    /// Each Service's addresses by its name.
    pub(super) fn named(&self) -> BTreeMap<String, (bool, BTreeSet<String>)> {
        named(&self.names.load(), &self.services)
    }

    /// Whether a Service's name leads to that ClusterIP.
    pub(super) fn names(&self, service: &str, address: u8) -> bool {
        let says = format!("A({})", vip(address));
        self.named().get(service).is_some_and(|(is_vip, data)| *is_vip && data.contains(&says))
    }

    /// Whether the snapshot in force gives that address to a Service.
    pub(super) fn gives(&self, service: &str, address: u8) -> bool {
        belongs(&self.publication.publisher.current(), service, vip(address))
    }

    /// Whether the snapshot in force refuses whoever calls that address.
    pub(super) fn refuses(&self, address: u8) -> bool {
        let snapshot = self.publication.publisher.current();
        let table = snapshot.services.virtual_address(vip(address));
        table.is_some_and(|table| *table == VirtualAddress::removed())
    }

    /// Whether the XDP program takes that address.
    pub(super) fn steers(&self, address: u8) -> bool {
        self.publication.steering.addresses.contains(&vip(address))
    }

    /// Whether the XDP program takes replies of that endpoint.
    pub(super) fn takes(&self, last: u8) -> bool {
        self.publication.steering.endpoints.contains(&endpoint(last))
    }
}

/// Whether a snapshot gives an address to a Service.
pub(super) fn belongs(snapshot: &Snapshot, service: &str, address: IpAddr) -> bool {
    let own = service_of(service, ServiceKind::Headless);
    let id = service_port_id(&own.name, "http", Protocol::Tcp);
    let table = snapshot.services.virtual_address(address);
    table.is_some_and(|table| table.ports().iter().any(|port| port.id == id))
}
