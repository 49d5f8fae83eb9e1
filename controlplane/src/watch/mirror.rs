//! The cluster as the API server has told it, and the pure fold of what it tells; no I/O, no clock.
//!
//! A list replaces all that was known of its kind, at its end and at once; what was equal before stays the very same
//! value, so that a list that changes nothing says nothing. Until every kind has been listed once, all lists are held
//! back (K2): what is there meanwhile, from an earlier run, stays whole.

mod held;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::held::{Held, Plain};
use super::wire::Item;
use crate::cluster::{EndpointSlice, Event, ObjectName};
use crate::cluster_file::Contents;
use crate::manifests::{Batch, Problem};
use crate::objects::{Fault, Kind, ObjectKey, Reading};

/// Something that the API server has told.
#[derive(Debug)]
pub(super) enum Told {
    /// A list begins.
    ListBegan(Kind),
    /// A part of it.
    Listed(Kind, Vec<Item>),
    /// All of it has been said.
    ListEnded(Kind),
    /// An object is new or has changed.
    Applied(Kind, Item),
    /// An object is gone.
    Deleted(Kind, Item),
}

/// An object that is not taken over, as those who wrote it are to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// What it is.
    pub(super) key: ObjectKey,
    /// `metadata.uid`.
    pub(super) uid: Option<Arc<str>>,
    /// What is wrong.
    pub(super) fault: Fault,
}

/// All kinds that are followed.
#[derive(Debug)]
pub(super) struct Mirror {
    kinds: BTreeMap<Kind, Held>,
    synced: bool,
    /// What objects were when events were last taken, of those that may differ now.
    touched: BTreeMap<ObjectKey, Option<Plain>>,
    /// Names of nodes and zones, each once.
    names: BTreeSet<Arc<str>>,
    /// Nobody asks for the names of endpoints' Pods.
    drops_pod_names: bool,
    /// Newly refused objects, until they are taken.
    complaints: Vec<Refused>,
    /// What is refused is not what it was.
    problems_changed: bool,
}

impl Mirror {
    /// Knows nothing yet of these kinds.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            kinds: kinds.into_iter().map(|kind| (kind, Held::default())).collect(),
            synced: false,
            touched: BTreeMap::new(),
            names: BTreeSet::new(),
            drops_pod_names: false,
            complaints: Vec::new(),
            problems_changed: false,
        }
    }

    /// Forgets the names of endpoints' Pods as objects come: each is unlike all others, and most gateways use none.
    pub(super) fn without_pod_names(self) -> Self {
        Self { drops_pod_names: true, ..self }
    }

    /// Says whether every kind has been listed.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Begins with what an earlier run knew. Only before anything is told.
    pub(super) fn seed(&mut self, contents: Contents) {
        debug_assert!(!self.synced, "told already");
        let plain = contents
            .namespaces
            .into_iter()
            .map(Plain::Namespace)
            .chain(contents.nodes.into_iter().map(Plain::Node))
            .chain(contents.services.into_iter().map(Plain::Service))
            .chain(contents.slices.into_iter().map(Plain::Slice))
            .chain(contents.pods.into_iter().map(Plain::Pod));
        for mut object in plain {
            self.intern(&mut object);
            let key = object.key();
            if let Some(held) = self.kinds.get_mut(&key.kind) {
                held.objects.insert(key.name.clone(), object);
                self.touched.insert(key, None);
            }
        }
    }

    /// Returns all objects in force.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for object in self.kinds.values().flat_map(|held| held.objects.values().cloned()) {
            match object {
                Plain::Namespace(name) => contents.namespaces.push(name),
                Plain::Node(node) => contents.nodes.push(node),
                Plain::Service(service) => contents.services.push(service),
                Plain::Slice(slice) => contents.slices.push(slice),
                Plain::Pod(pod) => contents.pods.push(pod),
            }
        }
        contents
    }

    /// Folds in what was told; says whether it changed anything in force.
    pub(super) fn apply(&mut self, told: Told) -> bool {
        match told {
            Told::ListBegan(kind) => {
                if let Some(held) = self.kinds.get_mut(&kind) {
                    held.begin_list();
                }
                false
            }
            Told::Listed(kind, items) => {
                items.into_iter().for_each(|item| self.list(kind, item));
                false
            }
            Told::ListEnded(kind) => self.end_list(kind),
            Told::Applied(kind, item) => self.change(kind, item),
            Told::Deleted(kind, item) => item.name.is_some_and(|name| {
                self.clear_refusal(kind, &name);
                self.set(kind, &name, None)
            }),
        }
    }

    fn list(&mut self, kind: Kind, item: Item) {
        let Item { name, uid, reading, .. } = item;
        let outcome = self.outcome(kind, reading);
        let Some(held) = self.kinds.get_mut(&kind) else { return };
        match (outcome, name) {
            (Ok(object), Some(name)) => held.list(name, object),
            (Ok(_), None) => {}
            (Err(fault), name) => held.list_refused(kind, name, uid, fault),
        }
    }

    fn change(&mut self, kind: Kind, item: Item) -> bool {
        let Item { name, uid, reading, .. } = item;
        match (self.outcome(kind, reading), name) {
            (Ok(object), Some(name)) => {
                self.clear_refusal(kind, &name);
                self.set(kind, &name, object)
            }
            (Ok(_), None) => false,
            (Err(fault), name) => {
                if let Some(held) = self.kinds.get_mut(&kind) {
                    self.complaints.extend(held.refuse(kind, name, uid, fault));
                    self.problems_changed = true;
                }
                false
            }
        }
    }

    /// Turns what was read into the value that is kept of it; `None` if nothing is.
    fn outcome(&mut self, kind: Kind, reading: Reading) -> Result<Option<Plain>, Fault> {
        match reading {
            Reading::Ignored(_) => Ok(None),
            Reading::Refused(refusal) => Err(refusal.fault),
            Reading::Object(key, object) => {
                debug_assert_eq!(key.kind, kind, "items are read as their kind");
                let mut plain = Plain::of(object);
                if let Some(plain) = &mut plain {
                    self.intern(plain);
                }
                Ok(plain)
            }
        }
    }

    fn set(&mut self, kind: Kind, name: &ObjectName, object: Option<Plain>) -> bool {
        let synced = self.synced;
        let Some(held) = self.kinds.get_mut(&kind) else { return false };
        if let Some(list) = held.waiting_list(synced) {
            list.set(name, object);
            return false;
        }
        let before = match object {
            Some(object) if held.objects.get(name) == Some(&object) => return false,
            Some(object) => held.objects.insert(name.clone(), object),
            None => match held.objects.remove(name) {
                None => return false,
                before => before,
            },
        };
        self.touched.entry(ObjectKey { kind, name: name.clone() }).or_insert(before);
        true
    }

    fn clear_refusal(&mut self, kind: Kind, name: &ObjectName) {
        let synced = self.synced;
        if let Some(held) = self.kinds.get_mut(&kind) {
            self.problems_changed |= held.clear_refusal(name, synced);
        }
    }

    fn end_list(&mut self, kind: Kind) -> bool {
        if let Some(held) = self.kinds.get_mut(&kind) {
            held.end_list();
        }
        if self.synced {
            return self.take_over(kind);
        }
        self.synced = self.kinds.values().all(Held::is_listed);
        let kinds: Vec<Kind> = self.kinds.keys().copied().filter(|_| self.synced).collect();
        kinds.into_iter().fold(false, |changed, kind| changed | self.take_over(kind))
    }

    /// Puts a whole list in the place of what was known.
    fn take_over(&mut self, kind: Kind) -> bool {
        let Some(held) = self.kinds.get_mut(&kind) else { return false };
        let (changed, refused) = held.take_over();
        self.complaints.extend(refused);
        self.problems_changed = true;
        let any = !changed.is_empty();
        for (name, before) in changed {
            self.touched.entry(ObjectKey { kind, name }).or_insert(before);
        }
        any
    }

    /// Says whether there may be events to take.
    pub(super) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Returns what differs from what the events so far said: what adds before what removes.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        let mut batch = Batch::default();
        for (key, before) in std::mem::take(&mut self.touched) {
            let now = self.kinds.get(&key.kind).and_then(|held| held.objects.get(&key.name)).cloned();
            if before != now {
                note(&mut batch, key, before, now);
            }
        }
        batch.into_events()
    }

    /// Returns objects that were refused since the last call.
    pub(super) fn take_complaints(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.complaints)
    }

    /// Says whether what is refused may have changed since the last call.
    pub(super) fn take_problems_changed(&mut self) -> bool {
        std::mem::take(&mut self.problems_changed)
    }

    /// Returns all that is refused now.
    pub(super) fn problems(&self) -> BTreeSet<Problem> {
        self.kinds.iter().flat_map(|(kind, held)| held.problems(*kind)).collect()
    }

    /// Returns the number of objects in force by kind.
    pub(super) fn objects(&self) -> BTreeMap<Kind, usize> {
        self.kinds.iter().map(|(kind, held)| (*kind, held.objects.len())).collect()
    }

    /// Shares the names that many endpoints have in common.
    fn intern(&mut self, object: &mut Plain) {
        let Plain::Slice(slice) = object else { return };
        let Some(slice) = Arc::get_mut(slice) else { return };
        let EndpointSlice { endpoints, ports, .. } = slice;
        for endpoint in endpoints.iter_mut() {
            endpoint.pod = endpoint.pod.take().filter(|_| !self.drops_pod_names);
            for name in [&mut endpoint.node, &mut endpoint.zone].into_iter().flatten() {
                share(&mut self.names, name);
            }
        }
        ports.iter_mut().for_each(|port| share(&mut self.names, &mut port.name));
        endpoints.shrink_to_fit();
        ports.shrink_to_fit();
    }

    /// Forgets shared names that nobody has any more.
    pub(super) fn forget_unused_names(&mut self) {
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }
}

fn share(names: &mut BTreeSet<Arc<str>>, name: &mut Arc<str>) {
    match names.get(&**name) {
        Some(known) => *name = Arc::clone(known),
        None => {
            names.insert(Arc::clone(name));
        }
    }
}

fn note(batch: &mut Batch, key: ObjectKey, before: Option<Plain>, now: Option<Plain>) {
    let name = key.name;
    match now {
        Some(Plain::Namespace(name)) => batch.namespaces.push(Event::NamespaceApplied(name)),
        Some(Plain::Node(node)) => batch.nodes.push(Event::NodeApplied(node)),
        Some(Plain::Service(service)) => batch.services.push(Event::ServiceApplied(service)),
        Some(Plain::Pod(pod)) => batch.pods.push(Event::PodApplied(pod)),
        Some(Plain::Slice(slice)) => {
            if let Some(Plain::Slice(before)) = before
                && before.service != slice.service
            {
                let service = before.service.clone();
                batch.moved_slices.push(Event::SliceDeleted { name, service });
            }
            batch.slices.push(Event::SliceApplied(slice));
        }
        None => match before {
            Some(Plain::Namespace(name)) => batch.gone_namespaces.push(Event::NamespaceDeleted(name)),
            Some(Plain::Node(node)) => batch.gone_nodes.push(Event::NodeDeleted(node.name.clone())),
            Some(Plain::Service(_)) => batch.gone_services.push(Event::ServiceDeleted(name)),
            Some(Plain::Pod(_)) => batch.pods.push(Event::PodDeleted(name)),
            Some(Plain::Slice(before)) => {
                let service = before.service.clone();
                batch.gone_slices.push(Event::SliceDeleted { name, service });
            }
            None => {}
        },
    }
}
