//! What the rules of a Service cost: who may call, how an endpoint is chosen, and what becomes of flows whose endpoint
//! has left.

use std::collections::BTreeMap;

use tidegate_dataplane::counters::Counters;
use tidegate_dataplane::departed::{Departed, Departure};
use tidegate_dataplane::services::{Choice, Without};

use super::*;

const TERMS_VIP: [u8; 4] = [10, 96, 0, 40];

/// A Service on TCP and UDP port 80, with these endpoints and terms.
fn with_terms(backends: &[([u8; 4], u16)], terms: &Terms) -> VirtualAddress {
    let plain = both(400, backends);
    let ports = plain.ports().iter().map(|port| ServicePort { terms: terms.clone(), ..port.clone() });
    VirtualAddress::new(ports.collect())
}

/// Puts a Service with these endpoints and terms in force.
fn serve(rig: &mut Rig, backends: &[([u8; 4], u16)], terms: &Terms) {
    rig.snapshot.services = rig.snapshot.services.with([(ip(TERMS_VIP), Some(with_terms(backends, terms)))]);
}

/// Calls a Service whose ranges leave the client out, one without an endpoint on this node, and hears late from an
/// endpoint that flows have left; returns where that was counted.
pub(super) fn call_in_vain() -> Counters {
    let rig = &mut warm_rig(1024);
    let to_service = udp(FROM_CLIENT, (C, (TERMS_VIP, 80)), 64, b"");
    let nobody = Terms { sources: Some(Arc::new([])), ..Terms::default() };
    serve(rig, &[(POD, 8080)], &nobody);
    assert_eq!(carry(rig, CLIENT_SIDE, std::slice::from_ref(&to_service)), 0);
    serve(rig, &[], &Terms { without: Without::Drop, ..Terms::default() });
    assert_eq!(carry(rig, CLIENT_SIDE, std::slice::from_ref(&to_service)), 0);

    serve(rig, &[(POD, 8080)], &Terms::default());
    assert_eq!(carry(rig, CLIENT_SIDE, std::slice::from_ref(&to_service)), 1);
    leave(rig, Departure::Repick);
    assert_eq!(carry(rig, CLIENT_SIDE, &[to_service]), 1, "chosen for anew");
    assert_eq!(carry(rig, POD_SIDE, &[udp(FROM_POD, (P, C), 64, b"")]), 0, "it left that endpoint");
    rig.path.counters.clone()
}

/// Says that the endpoint has left both ports of the Service, and another one is there.
fn leave(rig: &mut Rig, departure: Departure) {
    let ports = with_terms(&[(POD, 8080)], &Terms::default());
    let leaving: BTreeMap<_, _> = ports
        .ports()
        .iter()
        .map(|port| {
            let backend = port.backends.members()[0];
            ((port.id, backend.id), ((backend.address, backend.port, port.protocol), departure))
        })
        .collect();
    rig.snapshot.departed = Arc::new(Departed::new(1, &leaving));
    serve(rig, &[(POD, 8081)], &Terms::default());
}

#[test]
fn every_choice_of_an_endpoint_and_affinity_ask_nothing_of_the_allocator() {
    over_both_families(|| {
        for choice in [Choice::Maglev, Choice::Random, Choice::LeastConnections] {
            for affinity_seconds in [None, Some(60)] {
                let mut rig = warm_rig(1024);
                let pods = [(POD, 8080), (POD, 8081), (POD, 8082)];
                serve(&mut rig, &pods, &Terms { choice, affinity_seconds, ..Terms::default() });
                let calls = many(200, |n| udp(FROM_CLIENT, ((CLIENT, 1000 + n), (TERMS_VIP, 80)), 64, b""));
                assert_eq!(carry(&mut rig, CLIENT_SIDE, &calls), 200);
            }
        }
    });
}

#[test]
fn connections_to_an_endpoint_that_has_left_are_reset_without_the_allocator() {
    over_both_families(|| {
        let mut rig = warm_rig(1024);
        serve(&mut rig, &[(POD, 8080)], &Terms::default());
        let (there, back) = ((C, (TERMS_VIP, 80)), (P, C));
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &[tcp(FROM_CLIENT, there, 64, "S", b"")]), 1);
        assert_eq!(carry(&mut rig, POD_SIDE, &[tcp(FROM_POD, back, 64, "SA", b"")]), 1);
        assert_eq!(carry(&mut rig, CLIENT_SIDE, &[tcp(FROM_CLIENT, there, 64, "A", b"")]), 1);
        leave(&mut rig, Departure::Reset);
        assert_eq!(
            carry(&mut rig, CLIENT_SIDE, &[tcp(FROM_CLIENT, there, 64, "A", b"x")]),
            2,
            "a RST to each"
        );
        assert_eq!(rig.path.counters.flows_reset, 1);
    });
}
