//! A cluster for DNS: as many Services as wanted, every tenth headless, and their names.

use std::sync::Arc;

use tidegate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate::dns::{Zone, ZoneSettings};
use tidegate_dataplane::net::Protocol;

/// Namespaces that the Services are spread over.
const NAMESPACES: usize = 50;
/// Every so many Services one is headless, with four endpoints.
const HEADLESS_EVERY: usize = 10;
/// Returns the addresses that a Service's name stands for.
#[must_use]
pub fn addresses(number: usize) -> Vec<[u8; 4]> {
    if is_headless(number) {
        (0..4).map(|at| address(128, 4 * number + at)).collect()
    } else {
        vec![address(96, number)]
    }
}

/// Returns a Service's name below the zone.
#[must_use]
pub fn owner(number: usize) -> String {
    let (service, namespace) = name(number);
    format!("{service}.{namespace}.svc")
}

/// Makes the zone of so many Services.
///
/// # Panics
/// Never: the settings are good.
#[must_use]
pub fn zone(count: usize) -> Zone {
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    (0..count).flat_map(service_events).for_each(|event| cluster.apply(event, &mut dirty));
    let zone = Zone::new(ZoneSettings::default()).expect("the default settings are good");
    let mut zone = zone.updated(&cluster, &dirty);
    zone.set_synced();
    zone
}

/// Name and namespace of a Service.
fn name(number: usize) -> (String, String) {
    (format!("service-{number}"), format!("namespace-{}", number % NAMESPACES))
}

fn address(network: u8, number: usize) -> [u8; 4] {
    let [_, high, middle, low] = (number as u32 + 1).to_be_bytes();
    [10, network | high, middle, low]
}

fn is_headless(number: usize) -> bool {
    number.is_multiple_of(HEADLESS_EVERY)
}

fn service_events(number: usize) -> [Event; 2] {
    let (service, namespace) = name(number);
    let object = ObjectName::new(&namespace, &service);
    let kind = match is_headless(number) {
        true => ServiceKind::Headless,
        false => ServiceKind::ClusterIp(vec![address(96, number).into()]),
    };
    let ports = vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }];
    let endpoint = |at: usize| Endpoint::ready_at(address(128, 4 * number + at).into());
    let slice = EndpointSlice {
        name: ObjectName::new(&namespace, &format!("{service}-1")),
        service: object.clone(),
        endpoints: (0..4).map(endpoint).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    };
    let service = Service {
        name: object,
        kind,
        ports,
        foreign_proxy: false,
        traffic: tidegate::traffic::Traffic::default(),
    };
    [Event::ServiceApplied(Arc::new(service)), Event::SliceApplied(Arc::new(slice))]
}
