//! Putting changes in force in the order that never lets a name lead to nowhere (design decision 6).
//!
//! Adding: endpoints into the XDP program → snapshot → acknowledged by all workers → virtual addresses into the XDP
//! program → names. Removing: names → linger → snapshot that refuses ClusterIPs, for a minute → snapshot →
//! acknowledged → virtual addresses out of the XDP program; an endpoint leaves the program when no Service lists it
//! and its last flow is gone.
//!
//! Nothing here waits: [`Publication::apply`] begins, [`Publication::advance`] goes on as far as the workers'
//! acknowledgements and the clock allow, [`Publication::next_deadline`] says when to call it again. `now` is an
//! argument. Reading order: `addresses` who has which address, `endpoints` and `entries` what the XDP program knows,
//! then [`Publication`].
//!
//! Two things are stricter than the order above, because there is no order that serves both sides: a Service that
//! gives its address to another one in the same change has no name until it is in force anew, and one whose address
//! is another's, or that the XDP program does not take, has none at all.

mod addresses;
mod departures;
mod endpoints;
mod entries;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tidegate_dataplane::departed::Socket;
use tidegate_dataplane::flows::EndpointId;
use tidegate_dataplane::neighbours::Neighbours;
use tidegate_dataplane::routes::Routes;
use tidegate_dataplane::services::{Backends, Frontend, VirtualAddress};
use tidegate_dataplane::snapshot::{Device, Publisher, Snapshot};

use self::addresses::{Addresses, Claim, Step};
use self::departures::Departures;
pub use self::departures::Pair;
use self::endpoints::Endpoints;
use self::entries::Entries;
use crate::account_book::AccountBook;
use crate::cluster::{Cluster, Dirty, ObjectName, ServiceKind};
use crate::compile::Locality;
use crate::dns::Zone;
use crate::programming::Programming;
use crate::tables::{Compiled, Compiler, EndpointKey, endpoints_of};

/// How long an addition waits for workers to acknowledge its snapshot. A stopped worker gets no packets after half
/// a second (decision 3), so names may then lead to the others. Removals wait without a limit.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_millis(600);
/// How often acknowledgements are looked at while they are waited for.
const POLL: Duration = Duration::from_millis(1);
/// How long a ClusterIP is refused after its linger, so that who still has its name from a cache is told at once.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How long until a Service that could not be put in force is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The XDP program's maps, as publication needs them.
pub trait Steering {
    /// Takes replies of an endpoint.
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()>;
    /// Leaves replies of an endpoint to the kernel.
    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()>;
    /// Takes packets to a frontend.
    fn insert_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()>;
    /// Leaves packets to a frontend to the kernel.
    fn remove_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()>;
}

/// Says whether a name of the Service leads to a frontend: to its ClusterIPs, and to nothing else.
const fn is_named(frontend: &Frontend) -> bool {
    matches!(frontend, Frontend::Address(_))
}

/// What of a Service cannot be put in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The Service.
    pub service: ObjectName,
    /// Path of the field that asks for it.
    pub field: &'static str,
    /// Why not.
    pub what: String,
}

/// Returns the path of the field that asks for a frontend.
const fn field_of(frontend: &Frontend) -> &'static str {
    match frontend {
        Frontend::Address(_) => "spec.clusterIPs",
        Frontend::Socket(address, ..) if address.is_unspecified() => "spec.ports.nodePort",
        Frontend::Socket(..) => "spec.externalIPs",
    }
}

/// An addition between its snapshot and its names.
struct Addition {
    began: Instant,
    generation: u64,
    services: BTreeSet<ObjectName>,
    namespaces: BTreeSet<Arc<str>>,
    /// Addresses that the XDP program is to take, with the Service of each.
    entering: Vec<(Frontend, ObjectName)>,
    /// Services that get no names.
    refused: BTreeSet<ObjectName>,
    /// Services that were tried before, whose faults are reported already.
    reported: BTreeSet<ObjectName>,
    /// Addresses that linger as soon as no name says them.
    lost: Vec<Frontend>,
}

/// What the flow tables hold.
#[derive(Debug, Default)]
pub struct InUse {
    /// Service port and endpoint of every flow.
    pub pairs: HashSet<Pair>,
    /// Endpoints whose late replies are still to be dropped.
    pub late: HashSet<EndpointId>,
}

/// Tables for the next snapshot, and the endpoints that the tables before listed.
#[derive(Default)]
struct Change {
    tables: Vec<(Frontend, Option<VirtualAddress>)>,
    unlisted: Vec<BTreeSet<EndpointKey>>,
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
    addresses: Addresses,
    endpoints: Endpoints,
    entries: Entries,
    departures: Departures,
    addition: Option<Addition>,
    /// Until when acknowledgements are looked at often.
    poll_until: Option<Instant>,
    /// Services that are not in force, or not with all their endpoints, and when to try again.
    short: BTreeSet<ObjectName>,
    retry_at: Option<Instant>,
    /// Changes of the cluster that were begun to be put in force.
    pub changes: u64,
    /// Changes that could not be put in force, and workers that did not acknowledge in time.
    pub errors: u64,
    /// How long changes took.
    pub programming: Programming,
    /// How long the changes took whose names have come since this was last emptied.
    pub took: Vec<Duration>,
    /// What was refused since this was last emptied, each once and of a Service one at a time.
    pub refusals: Vec<Refusal>,
}

impl<S: Steering> Publication<S> {
    /// Starts with nothing in force.
    pub fn new(
        steering: S,
        publisher: Publisher,
        compiler: Compiler,
        names: Arc<ArcSwap<Zone>>,
        linger: Duration,
    ) -> Self {
        Self {
            steering,
            publisher,
            names,
            compiler,
            linger,
            addresses: Addresses::default(),
            endpoints: Endpoints::default(),
            entries: Entries::default(),
            departures: Departures::default(),
            addition: None,
            poll_until: None,
            short: BTreeSet::new(),
            retry_at: None,
            changes: 0,
            errors: 0,
            programming: Programming::default(),
            took: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Says whether the last change has its names, so that the cluster may change again.
    pub fn is_settled(&self) -> bool {
        self.addition.is_none()
    }

    /// Begins to put changes of the cluster in force, and goes as far as [`Publication::advance`] would.
    ///
    /// Call it only when [`Publication::is_settled`], and let the cluster be as it is until it is again: names are
    /// made of it at the end. Costs the Services in `dirty`.
    pub fn apply(&mut self, cluster: &Cluster, dirty: &Dirty, now: Instant) {
        debug_assert!(self.is_settled(), "the change before has no names yet");
        // No packet is carried by a Pod's name: it need not wait.
        self.update_names(cluster, &Dirty { pods: dirty.pods.clone(), ..Dirty::default() });
        if dirty.services.is_empty() && dirty.namespaces.is_empty() {
            return;
        }
        self.changes += 1;
        self.departures.note(cluster, &dirty.services, now);
        let reported: BTreeSet<ObjectName> = dirty.services.intersection(&self.short).cloned().collect();
        self.short.retain(|name| !reported.contains(name));
        let compile = |name| (name, self.compile(cluster, name, reported.contains(name), now));
        let wanted: BTreeMap<&ObjectName, Vec<Compiled>> = dirty.services.iter().map(compile).collect();
        let given_up = self.given_up(&wanted);
        let nameless: BTreeSet<ObjectName> = {
            let asked_for: BTreeSet<Frontend> = wanted.values().flatten().map(|own| own.frontend).collect();
            let passed_on =
                given_up.iter().filter(|(address, _)| is_named(address) && asked_for.contains(address));
            let gone = dirty.services.iter().filter(|name| cluster.service(name).is_none());
            passed_on.map(|(_, name)| name).chain(gone).cloned().collect()
        };
        self.withdraw_names(&nameless);
        let (passing, lost): (Vec<_>, Vec<_>) =
            given_up.into_iter().partition(|(address, name)| nameless.contains(name) || !is_named(address));
        passing.into_iter().for_each(|(address, _)| self.let_linger(address, now));

        let mut change = Change::default();
        let mut entering = Vec::new();
        let mut refused = BTreeSet::new();
        for (name, compiled) in wanted {
            for one in compiled {
                let address = one.frontend;
                match self.claim(name, one, &mut change) {
                    Ok(()) => entering.push((address, name.clone())),
                    Err(error) => {
                        if !reported.contains(name) {
                            self.refuse(name, field_of(&address), &error);
                        }
                        if is_named(&address) {
                            refused.insert(name.clone());
                        } else {
                            self.try_again([name.clone()], now);
                        }
                    }
                }
            }
        }
        self.addition = Some(Addition {
            began: now,
            generation: self.publish(change, now),
            services: dirty.services.clone(),
            namespaces: dirty.namespaces.clone(),
            entering,
            refused,
            reported,
            lost: lost.into_iter().map(|(address, _)| address).collect(),
        });
        self.advance(cluster, now);
    }

    /// Compiles a Service and prepares its endpoints; those that the XDP program does not take are left out, so that
    /// no flow goes where its replies would pass us by.
    fn compile(
        &mut self,
        cluster: &Cluster,
        name: &ObjectName,
        reported: bool,
        now: Instant,
    ) -> Vec<Compiled> {
        let compiled = self.compiler.compile(cluster, name, &BTreeSet::new());
        let mut complete = true;
        for endpoint in compiled.iter().flat_map(Compiled::endpoints) {
            if let Err(error) = self.endpoints.prepare(endpoint, &mut self.steering) {
                complete = false;
                if let Some(error) = error.filter(|_| !reported) {
                    self.refuse(name, "EndpointSlices", &error);
                }
            }
        }
        if complete {
            return compiled;
        }
        self.try_again([name.clone()], now);
        self.compiler.compile(cluster, name, self.endpoints.refused())
    }

    /// Returns the addresses that Services have and no longer want.
    fn given_up(&self, wanted: &BTreeMap<&ObjectName, Vec<Compiled>>) -> Vec<(Frontend, ObjectName)> {
        let mut given_up = Vec::new();
        for (name, compiled) in wanted {
            let mut held = self.addresses.of(name);
            compiled.iter().for_each(|one| {
                held.remove(&one.frontend);
            });
            given_up.extend(held.into_iter().map(|address| (address, (*name).clone())));
        }
        given_up
    }

    /// Gives a Service an address.
    ///
    /// # Errors
    /// Another Service has it.
    fn claim(&mut self, name: &ObjectName, compiled: Compiled, change: &mut Change) -> anyhow::Result<()> {
        let (address, table) = (compiled.frontend, compiled.table.clone());
        match self.addresses.claim(name, compiled) {
            Claim::Unchanged => {}
            Claim::Changed(before) => {
                self.endpoints.list(&endpoints_of(&table));
                change.tables.push((address, Some(table)));
                change.unlisted.push(before);
            }
            Claim::Taken(owner) => {
                bail!("{address}: belongs to Service {owner} already")
            }
        }
        self.entries.reuse(address);
        Ok(())
    }

    /// Goes on with what has begun, as far as possible without waiting.
    pub fn advance(&mut self, cluster: &Cluster, now: Instant) {
        if self.departures.next_reset().is_some_and(|at| at <= now) {
            self.publish(Change::default(), now);
        }
        if let Some(addition) = self.addition.take() {
            if self.is_over(&addition, now) {
                self.finish(cluster, addition, now);
            } else {
                self.addition = Some(addition);
            }
        }
        self.end_lingering(cluster, now);
        let publisher = &self.publisher;
        let is_acknowledged = |generation| publisher.is_acknowledged(generation);
        let errors = self.entries.remove_unused(is_acknowledged, &mut self.steering);
        errors.iter().for_each(|error| self.note(error));
        self.publisher.free_retired();
        if self.is_settled() && self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.endpoints.forget_refusals();
            let services = self.short.clone();
            self.apply(cluster, &Dirty { services, ..Dirty::default() }, now);
        }
    }

    /// Says whether an addition need not wait any longer.
    fn is_over(&mut self, addition: &Addition, now: Instant) -> bool {
        if self.publisher.is_acknowledged(addition.generation) {
            return true;
        }
        let late = now >= addition.began + ACKNOWLEDGE_LIMIT;
        if late {
            self.errors += 1;
            let generation = addition.generation;
            tracing::warn!("a worker did not take snapshot {generation} within {ACKNOWLEDGE_LIMIT:?}");
        }
        late
    }

    /// Ends an addition: addresses into the XDP program, then names, then nothing says the lost addresses any more.
    fn finish(&mut self, cluster: &Cluster, addition: Addition, now: Instant) {
        let Addition { began, services, namespaces, entering, mut refused, reported, lost, .. } = addition;
        for (address, service) in entering {
            if let Err(error) = self.entries.insert(address, &mut self.steering) {
                if !reported.contains(&service) {
                    self.refuse(&service, field_of(&address), &error);
                }
                if is_named(&address) {
                    refused.insert(service);
                } else {
                    self.try_again([service], now);
                }
            }
        }
        self.withdraw_names(&refused);
        let changed = services.len();
        let services = services.difference(&refused).cloned().collect();
        self.update_names(cluster, &Dirty { services, namespaces, ..Dirty::default() });
        lost.into_iter().for_each(|address| self.let_linger(address, now));
        if !refused.is_empty() {
            self.try_again(refused, now);
        }
        self.programming.note(now - began);
        tracing::debug!(services = changed, "in force after {:?}", now - began);
        self.took.push(now - began);
    }

    /// Lets an address go on for the linger time; a Service that waits for it may have it at once.
    fn let_linger(&mut self, address: Frontend, now: Instant) {
        self.addresses.let_linger(address, now + self.linger);
        if !self.short.is_empty() {
            self.retry_at = Some(now);
        }
    }

    fn try_again(&mut self, services: impl IntoIterator<Item = ObjectName>, now: Instant) {
        self.short.extend(services);
        let at = now + RETRY;
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    /// Takes addresses on that have lingered, or were refused, long enough.
    fn end_lingering(&mut self, cluster: &Cluster, now: Instant) {
        // A Service that still states the address has given it to another proxy, which is to speak for it.
        let states = |address: &Frontend, service: &ObjectName| {
            let kind = cluster.service(service).map(|service| &service.kind);
            matches!(kind, Some(ServiceKind::ClusterIp(own)) if own.contains(&address.address()))
        };
        let is_refused = |address: &Frontend, service: &_| is_named(address) && !states(address, service);
        let mut change = Change::default();
        let mut gone = Vec::new();
        for Step { address, table, endpoints } in self.addresses.step(now, REFUSED_FOR, is_refused) {
            if table.is_none() {
                gone.push(address);
            }
            change.tables.push((address, table));
            change.unlisted.push(endpoints);
        }
        if !change.tables.is_empty() {
            let generation = self.publish(change, now);
            gone.into_iter().for_each(|address| self.entries.retire(address, generation));
        }
    }

    /// Returns when [`Publication::advance`] has something to do, if nothing else happens before.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let often = self.poll_until.is_some_and(|at| now < at);
        let waits = self.addition.is_some() || self.entries.has_unused() && often;
        let poll = waits.then(|| now + POLL);
        let retry = self.retry_at.filter(|_| self.is_settled());
        [poll, retry, self.addresses.next_step(), self.departures.next_reset()].into_iter().flatten().min()
    }

    /// Waits until [`Publication::is_settled`].
    pub async fn settle(&mut self, cluster: &Cluster) {
        while !self.is_settled() {
            tokio::time::sleep(POLL).await;
            self.advance(cluster, Instant::now());
        }
    }

    /// Says whether endpoints wait for their last flow.
    pub fn has_leaving(&self) -> bool {
        self.endpoints.has_leaving() || !self.departures.is_empty()
    }

    /// Takes endpoints out of the XDP program that no Service lists and no flow uses, and forgets what has left its
    /// Service port and lost its last flow.
    ///
    /// `in_use` is asked only after every worker is past the snapshots that listed them: flows that a late worker
    /// made of an old snapshot are among those it returns.
    pub fn sweep_endpoints(&mut self, in_use: impl FnOnce() -> InUse, now: Instant) {
        let publisher = &self.publisher;
        let is_acknowledged = |generation| publisher.is_acknowledged(generation);
        let unlisted = self.endpoints.unlisted_since(is_acknowledged);
        if unlisted.is_empty() && !self.departures.is_known(is_acknowledged) {
            return;
        }
        let InUse { pairs, late } = in_use();
        self.departures.forget_unused(is_acknowledged, &pairs);
        let in_use: HashSet<EndpointId> =
            pairs.into_iter().map(|(_, endpoint)| endpoint).chain(late).collect();
        for endpoint in unlisted.iter().filter(|endpoint| !in_use.contains(&endpoint.id())) {
            if let Err(error) = self.endpoints.remove(endpoint, &mut self.steering) {
                self.note(&error);
            }
        }
        self.publish(Change::default(), now);
    }

    /// Takes replies to flows that an earlier process left, and to those that it ended, whose late replies are dropped.
    pub fn steer_found(&mut self, sockets: impl IntoIterator<Item = Socket>) {
        for (address, port, protocol) in sockets.into_iter().collect::<BTreeSet<Socket>>() {
            let endpoint = EndpointKey { address, port, protocol };
            if let Err(Some(error)) = self.endpoints.prepare(endpoint, &mut self.steering) {
                self.note(&error);
            }
        }
    }

    /// Puts flows that an earlier process left to those whose endpoint is gone by now; called once, when what is in force
    /// is what the source says now: by an old file alone no connection is reset.
    pub fn judge_found(&mut self, found: impl IntoIterator<Item = (Pair, Socket)>, now: Instant) {
        self.departures.note_found(found, now);
        self.publish(Change::default(), now);
    }

    /// Returns the lists of endpoints whose choice goes by the flows that they have.
    pub fn loaded(&mut self) -> Vec<Arc<Backends>> {
        self.compiler.loaded()
    }

    /// Returns the rows of the workers' accounts with what each counts.
    pub const fn accounts(&self) -> &AccountBook {
        &self.compiler.accounts
    }

    /// Returns where this gateway stands among nodes and zones.
    pub const fn locality(&self) -> &Locality {
        self.compiler.locality()
    }

    /// Puts the own addresses that have NodePorts in force.
    pub fn publish_node_addresses(&mut self, addresses: Arc<[IpAddr]>) {
        let current = self.publisher.current();
        if current.node_addresses != addresses {
            self.publisher.publish(Snapshot { node_addresses: addresses, ..(*current).clone() });
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

    /// Makes the next snapshot and returns the generation to wait for: none, 0, if nothing changes.
    fn publish(&mut self, change: Change, now: Instant) -> u64 {
        let departed = self.departures.due(now);
        if change.tables.is_empty() && departed.is_none() {
            return 0;
        }
        let current = self.publisher.current();
        let services = current.services.with(change.tables);
        let departed = departed.unwrap_or_else(|| Arc::clone(&current.departed));
        let generation = self.publisher.publish(Snapshot { services, departed, ..(*current).clone() });
        self.departures.note_published(generation);
        for endpoints in change.unlisted {
            self.endpoints.unlist(&endpoints, generation);
        }
        self.poll_until = Some(now + ACKNOWLEDGE_LIMIT);
        generation
    }

    fn update_names(&self, cluster: &Cluster, dirty: &Dirty) {
        if !dirty.is_empty() {
            let next = self.names.load().updated(cluster, dirty);
            self.names.store(Arc::new(next));
        }
    }

    /// Takes all names of these Services away, whatever the cluster says of them.
    fn withdraw_names(&self, services: &BTreeSet<ObjectName>) {
        let dirty = Dirty { services: services.clone(), ..Dirty::default() };
        self.update_names(&Cluster::default(), &dirty);
    }

    /// Notes that something of a Service is left out.
    fn refuse(&mut self, service: &ObjectName, field: &'static str, error: &anyhow::Error) {
        self.errors += 1;
        tracing::error!("Service {service}: {field}: {error:#}");
        if self.refusals.last().is_none_or(|last| last.service != *service) {
            self.refusals.push(Refusal { service: service.clone(), field, what: format!("{error:#}") });
        }
    }

    fn note(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        tracing::error!("{error:#}");
    }

    /// Lists the virtual addresses of a network but for removed ones that refuse: on a link they may be somebody else's by
    /// now. Costs what it lists.
    pub fn virtual_addresses_in(&self, network: IpNet) -> impl Iterator<Item = IpAddr> {
        self.addresses.between(network.network(), network.broadcast())
    }

    /// Returns how many virtual addresses and endpoints are in force.
    pub fn sizes(&self) -> (usize, usize) {
        (self.addresses.len(), self.endpoints.len())
    }

    /// Returns how many Services are not in force, or not with all their endpoints.
    pub fn short(&self) -> usize {
        self.short.len()
    }
}
