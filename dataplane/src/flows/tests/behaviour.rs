//! One behaviour per test.

use super::super::calendar::STRETCH;
use super::super::{Cursor, FlowTable, Found, InsertError, OpenError, Timeouts};
use super::*;

fn table<A: Address>(capacity: u32) -> FlowTable<A> {
    FlowTable::in_memory(capacity).unwrap()
}

fn lookup<A: Address>(table: &FlowTable<A>, key: Key<A>) -> Option<Found<A>> {
    table.lookup(table.hash(&key), &key)
}

for_both_families! {
    a_request_leaves_as_the_reply_comes_back_and_the_reply_as_the_request_came,
    a_key_that_differs_in_one_field_is_not_found,
    a_flow_goes_in_only_if_both_keys_are_free_in_either_direction,
    a_removed_flow_is_gone_in_both_directions_and_its_reference_misses,
    a_full_table_takes_no_more_until_a_flow_goes,
    the_index_has_room_for_every_flow_of_the_capacity_also_after_long_use,
    a_touch_writes_once_a_second_and_never_backwards,
    a_late_touch_or_next_hop_misses_the_next_flow_of_the_record,
    each_direction_has_its_own_next_hop,
    a_state_changes_only_from_the_state_that_was_seen,
    a_flow_expires_after_its_states_timeout_and_not_before,
    a_clock_reading_older_than_the_last_packet_expires_nothing,
    a_sweep_looks_at_no_more_than_its_budget_and_comes_round,
    every_live_flow_names_its_endpoint,
    every_live_flow_counts_as_one_of_its_state,
    tables_hash_by_secrets_of_their_own,
}

fn every_live_flow_counts_as_one_of_its_state<A: Address>() {
    let table = table::<A>(64);
    assert_eq!(table.count_states(), [0; _]);
    let mut number = 0;
    for (place, state) in State::ALL.into_iter().enumerate() {
        for _ in 0..place % 3 {
            table.insert(&NewFlow { state, ..own_flow(number) }, NOW).unwrap();
            number += 1;
        }
    }
    let gone = table.insert(&own_flow(number), NOW).unwrap();
    assert!(table.remove(gone));
    let changed = table.insert(&own_flow(number), NOW).unwrap();
    assert!(table.change_state(changed, State::SynSent, State::SynRecv, NOW));
    let mut expected: Vec<u64> = (0..State::ALL.len() as u64).map(|place| place % 3).collect();
    expected[1] += 1;
    assert_eq!(table.count_states().to_vec(), expected);
    assert_eq!(table.count_states().iter().sum::<u64>(), table.len() as u64);
}

fn a_request_leaves_as_the_reply_comes_back_and_the_reply_as_the_request_came<A: Address>() {
    let table = table::<A>(8);
    let new = own_flow(1);
    let flow = table.insert(&new, NOW).unwrap();
    let request = Found {
        flow,
        direction: Direction::Request,
        state: State::SynSent,
        leaves_as: new.reply.reversed(),
        ip_difference: new.ip_difference,
        transport_difference: new.transport_difference,
        next_hop: 0,
        last_seen: 1_000,
        account: new.account,
    };
    let reply = Found {
        direction: Direction::Reply,
        leaves_as: new.request.reversed(),
        ip_difference: !new.ip_difference,
        transport_difference: !new.transport_difference,
        ..request
    };
    assert_eq!(lookup(&table, new.request), Some(request));
    assert_eq!(lookup(&table, new.reply), Some(reply));
    assert_eq!(table.ids(flow), Some((new.service, new.endpoint)));
}

fn a_key_that_differs_in_one_field_is_not_found<A: Address>() {
    let table = table::<A>(8);
    table.insert(&own_flow(1), NOW).unwrap();
    let known = own_flow(1).request;
    for strange in [
        known.with_source(address(7)),
        known.with_destination(address(7)),
        known.with_source_port(Port::new(9)),
        known.with_destination_port(Port::new(9)),
        Key { protocol: Protocol::Udp, ..known },
        known.reversed(),
    ] {
        assert_eq!(lookup(&table, strange), None);
    }
}

fn a_flow_goes_in_only_if_both_keys_are_free_in_either_direction<A: Address>() {
    let table = table::<A>(8);
    table.insert(&flow(1, 2), NOW).unwrap();
    let refused = |request, reply| table.insert(&flow(request, reply), NOW).unwrap_err();
    assert_eq!(refused(1, 3), InsertError::RequestTaken);
    assert_eq!(refused(3, 2), InsertError::ReplyTaken);
    assert_eq!(refused(2, 3), InsertError::RequestTaken);
    assert_eq!(refused(3, 1), InsertError::ReplyTaken);
    assert_eq!(refused(3, 3), InsertError::ReplyTaken);
    assert_eq!(assert_sound(&table.table).len(), 1);
}

fn a_removed_flow_is_gone_in_both_directions_and_its_reference_misses<A: Address>() {
    let table = table::<A>(1);
    let old = table.insert(&flow(1, 2), NOW).unwrap();
    assert!(table.remove(old));
    assert!(!table.remove(old));
    assert!(assert_sound(&table.table).is_empty());
    let new = table.insert(&flow(1, 2), NOW).unwrap();
    assert!(!table.remove(old));
    assert!(!table.change_state(old, State::SynSent, State::Close, NOW));
    assert_eq!(table.ids(old), None);
    assert_eq!(assert_sound(&table.table), [new]);
}

fn a_full_table_takes_no_more_until_a_flow_goes<A: Address>() {
    let table = table::<A>(100);
    let flows: Vec<FlowRef> = (0..100).map(|number| table.insert(&own_flow(number), NOW).unwrap()).collect();
    assert_eq!((table.len(), table.capacity()), (100, 100));
    assert_eq!(table.insert(&own_flow(100), NOW), Err(InsertError::Full));
    assert_eq!(assert_sound(&table.table).len(), 100);
    assert!(table.remove(flows[50]));
    table.insert(&own_flow(100), NOW).unwrap();
    assert_eq!(assert_sound(&table.table).len(), 100);
}

fn the_index_has_room_for_every_flow_of_the_capacity_also_after_long_use<A: Address>() {
    const CAPACITY: u32 = 50_000;
    let table = table::<A>(CAPACITY);
    let mut flows: Vec<FlowRef> = (0..CAPACITY).map(|n| table.insert(&own_flow(n), NOW).unwrap()).collect();
    let mut random = 1_u64;
    for number in CAPACITY..10 * CAPACITY {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let victim = (random >> 33) as usize % flows.len();
        assert!(table.remove(flows[victim]));
        flows[victim] = table.insert(&own_flow(number), NOW).expect("a slot is free in one of two buckets");
    }
    assert_eq!(assert_sound(&table.table).len(), CAPACITY as usize);
}

#[test]
fn a_capacity_of_none_or_too_many_is_refused() {
    for capacity in [0, u32::MAX] {
        let error = FlowTable::<Ipv4Addr>::in_memory(capacity).unwrap_err();
        assert!(matches!(error, OpenError::Capacity(refused) if refused == capacity));
    }
}

fn a_touch_writes_once_a_second_and_never_backwards<A: Address>() {
    let table = table::<A>(8);
    table.insert(&own_flow(1), NOW).unwrap();
    let first = lookup(&table, key(2)).unwrap();
    table.touch(&first, Now::from_seconds(999));
    assert_eq!(lookup(&table, key(2)).unwrap().last_seen, 1_000);
    table.touch(&first, Now::from_seconds(1_007));
    assert_eq!(lookup(&table, key(3)).unwrap().last_seen, 1_007);
    table.touch(&first, Now::from_seconds(1_008));
    assert_eq!(lookup(&table, key(3)).unwrap().last_seen, 1_007, "the older reading lost the race");
}

fn a_late_touch_or_next_hop_misses_the_next_flow_of_the_record<A: Address>() {
    let table = table::<A>(1);
    let old = table.insert(&flow(1, 2), NOW).unwrap();
    let found = lookup(&table, key(1)).unwrap();
    table.remove(old);
    table.insert(&flow(1, 3), NOW).unwrap();
    table.touch(&found, Now::from_seconds(5_000));
    assert!(table.cache_next_hop(old, Direction::Request, 77));
    let successor = lookup(&table, key(1)).unwrap();
    assert_eq!((successor.last_seen, successor.next_hop), (1_000, 0));
}

fn each_direction_has_its_own_next_hop<A: Address>() {
    let table = table::<A>(8);
    let flow = table.insert(&own_flow(1), NOW).unwrap();
    assert!(table.cache_next_hop(flow, Direction::Request, 0xffff_0000_1111));
    assert!(table.cache_next_hop(flow, Direction::Reply, 5));
    assert!(!table.cache_next_hop(flow, Direction::Reply, 1 << super::super::NEXT_HOP_BITS));
    let next_hops = [2, 3].map(|number| lookup(&table, key(number)).unwrap().next_hop);
    assert_eq!(next_hops, [0xffff_0000_1111, 5]);
}

fn a_state_changes_only_from_the_state_that_was_seen<A: Address>() {
    let table = table::<A>(8);
    let flow = table.insert(&own_flow(1), NOW).unwrap();
    let later = Now::from_seconds(1_060);
    assert!(!table.change_state(flow, State::Established, State::Close, later));
    assert!(table.change_state(flow, State::SynSent, State::SynRecv, later));
    let found = lookup(&table, key(2)).unwrap();
    assert_eq!((found.state, found.last_seen), (State::SynRecv, 1_060));
}

fn a_flow_expires_after_its_states_timeout_and_not_before<A: Address>() {
    let timeouts = Timeouts::default();
    for state in State::ALL {
        let table = table::<A>(4);
        let timeout = timeouts.seconds(state);
        table.insert(&NewFlow { state, ..own_flow(1) }, NOW).unwrap();
        let mut cursor = Cursor::part(0, 1);
        let in_time = Now::from_seconds(1_000 + timeout);
        assert_eq!(table.expire(&mut cursor, in_time, 4), 0, "{state:?}");
        let late = Now::from_seconds(1_001 + timeout);
        assert_eq!(table.expire(&mut cursor, late, 4), 1, "{state:?}");
        assert!(assert_sound(&table.table).is_empty());
    }
}

fn a_clock_reading_older_than_the_last_packet_expires_nothing<A: Address>() {
    let table = table::<A>(4);
    table.insert(&own_flow(1), NOW).unwrap();
    let expired = table.expire(&mut Cursor::part(0, 1), Now::default(), 4);
    assert_eq!((expired, table.len()), (0, 1));
}

fn a_sweep_looks_at_no_more_than_its_budget_and_comes_round<A: Address>() {
    let table = table::<A>(10 * STRETCH);
    for number in 0..10 * STRETCH {
        table.insert(&own_flow(number), NOW).unwrap();
    }
    let late = Now::from_seconds(9_000);
    let mut cursor = Cursor::part(1, 2);
    let counts = [2, 2, 2].map(|budget| table.expire(&mut cursor, late, budget));
    assert_eq!(counts, [128, 128, 64]);
    assert!(!cursor.is_under_way());
    assert_eq!(table.expire(&mut cursor, late, 100), 0);
    assert_eq!(table.expire(&mut Cursor::part(0, 2), late, 100), 320);
    assert!(assert_sound(&table.table).is_empty() && table.is_empty());
}

fn every_live_flow_names_its_endpoint<A: Address>() {
    let table = table::<A>(8);
    let flows = [1, 2, 3].map(|number| table.insert(&own_flow(number), NOW).unwrap());
    table.remove(flows[1]);
    let mut named = Vec::new();
    table.endpoints_in_use(|service, endpoint| named.push((service.0, endpoint.0)));
    named.sort_unstable();
    assert_eq!(named, [(2, 3), (6, 7)]);
}

fn tables_hash_by_secrets_of_their_own<A: Address>() {
    assert_ne!(table::<A>(1).hash(&key(1)), table::<A>(1).hash(&key(1)));
}
