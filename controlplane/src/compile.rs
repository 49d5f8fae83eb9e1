//! Which endpoints new connections of a Service port may go to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cluster::{Cluster, Endpoint, Family, Service, ServiceKind, ServicePort};

/// Returns the addresses and ports that new connections to a Service port may go to, sorted, each once.
///
/// Slices are joined by port name and protocol, and the port is the slice's own (K4, K5). Of entries with one
/// address and port, one that is not terminating replaces another; a terminating one never does (K8). The
/// result is the ready endpoints; if there are none, those still serving while they terminate (K10). It is
/// empty for a Service that gets no packets in this family: headless, ExternalName, no ClusterIP of the
/// family, or served by another proxy (K1, K3). Costs the size of the Service's slices.
#[must_use]
pub fn usable_endpoints(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<(IpAddr, u16)> {
    if !has_address(service, family) {
        return Vec::new();
    }
    let mut endpoints: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in cluster.slices_of(&service.name) {
        let joined =
            |own: &&crate::cluster::SlicePort| own.name == port.name && own.protocol == port.protocol;
        for slice_port in slice.ports.iter().filter(joined) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(&endpoint.address) == family)
            {
                let entry = endpoints.entry((endpoint.address, slice_port.port)).or_insert(endpoint);
                if !endpoint.terminating {
                    *entry = endpoint;
                }
            }
        }
    }
    let chosen = |usable: fn(&Endpoint) -> bool| -> Vec<(IpAddr, u16)> {
        endpoints.iter().filter(|(_, endpoint)| usable(endpoint)).map(|(socket, _)| *socket).collect()
    };
    let ready = chosen(|endpoint| endpoint.ready);
    if ready.is_empty() { chosen(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
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
