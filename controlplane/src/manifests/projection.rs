//! What the objects in force mean to packets and names, as events; pure.
//!
//! A change is worked out only for the Services it touches, and sent only where it makes a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::batch::Batch;
use super::inventory::{Change, Inventory};
use super::label_index::LabelIndex;
use crate::cluster::{self, Cluster, Dirty, EndpointSlice, Event, Family, Node, ObjectName, ServiceKind};
use crate::cluster_ip::{Addresses, ClusterIps};
use crate::endpoint_slices;
use crate::objects::{Fault, Kind, Labels, Object, ObjectKey, Pod, Reach, Service};

/// The objects in force, as the consumers were told of them.
#[derive(Debug)]
pub(super) struct Projection {
    cluster_ips: ClusterIps,
    /// Services that have their addresses, in the version that is in force.
    accepted: BTreeMap<ObjectName, Arc<Service>>,
    addresses: Addresses,
    /// Why the newest version of a Service is not in force.
    refused: BTreeMap<ObjectName, Fault>,
    /// Accepted Services under the first label of their selector.
    selectors: LabelIndex,
    /// Pods under each of their labels.
    pods: LabelIndex,
    /// Slices that are in the files, under their Service.
    written: BTreeMap<ObjectName, BTreeMap<ObjectName, Arc<EndpointSlice>>>,
    /// Pods are sent too.
    follows_pods: bool,
    /// All events so far.
    sent: Cluster,
}

impl Projection {
    /// Makes a projection of nothing.
    pub(super) fn new(cluster_ips: ClusterIps, follows_pods: bool) -> Self {
        Self {
            cluster_ips,
            accepted: BTreeMap::new(),
            addresses: Addresses::new(),
            refused: BTreeMap::new(),
            selectors: LabelIndex::default(),
            pods: LabelIndex::default(),
            written: BTreeMap::new(),
            follows_pods,
            sent: Cluster::default(),
        }
    }

    /// Returns the assigner of ClusterIPs with what it remembers.
    pub(super) fn cluster_ips(&self) -> &ClusterIps {
        &self.cluster_ips
    }

    /// Returns the Services whose newest version is not in force, and why.
    pub(super) fn refused(&self) -> &BTreeMap<ObjectName, Fault> {
        &self.refused
    }

    /// Works out what changes of objects in force mean.
    ///
    /// Events that add come before those that remove, so that nothing is without endpoints in between; a
    /// slice that moved to another Service is removed there first.
    pub(super) fn apply(&mut self, inventory: &Inventory, changes: &[Change]) -> Vec<Event> {
        let mut touched = BTreeSet::new();
        let mut batch = Batch::default();
        for change in changes {
            self.note_pod(change, &mut touched, &mut batch);
            self.note_written_slice(change, &mut touched);
            if change.key.kind == Kind::Endpoints {
                touched.insert(change.key.name.clone());
            }
            self.note_node(change, inventory, &mut touched, &mut batch);
        }
        if changes.iter().any(|change| change.key.kind == Kind::Service) {
            self.settle_services(inventory, &mut touched);
        }
        for service in &touched {
            self.compare_service(service, &mut batch);
            self.compare_slices(service, inventory, &mut batch);
        }
        self.compare_namespaces(inventory, changes, &mut batch);
        let events = batch.into_events();
        let mut dirty = Dirty::default();
        for event in &events {
            self.sent.apply(event.clone(), &mut dirty);
        }
        events
    }

    fn note_pod(&mut self, change: &Change, touched: &mut BTreeSet<ObjectName>, batch: &mut Batch) {
        if let Some(Object::Pod(pod)) = &change.before {
            self.pods.remove(&pod.name, pod.labels.iter());
            self.touch_selecting(pod, touched);
        }
        if let Some(Object::Pod(pod)) = &change.after {
            self.pods.insert(&pod.name, pod.labels.iter());
            self.touch_selecting(pod, touched);
        }
        if self.follows_pods && change.key.kind == Kind::Pod {
            self.compare_pod(&change.key.name, &change.after, batch);
        }
    }

    fn compare_pod(&self, name: &ObjectName, after: &Option<Object>, batch: &mut Batch) {
        let named = if let Some(Object::Pod(pod)) = after { named_pod(pod) } else { None };
        match (self.sent.pod(name), named) {
            (before, Some(pod)) if before.map(|before| &**before) != Some(&pod) => {
                batch.pods.push(Event::PodApplied(Arc::new(pod)));
            }
            (Some(_), None) => batch.pods.push(Event::PodDeleted(name.clone())),
            _ => {}
        }
    }

    fn touch_selecting(&self, pod: &Pod, touched: &mut BTreeSet<ObjectName>) {
        for (key, value) in &pod.labels {
            for name in self.selectors.lookup(&pod.name.namespace, key, value).into_iter().flatten() {
                let service = self.accepted.get(name);
                if service.is_some_and(|service| endpoint_slices::selects(&service.selector, &pod.labels)) {
                    touched.insert(name.clone());
                }
            }
        }
    }

    fn note_written_slice(&mut self, change: &Change, touched: &mut BTreeSet<ObjectName>) {
        if let Some(Object::EndpointSlice(slice)) = &change.before {
            if let Some(slices) = self.written.get_mut(&slice.service) {
                slices.remove(&slice.name);
                if slices.is_empty() {
                    self.written.remove(&slice.service);
                }
            }
            touched.insert(slice.service.clone());
        }
        if let Some(Object::EndpointSlice(slice)) = &change.after {
            let slices = self.written.entry(slice.service.clone()).or_default();
            slices.insert(slice.name.clone(), slice.clone());
            touched.insert(slice.service.clone());
        }
    }

    /// A Node's zone is in the endpoints of the Pods on it.
    fn note_node(
        &self,
        change: &Change,
        inventory: &Inventory,
        touched: &mut BTreeSet<ObjectName>,
        batch: &mut Batch,
    ) {
        if change.key.kind != Kind::Node {
            return;
        }
        let node = |object: &Option<Object>| -> Option<Arc<Node>> {
            if let Some(Object::Node(node)) = object { Some(node.clone()) } else { None }
        };
        let (before, after) = (node(&change.before), node(&change.after));
        if before.and_then(|node| node.zone.clone()) != after.as_ref().and_then(|node| node.zone.clone()) {
            for object in inventory.of_kind(Kind::Pod, None) {
                if let Object::Pod(pod) = object
                    && pod.node.as_ref() == Some(&change.key.name.name)
                {
                    self.touch_selecting(pod, touched);
                }
            }
        }
        match after {
            Some(node) => batch.nodes.push(Event::NodeApplied(node)),
            None => batch.gone_nodes.push(Event::NodeDeleted(change.key.name.name.clone())),
        }
    }

    /// Accepts new versions of Services as far as their ClusterIPs are to be had.
    fn settle_services(&mut self, inventory: &Inventory, touched: &mut BTreeSet<ObjectName>) {
        let mut wanted = BTreeMap::new();
        for object in inventory.of_kind(Kind::Service, None) {
            if let Object::Service(service) = object {
                wanted.insert(service.name.clone(), service.clone());
            }
        }
        let gone: Vec<ObjectName> =
            self.accepted.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.set_accepted(&name, None);
            self.addresses.remove(&name);
            touched.insert(name);
        }
        if inventory.is_sound() {
            self.cluster_ips.forget_all_but(|name| wanted.contains_key(name));
        }
        wanted.retain(|name, service| self.accepted.get(name) != Some(service));
        self.refused.clear();
        for (name, outcome) in self.cluster_ips.settle(&self.addresses, &wanted) {
            let Some(service) = wanted.get(&name) else { continue };
            match outcome {
                Ok(addresses) => {
                    self.cluster_ips.remember(service, &addresses);
                    self.log_outsiders(service, &addresses);
                    self.addresses.insert(name.clone(), addresses);
                    self.set_accepted(&name, Some(service.clone()));
                    touched.insert(name);
                }
                Err(fault) => {
                    self.refused.insert(name, fault);
                }
            }
        }
    }

    fn set_accepted(&mut self, name: &ObjectName, service: Option<Arc<Service>>) {
        fn first(selector: &Labels) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
            selector.iter().take(1)
        }
        if let Some(service) = &service {
            self.selectors.insert(name, first(&service.selector));
        }
        let before = match service.clone() {
            Some(service) => self.accepted.insert(name.clone(), service),
            None => self.accepted.remove(name),
        };
        if let Some(before) = before
            && service.is_none_or(|service| first(&service.selector).ne(first(&before.selector)))
        {
            self.selectors.remove(name, first(&before.selector));
        }
    }

    fn log_outsiders(&self, service: &Service, addresses: &[IpAddr]) {
        let earlier = self.addresses.get(&service.name);
        for address in addresses {
            let known = earlier.is_some_and(|earlier| earlier.contains(address));
            if !known && !self.cluster_ips.covers(address) {
                tracing::info!(service = %service.name, %address, "spec.clusterIP is in no --service-cidr");
            }
        }
    }

    fn compare_service(&self, name: &ObjectName, batch: &mut Batch) {
        let service = self.accepted.get(name).map(|service| {
            let addresses = self.addresses.get(name).cloned().unwrap_or_default();
            Arc::new(plain(service, addresses))
        });
        match (self.sent.service(name), service) {
            (before, Some(service)) if before != Some(&service) => {
                batch.services.push(Event::ServiceApplied(service));
            }
            (Some(_), None) => batch.gone_services.push(Event::ServiceDeleted(name.clone())),
            _ => {}
        }
    }

    fn compare_slices(&self, service: &ObjectName, inventory: &Inventory, batch: &mut Batch) {
        let mut slices = self.written.get(service).cloned().unwrap_or_default();
        if let Some(service) = self.accepted.get(service) {
            let made = self.slices_from_pods(service, inventory);
            let mirrored = mirrored(service, inventory);
            slices
                .extend(made.into_iter().chain(mirrored).map(|slice| (slice.name.clone(), Arc::new(slice))));
        }
        for before in self.sent.slices_of(service).filter(|slice| !slices.contains_key(&slice.name)) {
            let event = Event::SliceDeleted { name: before.name.clone(), service: service.clone() };
            let key = ObjectKey { kind: Kind::EndpointSlice, name: before.name.clone() };
            if inventory.object(&key).is_some() {
                batch.moved_slices.push(event);
            } else {
                batch.gone_slices.push(event);
            }
        }
        for slice in slices.into_values() {
            let before = self.sent.slices_of(service).find(|before| before.name == slice.name);
            if before != Some(&slice) {
                batch.slices.push(Event::SliceApplied(slice));
            }
        }
    }

    fn slices_from_pods(&self, service: &Service, inventory: &Inventory) -> Vec<EndpointSlice> {
        let families: Vec<Family> = match &service.reach {
            Reach::ExternalName(_) => return Vec::new(),
            Reach::ClusterIp(_) => {
                self.addresses.get(&service.name).into_iter().flatten().map(Family::of).collect()
            }
            Reach::Headless => self.cluster_ips.families(service).unwrap_or_default(),
        };
        let namespace = &service.name.namespace;
        let lists = service.selector.iter().map(|(key, value)| self.pods.lookup(namespace, key, value));
        let Some(shortest) = lists.min_by_key(|list| list.map_or(0, BTreeSet::len)).flatten() else {
            return Vec::new();
        };
        let pods = shortest.iter().filter_map(|name| {
            match inventory.object(&ObjectKey { kind: Kind::Pod, name: name.clone() }) {
                Some(Object::Pod(pod)) => Some(&**pod),
                _ => None,
            }
        });
        let zone_of = |node: &str| match inventory
            .object(&ObjectKey { kind: Kind::Node, name: ObjectName::new("", node) })?
        {
            Object::Node(node) => node.zone.clone(),
            _ => None,
        };
        endpoint_slices::from_pods(service, &families, pods, &zone_of)
    }

    /// A Namespace is there if it is declared or something is in it.
    fn compare_namespaces(&self, inventory: &Inventory, changes: &[Change], batch: &mut Batch) {
        let named: BTreeSet<&Arc<str>> = changes
            .iter()
            .filter_map(|change| match change.key.kind {
                Kind::Namespace => Some(&change.key.name.name),
                Kind::Node => None,
                _ => Some(&change.key.name.namespace),
            })
            .collect();
        for name in named {
            let key = ObjectKey { kind: Kind::Namespace, name: ObjectName::new("", name) };
            let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Endpoints, Kind::Pod];
            let is_there = inventory.object(&key).is_some()
                || kinds.iter().any(|kind| inventory.of_kind(*kind, Some(name)).next().is_some());
            match (self.sent.has_namespace(name), is_there) {
                (false, true) => batch.namespaces.push(Event::NamespaceApplied(name.clone())),
                (true, false) => batch.gone_namespaces.push(Event::NamespaceDeleted(name.clone())),
                _ => {}
            }
        }
    }
}

/// Returns what a Service is to packets and names if it has the addresses that it states.
pub(crate) fn as_stated(service: &Service) -> cluster::Service {
    let stated = match &service.reach {
        Reach::ClusterIp(addresses) => addresses.clone(),
        Reach::Headless | Reach::ExternalName(_) => Vec::new(),
    };
    plain(service, stated)
}

/// Returns what a Pod is to names; one that has ended, or is about to, has no name of its own any more.
pub(crate) fn named_pod(pod: &Pod) -> Option<cluster::Pod> {
    let named = !(pod.terminating || pod.finished || pod.addresses.is_empty());
    named.then(|| cluster::Pod { name: pod.name.clone(), addresses: pod.addresses.clone() })
}

fn plain(service: &Service, addresses: Vec<IpAddr>) -> cluster::Service {
    cluster::Service {
        name: service.name.clone(),
        kind: match &service.reach {
            Reach::ClusterIp(_) => ServiceKind::ClusterIp(addresses),
            Reach::Headless => ServiceKind::Headless,
            Reach::ExternalName(name) => ServiceKind::ExternalName(name.clone()),
        },
        ports: service
            .ports
            .iter()
            .map(|port| cluster::ServicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
                node_port: port.node_port,
            })
            .collect(),
        foreign_proxy: service.foreign_proxy,
        traffic: service.traffic.clone(),
    }
}

fn mirrored(service: &Service, inventory: &Inventory) -> Vec<EndpointSlice> {
    match inventory.object(&ObjectKey { kind: Kind::Endpoints, name: service.name.clone() }) {
        Some(Object::Endpoints(endpoints)) => endpoint_slices::mirror(service, endpoints),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
