//! How each watch fares, for metrics and for people; shared by the followers and the control loop.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use crate::objects::Kind;

/// One watch.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// When anything was last heard on it: an event, a bookmark, a part of a list.
    pub(super) heard: Instant,
    /// Lists that were begun since the start, the first one left out.
    pub(super) relists: u64,
    /// Times that it failed.
    pub(super) failures: u64,
    /// Why it does not work now.
    pub(super) trouble: Option<String>,
    listed: bool,
}

/// All watches.
#[derive(Debug)]
pub(super) struct Lives(Mutex<BTreeMap<Kind, Life>>);

impl Lives {
    /// Begins with watches that have heard nothing so far.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let heard = Instant::now();
        let life = Life { heard, relists: 0, failures: 0, trouble: None, listed: false };
        Self(Mutex::new(kinds.into_iter().map(|kind| (kind, life.clone())).collect()))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Kind, Life>> {
        // No holder of the lock can leave half a change behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something was heard.
    pub(super) fn hear(&self, kind: Kind) {
        if let Some(life) = self.all().get_mut(&kind) {
            life.heard = Instant::now();
        }
    }

    /// Notes that a list begins.
    pub(super) fn begin_list(&self, kind: Kind) {
        if let Some(life) = self.all().get_mut(&kind) {
            life.relists += u64::from(std::mem::replace(&mut life.listed, true));
        }
    }

    /// Notes a failure; says whether it is another one than before.
    pub(super) fn fail(&self, kind: Kind, why: String) -> bool {
        let mut all = self.all();
        let Some(life) = all.get_mut(&kind) else { return false };
        life.failures += 1;
        let is_new = life.trouble.as_ref() != Some(&why);
        life.trouble = Some(why);
        is_new
    }

    /// Notes that it works; says whether it did not before.
    pub(super) fn mend(&self, kind: Kind) -> bool {
        self.all().get_mut(&kind).is_some_and(|life| life.trouble.take().is_some())
    }

    /// Returns how each fares now.
    pub(super) fn snapshot(&self) -> BTreeMap<Kind, Life> {
        self.all().clone()
    }

    /// Says whether any of them does not work now.
    pub(super) fn has_trouble(&self) -> bool {
        self.all().values().any(|life| life.trouble.is_some())
    }
}
