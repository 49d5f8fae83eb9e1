//! The events of one change in the order in which they are sent.

use crate::cluster::Event;

/// Events by what they do: what adds comes before what removes, so that nothing is without endpoints in
/// between.
#[derive(Default, Debug)]
pub(super) struct Batch {
    pub(super) namespaces: Vec<Event>,
    pub(super) nodes: Vec<Event>,
    pub(super) services: Vec<Event>,
    pub(super) pods: Vec<Event>,
    pub(super) moved_slices: Vec<Event>,
    pub(super) slices: Vec<Event>,
    pub(super) gone_slices: Vec<Event>,
    pub(super) gone_services: Vec<Event>,
    pub(super) gone_nodes: Vec<Event>,
    pub(super) gone_namespaces: Vec<Event>,
}

impl Batch {
    /// Returns all events in their order.
    pub(super) fn into_events(self) -> Vec<Event> {
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
