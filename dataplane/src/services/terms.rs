//! Who may call a Service port, and how its flows are made (K14, K19 to K22).

use std::net::IpAddr;
use std::sync::Arc;

use super::{Backends, Choice};
use crate::flows::EndpointId;
use crate::net::Prefix;

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
