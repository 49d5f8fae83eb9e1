//! The order of publication, step by step.

use super::*;
use crate::publish::addresses::MOST_REFUSED;
use crate::publish::{ACKNOWLEDGE_LIMIT, REFUSED_FOR, RETRY, Refusal};

/// A world in which the Service `a` has the address 1 and the endpoints 1 and 2, and all is settled.
fn with_a(workers: usize) -> World {
    let mut world = World::new(workers, &["a", "b", "c"]);
    world.say([at("a", 1), slice("a", &[1, 2])]);
    world.refresh_all();
    assert!(world.names("a", 1) && world.steers(1) && world.takes(1));
    world
}

#[test]
fn a_new_service_is_steered_and_named_only_when_every_worker_has_its_table() {
    let mut world = World::new(2, &["a"]);
    world.say([at("a", 1), slice("a", &[1])]);
    assert!(world.takes(1) && world.gives("a", 1));
    world.refresh(0);
    assert!(!world.steers(1) && world.named().is_empty() && !world.publication.is_settled());
    world.refresh(1);
    assert!(world.steers(1) && world.names("a", 1) && world.publication.is_settled());
    assert_eq!(world.publication.errors, 0);
}

#[test]
fn a_removed_service_loses_its_name_first_and_its_address_after_the_linger() {
    let mut world = with_a(1);
    world.say([deleted("a")]);
    assert!(world.named().is_empty());
    world.wait(LINGER - Duration::from_millis(1));
    assert!(world.steers(1) && world.gives("a", 1));
    world.wait(Duration::from_millis(1));
    assert!(!world.gives("a", 1) && world.refuses(1));
    world.refresh(0);
    assert!(world.steers(1) && world.takes(1));
    world.sweep();
    assert!(!world.takes(1) && !world.publication.has_leaving());
    world.wait(REFUSED_FOR);
    assert!(!world.refuses(1));
    assert!(world.steers(1), "the worker has not acknowledged yet");
    world.refresh(0);
    assert!(!world.steers(1));
    assert_eq!(world.publication.next_deadline(world.now), None);
}

#[test]
fn a_removed_address_refuses_after_the_linger_and_counts_no_more() {
    let mut world = with_a(1);
    assert_eq!(world.publication.sizes().0, 1);
    world.say([deleted("a")]);
    world.wait(LINGER - Duration::from_millis(1));
    assert!(!world.refuses(1));
    world.wait(Duration::from_millis(1));
    world.refresh(0);
    assert!(world.refuses(1) && world.steers(1));
    assert_eq!(world.publication.sizes(), (0, 0));
    world.wait(REFUSED_FOR - Duration::from_millis(1));
    assert!(world.refuses(1) && world.steers(1));
    world.wait(Duration::from_millis(1));
    world.refresh(0);
    assert!(!world.refuses(1) && !world.steers(1));
}

#[test]
fn a_refused_address_goes_to_whoever_asks_for_it_at_once() {
    for taker in ["a", "b"] {
        let mut world = with_a(1);
        world.say([deleted("a")]);
        world.wait(LINGER);
        world.refresh(0);
        assert!(world.refuses(1));
        world.say([at(taker, 1), slice(taker, &[3])]);
        assert!(world.gives(taker, 1) && !world.refuses(1) && !world.names(taker, 1), "{taker}");
        world.refresh(0);
        assert!(world.names(taker, 1) && world.steers(1), "{taker}");
        world.wait(2 * REFUSED_FOR);
        assert!(world.names(taker, 1) && world.gives(taker, 1) && world.steers(1), "{taker}");
        assert_eq!(world.publication.next_deadline(world.now), None);
    }
}

#[test]
fn of_many_removed_addresses_the_oldest_are_left_and_the_others_refused() {
    let mut world = World::new(1, &[]);
    let address = |number: u16| IpAddr::from([10, 97, (number >> 8) as u8, number as u8]);
    let kind = |number| ServiceKind::ClusterIp(vec![address(number)]);
    let name = |number: u16| format!("s{number}");
    let most = MOST_REFUSED as u16;
    world.say((0..=most).map(|number| applied(&name(number), kind(number))));
    world.refresh(0);
    world.say([deleted(&name(7))]);
    world.wait(Duration::from_millis(1));
    world.say((0..=most).filter(|number| *number != 7).map(|number| deleted(&name(number))));
    world.wait(LINGER);
    world.refresh(0);
    let current = world.publication.publisher.current();
    let left = (0..=most).filter(|number| current.services.virtual_address(address(*number)).is_none());
    assert_eq!(left.collect::<Vec<_>>(), [7]);
    assert_eq!(world.publication.steering.addresses.len(), MOST_REFUSED);
}

#[test]
fn a_removed_external_address_goes_back_to_the_kernel_at_once() {
    let mut world = World::new(1, &["a"]);
    let mut service = service_of("a", ServiceKind::ClusterIp(vec![vip(1)]));
    service.traffic.external_addresses = vec![IpAddr::from([203, 0, 113, 5])];
    service.ports[0].node_port = Some(30_080);
    world.say([Event::ServiceApplied(Arc::new(service)), slice("a", &[1])]);
    world.refresh(0);
    assert_eq!(world.publication.steering.sockets.len(), 2);
    world.say([deleted("a")]);
    world.wait(LINGER);
    world.refresh(0);
    assert!(world.publication.steering.sockets.is_empty());
    assert!(world.refuses(1) && world.steers(1));
}

#[test]
fn an_endpoint_stays_until_every_worker_is_past_it_and_its_last_flow_is_gone() {
    let mut world = with_a(2);
    world.say([slice("a", &[2])]);
    world.refresh(0);
    world.wait(ACKNOWLEDGE_LIMIT);
    world
        .publication
        .sweep_endpoints(|| panic!("no use in looking before every worker is past it"), world.now);
    assert!(world.takes(1));
    // The late worker opens a flow by its old snapshot, and only then takes the new one.
    world.flows.push(endpoint(1));
    world.refresh(1);
    world.sweep();
    assert!(world.takes(1));
    world.flows.clear();
    world.sweep();
    assert!(!world.takes(1) && world.takes(2));
}

#[test]
fn an_endpoint_that_is_listed_again_before_it_left_is_not_made_anew() {
    let mut world = with_a(1);
    world.say([slice("a", &[2])]);
    world.refresh(0);
    let calls = world.publication.steering.calls;
    world.say([slice("a", &[1, 2])]);
    world.refresh(0);
    world.sweep();
    assert!(world.takes(1) && world.takes(2));
    assert_eq!(world.publication.steering.calls, calls);
}

#[test]
fn a_lingering_address_goes_to_another_service_at_once() {
    let mut world = with_a(1);
    world.say([deleted("a")]);
    world.wait(Duration::from_millis(10));
    world.say([at("b", 1), slice("b", &[3])]);
    assert!(world.gives("b", 1) && !world.names("b", 1));
    world.refresh(0);
    assert!(world.names("b", 1) && world.steers(1));
    world.wait(2 * LINGER);
    assert!(world.gives("b", 1) && world.steers(1) && world.names("b", 1));
    world.sweep();
    assert!(!world.takes(1) && world.takes(3));
}

#[test]
fn a_service_that_comes_back_within_the_linger_keeps_its_address() {
    let mut world = with_a(1);
    let generation = world.publication.publisher.current().generation;
    world.say([deleted("a")]);
    world.wait(LINGER / 2);
    world.say([at("a", 1)]);
    assert!(world.names("a", 1), "nothing is to wait for");
    world.wait(2 * LINGER);
    assert!(world.names("a", 1) && world.steers(1) && world.gives("a", 1));
    assert_eq!(world.publication.publisher.current().generation, generation);
}

#[test]
fn a_service_that_comes_back_while_its_end_is_unacknowledged_keeps_its_entry() {
    let mut world = with_a(1);
    world.say([deleted("a")]);
    world.wait(LINGER);
    assert!(!world.gives("a", 1) && world.steers(1));
    world.say([at("a", 1)]);
    assert!(!world.names("a", 1));
    world.refresh(0);
    assert!(world.names("a", 1) && world.steers(1));
}

#[test]
fn of_two_services_with_one_address_the_first_keeps_it_and_the_other_has_no_name() {
    let mut world = with_a(1);
    world.say([at("b", 1), slice("b", &[3])]);
    world.refresh(0);
    assert!(world.gives("a", 1) && world.names("a", 1) && !world.names("b", 1));
    assert_eq!((world.publication.short(), world.publication.errors), (1, 1));
    world.wait(3 * RETRY);
    assert_eq!(world.publication.errors, 1, "one fault is one error, however often it is seen");
    let refusal = Refusal {
        service: object("b"),
        field: "spec.clusterIPs",
        what: format!("{}: belongs to Service dev/a already", vip(1)),
    };
    assert_eq!(world.publication.refusals, [refusal]);
    world.say([deleted("a")]);
    world.pump();
    world.refresh(0);
    assert!(world.gives("b", 1) && world.names("b", 1) && !world.names("a", 1));
    assert_eq!(world.publication.short(), 0);
}

#[test]
fn an_address_that_passes_on_in_one_change_is_first_nobodys_name() {
    // In the order of their names, the one that gets it comes before the one that gives it, and after.
    for (giver, taker) in [("b", "a"), ("a", "b")] {
        let mut world = World::new(1, &["a", "b"]);
        world.say([at(giver, 1), slice(giver, &[1]), at(taker, 2), slice(taker, &[2])]);
        world.refresh(0);
        world.say([at(taker, 1), at(giver, 3)]);
        assert!(world.gives(taker, 1) && world.gives(giver, 3));
        assert!(!world.names(giver, 1) && !world.names(taker, 1));
        assert!(world.names(taker, 2), "nobody asked for the address that is left");
        world.refresh(0);
        assert!(world.names(taker, 1) && world.names(giver, 3) && !world.names(taker, 2));
        world.wait(LINGER);
        world.refresh(0);
        assert!(world.refuses(2) && !world.refuses(1) && !world.refuses(3));
        world.wait(REFUSED_FOR);
        world.refresh(0);
        assert!(!world.steers(2) && world.steers(1) && world.steers(3));
    }
}

#[test]
fn two_services_that_swap_addresses_end_with_each_others() {
    let mut world = World::new(1, &["a", "b"]);
    world.say([at("a", 1), at("b", 2)]);
    world.refresh(0);
    world.say([at("a", 2), at("b", 1)]);
    assert!(world.named().is_empty());
    world.refresh(0);
    assert!(world.names("a", 2) && world.names("b", 1));
    assert_eq!(world.publication.errors, 0);
}

#[test]
fn an_address_that_is_left_lingers_from_when_no_name_says_it() {
    let mut world = with_a(1);
    world.say([at("a", 2)]);
    world.wait(Duration::from_millis(500));
    assert!(world.names("a", 1), "the new address is not acknowledged yet");
    world.refresh(0);
    assert!(world.names("a", 2) && !world.names("a", 1));
    world.wait(LINGER - Duration::from_millis(1));
    assert!(world.gives("a", 1) && world.steers(1));
    world.wait(Duration::from_millis(1));
    assert!(!world.gives("a", 1) && world.gives("a", 2));
}

#[test]
fn a_service_that_becomes_headless_is_named_by_its_endpoints_before_its_address_goes() {
    let mut world = with_a(1);
    world.say([applied("a", ServiceKind::Headless)]);
    let (is_vip, data) = world.named().remove("a").unwrap();
    assert!(!is_vip && data.len() == 2, "{data:?}");
    assert!(world.steers(1) && world.gives("a", 1));
    world.wait(LINGER);
    world.refresh(0);
    world.sweep();
    assert!(world.refuses(1) && !world.takes(1) && !world.takes(2));
    world.say([at("a", 1)]);
    world.refresh(0);
    assert!(world.names("a", 1) && world.takes(1));
}

#[test]
fn an_endpoint_that_moves_to_another_service_is_never_out_of_the_program() {
    let mut world = with_a(1);
    world.say([at("b", 2), slice("b", &[1]), slice("a", &[2])]);
    world.refresh(0);
    world.sweep();
    assert!(world.takes(1) && world.takes(2));
    world.say([slice("b", &[])]);
    world.refresh(0);
    world.sweep();
    assert!(!world.takes(1));
}

#[test]
fn a_parked_worker_holds_up_nothing() {
    let mut world = World::new(1, &["a"]);
    world.park(0);
    world.say([at("a", 1), slice("a", &[1])]);
    assert!(world.names("a", 1) && world.steers(1));
    world.say([deleted("a")]);
    world.wait(LINGER);
    world.sweep();
    assert!(world.refuses(1) && !world.takes(1));
    world.wait(REFUSED_FOR);
    assert!(!world.steers(1));
}

#[test]
fn a_worker_that_stops_delays_names_but_takes_nothing_away_that_it_may_use() {
    let mut world = with_a(2);
    world.say([at("b", 2), slice("b", &[3]), slice("a", &[2])]);
    world.refresh(0);
    world.wait(ACKNOWLEDGE_LIMIT - Duration::from_millis(1));
    assert!(!world.names("b", 2));
    world.wait(Duration::from_millis(1));
    assert!(world.names("b", 2) && world.steers(2));
    assert_eq!(world.publication.errors, 1);
    world.say([deleted("a")]);
    world.wait(LINGER + REFUSED_FOR);
    world.refresh(0);
    world.sweep();
    assert!(world.steers(1) && world.takes(1) && world.takes(2));
    world.refresh(1);
    world.sweep();
    assert!(!world.steers(1) && !world.takes(1) && !world.takes(2));
    assert!(world.names("b", 2));
}

#[test]
fn an_endpoint_that_the_program_does_not_take_is_left_out_and_tried_again() {
    let mut world = World::new(1, &["a"]);
    world.publication.steering.room = 1;
    world.say([at("a", 1), slice("a", &[1, 2])]);
    world.refresh(0);
    assert!(world.names("a", 1));
    let chosen = backends(&world.publication.publisher.current(), vip(1));
    assert_eq!(chosen.iter().map(key).collect::<Vec<_>>(), [endpoint(1)]);
    assert_eq!((world.publication.short(), world.publication.errors), (1, 1));
    let [Refusal { field: "EndpointSlices", what, .. }] = &world.publication.refusals[..] else { panic!() };
    assert!(what.starts_with("no room for"), "{what}");
    world.wait(RETRY);
    assert_eq!(world.publication.errors, 1);
    world.publication.steering.room = 2;
    world.wait(RETRY);
    world.refresh(0);
    assert_eq!(backends(&world.publication.publisher.current(), vip(1)).len(), 2);
    assert_eq!(world.publication.short(), 0);
}

#[test]
fn an_address_that_the_program_does_not_take_has_no_name_until_it_does() {
    let mut world = World::new(1, &["a", "b"]);
    world.publication.steering.unwelcome.insert(vip(1));
    world.say([at("a", 1), slice("a", &[1]), at("b", 2)]);
    world.refresh(0);
    assert!(!world.names("a", 1) && world.names("b", 2));
    world.publication.steering.unwelcome.clear();
    world.wait(RETRY);
    assert!(world.names("a", 1) && world.steers(1));
}

#[test]
fn a_service_of_another_proxy_has_names_but_no_table() {
    let mut world = with_a(1);
    // Its name may well say an address that the XDP program does not take.
    world.publication.steering.services.clear();
    let foreign = Service { foreign_proxy: true, ..service_of("a", ServiceKind::ClusterIp(vec![vip(1)])) };
    world.say([Event::ServiceApplied(Arc::new(foreign))]);
    assert!(world.names("a", 1));
    world.wait(LINGER);
    world.refresh(0);
    assert!(world.names("a", 1) && !world.gives("a", 1));
    assert!(!world.refuses(1), "the other proxy speaks for it");
}

#[tokio::test]
async fn settling_waits_for_the_workers() {
    let mut world = World::new(1, &["a"]);
    world.now = Instant::now();
    world.say([at("a", 1), slice("a", &[1])]);
    assert!(!world.publication.is_settled());
    let mut worker = world.workers.remove(0);
    let (cluster, publication) = (&world.cluster, &mut world.publication);
    let acknowledged = tokio::join!(publication.settle(cluster), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        worker.subscriber.refresh().generation
    });
    assert_eq!(acknowledged.1, 1);
    assert!(world.publication.is_settled() && world.names("a", 1));
    assert_eq!(world.publication.errors, 0);
}
