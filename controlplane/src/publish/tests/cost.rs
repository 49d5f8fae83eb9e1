//! A change costs what it changed, not the size of the cluster.

use super::*;

const SERVICES: u32 = 10_000;

fn address(number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    IpAddr::from([10, 96, high, low])
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

#[test]
fn one_endpoint_more_among_ten_thousand_services_costs_one_entry_one_table_and_one_shard() {
    let mut world = World::new(1, &[]);
    let services = (0..SERVICES).flat_map(|number| {
        let kind = ServiceKind::ClusterIp(vec![address(number)]);
        [applied(&name(number), kind), slice(&name(number), &[(number % 250) as u8])]
    });
    world.say(services);
    world.refresh_all();
    assert_eq!(world.publication.sizes(), (SERVICES as usize, 250));
    let before = world.publication.publisher.current();
    let calls = world.publication.steering.calls;

    world.say([slice(&name(77), &[77, 251])]);
    world.refresh_all();
    assert_eq!(world.publication.steering.calls, calls + 1);
    let after = world.publication.publisher.current();
    let (mut moved, mut rebuilt) = (0, 0);
    for number in 0..SERVICES {
        let old = before.services.virtual_address(address(number)).unwrap();
        let new = after.services.virtual_address(address(number)).unwrap();
        moved += u32::from(!std::ptr::eq(old, new));
        rebuilt += u32::from(!Arc::ptr_eq(&old.ports()[0].backends, &new.ports()[0].backends));
    }
    assert_eq!(rebuilt, 1);
    assert!(moved <= SERVICES / 200, "{moved} tables were copied");
}

#[test]
fn a_change_that_no_packet_sees_makes_no_snapshot() {
    let mut world = World::new(1, &["a", "b"]);
    world.say([at("a", 1), slice("a", &[1])]);
    world.refresh(0);
    let generation = world.publication.publisher.current().generation;
    world.say([applied("b", ServiceKind::Headless), slice("b", &[2])]);
    assert!(world.named().contains_key("b"));
    assert_eq!(world.publication.publisher.current().generation, generation);
    assert!(!world.takes(2));
}
