//! Endpoints that have left their Service port while flows still go to them (design decision 9).
//!
//! Established packets do not consult the rules; this is the one thing they are asked about, and while no endpoint is
//! leaving the question costs a comparison. What left is told per Service port: the same address may go on under
//! another one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::flows::{Direction, EndpointId, FlowTable, Found, Key, ServicePortId};
use crate::net::{Address, Port, Protocol};

/// What becomes of the flows of an endpoint that has left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Departure {
    /// Flows without a connection go elsewhere with the client's next packet (K27).
    Repick,
    /// A connection that is not open yet goes elsewhere with the client's next SYN; open ones stay.
    Left,
    /// Open connections are reset at both ends (K26).
    Reset,
}

/// Where an endpoint is reached.
pub type Socket = (IpAddr, Port, Protocol);

/// The endpoints that are leaving.
#[derive(Clone, Debug, Default)]
pub struct Departed {
    /// Counts the sets; whoever looks through all flows for a set does so once.
    pub version: u64,
    sockets: HashSet<Socket, FixedState>,
    fates: HashMap<(ServicePortId, EndpointId), Departure, FixedState>,
    has_resets: bool,
}

impl Departed {
    /// Makes the set from what leaves which Service port.
    #[must_use]
    pub fn new(version: u64, leaving: &BTreeMap<(ServicePortId, EndpointId), (Socket, Departure)>) -> Self {
        Self {
            version,
            sockets: leaving.values().map(|(socket, _)| *socket).collect(),
            fates: leaving.iter().map(|(ids, (_, departure))| (*ids, *departure)).collect(),
            has_resets: leaving.values().any(|(_, departure)| *departure == Departure::Reset),
        }
    }

    /// Says whether no endpoint is leaving.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fates.is_empty()
    }

    /// Says whether there are connections to reset.
    #[must_use]
    pub const fn has_resets(&self) -> bool {
        self.has_resets
    }

    /// Returns what becomes of the flows of an endpoint of a Service port.
    #[must_use]
    pub fn of(&self, service: ServicePortId, endpoint: EndpointId) -> Option<Departure> {
        self.fates.get(&(service, endpoint)).copied()
    }

    /// Returns what becomes of the flow of a packet with that key. Costs a comparison if nothing leaves, else a look-up by
    /// the endpoint's socket, and for those that leave the flow's identities.
    #[inline]
    #[must_use]
    pub fn lookup<A: Address>(
        &self,
        key: &Key<A>,
        found: &Found<A>,
        flows: &FlowTable<A>,
    ) -> Option<Departure> {
        if self.fates.is_empty() {
            return None;
        }
        let request = match found.direction {
            Direction::Request => found.leaves_as,
            Direction::Reply => key.reversed(),
        };
        let socket = (request.destination().into(), request.destination_port(), request.protocol);
        if !self.sockets.contains(&socket) {
            return None;
        }
        let (service, endpoint) = flows.ids(found.flow)?;
        self.of(service, endpoint)
    }
}
