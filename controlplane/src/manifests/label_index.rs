//! Which objects of a namespace carry a label, or look for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::ObjectName;

/// Namespace, key and value.
type Entry = (Arc<str>, Arc<str>, Arc<str>);

/// Names by label. A look-up costs the objects found.
#[derive(Default, Debug)]
pub(super) struct LabelIndex {
    names: BTreeMap<Entry, BTreeSet<ObjectName>>,
}

impl LabelIndex {
    /// Enters an object under labels.
    pub(super) fn insert<'a>(
        &mut self,
        name: &ObjectName,
        labels: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
    ) {
        for (key, value) in labels {
            let entry = (name.namespace.clone(), key.clone(), value.clone());
            self.names.entry(entry).or_default().insert(name.clone());
        }
    }

    /// Removes an object from under labels.
    pub(super) fn remove<'a>(
        &mut self,
        name: &ObjectName,
        labels: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
    ) {
        for (key, value) in labels {
            let entry = (name.namespace.clone(), key.clone(), value.clone());
            if let Some(names) = self.names.get_mut(&entry) {
                names.remove(name);
                if names.is_empty() {
                    self.names.remove(&entry);
                }
            }
        }
    }

    /// Returns the objects of a namespace under one label.
    pub(super) fn lookup(
        &self,
        namespace: &Arc<str>,
        key: &Arc<str>,
        value: &Arc<str>,
    ) -> Option<&BTreeSet<ObjectName>> {
        self.names.get(&(namespace.clone(), key.clone(), value.clone()))
    }
}
