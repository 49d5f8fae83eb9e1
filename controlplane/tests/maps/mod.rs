//! The XDP program's maps, without a kernel.

use std::collections::BTreeSet;

use tidegate::publish::Steering;
use tidegate::tables::EndpointKey;
use tidegate_dataplane::services::Frontend;

/// XDP maps that take everything.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) endpoints: BTreeSet<EndpointKey>,
    pub(crate) frontends: BTreeSet<Frontend>,
}

impl Steering for Maps {
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        self.endpoints.insert(*endpoint);
        Ok(())
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        self.endpoints.remove(endpoint);
        Ok(())
    }

    fn insert_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        self.frontends.insert(frontend);
        Ok(())
    }

    fn remove_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        self.frontends.remove(&frontend);
        Ok(())
    }
}
