//! The names that one Service gives rise to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_dataplane::net::Protocol;
use tracing::warn;

use super::Name;
use crate::cluster::{self, EndpointSlice, ObjectName, Service, ServiceKind};

/// One Service with its ready endpoints, in the form that questions are answered from.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct ServiceNames {
    pub(super) name: ObjectName,
    /// The bare name, to which SRV and PTR point.
    pub(super) domain_name: Name,
    pub(super) kind: Kind,
    /// It has no ready endpoint, and such Services are not to be named.
    pub(super) hidden: bool,
    /// Addresses of the bare name without duplicates: ClusterIPs, or ready endpoints if headless.
    pub(super) addresses: Box<[IpAddr]>,
    /// Ports of a Service with ClusterIPs; empty for other kinds.
    ports: Box<[Port]>,
    /// Ready endpoints, in the order of slices and manifests.
    endpoints: Box<[Endpoint]>,
    /// The ports of each slice with a ready endpoint, referred to by [`Endpoint::slice`].
    slices: Box<[Box<[Port]>]>,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Kind {
    ClusterIp,
    Headless,
    /// `None` if `externalName` is an address or no name: such a Service has no records.
    ExternalName(Option<Name>),
}

#[derive(PartialEq, Eq, Debug)]
struct Port {
    /// Lower case; empty for an unnamed port.
    name: Box<str>,
    protocol: Protocol,
    number: u16,
}

#[derive(PartialEq, Eq, Debug)]
struct Endpoint {
    label: Arc<str>,
    domain_name: Name,
    address: IpAddr,
    slice: usize,
}

/// Which of a Service's names is asked.
#[derive(Clone, Copy)]
pub(super) enum Part<'q> {
    /// The bare name.
    Whole,
    /// `_port._protocol`, underscores taken off; empty matches all.
    Port { port: &'q [u8], protocol: &'q [u8] },
    /// One label: hostname or dashed address.
    Endpoint(&'q [u8]),
}

/// An address and port under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place<'s> {
    /// Whose address it is: the Service itself, or one of its endpoints.
    pub(super) target: &'s Name,
    pub(super) address: IpAddr,
    /// `None` where no port is declared: addresses but no SRV.
    pub(super) port: Option<u16>,
}

/// A reason for an address to have a PTR; a Service orders before endpoints, as it is answered before them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Claim {
    Service(ObjectName, Name),
    Endpoint(ObjectName, Name),
}

/// What decides about names besides the objects.
pub(super) struct Rules<'z> {
    pub(super) origin: &'z Name,
    /// An endpoint without hostname is named by its Pod.
    pub(super) endpoint_pod_names: bool,
    /// A Service with ClusterIPs but without a ready endpoint has no names.
    pub(super) hide_empty: bool,
}

impl Port {
    fn matches(&self, part: Part<'_>) -> bool {
        let Part::Port { port, protocol } = part else { return true };
        (port.is_empty() || port == self.name.as_bytes())
            && (protocol.is_empty() || protocol == protocol_label(self.protocol).as_bytes())
    }
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl ServiceNames {
    /// Builds the names of a Service from it and its slices; costs their size.
    ///
    /// Endpoints that are not ready have no names (S12; `publishNotReadyAddresses` arrives as ready). An
    /// endpoint or a whole Service whose name would not fit the wire format is reported and left out.
    pub(super) fn build<'c>(
        service: &Service,
        slices: impl Iterator<Item = &'c Arc<EndpointSlice>>,
        rules: &Rules<'_>,
    ) -> Option<Self> {
        let name = service.name.clone();
        let Some(domain_name) = service_name(rules.origin, &name, None) else {
            warn!(service = %name, "metadata.name makes no domain name: the Service gets none");
            return None;
        };
        let kind = match &service.kind {
            ServiceKind::ClusterIp(_) => Kind::ClusterIp,
            ServiceKind::Headless => Kind::Headless,
            ServiceKind::ExternalName(target) => Kind::ExternalName(external_name(&name, target)),
        };
        let mut names = Self {
            name,
            domain_name,
            kind,
            hidden: false,
            addresses: [].into(),
            ports: [].into(),
            endpoints: [].into(),
            slices: [].into(),
        };
        if !matches!(names.kind, Kind::ExternalName(_)) {
            names.read_slices(slices, rules);
        }
        match &service.kind {
            ServiceKind::ClusterIp(addresses) => {
                names.hidden = rules.hide_empty && names.endpoints.is_empty();
                names.addresses = distinct(addresses.iter().copied());
                let port = |p: &crate::cluster::ServicePort| Port::new(&p.name, p.protocol, p.port);
                names.ports = service.ports.iter().map(port).collect();
            }
            ServiceKind::Headless => names.addresses = distinct(names.endpoints.iter().map(|e| e.address)),
            ServiceKind::ExternalName(_) => {}
        }
        Some(names)
    }

    fn read_slices<'c>(&mut self, slices: impl Iterator<Item = &'c Arc<EndpointSlice>>, rules: &Rules<'_>) {
        let (mut endpoints, mut ports) = (Vec::new(), Vec::new());
        for slice in slices {
            let named = endpoints.len();
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                let label = endpoint_label(endpoint, rules.endpoint_pod_names);
                let Some(domain_name) = service_name(rules.origin, &self.name, Some(&label)) else {
                    warn!(slice = %slice.name, hostname = %label, "hostname makes no domain name: left out");
                    continue;
                };
                let (address, slice) = (endpoint.address, ports.len());
                endpoints.push(Endpoint { label, domain_name, address, slice });
            }
            if endpoints.len() > named {
                ports.push(slice.ports.iter().map(|p| Port::new(&p.name, p.protocol, p.port)).collect());
            }
        }
        self.endpoints = endpoints.into();
        self.slices = ports.into();
    }

    /// Returns every address and port under a part of the Service, duplicates included; empty if there is no
    /// such name.
    ///
    /// The number of places is what SRV weights are divided by.
    pub(super) fn places(&self, part: Part<'_>) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        match (&self.kind, part) {
            (Kind::ExternalName(_), _) => {}
            (Kind::ClusterIp, Part::Whole | Part::Port { .. }) => {
                for &address in &self.addresses {
                    extend(&mut places, &self.domain_name, address, &self.ports, part);
                }
            }
            (Kind::Headless, Part::Whole | Part::Port { .. }) | (_, Part::Endpoint(_)) => {
                let asked = |endpoint: &&Endpoint| match part {
                    Part::Endpoint(label) => endpoint.label.as_bytes() == label,
                    _ => true,
                };
                for endpoint in self.endpoints.iter().filter(asked) {
                    let ports = &self.slices[endpoint.slice];
                    extend(&mut places, &endpoint.domain_name, endpoint.address, ports, part);
                }
            }
        }
        places
    }

    /// Says whether some port of the Service has this protocol label, so that names exist below `_protocol`.
    pub(super) fn has_protocol(&self, protocol: &[u8]) -> bool {
        !self.places(Part::Port { port: b"", protocol }).is_empty()
    }

    /// Returns the reverse names that this Service asks for.
    pub(super) fn claims(&self) -> BTreeSet<(IpAddr, Claim)> {
        let endpoint = |e: &Endpoint| (e.address, Claim::Endpoint(self.name.clone(), e.domain_name.clone()));
        let mut claims: BTreeSet<_> = self.endpoints.iter().map(endpoint).collect();
        if self.kind == Kind::ClusterIp && !self.hidden {
            let claim = || Claim::Service(self.name.clone(), self.domain_name.clone());
            claims.extend(self.addresses.iter().map(|&address| (address, claim())));
        }
        claims
    }
}

impl Port {
    fn new(name: &str, protocol: Protocol, number: u16) -> Self {
        Self { name: name.to_ascii_lowercase().into(), protocol, number }
    }
}

fn extend<'s>(
    places: &mut Vec<Place<'s>>,
    target: &'s Name,
    address: IpAddr,
    ports: &[Port],
    part: Part<'_>,
) {
    if ports.is_empty() && !matches!(part, Part::Port { .. }) {
        places.push(Place { target, address, port: None });
    }
    for port in ports.iter().filter(|port| port.matches(part)) {
        places.push(Place { target, address, port: Some(port.number) });
    }
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Box<[IpAddr]> {
    let mut seen = BTreeSet::new();
    addresses.filter(|&address| seen.insert(address)).collect()
}

/// Returns the name of a Service, or of one of its endpoints; `None` if it is too long for the wire format.
pub(super) fn service_name(origin: &Name, service: &ObjectName, endpoint: Option<&str>) -> Option<Name> {
    let tail = [service.name.as_bytes(), service.namespace.as_bytes(), b"svc"];
    origin.below(endpoint.map(str::as_bytes).into_iter().chain(tail))
}

/// Names an endpoint: its hostname, else its Pod's name if that is wanted and a label, else its address with dashes
/// (S12).
fn endpoint_label(endpoint: &cluster::Endpoint, pod_names: bool) -> Arc<str> {
    let pod = endpoint.pod.as_deref().filter(|pod| pod_names && pod.len() < 64 && !pod.contains('.'));
    match endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()).or(pod) {
        Some(label) => label.to_ascii_lowercase().into(),
        None => {
            let mut label = endpoint.address.to_string().replace(['.', ':'], "-");
            if label.ends_with('-') {
                // A label should end in a letter or digit; a leading dash is what CoreDNS leaves too.
                label.push('0');
            }
            label.into()
        }
    }
}

fn external_name(service: &ObjectName, target: &str) -> Option<Name> {
    if target.trim_end_matches('.').parse::<IpAddr>().is_ok() {
        warn!(%service, externalName = %target, "spec.externalName is an address: the Service gets no names");
        return None;
    }
    Name::parse(target)
        .inspect_err(|error| warn!(%service, "spec.externalName {error}: the Service gets no names"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str) -> cluster::Endpoint {
        let address = address.parse().expect("an address");
        cluster::Endpoint { pod: Some("Web-abc".into()), ..cluster::Endpoint::ready_at(address) }
    }

    #[test]
    fn an_endpoint_without_hostname_is_named_by_its_dashed_address() {
        let label = |text: &str| endpoint_label(&endpoint(text), false).to_string();
        assert_eq!(label("10.1.2.3"), "10-1-2-3");
        assert_eq!(label("fd00:1::"), "fd00-1--0");
        assert_eq!(label("::1:2"), "--1-2");
        let named = cluster::Endpoint { hostname: Some("Web-0".into()), ..endpoint("10.1.2.3") };
        assert_eq!(&*endpoint_label(&named, false), "web-0");
        assert_eq!(&*endpoint_label(&named, true), "web-0");
    }

    #[test]
    fn an_endpoint_may_be_named_by_its_pod_where_that_is_a_label() {
        let pod = |name: &str| cluster::Endpoint { pod: Some(name.into()), ..endpoint("10.1.2.3") };
        assert_eq!(&*endpoint_label(&pod("Web-abc"), true), "web-abc");
        assert_eq!(&*endpoint_label(&pod(&"p".repeat(64)), true), "10-1-2-3");
        assert_eq!(&*endpoint_label(&pod("a.b"), true), "10-1-2-3");
    }
}
