//! The Kubernetes objects we read, from documents into checked plain values.
//!
//! Only the fields that packets and names need are looked at; a wrong one refuses the object whole and names
//! the field. The documents come from YAML or JSON as untyped values: a typed deserialiser could not say
//! which object and which field it failed at. Defaults are those that the API server fills in.
//!
//! Reading order: [`Object`], [`read`], then one file per kind.

mod endpoint_slice;
mod endpoints;
mod field;
mod node;
mod pod;
mod service;
pub(crate) mod syntax;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub use self::endpoints::{Endpoints, Subset};
use self::field::Field;
pub use self::field::{Fault, Labels};
pub use self::pod::{ContainerPort, Pod};
pub use self::service::{FamilyPolicy, Reach, Service, ServicePort, TargetPort};
use self::syntax::Rule;
use crate::cluster::{EndpointSlice, Node, ObjectName};

/// A kind of object that we read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// v1 Namespace.
    Namespace,
    /// v1 Node.
    Node,
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Endpoints.
    Endpoints,
    /// v1 Pod.
    Pod,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Namespace, Self::Node, Self::Service, Self::EndpointSlice, Self::Endpoints, Self::Pod];

    /// Returns the word for the kind in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Pod => "Pod",
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io/v1",
            _ => "v1",
        }
    }

    const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    fn name_rule(self) -> Rule {
        match self {
            Self::Namespace | Self::Service => syntax::label,
            _ => syntax::subdomain,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an object is called; the namespace of a Namespace or Node is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace and name of the object.
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_namespaced() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}", self.kind, self.name.name)
        }
    }
}

/// A checked object; cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// A Namespace has nothing but its name.
    Namespace(Arc<str>),
    /// A Node.
    Node(Arc<Node>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice of addresses that belongs to a Service.
    EndpointSlice(Arc<EndpointSlice>),
    /// Endpoints.
    Endpoints(Arc<Endpoints>),
    /// A Pod.
    Pod(Arc<Pod>),
}

/// An object that is not taken over.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Refusal {
    /// The kind, if it could be told.
    pub kind: Option<Kind>,
    /// The name, if it could be told.
    pub name: Option<ObjectName>,
    /// What is wrong.
    pub fault: Fault,
}

impl Refusal {
    /// Returns the key of the object, if it could be told.
    #[must_use]
    pub fn key(&self) -> Option<ObjectKey> {
        Some(ObjectKey { kind: self.kind?, name: self.name.clone()? })
    }
}

/// What a document turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// A good object.
    Object(ObjectKey, Object),
    /// A bad one, of a kind that we read.
    Refused(Refusal),
    /// Something we have no use for, in words.
    Ignored(String),
}

/// Reads a document; a `List` gives a reading per item.
#[must_use]
pub fn read(document: &Value) -> Vec<Reading> {
    let root = Field::root(document);
    match items_of_list(&root) {
        Err(fault) => vec![Reading::Refused(Refusal { kind: None, name: None, fault })],
        Ok(None) => vec![read_one(&root, None)],
        Ok(Some((item_type, items))) => items.iter().map(|item| read_one(item, Some(&item_type))).collect(),
    }
}

/// Reads one object where one of that kind is expected; items of a list do not say their kind themselves.
#[must_use]
pub fn read_item(document: &Value, kind: Kind) -> Reading {
    let root = Field::root(document);
    match read_one(&root, Some(&(kind.api_version().to_owned(), kind.as_str().to_owned()))) {
        Reading::Object(key, _) if key.kind != kind => refuse_kind(kind, key.kind.as_str(), key.name),
        Reading::Refused(refusal) => Reading::Refused(Refusal { kind: Some(kind), ..refusal }),
        reading => reading,
    }
}

fn refuse_kind(wanted: Kind, found: &str, name: ObjectName) -> Reading {
    let fault =
        Fault { field: "kind".to_owned(), what: format!("is {found} where a {wanted} was asked for") };
    Reading::Refused(Refusal { kind: Some(wanted), name: Some(name), fault })
}

/// `apiVersion` and `kind`.
type ObjectType = (String, String);

/// Returns the items of a `List` (or `ServiceList`, ...) and the type of items that do not say theirs.
fn items_of_list<'a>(root: &Field<'a>) -> Result<Option<(ObjectType, Vec<Field<'a>>)>, Fault> {
    let kind = root.child("kind")?.required_text()?;
    let items = root.child("items")?;
    let (Some(item_kind), true) = (kind.strip_suffix("List"), items.is_list() || kind == "List") else {
        return Ok(None);
    };
    let api_version = root.child("apiVersion")?.required_text()?.to_owned();
    let items = items.items()?.into_iter().map(Field::rerooted).collect();
    Ok(Some(((api_version, item_kind.to_owned()), items)))
}

fn read_one(root: &Field<'_>, item_type: Option<&ObjectType>) -> Reading {
    let kind = match read_kind(root, item_type) {
        Ok(Ok(kind)) => kind,
        Ok(Err(reading)) => return Reading::Ignored(reading),
        Err(fault) => return Reading::Refused(Refusal { kind: None, name: None, fault }),
    };
    let metadata = match Metadata::read(root, kind) {
        Ok(metadata) => metadata,
        Err(fault) => return Reading::Refused(Refusal { kind: Some(kind), name: None, fault }),
    };
    let key = ObjectKey { kind, name: metadata.name.clone() };
    match read_object(root, kind, &metadata) {
        Ok(Some(object)) => Reading::Object(key, object),
        Ok(None) => Reading::Ignored(format!("{key} (no Service, or addresses that are names)")),
        Err(fault) => Reading::Refused(Refusal { kind: Some(kind), name: Some(metadata.name), fault }),
    }
}

/// Returns the kind, or in words what kind of object this is that we do not read.
fn read_kind(root: &Field<'_>, item_type: Option<&ObjectType>) -> Result<Result<Kind, String>, Fault> {
    let (api_field, kind_field) = (root.child("apiVersion")?, root.child("kind")?);
    let (api_version, word) = match item_type {
        Some((api, kind)) if !kind.is_empty() && !kind_field.is_present() => (api.as_str(), kind.as_str()),
        _ => (api_field.required_text()?, kind_field.required_text()?),
    };
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
    match known.filter(|kind| group(kind.api_version()) == group(api_version)) {
        Some(kind) if kind.api_version() == api_version => Ok(Ok(kind)),
        Some(kind) => {
            Err(api_field.fault(&format!("{api_version} {word} is not read; write {}", kind.api_version())))
        }
        None => {
            let metadata = root.child("metadata")?;
            let namespace = metadata.child("namespace")?.text()?.unwrap_or("default");
            let name = metadata.child("name")?.text()?.unwrap_or("without a name");
            Ok(Err(format!("{api_version} {word} {namespace}/{name}")))
        }
    }
}

fn read_object(root: &Field<'_>, kind: Kind, metadata: &Metadata) -> Result<Option<Object>, Fault> {
    Ok(Some(match kind {
        Kind::Namespace => Object::Namespace(metadata.name.name.clone()),
        Kind::Node => Object::Node(node::read(root, metadata)?.into()),
        Kind::Service => Object::Service(service::read(root, metadata)?.into()),
        Kind::EndpointSlice => match endpoint_slice::read(root, metadata)? {
            Some(slice) => Object::EndpointSlice(slice.into()),
            None => return Ok(None),
        },
        Kind::Endpoints => Object::Endpoints(endpoints::read(root, metadata)?.into()),
        Kind::Pod => Object::Pod(pod::read(root, metadata)?.into()),
    }))
}

/// `metadata`, as far as all kinds share it.
struct Metadata {
    name: ObjectName,
    labels: Labels,
    annotations: Labels,
    deleting: bool,
}

impl Metadata {
    fn read(root: &Field<'_>, kind: Kind) -> Result<Self, Fault> {
        let metadata = root.child("metadata")?;
        let name_field = metadata.child("name")?;
        let name = name_field.named(kind.name_rule())?.ok_or_else(|| name_field.fault("is missing"))?;
        let namespace = if kind.is_namespaced() {
            metadata.child("namespace")?.named(syntax::label)?.unwrap_or_else(|| "default".into())
        } else {
            "".into()
        };
        Ok(Self {
            name: ObjectName { namespace, name },
            labels: metadata.child("labels")?.labels()?,
            annotations: metadata.child("annotations")?.labels()?,
            deleting: metadata.child("deletionTimestamp")?.is_present(),
        })
    }
}
