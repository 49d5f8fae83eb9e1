//! Where a new flow goes: the terms of its Service port, applied to its first packet.

use crate::affinity;
use crate::family::Family;
use crate::flows::Key;
use crate::process::Context;
use crate::services::{Backend, Backends, Choice, ServicePort, Without};
use crate::verdict::DropReason;

/// Chooses the backend of a new flow; `None` if the Service port has to refuse.
///
/// A flow that is picked up in mid-stream goes only where its first packet must have gone: to Maglev's choice, or where
/// its client is bound to (design decision 7).
///
/// # Errors
/// If the client may not call (K22), or there is an endpoint, but none for it (K19).
pub fn backend<'a, A: Family>(
    port: &'a ServicePort,
    request: &Key<A>,
    is_picked_up: bool,
    context: &Context<'_, A>,
) -> Result<Option<&'a Backend>, DropReason> {
    let client = request.source();
    if !port.terms.admit(client.into()) {
        return Err(DropReason::SourceRange);
    }
    let backends = port.backends_for(context.snapshot.is_pod(client.into()));
    let bound = bound_backend(port, backends, request, context);
    let chosen = match port.terms.choice {
        _ if bound.is_some() => bound,
        Choice::Maglev if port.terms.affinity_seconds.is_some() => {
            backends.choose_for_client(client, port.id)
        }
        Choice::Maglev => backends.choose(request),
        Choice::Random | Choice::LeastConnections if is_picked_up => None,
        Choice::Random => backends.choose_any(chance(request, context)),
        Choice::LeastConnections => backends.choose_idlest(chance(request, context)),
    };
    match chosen {
        None if port.terms.without == Without::Drop && backends.members().is_empty() => {
            Err(DropReason::NoLocalEndpoint)
        }
        chosen => Ok(chosen),
    }
}

/// Notes that a flow of a client went to a backend.
pub fn note<A: Family>(port: &ServicePort, request: &Key<A>, backend: &Backend, context: &Context<'_, A>) {
    if port.terms.affinity_seconds.is_some() {
        affinity::remember(context.affinity, request.source(), port.id, backend.id, context.now);
    }
    if port.terms.choice == Choice::LeastConnections {
        port.backends_for(context.snapshot.is_pod(request.source().into())).note_opened(backend.id);
    }
}

/// Returns the endpoint that a client is bound to, if it is still one of those that it may be sent to (K14).
fn bound_backend<'a, A: Family>(
    port: &ServicePort,
    backends: &'a Backends,
    request: &Key<A>,
    context: &Context<'_, A>,
) -> Option<&'a Backend> {
    let seconds = port.terms.affinity_seconds?;
    let id = affinity::lookup(context.affinity, request.source(), port.id, seconds, context.now)?;
    backends.member(id)
}

/// Returns a number that nobody outside can foresee: the table's secret hash of the flow, at this moment.
fn chance<A: Family>(request: &Key<A>, context: &Context<'_, A>) -> u64 {
    let [high, low] = context.flows.hash(request).halves();
    crate::maglev::mix((u64::from(high) << 32 | u64::from(low)) ^ context.now.ns())
}
