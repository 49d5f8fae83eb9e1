//! The control loop: one thread that follows the cluster and the kernel and keeps the workers and the names true.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use tidegate_dataplane::accounts::Row;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::counters::Counters;
use tidegate_dataplane::flows::{EndpointId, FlowTables};
use tidegate_dataplane::net::Prefix;
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::services::Backends;
use tidegate_dataplane::worker::Shared;
use tidegate_dataplane::xdp::AttachPreference;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use crate::account_book::Owner;
use crate::announce::{Announcer, announced};
use crate::cluster::{Cluster, Dirty};
use crate::compile::without_local_endpoints;
use crate::devices::{self, ServedDevices, Standing};
use crate::dns;
use crate::http::health_checks::HealthChecks;
use crate::http::metrics::{Asked, Question, Reply, render};
use crate::instance::Instance;
use crate::latency::Latency;
use crate::memory;
use crate::netlink::{KernelEvent, KernelEvents, Link, Netlink};
use crate::publish::{InUse, Publication};
use crate::settings;
use crate::source::{Source, Update};
use crate::status::Status;
use crate::steering::DeviceSteering;
use crate::topology::{Changed, Topology};
use crate::workers::{AttachedDevice, SocketReport, Workers};

/// How often the loop looks after things that tell it nothing: endpoints that leave, workers that died.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Changes of Services for which it is worth while to give memory back.
const GREAT: usize = 500;
/// How long until small changes that add up to that are worth while it again.
const LITTER_TIME: Duration = Duration::from_secs(30);
/// How often this thread lets others run before it goes on to wait for workers' acknowledgements: one that carries
/// packets has given its own by then, and a timer would take a millisecond more.
const TURNS: usize = 20;
/// At most this part of the time goes into looking through the flow table for the last flows of endpoints.
const SWEEP_SHARE: u32 = 100;

/// A gateway that runs. Its parts were put together by [`crate::start`]; dropped, they end in this order.
pub struct Gateway {
    /// The names' side, if there is one.
    pub dns: Option<dns::Server>,
    /// The packet side.
    pub workers: Workers,
    /// The devices that it is to serve.
    pub devices: ServedDevices,
    /// How the program is put on a device that comes back.
    pub attach_preference: AttachPreference,
    /// Where Services come from.
    pub source: Source,
    /// What the source has said.
    pub cluster: Cluster,
    /// The kernel.
    pub netlink: Arc<Netlink>,
    /// What the kernel tells.
    pub kernel_events: KernelEvents,
    /// What the kernel has told.
    pub topology: Topology,
    /// Ports that load balancers ask.
    pub health_checks: HealthChecks,
    /// Answers for virtual addresses on their links, if it is to.
    pub announcer: Option<Announcer>,
    /// What is in force.
    pub publication: Publication<DeviceSteering>,
    /// What the workers share with us.
    pub shared: Shared,
    /// Rings when workers wait for a next hop.
    pub wanted_bell: UnixDatagram,
    /// What the DNS server counts.
    pub dns_counters: Arc<dns::Counters>,
    /// Questions of the HTTP server.
    pub asked: Option<mpsc::Receiver<Asked>>,
    /// When endpoints may be swept next.
    pub sweep_at: Instant,
    /// How long changes take to reach packets.
    pub latency: Latency,
    /// Services that changed since memory of it was given back.
    pub litter: usize,
    /// When it is to be given back if changes were small.
    pub litter_at: Instant,
    /// Flows that an earlier process left have been compared with what the source says now.
    pub has_judged_found: bool,
}

impl Gateway {
    /// Follows cluster and kernel; does not end by itself. What it puts on the machine meanwhile is noted in the journal.
    ///
    /// # Errors
    /// When a worker or the DNS server has ended, or the kernel no longer tells of changes.
    pub async fn run(&mut self, instance: &mut Instance) -> anyhow::Result<Infallible> {
        let mut ring = [0];
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            let deadline = self.publication.next_deadline(Instant::now());
            tokio::select! {
                // The cluster stays as it is while names are about to be made of it.
                update = self.source.next(), if self.publication.is_settled() => self.apply_update(update),
                event = self.kernel_events.next() => {
                    let event = event?;
                    self.apply_kernel(event).await;
                    if matches!(event, KernelEvent::LinksChanged | KernelEvent::Resync) {
                        self.follow_devices(instance).await;
                    }
                }
                told = self.wanted_bell.recv(&mut ring) => {
                    told.context("the workers' bell")?;
                    self.resolve_wanted().await;
                }
                () = until(deadline) => self.publish(Publication::advance),
                failure = failure_of(&mut self.dns) => bail!("{failure}"),
                Some(asked) = next_question(&mut self.asked) => self.answer(asked),
                _ = housekeeping.tick() => {
                    self.keep_house()?;
                    self.release_failed().await;
                    self.follow_devices(instance).await;
                }
            }
        }
    }

    /// Folds the source's events in and begins to put them in force.
    pub fn apply_update(&mut self, update: Update) {
        let mut dirty = Dirty::default();
        let before = self.publication.locality().resolved(&self.cluster);
        for event in update.events {
            self.cluster.apply(event, &mut dirty);
        }
        if self.publication.locality().resolved(&self.cluster) != before {
            dirty.services.extend(self.cluster.services().map(|service| service.name.clone()));
        }
        self.health_checks.note(&self.cluster, &dirty.services);
        self.follow_health_checks();
        self.latency.begin(update.origins);
        self.litter += dirty.services.len();
        if dirty.services.len() >= GREAT {
            self.litter_at = Instant::now();
        }
        if !dirty.is_empty() {
            self.publish(|publication, cluster, now| publication.apply(cluster, &dirty, now));
        }
    }

    fn follow_health_checks(&mut self) {
        // They look at the gateway's health only if there are any.
        let mut health_checks = std::mem::take(&mut self.health_checks);
        health_checks.follow(&self.cluster, self.publication.locality(), || self.health().good);
        self.health_checks = health_checks;
    }

    /// Takes a step of publication, and ends the workers' sleep if it gave them a snapshot.
    fn publish(&mut self, step: impl FnOnce(&mut Publication<DeviceSteering>, &Cluster, Instant)) {
        let before = self.publication.publisher.current().generation;
        step(&mut self.publication, &self.cluster, Instant::now());
        if self.publication.publisher.current().generation != before {
            self.workers.wake();
            self.announce();
        }
        for _ in 0..TURNS {
            if self.publication.is_settled() {
                break;
            }
            std::thread::yield_now();
            self.publication.advance(&self.cluster, Instant::now());
        }
        self.source.complain(std::mem::take(&mut self.publication.refusals));
        self.publication.took.drain(..).for_each(|took| self.dns_counters.note_programming(took));
        if self.publication.is_settled() {
            self.latency.end(Instant::now());
        }
    }

    /// Has virtual addresses answered for where they and the devices are now.
    fn announce(&self) {
        let Some(announcer) = &self.announcer else { return };
        let within = |network: Prefix| {
            let network = IpNet::new(network.address, network.length).ok();
            network.into_iter().flat_map(|network| self.publication.virtual_addresses_in(network))
        };
        announcer.set(announced(self.topology.devices(), self.topology.own_addresses(), within));
    }

    async fn apply_kernel(&mut self, event: KernelEvent) {
        match self.topology.apply(&self.netlink, event).await {
            Ok(changed) => self.publish_topology(changed),
            Err(error) => tracing::error!("cannot read the kernel's tables after {event:?}: {error:#}"),
        }
    }

    /// Leaves the devices that are gone, and serves those that are back. Costs the links when nothing changed.
    async fn follow_devices(&mut self, instance: &mut Instance) {
        for AttachedDevice { index, name, .. } in self.devices.lose(self.topology.links()) {
            tracing::error!("device {name}: gone; it is served again when one of that name is there and up");
            self.topology.forget(index);
            self.publication.steering.leave(index, &name);
            self.workers.leave(index, &name);
        }
        for (link, attached) in self.devices.returned(self.topology.links()) {
            match self.serve_again(&link, attached, instance).await {
                Ok(()) => tracing::info!("device {}: back and served", link.name),
                Err(error) => self.devices.report(&link.name, format!("{error:#}")),
            }
        }
    }

    /// Serves a device that is back: program, sockets, then tables, so that packets find their sockets.
    async fn serve_again(
        &mut self,
        link: &Link,
        attached: Option<AttachedDevice>,
        instance: &mut Instance,
    ) -> anyhow::Result<()> {
        let program = &mut self.publication.steering.program;
        let attached = match attached {
            Some(attached) => attached,
            None => {
                settings::require_queues(std::slice::from_ref(link), self.workers.published.len())?;
                devices::attach(link, self.attach_preference, program, instance)?
            }
        };
        self.devices.attach(attached.clone());
        self.workers.serve(&attached, program).await?;
        let changed = self.topology.adopt(&self.netlink, link).await?;
        self.publish_topology(changed);
        self.devices.serve(&link.name);
        self.workers.sockets.iter().filter(|socket| socket.device == link.name).for_each(SocketReport::log);
        Ok(())
    }

    /// Puts what the kernel says of links in force.
    pub fn publish_topology(&mut self, changed: Changed) {
        if changed.own_addresses {
            let own = self.topology.own_addresses().clone();
            self.publication.steering.replace_own_addresses(&own);
            let node_addresses = self.publication.steering.frontends.node_addresses().collect();
            self.publication.publish_node_addresses(node_addresses);
        }
        if changed.links {
            let topology = &self.topology;
            self.publication.steering.follow_macs(topology.devices());
            let (routes, neighbours) = (Arc::clone(topology.routes()), topology.neighbours());
            self.publication.publish_links(routes, neighbours, Arc::clone(topology.devices()));
            self.workers.wake();
        }
        self.announce();
    }

    /// Has the kernel resolve the next hops that workers wait for.
    async fn resolve_wanted(&mut self) {
        let mut known = false;
        while let Some(next_hop) = self.shared.wanted.pop() {
            known |= self.topology.use_next_hop(next_hop);
            if let Err(error) = self.netlink.resolve(next_hop).await {
                tracing::warn!("{error:#}");
            }
        }
        if known {
            self.publish_topology(Changed { links: true, own_addresses: false });
        }
    }

    /// Has the kernel stop asking for next hops that did not answer, such as pods that are gone.
    async fn release_failed(&mut self) {
        for next_hop in self.topology.forget_failed() {
            if let Err(error) = self.netlink.release(next_hop).await {
                tracing::warn!("{error:#}");
            }
        }
    }

    /// Compares flows that an earlier process left with what is listed, once that is what the source says now.
    pub(crate) fn judge_found(&mut self) {
        if self.has_judged_found || !self.source.is_current() || !self.publication.is_settled() {
            return;
        }
        self.has_judged_found = true;
        let found = self.shared.flows.sockets_in_use();
        self.publish(|publication, _, now| publication.judge_found(found, now));
    }

    fn keep_house(&mut self) -> anyhow::Result<()> {
        if let Some(number) = self.workers.lost() {
            bail!("worker {number} has ended unexpectedly");
        }
        self.publish(Publication::advance);
        self.follow_health_checks();
        if self.source.is_followed() {
            self.dns_counters.note_source();
        }
        let started = Instant::now();
        if self.litter >= GREAT && started >= self.litter_at && self.publication.is_settled() {
            memory::give_back();
            (self.litter, self.litter_at) = (0, started + LITTER_TIME);
        }
        self.judge_found();
        let loaded = self.publication.loaded();
        if (self.publication.has_leaving() || !loaded.is_empty()) && started >= self.sweep_at {
            let flows = &self.shared.flows;
            count_loads(&loaded, flows);
            let in_use = || {
                let mut in_use = InUse::default();
                flows.endpoints_in_use(|service, endpoint| {
                    in_use.pairs.insert((service, endpoint));
                });
                flows.endpoints_with_tombstones(|endpoint| {
                    in_use.late.insert(endpoint);
                });
                in_use
            };
            self.publication.sweep_endpoints(in_use, started);
            self.sweep_at = started + started.elapsed() * SWEEP_SHARE;
        }
        Ok(())
    }

    fn answer(&self, (question, back): Asked) {
        let reply = match question {
            Question::Metrics => {
                let (families, mut spreads) = self.status().families();
                spreads.extend(self.latency.spreads());
                Reply { good: true, text: render(families, spreads) }
            }
            Question::Health => self.health(),
            Question::Live => self.liveness(),
            Question::Ready => self.readiness(),
        };
        // A client that went away does not want its reply.
        let _ = back.send(reply);
    }

    /// Well while alive, unless the node is about to go (K33): then balancers are to leave it.
    fn health(&self) -> Reply {
        let locality = self.publication.locality();
        let node = locality.node.as_deref().and_then(|name| self.cluster.node(name));
        match node {
            Some(node) if node.is_leaving => Reply {
                good: false,
                text: format!(
                    "Node {} is being deleted
",
                    node.name
                ),
            },
            _ => self.liveness(),
        }
    }

    fn liveness(&self) -> Reply {
        let workers = self.workers.published.len();
        let lost = self.workers.lost().map(|number| format!("worker {number} has ended\n"));
        let silent = || self.publication.steering.silent_worker(workers, Now::read());
        match lost.or_else(|| silent().map(|worker| format!("{worker}\n"))) {
            None => Reply { good: true, text: "ok\n".into() },
            Some(text) => Reply { good: false, text },
        }
    }

    /// Ready while all devices are there and up, with what is refused at the moment: that disturbs nothing else.
    fn readiness(&self) -> Reply {
        let missing: String = self
            .standings()
            .filter_map(|(name, standing)| match standing {
                Standing::Serving => None,
                Standing::Down => Some(format!("device {name}: down\n")),
                Standing::Missing => Some(format!("device {name}: missing\n")),
            })
            .collect();
        let report = self.source.report();
        let troubles = self.source.troubles().into_iter();
        let refused = report.problems.iter().map(|problem| format!("refused: {problem}"));
        let list: String = troubles.chain(refused).map(|line| line + "\n").collect();
        let good = missing.is_empty();
        Reply { good, text: if good { format!("ok\n{list}") } else { missing + &list } }
    }

    fn standings(&self) -> impl Iterator<Item = (&str, Standing)> {
        let up = self.topology.devices();
        self.devices.standings(|index: DeviceIndex| up.iter().any(|device| device.index == index))
    }

    /// What each Service port, or each of its endpoints, has carried so far, those that carried something.
    fn service_rows(&self) -> Vec<(Owner, Row)> {
        let sum = |number| {
            let mut sum = Row::default();
            self.workers.accounts.iter().for_each(|worker| sum += worker.row(number));
            sum
        };
        let rows = self.publication.accounts().iter().map(|(owner, number)| (owner.clone(), sum(number)));
        let mut rows: Vec<(Owner, Row)> = rows.filter(|(_, row)| *row != Row::default()).collect();
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        rows
    }

    fn status(&self) -> Status<'_> {
        Status {
            workers: self.workers.published.iter().map(|one| one.read()).collect::<Vec<Counters>>(),
            sockets: &self.workers.sockets,
            devices: self.standings().collect(),
            device_changes: (self.devices.losses, self.devices.returns),
            steering: self.publication.steering.counters(),
            source: self.source.report(),
            source_families: self.source.families(),
            dns: self.dns_counters.snapshot(),
            flows: (self.shared.flows.len(), self.shared.flows.capacity()),
            flow_states: [
                ("ipv4", self.shared.flows.ipv4.count_states()),
                ("ipv6", self.shared.flows.ipv6.count_states()),
            ],
            services: self.service_rows(),
            programming: self.publication.programming.clone(),
            without_local_endpoints: without_local_endpoints(&self.cluster, self.publication.locality()),
            published: self.publication.sizes(),
            generation: self.publication.publisher.current().generation,
            publications: self.publication.changes,
            publication_errors: self.publication.errors,
            services_short: self.publication.short(),
        }
    }
}

/// Counts the flows of endpoints whose choice goes by them; flows that come meanwhile are counted by the workers.
fn count_loads(loaded: &[Arc<Backends>], flows: &FlowTables) {
    if loaded.is_empty() {
        return;
    }
    let mut loads = HashMap::<EndpointId, u32>::new();
    flows.endpoints_in_use(|_, endpoint| *loads.entry(endpoint).or_default() += 1);
    for backends in loaded {
        backends.set_loads(|endpoint| loads.get(&endpoint).copied().unwrap_or_default());
    }
}

/// Waits for the source to say everything, and answers questions meanwhile: a process that waits is healthy but not
/// ready.
pub async fn first_update(source: &mut Source, asked: &mut Option<mpsc::Receiver<Asked>>) -> Update {
    loop {
        let (question, back) = tokio::select! {
            update = source.next() => return update,
            Some(asked) = next_question(asked) => asked,
        };
        let waiting = || source.troubles().into_iter().map(|line| line + "\n").collect::<String>();
        let reply = match question {
            Question::Metrics => Reply { good: true, text: render(source.families(), Vec::new()) },
            Question::Health | Question::Live => Reply { good: true, text: "ok\n".into() },
            Question::Ready => Reply { good: false, text: waiting() },
        };
        // A client that went away does not want its reply.
        let _ = back.send(reply);
    }
}

async fn failure_of(dns: &mut Option<dns::Server>) -> String {
    match dns {
        Some(dns) => dns.failed().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn next_question(asked: &mut Option<mpsc::Receiver<Asked>>) -> Option<Asked> {
    match asked {
        Some(asked) => asked.recv().await,
        None => std::future::pending().await,
    }
}
