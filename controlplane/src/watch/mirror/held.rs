//! What is held of one kind of object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Refused;
use crate::cluster::{self, EndpointSlice, Node, ObjectName};
use crate::manifests::{self, Problem};
use crate::objects::{Fault, Kind, Object, ObjectKey, Refusal};

/// An object, as far as packets and names need it; cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Plain {
    Namespace(Arc<str>),
    Node(Arc<Node>),
    Service(Arc<cluster::Service>),
    Slice(Arc<EndpointSlice>),
    Pod(Arc<cluster::Pod>),
}

impl Plain {
    /// Keeps what is of use; `None` if nothing is.
    pub(super) fn of(object: Object) -> Option<Self> {
        Some(match object {
            Object::Namespace(name) => Self::Namespace(name),
            Object::Node(node) => Self::Node(node),
            Object::Service(service) => Self::Service(Arc::new(manifests::as_stated(&service))),
            Object::EndpointSlice(slice) => Self::Slice(slice),
            Object::Pod(pod) => Self::Pod(Arc::new(manifests::named_pod(&pod)?)),
            Object::Endpoints(_) => return None,
        })
    }

    pub(super) fn key(&self) -> ObjectKey {
        let cluster_wide = |name: &Arc<str>| ObjectName { namespace: "".into(), name: name.clone() };
        match self {
            Self::Namespace(name) => ObjectKey { kind: Kind::Namespace, name: cluster_wide(name) },
            Self::Node(node) => ObjectKey { kind: Kind::Node, name: cluster_wide(&node.name) },
            Self::Service(service) => ObjectKey { kind: Kind::Service, name: service.name.clone() },
            Self::Slice(slice) => ObjectKey { kind: Kind::EndpointSlice, name: slice.name.clone() },
            Self::Pod(pod) => ObjectKey { kind: Kind::Pod, name: pod.name.clone() },
        }
    }
}

/// A list that is being told, or held back.
#[derive(Default, Debug)]
pub(super) struct List {
    objects: BTreeMap<ObjectName, Plain>,
    refused: BTreeMap<ObjectName, Refused>,
    nameless: BTreeSet<Fault>,
    ended: bool,
}

impl List {
    /// Changes an object after the list ended.
    pub(super) fn set(&mut self, name: &ObjectName, object: Option<Plain>) {
        match object {
            Some(object) => self.objects.insert(name.clone(), object),
            None => self.objects.remove(name),
        };
    }
}

/// Objects of one kind.
#[derive(Default, Debug)]
pub(super) struct Held {
    pub(super) objects: BTreeMap<ObjectName, Plain>,
    refused: BTreeMap<ObjectName, Refused>,
    /// Faults of objects whose name cannot be told.
    nameless: BTreeSet<Fault>,
    list: Option<List>,
}

/// Names of objects that differ, with what they were; and what is refused anew.
pub(super) type Change = (Vec<(ObjectName, Option<Plain>)>, Vec<Refused>);

impl Held {
    pub(super) fn begin_list(&mut self) {
        self.list = Some(List::default());
    }

    pub(super) fn end_list(&mut self) {
        if let Some(list) = &mut self.list {
            list.ended = true;
        }
    }

    /// Says whether the list has been told.
    pub(super) fn is_listed(&self) -> bool {
        self.list.as_ref().is_some_and(|list| list.ended)
    }

    /// Returns the list that is held back, which changes are for until it is taken over.
    pub(super) fn waiting_list(&mut self, synced: bool) -> Option<&mut List> {
        self.list.as_mut().filter(|list| !synced && list.ended)
    }

    /// Takes in an object of a list.
    pub(super) fn list(&mut self, name: ObjectName, object: Option<Plain>) {
        let Some(list) = &mut self.list else { return };
        let Some(object) = object else { return };
        let known = self.objects.get_key_value(&name).filter(|(_, known)| **known == object);
        let (name, object) = match known {
            Some((name, known)) => (name.clone(), known.clone()),
            None => (name, object),
        };
        list.objects.insert(name, object);
    }

    /// Takes in a bad object of a list; its last good version stays.
    pub(super) fn list_refused(
        &mut self,
        kind: Kind,
        name: Option<ObjectName>,
        uid: Option<Arc<str>>,
        fault: Fault,
    ) {
        let Some(list) = &mut self.list else { return };
        let Some(name) = name else {
            list.nameless.insert(fault);
            return;
        };
        if let Some(known) = self.objects.get(&name) {
            list.objects.insert(name.clone(), known.clone());
        }
        let key = ObjectKey { kind, name: name.clone() };
        list.refused.insert(name, Refused { key, uid, fault });
    }

    /// Notes a bad new version; returns what is to be said of it.
    pub(super) fn refuse(
        &mut self,
        kind: Kind,
        name: Option<ObjectName>,
        uid: Option<Arc<str>>,
        fault: Fault,
    ) -> Option<Refused> {
        let Some(name) = name else {
            self.nameless.insert(fault);
            return None;
        };
        let refused = Refused { key: ObjectKey { kind, name: name.clone() }, uid, fault };
        if let Some(list) = self.list.as_mut() {
            list.refused.insert(name, refused);
            return None;
        }
        let before = self.refused.insert(name, refused.clone());
        (before.as_ref() != Some(&refused)).then_some(refused)
    }

    /// Forgets that an object was refused; says whether it was.
    pub(super) fn clear_refusal(&mut self, name: &ObjectName, synced: bool) -> bool {
        match self.waiting_list(synced) {
            Some(list) => list.refused.remove(name).is_some(),
            None => self.refused.remove(name).is_some(),
        }
    }

    /// Puts the list in the place of what was known. An object that may be one whose name cannot be told stays.
    pub(super) fn take_over(&mut self) -> Change {
        let Some(list) = self.list.take() else { return Change::default() };
        let before = std::mem::replace(&mut self.objects, list.objects);
        let mut changed = Vec::new();
        for (name, object) in &self.objects {
            let earlier = before.get(name);
            if earlier != Some(object) {
                changed.push((name.clone(), earlier.cloned()));
            }
        }
        for (name, object) in before {
            if self.objects.contains_key(&name) {
                continue;
            }
            if list.nameless.is_empty() {
                changed.push((name, Some(object)));
            } else {
                self.objects.insert(name, object);
            }
        }
        self.nameless = list.nameless;
        let refused_before = std::mem::replace(&mut self.refused, list.refused);
        let news = self.refused.iter().filter(|(name, refused)| refused_before.get(*name) != Some(*refused));
        let news = news.map(|(_, refused)| refused.clone()).collect();
        (changed, news)
    }

    /// Returns what is wrong, for people.
    pub(super) fn problems(&self, kind: Kind) -> impl Iterator<Item = Problem> {
        let named =
            self.refused.values().map(|refused| Problem::of_object(None, &refused.key, &refused.fault));
        let nameless = self.nameless.iter().map(move |fault| {
            Problem::of_refused(&Refusal { kind: Some(kind), name: None, fault: fault.clone() })
        });
        named.chain(nameless)
    }
}
