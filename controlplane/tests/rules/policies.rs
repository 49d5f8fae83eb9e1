//! K19 to K21 and K24: traffic policies, what is said without endpoints, whose address the endpoint sees.

use tidegate::compile::Locality;
use tidegate_dataplane::masquerade::{Masquerade, Mode};

use crate::path_rig::*;
use crate::world::{HERE, NOT_READY, PORTS, READY, TERMINATING, THERE, World, service, slice};

const EXTERNAL: [u8; 4] = [203, 0, 113, 80];
/// A pod as a client.
const OTHER_POD: [u8; 4] = [10, 244, 0, 77];

fn spec(more: &str) -> String {
    format!(
        "type: LoadBalancer\nexternalIPs: [203.0.113.80]\n{more}\nports:\n- {{name: web, port: 80, protocol: TCP, nodePort: 30080}}\n- {{name: voice, port: 80, protocol: UDP, nodePort: 30080}}\n"
    )
}

fn world_on_node(more: &str, endpoints: &[(&str, &str)]) -> World {
    World::on_node(&(service("10.96.0.1", &spec(more)) + &slice(endpoints)))
}

/// What befalls a SYN of the client to that frontend.
#[derive(PartialEq, Debug)]
enum Fate {
    To([u8; 4]),
    Refused,
    Dropped,
}

fn fate(world: &mut World, from: [u8; 4], to: [u8; 4], port: u16) -> Fate {
    let ends = ((from, 40_000 + u16::from(to[3]) + port % 7), (to, port));
    let packet = tcp(FROM_CLIENT, ends, 64, "S", b"");
    let left = world.rig.carry(CLIENT_SIDE, &[packet]);
    match &left[..] {
        [] => Fate::Dropped,
        [(Out::Device(CLIENT_SIDE), answer)] => {
            assert_eq!(answer[47] & 0x04, 0x04, "a RST");
            Fate::Refused
        }
        [(Out::Device(POD_SIDE), sent)] => Fate::To(sent[30..34].try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

const FRONTENDS: [([u8; 4], u16); 3] = [(EXTERNAL, 80), (GATEWAY, 30_080), (POD_SIDE_GATEWAY, 30_080)];

#[test]
fn k19_without_any_endpoint_every_frontend_refuses_whatever_the_policy() {
    for policy in
        ["", "externalTrafficPolicy: Local", "externalTrafficPolicy: Local\ninternalTrafficPolicy: Local"]
    {
        for endpoints in [&[][..], &[("10.244.0.11", NOT_READY)]] {
            let mut world = world_on_node(policy, endpoints);
            for (to, port) in FRONTENDS.into_iter().chain([(VIP, 80)]) {
                assert_eq!(
                    fate(&mut world, CLIENT, to, port),
                    Fate::Refused,
                    "{policy} {endpoints:?} {to:?}"
                );
            }
            let datagram = udp(FROM_CLIENT, ((CLIENT, 40_000), (EXTERNAL, 80)), 64, b"x");
            let (out, answer) = world.call(&datagram);
            assert_eq!((out, answer[34], answer[35]), (Out::Device(CLIENT_SIDE), 3, 3), "port unreachable");
        }
    }
}

#[test]
fn k19_external_policy_local_drops_where_only_others_have_endpoints() {
    let mut world = world_on_node("externalTrafficPolicy: Local", &[("10.244.0.11", THERE)]);
    for (to, port) in FRONTENDS {
        assert_eq!(fate(&mut world, CLIENT, to, port), Fate::Dropped, "{to:?}");
    }
    assert_eq!(world.counter("drop_no_local_endpoint"), 3);
    assert_eq!(fate(&mut world, CLIENT, VIP, 80), Fate::To(POD), "the ClusterIP has another policy");
}

#[test]
fn k20_external_policy_local_takes_local_endpoints_and_keeps_the_clients_address() {
    let endpoints = [("10.244.0.11", HERE), ("10.244.0.12", THERE)];
    let mut world = world_on_node("externalTrafficPolicy: Local", &endpoints);
    world.rig.snapshot.masquerade = Masquerade { mode: Mode::Always, ..Masquerade::default() };
    for (to, port) in FRONTENDS {
        assert_eq!(fate(&mut world, CLIENT, to, port), Fate::To(POD), "{to:?}");
    }
    assert_eq!(world.counter("flows_masqueraded"), 0);
}

#[test]
fn k20_a_pods_traffic_to_external_frontends_takes_the_cluster_set() {
    let mut world = world_on_node("externalTrafficPolicy: Local", &[("10.244.0.11", THERE)]);
    for (to, port) in FRONTENDS {
        assert_eq!(fate(&mut world, OTHER_POD, to, port), Fate::To(POD), "{to:?}");
    }
}

#[test]
fn k20_the_local_set_falls_back_to_what_terminates_here_while_others_are_ready_elsewhere() {
    let terminating = format!("{TERMINATING}\n{HERE}");
    let endpoints = [("10.244.0.11", terminating.as_str()), ("10.244.0.12", THERE)];
    let mut world = world_on_node("externalTrafficPolicy: Local", &endpoints);
    assert_eq!(fate(&mut world, CLIENT, EXTERNAL, 80), Fate::To(POD));
}

#[test]
fn k21_internal_policy_local_holds_for_the_cluster_ip_alone() {
    let mut world = world_on_node("internalTrafficPolicy: Local", &[("10.244.0.11", THERE)]);
    assert_eq!(fate(&mut world, CLIENT, VIP, 80), Fate::Dropped);
    assert_eq!(fate(&mut world, OTHER_POD, VIP, 80), Fate::Dropped, "for pods, too");
    for (to, port) in FRONTENDS {
        assert_eq!(fate(&mut world, CLIENT, to, port), Fate::To(POD), "{to:?}");
    }
    let endpoints = [("10.244.0.11", HERE), ("10.244.0.12", THERE)];
    let mut world = world_on_node("internalTrafficPolicy: Local", &endpoints);
    assert_eq!(fate(&mut world, CLIENT, VIP, 80), Fate::To(POD));
}

#[test]
fn k20_k21_without_a_node_name_local_means_the_cluster_set_and_keeps_the_clients_address() {
    let policies = "externalTrafficPolicy: Local\ninternalTrafficPolicy: Local";
    let manifests = service("10.96.0.1", &spec(policies)) + &slice(&[("10.244.0.11", THERE)]);
    let mut world = World::at(Locality::default(), &manifests);
    world.rig.snapshot.masquerade = Masquerade { mode: Mode::Always, ..Masquerade::default() };
    for (to, port) in FRONTENDS {
        assert_eq!(fate(&mut world, CLIENT, to, port), Fate::To(POD), "{to:?}");
    }
    assert_eq!(world.counter("flows_masqueraded"), 0);
    assert_eq!(fate(&mut world, CLIENT, VIP, 80), Fate::To(POD));
    assert_eq!(world.counter("flows_masqueraded"), 1, "the ClusterIP has no such promise");
}

#[test]
fn k11_hints_for_this_node_and_zone_are_followed() {
    let hinted =
        |node, zone| format!("hints: {{forNodes: [{{name: {node}}}], forZones: [{{name: {zone}}}]}}");
    let (near, far) = (hinted("here", "east"), hinted("there", "west"));
    let endpoints = [("10.244.0.11", near.as_str()), ("10.244.0.12", far.as_str())];
    let mut world = world_on_node("", &endpoints);
    for port in 0..50 {
        let ends = ((CLIENT, 41_000 + port), (VIP, 80));
        let (_, sent) = world.call(&tcp(FROM_CLIENT, ends, 64, "S", b""));
        assert_eq!(sent[30..34], POD);
    }
}

#[test]
fn k24_a_client_that_is_itself_chosen_is_masqueraded_and_served_even_where_clients_keep_their_address() {
    let manifests =
        service("10.96.0.1", &spec("externalTrafficPolicy: Local")) + &slice(&[("10.1.0.2", HERE)]);
    for to in [VIP, EXTERNAL] {
        let mut world = World::on_node(&manifests);
        let call = tcp(FROM_CLIENT, ((CLIENT, 40_000), (to, 80)), 64, "S", b"");
        let (out, sent) = world.call(&call);
        assert_eq!((out, &sent[26..34]), (Out::Device(CLIENT_SIDE), &[GATEWAY, CLIENT].concat()[..]));
        assert_eq!(world.counter("flows_masqueraded"), 1);
    }
}

#[test]
fn k24_external_traffic_keeps_the_clients_address_unless_replies_would_pass_us_by() {
    let mut world = world_on_node("", &[("10.244.0.11", READY)]);
    assert_eq!(fate(&mut world, CLIENT, EXTERNAL, 80), Fate::To(POD));
    assert_eq!(world.counter("flows_masqueraded"), 0);
    let manifests = service("10.96.0.1", &format!("externalIPs: [203.0.113.80]\n{PORTS}"));
    let mut world = World::new(&(manifests + &slice(&[("10.1.0.9", READY)])));
    world.rig.learn(&[(
        next_hop(CLIENT_SIDE, [10, 1, 0, 9]),
        tidegate_dataplane::neighbours::NeighbourState::Reachable(POD_MAC),
    )]);
    let (_, sent) = world.call(&tcp(FROM_CLIENT, ((CLIENT, 40_000), (EXTERNAL, 80)), 64, "S", b""));
    assert_eq!(sent[26..34], [GATEWAY, [10, 1, 0, 9]].concat(), "behind the client's own link");
}
