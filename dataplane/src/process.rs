//! The packet path, in order, on one screen. No socket, no clock, no allocation; pure but for the flow table.

use std::net::Ipv4Addr;

use crate::accounts::Accounts;
use crate::clock::Now;
use crate::counters::Counters;
use crate::family::Family;
use crate::flows::{Direction, FlowRef, FlowTable, Found, InsertError, Key, NewFlow, Sought, State};
use crate::masquerade::{self, PortSearch};
use crate::net::Port;
use crate::net::checksum::Difference;
use crate::packet::{Packet, Transport};
use crate::rate_limit::RateLimit;
use crate::reset::Draft;
use crate::rewrite::Rewrite;
use crate::routes::DeviceIndex;
use crate::services::{Called, Destination, ServicePort};
use crate::snapshot::Snapshot;
use crate::tcp_state;
use crate::verdict::{DropReason, Egress, Verdict};
use crate::{answer, choice, icmp_error, sctp_state, tombstones, way_out};

mod departed;

/// Source ports tried before a flow whose reply key is taken is refused.
const PORT_ATTEMPTS: u16 = 128;

/// What a decision reads, and where it counts.
pub struct Context<'a, A: Family = Ipv4Addr> {
    /// The tables in force.
    pub snapshot: &'a Snapshot,
    /// The flows of all workers.
    pub flows: &'a FlowTable<A>,
    /// The endpoints that clients are bound to.
    pub affinity: &'a FlowTable<A>,
    /// Replies of flows that have left their endpoint.
    pub tombstones: &'a FlowTable<A>,
    /// When the burst was received.
    pub now: Now,
    /// The device that it came by.
    pub arrived_by: DeviceIndex,
    /// What the worker may still send of errors and resets.
    pub limit: &'a mut RateLimit,
    /// The MTU of the link that the packet is too long for; says something only with [`DropReason::ExceedsMtu`].
    pub next_link_mtu: usize,
    /// What Services carry is counted here.
    pub accounts: &'a Accounts,
    /// A segment that is to leave besides.
    pub aside: Option<Draft>,
    /// Finds the ports of masqueraded flows.
    pub ports: &'a mut PortSearch<A>,
    /// Flow events are counted here; packets by whoever carries the verdict out.
    pub counters: &'a mut Counters,
}

/// Decides what becomes of a packet and rewrites it for that.
///
/// `octets` is the frame that `packet` was parsed from, with the room behind it; `sought` is of its key. Later
/// fragments do not come here: they share the fate of their first ([`crate::fragments`]). A packet that leaves may be
/// longer than its link allows if it may be cut; that is for the worker to do.
///
/// # Errors
/// The reason why the packet is dropped.
#[inline(always)]
pub fn process<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    sought: Sought,
    context: &mut Context<'_, A>,
) -> Verdict {
    decide(octets, packet, sought, context).or_else(|reason| answer::explain(reason, octets, packet, context))
}

#[inline(always)]
fn decide<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    sought: Sought,
    context: &mut Context<'_, A>,
) -> Verdict {
    if packet.source().is_martian_source() {
        return Err(DropReason::MartianSource);
    }
    let Some(key) = packet.key() else { return process_portless(octets, packet, context) };
    if let Some(found) = context.flows.lookup_sought(sought, &key) {
        match standing(&key, &found, packet, context) {
            Standing::Established => return process_established(octets, packet, &found, context),
            Standing::Reset => return departed::process(octets, packet, &key, &Found { ..found }, context),
            Standing::Over => {}
        }
    }
    process_unknown(octets, packet, &key, context)
}

/// Decides about packets that belong to no flow, by their destination.
// Not part of the path of nearly all packets, which would run out of registers.
#[inline(never)]
fn process_unknown<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    key: &Key<A>,
    context: &mut Context<'_, A>,
) -> Verdict {
    match context.snapshot.called(key.destination().into(), key.protocol, key.destination_port()) {
        Called::Port(_) | Called::UndefinedPort if packet.ttl <= 1 => Err(DropReason::TtlExceeded),
        Called::Port(port) => {
            let verdict = process_new(octets, packet, key, port, context);
            if !matches!(verdict, Ok(Egress::Forward { .. } | Egress::Hold(_) | Egress::Punt)) {
                context.accounts.count_drop(port.terms.rows.own);
            }
            verdict
        }
        Called::UndefinedPort => answer::refuse(octets, packet, context),
        Called::UnallocatedAddress => Err(DropReason::UnallocatedAddress),
        Called::Nothing if tombstones::contains(context.tombstones, key, context.now) => {
            Err(DropReason::LateReply)
        }
        Called::Nothing => Ok(Egress::Punt),
    }
}

/// Decides about packets without ports: errors about a flow are its own, ping is answered, the rest is not for
/// virtual addresses.
#[inline(never)]
fn process_portless<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    context: &mut Context<'_, A>,
) -> Verdict {
    if packet.transport == Transport::IcmpError
        && let Some(way) = icmp_error::translate(octets, packet, context)?
    {
        return Ok(way);
    }
    match (context.snapshot.services.lookup(packet.destination().into()), packet.transport) {
        (Destination::Other, _) => Ok(Egress::Punt),
        (Destination::Unallocated | Destination::Removed, _) => Err(DropReason::UnallocatedAddress),
        (Destination::Service(_), Transport::Echo) if packet.ttl <= 1 => Err(DropReason::TtlExceeded),
        (Destination::Service(_), Transport::Echo) => answer::echo_reply(octets, packet),
        (Destination::Service(_), Transport::Icmp | Transport::IcmpError) => Err(DropReason::UnsupportedIcmp),
        (Destination::Service(_), Transport::Hidden) => Err(DropReason::HeaderChainTooLong),
        (Destination::Service(_), Transport::Fragment) => Err(DropReason::FragmentRefused),
        (Destination::Service(_), _) => Err(DropReason::UnsupportedProtocol),
    }
}

/// What a known flow is to a packet of it.
enum Standing {
    Established,
    /// Its endpoint is gone for good, and both sides are to be told.
    Reset,
    /// It was removed, so that the rules are asked again: a closed connection that is opened anew, or a flow that goes
    /// to another endpoint (design decision 9).
    Over,
}

#[inline(always)]
fn standing<A: Family>(
    key: &Key<A>,
    found: &Found<A>,
    packet: &Packet<A>,
    context: &mut Context<'_, A>,
) -> Standing {
    if matches!(packet.transport, Transport::Tcp(_, flags) if tcp_state::is_reopening(found.state, found.direction, flags))
    {
        context.ports.note_removal();
        if context.flows.remove(found.flow) {
            return Standing::Over;
        }
    }
    if context.snapshot.departed.is_empty() {
        return Standing::Established;
    }
    // Another one, so that what was found stays in registers where nothing has left.
    departed::standing(key, &Found { ..*found }, packet, context)
}

/// Rewrites a packet of a known flow. The rules are not consulted (design decision 5).
// Two callers keep it from being inlined into the path of nearly all packets, which costs them 3 % (measured).
#[inline(always)]
fn process_established<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    found: &Found<A>,
    context: &mut Context<'_, A>,
) -> Verdict {
    let (way, cache) = way_out::of_flow(packet, found.leaves_as.destination(), found.next_hop, context)?;
    let state = match packet.transport {
        Transport::Tcp(_, flags) => tcp_state::next(found.state, found.direction, flags),
        Transport::Sctp(_, chunks) => sctp_state::next(found.state, found.direction, chunks),
        _ => found.state.next_udp(found.direction),
    };
    if state == found.state {
        if keeps_alive(packet.transport, found) {
            context.flows.touch(found, context.now);
        }
    } else {
        context.flows.change_state(found.flow, found.state, state, context.now);
    }
    context.accounts.count(found.account, found.direction, packet.ip_bytes());
    if cache != found.next_hop {
        context.flows.cache_next_hop(found.flow, found.direction, cache);
    }
    let rewrite = Rewrite {
        leaves_as: found.leaves_as,
        ip: Difference(found.ip_difference),
        transport: Difference(found.transport_difference),
    };
    rewrite.apply(octets, packet)?;
    Ok(way)
}

/// Says whether a packet that changes no state keeps its flow alive.
const fn keeps_alive<A: Family>(transport: Transport, found: &Found<A>) -> bool {
    match transport {
        Transport::Sctp(_, chunks) => sctp_state::keeps_alive(found.state, found.direction, chunks),
        _ => true,
    }
}

/// Opens a flow to a backend, or says no on the Service's behalf.
fn process_new<A: Family>(
    octets: &mut [u8],
    packet: &Packet<A>,
    request: &Key<A>,
    port: &ServicePort,
    context: &mut Context<'_, A>,
) -> Verdict {
    let Some(state) = opening_state(packet.transport) else { return answer::refuse(octets, packet, context) };
    let is_picked_up = !matches!(state, State::SynSent | State::UdpUnreplied | State::SctpClosed);
    let Some(backend) = choice::backend(port, request, is_picked_up, context)? else {
        return answer::refuse(octets, packet, context);
    };
    let Some(address) = A::of(backend.address) else { return Err(DropReason::AddressFamily) };
    // The key of the replies unless the flow is masqueraded: its buckets are fetched while the way out is looked for.
    let likely =
        Key::new((address, backend.port), (request.source(), request.source_port()), request.protocol);
    context.flows.prefetch(context.flows.hash(&likely));
    let egress = way_out::find(packet, address, 0, context)?;
    let (keeps_client, arrived_by) = (port.terms.keeps_client, context.arrived_by);
    let own =
        masquerade::source(request, address, keeps_client, arrived_by, egress.next_hop, context.snapshot)?;
    if own.is_some() && is_picked_up {
        // What it was masqueraded as is not known any more (design decision 7).
        return answer::refuse(octets, packet, context);
    }
    let reply = own.map_or(likely, |own| likely.with_destination(own));
    let rewrite = Rewrite::between(request, &reply.reversed());
    let flow = NewFlow {
        request: *request,
        reply,
        service: port.id,
        endpoint: backend.id,
        ip_difference: rewrite.ip.0,
        transport_difference: rewrite.transport.0,
        state,
        account: port.terms.rows.of(backend.id),
    };
    let account = flow.account;
    let (flow, rewrite) = match own {
        Some(_) => {
            let (ports, evicted) = (context.snapshot.masquerade.ports, &mut context.counters.flows_evicted);
            context.ports.insert(flow, ports, context.flows, context.now, evicted)?
        }
        None => insert(flow, rewrite, context)?,
    };
    context.flows.cache_next_hop(flow, Direction::Request, egress.cache);
    choice::note(port, request, backend, context);
    context.accounts.count_connection(account);
    context.accounts.count(account, Direction::Request, packet.ip_bytes());
    context.counters.flows_inserted += 1;
    context.counters.flows_masqueraded += u64::from(own.is_some());
    context.counters.flows_picked_up += u64::from(is_picked_up);
    rewrite.apply(octets, packet)?;
    Ok(egress.way)
}

/// Returns the state that a packet opens a flow in, or `None` if it may open none (design decision 7).
const fn opening_state(transport: Transport) -> Option<State> {
    match transport {
        Transport::Tcp(_, flags) => tcp_state::first(flags),
        Transport::Sctp(_, chunks) => sctp_state::first(chunks),
        _ => Some(State::UdpUnreplied),
    }
}

/// Inserts a flow; if its reply key is taken, another source port tells the replies apart, as nf_nat does.
fn insert<A: Family>(
    mut flow: NewFlow<A>,
    mut rewrite: Rewrite<A>,
    context: &mut Context<'_, A>,
) -> Result<(FlowRef, Rewrite<A>), DropReason> {
    let first = flow.request.source_port().number();
    for attempt in 0..PORT_ATTEMPTS {
        let before = context.counters.flows_evicted;
        let inserted = context.flows.insert_evicting(&flow, context.now, &mut context.counters.flows_evicted);
        if context.counters.flows_evicted > before {
            // What gave way may have freed a port.
            context.ports.note_removal();
        }
        match inserted {
            Ok(inserted) => {
                context.counters.flows_port_changed += u64::from(attempt > 0);
                return Ok((inserted, rewrite));
            }
            Err(InsertError::ReplyTaken) => {
                flow.reply = flow.reply.with_destination_port(source_port(first, attempt));
                rewrite = Rewrite::between(&flow.request, &flow.reply.reversed());
                flow.ip_difference = rewrite.ip.0;
                flow.transport_difference = rewrite.transport.0;
            }
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
            Err(InsertError::RequestTaken | InsertError::Contended) => return Err(DropReason::FlowContended),
        }
    }
    Err(DropReason::NoSourcePort)
}

/// Walks the unprivileged ports from the client's own in odd strides, so that neighbours do not meet again.
const fn source_port(first: u16, attempt: u16) -> Port {
    const UNPRIVILEGED: u32 = 65_536 - 1024;
    let step = (attempt as u32 + 1) * 7_919;
    Port::new(((first as u32 + step) % UNPRIVILEGED + 1024) as u16)
}
