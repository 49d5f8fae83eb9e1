//! The endpoints that flows of a Service port may go to, and how one is chosen (K13).

use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::flows::{EndpointId, Key, ServicePortId};
use crate::maglev::{Maglev, choice_hash};
use crate::net::{Address, Port};

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
        let addresses = A::pair(request.source(), request.destination());
        let ports = u64::from(request.source_port().number()) << 32
            | u64::from(request.destination_port().number()) << 16
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
