//! From a question to a verdict, without I/O.
//!
//! Follows the Kubernetes DNS specification 1.1.0 (rules S0 to S13) and, where that is silent, CoreDNS 1.14
//! as kubeadm configures it.
//!
//! DEVIATION: a name that exists, or has names below it, is NODATA for every type it lacks (RFC 2308 §2.2,
//! RFC 8020); CoreDNS says NXDOMAIN to TXT at the apex, `svc`, `pod` and namespaces, to other types than TXT
//! at `dns-version`, to other types than PTR at reverse names, and at `dns` and `_tcp.<service>`.
//! DEVIATION: `verified` pod names hold for all addresses of a Pod; CoreDNS knows one per Pod.
//! DEVIATION: SRV of a pod's name is NODATA; CoreDNS answers port 0.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::NameRef;
use super::reverse;
use super::service_names::{Kind, Part, Place, ServiceNames};
use super::verdict::{Outcome, Reason, Verdict};
use super::{Data, Name, Owner, PodNames, Record, Type, Zone};
use crate::cluster::ObjectName;

/// Version of the specification that the names follow (S1).
const SCHEMA_VERSION: &str = "1.1.0";
/// TTL of the version record, seconds (S1).
const VERSION_TTL: u32 = 28_800;
/// How many ExternalNames may point at one another.
const MAX_ALIASES: usize = 10;

/// Decides what to answer to a question of class IN.
///
/// Costs a look-up or two, and the size of the answer. Pure: the same zone gives the same verdict.
#[must_use]
pub fn resolve(zone: &Zone, name: NameRef<'_>, qtype: Type) -> Verdict {
    let Some(labels) = name.relative_to(zone.origin()) else {
        return reverse::resolve(zone, name, qtype);
    };
    let question = Question { zone, apex: zone.origin().as_name_ref(), qtype };
    question.barred().unwrap_or_else(|| question.cluster_name(&labels))
}

/// What is asked, and on behalf of which zone of authority.
pub(super) struct Question<'z> {
    pub(super) zone: &'z Zone,
    /// Owner of the SOA of negative answers.
    pub(super) apex: NameRef<'z>,
    pub(super) qtype: Type,
}

impl Question<'_> {
    /// Returns the verdict on questions that no name of ours may answer.
    pub(super) fn barred(&self) -> Option<Verdict> {
        if matches!(self.qtype, Type::AXFR | Type::IXFR) {
            return Some(Verdict { outcome: Outcome::Refuse, reason: Reason::Transfer });
        }
        let soa = || self.zone.soa(self.apex);
        (!self.zone.synced())
            .then(|| Verdict { outcome: Outcome::Unsynced(soa()), reason: Reason::NotSynced })
    }

    pub(super) fn no_data(&self, reason: Reason) -> Verdict {
        Verdict { outcome: Outcome::NoData(self.zone.soa(self.apex)), reason }
    }

    pub(super) fn nx_domain(&self, reason: Reason) -> Verdict {
        Verdict { outcome: Outcome::NxDomain(self.zone.soa(self.apex)), reason }
    }

    /// Returns records, or NODATA if there are none.
    pub(super) fn answer(&self, records: Vec<Record>, additionals: Vec<Record>, reason: Reason) -> Verdict {
        if records.is_empty() {
            return self.no_data(reason);
        }
        Verdict { outcome: Outcome::Answer { records, additionals }, reason }
    }

    /// Makes a record of the name that was asked.
    pub(super) fn record(&self, data: impl Into<Data>) -> Record {
        Record { owner: Owner::Question, ttl: self.zone.settings().ttl, data: data.into() }
    }

    fn additional(&self, owner: &Name, address: IpAddr) -> Record {
        Record { owner: Owner::Name(owner.clone()), ..self.record(address) }
    }

    /// Answers at the top of the zone or of a reverse zone: SOA and NS (S13).
    pub(super) fn apex(&self) -> Verdict {
        match self.qtype {
            Type::SOA => {
                let soa = Record { owner: Owner::Question, ..self.zone.soa(self.apex) };
                self.answer(vec![soa], vec![], Reason::Apex)
            }
            Type::NS => {
                let servers = self.zone.name_servers();
                let glue = |(name, addresses): &(Name, Vec<IpAddr>)| {
                    addresses.iter().map(|&address| self.additional(name, address)).collect::<Vec<_>>()
                };
                let additionals = servers.iter().flat_map(glue).collect();
                let records = servers.into_iter().map(|(name, _)| self.record(Data::Ns(name))).collect();
                self.answer(records, additionals, Reason::Apex)
            }
            _ => self.no_data(Reason::Apex),
        }
    }

    fn cluster_name(&self, labels: &[&[u8]]) -> Verdict {
        match labels {
            [] => self.apex(),
            [b"dns-version"] => self.version(),
            [b"dns"] => self.no_data(Reason::EmptyNonTerminal),
            [b"ns", b"dns"] => self.addresses(&self.zone.server_addresses(), Reason::NameServer),
            [inner @ .., b"svc"] => self.below_svc(inner),
            [.., b"pod"] if self.zone.settings().pods == PodNames::Disabled => {
                self.nx_domain(Reason::PodNamesOff)
            }
            [inner @ .., b"pod"] => self.below_pod(inner),
            _ => self.nx_domain(Reason::NoSuchName),
        }
    }

    fn version(&self) -> Verdict {
        if self.qtype != Type::TXT {
            return self.no_data(Reason::Version);
        }
        let record = Record { ttl: VERSION_TTL, ..self.record(Data::Txt(SCHEMA_VERSION)) };
        self.answer(vec![record], vec![], Reason::Version)
    }

    fn below_svc(&self, labels: &[&[u8]]) -> Verdict {
        let [inner @ .., namespace] = labels else { return self.no_data(Reason::EmptyNonTerminal) };
        if let Some(verdict) = self.without_namespace(namespace) {
            return verdict;
        }
        let [part @ .., service] = inner else { return self.no_data(Reason::EmptyNonTerminal) };
        match self.zone.service(namespace, service) {
            Some(service) => self.service(service, part),
            None => self.nx_domain(Reason::NoSuchService),
        }
    }

    /// Returns the verdict on names below a namespace that is not there, or not served.
    fn without_namespace(&self, namespace: &[u8]) -> Option<Verdict> {
        if self.zone.namespace_exists(namespace) {
            return None;
        }
        let exposed = self.zone.settings().exposes(namespace);
        Some(self.nx_domain(if exposed { Reason::NoSuchNamespace } else { Reason::HiddenNamespace }))
    }

    fn service(&self, service: &ServiceNames, part: &[&[u8]]) -> Verdict {
        let name = || ObjectName::clone(&service.name);
        match (&service.kind, part) {
            (Kind::ExternalName(Some(target)), []) => self.alias(service, target),
            (Kind::ExternalName(None), []) => self.nx_domain(Reason::InvalidExternalName(name())),
            (Kind::ExternalName(_), _) => self.nx_domain(Reason::NoSuchPart(name())),
            (kind, _) if service.hidden || *kind == Kind::Headless && service.addresses.is_empty() => {
                self.nx_domain(Reason::NoReadyEndpoint(name()))
            }
            (kind, []) if self.qtype != Type::SRV => {
                let headless = *kind == Kind::Headless;
                let reason = if headless { Reason::Endpoints(name()) } else { Reason::ClusterIp(name()) };
                self.addresses(&service.addresses, reason)
            }
            (_, []) => self.places(&service.places(Part::Whole), Reason::Ports(name())),
            (_, [label]) => match service.places(Part::Endpoint(label)) {
                places if !places.is_empty() => self.places(&places, Reason::Endpoint(name())),
                _ if service.has_protocol(without_underscore(label)) => {
                    self.no_data(Reason::EmptyNonTerminal)
                }
                _ => self.nx_domain(Reason::NoSuchPart(name())),
            },
            (_, [port, protocol]) => {
                let (port, protocol) = (without_underscore(port), without_underscore(protocol));
                match service.places(Part::Port { port, protocol }) {
                    places if places.is_empty() => self.nx_domain(Reason::NoSuchPart(name())),
                    places => self.places(&places, Reason::Ports(name())),
                }
            }
            _ => self.nx_domain(Reason::NoSuchPart(name())),
        }
    }

    /// Answers with those addresses that are of the family asked for.
    fn addresses(&self, addresses: &[IpAddr], reason: Reason) -> Verdict {
        if self.qtype == Type::AAAA && self.zone.settings().aaaa_nodata {
            return self.no_data(Reason::AaaaOff);
        }
        let wanted = |address: &&IpAddr| match self.qtype {
            Type::A => address.is_ipv4(),
            Type::AAAA => address.is_ipv6(),
            _ => false,
        };
        let wanted = addresses.iter().filter(wanted);
        let records = wanted.map(|&address| self.record(address)).collect();
        self.answer(records, vec![], reason)
    }

    /// Answers from places under a name: their addresses, or SRV records that point at them.
    fn places(&self, places: &[Place<'_>], reason: Reason) -> Verdict {
        if self.qtype != Type::SRV {
            let mut seen = BTreeSet::new();
            let distinct = places.iter().map(|place| place.address).filter(|&address| seen.insert(address));
            return self.addresses(&distinct.collect::<Vec<_>>(), reason);
        }
        // As CoreDNS does: 100 is divided by the places of both families, duplicates included.
        let weight = (100 / places.len().max(1)).max(1) as u16;
        let (mut records, mut additionals) = (Vec::new(), Vec::new());
        let (mut targets, mut glued) = (BTreeSet::new(), BTreeSet::new());
        for place in places {
            let (Some(port), Some(target)) = (place.port, place.target()) else { continue };
            if self.is_shown(place.address) && glued.insert((target.clone(), place.address)) {
                additionals.push(self.additional(&target, place.address));
            }
            if targets.insert((target.clone(), port)) {
                records.push(self.record(Data::Srv { weight, port, target }));
            }
        }
        self.answer(records, additionals, reason)
    }

    /// Says whether an address may be answered at all.
    fn is_shown(&self, address: IpAddr) -> bool {
        address.is_ipv4() || !self.zone.settings().aaaa_nodata
    }

    /// Follows an ExternalName (S11) within the zone, and hands what leads outside to the caller.
    fn alias(&self, service: &ServiceNames, target: &Name) -> Verdict {
        let reason = Reason::ExternalName(ObjectName::clone(&service.name));
        if self.qtype == Type::CNAME {
            return self.answer(vec![self.record(Data::Cname(target.clone()))], vec![], reason);
        }
        if !self.qtype.is_address() {
            return self.no_data(reason);
        }
        let (mut aliases, mut owner, mut target) = (Vec::new(), Owner::Question, target);
        while aliases.len() < MAX_ALIASES {
            aliases.push(Record { owner, ..self.record(Data::Cname(target.clone())) });
            owner = Owner::Name(target.clone());
            let Some(labels) = target.as_name_ref().relative_to(self.zone.origin()) else {
                let outcome = Outcome::Chase { aliases, target: target.clone() };
                return Verdict { outcome, reason };
            };
            match self.alias_at(&labels) {
                Some(next) => target = next,
                None => return self.aliased(service, aliases, &owner, self.cluster_name(&labels)),
            }
        }
        self.no_data(Reason::DanglingAlias(ObjectName::clone(&service.name)))
    }

    /// Returns the target of the ExternalName of that name.
    fn alias_at(&self, labels: &[&[u8]]) -> Option<&Name> {
        let [service, namespace, b"svc"] = labels else { return None };
        match &self.zone.service(namespace, service)?.kind {
            Kind::ExternalName(target) => target.as_ref(),
            _ => None,
        }
    }

    /// Joins aliases with the answer at their end; without one the aliases are not shown either, as CoreDNS
    /// has it.
    fn aliased(
        &self,
        service: &ServiceNames,
        mut aliases: Vec<Record>,
        end: &Owner,
        verdict: Verdict,
    ) -> Verdict {
        let Outcome::Answer { records, .. } = verdict.outcome else {
            return self.no_data(Reason::DanglingAlias(ObjectName::clone(&service.name)));
        };
        aliases.extend(records.into_iter().map(|record| Record { owner: end.clone(), ..record }));
        self.answer(aliases, vec![], Reason::ExternalName(ObjectName::clone(&service.name)))
    }

    fn below_pod(&self, labels: &[&[u8]]) -> Verdict {
        let [inner @ .., namespace] = labels else { return self.no_data(Reason::EmptyNonTerminal) };
        if let Some(verdict) = self.without_namespace(namespace) {
            return verdict;
        }
        // Up to two labels before the address are let through: CoreDNS reads them as endpoint, or port and
        // protocol.
        match inner {
            [] => self.no_data(Reason::EmptyNonTerminal),
            [pod] | [_, pod] | [_, _, pod] => self.pod(namespace, pod),
            _ => self.nx_domain(Reason::NoSuchPod),
        }
    }

    fn pod(&self, namespace: &[u8], label: &[u8]) -> Verdict {
        let Some(address) = pod_address(label) else { return self.nx_domain(Reason::NoSuchPod) };
        if self.zone.settings().pods != PodNames::Verified {
            return self.addresses(&[address], Reason::Pod);
        }
        match self.zone.pod_at(namespace, address) {
            Some(pod) => self.addresses(&[address], Reason::VerifiedPod(pod.clone())),
            None => self.nx_domain(Reason::NoSuchPod),
        }
    }
}

/// Reads the address that a pod's label spells with dashes.
fn pod_address(label: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(label).ok()?;
    if text.matches('-').count() == 3 && !text.contains("--") {
        return text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn without_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}
