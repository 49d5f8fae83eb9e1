//! Replies of endpoints that their flow has left: they must not reach the client as they are.
//!
//! A flow that is sent to another endpoint, or reset, leaves the key of its replies here for a minute. Whoever finds a
//! packet that belongs to no flow and calls nothing asks here before it goes to the kernel, which would route it on
//! with the endpoint's own address. The table is of the same kind as the flows' (design decision 4): a tombstone is a
//! "flow" whose request key is the key of those replies.

use crate::clock::Now;
use crate::flows::{Direction, EndpointId, FlowTable, Key, NewFlow, ServicePortId, State, Timeouts};
use crate::net::Address;

/// Seconds for which replies of a flow that is gone are dropped.
pub const SECONDS: u32 = 60;

/// Timeouts of the table's sweep.
pub const TIMEOUTS: Timeouts = Timeouts { udp: SECONDS, ..Timeouts::DEFAULT };

/// Notes that replies with this key come too late from now on. A full table forgets its oldest.
///
/// While the tombstone stands its endpoint counts as in use, so that the XDP program goes on taking those replies.
pub fn insert<A: Address>(table: &FlowTable<A>, reply: &Key<A>, endpoint: EndpointId, now: Now) {
    if let Some(found) = table.lookup(table.hash(reply), reply) {
        table.touch(&found, now);
        return;
    }
    let new = NewFlow {
        request: *reply,
        reply: reply.reversed(),
        service: ServicePortId::default(),
        endpoint,
        ip_difference: 0,
        transport_difference: 0,
        state: State::UdpUnreplied,
        account: 0,
    };
    let _ = table.insert_evicting(&new, now, &mut 0);
}

/// Says whether a packet that belongs to no flow comes too late.
#[must_use]
pub fn contains<A: Address>(table: &FlowTable<A>, key: &Key<A>, now: Now) -> bool {
    let found = (!table.is_empty()).then(|| table.lookup(table.hash(key), key)).flatten();
    found.is_some_and(|found| {
        found.direction == Direction::Request && now.seconds().saturating_sub(found.last_seen) <= SECONDS
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::{Port, Protocol};

    #[test]
    fn a_reply_comes_too_late_for_a_minute_and_only_from_that_endpoint() {
        let table = FlowTable::in_memory(64).unwrap();
        let reply = Key::new(
            (Ipv4Addr::new(10, 244, 0, 11), Port::new(8080)),
            (Ipv4Addr::new(10, 1, 0, 2), Port::new(40_000)),
            Protocol::Udp,
        );
        let at = Now::from_seconds;
        assert!(!contains(&table, &reply, at(100)));
        insert(&table, &reply, EndpointId(1), at(100));
        assert!(contains(&table, &reply, at(160)) && !contains(&table, &reply, at(161)));
        assert!(!contains(&table, &reply.reversed(), at(100)));
        let of_tcp = Key::new(
            (reply.source(), reply.source_port()),
            (reply.destination(), reply.destination_port()),
            Protocol::Tcp,
        );
        assert!(!contains(&table, &of_tcp, at(100)));
        insert(&table, &reply, EndpointId(1), at(150));
        assert!(contains(&table, &reply, at(210)));
    }
}
