//! From a virtual address and port to a backend: what the control thread compiled of the Services.
//!
//! Clients call a Service by a [`Frontend`]: a ClusterIP with all its ports, or one port of an external address or of
//! the node. What is found there is a [`ServicePort`]: its [`Terms`] say who may call and how a flow is made, its
//! [`Backends`] where it goes. A table is immutable. [`Services::with`] makes the next one and copies only the shards it touches, so that
//! a change costs what it changed and not the size of the cluster.
//!
//! Reading order: [`Frontend`] what is called · [`ServicePort`] and [`VirtualAddress`] what is found there · [`Terms`] and
//! [`Backends`] what it says · [`Services`] all of them.

mod backends;
mod frontend;
mod terms;
mod virtual_address;

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

pub use self::backends::{Backend, Backends, Choice};
pub use self::frontend::Frontend;
use self::frontend::unspecified;
pub use self::terms::{Rows, Terms, Without};
pub use self::virtual_address::{ServicePort, VirtualAddress};
use crate::net::{Port, Prefix, Protocol};

/// Shards of the address table; a change of one Service copies one shard and the list of shards.
const SHARDS: usize = 256;

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
