//! Cluster DNS: names from the same state as the packets.
//!
//! In reading order: [`Name`] and [`Record`] are plain values; `service_names` turns one Service and its
//! slices into names; [`Zone`] is the immutable table of them all, changed by the cost of what changed
//! (`trie`); [`resolve()`] is the one pure function from a question to a [`Verdict`], `reverse` its half for
//! addresses, [`explain()`] says it in words.
//!
//! [`Server`] has the sockets (`listen`, `udp`, `tcp`). `responder` takes a message from them: a plain [`Query`] about
//! a name of ours is answered by `writer` (with `compression`), straight from the verdict's records. Everything else
//! is hickory's to decode and encode (`reply`), and what is not ours is for others to answer: `forward`, with its
//! `cache`, `upstream`, `loops`, `complaints`. [`Counters`] counts it all.

mod cache;
mod complaints;
mod compression;
mod counters;
mod events;
mod explain;
mod forward;
#[cfg(test)]
mod fuzz;
mod histogram;
mod listen;
mod loops;
mod name;
mod query;
mod record;
mod reply;
mod resolv_conf;
mod resolve;
mod responder;
mod reverse;
mod server;
mod service_names;
mod tcp;
mod trie;
mod udp;
mod upstream;
mod upstream_counters;
mod verdict;
mod writer;
mod zone;
mod zone_settings;

pub use counters::{Counters, Sample, Value};
pub use explain::explain;
pub use forward::ForwardSettings;
pub use name::{InvalidName, Name, NameRef};
pub use query::{Edns, NameBuffer, Query};
pub use record::{Data, Owner, Record, Type};
pub use resolv_conf::ResolvConf;
pub use resolve::resolve;
pub use server::{Error, Server, ServerSettings};
pub use tcp::TcpLimits;
pub use verdict::{Outcome, Reason, Verdict};
pub use writer::Writer;
pub use zone::Zone;
pub use zone_settings::{PodNames, ZoneSettings};
