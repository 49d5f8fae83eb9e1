//! A gateway without a network: a cluster's tables, packets of its flows, and the packet path on real frames.
//!
//! Reading order: [`cluster`] says who there is, [`order`] in which order flows come, [`packet`] writes what they send,
//! [`gateway`] carries it, [`bursts`] says what that took, [`stages`] lists all that is measured so. [`names`] is another cluster, for DNS. The benches are in
//! `benches/`, their figures in the README.
//!
//! And gateways on a network, between real devices in namespaces: [`traffic`] generates and counts, [`compare`] sets up
//! contenders and measures them in turn, [`flow_entries`] is an experiment, [`netns`] and [`processor`] what all need.

pub mod bursts;
pub mod cluster;
pub mod compare;
pub mod flow_entries;
pub mod gateway;
pub mod names;
pub mod netns;
pub mod order;
pub mod packet;
pub mod processor;
pub mod stages;
pub mod traffic;
