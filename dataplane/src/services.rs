//! From a virtual address and port to a backend: what the control thread compiled of the Services.
//!
//! Clients call a Service by a [`Frontend`]: a ClusterIP with all its ports, or one port of an external address or of
//! the node. What is found there is a [`ServicePort`]: its [`Terms`] say who may call and how a flow is made, its
//! [`Backends`] where it goes. A table is immutable. [`Services::with`] makes the next one and copies only the shards it touches, so that
//! a change costs what it changed and not the size of the cluster.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::flows::{EndpointId, Key, ServicePortId};
use crate::maglev::{Maglev, choice_hash};
use crate::net::{Address, Port, Prefix, Protocol};

/// Shards of the address table; a change of one Service copies one shard and the list of shards.
const SHARDS: usize = 256;

/// One address and port that a Service port leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Backend {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Port that it listens on.
    pub port: Port,
    /// Stable identity, equal on every gateway and after every restart.
    pub id: EndpointId,
}

/// How a Service port chooses among its endpoints (K13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Choice {
    /// The same endpoint for the same flow on every gateway, and few flows move when the set changes.
    #[default]
    Maglev,
    /// Any endpoint, as kube-proxy does it.
    Random,
    /// The endpoint with the fewest flows for its weight; of several, any.
    LeastConnections,
}

/// The endpoints that new flows of a Service port may go to; shared by Service ports with equal lists.
#[derive(Debug)]
pub struct Backends {
    members: Box<[Backend]>,
    /// Parallel to the members.
    weights: Box<[u16]>,
    /// Positions of members in the order of their identities.
    by_id: Box<[(EndpointId, u32)]>,
    /// Flows of each member: what the control thread counted last, and those opened since.
    loads: Box<[AtomicU32]>,
    table: Maglev,
}

impl PartialEq for Backends {
    fn eq(&self, other: &Self) -> bool {
        (&self.members, &self.weights) == (&other.members, &other.weights)
    }
}

impl Eq for Backends {}

impl Backends {
    /// Sorts the members and builds their table; all weigh the same.
    #[must_use]
    pub fn new(members: Vec<Backend>) -> Self {
        Self::weighted(members.into_iter().map(|member| (member, 1)).collect())
    }

    /// Sorts the members, with the share of new flows that each gets, and builds their table; weight 0 counts as 1.
    #[must_use]
    pub fn weighted(mut members: Vec<(Backend, u16)>) -> Self {
        members.sort_unstable();
        members.dedup_by_key(|(member, _)| *member);
        let (members, weights): (Vec<Backend>, Vec<u16>) =
            members.into_iter().map(|(member, weight)| (member, weight.max(1))).unzip();
        let shares: Vec<(u64, u16)> =
            members.iter().zip(&weights).map(|(member, weight)| (member.id.0, *weight)).collect();
        let mut by_id: Vec<(EndpointId, u32)> =
            members.iter().zip(0..).map(|(member, position)| (member.id, position)).collect();
        by_id.sort_unstable();
        Self {
            loads: members.iter().map(|_| AtomicU32::new(0)).collect(),
            by_id: by_id.into(),
            table: Maglev::weighted(&shares),
            weights: weights.into(),
            members: members.into(),
        }
    }

    /// Chooses the backend of a flow by its key alone, or `None` if there is none (K19).
    #[must_use]
    pub fn choose<A: Address>(&self, request: &Key<A>) -> Option<&Backend> {
        let addresses = A::pair(request.source, request.destination);
        let ports = u64::from(request.source_port.number()) << 32
            | u64::from(request.destination_port.number()) << 16
            | u64::from(request.protocol.number());
        self.members.get(self.table.choose(choice_hash(addresses.as_ref(), ports))?)
    }

    /// Chooses the backend of a client by its address and the Service port alone, for affinity (K14).
    #[must_use]
    pub fn choose_for_client<A: Address>(&self, client: A, service: ServicePortId) -> Option<&Backend> {
        let addresses = A::pair(client, A::UNSPECIFIED);
        self.members.get(self.table.choose(choice_hash(addresses.as_ref(), service.0))?)
    }

    /// Chooses any backend; each weighs in `chance`, an evenly spread number, as it should.
    #[must_use]
    pub fn choose_any(&self, chance: u64) -> Option<&Backend> {
        self.members.get(self.table.choose(chance)?)
    }

    /// Chooses the backend with the fewest flows for its weight; `chance` decides between several. Costs a look at
    /// every member.
    #[must_use]
    pub fn choose_idlest(&self, chance: u64) -> Option<&Backend> {
        let first = ((u128::from(chance) * self.members.len() as u128) >> 64) as usize;
        let load = |position: usize| {
            let load = self.loads.get(position).map_or(0, |load| load.load(Relaxed));
            u64::from(load + 1) * 65_536 / u64::from(self.weights.get(position).copied().unwrap_or(1))
        };
        let all = (first..self.members.len()).chain(0..first);
        self.members.get(all.min_by_key(|position| load(*position))?)
    }

    /// Returns the member of that identity.
    #[must_use]
    pub fn member(&self, id: EndpointId) -> Option<&Backend> {
        self.members.get(self.position(id)?)
    }

    /// Returns the place of a member in [`Backends::members`].
    #[must_use]
    pub fn position(&self, id: EndpointId) -> Option<usize> {
        let place = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.by_id.get(place).map(|(_, position)| *position as usize)
    }

    /// Notes that a flow to a member was opened.
    pub fn note_opened(&self, id: EndpointId) {
        if let Some(load) = self.position(id).and_then(|position| self.loads.get(position)) {
            load.fetch_add(1, Relaxed);
        }
    }

    /// Replaces what is known of the members' flows by what was counted; for the control thread.
    pub fn set_loads(&self, count: impl Fn(EndpointId) -> u32) {
        for (member, load) in self.members.iter().zip(&self.loads) {
            load.store(count(member.id), Relaxed);
        }
    }

    /// Returns all members in order, with their weights.
    pub fn weighted_members(&self) -> impl Iterator<Item = (Backend, u16)> {
        self.members.iter().copied().zip(self.weights.iter().copied())
    }

    /// Returns all members in order.
    #[must_use]
    pub fn members(&self) -> &[Backend] {
        &self.members
    }
}

/// What a Service port without an endpoint for the client does (K19).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Without {
    /// Says so: there is none anywhere.
    #[default]
    Refuse,
    /// Says nothing, so that a balancer in front tries another node: there are some, but none on this node.
    Drop,
}

/// Who may call a Service port, and how its flows are made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Where flows of Pods go instead, if they are not bound to this node's endpoints (K20).
    pub pod_backends: Option<Arc<Backends>>,
    /// What happens if there is no endpoint.
    pub without: Without,
    /// Networks of clients that may call; `None` for all (K22).
    pub sources: Option<Arc<[Prefix]>>,
    /// Flows keep the client's address whatever the masquerade policy says, but for clients that are themselves chosen.
    pub keeps_client: bool,
    /// How an endpoint is chosen.
    pub choice: Choice,
    /// Seconds without a new flow after which a client's endpoint is forgotten; `None` without affinity (K14).
    pub affinity_seconds: Option<u32>,
    /// Where it is counted.
    pub rows: Rows,
}

/// The rows that a Service port is counted in ([`crate::accounts`]).
///
/// They depend on who was there first, and nothing that becomes of a packet depends on them: all are equal.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Of the Service port.
    pub own: u32,
    /// Of endpoints in the order of their identities, if each has its own.
    pub endpoints: Option<Arc<[(EndpointId, u32)]>>,
}

impl PartialEq for Rows {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Rows {}

impl Rows {
    /// Returns the row that flows to an endpoint are counted in.
    #[must_use]
    pub fn of(&self, endpoint: EndpointId) -> u32 {
        let own = self.endpoints.as_ref().and_then(|rows| {
            let place = rows.binary_search_by_key(&endpoint, |(id, _)| *id).ok()?;
            rows.get(place)
        });
        own.map_or(self.own, |(_, row)| *row)
    }
}

impl Terms {
    /// Says whether a client may call.
    #[must_use]
    pub fn admit(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|network| network.contains(client)))
    }
}

/// One port of a Service at one virtual address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port that clients use.
    pub port: Port,
    /// Stable identity.
    pub id: ServicePortId,
    /// Where new flows go.
    pub backends: Arc<Backends>,
    /// How they are made.
    pub terms: Terms,
}

impl ServicePort {
    const fn place(&self) -> (Protocol, Port) {
        (self.protocol, self.port)
    }

    /// Returns where new flows of a client go; Pods are not bound to this node's endpoints (K20).
    #[must_use]
    pub fn backends_for(&self, is_pod: bool) -> &Backends {
        self.terms.pod_backends.as_ref().filter(|_| is_pod).unwrap_or(&self.backends)
    }
}

/// By what clients call a Service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Frontend {
    /// A ClusterIP: all ports of the address are the Service's.
    Address(IpAddr),
    /// One port of an external or load-balancer address; of the unspecified address, that port of every node address
    /// of its family (NodePort). Other ports are not the Service's.
    Socket(IpAddr, Protocol, Port),
}

impl Frontend {
    /// Returns the NodePort frontend of a family, which `of` is an address of.
    #[must_use]
    pub const fn node_port(of: IpAddr, protocol: Protocol, port: Port) -> Self {
        Self::Socket(unspecified(of), protocol, port)
    }

    /// Returns its address; unspecified for a NodePort.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Address(address) | Self::Socket(address, ..) => *address,
        }
    }
}

impl From<IpAddr> for Frontend {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Socket(address, protocol, port) if address.is_unspecified() => {
                write!(f, "node port {port}/{protocol}")
            }
            Self::Socket(address, protocol, port) => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, port.number()))
            }
        }
    }
}

/// Returns the unspecified address of the same family.
const fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// All Service ports of one virtual address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VirtualAddress {
    /// Those of the Service whose ClusterIP it is.
    ports: Box<[ServicePort]>,
    /// Those that Services have here each for itself.
    sockets: Box<[ServicePort]>,
    /// It was a ClusterIP until a moment ago, and nobody's yet.
    is_removed: bool,
}

impl VirtualAddress {
    /// Sorts the ports; of two with one protocol and number the first stays.
    #[must_use]
    pub fn new(mut ports: Vec<ServicePort>) -> Self {
        ports.sort_by_key(ServicePort::place);
        ports.dedup_by_key(|port| port.place());
        Self { ports: ports.into(), ..Self::default() }
    }

    /// Makes the table of a ClusterIP whose Service is gone: whoever still calls is told so, not left to wait.
    #[must_use]
    pub fn removed() -> Self {
        Self { is_removed: true, ..Self::default() }
    }

    /// Returns the Service port, or `None` if the address has none there (K23).
    #[must_use]
    pub fn port(&self, protocol: Protocol, port: Port) -> Option<&ServicePort> {
        let find =
            |ports: &'_ [ServicePort]| ports.binary_search_by_key(&(protocol, port), ServicePort::place).ok();
        let own = find(&self.ports).and_then(|place| self.ports.get(place));
        own.or_else(|| find(&self.sockets).and_then(|place| self.sockets.get(place)))
    }

    /// Returns the ports of the Service whose ClusterIP it is, sorted by protocol and number.
    #[must_use]
    pub fn ports(&self) -> &[ServicePort] {
        &self.ports
    }

    /// Says whether it is a ClusterIP, so that all its ports are ours to speak for (K23).
    #[must_use]
    pub fn is_cluster_ip(&self) -> bool {
        !self.ports.is_empty() || self.is_removed
    }

    fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.sockets.is_empty() && !self.is_removed
    }

    /// Puts a port in place of the one with its protocol and number, or takes that out.
    fn set_socket(&mut self, protocol: Protocol, port: Port, to: Option<ServicePort>) {
        let mut sockets = std::mem::take(&mut self.sockets).into_vec();
        match (sockets.binary_search_by_key(&(protocol, port), ServicePort::place), to) {
            (Ok(place), Some(to)) => sockets.splice(place..=place, [to]).for_each(drop),
            (Ok(place), None) => drop(sockets.remove(place)),
            (Err(place), Some(to)) => sockets.insert(place, to),
            (Err(_), None) => {}
        }
        self.sockets = sockets.into();
    }
}

/// What a destination address means to us.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// A virtual address of a Service.
    Service(&'a VirtualAddress),
    /// A ClusterIP whose Service is gone since a moment ago.
    Removed,
    /// An address of a service CIDR that no Service has (K23).
    Unallocated,
    /// None of ours.
    Other,
}

/// What a packet calls by its destination address and port.
#[derive(Clone, Copy, Debug)]
pub enum Called<'a> {
    /// A port of a Service.
    Port(&'a ServicePort),
    /// A port that the Service of a ClusterIP does not have (K23), or any of one whose Service is just gone.
    UndefinedPort,
    /// An address of a service CIDR that no Service has (K23).
    UnallocatedAddress,
    /// Nothing of ours.
    Nothing,
}

type Shard = HashMap<IpAddr, VirtualAddress, FixedState>;

/// All virtual addresses.
#[derive(Clone, Debug)]
pub struct Services {
    shards: Box<[Arc<Shard>]>,
    cidrs: Arc<[Prefix]>,
}

impl Services {
    /// Makes an empty table for these service CIDRs.
    #[must_use]
    pub fn new(cidrs: impl IntoIterator<Item = Prefix>) -> Self {
        let empty = Arc::new(Shard::default());
        Self { shards: vec![empty; SHARDS].into(), cidrs: cidrs.into_iter().collect() }
    }

    /// Returns the next table: each frontend gets its new ports, or is gone with `None`.
    ///
    /// A socket gets the port of its protocol and number. Costs, for each change, a copy of one shard, and of the
    /// ports that Services have at that address each for itself.
    #[must_use]
    pub fn with<F: Into<Frontend>>(
        &self,
        changes: impl IntoIterator<Item = (F, Option<VirtualAddress>)>,
    ) -> Self {
        let mut next = self.clone();
        for (frontend, change) in changes {
            let frontend = frontend.into();
            let address = frontend.address();
            let Some(shard) = next.shards.get_mut(shard_of(address)) else { continue };
            let shard = Arc::make_mut(shard);
            let entry = shard.entry(address).or_default();
            match frontend {
                Frontend::Address(_) => {
                    let change = change.unwrap_or_default();
                    (entry.ports, entry.is_removed) = (change.ports, change.is_removed);
                }
                Frontend::Socket(_, protocol, port) => {
                    let ports = change.map(|change| change.ports.into_vec()).unwrap_or_default();
                    let own = ports.into_iter().find(|own| own.place() == (protocol, port));
                    entry.set_socket(protocol, port, own);
                }
            }
            if entry.is_empty() {
                shard.remove(&address);
            }
        }
        next
    }

    /// Returns the Service port that is every node address' own, if that port is one (NodePort, K16).
    #[must_use]
    pub fn node_port(&self, of: IpAddr, protocol: Protocol, port: Port) -> Option<&ServicePort> {
        self.virtual_address(unspecified(of))?.port(protocol, port)
    }

    /// Returns the Service port of a frontend socket.
    #[must_use]
    pub fn socket(&self, address: IpAddr, protocol: Protocol, port: Port) -> Option<&ServicePort> {
        self.virtual_address(address)?.port(protocol, port)
    }

    /// Says what an address means to us.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Destination<'_> {
        match self.virtual_address(address) {
            Some(found) if found.is_removed && found.sockets.is_empty() => Destination::Removed,
            Some(found) => Destination::Service(found),
            None if self.in_service_cidr(address) => Destination::Unallocated,
            None => Destination::Other,
        }
    }

    /// Returns the ports of a virtual address.
    #[must_use]
    pub fn virtual_address(&self, address: IpAddr) -> Option<&VirtualAddress> {
        self.shards.get(shard_of(address))?.get(&address)
    }

    fn in_service_cidr(&self, address: IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(address))
    }

    /// Returns how many virtual addresses there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Says whether there is no virtual address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Spreads neighbouring addresses over the shards; the low octet alone does.
fn shard_of(address: IpAddr) -> usize {
    let low = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    usize::from(low) % SHARDS
}
