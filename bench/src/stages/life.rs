//! Whole connections, from SYN to the sweep that forgets them.

use std::time::Duration;

use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{Cursor, Key, State, Timeouts};
use tidegate_dataplane::net::{Protocol, tcp};
use tidegate_dataplane::worker::BURST;

use super::path::gateway_with;
use super::{Recipe, SIZES, Stage};
use crate::bursts::time;
use crate::cluster;

/// Connections of a round: few enough that it is seldom interrupted. With 1 M other flows the sweep's pass over the whole
/// table, which comes once a second and not with each round, makes a connection some 80 ns dearer.
const CONNECTIONS: usize = 4 * BURST;

/// The segments of a connection: whether from the backend, and what flags.
const SEGMENTS: [(bool, tcp::Flags); 8] = [
    (false, tcp::Flags::SYN),
    (true, tcp::Flags::SYN.with(tcp::Flags::ACK)),
    (false, tcp::Flags::ACK),
    (false, tcp::Flags::ACK),
    (true, tcp::Flags::ACK),
    (false, tcp::Flags::FIN.with(tcp::Flags::ACK)),
    (true, tcp::Flags::FIN.with(tcp::Flags::ACK)),
    (false, tcp::Flags::ACK),
];

pub(super) fn recipes() -> Vec<Recipe> {
    let recipe = |(size, flows): (&str, u32)| Recipe::new(format!("path/life/{size}"), move || life(flows));
    SIZES.into_iter().map(recipe).collect()
}

/// Eight segments and the expiry of each connection, in a table that holds so many others. Counted by connections.
fn life(flows: u32) -> Stage {
    let gateway = gateway_with(flows, Protocol::Tcp);
    let mut first = flows;
    Stage::new(CONNECTIONS, move || {
        let mut gateway = gateway.borrow_mut();
        let requests: Vec<Key> = (first..first + CONNECTIONS as u32)
            .map(|number| cluster::request(number, Protocol::Tcp))
            .collect();
        first = flows + (first + CONNECTIONS as u32 - flows) % 1_000_000;
        let mut taken = Duration::ZERO;
        for (is_reply, flags) in SEGMENTS {
            for requests in requests.chunks(BURST) {
                let packets: Vec<_> = requests
                    .iter()
                    .map(|key| gateway.packet(if is_reply { gateway.reply(key) } else { *key }, flags))
                    .collect();
                taken += gateway.carry(packets);
            }
        }
        assert_eq!(gateway.flows.len(), flows as usize + CONNECTIONS, "every SYN opened a flow");
        let late = Now::read().seconds() + Timeouts::DEFAULT.seconds(State::TimeWait) + 1;
        let mut cursor = Cursor::part(0, 1);
        taken += time(|| gateway.flows.ipv4.expire(&mut cursor, Now::from_seconds(late), usize::MAX));
        assert_eq!(gateway.flows.len(), flows as usize, "every connection is forgotten");
        taken
    })
}
