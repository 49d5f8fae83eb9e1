//! The events of one change in the order in which they are sent.

use crate::cluster::Event;

/// Events by what they do: what adds comes before what removes, so that nothing is without endpoints in
/// between.
#[derive(Default, Debug)]
pub(crate) struct Batch {
    pub(crate) namespaces: Vec<Event>,
    pub(crate) nodes: Vec<Event>,
    pub(crate) services: Vec<Event>,
    pub(crate) pods: Vec<Event>,
    pub(crate) moved_slices: Vec<Event>,
    pub(crate) slices: Vec<Event>,
    pub(crate) gone_slices: Vec<Event>,
    pub(crate) gone_services: Vec<Event>,
    pub(crate) gone_nodes: Vec<Event>,
    pub(crate) gone_namespaces: Vec<Event>,
}

impl Batch {
    /// Returns all events in their order.
    pub(crate) fn into_events(self) -> Vec<Event> {
        let order = [
            self.namespaces,
            self.nodes,
            self.services,
            self.pods,
            self.moved_slices,
            self.slices,
            self.gone_slices,
            self.gone_services,
            self.gone_nodes,
            self.gone_namespaces,
        ];
        order.into_iter().flatten().collect()
    }
}
