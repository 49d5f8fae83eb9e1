//! How packets to a Service are to be treated, beyond its ClusterIPs and ports: plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tidegate_dataplane::services;

/// Which endpoints the packets of a traffic policy may go to (K19-K21).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Policy {
    /// All of the Service.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

/// How an endpoint is chosen (K13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Choice {
    /// By the flow: the same on every gateway.
    #[default]
    Maglev,
    /// Any.
    Random,
    /// The one with the fewest flows for its weight.
    LeastConnections,
}

impl From<Choice> for services::Choice {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Maglev => Self::Maglev,
            Choice::Random => Self::Random,
            Choice::LeastConnections => Self::LeastConnections,
        }
    }
}

/// What the fields and annotations of a Service say about its packets.
///
/// | Annotation | Values | Meaning |
/// |---|---|---|
/// | `tidegate.io/choice` | `maglev` (default), `random`, `least-connections` | how an endpoint is chosen |
/// | `tidegate.io/weights` | `10.244.0.11=3,10.244.0.12=1` | shares of endpoints, 1 to 100; 1 for those not named |
/// | `tidegate.io/reset-after` | a time as `1s` or `250ms` (default 1s), `off` | when TCP connections to an endpoint are reset that is in no slice any more |
/// | `tidegate.io/repick` | `on` (default), `off` | whether UDP and SCTP flows leave an endpoint that no longer serves |
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// `spec.externalIPs` (K17).
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer.ingress` that are not a proxy's (K18).
    pub balancer_addresses: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` (K22).
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy` (K21).
    pub internal: Policy,
    /// `spec.externalTrafficPolicy` (K20).
    pub external: Policy,
    /// `spec.healthCheckNodePort` (K32).
    pub health_check_port: Option<u16>,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, with affinity ClientIP (K14).
    pub affinity_seconds: Option<u32>,
    /// How an endpoint is chosen (K13).
    pub choice: Choice,
    /// Shares of endpoints by address; those not named have 1.
    pub weights: BTreeMap<IpAddr, u16>,
    /// How long after an endpoint has left all slices its TCP connections are reset; `None` for never (K26).
    pub reset_after: Option<Duration>,
    /// Flows without connections leave an endpoint that no longer serves (K27).
    pub repick: bool,
}

impl Traffic {
    /// Time after which connections to an endpoint that is gone are reset (design decision 9).
    pub const RESET_AFTER: Duration = Duration::from_secs(1);
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            external_addresses: Vec::new(),
            balancer_addresses: Vec::new(),
            source_ranges: Vec::new(),
            internal: Policy::Cluster,
            external: Policy::Cluster,
            health_check_port: None,
            affinity_seconds: None,
            choice: Choice::Maglev,
            weights: BTreeMap::new(),
            reset_after: Some(Self::RESET_AFTER),
            repick: true,
        }
    }
}
