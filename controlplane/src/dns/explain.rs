//! Why a question is answered as it is, in words.

use std::fmt::Write;

use super::{Data, Name, Outcome, Owner, Reason, Record, Type, Zone, resolve};

/// Says what is answered to a question, which object decided, and by which rule; some lines of text.
#[must_use]
pub fn explain(zone: &Zone, name: &Name, qtype: Type) -> String {
    let verdict = resolve(zone, name.as_name_ref(), qtype);
    let mut text = format!("{name} {qtype}: {}\n", headline(&verdict.outcome));
    let (records, additionals) = match &verdict.outcome {
        Outcome::Answer { records, additionals } => (records.as_slice(), additionals.as_slice()),
        Outcome::Chase { aliases, .. } => (aliases.as_slice(), [].as_slice()),
        _ => ([].as_slice(), [].as_slice()),
    };
    for (record, section) in
        records.iter().map(|r| (r, "answer")).chain(additionals.iter().map(|r| (r, "additional")))
    {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {section}: {}", shown(record, name));
    }
    let rule = verdict.reason.rule().map(|rule| format!(" ({rule})")).unwrap_or_default();
    let _ = writeln!(text, "  because: {}{rule}", verdict.reason.words());
    text
}

fn headline(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer { records, .. } => match records.len() {
            1 => "NOERROR, 1 record".into(),
            several => format!("NOERROR, {several} records"),
        },
        Outcome::NoData(_) => "NOERROR without records (NODATA)".into(),
        Outcome::NxDomain(_) => "NXDOMAIN".into(),
        Outcome::Unsynced(_) => "SERVFAIL".into(),
        Outcome::Chase { target, .. } => format!("NOERROR, an alias; {target} is asked of the upstreams"),
        Outcome::Forward => "asked of the upstreams, for allowed sources; REFUSED to others".into(),
        Outcome::Refuse => "REFUSED".into(),
    }
}

fn shown(record: &Record, asked: &Name) -> String {
    let owner = match &record.owner {
        Owner::Question => asked,
        Owner::Name(name) => name,
    };
    format!("{owner} {} IN {}", record.ttl, data(&record.data))
}

fn data(data: &Data) -> String {
    match data {
        Data::A(address) => format!("A {address}"),
        Data::Aaaa(address) => format!("AAAA {address}"),
        Data::Ns(name) => format!("NS {name}"),
        Data::Cname(name) => format!("CNAME {name}"),
        Data::Ptr(name) => format!("PTR {name}"),
        Data::Txt(text) => format!("TXT \"{text}\""),
        Data::Srv { weight, port, target } => format!("SRV 0 {weight} {port} {target}"),
        Data::Soa { server, mailbox, serial, minimum } => {
            format!("SOA {server} {mailbox} {serial} ... {minimum}")
        }
    }
}

impl Reason {
    /// Says the reason in words, with the object that decided.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::NotSynced => "the sources have not all been read".into(),
            Self::NotOurs => "the name is outside the cluster zone and its reverse zones".into(),
            Self::Transfer => "zones are not transferred".into(),
            Self::Apex => "it is the top of the zone".into(),
            Self::Version => "it tells the version of the specification".into(),
            Self::NameServer => "it is the name server's own name".into(),
            Self::EmptyNonTerminal => "nothing has this name, but names exist below it".into(),
            Self::NoSuchName => "no rule gives such a name".into(),
            Self::NoSuchNamespace => "the namespace does not exist".into(),
            Self::HiddenNamespace => "the namespace is not among those that --dns-namespace names".into(),
            Self::AaaaOff => "AAAA is switched off by --dns-aaaa nodata".into(),
            Self::NoSuchService => "the namespace has no such Service".into(),
            Self::ClusterIp(service) => format!("Service {service} by its ClusterIPs"),
            Self::Endpoints(service) => format!("headless Service {service} by its ready endpoints"),
            Self::NoReadyEndpoint(service) => format!("Service {service} has no ready endpoint"),
            Self::Ports(service) => format!("ports of Service {service}"),
            Self::Endpoint(service) => format!("an endpoint of Service {service}"),
            Self::NoSuchPart(service) => format!("Service {service} has no such port or endpoint"),
            Self::ExternalName(service) => format!("Service {service} is an ExternalName"),
            Self::DanglingAlias(service) => {
                format!(
                    "Service {service} is an ExternalName whose target has no such record, or is a circle"
                )
            }
            Self::InvalidExternalName(service) => {
                format!("Service {service} has an externalName that is an address or no name")
            }
            Self::Pod => "the name spells an address; pod names are not verified".into(),
            Self::VerifiedPod(pod) => format!("Pod {pod} has this address"),
            Self::NoSuchPod => "it spells no address of a Pod of this namespace".into(),
            Self::PodNamesOff => "names of pods are switched off by --dns-pods disabled".into(),
            Self::ReverseClusterIp(service) => format!("ClusterIP of Service {service}"),
            Self::ReverseEndpoints(service) => format!("address of an endpoint of Service {service}"),
            Self::UnknownAddress => "no Service has this address of a --service-cidr".into(),
        }
    }
}
