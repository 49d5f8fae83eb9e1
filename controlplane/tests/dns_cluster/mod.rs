//! A small cluster with one Service of each kind, and questions to it as text.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::Arc;

use tidegate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate::dns::{Data, Name, Outcome, Record, Type, Verdict, Zone, ZoneSettings, resolve};
use tidegate_dataplane::net::Protocol;

/// `name/8080/TCP`; the name may be empty.
fn port(text: &str) -> (Arc<str>, u16, Protocol) {
    let parts: Vec<&str> = text.split('/').collect();
    let [name, number, protocol] = *parts else { panic!("{text} is no port") };
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    (name.into(), number.parse().expect("a number"), protocol)
}

/// `namespace/name`.
pub(crate) fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name)
}

pub(crate) fn service(name: &str, kind: ServiceKind, ports: &[&str]) -> Event {
    let ports = ports.iter().map(|text| port(text));
    let ports =
        ports.map(|(name, port, protocol)| ServicePort { name, protocol, port, node_port: None }).collect();
    Event::ServiceApplied(Arc::new(Service {
        name: object(name),
        kind,
        ports,
        foreign_proxy: false,
        traffic: tidegate::traffic::Traffic::default(),
    }))
}

pub(crate) fn cluster_ip(name: &str, addresses: &[&str], ports: &[&str]) -> Event {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    service(name, ServiceKind::ClusterIp(addresses), ports)
}

/// Endpoints are `address`, `address=hostname`, with `!` in front if not ready.
pub(crate) fn slice(name: &str, of: &str, endpoints: &[&str], ports: &[&str]) -> Event {
    let endpoint = |text: &&str| {
        let (ready, text) = text.strip_prefix('!').map_or((true, *text), |rest| (false, rest));
        let (address, hostname) = text.split_once('=').map_or((text, None), |(a, h)| (a, Some(h.into())));
        Endpoint { hostname, ready, ..Endpoint::ready_at(address.parse().expect("an address")) }
    };
    let ports = ports.iter().map(|text| port(text));
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: object(name),
        service: object(of),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: ports.map(|(name, port, protocol)| SlicePort { name, protocol, port }).collect(),
    }))
}

pub(crate) fn settings() -> ZoneSettings {
    ZoneSettings {
        domain: "cluster.local".into(),
        ttl: 30,
        serial: 1000,
        service_cidrs: vec![
            "10.96.0.0/12".parse().expect("a CIDR"),
            "fd00:96::/112".parse().expect("a CIDR"),
        ],
        servers: vec!["10.96.0.10".parse().expect("an address")],
        ..ZoneSettings::default()
    }
}

pub(crate) fn events() -> Vec<Event> {
    let external = |to: &str| ServiceKind::ExternalName(to.into());
    vec![
        Event::NamespaceApplied("dev".into()),
        Event::NamespaceApplied("prod".into()),
        Event::NamespaceApplied("empty".into()),
        cluster_ip("kube-system/kube-dns", &["10.96.0.10"], &["dns/53/UDP", "dns-tcp/53/TCP"]),
        cluster_ip("dev/ent", &["10.96.0.11", "fd00:96::11"], &["http/8080/TCP", "stats/8125/UDP"]),
        slice("dev/ent-1", "dev/ent", &["10.1.0.5", "!10.1.0.6", "10.1.0.7=spare"], &["http/80/TCP"]),
        cluster_ip("prod/ent", &["10.96.0.12"], &["/8080/TCP"]),
        service("dev/web", ServiceKind::Headless, &["http/80/TCP", "metrics/9100/TCP"]),
        slice(
            "dev/web-4",
            "dev/web",
            &["10.1.0.21=web-0", "10.1.0.22=web-1", "10.1.0.23", "!10.1.0.24=web-2"],
            &["http/80/TCP", "metrics/9100/TCP"],
        ),
        slice("dev/web-6", "dev/web", &["fd00:1::21=web-0", "fd00:1::"], &["http/80/TCP"]),
        service("dev/silent", ServiceKind::Headless, &["http/80/TCP"]),
        slice("dev/silent-1", "dev/silent", &["!10.1.0.41=silent-0"], &["http/80/TCP"]),
        service("dev/sliceless", ServiceKind::Headless, &["http/80/TCP"]),
        service("dev/portless", ServiceKind::Headless, &[]),
        slice("dev/portless-1", "dev/portless", &["10.1.0.31=only"], &[]),
        service("dev/outside", external("www.example.org"), &[]),
        service("dev/inside", external("ent.prod.svc.cluster.local"), &[]),
        service("dev/twice", external("inside.dev.svc.cluster.local."), &[]),
        service("dev/far", external("outside.dev.svc.cluster.local"), &[]),
        service("dev/self", external("self.dev.svc.cluster.local"), &[]),
        service("dev/tick", external("tock.dev.svc.cluster.local"), &[]),
        service("dev/tock", external("tick.dev.svc.cluster.local"), &[]),
        service("dev/dangling", external("nobody.dev.svc.cluster.local"), &[]),
        service("dev/address", external("192.0.2.1"), &[]),
    ]
}

pub(crate) fn zone_of(settings: ZoneSettings, events: Vec<Event>) -> Zone {
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    events.into_iter().for_each(|event| cluster.apply(event, &mut dirty));
    let mut zone = Zone::new(settings).expect("a zone").updated(&cluster, &dirty);
    zone.set_synced();
    zone
}

pub(crate) fn zone() -> Zone {
    zone_of(settings(), events())
}

pub(crate) fn ask(zone: &Zone, name: &str, qtype: Type) -> Verdict {
    resolve(zone, Name::parse(name).expect("a name").as_name_ref(), qtype)
}

/// Returns `NODATA`, `NXDOMAIN`, ... or the answer's records as sorted text, joined by `, `.
pub(crate) fn say(zone: &Zone, name: &str, qtype: Type) -> String {
    match ask(zone, name, qtype).outcome {
        Outcome::Answer { records, .. } => sorted(&records),
        Outcome::NoData(_) => "NODATA".into(),
        Outcome::NxDomain(_) => "NXDOMAIN".into(),
        Outcome::Unsynced(_) => "SERVFAIL".into(),
        Outcome::Chase { aliases, target } => format!("{}, then {target}", sorted(&aliases)),
        Outcome::Forward => "FORWARD".into(),
        Outcome::Refuse => "REFUSED".into(),
    }
}

/// Returns the additional records as sorted text.
pub(crate) fn additionals(zone: &Zone, name: &str, qtype: Type) -> String {
    match ask(zone, name, qtype).outcome {
        Outcome::Answer { additionals, .. } => {
            let owned = additionals.iter().map(|record| match &record.owner {
                tidegate::dns::Owner::Name(name) => format!("{name} {}", text(record)),
                tidegate::dns::Owner::Question => text(record),
            });
            joined(owned.collect())
        }
        other => panic!("{name} {qtype:?} has no answer: {other:?}"),
    }
}

fn sorted(records: &[Record]) -> String {
    joined(records.iter().map(text).collect())
}

fn joined(mut lines: Vec<String>) -> String {
    lines.sort();
    lines.join(", ")
}

fn text(record: &Record) -> String {
    match &record.data {
        Data::A(address) => format!("A {address}"),
        Data::Aaaa(address) => format!("AAAA {address}"),
        Data::Ns(name) => format!("NS {name}"),
        Data::Cname(name) => format!("CNAME {name}"),
        Data::Ptr(name) => format!("PTR {name}"),
        Data::Txt(text) => format!("TXT {text} for {} s", record.ttl),
        Data::Srv { weight, port, target } => format!("SRV 0 {weight} {port} {target}"),
        Data::Soa { server, mailbox, serial, minimum } => {
            format!("SOA {server} {mailbox} {serial} {minimum} for {} s", record.ttl)
        }
    }
}
