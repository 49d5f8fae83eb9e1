//! The state of the cluster in plain values, and the pure fold of events into it.
//!
//! Sources (manifests, the Kubernetes API, later the embedded registry) send [`Event`]s; the compiler of
//! dataplane tables and the DNS zone read a [`Cluster`] and the names of what changed. Nothing here does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_dataplane::net::Protocol;

use crate::traffic::Traffic;

/// `namespace/name` of a namespaced object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace, a DNS label in lower case.
    pub namespace: Arc<str>,
    /// Name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Makes a name from its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP family; a dual-stack Service is served per family, each for itself (K35).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the other family.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// How clients reach a Service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServiceKind {
    /// By one virtual address per family (`spec.clusterIPs`); NodePort and LoadBalancer Services too.
    ClusterIp(Vec<IpAddr>),
    /// By the endpoints' own addresses (`clusterIP: None`).
    Headless,
    /// By another name (`type: ExternalName`); the name is without a trailing dot.
    ExternalName(Arc<str>),
}

/// One entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for the unnamed port of a single-port Service (K4).
    pub name: Arc<str>,
    /// Transport protocol.
    #[serde(with = "crate::cluster_file::protocol")]
    pub protocol: Protocol,
    /// The port that clients use, 1..=65535.
    pub port: u16,
    /// The port of every node address that leads to it, too (K16).
    pub node_port: Option<u16>,
}

/// A Service, as far as packets and names need it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// How clients reach it.
    pub kind: ServiceKind,
    /// Ports in the order of the manifest.
    pub ports: Vec<ServicePort>,
    /// `service.kubernetes.io/service-proxy-name` is set: names only, no packets (K1).
    pub foreign_proxy: bool,
    /// How packets to it are treated.
    pub traffic: Traffic,
}

/// One address of an EndpointSlice with its conditions; absent conditions are filled in by K7.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]` (K7).
    pub address: IpAddr,
    /// `hostname`, a DNS label.
    pub hostname: Option<Arc<str>>,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means true (K7).
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// Name of the Pod in `targetRef`.
    pub pod: Option<Arc<str>>,
    /// `hints`; none on most endpoints (K11).
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// Returns an endpoint that is ready, of which nothing else is said.
    #[must_use]
    pub const fn ready_at(address: IpAddr) -> Self {
        Self {
            address,
            hostname: None,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            pod: None,
            hints: None,
        }
    }
}

/// Where an endpoint's traffic should come from (K11).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub nodes: Vec<Arc<str>>,
}

/// One port of an EndpointSlice: what `targetPort` resolved to in this slice (K5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlicePort {
    /// Joins with [`ServicePort::name`] (K4).
    pub name: Arc<str>,
    /// Transport protocol.
    #[serde(with = "crate::cluster_file::protocol")]
    pub protocol: Protocol,
    /// The port that the endpoints listen on, 1..=65535.
    pub port: u16,
}

/// An EndpointSlice of addresses of one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`, in the slice's namespace (K6).
    pub service: ObjectName,
    /// Endpoints in the order of the manifest; all of one family.
    pub endpoints: Vec<Endpoint>,
    /// Ports that all endpoints of this slice have.
    pub ports: Vec<SlicePort>,
}

/// A Node: where endpoints run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `status.addresses` of type `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or has the taint `ToBeDeletedByClusterAutoscaler` (K33).
    pub is_leaving: bool,
}

/// A Pod that may be named by its addresses: neither ended nor about to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
}

/// One change that a source has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A Service is new or has changed.
    ServiceApplied(Arc<Service>),
    /// A Service is gone.
    ServiceDeleted(ObjectName),
    /// An EndpointSlice is new or has changed; its `service` never changes under one name.
    SliceApplied(Arc<EndpointSlice>),
    /// An EndpointSlice is gone.
    SliceDeleted {
        /// Name of the slice.
        name: ObjectName,
        /// The Service it belonged to.
        service: ObjectName,
    },
    /// A Pod is new or has changed.
    PodApplied(Arc<Pod>),
    /// A Pod is gone, or has no addresses any more.
    PodDeleted(ObjectName),
    /// A Namespace is new.
    NamespaceApplied(Arc<str>),
    /// A Namespace is gone.
    NamespaceDeleted(Arc<str>),
    /// A Node is new or has changed.
    NodeApplied(Arc<Node>),
    /// A Node is gone.
    NodeDeleted(Arc<str>),
}

/// What changed since the consumers last looked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dirty {
    /// Services whose object or slices changed, appeared or went.
    pub services: BTreeSet<ObjectName>,
    /// Namespaces that appeared or went.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Pods that appeared, changed or went.
    pub pods: BTreeSet<ObjectName>,
}

impl Dirty {
    /// Says whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && self.pods.is_empty()
    }
}

/// A Service's slices, sorted by name; a tree for each Service would have room for eleven, and most have one or two.
type Slices = Box<[Arc<EndpointSlice>]>;

/// All that is known of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Slices>,
    pods: BTreeMap<ObjectName, Arc<Pod>>,
    namespaces: BTreeSet<Arc<str>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
}

impl Cluster {
    /// Folds one event in and notes in `dirty` what it touched; an event that changes nothing notes nothing.
    pub fn apply(&mut self, event: Event, dirty: &mut Dirty) {
        match event {
            Event::ServiceApplied(service) => self.apply_service(service, dirty),
            Event::ServiceDeleted(name) => {
                if self.services.remove(&name).is_some() {
                    dirty.services.insert(name);
                }
            }
            Event::SliceApplied(slice) => self.apply_slice(slice, dirty),
            Event::SliceDeleted { name, service } => self.delete_slice(&name, service, dirty),
            Event::PodApplied(pod) => {
                if self.pods.get(&pod.name) != Some(&pod) {
                    dirty.pods.insert(pod.name.clone());
                    self.pods.insert(pod.name.clone(), pod);
                }
            }
            Event::PodDeleted(name) => {
                if self.pods.remove(&name).is_some() {
                    dirty.pods.insert(name);
                }
            }
            Event::NamespaceApplied(name) => {
                if self.namespaces.insert(name.clone()) {
                    dirty.namespaces.insert(name);
                }
            }
            Event::NamespaceDeleted(name) => {
                if self.namespaces.remove(&name) {
                    dirty.namespaces.insert(name);
                }
            }
            Event::NodeApplied(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
            Event::NodeDeleted(name) => {
                self.nodes.remove(&name);
            }
        }
    }

    fn apply_service(&mut self, service: Arc<Service>, dirty: &mut Dirty) {
        if self.services.get(&service.name) != Some(&service) {
            dirty.services.insert(service.name.clone());
            self.services.insert(service.name.clone(), service);
        }
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>, dirty: &mut Dirty) {
        let slices = self.slices.entry(slice.service.clone()).or_default();
        let place = slices.binary_search_by_key(&&slice.name, |own| &own.name);
        if place.is_ok_and(|place| slices[place] == slice) {
            return;
        }
        dirty.services.insert(slice.service.clone());
        match place {
            Ok(place) => slices[place] = slice,
            Err(place) => {
                let (before, after) = slices.split_at(place);
                *slices = [before, &[slice], after].concat().into();
            }
        }
    }

    fn delete_slice(&mut self, name: &ObjectName, service: ObjectName, dirty: &mut Dirty) {
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let left: Slices = slices.iter().filter(|slice| slice.name != *name).cloned().collect();
        let removed = left.len() < slices.len();
        if left.is_empty() {
            self.slices.remove(&service);
        } else {
            *slices = left;
        }
        if removed {
            dirty.services.insert(service);
        }
    }

    /// Returns the Service of that name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// Iterates over all Services in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Iterates over the slices of a Service in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flatten()
    }

    /// Returns the Pod of that name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.pods.get(name)
    }

    /// Says whether a Namespace exists, declared or implied by an object in it.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Iterates over all Namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter()
    }

    /// Returns the Node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// Iterates over all Nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }
}
