//! Neighbours that are resolved, kept and let go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use tidegate::netlink::{KernelEvent, KernelEvents, Netlink};
use tidegate_dataplane::neighbours::{NeighbourState, NextHop};
use tidegate_dataplane::net::Mac;

use crate::namespace::Namespace;
use crate::wait_for;

const PEER: &str = "10.9.0.2";
const PEER_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);

/// All addresses of the peer: a router's is often its link-local one.
const PEERS: [&str; 3] = [PEER, "fd09::2", "fe80::2"];

/// A gateway and a peer that answers ARP and Neighbor Solicitations with [`PEER_MAC`].
fn linked() -> Option<(Namespace, Namespace)> {
    let (gateway, peer) = (Namespace::new()?, Namespace::new()?);
    gateway.join("lan", &peer, "peer");
    peer.ip(&format!("link set peer address {PEER_MAC}"));
    peer.ip(&format!("addr add {PEER}/24 dev peer"));
    gateway.ip("addr add 10.9.0.1/24 dev lan");
    for address in &PEERS[1..] {
        peer.ip(&format!("-6 addr add {address}/64 dev peer nodad"));
    }
    gateway.ip("-6 addr add fd09::1/64 dev lan nodad");
    Some((gateway, peer))
}

async fn on_lan(netlink: &Netlink, address: &str) -> NextHop {
    let lan = netlink.link("lan").await.unwrap().expect("lan is there");
    NextHop { device: lan.index, address: address.parse().unwrap() }
}

fn entry(gateway: &Namespace, address: &str) -> Option<Value> {
    gateway.ip_json("-d neigh show").into_iter().find(|entry| entry["dst"] == address)
}

fn is_managed(entry: &Value) -> bool {
    entry.get("managed").is_some()
}

async fn resolved(events: &mut KernelEvents, next_hop: NextHop) {
    let reachable = NeighbourState::Reachable(PEER_MAC);
    let fits = |event: &KernelEvent| *event == KernelEvent::NeighbourChanged(next_hop, Some(reachable));
    wait_for(events, "the peer resolved", fits).await;
}

#[test]
fn an_unresolved_next_hop_becomes_reachable_by_event_and_stays_managed() {
    let Some((gateway, _peer)) = linked() else { return };
    gateway.enter_async(async || {
        let (netlink, mut events) = (Netlink::connect().unwrap(), KernelEvents::subscribe().unwrap());
        for peer in PEERS {
            let next_hop = on_lan(&netlink, peer).await;
            assert_eq!(entry(&gateway, peer), None);
            netlink.resolve(next_hop).await.unwrap();
            resolved(&mut events, next_hop).await;
            let shown = entry(&gateway, peer).expect("it is listed");
            assert!(is_managed(&shown), "{shown}");
            assert_eq!(shown["protocol"], tidegate::netlink::NEIGHBOUR_PROTOCOL.to_string());

            netlink.release(next_hop).await.unwrap();
            let shown = entry(&gateway, peer).expect("what was learnt stays");
            assert!(!is_managed(&shown), "{shown}");
            let learnt = (&shown["lladdr"], &shown["protocol"]);
            assert_eq!(learnt, (&PEER_MAC.to_string().into(), &"kernel".into()));
        }
    });
}

#[test]
fn a_next_hop_that_does_not_answer_fails_and_is_asked_again_on_demand() {
    let Some((gateway, peer)) = linked() else { return };
    gateway.enter_async(async || {
        let (netlink, mut events) = (Netlink::connect().unwrap(), KernelEvents::subscribe().unwrap());
        peer.ip(&format!("addr del {PEER}/24 dev peer"));
        let next_hop = on_lan(&netlink, PEER).await;
        netlink.resolve(next_hop).await.unwrap();
        let failed = KernelEvent::NeighbourChanged(next_hop, Some(NeighbourState::Failed));
        wait_for(&mut events, "failed", |event| *event == failed).await;
        peer.ip(&format!("addr add {PEER}/24 dev peer"));
        netlink.resolve(next_hop).await.unwrap();
        resolved(&mut events, next_hop).await;
    });
}

#[test]
fn a_neighbour_that_vanishes_with_its_link_is_told_and_can_be_asked_for_again() {
    let Some((gateway, _peer)) = linked() else { return };
    gateway.enter_async(async || {
        let (netlink, mut events) = (Netlink::connect().unwrap(), KernelEvents::subscribe().unwrap());
        let next_hop = on_lan(&netlink, PEER).await;
        netlink.resolve(next_hop).await.unwrap();
        resolved(&mut events, next_hop).await;
        gateway.ip("link set lan down");
        let gone = KernelEvent::NeighbourChanged(next_hop, None);
        wait_for(&mut events, "gone", |event| *event == gone).await;
        netlink.resolve(next_hop).await.unwrap();
        gateway.ip("link set lan up");
        netlink.resolve(next_hop).await.unwrap();
        resolved(&mut events, next_hop).await;
    });
}

#[test]
fn release_ours_lets_go_of_ours_and_touches_nothing_else() {
    let Some((gateway, _peer)) = linked() else { return };
    gateway.ip("neigh add 10.9.0.3 lladdr 02:00:00:00:00:03 dev lan nud permanent");
    gateway.ip("neigh add 10.9.0.4 dev lan managed");
    gateway.ip("neigh add 10.9.0.5 dev lan managed protocol 99");
    gateway.ip("neigh add 10.9.0.6 lladdr 02:00:00:00:00:06 dev lan nud reachable extern_learn");
    gateway.enter_async(async || {
        let (netlink, mut events) = (Netlink::connect().unwrap(), KernelEvents::subscribe().unwrap());
        let others = ["10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"];
        // What the kernel itself changes in an entry while it asks is left out of the comparison.
        let configured = || {
            others.map(|address| {
                let shown = entry(&gateway, address).expect("it is listed");
                let lladdr = shown.get("lladdr").cloned();
                (
                    is_managed(&shown),
                    shown.get("extern_learn").is_some(),
                    shown.get("protocol").cloned(),
                    lladdr,
                )
            })
        };
        let before = configured();
        for address in [PEER, "10.9.0.9"].into_iter().chain(others) {
            netlink.resolve(on_lan(&netlink, address).await).await.unwrap();
        }
        resolved(&mut events, on_lan(&netlink, PEER).await).await;
        assert_eq!(configured(), before, "asking for somebody's entries leaves them as they are");
        assert!(is_managed(&entry(&gateway, PEER).expect("it is listed")));

        assert_eq!(netlink.release_ours().await.unwrap(), 2);
        assert_eq!(configured(), before);
        for address in [PEER, "10.9.0.9"] {
            assert!(!is_managed(&entry(&gateway, address).expect("it is listed")), "{address}");
        }
        assert_eq!(netlink.release_ours().await.unwrap(), 0);
        for address in others {
            netlink.release(on_lan(&netlink, address).await).await.unwrap();
        }
        assert_eq!(configured(), before);
    });
}

#[test]
fn the_neighbours_are_those_that_ip_neigh_prints() {
    let Some((gateway, _peer)) = linked() else { return };
    for (host, state) in [(10, "permanent"), (11, "stale"), (12, "noarp"), (13, "reachable"), (14, "delay")] {
        gateway.ip(&format!("neigh add 10.9.0.{host} lladdr 02:00:00:00:01:{host} dev lan nud {state}"));
    }
    gateway.ip("neigh add fd09::7 lladdr 02:00:00:00:02:07 dev lan nud permanent");
    gateway.ip("neigh add 10.9.0.15 dev lan nud failed");
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let lan = netlink.link("lan").await.unwrap().expect("lan is there");
        // Multicast entries come and go by themselves.
        let ours = |address: &IpAddr| !address.is_multicast();
        let read: BTreeMap<IpAddr, NeighbourState> = netlink
            .neighbours()
            .await
            .unwrap()
            .into_iter()
            .filter(|(next_hop, _)| next_hop.device == lan.index && ours(&next_hop.address))
            .map(|(next_hop, state)| (next_hop.address, state))
            .collect();
        let shown: BTreeMap<IpAddr, NeighbourState> = gateway
            .ip_json("neigh show dev lan nud all")
            .iter()
            .map(|entry| (entry["dst"].as_str().unwrap().parse().unwrap(), printed_state(entry)))
            .filter(|(address, _)| ours(address))
            .collect();
        assert_eq!(read, shown);
        assert_eq!(read.len(), 7, "{read:?}");
    });
}

fn printed_state(entry: &Value) -> NeighbourState {
    match entry.get("lladdr").and_then(Value::as_str) {
        Some(text) => {
            let octets: Vec<u8> =
                text.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
            NeighbourState::Reachable(Mac(octets.try_into().unwrap()))
        }
        None if entry["state"][0] == "FAILED" => NeighbourState::Failed,
        None => NeighbourState::Unresolved,
    }
}

#[test]
fn an_unknown_device_is_an_error_that_names_the_next_hop() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let device = tidegate_dataplane::routes::DeviceIndex(4711);
        let next_hop = NextHop { device, address: PEER.parse().unwrap() };
        let error = netlink.resolve(next_hop).await.unwrap_err();
        assert!(format!("{error:#}").contains("10.9.0.2 on device number 4711"), "{error:#}");
        netlink.release(next_hop).await.unwrap_or_else(|error| panic!("gone is fine: {error:#}"));
    });
}
