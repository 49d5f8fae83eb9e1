//! Bad objects: named with their field, counted, skipped whole, and nobody else is disturbed.

use crate::path_rig::*;
use crate::world::{PORTS, READY, World, annotated_service, service, slice};

fn good() -> String {
    service("10.96.0.1", PORTS) + &slice(&[("10.244.0.11", READY)])
}

/// A bad Service `dev/bad` with these further lines of its spec.
fn bad(spec: &str) -> String {
    service("10.96.0.2", &format!("{PORTS}{spec}")).replace("name: ent\n", "name: bad\n")
}

#[test]
fn a_service_that_lies_in_one_field_is_named_with_it_and_the_rest_is_served() {
    for (spec, field) in [
        ("externalIPs: ['203.0.113.256']", "spec.externalIPs[0]"),
        ("externalIPs: [127.0.0.1]", "spec.externalIPs[0]"),
        ("externalIPs: [203.0.113.1, 203.0.113.1]", "spec.externalIPs[1]"),
        ("loadBalancerSourceRanges: [10.0.0.0/33]", "spec.loadBalancerSourceRanges[0]"),
        ("loadBalancerSourceRanges: [10.0.0.0]", "spec.loadBalancerSourceRanges[0]"),
        ("loadBalancerSourceRanges: ['fd00::/129']", "spec.loadBalancerSourceRanges[0]"),
        ("externalTrafficPolicy: local", "spec.externalTrafficPolicy"),
        ("internalTrafficPolicy: Nearest", "spec.internalTrafficPolicy"),
        ("sessionAffinity: ClientIp", "spec.sessionAffinity"),
        (
            "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (
            "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        ("healthCheckNodePort: 70000", "spec.healthCheckNodePort"),
    ] {
        let mut world = World::new(&(good() + &bad(spec)));
        let problems = world.problems();
        assert!(
            problems.len() == 1 && problems[0].contains("dev/bad") && problems[0].contains(field),
            "{spec}: {problems:?}"
        );
        assert_eq!(world.open(CLIENT, 40_000, VIP, 80), 11, "{spec}");
        world.call_in_vain(&tcp(FROM_CLIENT, ((CLIENT, 40_001), ([10, 96, 0, 2], 80)), 64, "S", b""));
    }
}

#[test]
fn annotations_and_statuses_that_lie_are_named_likewise() {
    for (annotation, name) in [
        ("choice: fastest", "choice"),
        ("weights: 10.244.0.11", "weights"),
        ("weights: 10.244.0.11=0", "weights"),
        ("weights: 10.244.0.11=101", "weights"),
        ("weights: pod=3", "weights"),
        ("reset-after: soon", "reset-after"),
        ("repick: maybe", "repick"),
    ] {
        let bad = annotated_service("10.96.0.2", annotation, PORTS).replace("name: ent\n", "name: bad\n");
        let problems = World::new(&(good() + &bad)).problems();
        let field = format!("metadata.annotations[tidegate.io/{name}]");
        assert!(problems.len() == 1 && problems[0].contains(&field), "{annotation}: {problems:?}");
    }
    for (ingress, field) in [
        ("{ip: 1.2.3}", "status.loadBalancer.ingress[0].ip"),
        ("{ip: 203.0.113.1, ipMode: vip}", "status.loadBalancer.ingress[0].ipMode"),
    ] {
        let bad =
            bad("").replace("---\n", &format!("status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n---\n"));
        let problems = World::new(&(good() + &bad)).problems();
        assert!(problems.len() == 1 && problems[0].contains(field), "{ingress}: {problems:?}");
    }
}

#[test]
fn node_ports_and_hints_that_lie_are_named_likewise() {
    let ports = "type: NodePort\nports:\n- {name: a, port: 80, nodePort: 30080}\n- {name: b, port: 81, nodePort: 30080}\n";
    let twice = service("10.96.0.2", ports).replace("name: ent\n", "name: bad\n");
    let wide = twice.replace("port: 81, nodePort: 30080", "port: 81, nodePort: 65536");
    for bad in [twice, wide] {
        let problems = World::new(&(good() + &bad)).problems();
        assert!(problems.len() == 1 && problems[0].contains("spec.ports[1].nodePort"), "{problems:?}");
    }
    let slice =
        slice(&[("10.244.0.12", "hints: {forZones: [east]}")]).replace("name: ent-1\n", "name: ent-2\n");
    let mut world = World::new(&(good() + &slice));
    let problems = world.problems();
    assert!(problems.len() == 1 && problems[0].contains("endpoints[0].hints.forZones[0]"), "{problems:?}");
    assert_eq!(world.open(CLIENT, 40_000, VIP, 80), 11, "the slice is skipped whole");
}
