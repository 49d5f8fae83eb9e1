//! What the cluster wants, and the names. See the crate's README for an update's day.

pub mod cluster;
pub mod cluster_ip;
pub mod compile;
pub mod endpoint_slices;
pub mod manifests;
pub mod objects;
