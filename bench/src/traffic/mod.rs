//! The traffic generator: a client that sends what a plan says, and a sink behind what is measured.
//!
//! ```text
//!  client's device                                            sink's device
//!  Generator ── xsk-rs socket ──▶ whatever is measured ──▶ tc ingress: counts, times, drops
//!     ▲                                                      │ answers SYN, FIN, and datagrams if asked
//!     └── xsk-rs socket ◀── XDP ◀── whatever is measured ◀──┘
//! ```
//!
//! Each packet says which one of its flow it is, and when it was due. So the sink sees loss and reorder, and latency
//! from when a packet was due, however late it left.
//!
//! Reading order: [`targets`] who talks to whom, [`plan`] what is sent and when, [`popularity`] of which flow,
//! [`frame`] the octets, [`ends`] the programs at both ends, [`latency`], [`results`]; with the feature `generator`
//! `port` (xsk-rs) and `generator`.

pub mod ends;
pub mod frame;
#[cfg(feature = "generator")]
pub mod generator;
pub mod latency;
pub mod plan;
pub mod popularity;
#[cfg(feature = "generator")]
pub mod port;
pub mod results;
pub mod targets;
