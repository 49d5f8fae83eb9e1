//! Which endpoints new connections of a Service port may go to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::{Cluster, Endpoint, Family, Hints, Service, ServiceKind, ServicePort};
use crate::traffic::Policy;

/// Where this gateway stands: decides which endpoints are local and whose hints count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Locality {
    /// `--node-name`; without it there are no local endpoints by definition (design decision 14).
    pub node: Option<Arc<str>>,
    /// `--zone`.
    pub zone: Option<Arc<str>>,
}

impl Locality {
    /// Fills in the zone that the Node's label says, if none is set.
    #[must_use]
    pub fn resolved(&self, cluster: &Cluster) -> Self {
        let label = || cluster.node(self.node.as_deref()?)?.zone.clone();
        Self { node: self.node.clone(), zone: self.zone.clone().or_else(label) }
    }
}

/// The endpoints of a Service port that new connections may go to, each set sorted, each endpoint once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSets {
    /// For traffic policy Cluster.
    pub cluster: Vec<(IpAddr, u16)>,
    /// For traffic policy Local; without a node the same as for Cluster.
    pub local: Vec<(IpAddr, u16)>,
}

/// The endpoints of a Service port by address and port.
pub type Entries<'a> = BTreeMap<(IpAddr, u16), &'a Endpoint>;

/// Returns where new connections to a Service port may go.
///
/// It is empty for a Service that gets no packets in this family: headless, ExternalName, no ClusterIP of the
/// family, or served by another proxy (K1, K3). Costs the size of the Service's slices.
#[must_use]
pub fn endpoint_sets(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    locality: &Locality,
) -> EndpointSets {
    if !has_address(service, family) {
        return EndpointSets::default();
    }
    categorize(&entries(cluster, service, port, family), locality)
}

/// Counts the Services whose internal and whose external traffic policy is Local and that have endpoints, but none on
/// this node (K34). Costs the slices of the Services with such a policy.
///
/// Source: Kubernetes `pkg/proxy/metrics/metrics.go`, `SyncProxyRulesNoLocalEndpointsTotal`.
#[must_use]
pub fn without_local_endpoints(cluster: &Cluster, locality: &Locality) -> [u64; 2] {
    let mut counts = [0; 2];
    for service in cluster.services().filter(|service| !service.foreign_proxy && locality.node.is_some()) {
        let is_local =
            [service.traffic.internal, service.traffic.external].map(|policy| policy == Policy::Local);
        if is_local.contains(&true) && lacks_local_endpoints(cluster, service, locality) {
            counts.iter_mut().zip(is_local).for_each(|(count, is_local)| *count += u64::from(is_local));
        }
    }
    counts
}

fn lacks_local_endpoints(cluster: &Cluster, service: &Service, locality: &Locality) -> bool {
    service.ports.iter().flat_map(|port| [(port, Family::V4), (port, Family::V6)]).any(|(port, family)| {
        let sets = endpoint_sets(cluster, service, port, family, locality);
        sets.local.is_empty() && !sets.cluster.is_empty()
    })
}

/// Joins the slices of a Service port.
///
/// By port name and protocol, and the port is the slice's own (K4, K5). Of entries with one address and port, one that
/// is not terminating replaces another; a terminating one never does (K8).
fn entries<'a>(cluster: &'a Cluster, service: &Service, port: &ServicePort, family: Family) -> Entries<'a> {
    let mut entries = Entries::new();
    for slice in cluster.slices_of(&service.name) {
        let joined =
            |own: &&crate::cluster::SlicePort| own.name == port.name && own.protocol == port.protocol;
        for slice_port in slice.ports.iter().filter(joined) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(&endpoint.address) == family)
            {
                let entry = entries.entry((endpoint.address, slice_port.port)).or_insert(endpoint);
                if !endpoint.terminating {
                    *entry = endpoint;
                }
            }
        }
    }
    entries
}

/// Sorts endpoints into the sets of both traffic policies.
///
/// The Cluster set is the ready ones that the topology mode leaves, the Local set the ready ones on this node; each, if
/// it is empty, falls back for itself to those that still serve while they terminate (K10, K12).
#[must_use]
pub fn categorize(entries: &Entries<'_>, locality: &Locality) -> EndpointSets {
    let select = |usable: &dyn Fn(&Endpoint) -> bool| -> Vec<(IpAddr, u16)> {
        entries.iter().filter(|(_, endpoint)| usable(endpoint)).map(|(socket, _)| *socket).collect()
    };
    let either = |ready: Vec<(IpAddr, u16)>, is_meant: &dyn Fn(&Endpoint) -> bool| {
        if !ready.is_empty() {
            return ready;
        }
        select(&|endpoint| is_meant(endpoint) && endpoint.serving && endpoint.terminating)
    };
    let mode = Topology::of(entries, locality);
    let cluster = select(&|endpoint| endpoint.ready && mode.prefers(endpoint));
    let cluster = either(cluster, &|_| true);
    let local = match &locality.node {
        None => cluster.clone(),
        Some(node) => {
            let is_local = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(node);
            either(select(&|endpoint| endpoint.ready && is_local(endpoint)), &is_local)
        }
    };
    EndpointSets { cluster, local }
}

/// Which of the ready endpoints connections from here prefer (K11). What the Service asks for is not looked at: the
/// controller has made hints of it.
enum Topology<'a> {
    Any,
    SameNode(&'a Arc<str>),
    SameZone(&'a Arc<str>),
}

impl<'a> Topology<'a> {
    /// A mode holds if every ready endpoint has such a hint and one names this place.
    fn of(entries: &Entries<'_>, Locality { node, zone }: &'a Locality) -> Self {
        let holds = |place: &Option<Arc<str>>, names: fn(&Hints) -> &Vec<Arc<str>>| {
            let Some(place) = place else { return false };
            let mut ready = entries.values().filter(|endpoint| endpoint.ready).peekable();
            let is_hinted = |endpoint: &&Endpoint| {
                endpoint.hints.as_deref().is_some_and(|hints| !names(hints).is_empty())
            };
            let mut named = false;
            ready.peek().is_some()
                && ready.all(|endpoint| {
                    named |= endpoint.hints.as_deref().is_some_and(|hints| names(hints).contains(place));
                    is_hinted(&&**endpoint)
                })
                && named
        };
        match (node, zone) {
            (Some(own), _) if holds(node, |hints| &hints.nodes) => Self::SameNode(own),
            (_, Some(own)) if holds(zone, |hints| &hints.zones) => Self::SameZone(own),
            _ => Self::Any,
        }
    }

    fn prefers(&self, endpoint: &Endpoint) -> bool {
        let hints = endpoint.hints.as_deref();
        match self {
            Self::Any => true,
            Self::SameNode(node) => hints.is_some_and(|hints| hints.nodes.contains(node)),
            Self::SameZone(zone) => hints.is_some_and(|hints| hints.zones.contains(zone)),
        }
    }
}

/// Says whether packets to the Service are ours in this family (K1, K3).
#[must_use]
pub fn has_address(service: &Service, family: Family) -> bool {
    match &service.kind {
        ServiceKind::ClusterIp(addresses) => {
            !service.foreign_proxy && addresses.iter().any(|address| Family::of(address) == family)
        }
        ServiceKind::Headless | ServiceKind::ExternalName(_) => false,
    }
}

#[cfg(test)]
mod tests;
