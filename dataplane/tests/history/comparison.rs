//! Compares all that can be seen of the two gateways.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use tidegate_dataplane::flows::{Direction, FlowRef, FlowTable, Key};
use tidegate_dataplane::net::{Address, Port, Protocol};

use super::pair::Pair;
use crate::slow_gateway::datagram::Five;
use crate::slow_gateway::links::Hop;

/// What the flow table says of a key.
struct Seen {
    flow: FlowRef,
    direction: Direction,
    leaves_as: Five,
    state: u32,
    last_seen: u64,
}

impl Pair {
    /// Compares counters, accounts, next hops asked for, and flows by both keys.
    pub fn agree(&mut self) -> Result<(), TestCaseError> {
        let hidden = |name: &str| name.starts_with("frames_") || name == "held";
        let counters = &self.rig.path.counters;
        self.slow.counters.retain(|_, value| *value > 0);
        let counted: BTreeMap<&str, u64> = counters
            .named()
            .filter(|(name, _, value)| *value > 0 && !hidden(name))
            .map(|(name, _, value)| (name, value))
            .collect();
        prop_assert_eq!(&counted, &self.slow.counters);
        prop_assert!(counters.balances());
        prop_assert_eq!(counters.held, (self.slow.held.len() + self.slow.fragments.waiting()) as u64);

        let wanted: Vec<Hop> =
            self.rig.wire.wanted.drain(..).map(|hop| (hop.device.0, hop.address)).collect();
        prop_assert_eq!(&wanted, &self.slow.wanted);
        self.slow.wanted.clear();
        self.agree_about_flows()
    }

    fn agree_about_flows(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.rig.flows.len(), self.slow.flows.len());
        for flow in &self.slow.flows {
            let [request, reply] = [flow.request, flow.reply].map(|five| self.lookup(five));
            let (Some(request), Some(reply)) = (request, reply) else {
                return Err(TestCaseError::fail(format!("{flow:?} is not found by both keys")));
            };
            prop_assert_eq!(request.flow, reply.flow);
            prop_assert_eq!((request.direction, reply.direction), (Direction::Request, Direction::Reply));
            prop_assert_eq!(request.leaves_as, flow.reply.reversed());
            prop_assert_eq!(reply.leaves_as, flow.request.reversed());
            prop_assert_eq!(request.state, flow.state as u32, "{:?}", flow);
            prop_assert_eq!(request.last_seen, flow.last_second);
        }
        for five in &self.gone {
            prop_assert!(self.lookup(*five).is_none(), "{:?} outlived its flow", five);
        }
        Ok(())
    }

    fn lookup(&self, five: Five) -> Option<Seen> {
        match (five.source, five.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                lookup(&self.rig.flows.ipv4, five, source, destination)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                lookup(&self.rig.flows.ipv6, five, source, destination)
            }
            _ => None,
        }
    }
}

fn lookup<A: Address>(flows: &FlowTable<A>, five: Five, source: A, destination: A) -> Option<Seen> {
    let key = Key::new(
        (source, Port::new(five.source_port)),
        (destination, Port::new(five.destination_port)),
        Protocol::from_number(five.protocol)?,
    );
    let found = flows.lookup(flows.hash(&key), &key)?;
    let leaves_as = Five {
        protocol: found.leaves_as.protocol.number(),
        source: found.leaves_as.source().into(),
        source_port: found.leaves_as.source_port().number(),
        destination: found.leaves_as.destination().into(),
        destination_port: found.leaves_as.destination_port().number(),
    };
    Some(Seen {
        flow: found.flow,
        direction: found.direction,
        leaves_as,
        state: u32::from(found.state.number()),
        last_seen: found.last_seen.into(),
    })
}
