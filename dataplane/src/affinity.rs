//! Which endpoint a client was last sent to, for Services with affinity ClientIP (K14).
//!
//! The entries are in a table of the same kind as the flows (design decision 4): found without a lock, bounded, and
//! there again after a restart. An entry is a "flow" whose request key is made of the client's address and the
//! identity of the Service port, and whose endpoint is the one to remember. All virtual addresses of a Service port
//! share its entries, and no two Service ports do.

use crate::clock::Now;
use crate::flows::{Direction, EndpointId, FlowTable, Key, NewFlow, ServicePortId, State, Timeouts};
use crate::net::{Address, Port, Protocol};

/// Timeouts of the table's sweep: the longest affinity that Kubernetes allows, a day. What a Service wants is asked
/// at each look-up.
pub const TIMEOUTS: Timeouts = Timeouts { udp: 86_400, ..Timeouts::DEFAULT };

/// Returns the endpoint that a client is bound to, if it opened a flow in the last `seconds`.
#[must_use]
pub fn lookup<A: Address>(
    table: &FlowTable<A>,
    client: A,
    service: ServicePortId,
    seconds: u32,
    now: Now,
) -> Option<EndpointId> {
    let key = key(client, service);
    let found = table.lookup(table.hash(&key), &key)?;
    let (owner, endpoint) = table.ids(found.flow)?;
    let is_fresh = now.seconds().saturating_sub(found.last_seen) <= seconds;
    (is_fresh && found.direction == Direction::Request && owner == service).then_some(endpoint)
}

/// Binds a client to an endpoint from now on. Where another worker does so at this moment, one of the two stays; a full
/// table forgets clients of long ago.
pub fn remember<A: Address>(
    table: &FlowTable<A>,
    client: A,
    service: ServicePortId,
    endpoint: EndpointId,
    now: Now,
) {
    let request = key(client, service);
    if let Some(found) = table.lookup(table.hash(&request), &request) {
        if table.ids(found.flow) == Some((service, endpoint)) {
            table.touch(&found, now);
            return;
        }
        table.remove(found.flow);
    }
    let new = NewFlow {
        request,
        reply: request.reversed(),
        service,
        endpoint,
        ip_difference: 0,
        transport_difference: 0,
        state: State::UdpUnreplied,
        account: 0,
    };
    // Not remembered, a client is sent where its address leads, as on every gateway.
    let _ = table.insert_evicting(&new, now, &mut 0);
}

/// Spreads a client and the 64 bits of a Service port's identity over the fields of a key.
fn key<A: Address>(client: A, service: ServicePortId) -> Key<A> {
    let [a, b, c, d, e, f, g, h] = service.0.to_be_bytes();
    Key::new((client, Port([e, f])), (A::spread([a, b, c, d]), Port([g, h])), Protocol::Udp)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const SERVICE: ServicePortId = ServicePortId(0x0102_0304_0506_0708);

    #[test]
    fn k14_a_client_is_bound_per_service_port_until_it_was_silent_for_the_timeout() {
        let table = FlowTable::in_memory(64).unwrap();
        let (client, other) = (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3));
        let at = Now::from_seconds;
        remember(&table, client, SERVICE, EndpointId(7), at(100));
        assert_eq!(lookup(&table, client, SERVICE, 10, at(110)), Some(EndpointId(7)));
        assert_eq!(lookup(&table, client, SERVICE, 10, at(111)), None);
        assert_eq!(lookup(&table, other, SERVICE, 10, at(101)), None);
        assert_eq!(lookup(&table, client, ServicePortId(SERVICE.0 + 1), 10, at(101)), None);
        remember(&table, client, SERVICE, EndpointId(7), at(109));
        assert_eq!(lookup(&table, client, SERVICE, 10, at(119)), Some(EndpointId(7)), "refreshed");
        remember(&table, client, SERVICE, EndpointId(8), at(119));
        assert_eq!(lookup(&table, client, SERVICE, 10, at(119)), Some(EndpointId(8)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn clients_of_both_families_are_told_apart_and_a_full_table_forgets_some() {
        let table = FlowTable::in_memory(64).unwrap();
        let client = |number: u32| Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number));
        (0..1000).for_each(|number| remember(&table, client(number), SERVICE, EndpointId(1), Now::default()));
        assert_eq!(lookup(&table, client(999), SERVICE, 10, Now::default()), Some(EndpointId(1)));
        assert!(table.len() <= 64);
    }
}
