//! Packets that are carried as the worker carries them.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_dataplane::flows::Key;
use tidegate_dataplane::net::{Protocol, tcp};
use tidegate_dataplane::worker::BURST;

use super::{Draws, Recipe, SIZES, Stage};
use crate::gateway::Gateway;
use crate::traffic::popularity::Popularity;
use crate::{cluster, packet};

pub(super) fn recipes() -> Vec<Recipe> {
    let mut recipes = Vec::new();
    for (size, flows) in SIZES {
        let mut add = |name: &str, protocol, popularity, burst| {
            let make = move || established(flows, protocol, popularity, burst);
            recipes.push(Recipe::new(format!("path/{name}/{size}{}", suffix(popularity, burst)), make));
        };
        for burst in [BURST, 32, 1] {
            add("established_udp", Protocol::Udp, Popularity::Uniform, burst);
        }
        add("established_udp", Protocol::Udp, Popularity::Zipf(1.1), BURST);
        add("established_tcp", Protocol::Tcp, Popularity::Uniform, BURST);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let name = format!("path/new_{}/{size}", if protocol == Protocol::Udp { "udp" } else { "tcp" });
            recipes.push(Recipe::new(name, move || new_flow(flows, protocol)));
        }
    }
    recipes.push(Recipe::new("path/echo", echo));
    recipes
}

fn suffix(popularity: Popularity, burst: usize) -> String {
    match (popularity, burst) {
        (Popularity::Zipf(_), _) => "/zipf".to_owned(),
        (_, BURST) => String::new(),
        (_, burst) => format!("/burst_{burst}"),
    }
}

/// The gateway that was made last, since stages of one size share it one after the other.
type Kept = Option<(u32, Protocol, Rc<RefCell<Gateway>>)>;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(None) };
}

pub(super) fn gateway_with(flows: u32, protocol: Protocol) -> Rc<RefCell<Gateway>> {
    KEPT.with_borrow_mut(|kept| {
        if let Some((count, of, gateway)) = kept
            && (*count, *of) == (flows, protocol)
        {
            return Rc::clone(gateway);
        }
        *kept = None;
        let gateway = Rc::new(RefCell::new(Gateway::with_flows(flows, protocol)));
        *kept = Some((flows, protocol, Rc::clone(&gateway)));
        gateway
    })
}

/// Packets of known flows, half of them requests and half replies.
fn established(flows: u32, protocol: Protocol, popularity: Popularity, burst: usize) -> Stage {
    let gateway = gateway_with(flows, protocol);
    let (mut draws, mut place) = (Draws::new(popularity.draws(flows)), 0);
    Stage::new(burst, move || {
        let mut gateway = gateway.borrow_mut();
        let packets: Vec<_> = draws
            .take(burst)
            .into_iter()
            .map(|number| {
                place += 1;
                let request = cluster::request(number, protocol);
                let key = if place % 2 == 0 { request } else { gateway.reply(&request) };
                gateway.packet(key, tcp::Flags::ACK)
            })
            .collect();
        gateway.carry(packets)
    })
}

/// First packets, which open a flow each in a table that holds so many others. The flows are removed again outside the
/// time.
fn new_flow(flows: u32, protocol: Protocol) -> Stage {
    let gateway = gateway_with(flows, protocol);
    let mut draws = Draws::new(Popularity::Uniform.draws(flows));
    Stage::new(BURST, move || {
        let mut gateway = gateway.borrow_mut();
        let requests: Vec<Key> =
            draws.take(BURST).iter().map(|number| cluster::request(flows + number, protocol)).collect();
        let packets: Vec<_> = requests.iter().map(|key| gateway.packet(*key, tcp::Flags::SYN)).collect();
        let taken = gateway.carry(packets);
        assert_eq!(gateway.flows.len(), flows as usize + BURST, "every packet opened a flow");
        for key in &requests {
            let found = gateway.flows.ipv4.lookup(gateway.flows.ipv4.hash(key), key);
            assert!(found.is_some_and(|found| gateway.flows.ipv4.remove(found.flow)));
        }
        taken
    })
}

/// Echos to virtual addresses, answered.
fn echo() -> Stage {
    let mut gateway = Gateway::new(1);
    let echoes: Vec<_> =
        (0..BURST as u32).map(|number| packet::echo(&cluster::request(number, Protocol::Udp))).collect();
    Stage::new(BURST, move || gateway.carry(echoes.iter().copied()))
}
