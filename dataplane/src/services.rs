//! From a virtual address and port to a backend: what the control thread compiled of the Services.
//!
//! A table is immutable. [`Services::with`] makes the next one and copies only the shards it touches, so that
//! a change costs what it changed and not the size of the cluster.

use std::net::IpAddr;
use std::sync::Arc;

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

/// The endpoints that new flows of a Service port may go to; shared by Service ports with equal lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backends {
    members: Box<[Backend]>,
    table: Maglev,
}

impl Backends {
    /// Sorts the members and builds their table.
    #[must_use]
    pub fn new(mut members: Vec<Backend>) -> Self {
        members.sort_unstable();
        members.dedup();
        let identities: Vec<u64> = members.iter().map(|backend| backend.id.0).collect();
        Self { members: members.into(), table: Maglev::new(&identities) }
    }

    /// Chooses the backend of a new flow, or `None` if there is none (K19).
    #[must_use]
    pub fn choose<A: Address>(&self, request: &Key<A>) -> Option<&Backend> {
        let addresses = A::pair(request.source, request.destination);
        let ports = u64::from(request.source_port.number()) << 32
            | u64::from(request.destination_port.number()) << 16
            | u64::from(request.protocol.number());
        self.members.get(self.table.choose(choice_hash(addresses.as_ref(), ports))?)
    }

    /// Returns all members in order.
    #[must_use]
    pub fn members(&self) -> &[Backend] {
        &self.members
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
}

/// All ports of one virtual address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VirtualAddress {
    ports: Box<[ServicePort]>,
}

impl VirtualAddress {
    /// Sorts the ports; of two with one protocol and number the first stays.
    #[must_use]
    pub fn new(mut ports: Vec<ServicePort>) -> Self {
        ports.sort_by_key(|port| (port.protocol, port.port));
        ports.dedup_by_key(|port| (port.protocol, port.port));
        Self { ports: ports.into() }
    }

    /// Returns the Service port, or `None` if the address has none there (K23).
    #[must_use]
    pub fn port(&self, protocol: Protocol, port: Port) -> Option<&ServicePort> {
        let place = self.ports.binary_search_by_key(&(protocol, port), |entry| (entry.protocol, entry.port));
        place.ok().and_then(|place| self.ports.get(place))
    }

    /// Returns all ports, sorted by protocol and number.
    #[must_use]
    pub fn ports(&self) -> &[ServicePort] {
        &self.ports
    }
}

/// What a destination address means to us.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// A virtual address of a Service.
    Service(&'a VirtualAddress),
    /// An address of a service CIDR that no Service has (K23).
    Unallocated,
    /// None of ours.
    Other,
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

    /// Returns the next table: each address gets its new ports, or is gone with `None`.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (IpAddr, Option<VirtualAddress>)>) -> Self {
        let mut next = self.clone();
        for (address, change) in changes {
            let Some(shard) = next.shards.get_mut(shard_of(address)) else { continue };
            let shard = Arc::make_mut(shard);
            match change {
                Some(virtual_address) => shard.insert(address, virtual_address),
                None => shard.remove(&address),
            };
        }
        next
    }

    /// Says what an address means to us.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Destination<'_> {
        match self.virtual_address(address) {
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
