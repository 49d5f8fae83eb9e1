//! K15 to K18 and K22, K23: by which addresses a Service is called.

use crate::path_rig::*;
use crate::world::{PORTS, READY, World, service, slice};

const EXTERNAL: [u8; 4] = [203, 0, 113, 80];
const NODE_PORTS: &str = "type: NodePort\nports:\n- {name: web, port: 80, protocol: TCP, nodePort: 30080}\n- {name: voice, port: 80, protocol: UDP, nodePort: 30080}\n";

fn pod() -> String {
    slice(&[("10.244.0.11", READY)])
}

fn syn(to: [u8; 4], port: u16) -> Vec<u8> {
    tcp(FROM_CLIENT, ((CLIENT, 40_000), (to, port)), 64, "S", b"")
}

/// The client's SYN as it reaches the pod.
fn at_pod() -> (Out, Vec<u8>) {
    (Out::Device(POD_SIDE), tcp(TO_POD, ((CLIENT, 40_000), (POD, 8080)), 63, "S", b""))
}

#[test]
fn k15_a_cluster_ip_leads_to_the_endpoint_and_back_on_every_port() {
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &pod()));
    assert_eq!(world.call(&syn(VIP, 80)), at_pod());
    let reply = tcp(FROM_POD, ((POD, 8080), (CLIENT, 40_000)), 64, "SA", b"");
    let back = tcp(TO_CLIENT, ((VIP, 80), (CLIENT, 40_000)), 63, "SA", b"");
    assert_eq!(world.rig.one(POD_SIDE, &reply), (Out::Device(CLIENT_SIDE), back));
    let question = udp(FROM_CLIENT, ((CLIENT, 40_000), (VIP, 80)), 64, b"x");
    let asked = udp(TO_POD, ((CLIENT, 40_000), (POD, 8080)), 63, b"x");
    assert_eq!(world.call(&question), (Out::Device(POD_SIDE), asked));
    world.rig.assert_counters(&[
        ("rx_packets", 3),
        ("tx_packets", 3),
        ("forwarded", 3),
        ("flows_inserted", 2),
    ]);
}

#[test]
fn k16_a_node_port_is_served_on_each_node_address_and_comes_back_from_there() {
    let mut world = World::new(&(service("10.96.0.1", NODE_PORTS) + &pod()));
    for (number, node) in (0..).zip([GATEWAY, POD_SIDE_GATEWAY]) {
        let client = (CLIENT, 40_000 + number);
        let call = tcp(FROM_CLIENT, (client, (node, 30_080)), 64, "S", b"");
        let at_pod = tcp(TO_POD, (client, (POD, 8080)), 63, "S", b"");
        assert_eq!(world.call(&call), (Out::Device(POD_SIDE), at_pod));
        let reply = tcp(FROM_POD, ((POD, 8080), client), 64, "SA", b"");
        let back = tcp(TO_CLIENT, ((node, 30_080), client), 63, "SA", b"");
        assert_eq!(world.rig.one(POD_SIDE, &reply), (Out::Device(CLIENT_SIDE), back));
    }
    let (out, _) = world.call(&syn(GATEWAY, 30_081));
    assert_eq!(out, Out::Punt, "other ports of the node are the kernel's");
    world.say(&(service("10.96.0.1", PORTS) + &pod()));
    world.wait(std::time::Duration::from_secs(2));
    let anew = tcp(FROM_CLIENT, ((CLIENT, 40_009), (GATEWAY, 30_080)), 64, "S", b"");
    assert_eq!(world.call(&anew).0, Out::Punt, "no NodePort any more");
}

#[test]
fn k16_a_type_without_node_ports_has_none_and_one_of_two_services_keeps_a_number() {
    let cluster_ip = NODE_PORTS.replace("NodePort\n", "ClusterIP\n");
    let mut world = World::new(&(service("10.96.0.1", &cluster_ip) + &pod()));
    assert_eq!(world.call(&syn(GATEWAY, 30_080)).0, Out::Punt);
    let second = service("10.96.0.2", NODE_PORTS).replace("name: ent\n", "name: other\n");
    world.say(&(service("10.96.0.1", NODE_PORTS) + &second + &pod()));
    assert_eq!(world.call(&syn(GATEWAY, 30_080)), at_pod(), "the first has it");
    assert_eq!(world.publication.errors, 2, "the second's are reported");
    assert_eq!(world.publication.short(), 1);
    assert_eq!(
        world.call(&syn([10, 96, 0, 2], 80)).0,
        Out::Device(CLIENT_SIDE),
        "its ClusterIP refuses: no endpoints"
    );
}

#[test]
fn k17_an_external_ip_is_served_on_the_services_ports_and_nothing_else_of_it_is_ours() {
    let spec = format!("externalIPs: [203.0.113.80]\n{PORTS}");
    let mut world = World::new(&(service("10.96.0.1", &spec) + &pod()));
    assert_eq!(world.call(&syn(EXTERNAL, 80)), at_pod());
    assert_eq!(world.call(&syn(EXTERNAL, 81)).0, Out::Punt);
    let ping = ping(FROM_CLIENT, CLIENT, EXTERNAL, 9, false);
    assert_eq!(world.call(&ping).0, Out::Device(CLIENT_SIDE), "ping is answered");
    world.rig.assert_counters(&[
        ("rx_packets", 3),
        ("tx_packets", 3),
        ("forwarded", 1),
        ("punted", 1),
        ("answered_echo", 1),
        ("flows_inserted", 1),
    ]);
}

#[test]
fn k17_two_services_share_an_external_address_by_their_ports() {
    let first = service("10.96.0.1", &format!("externalIPs: [203.0.113.80]\n{PORTS}"));
    let spec = "externalIPs: [203.0.113.80]\nports:\n- {name: tls, port: 443}\n";
    let second = service("10.96.0.2", spec).replace("name: ent\n", "name: other\n");
    let mut world = World::new(&(first.clone() + &second + &pod()));
    assert_eq!(world.call(&syn(EXTERNAL, 80)), at_pod());
    let (out, refused) = world.call(&syn(EXTERNAL, 443));
    assert_eq!((out, refused[47] & 0x04), (Out::Device(CLIENT_SIDE), 0x04), "no endpoints: RST");
    world.say(&(first + &pod()));
    world.wait(std::time::Duration::from_secs(2));
    assert_eq!(world.call(&syn(EXTERNAL, 443)).0, Out::Punt);
    assert_eq!(
        world.call(&tcp(FROM_CLIENT, ((CLIENT, 40_001), (EXTERNAL, 80)), 64, "S", b"")).0,
        Out::Device(POD_SIDE)
    );
}

fn balancer(ingress: &str, spec: &str) -> String {
    let service = service("10.96.0.1", &format!("type: LoadBalancer\n{spec}{PORTS}"));
    service.replace("---\n", &format!("status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n---\n")) + &pod()
}

#[test]
fn k18_addresses_of_a_load_balancer_are_served_but_not_those_of_a_proxy() {
    for (ingress, is_served) in [
        ("{ip: 203.0.113.80}", true),
        ("{ip: 203.0.113.80, ipMode: VIP}", true),
        ("{ip: 203.0.113.80, ipMode: Proxy}", false),
        ("{hostname: lb.example}", false),
        ("{ip: '2001:db8::80'}", false),
    ] {
        let mut world = World::new(&balancer(ingress, ""));
        let (out, _) = world.call(&syn(EXTERNAL, 80));
        assert_eq!(out, if is_served { Out::Device(POD_SIDE) } else { Out::Punt }, "{ingress}");
    }
}

#[test]
fn k22_source_ranges_hold_for_load_balancer_addresses_alone_and_drop() {
    let spec = "loadBalancerSourceRanges: ['10.9.0.0/16', ' 10.1.0.2/32 ']\nexternalIPs: [203.0.113.81]\n";
    let mut world = World::new(
        &balancer("{ip: 203.0.113.80}", spec)
            .replace("port: 80, protocol: TCP", "port: 80, protocol: TCP, nodePort: 30080"),
    );
    assert_eq!(world.call(&syn(EXTERNAL, 80)), at_pod(), "blanks do not count");
    let stranger = |to, port| tcp(FROM_CLIENT, (([10, 1, 0, 3], 40_000), (to, port)), 64, "S", b"");
    world.call_in_vain(&stranger(EXTERNAL, 80));
    assert_eq!(world.counter("drop_source_range"), 1);
    for (to, port) in [(VIP, 80), ([203, 0, 113, 81], 80), (GATEWAY, 30_080)] {
        let ends = (([10, 1, 0, 3], 40_000 + u16::from(to[3])), (to, port));
        let (out, _) = world.call(&tcp(FROM_CLIENT, ends, 64, "S", b""));
        assert_eq!(out, Out::Device(POD_SIDE), "{to:?}");
    }
}

#[test]
fn k22_a_family_without_ranges_and_a_range_of_everybody_restrict_nothing() {
    for ranges in ["['2001:db8::/32']", "['10.9.0.0/16', '0.0.0.0/0']", "[]"] {
        let mut world =
            World::new(&balancer("{ip: 203.0.113.80}", &format!("loadBalancerSourceRanges: {ranges}\n")));
        assert_eq!(world.call(&syn(EXTERNAL, 80)), at_pod(), "{ranges}");
    }
}

#[test]
fn k22_an_established_flow_of_a_client_that_is_no_longer_admitted_goes_on() {
    let mut world = World::new(&balancer("{ip: 203.0.113.80}", ""));
    assert_eq!(world.call(&syn(EXTERNAL, 80)), at_pod());
    world.say(&balancer("{ip: 203.0.113.80}", "loadBalancerSourceRanges: ['10.9.0.0/16']\n"));
    let more = tcp(FROM_CLIENT, ((CLIENT, 40_000), (EXTERNAL, 80)), 64, "A", b"more");
    assert_eq!(world.call(&more).0, Out::Device(POD_SIDE));
    world.call_in_vain(&tcp(FROM_CLIENT, ((CLIENT, 40_001), (EXTERNAL, 80)), 64, "S", b""));
}

#[test]
fn k23_undefined_ports_are_refused_and_unallocated_addresses_dropped_by_manifests_too() {
    let mut world = World::new(&(service("10.96.0.1", PORTS) + &pod()));
    let (out, answer) = world.call(&syn(VIP, 81));
    assert_eq!((out, answer[47] & 0x04), (Out::Device(CLIENT_SIDE), 0x04));
    world.call_in_vain(&syn(UNALLOCATED, 80));
    world.rig.assert_counters(&[
        ("rx_packets", 2),
        ("tx_packets", 1),
        ("answered_reset", 1),
        ("drop_unallocated_address", 1),
    ]);
}
