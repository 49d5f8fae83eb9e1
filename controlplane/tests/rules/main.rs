//! The rules of a Service, each by its K number: manifests in, packets in, packets out, every counter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

#[path = "../maps/mod.rs"]
mod maps;
#[path = "../netlink/namespace.rs"]
#[allow(dead_code, reason = "another test program's; these tests take what they need")]
mod namespace;
#[path = "../../../dataplane/tests/path_rig/mod.rs"]
mod path_rig;
mod world;

mod addresses;
mod affinity;
mod choice;
mod departures;
mod kernel;
mod kube_proxy;
mod model;
mod objects;
mod policies;
mod property;
mod protocols;
mod random;
mod resets;
mod state;
