//! Which endpoints have left their Service port, and since when (design decision 9).
//!
//! What counts are the slices alone: whatever becomes of the Service object, a connection stays while its endpoint is
//! in a slice of its Service port. So a Service that is changed, or deleted and made anew, disturbs no flow.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_dataplane::departed::{Departed, Departure, Socket};
use tidegate_dataplane::flows::{EndpointId, ServicePortId};
use tidegate_dataplane::net::{Port, Protocol};

use crate::cluster::{Cluster, ObjectName};
use crate::tables::{EndpointKey, service_port_id};
use crate::traffic::Traffic;

/// A Service port and an endpoint: what a flow remembers.
pub type Pair = (ServicePortId, EndpointId);

/// What the slices of a Service say.
#[derive(Debug, Default)]
struct Listing {
    /// Endpoints by their pair, with whether they serve.
    endpoints: BTreeMap<Pair, (EndpointKey, bool)>,
    /// What the Service said of its endpoints that go; it may be gone itself.
    reset_after: Option<Duration>,
    repick: bool,
}

#[derive(Debug)]
struct Leaving {
    socket: Socket,
    departure: Departure,
    /// When connections are reset, if they are.
    reset_at: Option<Instant>,
    /// Of the snapshot that told the workers.
    generation: u64,
}

/// All that slices list, and what has left them while flows may be there.
#[derive(Debug, Default)]
pub(super) struct Departures {
    listings: BTreeMap<ObjectName, Listing>,
    leaving: BTreeMap<Pair, Leaving>,
    version: u64,
    /// The set in force is not what `leaving` says.
    is_stale: bool,
}

impl Departures {
    /// Notes what the slices of these Services say now.
    pub(super) fn note(&mut self, cluster: &Cluster, services: &BTreeSet<ObjectName>, now: Instant) {
        for name in services {
            let before = self.listings.remove(name).unwrap_or_default();
            let listing = read(cluster, name, &before);
            for (pair, (key, was_serving)) in &before.endpoints {
                match listing.endpoints.get(pair) {
                    None => self.leave(*pair, key, &listing, now),
                    Some((_, false)) if *was_serving && key.protocol != Protocol::Tcp => {
                        self.leave(*pair, key, &listing, now);
                    }
                    _ => {}
                }
            }
            for (pair, (key, is_serving)) in &listing.endpoints {
                if (*is_serving || key.protocol == Protocol::Tcp) && self.leaving.remove(pair).is_some() {
                    self.is_stale = true;
                }
            }
            if !listing.endpoints.is_empty() || cluster.service(name).is_some() {
                self.listings.insert(name.clone(), listing);
            }
        }
    }

    /// Notes flows that an earlier process left, as far as their endpoint is not listed; called once, when all is read.
    pub(super) fn note_found(&mut self, found: impl IntoIterator<Item = (Pair, Socket)>, now: Instant) {
        let listed: HashSet<Pair> =
            self.listings.values().flat_map(|listing| listing.endpoints.keys().copied()).collect();
        for (pair, (address, port, protocol)) in found {
            if !listed.contains(&pair) {
                let key = EndpointKey { address, port, protocol };
                let fallback =
                    Listing { reset_after: Some(Traffic::RESET_AFTER), repick: true, ..Listing::default() };
                self.leave(pair, &key, &fallback, now);
            }
        }
    }

    fn leave(&mut self, pair: Pair, key: &EndpointKey, listing: &Listing, now: Instant) {
        let (departure, reset_at) = match key.protocol {
            Protocol::Tcp => (Departure::Left, listing.reset_after.map(|after| now + after)),
            Protocol::Udp | Protocol::Sctp if listing.repick => (Departure::Repick, None),
            Protocol::Udp | Protocol::Sctp => return,
        };
        let socket: (IpAddr, Port, Protocol) = (key.address, key.port, key.protocol);
        self.leaving.entry(pair).or_insert(Leaving { socket, departure, reset_at, generation: u64::MAX });
        self.is_stale = true;
    }

    /// Lets the grace time of endpoints end, and returns the set to put in force if it differs from the last one.
    pub(super) fn due(&mut self, now: Instant) -> Option<Arc<Departed>> {
        for leaving in self.leaving.values_mut() {
            if leaving.departure == Departure::Left && leaving.reset_at.is_some_and(|at| at <= now) {
                leaving.departure = Departure::Reset;
                leaving.generation = u64::MAX;
                self.is_stale = true;
            }
        }
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        self.version += 1;
        let fates = self.leaving.iter().map(|(pair, one)| (*pair, (one.socket, one.departure))).collect();
        Some(Arc::new(Departed::new(self.version, &fates)))
    }

    /// Notes by which snapshot the workers are told of the set.
    pub(super) fn note_published(&mut self, generation: u64) {
        for leaving in self.leaving.values_mut().filter(|leaving| leaving.generation == u64::MAX) {
            leaving.generation = generation;
        }
    }

    /// Returns when the next grace time ends.
    pub(super) fn next_reset(&self) -> Option<Instant> {
        let waiting = self.leaving.values().filter(|leaving| leaving.departure == Departure::Left);
        waiting.filter_map(|leaving| leaving.reset_at).min()
    }

    /// Says whether endpoints that have left wait for their last flow.
    pub(super) fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Says whether every worker knows of one at least.
    pub(super) fn is_known(&self, is_acknowledged: impl Fn(u64) -> bool) -> bool {
        self.leaving.values().any(|leaving| is_acknowledged(leaving.generation))
    }

    /// Forgets those that every worker knows to have left and that no flow uses.
    pub(super) fn forget_unused(&mut self, is_acknowledged: impl Fn(u64) -> bool, in_use: &HashSet<Pair>) {
        let before = self.leaving.len();
        self.leaving.retain(|pair, leaving| in_use.contains(pair) || !is_acknowledged(leaving.generation));
        self.is_stale |= self.leaving.len() != before;
    }
}

/// Reads what the slices of a Service list. Of entries with one address and port, one that is not terminating replaces
/// another; a terminating one never does (K8). What is ready counts as serving (K9).
fn read(cluster: &Cluster, name: &ObjectName, before: &Listing) -> Listing {
    let mut entries: BTreeMap<(EndpointKey, ServicePortId), bool> = BTreeMap::new();
    for slice in cluster.slices_of(name) {
        for port in &slice.ports {
            let id = service_port_id(name, &port.name, port.protocol);
            for endpoint in &slice.endpoints {
                let key = EndpointKey {
                    address: endpoint.address,
                    port: Port::new(port.port),
                    protocol: port.protocol,
                };
                let serves = endpoint.serving || endpoint.ready;
                let entry = entries.entry((key, id)).or_insert(serves);
                if !endpoint.terminating {
                    *entry = serves;
                }
            }
        }
    }
    let endpoints =
        entries.into_iter().map(|((key, port), serves)| ((port, key.id()), (key, serves))).collect();
    match cluster.service(name) {
        Some(service) => {
            Listing { endpoints, reset_after: service.traffic.reset_after, repick: service.traffic.repick }
        }
        None => Listing { endpoints, reset_after: before.reset_after, repick: before.repick },
    }
}
