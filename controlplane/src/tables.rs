//! From one Service of the cluster to the dataplane's tables: pure, and it costs that Service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use tidegate_dataplane::flows::{EndpointId, ServicePortId};
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::{Backend, Backends, ServicePort, VirtualAddress};

use crate::cluster::{self, Cluster, Family, ObjectName, Service, ServiceKind};
use crate::compile::usable_endpoints;

/// An endpoint as the XDP program knows it: the source of replies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EndpointKey {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Port that it listens on.
    pub port: Port,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl EndpointKey {
    /// Returns the stable identity that flows remember.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        EndpointId(stable_hash(&format!("{}:{}/{}", self.address, self.port, self.protocol)))
    }
}

/// What one virtual address of a Service becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// The virtual address.
    pub address: IpAddr,
    /// Its ports with their backends.
    pub table: VirtualAddress,
    /// All endpoints of those backends.
    pub endpoints: BTreeSet<EndpointKey>,
}

/// Compiles Services; equal lists of endpoints share one Maglev table.
#[derive(Debug, Default)]
pub struct Compiler {
    shared: HashMap<Vec<Backend>, Weak<Backends>>,
}

impl Compiler {
    /// Compiles all virtual addresses of a Service, without these endpoints; none if packets are not ours to forward
    /// (K1, K3).
    pub fn compile(
        &mut self,
        cluster: &Cluster,
        name: &ObjectName,
        without: &BTreeSet<EndpointKey>,
    ) -> Vec<Compiled> {
        let Some(service) = cluster.service(name) else { return Vec::new() };
        let ServiceKind::ClusterIp(addresses) = &service.kind else { return Vec::new() };
        if service.foreign_proxy {
            return Vec::new();
        }
        addresses.iter().map(|address| self.compile_address(cluster, service, *address, without)).collect()
    }

    fn compile_address(
        &mut self,
        cluster: &Cluster,
        service: &Service,
        address: IpAddr,
        without: &BTreeSet<EndpointKey>,
    ) -> Compiled {
        let mut endpoints = BTreeSet::new();
        let ports = service.ports.iter().map(|port| {
            let members: Vec<Backend> = usable_endpoints(cluster, service, port, Family::of(&address))
                .into_iter()
                .map(|(address, number)| EndpointKey {
                    address,
                    port: Port::new(number),
                    protocol: port.protocol,
                })
                .filter(|key| !without.contains(key))
                .map(|key| {
                    let EndpointKey { address, .. } = key;
                    endpoints.insert(key);
                    Backend { address, port: key.port, id: key.id() }
                })
                .collect();
            ServicePort {
                protocol: port.protocol,
                port: Port::new(port.port),
                id: service_port_id(service, port),
                backends: self.share(members),
            }
        });
        let table = VirtualAddress::new(ports.collect());
        Compiled { address, table, endpoints }
    }

    fn share(&mut self, mut members: Vec<Backend>) -> Arc<Backends> {
        members.sort_unstable();
        members.dedup();
        if let Some(known) = self.shared.get(&members).and_then(Weak::upgrade) {
            return known;
        }
        let backends = Arc::new(Backends::new(members.clone()));
        if self.shared.len() == self.shared.capacity() {
            self.shared.retain(|_, table| table.strong_count() > 0);
        }
        self.shared.insert(members, Arc::downgrade(&backends));
        backends
    }
}

/// Returns the stable identity of a Service port: namespace, name, port name and protocol (K4).
#[must_use]
pub fn service_port_id(service: &Service, port: &cluster::ServicePort) -> ServicePortId {
    ServicePortId(stable_hash(&format!("{}:{}/{}", service.name, port.name, port.protocol)))
}

/// Hashes a text to 64 bits that never change between versions and machines (FNV-1a, then mixed).
///
/// Source: RFC 9923 (FNV), the 64-bit parameters.
pub(crate) fn stable_hash(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
