//! Cluster DNS: names from the same state as the packets.
//!
//! In reading order: [`Name`] and [`Record`] are plain values; `service_names` turns one Service and its
//! slices into names; [`Zone`] is the immutable table of them all, changed by the cost of what changed
//! (`trie`); [`resolve()`] is the one pure function from a question to a [`Verdict`], `reverse` its half for
//! addresses. Only `server`, `responder`, `reply` and `forward` know hickory, the wire format and sockets:
//! [`Server`] answers from the zone, and asks others for the rest.

mod counters;
mod explain;
mod forward;
mod listen;
mod name;
mod record;
mod reply;
mod resolv_conf;
mod resolve;
mod responder;
mod reverse;
mod server;
mod service_names;
mod trie;
mod verdict;
mod zone;

/// Filter directive that keeps hickory from logging every query it answers.
pub const LOG_FILTER: &str = "hickory_server=warn";

pub use counters::{Counters, Sample};
pub use explain::explain;
pub use forward::ForwardSettings;
pub use name::{InvalidName, Name, NameRef};
pub use record::{Data, Owner, Record, Type};
pub use resolv_conf::ResolvConf;
pub use resolve::resolve;
pub use server::{Error, Server, ServerSettings};
pub use verdict::{Outcome, Reason, Verdict};
pub use zone::{PodNames, Zone, ZoneSettings};
