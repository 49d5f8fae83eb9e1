//! Contenders side by side: each between a client and pods of its own, measured in turn.
//!
//! Reading order: [`contender`] who is compared, `rig` what each stands in, `setup` how it is started, [`kube_proxy`]
//! and [`manifests`] what it is told, [`search`] the highest rate, `measure` the order of
//! it all, [`record`] what is written down, [`report`] what is made of that;
//! [`difference`] whether one of two commits is faster.

pub mod contender;
pub mod difference;
pub mod kube_proxy;
pub mod manifests;
#[cfg(feature = "generator")]
pub mod measure;
pub mod record;
pub mod report;
#[cfg(feature = "generator")]
pub mod rig;
pub mod search;
#[cfg(feature = "generator")]
pub mod setup;
