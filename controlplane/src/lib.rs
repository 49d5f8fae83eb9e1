//! What the cluster wants, and the names. See the crate's README for an update's day.
//!
//! Reading order: [`start`] puts the parts together, [`gateway`] is the loop that drives them. The source
//! ([`manifests`], with [`objects`], [`endpoint_slices`] and [`cluster_ip`]) sends events, [`cluster`] folds them (what
//! they say of packets: [`traffic`]), [`compile`] and [`tables`] turn Services into the dataplane's tables, [`publish`]
//! puts them in force through [`steering`] and the workers ([`workers`]). [`netlink`] and [`topology`] follow the kernel's
//! links. [`dns`] answers names, [`explain`] says why. [`http`] and [`status`] say how it goes; [`instance`],
//! [`punt_device`] and [`offloads`] are what a run puts on the machine and takes away again.

pub mod account_book;
pub mod announce;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod cluster_file;
pub mod cluster_ip;
pub mod compile;
pub mod devices;
pub mod dns;
pub mod endpoint_slices;
pub mod explain;
pub mod frame_limit;
pub mod frontends;
pub mod gateway;
pub mod http;
pub mod instance;
pub mod latency;
pub mod manifests;
pub mod masquerade;
pub mod memory;
pub mod netlink;
pub mod objects;
pub mod offloads;
pub mod pages;
pub mod pod_environment;
mod printout;
pub mod programming;
pub mod publish;
pub mod punt_device;
pub mod reserved_ports;
pub mod settings;
pub mod source;
pub mod start;
pub mod status;
pub mod steering;
mod sysctl;
pub mod tables;
pub mod topology;
pub mod traffic;
pub mod watch;
pub mod workers;
