//! Which endpoints the XDP program knows, and how many tables list each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Steering;
use crate::tables::EndpointKey;

/// The entries of endpoints. An entry is made before the first snapshot that lists its endpoint, and goes when no
/// table lists it, every worker is past the last snapshot that did, and no flow uses it.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// How many tables list each endpoint.
    listed: HashMap<EndpointKey, u32>,
    /// Entries that no table lists, with the generation of the first snapshot without them.
    leaving: BTreeMap<EndpointKey, u64>,
    /// Those for which the program took no entry when it was last asked.
    refused: BTreeSet<EndpointKey>,
}

impl Endpoints {
    /// Makes an endpoint's entry unless there is one; until a table lists it, it counts as leaving.
    ///
    /// # Errors
    /// The program's, the first time; `None` if the program refused this endpoint before.
    pub(super) fn prepare(
        &mut self,
        endpoint: EndpointKey,
        steering: &mut impl Steering,
    ) -> Result<(), Option<anyhow::Error>> {
        if self.listed.contains_key(&endpoint) || self.leaving.contains_key(&endpoint) {
            return Ok(());
        }
        if self.refused.contains(&endpoint) {
            return Err(None);
        }
        if let Err(error) = steering.insert_endpoint(&endpoint) {
            self.refused.insert(endpoint);
            return Err(Some(error));
        }
        self.leaving.insert(endpoint, 0);
        Ok(())
    }

    /// Notes that one more table lists each of these.
    pub(super) fn list(&mut self, endpoints: &BTreeSet<EndpointKey>) {
        for endpoint in endpoints {
            *self.listed.entry(*endpoint).or_default() += 1;
            self.leaving.remove(endpoint);
        }
    }

    /// Notes that one table less lists each of these, from the snapshot of that generation on.
    pub(super) fn unlist(&mut self, endpoints: &BTreeSet<EndpointKey>, generation: u64) {
        for endpoint in endpoints {
            let Some(tables) = self.listed.get_mut(endpoint) else { continue };
            *tables -= 1;
            if *tables == 0 {
                self.listed.remove(endpoint);
                self.leaving.insert(*endpoint, generation);
            }
        }
    }

    /// Returns the leaving endpoints that no worker can choose any more.
    pub(super) fn unlisted_since(&self, is_acknowledged: impl Fn(u64) -> bool) -> Vec<EndpointKey> {
        let past = self.leaving.iter().filter(|(_, generation)| is_acknowledged(**generation));
        past.map(|(endpoint, _)| *endpoint).collect()
    }

    /// Takes out the entry of a leaving endpoint.
    ///
    /// # Errors
    /// The program's; the entry counts as gone all the same.
    pub(super) fn remove(
        &mut self,
        endpoint: &EndpointKey,
        steering: &mut impl Steering,
    ) -> anyhow::Result<()> {
        self.leaving.remove(endpoint);
        steering.remove_endpoint(endpoint)
    }

    /// Lets the program be asked again for entries that it refused.
    pub(super) fn forget_refusals(&mut self) {
        self.refused.clear();
    }

    /// Returns those for which the program took no entry.
    pub(super) fn refused(&self) -> &BTreeSet<EndpointKey> {
        &self.refused
    }

    /// Says whether entries wait to be taken out.
    pub(super) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Returns how many endpoints are listed.
    pub(super) fn len(&self) -> usize {
        self.listed.len()
    }
}
