//! The rules of a Service written slowly from their text, sharing no code with the compiler or the packet path: lists
//! that are walked, once for each packet.

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// An IPv4 address.
pub(crate) type Address = [u8; 4];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    WithClusterIp,
    Headless,
    ExternalName,
}

#[derive(Clone, Debug)]
pub(crate) struct ServicePort {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    pub(crate) node_port: Option<u16>,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) is_foreign: bool,
    pub(crate) cluster_ip: Address,
    pub(crate) external: Option<Address>,
    pub(crate) balancer: Option<Address>,
    /// Network and prefix length.
    pub(crate) ranges: Vec<(Address, u32)>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) slices: Vec<Slice>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Name, protocol and number.
    pub(crate) ports: Vec<(&'static str, Protocol, u16)>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) node: Option<&'static str>,
    pub(crate) node_hint: Option<&'static str>,
    pub(crate) zone_hint: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) services: Vec<Service>,
    /// `--node-name`.
    pub(crate) node: Option<&'static str>,
    /// `--zone`.
    pub(crate) zone: Option<&'static str>,
    pub(crate) node_addresses: Vec<Address>,
    pub(crate) pod_network: (Address, u32),
    pub(crate) service_network: (Address, u32),
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// To one of these.
    OneOf(Vec<(Address, u16)>),
    Refused,
    /// Dropped, counted there.
    Dropped(&'static str),
    TheKernels,
}

/// By which rule a Service is called.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Way {
    ClusterIp,
    External,
    Balancer,
    NodePort,
}

pub(crate) fn verdict(cluster: &Cluster, call: Call) -> Verdict {
    match called(cluster, call) {
        Called::Port(service, port, way) => of_port(cluster, service, port, call, way),
        Called::UndefinedPort => Verdict::Refused, // K23
        Called::Nothing if is_in(call.to, cluster.service_network) => {
            Verdict::Dropped("drop_unallocated_address") // K23
        }
        Called::Nothing => Verdict::TheKernels,
    }
}

/// What a packet calls.
pub(crate) enum Called<'a> {
    Port(&'a Service, &'a ServicePort, Way),
    UndefinedPort,
    Nothing,
}

/// K1, K3: Services that get packets here.
pub(crate) fn served(cluster: &Cluster) -> Vec<&Service> {
    cluster.services.iter().filter(|one| one.kind == Kind::WithClusterIp && !one.is_foreign).collect()
}

/// K4, K15 to K18.
pub(crate) fn called(cluster: &Cluster, call: Call) -> Called<'_> {
    let served = served(cluster);
    for service in &served {
        if service.cluster_ip == call.to {
            for port in &service.ports {
                if port.protocol == call.protocol && port.number == call.port {
                    return Called::Port(service, port, Way::ClusterIp);
                }
            }
            return Called::UndefinedPort;
        }
    }
    for service in &served {
        for port in service.ports.iter().filter(|port| port.protocol == call.protocol) {
            if port.number == call.port && service.balancer == Some(call.to) {
                return Called::Port(service, port, Way::Balancer);
            }
            if port.number == call.port && service.external == Some(call.to) {
                return Called::Port(service, port, Way::External);
            }
            if port.node_port == Some(call.port) && cluster.node_addresses.contains(&call.to) {
                return Called::Port(service, port, Way::NodePort);
            }
        }
    }
    Called::Nothing
}

fn of_port(cluster: &Cluster, service: &Service, port: &ServicePort, call: Call, way: Way) -> Verdict {
    // K22: before anything else, at load-balancer addresses alone; a range of length 0 admits all.
    if way == Way::Balancer && !service.ranges.is_empty() {
        let admits_all = service.ranges.iter().any(|(_, bits)| *bits == 0);
        if !admits_all && !service.ranges.iter().any(|range| is_in(call.from, *range)) {
            return Verdict::Dropped("drop_source_range");
        }
    }
    let endpoints = joined(service, port);
    let of_cluster = cluster_set(cluster, &endpoints);
    let of_node = local_set(cluster, &endpoints);
    // Design decision 14: a gateway that is no node has no local endpoints, and Local means Cluster.
    let is_local = cluster.node.is_some()
        && match way {
            Way::ClusterIp => service.internal_local, // K21
            _ => service.external_local && !is_in(call.from, cluster.pod_network), // K20
        };
    if of_cluster.is_empty() && of_node.is_empty() {
        return Verdict::Refused; // K19
    }
    let usable = if is_local { of_node } else { of_cluster };
    if usable.is_empty() {
        return Verdict::Dropped("drop_no_local_endpoint"); // K19
    }
    Verdict::OneOf(usable)
}

/// K24 as the design decides it where replies come back through us: an endpoint sees its client, unless it is that.
pub(crate) fn hides_client(call: Call, endpoint: Address) -> bool {
    call.from == endpoint
}

/// K4 to K8: the endpoints of a port, each (address, number) once.
pub(crate) fn joined(service: &Service, port: &ServicePort) -> Vec<(Address, u16, Endpoint)> {
    let mut all: Vec<(Address, u16, Endpoint)> = Vec::new();
    for slice in &service.slices {
        for (name, protocol, number) in &slice.ports {
            if *name != port.name || *protocol != port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                match all.iter_mut().find(|(address, own, _)| (*address, *own) == (endpoint.address, *number))
                {
                    None => all.push((endpoint.address, *number, endpoint.clone())),
                    Some(known) if !endpoint.terminating => known.2 = endpoint.clone(),
                    Some(_) => {}
                }
            }
        }
    }
    all
}

/// K10, K11.
pub(crate) fn cluster_set(cluster: &Cluster, endpoints: &[(Address, u16, Endpoint)]) -> Vec<(Address, u16)> {
    let ready: Vec<_> = endpoints.iter().filter(|(_, _, endpoint)| endpoint.ready).collect();
    if ready.is_empty() {
        return sockets(endpoints.iter().filter(|(_, _, one)| one.serving && one.terminating));
    }
    let all_have_node = ready.iter().all(|(_, _, endpoint)| endpoint.node_hint.is_some());
    let here: Vec<_> = ready.iter().filter(|(_, _, one)| one.node_hint == cluster.node).copied().collect();
    if cluster.node.is_some() && all_have_node && !here.is_empty() {
        return sockets(here.into_iter());
    }
    let all_have_zone = ready.iter().all(|(_, _, endpoint)| endpoint.zone_hint.is_some());
    let near: Vec<_> = ready.iter().filter(|(_, _, one)| one.zone_hint == cluster.zone).copied().collect();
    if cluster.zone.is_some() && all_have_zone && !near.is_empty() {
        return sockets(near.into_iter());
    }
    sockets(ready.into_iter())
}

/// K10: the fallback is independent of the other set's.
pub(crate) fn local_set(cluster: &Cluster, endpoints: &[(Address, u16, Endpoint)]) -> Vec<(Address, u16)> {
    let local = || endpoints.iter().filter(|(_, _, one)| one.node.is_some() && one.node == cluster.node);
    let ready = sockets(local().filter(|(_, _, endpoint)| endpoint.ready));
    if ready.is_empty() {
        return sockets(local().filter(|(_, _, endpoint)| endpoint.serving && endpoint.terminating));
    }
    ready
}

fn sockets<'a>(endpoints: impl Iterator<Item = &'a (Address, u16, Endpoint)>) -> Vec<(Address, u16)> {
    endpoints.map(|(address, number, _)| (*address, *number)).collect()
}

pub(crate) fn is_in(address: Address, (network, bits): (Address, u32)) -> bool {
    let binary = |address: Address| format!("{:032b}", u32::from_be_bytes(address));
    binary(address)[..bits as usize] == binary(network)[..bits as usize]
}
