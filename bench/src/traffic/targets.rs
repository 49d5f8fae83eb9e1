//! The cluster that traffic goes to, as a function of numbers: clients, Services, endpoints, and which flow is whose.
//!
//! The addresses are those that kube-proxy's rule sets were recorded with: clients in 10.1.0.0/16 and pods in
//! 10.3.0.0/16 are both inside of its cluster network, so that nobody masquerades.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Endpoints of each Service.
pub const ENDPOINTS: u32 = 4;
/// Port of each Service.
pub const SERVICE_PORT: u16 = 80;
/// Port that each endpoint listens on.
pub const ENDPOINT_PORT: u16 = 8080;
/// Network of the clients, all of whose traffic is measured.
pub const CLIENTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 1, 0, 0), 16);
/// Network of the pods.
pub const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 3, 0, 0), 16);
/// Network of the ClusterIPs.
pub const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);

const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 60_000;
/// Addresses that stand side by side in the last octet, from 1.
const ROW: u32 = 250;

/// A transport protocol that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// User datagrams.
    Udp,
    /// Segments of connections.
    Tcp,
}

impl Protocol {
    /// Its number in an IPv4 header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

/// Which Services have which protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Protocols {
    /// Services with an even number are UDP, the others TCP; a lone Service is UDP.
    Alternating,
    /// All are TCP, as in the recorded rule sets.
    TcpOnly,
}

/// What a flow is from and to, as the client sends it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Addressing {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The client's port.
    pub client_port: u16,
    /// The Service's ClusterIP.
    pub service: Ipv4Addr,
}

/// A number of Services of [`ENDPOINTS`] endpoints each.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// How many.
    pub services: u32,
    /// What they speak.
    pub protocols: Protocols,
}

impl Targets {
    /// Returns Services that alternate between the protocols.
    #[must_use]
    pub const fn alternating(services: u32) -> Self {
        Self { services, protocols: Protocols::Alternating }
    }

    /// Returns what a Service speaks.
    #[must_use]
    pub const fn protocol(self, service: u32) -> Protocol {
        match self.protocols {
            Protocols::Alternating if service.is_multiple_of(2) => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }

    /// Returns the ClusterIP of a Service.
    #[must_use]
    pub const fn cluster_ip(self, service: u32) -> Ipv4Addr {
        in_rows(SERVICES.0, service)
    }

    /// Returns the address of an endpoint of a Service; no two Services share one.
    #[must_use]
    pub const fn endpoint(self, service: u32, endpoint: u32) -> Ipv4Addr {
        in_rows(PODS.0, service * ENDPOINTS + endpoint)
    }

    /// Returns the Service that a flow goes to.
    ///
    /// # Panics
    /// If no Service speaks the protocol.
    #[must_use]
    pub fn service_of(self, flow: u32, protocol: Protocol) -> u32 {
        match (self.protocols, protocol) {
            (Protocols::TcpOnly, _) => flow % self.services,
            (_, Protocol::Udp) => flow % self.services.div_ceil(2) * 2,
            (_, Protocol::Tcp) => flow % (self.services / 2) * 2 + 1,
        }
    }

    /// Returns the addressing of a flow; no two flows share client address and port.
    ///
    /// # Panics
    /// If no Service speaks the protocol.
    #[must_use]
    pub fn flow(self, number: u32, protocol: Protocol) -> Addressing {
        let service = self.service_of(number, protocol);
        Addressing {
            client: in_rows(CLIENTS.0, number / PORTS),
            client_port: (FIRST_PORT + number % PORTS) as u16,
            service: self.cluster_ip(service),
        }
    }
}

/// Returns the number of the flow with this client address and port, the inverse of [`Targets::flow`].
#[must_use]
pub fn flow_number(client: Ipv4Addr, port: u16) -> Option<u32> {
    let [.., row, column] = client.octets();
    let place = u32::from(row).checked_sub(1)? * ROW + u32::from(column).checked_sub(1)?;
    Some(place * PORTS + u32::from(port).checked_sub(FIRST_PORT)?)
}

/// The `place`th address of a network of 16 bits, the last octet from 1 to 250.
const fn in_rows(network: Ipv4Addr, place: u32) -> Ipv4Addr {
    let [first, second, ..] = network.octets();
    Ipv4Addr::new(first, second, (1 + place / ROW) as u8, (1 + place % ROW) as u8)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_flow_is_found_again_by_its_client_and_no_two_are_alike() {
        let targets = Targets::alternating(5000);
        let mut seen = HashSet::new();
        for number in (0..2_000_000).step_by(977) {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let flow = targets.flow(number, protocol);
                assert_eq!(flow_number(flow.client, flow.client_port), Some(number));
                assert!(seen.insert((flow, protocol)), "{flow:?}");
            }
        }
    }

    #[test]
    fn flows_go_to_services_of_their_protocol_and_reach_all_of_them() {
        let targets = Targets::alternating(100);
        let by_address = |address| (0..100).find(|service| targets.cluster_ip(*service) == address).unwrap();
        let mut reached = HashSet::new();
        for number in 0..200 {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let service = by_address(targets.flow(number, protocol).service);
                assert_eq!(targets.protocol(service), protocol);
                reached.insert(service);
            }
        }
        assert_eq!(reached.len(), 100);
    }

    #[test]
    fn endpoints_are_all_different_and_inside_of_the_pod_network() {
        let targets = Targets::alternating(5000);
        let all: HashSet<_> =
            (0..5000).flat_map(|service| (0..ENDPOINTS).map(move |n| targets.endpoint(service, n))).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(|address| address.octets()[..2] == [10, 3]));
    }
}
