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
    pub(super) name: Arc<ObjectName>,
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

/// A ready endpoint. Its names are made when they are asked for: kept, they would be most of what a great zone takes.
#[derive(PartialEq, Eq, Debug)]
struct Endpoint {
    address: IpAddr,
    /// Its first label, unless that spells the address.
    label: Option<Box<str>>,
    /// Whose ports it has, in [`ServiceNames::slices`].
    slice: u32,
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'s> {
    service: &'s ServiceNames,
    /// Whose address it is; `None` for the Service itself.
    endpoint: Option<&'s Endpoint>,
    pub(super) address: IpAddr,
    /// `None` where no port is declared: addresses but no SRV.
    pub(super) port: Option<u16>,
}

impl Place<'_> {
    /// Returns the name of whose address it is; one of an endpoint is made for it.
    pub(super) fn target(&self) -> Option<Name> {
        self.endpoint.map_or(Some(self.service.domain_name.clone()), |one| self.service.endpoint_name(one))
    }
}

/// A reason for an address to have a PTR; a Service orders before endpoints, as it is answered before them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Claim {
    /// It is this Service's.
    Service(Arc<ObjectName>),
    /// It is an endpoint's of this Service, or several endpoints'.
    Endpoint(Arc<ObjectName>),
}

/// The claims to one address, in order; nearly always it is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Claims {
    One(Claim),
    Several(Arc<Vec<Claim>>),
}

impl Claims {
    /// Returns them all.
    pub(super) fn as_slice(&self) -> &[Claim] {
        match self {
            Self::One(claim) => std::slice::from_ref(claim),
            Self::Several(claims) => claims,
        }
    }

    /// Takes claims; `None` if there are none.
    pub(super) fn of(claims: BTreeSet<Claim>) -> Option<Self> {
        let several = claims.len() > 1;
        let mut claims = claims.into_iter();
        if several { Some(Self::Several(Arc::new(claims.collect()))) } else { claims.next().map(Self::One) }
    }
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
    /// Builds the names of a Service from it and its slices; costs their size. `name` is the Service's.
    ///
    /// Endpoints that are not ready have no names (S12; `publishNotReadyAddresses` arrives as ready). An
    /// endpoint or a whole Service whose name would not fit the wire format is reported and left out.
    pub(super) fn build<'c>(
        name: Arc<ObjectName>,
        service: &Service,
        slices: impl Iterator<Item = &'c Arc<EndpointSlice>>,
        rules: &Rules<'_>,
    ) -> Option<Self> {
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
                if !self.domain_name.has_room_for(&label) {
                    warn!(slice = %slice.name, hostname = %label, "hostname makes no domain name: left out");
                    continue;
                }
                let (address, slice) = (endpoint.address, ports.len() as u32);
                let label = (spelled_address(label.as_bytes()) != Some(address)).then(|| label.into());
                endpoints.push(Endpoint { address, label, slice });
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
                    let whole = Place { service: self, endpoint: None, address, port: None };
                    extend(&mut places, whole, &self.ports, part);
                }
            }
            (Kind::Headless, Part::Whole | Part::Port { .. }) | (_, Part::Endpoint(_)) => {
                let spelled = if let Part::Endpoint(label) = part { spelled_address(label) } else { None };
                let asked = |endpoint: &&Endpoint| match (part, &endpoint.label) {
                    (Part::Endpoint(asked), Some(label)) => label.as_bytes() == asked,
                    (Part::Endpoint(_), None) => spelled == Some(endpoint.address),
                    _ => true,
                };
                for endpoint in self.endpoints.iter().filter(asked) {
                    let ports = &self.slices[endpoint.slice as usize];
                    let address = endpoint.address;
                    let whole = Place { service: self, endpoint: Some(endpoint), address, port: None };
                    extend(&mut places, whole, ports, part);
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
        let endpoint = |e: &Endpoint| (e.address, Claim::Endpoint(Arc::clone(&self.name)));
        let mut claims: BTreeSet<_> = self.endpoints.iter().map(endpoint).collect();
        if self.kind == Kind::ClusterIp && !self.hidden {
            let claim = || Claim::Service(Arc::clone(&self.name));
            claims.extend(self.addresses.iter().map(|&address| (address, claim())));
        }
        claims
    }

    /// Returns the names of the endpoints that have an address, in order, each once.
    pub(super) fn endpoint_names_at(&self, address: IpAddr) -> BTreeSet<Name> {
        let own = self.endpoints.iter().filter(|endpoint| endpoint.address == address);
        own.filter_map(|endpoint| self.endpoint_name(endpoint)).collect()
    }

    /// Makes the name of an endpoint; always there, since others were left out.
    fn endpoint_name(&self, endpoint: &Endpoint) -> Option<Name> {
        match &endpoint.label {
            Some(label) => self.domain_name.below([label.as_bytes()]),
            None => self.domain_name.below([dashed(endpoint.address).as_bytes()]),
        }
    }
}

impl Port {
    fn new(name: &str, protocol: Protocol, number: u16) -> Self {
        Self { name: name.to_ascii_lowercase().into(), protocol, number }
    }
}

/// Adds a place for each port that is asked for.
fn extend<'s>(places: &mut Vec<Place<'s>>, whole: Place<'s>, ports: &[Port], part: Part<'_>) {
    if ports.is_empty() && !matches!(part, Part::Port { .. }) {
        places.push(whole);
    }
    for port in ports.iter().filter(|port| port.matches(part)) {
        places.push(Place { port: Some(port.number), ..whole });
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
fn endpoint_label(endpoint: &cluster::Endpoint, pod_names: bool) -> String {
    let pod = endpoint.pod.as_deref().filter(|pod| pod_names && pod.len() < 64 && !pod.contains('.'));
    match endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()).or(pod) {
        Some(label) => label.to_ascii_lowercase(),
        None => dashed(endpoint.address),
    }
}

/// Writes an address as a label.
fn dashed(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        // A label should end in a letter or digit; a leading dash is what CoreDNS leaves too.
        label.push('0');
    }
    label
}

/// Reads what [`dashed`] wrote, and nothing else. Of two addresses with one label, which a mapped one can be, it is the
/// one that has a dash for each colon.
fn spelled_address(label: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(label).ok().filter(|text| text.contains('-'))?;
    let address = text.replace('-', ".").parse().or_else(|_| text.replace('-', ":").parse()).ok()?;
    (dashed(address) == text).then_some(address)
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
        let label = |text: &str| endpoint_label(&endpoint(text), false);
        assert_eq!(label("10.1.2.3"), "10-1-2-3");
        assert_eq!(label("fd00:1::"), "fd00-1--0");
        assert_eq!(label("::1:2"), "--1-2");
        let named = cluster::Endpoint { hostname: Some("Web-0".into()), ..endpoint("10.1.2.3") };
        assert_eq!(endpoint_label(&named, false), "web-0");
        assert_eq!(endpoint_label(&named, true), "web-0");
    }

    #[test]
    fn an_address_is_read_from_its_label_and_from_no_other_spelling() {
        let read = |label: &str| spelled_address(label.as_bytes()).map(|address| address.to_string());
        for address in ["10.1.2.3", "fd00:1::", "::1:2", "::", "fd00::1:0:0:1"] {
            assert_eq!(read(&dashed(address.parse().unwrap())).as_deref(), Some(address));
        }
        for other in ["web", "web-0", "010-1-2-3", "fd00-0001--0", "fd00-1--", "1-2-3", "-", "", "_tcp"] {
            assert_eq!(read(other), None, "{other}");
        }
        let mapped: IpAddr = "::ffff:1.2.3.4".parse().unwrap();
        assert_ne!(spelled_address(dashed(mapped).as_bytes()), Some(mapped));
    }

    #[test]
    fn an_endpoint_may_be_named_by_its_pod_where_that_is_a_label() {
        let pod = |name: &str| cluster::Endpoint { pod: Some(name.into()), ..endpoint("10.1.2.3") };
        assert_eq!(endpoint_label(&pod("Web-abc"), true), "web-abc");
        assert_eq!(endpoint_label(&pod(&"p".repeat(64)), true), "10-1-2-3");
        assert_eq!(endpoint_label(&pod("a.b"), true), "10-1-2-3");
    }
}
