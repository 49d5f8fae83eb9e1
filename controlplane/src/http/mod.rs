//! What is told over HTTP, the only room that names axum: [`metrics`] with the probes to whoever asks there, and what load
//! balancers ask about a Service at a port of its own ([`health_checks`]).

pub mod health_checks;
pub mod metrics;
