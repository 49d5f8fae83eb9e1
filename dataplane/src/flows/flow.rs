//! A flow as it goes into the table and as it comes out.

use core::fmt;
use std::net::Ipv4Addr;

use super::{Direction, Key, State};
use crate::net::Address;

/// The stable identity of a Service port: a 64-bit hash made by the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServicePortId(pub u64);

/// The stable identity of an endpoint: a 64-bit hash made by the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct EndpointId(pub u64);

/// A flow that is to be inserted: both keys as their packets arrive, and the rewrite as values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFlow<A: Address = Ipv4Addr> {
    /// Key of packets from the client, as they reach us.
    pub request: Key<A>,
    /// Key of packets from the backend, as they reach us. Its protocol is that of the request.
    pub reply: Key<A>,
    /// The Service port that the client called.
    pub service: ServicePortId,
    /// The endpoint that was chosen.
    pub endpoint: EndpointId,
    /// Checksum difference of the addresses in request direction.
    pub ip_difference: u16,
    /// Checksum difference of the transport header in request direction.
    pub transport_difference: u16,
    /// State after the first packet.
    pub state: State,
    /// The row that its packets are counted in ([`crate::accounts`]); the table keeps 24 bits.
    pub account: u32,
}

/// Names one flow for as long as it lives; afterwards every use of it misses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowRef {
    pub(super) record: u32,
    pub(super) generation: u32,
}

/// What a look-up tells about the flow of a packet, for the direction of that packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<A: Address = Ipv4Addr> {
    /// The flow.
    pub flow: FlowRef,
    /// Which way the packet goes.
    pub direction: Direction,
    /// The flow's state before this packet.
    pub state: State,
    /// The header fields that the packet leaves with.
    pub leaves_as: Key<A>,
    /// Checksum difference of the addresses for this direction.
    pub ip_difference: u16,
    /// Checksum difference of the transport header for this direction.
    pub transport_difference: u16,
    /// The cached next hop of this direction; zero if there is none.
    pub next_hop: u64,
    /// Second of the last packet, or of the last change of state.
    pub last_seen: u32,
    /// The row that its packets are counted in.
    pub account: u32,
}

/// A flow that was met in going through the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned<A: Address = Ipv4Addr> {
    /// The flow.
    pub flow: FlowRef,
    /// Its state at that moment.
    pub state: State,
    /// Key of packets from the client.
    pub request: Key<A>,
    /// Key of packets from the backend.
    pub reply: Key<A>,
    /// The Service port that the client called.
    pub service: ServicePortId,
    /// The endpoint that was chosen.
    pub endpoint: EndpointId,
}

/// Why a flow did not go in. Nothing of it is left in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// A live flow has the request key: look it up.
    RequestTaken,
    /// A live flow has the reply key: try another source port.
    ReplyTaken,
    /// No record is free, or no slot in either bucket of a key.
    Full,
    /// Another worker is inserting one of the keys at this moment; both may have given way.
    Contended,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestTaken => "flow table: the request key belongs to another flow",
            Self::ReplyTaken => "flow table: the reply key belongs to another flow",
            Self::Full => "flow table: full",
            Self::Contended => "flow table: another worker is inserting the same key",
        })
    }
}

impl core::error::Error for InsertError {}
