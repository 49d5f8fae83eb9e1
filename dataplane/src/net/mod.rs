//! What is on the wire: one header per file, each a view over octets that exists only if its octets do.
//!
//! Reading order: [`ethernet`], [`ipv4`], [`tcp`], [`udp`], [`icmpv4`], [`checksum`].

mod address;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod ipv4;
mod prefix;
pub mod tcp;
pub mod udp;

pub use address::{Address, Mac, Port, Protocol};
pub use prefix::Prefix;
