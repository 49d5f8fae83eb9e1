//! What the zone says to a question.

use super::{Name, Record};
use crate::cluster::ObjectName;

/// What to answer, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What to answer.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
}

/// What to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// NOERROR with records.
    Answer {
        /// For the answer section.
        records: Vec<Record>,
        /// Addresses of targets, for the additional section.
        additionals: Vec<Record>,
    },
    /// NOERROR without records: the name exists, the type does not. Holds the SOA.
    NoData(Record),
    /// The name does not exist, nor does any below it (RFC 8020). Holds the SOA.
    NxDomain(Record),
    /// SERVFAIL: the cluster is not known yet. Holds the SOA.
    Unsynced(Record),
    /// The name is an alias of a name outside the zone, which somebody else has to be asked about.
    Chase {
        /// CNAMEs from the question to the target.
        aliases: Vec<Record>,
        /// The name outside.
        target: Name,
    },
    /// Not our name: for the forwarder.
    Forward,
    /// REFUSED: zone transfers.
    Refuse,
}

/// Why a verdict is what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The sources have not all been read.
    NotSynced,
    /// The name is outside the cluster zone and its reverse zones.
    NotOurs,
    /// AXFR or IXFR.
    Transfer,
    /// The top of the zone or of a reverse zone.
    Apex,
    /// `dns-version` (S1).
    Version,
    /// The name server's own name.
    NameServer,
    /// The name exists only because names exist below it.
    EmptyNonTerminal,
    /// No rule gives such a name.
    NoSuchName,
    /// The namespace does not exist.
    NoSuchNamespace,
    /// The namespace is not among those that names are served of.
    HiddenNamespace,
    /// AAAA is switched off.
    AaaaOff,
    /// The namespace has no such Service.
    NoSuchService,
    /// A Service by its ClusterIPs (S2, S3).
    ClusterIp(ObjectName),
    /// A headless Service by its ready endpoints (S7).
    Endpoints(ObjectName),
    /// A headless Service without a ready endpoint (S7), or another one if such are not to be named.
    NoReadyEndpoint(ObjectName),
    /// Ports of a Service (S4, S9).
    Ports(ObjectName),
    /// One endpoint of a Service (S8).
    Endpoint(ObjectName),
    /// The Service has no such port or endpoint.
    NoSuchPart(ObjectName),
    /// A Service of type ExternalName (S11).
    ExternalName(ObjectName),
    /// An ExternalName whose chain of aliases leads to no address of the type asked, or in a circle.
    DanglingAlias(ObjectName),
    /// An ExternalName that is an address or no name.
    InvalidExternalName(ObjectName),
    /// An address spelled as the name of a pod.
    Pod,
    /// The address of a Pod that is there.
    VerifiedPod(ObjectName),
    /// No address is spelled, or no Pod of the namespace has it.
    NoSuchPod,
    /// Names of pods are switched off.
    PodNamesOff,
    /// A reverse name of a ClusterIP (S5, S6).
    ReverseClusterIp(ObjectName),
    /// A reverse name of endpoints (S10): the Service of the first.
    ReverseEndpoints(ObjectName),
    /// An address in a service CIDR that no Service has.
    UnknownAddress,
}

impl Reason {
    /// Returns the number of the rule in the Kubernetes DNS specification that decided, if one did.
    #[must_use]
    pub fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Version => Some("S1"),
            Self::ClusterIp(_) => Some("S2, S3"),
            Self::Ports(_) => Some("S4, S9"),
            Self::ReverseClusterIp(_) => Some("S5, S6"),
            Self::Endpoints(_) | Self::NoReadyEndpoint(_) => Some("S7"),
            Self::Endpoint(_) => Some("S8"),
            Self::ReverseEndpoints(_) => Some("S10"),
            Self::ExternalName(_) | Self::DanglingAlias(_) | Self::InvalidExternalName(_) => Some("S11"),
            Self::Pod
            | Self::VerifiedPod(_)
            | Self::NoSuchPod
            | Self::PodNamesOff
            | Self::Apex
            | Self::NameServer => Some("S13"),
            _ => None,
        }
    }
}
