//! The Service ports of one virtual address.

use std::sync::Arc;

use super::{Backends, Terms};
use crate::flows::ServicePortId;
use crate::net::{Port, Protocol};

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
    pub(super) const fn place(&self) -> (Protocol, Port) {
        (self.protocol, self.port)
    }

    /// Returns where new flows of a client go; Pods are not bound to this node's endpoints (K20).
    #[must_use]
    pub fn backends_for(&self, is_pod: bool) -> &Backends {
        self.terms.pod_backends.as_ref().filter(|_| is_pod).unwrap_or(&self.backends)
    }
}

/// All Service ports of one virtual address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VirtualAddress {
    /// Those of the Service whose ClusterIP it is.
    pub(super) ports: Box<[ServicePort]>,
    /// Those that Services have here each for itself.
    pub(super) sockets: Box<[ServicePort]>,
    /// It was a ClusterIP until a moment ago, and nobody's yet.
    pub(super) is_removed: bool,
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

    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.sockets.is_empty() && !self.is_removed
    }

    /// Puts a port in place of the one with its protocol and number, or takes that out.
    pub(super) fn set_socket(&mut self, protocol: Protocol, port: Port, to: Option<ServicePort>) {
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
