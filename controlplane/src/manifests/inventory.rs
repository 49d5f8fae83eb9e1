//! The objects that the files hold, and which of them are in force; pure.
//!
//! State is never lost by accident: a file that cannot be read keeps its last good content, an object that
//! became bad keeps its last good version.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::file::{Content, FileFault};
use super::problem::Problem;
use crate::cluster::ObjectName;
use crate::objects::{Kind, Object, ObjectKey, Reading, Refusal};

/// An object in force that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) key: ObjectKey,
    pub(super) before: Option<Object>,
    pub(super) after: Option<Object>,
}

/// All files and their objects.
#[derive(Default, Debug)]
pub(super) struct Inventory {
    files: BTreeMap<Arc<str>, File>,
    holders: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
    contested: BTreeSet<ObjectKey>,
    in_force: BTreeMap<ObjectKey, Object>,
}

#[derive(Default, Debug)]
struct File {
    objects: BTreeMap<ObjectKey, (u64, Object)>,
    /// The file as a whole cannot be used; its objects are the last good ones.
    fault: Option<Problem>,
    /// What is wrong with single objects.
    problems: Vec<Problem>,
    /// What was read and is of no use.
    ignored: BTreeSet<String>,
}

impl Inventory {
    /// Takes in the new content of a file.
    pub(super) fn apply(&mut self, name: &Arc<str>, content: Content) -> Vec<Change> {
        let file = self.files.entry(name.clone()).or_default();
        if content.is_empty() && !file.objects.is_empty() {
            let what = "holds no documents; its last good content stays in force";
            file.fault = Some(Problem::of_file(name, None, what));
            return Vec::new();
        }
        let (mut fresh, refusals) = File::sort(name, content);
        for (key, earlier) in &file.objects {
            if !fresh.objects.contains_key(key) && refusals.iter().any(|refusal| may_mean(refusal, key)) {
                fresh.objects.insert(key.clone(), earlier.clone());
            }
        }
        let keys: BTreeSet<ObjectKey> = file.objects.keys().chain(fresh.objects.keys()).cloned().collect();
        *file = fresh;
        keys.into_iter().filter_map(|key| self.refresh(key, name)).collect()
    }

    /// Notes that a file cannot be used; its last good content stays in force.
    pub(super) fn fail(&mut self, name: &Arc<str>, fault: &FileFault) {
        let file = self.files.entry(name.clone()).or_default();
        let kept = if file.objects.is_empty() { "" } else { "; its last good content stays in force" };
        file.fault = Some(Problem::of_file(name, fault.line, &format!("{}{kept}", fault.what)));
    }

    /// Takes out a file that is gone.
    pub(super) fn remove(&mut self, name: &Arc<str>) -> Vec<Change> {
        let Some(file) = self.files.remove(name) else { return Vec::new() };
        file.objects.into_keys().filter_map(|key| self.refresh(key, name)).collect()
    }

    /// Finds out again which version of an object is in force, after file `name` changed.
    fn refresh(&mut self, key: ObjectKey, name: &Arc<str>) -> Option<Change> {
        let holders = self.holders.entry(key.clone()).or_default();
        if self.files.get(name).is_some_and(|file| file.objects.contains_key(&key)) {
            holders.insert(name.clone());
        } else {
            holders.remove(name);
        }
        if holders.len() > 1 {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(&key);
        }
        let first = holders.first().cloned();
        if first.is_none() {
            self.holders.remove(&key);
        }
        let after = first.and_then(|file| Some(self.files.get(&file)?.objects.get(&key)?.1.clone()));
        let before = match after.clone() {
            Some(object) => self.in_force.insert(key.clone(), object),
            None => self.in_force.remove(&key),
        };
        (before != after).then_some(Change { key, before, after })
    }

    /// Returns all that is wrong with files and their objects.
    pub(super) fn problems(&self) -> BTreeSet<Problem> {
        let mut problems = BTreeSet::new();
        for file in self.files.values() {
            problems.extend(file.fault.iter().chain(&file.problems).cloned());
        }
        for key in &self.contested {
            let mut files = self.holders.get(key).into_iter().flatten();
            let Some(first) = files.next() else { continue };
            for other in files {
                let line = self.files.get(other).and_then(|file| Some(file.objects.get(key)?.0));
                let what =
                    format!("is also in {first}, which is first in the order of names and stays in force");
                let object = Some(key.to_string());
                problems.insert(Problem { file: Some(other.clone()), line, object, field: None, what });
            }
        }
        problems
    }

    /// Returns what was read and is of no use, each in words.
    pub(super) fn ignored(&self) -> impl Iterator<Item = &String> {
        self.files.values().flat_map(|file| &file.ignored)
    }

    /// Returns the object of that key in force.
    pub(super) fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.in_force.get(key)
    }

    /// Returns file and line of the object in force.
    pub(super) fn place(&self, key: &ObjectKey) -> Option<(&Arc<str>, u64)> {
        let file = self.holders.get(key)?.first()?;
        Some((file, self.files.get(file)?.objects.get(key)?.0))
    }

    /// Iterates over the objects of a kind that are in force, of one namespace or of all.
    pub(super) fn of_kind(&self, kind: Kind, namespace: Option<&str>) -> impl Iterator<Item = &Object> {
        let first = ObjectKey { kind, name: ObjectName::new(namespace.unwrap_or_default(), "") };
        let range = self.in_force.range((Bound::Included(first), Bound::Unbounded));
        let namespace = namespace.map(str::to_owned);
        range
            .take_while(move |(key, _)| {
                key.kind == kind && namespace.as_ref().is_none_or(|name| **name == *key.name.namespace)
            })
            .map(|(_, object)| object)
    }

    /// Returns the number of files that are known, and of those that cannot be used now.
    pub(super) fn files(&self) -> (usize, usize) {
        (self.files.len(), self.files.values().filter(|file| file.fault.is_some()).count())
    }

    /// Returns the number of objects of a kind in force.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of_kind(kind, None).count()
    }

    /// Says whether every file and object is in order.
    pub(super) fn is_sound(&self) -> bool {
        self.files.values().all(|file| file.fault.is_none() && file.problems.is_empty())
    }
}

impl File {
    fn sort(name: &Arc<str>, content: Content) -> (Self, Vec<Refusal>) {
        let mut file = Self::default();
        let mut refusals = Vec::new();
        for (line, reading) in content {
            match reading {
                Reading::Object(key, object) => match file.objects.get(&key) {
                    None => {
                        file.objects.insert(key, (line, object));
                    }
                    Some((first, _)) => {
                        let what = format!("is also at line {first} of this file; that one stays in force");
                        let (file_name, object) = (Some(name.clone()), Some(key.to_string()));
                        let problem =
                            Problem { file: file_name, line: Some(line), object, field: None, what };
                        file.problems.push(problem);
                    }
                },
                Reading::Refused(refusal) => {
                    file.problems.push(Problem::of_refusal(name, line, &refusal));
                    refusals.push(refusal);
                }
                Reading::Ignored(what) => {
                    file.ignored.insert(what);
                }
            }
        }
        (file, refusals)
    }
}

/// Adds changes that follow others, so that each object has one change from first to last.
pub(super) fn merge(changes: &mut BTreeMap<ObjectKey, Change>, later: Vec<Change>) {
    for change in later {
        match changes.get_mut(&change.key) {
            Some(earlier) => earlier.after = change.after,
            None => {
                changes.insert(change.key.clone(), change);
            }
        }
    }
}

/// Says whether a refused document may be a new version of the object: if it does not say what it is, it may.
fn may_mean(refusal: &Refusal, key: &ObjectKey) -> bool {
    refusal.kind.is_none_or(|kind| kind == key.kind)
        && refusal.name.as_ref().is_none_or(|name| *name == key.name)
}

#[cfg(test)]
mod tests;
