//! The rules of a Service, each by its K number: manifests in, packets in, packets out, every counter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

#[path = "../../../dataplane/tests/path_rig/mod.rs"]
mod path_rig;
mod world;

mod addresses;
mod affinity;
mod choice;
mod model;
mod objects;
mod policies;
mod property;
mod state;
