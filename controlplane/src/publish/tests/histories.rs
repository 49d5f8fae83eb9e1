//! Random histories: what holds at every moment, and that the end is what a fresh start would make.

use proptest::prelude::*;

use super::*;
use crate::publish::{ACKNOWLEDGE_LIMIT, REFUSED_FOR, RETRY};

const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
const WORKERS: usize = 2;
const ADDRESSES: u8 = 4;
const ENDPOINTS: u8 = 5;

#[derive(Clone, Debug)]
enum Step {
    Say(Vec<Event>),
    Refresh(usize),
    Park(usize),
    Wait(u64),
    Sweep,
    /// A worker opens a flow to the backend that its snapshot gives at that address.
    OpenFlow(usize, u8),
    EndFlow,
    Room(usize),
    Unwelcome(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let service = prop::sample::select(&SERVICES[..]);
    prop_oneof![
        5 => (service.clone(), 0..ADDRESSES).prop_map(|(name, address)| at(name, address)),
        1 => service.clone().prop_map(|name| applied(name, ServiceKind::Headless)),
        1 => service.clone().prop_map(|name| applied(name, ServiceKind::ExternalName("example.org".into()))),
        3 => service.clone().prop_map(deleted),
        5 => (service, prop::collection::vec(0..ENDPOINTS, 0..4)).prop_map(|(name, mut endpoints)| {
            endpoints.sort_unstable();
            endpoints.dedup();
            slice(name, &endpoints)
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(event(), 1..5).prop_map(Step::Say),
        6 => (0..WORKERS).prop_map(Step::Refresh),
        2 => (0..WORKERS).prop_map(Step::Park),
        4 => prop::sample::select(vec![1, 100, 400, 700, 1000, 6000, 60_000]).prop_map(Step::Wait),
        3 => Just(Step::Sweep),
        3 => (0..WORKERS, 0..ADDRESSES).prop_map(|(worker, address)| Step::OpenFlow(worker, address)),
        2 => Just(Step::EndFlow),
        1 => (0..6_usize).prop_map(Step::Room),
        1 => (0..ADDRESSES).prop_map(Step::Unwelcome),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Say(events) => world.say(events),
        Step::Refresh(worker) => world.refresh(worker),
        Step::Park(worker) => world.park(worker),
        Step::Wait(milliseconds) => world.wait(Duration::from_millis(milliseconds)),
        Step::Sweep => world.sweep(),
        Step::OpenFlow(worker, address) => {
            let worker = &world.workers[worker];
            let chosen = (!worker.parked).then(|| backends(&worker.held, vip(address)).first().map(key));
            world.flows.extend(chosen.flatten());
        }
        Step::EndFlow => {
            world.flows.pop();
        }
        Step::Room(endpoints) => world.publication.steering.room = endpoints,
        Step::Unwelcome(address) => {
            world.publication.steering.unwelcome.insert(vip(address));
        }
    }
}

/// Asserts what must hold whenever a packet may come.
fn check(world: &World) {
    let current = world.publication.publisher.current();
    let maps = &world.publication.steering;
    // A parked worker looks at the snapshot in force before its next packet.
    let in_use = world.workers.iter().filter(|worker| !worker.parked);
    for snapshot in in_use.clone().map(|worker| &worker.held).chain([&*current]) {
        for backend in (0..ADDRESSES).flat_map(|address| backends(snapshot, vip(address))) {
            assert!(maps.endpoints.contains(&key(&backend)), "replies of {backend:?} pass us by");
        }
    }
    for flow in &world.flows {
        assert!(maps.endpoints.contains(flow), "replies of a flow to {flow:?} pass us by");
    }
    let is_late = |since: Instant| world.now >= since + ACKNOWLEDGE_LIMIT;
    let on_time = in_use.filter(|worker| !worker.behind_since.is_some_and(is_late));
    let on_time: Vec<&Snapshot> = on_time.map(|worker| &worker.held).chain([&*current]).collect();
    for (service, (is_vip, data)) in world.named() {
        for address in (0..ADDRESSES).map(vip).filter(|vip| is_vip && data.contains(&format!("A({vip})"))) {
            assert!(maps.addresses.contains(&address), "{service} is named, {address} is not steered");
            for snapshot in &on_time {
                let generation = snapshot.generation;
                assert!(
                    belongs(snapshot, service.as_str(), address),
                    "{service} at {address} in {generation}"
                );
            }
        }
    }
}

/// Lets all workers run and all time-outs pass.
fn rest(world: &mut World) {
    for _ in 0..4 {
        world.refresh_all();
        world.wait(LINGER.max(RETRY));
    }
    world.refresh_all();
    world.wait(REFUSED_FOR);
    world.refresh_all();
    world.sweep();
}

/// Deletes Services that want an address of another.
fn end_disputes(world: &mut World) {
    let current = world.publication.publisher.current();
    let is_robbed = |service: &&Arc<Service>| match &service.kind {
        ServiceKind::ClusterIp(own) => own.iter().any(|own| !belongs(&current, &service.name.name, *own)),
        _ => false,
    };
    let robbed: Vec<Event> =
        world.cluster.services().filter(is_robbed).map(|service| deleted(&service.name.name)).collect();
    world.say(robbed);
}

fn fresh(cluster: &Cluster) -> World {
    let mut world = World::new(WORKERS, &SERVICES);
    let services = cluster.services().map(|service| Event::ServiceApplied(service.clone()));
    let slices =
        SERVICES.iter().flat_map(|name| cluster.slices_of(&object(name)).cloned().collect::<Vec<_>>());
    world.say(services.chain(slices.map(Event::SliceApplied)));
    world.refresh_all();
    world
}

proptest! {
    #[test]
    fn a_name_never_leads_to_nowhere_and_the_end_is_a_fresh_start(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(WORKERS, &SERVICES);
        for step in steps {
            take(&mut world, step);
            check(&world);
        }
        world.flows.clear();
        world.publication.steering.room = usize::MAX;
        world.publication.steering.unwelcome.clear();
        rest(&mut world);
        end_disputes(&mut world);
        rest(&mut world);
        check(&world);

        let fresh = fresh(&world.cluster);
        prop_assert_eq!(&world.publication.steering.addresses, &fresh.publication.steering.addresses);
        prop_assert_eq!(&world.publication.steering.endpoints, &fresh.publication.steering.endpoints);
        prop_assert_eq!(world.named(), fresh.named());
        let (ours, theirs) = (world.publication.publisher.current(), fresh.publication.publisher.current());
        for address in (0..ADDRESSES).map(vip) {
            prop_assert_eq!(ours.services.virtual_address(address), theirs.services.virtual_address(address));
        }
        prop_assert_eq!(world.publication.sizes(), fresh.publication.sizes());
        prop_assert_eq!(world.publication.next_deadline(world.now), None);
        prop_assert_eq!(world.publication.short(), 0);
        prop_assert!(!world.publication.has_leaving());
        world.publication.publisher.free_retired();
    }
}
