//! From one Service of the cluster to the dataplane's tables: pure, and it costs that Service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use tidegate_dataplane::flows::{EndpointId, ServicePortId};
use tidegate_dataplane::net::{Port, Prefix, Protocol};
use tidegate_dataplane::services::{
    Backend, Backends, Frontend, Rows, ServicePort, Terms, VirtualAddress, Without,
};

use crate::account_book::{AccountBook, Owner};
use crate::cluster::{self, Cluster, Family, ObjectName, Service, ServiceKind};
use crate::compile::{EndpointSets, Locality, endpoint_sets};
use crate::traffic::{Choice, Policy, Traffic};

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
        EndpointId(stable_hash(format_args!("{}:{}/{}", self.address, self.port, self.protocol)))
    }
}

/// What one frontend of a Service becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// By what clients call it.
    pub frontend: Frontend,
    /// Its ports with their backends: all of them at a ClusterIP, else the one.
    pub table: VirtualAddress,
}

/// Compiles Services; equal lists of endpoints share one Maglev table.
#[derive(Debug, Default)]
pub struct Compiler {
    locality: Locality,
    /// The rows that Service ports are counted in.
    pub accounts: AccountBook,
    /// Lists by a hash of their members.
    shared: HashMap<u64, Weak<Backends>>,
    hasher: RandomState,
    /// Those whose choice goes by the flows that they have.
    loaded: Vec<Weak<Backends>>,
}

/// The backends of a Service port in one family, and where they are counted.
struct Sets {
    cluster: Arc<Backends>,
    local: Arc<Backends>,
    account: u32,
    endpoint_accounts: Option<Arc<[(EndpointId, u32)]>>,
}

/// How clients reach a frontend.
#[derive(Clone, Copy)]
enum Reach {
    /// By a ClusterIP.
    Internal,
    /// By an external address or a node's.
    External,
    /// By an address of a load balancer.
    Balancer,
}

impl Compiler {
    /// Makes a compiler for a gateway that stands there.
    #[must_use]
    pub fn new(locality: Locality) -> Self {
        Self { locality, ..Self::default() }
    }

    /// Sets where rows of the workers' accounts come from.
    #[must_use]
    pub fn with_accounts(self, accounts: AccountBook) -> Self {
        Self { accounts, ..self }
    }

    /// Returns where this gateway stands.
    #[must_use]
    pub const fn locality(&self) -> &Locality {
        &self.locality
    }

    /// Returns the lists whose choice goes by the flows that they have, and forgets those that nobody uses.
    pub fn loaded(&mut self) -> Vec<Arc<Backends>> {
        self.loaded.retain(|backends| backends.strong_count() > 0);
        self.loaded.iter().filter_map(Weak::upgrade).collect()
    }

    /// Compiles all frontends of a Service, without these endpoints; none if packets are not ours to forward
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
        let mut compiled = Vec::new();
        for address in addresses {
            self.compile_family(cluster, service, *address, without, &mut compiled);
        }
        compiled
    }

    /// Compiles the frontends of the family that a ClusterIP is of; addresses of families that the Service has no
    /// ClusterIP of are not used (K3, K17, K18).
    fn compile_family(
        &mut self,
        cluster: &Cluster,
        service: &Service,
        cluster_ip: IpAddr,
        without: &BTreeSet<EndpointKey>,
        compiled: &mut Vec<Compiled>,
    ) {
        let sets: Vec<Sets> =
            service.ports.iter().map(|port| self.sets(cluster, service, port, cluster_ip, without)).collect();
        let ports = || service.ports.iter().zip(&sets);
        let all: Vec<_> = ports()
            .map(|(port, sets)| {
                self.service_port(service, port, port.port, sets, cluster_ip, Reach::Internal)
            })
            .collect();
        compiled.push(Compiled::new(Frontend::Address(cluster_ip), all));
        for (address, reach) in external_addresses(service, cluster_ip) {
            for (port, sets) in ports() {
                let own = self.service_port(service, port, port.port, sets, address, reach);
                let frontend = Frontend::Socket(address, own.protocol, own.port);
                compiled.push(Compiled::new(frontend, vec![own]));
            }
        }
        for (port, sets) in ports() {
            let Some(number) = port.node_port else { continue };
            let own = self.service_port(service, port, number, sets, cluster_ip, Reach::External);
            let frontend = Frontend::node_port(cluster_ip, own.protocol, own.port);
            compiled.push(Compiled::new(frontend, vec![own]));
        }
    }

    fn sets(
        &mut self,
        cluster: &Cluster,
        service: &Service,
        port: &cluster::ServicePort,
        cluster_ip: IpAddr,
        without: &BTreeSet<EndpointKey>,
    ) -> Sets {
        let family = Family::of(&cluster_ip);
        let locality = self.locality.resolved(cluster);
        let EndpointSets { cluster, local } = endpoint_sets(cluster, service, port, family, &locality);
        let mut share = |sockets: Vec<(IpAddr, u16)>| {
            let keys = sockets.into_iter().map(|(address, number)| EndpointKey {
                address,
                port: Port::new(number),
                protocol: port.protocol,
            });
            let members = keys.filter(|key| !without.contains(key)).map(|key| {
                let weight = service.traffic.weights.get(&key.address).copied().unwrap_or(1);
                (Backend { address: key.address, port: key.port, id: key.id() }, weight)
            });
            self.share(members.collect())
        };
        let is_one = cluster == local;
        let cluster = share(cluster);
        let local = if is_one { Arc::clone(&cluster) } else { share(local) };
        if service.traffic.choice == Choice::LeastConnections {
            self.loaded.extend([&cluster, &local].map(Arc::downgrade));
        }
        let owner = |endpoint| Owner {
            service: service.name.clone(),
            port: Arc::clone(&port.name),
            protocol: port.protocol,
            endpoint,
        };
        let endpoint_accounts = self.accounts.is_by_endpoint().then(|| {
            let members = cluster.members().iter().chain(local.members());
            let row = |member: &Backend| {
                let Backend { address, port: number, id } = *member;
                let key = EndpointKey { address, port: number, protocol: port.protocol };
                (id, self.accounts.row(owner(Some(key))))
            };
            members.map(row).collect::<BTreeMap<_, _>>().into_iter().collect()
        });
        Sets { account: self.accounts.row(owner(None)), endpoint_accounts, cluster, local }
    }

    /// Makes a Service port as it is at one frontend: who may call, and which endpoints its policy gives (K19-K22).
    fn service_port(
        &self,
        service: &Service,
        port: &cluster::ServicePort,
        number: u16,
        sets: &Sets,
        address: IpAddr,
        reach: Reach,
    ) -> ServicePort {
        let traffic = &service.traffic;
        let policy = if matches!(reach, Reach::Internal) { traffic.internal } else { traffic.external };
        let is_local = policy == Policy::Local;
        let is_bound = is_local && self.locality.node.is_some();
        let is_external = !matches!(reach, Reach::Internal);
        let none_anywhere = sets.cluster.members().is_empty();
        ServicePort {
            protocol: port.protocol,
            port: Port::new(number),
            id: service_port_id(&service.name, &port.name, port.protocol),
            backends: Arc::clone(if is_bound { &sets.local } else { &sets.cluster }),
            terms: Terms {
                pod_backends: (is_bound && is_external).then(|| Arc::clone(&sets.cluster)),
                without: if is_bound && !none_anywhere { Without::Drop } else { Without::Refuse },
                sources: matches!(reach, Reach::Balancer).then(|| sources(service, address)).flatten(),
                keeps_client: is_local && is_external,
                choice: traffic.choice.into(),
                affinity_seconds: traffic.affinity_seconds,
                rows: Rows { own: sets.account, endpoints: sets.endpoint_accounts.clone() },
            },
        }
    }

    fn share(&mut self, mut members: Vec<(Backend, u16)>) -> Arc<Backends> {
        members.sort_unstable();
        members.dedup();
        let hash = self.hasher.hash_one(&members);
        let known = self.shared.get(&hash).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.weighted_members().eq(members.iter().copied())) {
            return known;
        }
        let backends = Arc::new(Backends::weighted(members));
        if self.shared.len() == self.shared.capacity() {
            self.shared.retain(|_, table| table.strong_count() > 0);
        }
        self.shared.insert(hash, Arc::downgrade(&backends));
        backends
    }
}

impl Compiled {
    fn new(frontend: Frontend, ports: Vec<ServicePort>) -> Self {
        Self { frontend, table: VirtualAddress::new(ports) }
    }

    /// Returns all endpoints of its backends.
    #[must_use]
    pub fn endpoints(&self) -> BTreeSet<EndpointKey> {
        endpoints_of(&self.table)
    }
}

/// Returns all endpoints that the ports of a table lead to; costs their number.
pub(crate) fn endpoints_of(table: &VirtualAddress) -> BTreeSet<EndpointKey> {
    let mut endpoints = BTreeSet::new();
    for port in table.ports() {
        let sets = [Some(&port.backends), port.terms.pod_backends.as_ref()];
        for member in sets.into_iter().flatten().flat_map(|set| set.members()) {
            let Backend { address, port: number, .. } = *member;
            endpoints.insert(EndpointKey { address, port: number, protocol: port.protocol });
        }
    }
    endpoints
}

/// Returns the external and load-balancer addresses of a ClusterIP's family, each once; what a load balancer's address
/// admits holds for it however else it is named.
fn external_addresses(service: &Service, cluster_ip: IpAddr) -> BTreeMap<IpAddr, Reach> {
    let Traffic { external_addresses, balancer_addresses, .. } = &service.traffic;
    let external = external_addresses.iter().map(|address| (*address, Reach::External));
    let balancer = balancer_addresses.iter().map(|address| (*address, Reach::Balancer));
    let is_usable =
        |address: &IpAddr| Family::of(address) == Family::of(&cluster_ip) && *address != cluster_ip;
    external.chain(balancer).filter(|(address, _)| is_usable(address)).collect()
}

/// Returns the networks that may call a load balancer's address; `None` for all.
///
/// Those of the other family do not count, and a family without any is not restricted; a network of length 0 means no
/// restriction, too (K22).
fn sources(service: &Service, address: IpAddr) -> Option<Arc<[Prefix]>> {
    let of_family = |range: &&IpNet| range.addr().is_ipv4() == address.is_ipv4();
    let prefix = |range: &IpNet| Prefix { address: range.network(), length: range.prefix_len() };
    let ranges: Vec<Prefix> = service.traffic.source_ranges.iter().filter(of_family).map(prefix).collect();
    let is_restricted = !ranges.is_empty() && ranges.iter().all(|range| range.length > 0);
    is_restricted.then(|| ranges.into())
}

/// Returns the stable identity of a Service port: namespace, name, port name and protocol (K4).
#[must_use]
pub fn service_port_id(service: &ObjectName, port: &str, protocol: Protocol) -> ServicePortId {
    ServicePortId(stable_hash(format_args!("{service}:{port}/{protocol}")))
}

/// Hashes a text to 64 bits that never change between versions and machines (FNV-1a, then mixed).
///
/// Source: RFC 9923 (FNV), the 64-bit parameters.
pub(crate) fn stable_hash(text: fmt::Arguments<'_>) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    // It takes whatever is written.
    let _ = hash.write_fmt(text);
    (hash.0 ^ (hash.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text
            .bytes()
            .fold(self.0, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
