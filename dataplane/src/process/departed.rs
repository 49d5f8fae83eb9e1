//! Packets of flows whose endpoint has left: reset, or sent elsewhere (design decision 9).

use super::{Context, Standing, process_established};
use crate::answer;
use crate::departed::Departure;
use crate::family::Family;
use crate::flows::{Direction, Found, Key};
use crate::net::tcp;
use crate::packet::{Packet, Transport};
use crate::reset::Draft;
use crate::verdict::Verdict;
use crate::{tcp_state, tombstones};

/// Says what a flow is to a packet of it while some endpoints have left.
#[inline(never)]
pub(super) fn standing<A: Family>(
    key: &Key<A>,
    found: &Found<A>,
    packet: &Packet<A>,
    context: &mut Context<'_, A>,
) -> Standing {
    let Some(departure) = context.snapshot.departed.lookup(key, found, context.flows) else {
        return Standing::Established;
    };
    let is_over = match packet.transport {
        Transport::Tcp(_, flags) => tcp_state::is_opening(flags),
        _ => departure == Departure::Repick,
    };
    if is_over && found.direction == Direction::Request {
        bury(key, found, context);
        context.counters.flows_repicked += 1;
        return Standing::Over;
    }
    if departure == Departure::Reset { Standing::Reset } else { Standing::Established }
}

/// Removes a flow and leaves the key of its replies, which come too late from now on.
fn bury<A: Family>(key: &Key<A>, found: &Found<A>, context: &mut Context<'_, A>) {
    let reply = match found.direction {
        Direction::Request => found.leaves_as.reversed(),
        Direction::Reply => *key,
    };
    let endpoint = context.flows.ids(found.flow).map(|(_, endpoint)| endpoint).unwrap_or_default();
    tombstones::insert(context.tombstones, &reply, endpoint, context.now);
    context.ports.note_removal();
    context.flows.remove(found.flow);
}

/// Ends a connection whose endpoint is gone: a RST to whoever sent this segment, and one in its place to the other side.
#[cold]
pub(super) fn process<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    key: &Key<A>,
    found: &Found<A>,
    context: &mut Context<'_, A>,
) -> Verdict {
    let verdict = match packet.transport {
        Transport::Tcp(_, flags) if !flags.contains(tcp::Flags::RST) => {
            let flow_hash = context.flows.hash(key).halves()[1];
            context.aside = Some(Draft::reset_of_receiver(octets, packet, found)?.of_flow(flow_hash));
            answer::reset_connection(octets, packet)
        }
        _ => process_established(octets, packet, found, context),
    };
    bury(key, found, context);
    context.counters.flows_reset += 1;
    verdict
}
