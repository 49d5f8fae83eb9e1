//! Updates of a zone, step by step and at once.

use proptest::prelude::*;

use super::*;
use crate::cluster::{Endpoint, EndpointSlice, Event, Service, ServiceKind, ServicePort, SlicePort};
use tidegate_dataplane::net::Protocol;

type Contents =
    (BTreeMap<Arc<str>, Namespace>, BTreeMap<ObjectName, Arc<ServiceNames>>, BTreeMap<IpAddr, Claims>);

fn contents(zone: &Zone) -> Contents {
    let mut all = Contents::default();
    zone.namespaces.for_each(|key, value| assert!(all.0.insert(key.clone(), *value).is_none()));
    zone.services.for_each(|key, value| assert!(all.1.insert(key.clone(), value.clone()).is_none()));
    zone.reverse.for_each(|key, value| assert!(all.2.insert(*key, value.clone()).is_none()));
    all
}

fn empty() -> Zone {
    Zone::new(ZoneSettings { serial: 7, ..ZoneSettings::default() }).expect("a zone")
}

fn everything(cluster: &Cluster) -> Dirty {
    Dirty {
        services: cluster.services().map(|service| service.name.clone()).collect(),
        namespaces: cluster.namespaces().cloned().collect(),
        ..Dirty::default()
    }
}

fn object(number: u8) -> ObjectName {
    ObjectName::new(["dev", "prod"][usize::from(number % 2)], ["a", "b", "c"][usize::from(number % 3)])
}

/// Few addresses, so that Services and endpoints collide on them.
fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number % 4])
}

fn service_event(number: u8, shape: u8) -> Event {
    let kind = match shape % 3 {
        0 => ServiceKind::ClusterIp(vec![address(shape / 3)]),
        1 => ServiceKind::Headless,
        _ => ServiceKind::ExternalName("example.org".into()),
    };
    let ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: u16::from(shape) + 1,
        node_port: None,
    }];
    Event::ServiceApplied(Arc::new(Service {
        name: object(number),
        kind,
        ports,
        foreign_proxy: false,
        traffic: crate::traffic::Traffic::default(),
    }))
}

fn slice_name(number: u8, of: u8) -> (ObjectName, ObjectName) {
    let service = object(of);
    let name = format!("{}-{}", service.name, number % 2);
    (ObjectName::new(&service.namespace, &name), service)
}

fn slice_event(number: u8, of: u8, shapes: &[u8]) -> Event {
    let (name, service) = slice_name(number, of);
    let endpoint = |&shape: &u8| Endpoint {
        hostname: (shape & 8 != 0).then(|| "host".into()),
        ready: shape & 16 == 0,
        ..Endpoint::ready_at(address(shape))
    };
    let endpoints = shapes.iter().map(endpoint).collect();
    let ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }];
    Event::SliceApplied(Arc::new(EndpointSlice { name, service, endpoints, ports }))
}

fn event() -> impl Strategy<Value = Event> {
    let namespace = |number: u8| -> Arc<str> { ["dev", "prod", "empty"][usize::from(number % 3)].into() };
    prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(number, shape)| service_event(number, shape)),
        2 => any::<u8>().prop_map(|number| Event::ServiceDeleted(object(number))),
        4 => (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(number, of, shapes)| slice_event(number, of, &shapes)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(number, of)| {
            let (name, service) = slice_name(number, of);
            Event::SliceDeleted { name, service }
        }),
        1 => any::<u8>().prop_map(move |number| Event::NamespaceApplied(namespace(number))),
        1 => any::<u8>().prop_map(move |number| Event::NamespaceDeleted(namespace(number))),
    ]
}

proptest! {
    #[test]
    fn updates_step_by_step_equal_a_fresh_build(
        batches in prop::collection::vec(prop::collection::vec(event(), 1..5), 1..20),
    ) {
        let (mut cluster, mut zone) = (Cluster::default(), empty());
        for batch in batches {
            let mut dirty = Dirty::default();
            batch.into_iter().for_each(|event| cluster.apply(event, &mut dirty));
            let (before, serial) = (contents(&zone), zone.serial());
            let next = zone.updated(&cluster, &dirty);
            let after = contents(&next);
            prop_assert_eq!(&after, &contents(&empty().updated(&cluster, &everything(&cluster))));
            prop_assert_eq!(&contents(&zone), &before, "the old zone has changed");
            let names = |all: &Contents| (all.0.keys().cloned().collect::<Vec<_>>(), all.1.clone());
            prop_assert_eq!(next.serial(), serial + u32::from(names(&after) != names(&before)));
            zone = next;
        }
    }
}

#[test]
fn a_change_that_no_name_shows_keeps_the_serial() {
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    cluster.apply(service_event(0, 1), &mut dirty);
    cluster.apply(slice_event(0, 0, &[1]), &mut dirty);
    let zone = empty().updated(&cluster, &dirty);
    assert_eq!(zone.serial(), 8);
    let mut dirty = Dirty::default();
    cluster.apply(slice_event(1, 0, &[16]), &mut dirty);
    assert!(!dirty.is_empty());
    // A slice more without a ready endpoint: its ports are names of nothing.
    assert_eq!(zone.updated(&cluster, &dirty).serial(), zone.serial());
}

#[test]
fn a_domain_without_room_below_it_is_refused() {
    let domain = vec!["a".repeat(63); 3].join(".") + "." + &"b".repeat(60);
    assert!(Zone::new(ZoneSettings { domain, ..ZoneSettings::default() }).is_err());
}

#[test]
fn an_endpoint_whose_name_would_be_too_long_is_left_out() {
    let domain = vec!["d".repeat(63); 3].join(".");
    let mut cluster = Cluster::default();
    let mut dirty = Dirty::default();
    cluster.apply(service_event(0, 1), &mut dirty);
    let mut slice = match slice_event(0, 0, &[1, 2]) {
        Event::SliceApplied(slice) => (*slice).clone(),
        other => panic!("{other:?} is no slice"),
    };
    slice.endpoints[0].hostname = Some("h".repeat(63).into());
    cluster.apply(Event::SliceApplied(Arc::new(slice)), &mut dirty);
    let zone = Zone::new(ZoneSettings { domain, ..ZoneSettings::default() }).expect("a zone");
    let zone = zone.updated(&cluster, &dirty);
    let names = zone.service(b"dev", b"a").expect("the Service");
    assert_eq!(*names.addresses, [address(2)]);
}
