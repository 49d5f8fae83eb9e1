//! The control loop: one thread that follows the cluster and the kernel and keeps the workers and the names true.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::counters::Counters;
use tidegate_dataplane::worker::Shared;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, Dirty, Event};
use crate::dns;
use crate::manifests::Manifests;
use crate::metrics::{Asked, Question, Reply, render};
use crate::netlink::{KernelEvent, KernelEvents, Netlink};
use crate::publish::Publication;
use crate::status::Status;
use crate::steering::DeviceSteering;
use crate::topology::{Changed, Topology};
use crate::workers::Workers;

/// How often the loop looks after things that tell it nothing: endpoints that leave, workers that died.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// A gateway that runs. Its parts were put together by [`crate::start`].
pub struct Gateway {
    /// Where Services come from.
    pub source: Manifests,
    /// What the source has said.
    pub cluster: Cluster,
    /// The kernel.
    pub netlink: Arc<Netlink>,
    /// What the kernel tells.
    pub kernel_events: KernelEvents,
    /// What the kernel has told.
    pub topology: Topology,
    /// What is in force.
    pub publication: Publication<DeviceSteering>,
    /// The packet side.
    pub workers: Workers,
    /// What the workers share with us.
    pub shared: Shared,
    /// Rings when workers wait for a next hop.
    pub wanted_bell: UnixDatagram,
    /// The names' side, if there is one.
    pub dns: Option<dns::Server>,
    /// What the DNS server counts.
    pub dns_counters: Arc<dns::Counters>,
    /// Questions of the HTTP server.
    pub asked: Option<mpsc::Receiver<Asked>>,
}

impl Gateway {
    /// Follows cluster and kernel until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When a worker has ended, or the kernel no longer tells of changes.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut ring = [0];
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            let deadline = self.publication.next_deadline();
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                events = self.source.next() => self.apply_events(events).await,
                event = self.kernel_events.next() => self.apply_kernel(event?).await,
                told = self.wanted_bell.recv(&mut ring) => {
                    told.context("the workers' bell")?;
                    self.resolve_wanted().await;
                }
                () = until(deadline) => {
                    self.publication.tick(Instant::now()).await;
                    self.workers.wake();
                }
                Some(asked) = next_question(&mut self.asked) => self.answer(asked),
                _ = housekeeping.tick() => self.keep_house()?,
            }
        }
    }

    /// Folds the source's events in and puts them in force.
    pub async fn apply_events(&mut self, events: Vec<Event>) {
        let mut dirty = Dirty::default();
        for event in events {
            self.cluster.apply(event, &mut dirty);
        }
        if !dirty.is_empty() {
            let started = Instant::now();
            self.publication.apply(&self.cluster, &dirty, started).await;
            self.workers.wake();
            tracing::info!(
                services = dirty.services.len(),
                namespaces = dirty.namespaces.len(),
                "in force after {:?}",
                started.elapsed()
            );
        }
    }

    async fn apply_kernel(&mut self, event: KernelEvent) {
        match self.topology.apply(&self.netlink, event).await {
            Ok(changed) => self.publish_topology(changed),
            Err(error) => tracing::error!("cannot read the kernel's tables after {event:?}: {error:#}"),
        }
    }

    /// Puts what the kernel says of links in force.
    pub fn publish_topology(&mut self, changed: Changed) {
        if changed.own_addresses {
            let own = self.topology.own_addresses().clone();
            self.publication.steering.replace_own_addresses(&own);
        }
        if changed.links {
            let topology = &self.topology;
            self.publication.steering.follow_macs(topology.devices());
            let (routes, neighbours) = (Arc::clone(topology.routes()), topology.neighbours());
            self.publication.publish_links(routes, neighbours, Arc::clone(topology.devices()));
            self.workers.wake();
        }
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

    fn keep_house(&mut self) -> anyhow::Result<()> {
        if let Some(number) = self.workers.lost() {
            bail!("worker {number} has ended unexpectedly");
        }
        self.publication.publisher.free_retired();
        if self.publication.has_leaving() {
            let mut in_use = HashSet::new();
            self.shared.flows.endpoints_in_use(|_, endpoint| {
                in_use.insert(endpoint);
            });
            self.publication.sweep_endpoints(&in_use);
        }
        Ok(())
    }

    fn answer(&self, (question, back): Asked) {
        let reply = match question {
            Question::Metrics => Reply { good: true, text: render(self.status().families()) },
            Question::Health => self.health(),
            Question::Ready => Reply { good: true, text: self.readiness() },
        };
        // A client that went away does not want its reply.
        let _ = back.send(reply);
    }

    fn health(&self) -> Reply {
        let workers = self.workers.published.len();
        let lost = self.workers.lost().map(|number| format!("worker {number} has ended\n"));
        let silent = || self.publication.steering.silent_worker(workers, Now::read());
        match lost.or_else(|| silent().map(|worker| format!("{worker}\n"))) {
            None => Reply { good: true, text: "ok\n".into() },
            Some(text) => Reply { good: false, text },
        }
    }

    /// Ready, with what is refused at the moment: that disturbs nothing else.
    fn readiness(&self) -> String {
        let report = self.source.report();
        let list: String = report.problems.iter().map(|problem| format!("refused: {problem}\n")).collect();
        format!("ok\n{list}")
    }

    fn status(&self) -> Status<'_> {
        Status {
            workers: self.workers.published.iter().map(|one| one.read()).collect::<Vec<Counters>>(),
            sockets: &self.workers.sockets,
            steering: self.publication.steering.counters(),
            source: self.source.report(),
            dns: self.dns_counters.snapshot(),
            flows: (self.shared.flows.len(), self.shared.flows.capacity()),
            published: self.publication.sizes(),
            generation: self.publication.publisher.current().generation,
            publication_errors: self.publication.errors,
        }
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
