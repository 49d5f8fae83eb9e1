//! EndpointSlices from Pods, and from Endpoints, by the rules of Kubernetes' own controllers.
//!
//! Source: Kubernetes `staging/src/k8s.io/endpointslice` (`reconciler.go`, `utils.go`,
//! `util/controller_utils.go`) for Pods and `pkg/controller/endpointslicemirroring` for Endpoints.
//!
//! DEVIATION: slices are not cut at 100 endpoints and a Service without endpoints gets no empty slice, for
//! consumers here see no difference. DEVIATION: a Pod on a Node that is in no manifest still counts (the
//! controller leaves it out until the Node is there), for manifests need not have Nodes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::cluster::{Endpoint, EndpointSlice, Family, ObjectName, SlicePort};
use crate::objects::{Endpoints, Labels, Pod, Reach, Service, ServicePort, TargetPort};

/// Says whether a selector matches labels; an empty one matches nothing (K6).
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Makes the slices of a Service with a selector from the Pods it selects, in the order given.
///
/// A slice holds the Pods of one family whose ports are the same: a named `targetPort` may have different
/// numbers in different Pods (K5). `zone_of` gives the zone of a Node. Slices come in the order of their
/// names, which say what they hold and so stay the same whatever the order of changes.
pub fn from_pods<'a>(
    service: &Service,
    families: &[Family],
    pods: impl Iterator<Item = &'a Pod>,
    zone_of: &dyn Fn(&str) -> Option<Arc<str>>,
) -> Vec<EndpointSlice> {
    let mut slices = BTreeMap::new();
    if matches!(service.reach, Reach::ExternalName(_)) {
        return Vec::new();
    }
    for pod in pods.filter(|pod| !pod.finished && selects(&service.selector, &pod.labels)) {
        let ports: Vec<SlicePort> = service.ports.iter().filter_map(|port| resolve_port(port, pod)).collect();
        for family in families {
            let Some(address) = pod.addresses.iter().find(|address| Family::of(address) == *family) else {
                continue;
            };
            let ready = service.publish_not_ready || (pod.ready && !pod.terminating);
            let has_name = pod.subdomain.as_ref() == Some(&service.name.name);
            let endpoint = Endpoint {
                address: *address,
                hostname: pod.hostname.clone().filter(|_| has_name),
                ready,
                serving: pod.ready,
                terminating: pod.terminating,
                node: pod.node.clone(),
                zone: pod.node.as_deref().and_then(zone_of),
                pod: Some(pod.name.name.clone()),
                hints: None,
            };
            slice_for(&mut slices, &service.name, "pods", *family, &ports).endpoints.push(endpoint);
        }
    }
    slices.into_values().collect()
}

/// Returns the port of a Pod that a Service port leads to, or `None` if the Pod has no such port.
fn resolve_port(port: &ServicePort, pod: &Pod) -> Option<SlicePort> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            pod.ports.iter().find(|own| own.name == *name && own.protocol == port.protocol)?.port
        }
    };
    Some(SlicePort { name: port.name.clone(), protocol: port.protocol, port: number })
}

/// Makes the slices that mirror the Endpoints of a Service without a selector.
///
/// DEVIATION: not cut at 1000 addresses per subset.
#[must_use]
pub fn mirror(service: &Service, endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices = BTreeMap::new();
    if endpoints.skip_mirror || !service.selector.is_empty() {
        return Vec::new();
    }
    for subset in &endpoints.subsets {
        for endpoint in &subset.endpoints {
            let family = Family::of(&endpoint.address);
            let slice = slice_for(&mut slices, &service.name, "endpoints", family, &subset.ports);
            let same = |other: &&mut Endpoint| {
                (other.address, &other.hostname, &other.pod)
                    == (endpoint.address, &endpoint.hostname, &endpoint.pod)
            };
            match slice.endpoints.iter_mut().find(same) {
                Some(earlier) => *earlier = endpoint.clone(),
                None => slice.endpoints.push(endpoint.clone()),
            }
        }
    }
    slices.into_values().collect()
}

/// Returns the slice for that family and those ports, made if it is not there.
///
/// Its name is no Kubernetes name, so it cannot meet the name of a slice that people wrote.
fn slice_for<'a>(
    slices: &'a mut BTreeMap<ObjectName, EndpointSlice>,
    service: &ObjectName,
    origin: &str,
    family: Family,
    ports: &[SlicePort],
) -> &'a mut EndpointSlice {
    let mut name = format!("{}:{origin}:{family}:", service.name);
    for (index, port) in ports.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(name, "{comma}{}/{}={}", port.name, port.protocol, port.port);
    }
    let name = ObjectName { namespace: service.namespace.clone(), name: name.into() };
    slices.entry(name.clone()).or_insert_with(|| EndpointSlice {
        name,
        service: service.clone(),
        endpoints: Vec::new(),
        ports: ports.to_vec(),
    })
}

#[cfg(test)]
mod tests;
