//! What happens to a packet.
//!
//! The crate knows no Kubernetes, no DNS server and no async runtime. See its README for a packet's day.
//!
//! Reading order: [`process`] is the packet path; [`packet`] and [`net`] are what it reads, [`services`],
//! [`choice`], [`affinity`], [`maglev`], [`routes`] and [`neighbours`] what it asks, [`flows`], [`tcp_state`],
//! [`sctp_state`] and [`fragments`] what it remembers, [`masquerade`], [`rewrite`], [`icmp_error`] and [`answer`] what
//! it does (answers within [`rate_limit`]), [`verdict`] and [`counters`] what it says. [`worker`] drives it with the
//! sockets of [`xsk`], fed by the program of [`xdp`] and with tables from [`snapshot`].

pub mod accounts;
pub mod affinity;
pub mod answer;
pub mod choice;
pub mod clock;
pub mod counters;
pub mod departed;
pub mod family;
pub mod flows;
pub mod fragments;
pub mod held;
pub mod icmp_error;
pub mod maglev;
pub mod masquerade;
pub mod neighbours;
pub mod net;
pub mod packet;
pub mod process;
pub mod rate_limit;
pub mod reset;
pub mod rewrite;
pub mod routes;
pub mod sctp_state;
pub mod services;
pub mod snapshot;
pub mod tcp_state;
pub mod tombstones;
pub mod verdict;
mod way_out;
pub mod worker;
pub mod xdp;
pub mod xsk;
