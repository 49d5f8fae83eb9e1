//! The resolver against a slow model: one that writes out every record that a cluster has, name by name, and then looks
//! a question up in that list. What is not in the list but has names of the list below it is NODATA; all else is NXDOMAIN.

mod dns_cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dns_cluster::{object, say, settings, zone_of};
use proptest::prelude::*;
use tidegate::cluster::{Endpoint, EndpointSlice, Event, Pod, Service, ServiceKind, ServicePort, SlicePort};
use tidegate::dns::{PodNames, Type, ZoneSettings};
use tidegate_dataplane::net::Protocol;

const ORIGIN: &str = "cluster.local";
const TYPES: [Type; 8] =
    [Type::A, Type::AAAA, Type::SRV, Type::PTR, Type::TXT, Type::CNAME, Type::NS, Type(15)];

/// All that is in a cluster, as plain lists.
#[derive(Clone, Debug, Default)]
struct Objects {
    namespaces: Vec<&'static str>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    pods: Vec<Pod>,
}

impl Objects {
    fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        events.extend(self.namespaces.iter().map(|name| Event::NamespaceApplied((*name).into())));
        events.extend(self.services.iter().map(|one| Event::ServiceApplied(Arc::new(one.clone()))));
        events.extend(self.slices.iter().map(|one| Event::SliceApplied(Arc::new(one.clone()))));
        events.extend(self.pods.iter().map(|one| Event::PodApplied(Arc::new(one.clone()))));
        events
    }
}

/// Every record of the zone: type and data by the owner's name, without the origin.
#[derive(Debug, Default)]
struct ZoneFile {
    records: BTreeMap<String, BTreeSet<(u16, String)>>,
    /// Owners without a record of their own.
    empty: BTreeSet<String>,
}

fn text_of(address: IpAddr) -> (u16, String) {
    match address {
        IpAddr::V4(address) => (Type::A.0, format!("A {address}")),
        IpAddr::V6(address) => (Type::AAAA.0, format!("AAAA {address}")),
    }
}

fn label(endpoint: &Endpoint) -> String {
    endpoint.hostname.as_deref().map_or_else(
        || {
            let dashed = endpoint.address.to_string().replace(['.', ':'], "-");
            if dashed.ends_with('-') { format!("{dashed}0") } else { dashed }
        },
        str::to_lowercase,
    )
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// An address and perhaps a port: what SRV weights are divided by.
struct Place {
    target: String,
    address: IpAddr,
    port: Option<(String, &'static str, u16)>,
}

impl ZoneFile {
    fn add(&mut self, owner: &str, record: (u16, String)) {
        self.records.entry(owner.to_owned()).or_default().insert(record);
    }

    /// Adds the addresses and SRV records that some places give to a name.
    fn add_places(&mut self, owner: &str, places: &[&Place]) {
        let weight = (100 / places.len().max(1)).max(1);
        for place in places {
            self.add(owner, text_of(place.address));
            if let Some((_, _, port)) = &place.port {
                self.add(owner, (Type::SRV.0, format!("SRV 0 {weight} {port} {}.{ORIGIN}.", place.target)));
            }
        }
    }

    fn add_service(&mut self, service: &Service, objects: &Objects) {
        let owner = format!("{}.{}.svc", service.name.name, service.name.namespace);
        let slices = objects.slices.iter().filter(|slice| slice.service == service.name);
        let mut endpoints: Vec<(String, Vec<Place>)> = Vec::new();
        for slice in slices {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                let target = format!("{}.{owner}", label(endpoint));
                let ports = slice
                    .ports
                    .iter()
                    .map(|p| Some((p.name.to_lowercase(), protocol_label(p.protocol), p.port)));
                let ports: Vec<_> = if slice.ports.is_empty() { vec![None] } else { ports.collect() };
                let place = |port| Place { target: target.clone(), address: endpoint.address, port };
                endpoints.push((label(endpoint), ports.into_iter().map(place).collect()));
            }
        }
        let own: Vec<Place> = match &service.kind {
            ServiceKind::ExternalName(target) => {
                self.add(&owner, (Type::CNAME.0, format!("CNAME {}.", target.trim_end_matches('.'))));
                return;
            }
            ServiceKind::Headless => Vec::new(),
            ServiceKind::ClusterIp(addresses) => {
                let ports: Vec<_> = if service.ports.is_empty() {
                    vec![None]
                } else {
                    let port =
                        |p: &ServicePort| Some((p.name.to_lowercase(), protocol_label(p.protocol), p.port));
                    service.ports.iter().map(port).collect()
                };
                let place = |address: &IpAddr| {
                    let (target, address) = (owner.clone(), *address);
                    ports
                        .iter()
                        .map(move |port| Place { target: target.clone(), address, port: port.clone() })
                        .collect::<Vec<_>>()
                };
                addresses.iter().flat_map(place).collect()
            }
        };
        let headless = service.kind == ServiceKind::Headless;
        let all: Vec<&Place> = if headless {
            endpoints.iter().flat_map(|(_, places)| places).collect()
        } else {
            own.iter().collect()
        };
        self.add_places(&owner, &all);
        let labels: BTreeSet<&String> = endpoints.iter().map(|(label, _)| label).collect();
        for label in labels {
            let of_it = endpoints.iter().filter(|(own, _)| own == label).flat_map(|(_, places)| places);
            self.add_places(&format!("{label}.{owner}"), &of_it.collect::<Vec<_>>());
        }
        self.add_ports(&owner, &all);
    }

    /// Adds `_port._protocol` names. Underscores are optional, and one alone stands for any port or protocol.
    fn add_ports(&mut self, owner: &str, all: &[&Place]) {
        let ported: Vec<(&Place, &str, &str)> = all
            .iter()
            .filter_map(|place| {
                place.port.as_ref().map(|(name, protocol, _)| (*place, name.as_str(), *protocol))
            })
            .collect();
        let spelled = |text: &str| match text {
            "" => vec!["_".to_owned()],
            text => vec!["_".to_owned(), text.to_owned(), format!("_{text}")],
        };
        let mut names: BTreeMap<String, Vec<&Place>> = BTreeMap::new();
        for (place, port, protocol) in ported {
            for (port, protocol) in spelled(port)
                .iter()
                .flat_map(|port| spelled(protocol).into_iter().map(move |p| (port.clone(), p)))
            {
                names.entry(format!("{port}.{protocol}.{owner}")).or_default().push(place);
            }
        }
        for (name, places) in names {
            self.add_places(&name, &places);
        }
    }

    fn of(objects: &Objects) -> Self {
        let mut file = Self::default();
        file.add("dns-version", (Type::TXT.0, "TXT 1.1.0 for 28800 s".into()));
        file.add("ns.dns", (Type::A.0, "A 10.96.0.10".into()));
        file.empty.extend(["svc".to_owned(), "pod".to_owned()]);
        let implied = objects.services.iter().map(|service| &*service.name.namespace);
        for namespace in objects.namespaces.iter().copied().chain(implied) {
            file.empty.extend([format!("{namespace}.svc"), format!("{namespace}.pod")]);
        }
        for service in &objects.services {
            file.add_service(service, objects);
        }
        for pod in &objects.pods {
            for address in &pod.addresses {
                let dashed = address.to_string().replace(['.', ':'], "-");
                if file.empty.contains(&format!("{}.pod", pod.name.namespace)) {
                    file.add(&format!("{dashed}.{}.pod", pod.name.namespace), text_of(*address));
                }
            }
        }
        file
    }

    fn exists(&self, name: &str) -> bool {
        let below = format!(".{name}");
        self.records.contains_key(name)
            || self.empty.contains(name)
            || self.records.keys().chain(&self.empty).any(|owner| owner.ends_with(&below))
    }

    /// Looks a name of the zone up, without the origin.
    fn say(&self, name: &str, qtype: Type) -> String {
        if !self.exists(name) {
            return "NXDOMAIN".into();
        }
        let mut said: Vec<String> = Vec::new();
        let mut name = name.to_owned();
        for _ in 0..=10 {
            let records = self.records.get(&name).cloned().unwrap_or_default();
            let of_type: Vec<String> =
                records.iter().filter(|(own, _)| *own == qtype.0).map(|(_, text)| text.clone()).collect();
            let alias = records.iter().find(|(own, _)| *own == Type::CNAME.0);
            let (Some((_, alias)), true) = (alias, matches!(qtype, Type::A | Type::AAAA)) else {
                if of_type.is_empty() {
                    return "NODATA".into();
                }
                said.extend(of_type);
                said.sort();
                return said.join(", ");
            };
            said.push(alias.clone());
            let target = alias.trim_start_matches("CNAME ").to_owned();
            match target.strip_suffix(&format!(".{ORIGIN}.")) {
                Some(inside) => name = inside.to_owned(),
                None => {
                    said.sort();
                    return format!("{}, then {target}", said.join(", "));
                }
            }
        }
        "NODATA".into()
    }
}

fn address(number: u8) -> IpAddr {
    match number % 7 {
        6 => "fd00:1::".parse().expect("an address"),
        5 => "fd00:1::5".parse().expect("an address"),
        four => IpAddr::from([10, 1, 0, four]),
    }
}

fn name(number: u8) -> &'static str {
    ["dev/a", "dev/b", "dev/c", "prod/a", "prod/b"][usize::from(number % 5)]
}

fn ports(number: u8) -> Vec<(&'static str, u16, Protocol)> {
    let all = [
        ("http", 80, Protocol::Tcp),
        ("DNS", 53, Protocol::Udp),
        ("dns", 53, Protocol::Tcp),
        ("alt", 80, Protocol::Tcp),
    ];
    match number % 6 {
        0 => vec![],
        1 => vec![("", 8080, Protocol::Tcp)],
        2 => vec![all[0], all[3]],
        3 => vec![all[1], all[2]],
        _ => all.to_vec(),
    }
}

fn some_service() -> impl Strategy<Value = Service> {
    (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(of, shape, of_ports)| {
        let kind = match shape % 6 {
            0 | 1 => ServiceKind::Headless,
            2 => ServiceKind::ExternalName("www.example.org".into()),
            3 => {
                let (service, namespace) =
                    name(shape / 6).split_once('/').map(|(ns, s)| (s, ns)).expect("a name");
                ServiceKind::ExternalName(format!("{service}.{namespace}.svc.{ORIGIN}").into())
            }
            _ => {
                let v4 = IpAddr::from([10, 96, 1, shape / 8]);
                let v6 = format!("fd00:96::1:{}", shape / 8).parse().expect("an address");
                ServiceKind::ClusterIp(if shape % 6 == 4 { vec![v4] } else { vec![v4, v6] })
            }
        };
        let port = |(name, port, protocol): (&str, u16, Protocol)| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port: None,
        };
        Service {
            name: object(name(of)),
            kind,
            ports: ports(of_ports).into_iter().map(port).collect(),
            foreign_proxy: false,
            traffic: tidegate::traffic::Traffic::default(),
        }
    })
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (any::<u8>(), 0..6_u8).prop_map(|(number, host)| Endpoint {
        hints: None,
        address: address(number),
        hostname: (host < 3).then(|| ["Host", "other", "tcp"][usize::from(host)].into()),
        ready: host != 5,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        pod: None,
    });
    (any::<u8>(), any::<u8>(), any::<u8>(), prop::collection::vec(endpoint, 0..5)).prop_map(
        |(of, number, of_ports, endpoints)| {
            let service = object(name(of));
            let port = |(name, port, protocol): (&str, u16, Protocol)| SlicePort {
                name: name.into(),
                protocol,
                port,
            };
            let own = object(&format!("{}/{}-{}", service.namespace, service.name, number % 3));
            EndpointSlice {
                name: own,
                service,
                endpoints,
                ports: ports(of_ports).into_iter().map(port).collect(),
            }
        },
    )
}

/// Objects of distinct names.
fn some_objects() -> impl Strategy<Value = Objects> {
    let pod = (any::<u8>(), any::<u8>())
        .prop_map(|(of, number)| Pod { name: object(name(of)), addresses: vec![address(number)] });
    (
        prop::sample::subsequence(vec!["dev", "prod", "empty"], 0..=3),
        prop::collection::vec(some_service(), 0..6),
        prop::collection::vec(some_slice(), 0..6),
        prop::collection::vec(pod, 0..3),
    )
        .prop_map(|(namespaces, mut services, mut slices, mut pods)| {
            let mut seen = BTreeSet::new();
            services.retain(|one: &Service| seen.insert(one.name.clone()));
            seen.clear();
            slices.retain(|one: &EndpointSlice| seen.insert(one.name.clone()));
            seen.clear();
            pods.retain(|one: &Pod| seen.insert(one.name.clone()));
            Objects { namespaces, services, slices, pods }
        })
}

/// Every name of the zone, some of them spoiled.
fn questions(file: &ZoneFile) -> Vec<String> {
    let mut names: Vec<String> = file.records.keys().chain(&file.empty).cloned().collect();
    for name in names.clone() {
        names.push(format!("x.{name}"));
        names.push(format!("_tcp.{name}"));
        names.push(format!("_http._tcp.{name}"));
        if let Some((first, rest)) = name.split_once('.') {
            names.push(rest.to_owned());
            // Another spelling of an address of IPv6 is a pod's name too.
            if !name.ends_with(".pod") {
                names.push(format!("{first}0.{rest}"));
            }
            names.push(format!("{}.{rest}", first.to_uppercase()));
        }
    }
    names.sort();
    names.dedup();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_zone_answers_is_what_a_list_of_all_records_says(objects in some_objects()) {
        let file = ZoneFile::of(&objects);
        let zone = zone_of(ZoneSettings { pods: PodNames::Verified, ..settings() }, objects.events());
        for name in questions(&file) {
            for qtype in TYPES {
                // Pods' names let two labels through before them, as CoreDNS does: not in the list.
                if name.ends_with(".pod") && name.matches('.').count() > 2 {
                    continue;
                }
                let full = format!("{name}.{ORIGIN}");
                prop_assert_eq!(say(&zone, &full, qtype), file.say(&name.to_lowercase(), qtype), "{} {}", full, qtype);
            }
        }
    }

    #[test]
    fn a_reverse_name_says_who_has_the_address(objects in some_objects()) {
        let zone = zone_of(settings(), objects.events());
        let mut addresses: BTreeSet<IpAddr> = (0..7).map(address).collect();
        for service in &objects.services {
            if let ServiceKind::ClusterIp(own) = &service.kind {
                addresses.extend(own);
            }
        }
        addresses.extend(["10.96.1.250".parse::<IpAddr>().expect("an address"), "192.0.2.1".parse().expect("an address")]);
        for address in addresses {
            let has = |service: &&Service| matches!(&service.kind, ServiceKind::ClusterIp(own) if own.contains(&address));
            let mut owners: Vec<&Service> = objects.services.iter().filter(has).collect();
            owners.sort_by(|a, b| a.name.cmp(&b.name));
            let mut pointers = BTreeSet::new();
            if let Some(first) = owners.first() {
                pointers.insert(format!("PTR {}.{}.svc.{ORIGIN}.", first.name.name, first.name.namespace));
            } else {
                for slice in &objects.slices {
                    let named = objects.services.iter().find(|service| {
                        service.name == slice.service && !matches!(service.kind, ServiceKind::ExternalName(_))
                    });
                    let ready = slice.endpoints.iter().filter(|e| e.ready && e.address == address && named.is_some());
                    pointers.extend(ready.map(|endpoint| {
                        let (label, service) = (label(endpoint), &slice.service);
                        format!("PTR {label}.{}.{}.svc.{ORIGIN}.", service.name, service.namespace)
                    }));
                }
            }
            let ours = settings().service_cidrs.iter().any(|cidr| cidr.contains(&address));
            let expected = match (pointers.is_empty(), ours) {
                (false, _) => pointers.into_iter().collect::<Vec<_>>().join(", "),
                (true, true) => "NXDOMAIN".into(),
                (true, false) => "FORWARD".into(),
            };
            prop_assert_eq!(say(&zone, &reverse_name(address), Type::PTR), expected, "{}", address);
        }
    }
}

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

#[test]
fn the_model_itself_tells_nodata_from_nxdomain() {
    let objects = Objects { services: vec![], namespaces: vec!["dev"], ..Objects::default() };
    let file = ZoneFile::of(&objects);
    assert_eq!(file.say("dev.svc", Type::A), "NODATA");
    assert_eq!(file.say("dns", Type::A), "NODATA");
    assert_eq!(file.say("a.dev.svc", Type::A), "NXDOMAIN");
    assert_eq!(file.say("dns-version", Type::TXT), "TXT 1.1.0 for 28800 s");
}
