//! The way out of a rewritten packet: its next hop, from what the flow remembers or from routes and neighbours.

use crate::family::Family;
use crate::flows::NEXT_HOP_BITS;
use crate::neighbours::{NeighbourState, NextHop};
use crate::packet::Packet;
use crate::process::Context;
use crate::routes::RouteKind;
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Egress};

/// Bits of a cached next hop that hold its position among the neighbours; the rest is the generation's.
const POSITION_BITS: u32 = 20;

/// The way out of a rewritten packet, and what the flow may remember of it.
pub(crate) struct Way {
    pub(crate) way: Egress,
    /// Where it goes; `None` if the kernel sends it on.
    pub(crate) next_hop: Option<NextHop>,
    /// What the flow remembers of that.
    pub(crate) cache: u64,
}

/// Finds the way out of a packet of a flow: mostly the one that the flow remembers.
///
/// The cache holds the generation of routes and neighbours (28 bits) above the neighbour's position (20 bits); a
/// generation that does not match means: look up again.
#[inline(always)]
pub(crate) fn of_flow<A: Family>(
    packet: &Packet<A>,
    destination: A,
    cache: u64,
    context: &mut Context<'_, A>,
) -> Result<(Egress, u64), DropReason> {
    match remembered(packet, cache, context.snapshot) {
        Some(way) => Ok((way, cache)),
        None => find(packet, destination, cache, context).map(|Way { way, cache, .. }| (way, cache)),
    }
}

/// Returns the remembered way out of a packet that may take it, if nothing is in the way; else [`find`] knows more.
#[inline(always)]
fn remembered<A: Family>(packet: &Packet<A>, cache: u64, snapshot: &Snapshot) -> Option<Egress> {
    let (next_hop, state) = neighbour(cache, snapshot)?;
    let device = snapshot.device(next_hop.device)?;
    let NeighbourState::Reachable(mac) = state else { return None };
    let fits = !packet.is_unfragmentable || packet.ip_bytes() <= device.mtu;
    let may_leave = fits && packet.ttl > 1 && !packet.source().is_link_local();
    may_leave.then_some(Egress::Forward { device: next_hop.device, next_hop: *mac })
}

/// Returns the neighbour that a flow remembers, unless routes or neighbours have changed since.
#[inline(always)]
fn neighbour(cache: u64, snapshot: &Snapshot) -> Option<&(NextHop, NeighbourState)> {
    let (generation, position) = (cache >> POSITION_BITS, cache & ((1 << POSITION_BITS) - 1));
    if generation != links_tag(snapshot) {
        return None;
    }
    snapshot.neighbours.at(position as u32)
}

/// Finds the next hop of a packet that leaves for `destination`, first in what its flow remembers ([`of_flow`]).
#[inline(never)]
pub(crate) fn find<A: Family>(
    packet: &Packet<A>,
    destination: A,
    cache: u64,
    context: &mut Context<'_, A>,
) -> Result<Way, DropReason> {
    let snapshot = context.snapshot;
    if packet.source().is_link_local() {
        return Err(DropReason::BeyondScope);
    }
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    if let Some((next_hop, state)) = neighbour(cache, snapshot) {
        return leave(packet, *next_hop, *state, cache, context);
    }
    // Hashed anew, so that whoever knows its next hop need not hand the hash down.
    let flow_hash = packet.key().map_or(0, |key| context.flows.hash(&key).halves()[1]);
    let next_hop = match snapshot.routes.lookup(destination.into(), flow_hash) {
        Some(RouteKind::Unicast { device, gateway }) => {
            NextHop { device, address: gateway.unwrap_or(destination.into()) }
        }
        Some(RouteKind::Local) => return Ok(Way { way: Egress::Punt, next_hop: None, cache: 0 }),
        Some(RouteKind::Unreachable) | None => return Err(DropReason::NoRoute),
    };
    match snapshot.neighbours.position(&next_hop) {
        Some((position, state)) => {
            let fits = u64::from(position) < 1 << POSITION_BITS;
            let cache = links_tag(snapshot) << POSITION_BITS | u64::from(position);
            leave(packet, next_hop, state, if fits { cache } else { 0 }, context)
        }
        None => leave(packet, next_hop, NeighbourState::Unresolved, 0, context),
    }
}

/// Tells generations of links apart in a flow's cache; never zero, which is the tag of a cache that is empty.
const fn links_tag(snapshot: &Snapshot) -> u64 {
    const FILLED: u64 = 1 << (NEXT_HOP_BITS - POSITION_BITS - 1);
    FILLED | snapshot.links_generation as u64 & (FILLED - 1)
}

/// Leaves by a device that we serve; what leaves by another is the kernel's to send.
#[inline]
fn leave<A: Family>(
    packet: &Packet<A>,
    next_hop: NextHop,
    state: NeighbourState,
    cache: u64,
    context: &mut Context<'_, A>,
) -> Result<Way, DropReason> {
    let Some(device) = context.snapshot.device(next_hop.device) else {
        return Ok(Way { way: Egress::Punt, next_hop: None, cache: 0 });
    };
    if packet.is_unfragmentable && packet.ip_bytes() > device.mtu {
        context.next_link_mtu = device.mtu;
        return Err(DropReason::ExceedsMtu);
    }
    let way = match state {
        NeighbourState::Reachable(mac) => Egress::Forward { device: next_hop.device, next_hop: mac },
        NeighbourState::Unresolved | NeighbourState::Failed => Egress::Hold(next_hop),
    };
    Ok(Way { way, next_hop: Some(next_hop), cache })
}
