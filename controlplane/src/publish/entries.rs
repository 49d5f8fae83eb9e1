//! Which virtual addresses the XDP program takes.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_dataplane::services::Frontend;

use super::Steering;

/// The entries of virtual addresses. An entry is made after the first snapshot that has its address, and goes when
/// every worker is past the last one that had it.
#[derive(Debug, Default)]
pub(super) struct Entries {
    present: BTreeSet<Frontend>,
    /// Those that no snapshot has from that generation on.
    unused: BTreeMap<Frontend, u64>,
}

impl Entries {
    /// Makes an address' entry unless there is one.
    ///
    /// # Errors
    /// The program's.
    pub(super) fn insert(&mut self, address: Frontend, steering: &mut impl Steering) -> anyhow::Result<()> {
        if !self.present.contains(&address) {
            steering.insert_frontend(address)?;
            self.present.insert(address);
        }
        Ok(())
    }

    /// Notes that snapshots have no such address from that generation on.
    pub(super) fn retire(&mut self, address: Frontend, generation: u64) {
        self.unused.insert(address, generation);
    }

    /// Notes that the next snapshot has such an address again.
    pub(super) fn reuse(&mut self, address: Frontend) {
        self.unused.remove(&address);
    }

    /// Says whether entries wait for workers to acknowledge.
    pub(super) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Takes out the entries of addresses that no worker knows any more; returns what the program refused.
    pub(super) fn remove_unused(
        &mut self,
        is_acknowledged: impl Fn(u64) -> bool,
        steering: &mut impl Steering,
    ) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        self.unused.retain(|address, generation| {
            let done = is_acknowledged(*generation);
            if done && self.present.remove(address) {
                errors.extend(steering.remove_frontend(*address).err());
            }
            !done
        });
        errors
    }
}
