//! Putting changes in force in the order that never lets a name lead to nowhere (design decision 6).
//!
//! Adding: endpoints into the XDP program → snapshot → acknowledged by all workers → virtual addresses into the XDP
//! program → DNS. Removing: DNS → linger → snapshot → acknowledged → virtual addresses out of the XDP program;
//! an endpoint leaves the program when no Service lists it and its last flow is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tidegate_dataplane::flows::EndpointId;
use tidegate_dataplane::neighbours::Neighbours;
use tidegate_dataplane::routes::Routes;
use tidegate_dataplane::services::VirtualAddress;
use tidegate_dataplane::snapshot::{Device, Publisher, Snapshot};

use crate::cluster::{Cluster, Dirty, ObjectName};
use crate::dns::Zone;
use crate::tables::{Compiled, Compiler, EndpointKey};

/// How long the control thread waits for workers to acknowledge a snapshot; a stopped worker gets no packets
/// after half a second, so nothing is lost by going on.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_millis(600);

/// The XDP program's maps, as publication needs them.
pub trait Steering {
    /// Takes replies of an endpoint.
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()>;
    /// Leaves replies of an endpoint to the kernel.
    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()>;
    /// Takes packets to a virtual address.
    fn insert_virtual_address(&mut self, address: IpAddr) -> anyhow::Result<()>;
    /// Leaves packets to an address to the kernel.
    fn remove_virtual_address(&mut self, address: IpAddr) -> anyhow::Result<()>;
}

#[derive(Debug)]
struct Published {
    service: ObjectName,
    table: VirtualAddress,
    endpoints: BTreeSet<EndpointKey>,
    /// Set when the Service no longer has this address.
    lingers_until: Option<Instant>,
}

/// What is in force, and the means to change it.
pub struct Publication<S> {
    /// The XDP program.
    pub steering: S,
    /// The way to the workers.
    pub publisher: Publisher,
    names: Arc<ArcSwap<Zone>>,
    compiler: Compiler,
    linger: Duration,
    addresses: BTreeMap<IpAddr, Published>,
    by_service: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    references: HashMap<EndpointKey, usize>,
    leaving: BTreeSet<EndpointKey>,
    /// Changes that the XDP program refused, and workers that did not acknowledge in time.
    pub errors: u64,
}

impl<S: Steering> Publication<S> {
    /// Starts with nothing in force.
    pub fn new(steering: S, publisher: Publisher, names: Arc<ArcSwap<Zone>>, linger: Duration) -> Self {
        Self {
            steering,
            publisher,
            names,
            compiler: Compiler::default(),
            linger,
            addresses: BTreeMap::new(),
            by_service: BTreeMap::new(),
            references: HashMap::new(),
            leaving: BTreeSet::new(),
            errors: 0,
        }
    }

    /// Puts all changes of the cluster in force.
    pub async fn apply(&mut self, cluster: &Cluster, dirty: &Dirty, now: Instant) {
        let (present, gone): (BTreeSet<_>, BTreeSet<_>) =
            dirty.services.iter().cloned().partition(|name| cluster.service(name).is_some());
        if !gone.is_empty() {
            self.update_names(cluster, &Dirty { services: gone.clone(), namespaces: BTreeSet::new() });
        }
        let mut changes = Vec::new();
        for name in &dirty.services {
            self.apply_service(cluster, name, now, &mut changes);
        }
        let fresh: Vec<IpAddr> = changes.iter().map(|(address, _)| *address).collect();
        if !changes.is_empty() {
            self.publish_services(changes).await;
        }
        for address in fresh {
            let inserted = self.steering.insert_virtual_address(address);
            self.note(inserted);
        }
        let names = Dirty { services: present, namespaces: dirty.namespaces.clone() };
        if !names.is_empty() {
            self.update_names(cluster, &names);
        }
    }

    /// Compiles one Service and notes which addresses get another table.
    fn apply_service(
        &mut self,
        cluster: &Cluster,
        name: &ObjectName,
        now: Instant,
        changes: &mut Vec<(IpAddr, Option<VirtualAddress>)>,
    ) {
        let mut wanted = BTreeSet::new();
        for compiled in self.compiler.compile(cluster, name) {
            let owner = self.addresses.get(&compiled.address);
            if let Some(owner) = owner.filter(|o| o.service != *name && o.lingers_until.is_none()) {
                tracing::error!(
                    "Service {name}: spec.clusterIP {}: belongs to Service {} already",
                    compiled.address,
                    owner.service
                );
                continue;
            }
            wanted.insert(compiled.address);
            if owner.is_none_or(|owner| owner.table != compiled.table || owner.service != *name) {
                changes.push((compiled.address, Some(compiled.table.clone())));
            }
            self.take_over(name, compiled);
        }
        let before = self.by_service.remove(name).unwrap_or_default();
        for address in before.difference(&wanted) {
            let published = self.addresses.get_mut(address).filter(|published| published.service == *name);
            if let Some(published) = published {
                published.lingers_until.get_or_insert(now + self.linger);
            }
        }
        if !wanted.is_empty() {
            self.by_service.insert(name.clone(), wanted);
        }
    }

    fn take_over(&mut self, name: &ObjectName, compiled: Compiled) {
        let Compiled { address, table, endpoints } = compiled;
        for endpoint in &endpoints {
            self.refer(*endpoint);
        }
        let next = Published { service: name.clone(), table, endpoints, lingers_until: None };
        if let Some(before) = self.addresses.insert(address, next) {
            self.release(&before.endpoints);
        }
    }

    fn refer(&mut self, endpoint: EndpointKey) {
        let references = self.references.entry(endpoint).or_default();
        *references += 1;
        if *references == 1 && !self.leaving.remove(&endpoint) {
            let inserted = self.steering.insert_endpoint(&endpoint);
            self.note(inserted);
        }
    }

    fn release(&mut self, endpoints: &BTreeSet<EndpointKey>) {
        for endpoint in endpoints {
            let Some(references) = self.references.get_mut(endpoint) else { continue };
            *references -= 1;
            if *references == 0 {
                self.references.remove(endpoint);
                self.leaving.insert(*endpoint);
            }
        }
    }

    /// Returns when [`Publication::tick`] has something to end, if ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.addresses.values().filter_map(|published| published.lingers_until).min()
    }

    /// Ends what has lingered long enough.
    pub async fn tick(&mut self, now: Instant) {
        let over: Vec<IpAddr> = self
            .addresses
            .iter()
            .filter(|(_, published)| published.lingers_until.is_some_and(|until| until <= now))
            .map(|(address, _)| *address)
            .collect();
        if over.is_empty() {
            return;
        }
        self.publish_services(over.iter().map(|address| (*address, None)).collect()).await;
        for address in over {
            let removed = self.steering.remove_virtual_address(address);
            self.note(removed);
            if let Some(published) = self.addresses.remove(&address) {
                self.release(&published.endpoints);
            }
        }
    }

    /// Says whether endpoints wait for their last flow.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Takes endpoints out of the XDP program that no Service lists and no flow uses.
    pub fn sweep_endpoints(&mut self, in_use: &HashSet<EndpointId>) {
        let gone: Vec<EndpointKey> =
            self.leaving.iter().filter(|endpoint| !in_use.contains(&endpoint.id())).copied().collect();
        for endpoint in gone {
            self.leaving.remove(&endpoint);
            let removed = self.steering.remove_endpoint(&endpoint);
            self.note(removed);
        }
    }

    /// Puts routes, neighbours and devices in force; cached next hops become stale.
    pub fn publish_links(
        &mut self,
        routes: Arc<Routes>,
        neighbours: Arc<Neighbours>,
        devices: Arc<[Device]>,
    ) {
        let current = self.publisher.current();
        let links_generation = current.links_generation.wrapping_add(1).max(1);
        self.publisher.publish(Snapshot {
            links_generation,
            routes,
            neighbours,
            devices,
            ..(*current).clone()
        });
    }

    async fn publish_services(&mut self, changes: Vec<(IpAddr, Option<VirtualAddress>)>) {
        let current = self.publisher.current();
        let services = current.services.with(changes);
        let generation = self.publisher.publish(Snapshot { services, ..(*current).clone() });
        drop(current);
        let limit = Instant::now() + ACKNOWLEDGE_LIMIT;
        while !self.publisher.is_acknowledged(generation) {
            if Instant::now() >= limit {
                self.errors += 1;
                tracing::warn!("a worker did not take snapshot {generation} within {ACKNOWLEDGE_LIMIT:?}");
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        self.publisher.free_retired();
    }

    fn update_names(&self, cluster: &Cluster, dirty: &Dirty) {
        let next = self.names.load().updated(cluster, dirty);
        self.names.store(Arc::new(next));
    }

    fn note(&mut self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.errors += 1;
            tracing::error!("XDP program: {error:#}");
        }
    }

    /// Returns how many virtual addresses and endpoints are in force.
    pub fn sizes(&self) -> (usize, usize) {
        (self.addresses.len(), self.references.len())
    }
}
