//! What the cluster wants, and the names. See the crate's README for an update's day.

pub mod cluster;
pub mod instance;
pub mod netlink;
pub mod punt_device;
