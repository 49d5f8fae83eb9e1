//! What happens to a packet.
//!
//! The crate knows no Kubernetes, no DNS server and no async runtime. See its README for a packet's day.

pub mod clock;
pub mod net;
pub mod routes;

pub mod xdp;
pub mod xsk;
