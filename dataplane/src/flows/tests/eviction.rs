//! Who gives way in a full table, and who never does.

use core::cell::Cell;
use std::rc::Rc;
use std::thread;

use super::super::{FlowTable, InsertError};
use super::heap::{Access, Heap, hooked};
use super::*;

for_both_families! {
    in_a_full_table_only_half_open_one_way_and_ended_flows_give_way,
    a_flow_that_may_not_go_in_makes_nobody_give_way,
    a_search_is_bounded_and_the_next_goes_on_where_it_ended,
    who_came_last_gives_way_last,
    threads_that_flood_never_drop_what_was_established,
}

fn table<A: Address>(capacity: u32) -> FlowTable<A> {
    FlowTable::in_memory(capacity).unwrap()
}

fn in_state<A: Address>(number: u32, state: State) -> NewFlow<A> {
    NewFlow { state, ..own_flow(number) }
}

fn is_live<A: Address>(table: &FlowTable<A>, flow: FlowRef) -> bool {
    table.ids(flow).is_some()
}

fn in_a_full_table_only_half_open_one_way_and_ended_flows_give_way<A: Address>() {
    let giving_way = [
        State::SynSent,
        State::SynRecv,
        State::SynSent2,
        State::PickedUp,
        State::TimeWait,
        State::Close,
        State::UdpUnreplied,
        State::SctpClosed,
        State::SctpCookieWait,
        State::SctpCookieEchoed,
        State::SctpShutdownAckSent,
        State::SctpHeartbeatSent,
    ];
    for state in State::ALL {
        let table = table::<A>(4);
        let flows = [0, 1, 2, 3].map(|number| table.insert(&in_state(number, state), NOW).unwrap());
        let mut evicted = 0;
        let result = table.insert_evicting(&own_flow(4), NOW, &mut evicted);
        let left = flows.iter().filter(|flow| is_live(&table, **flow)).count();
        let expected = if giving_way.contains(&state) { (true, 1, 3) } else { (false, 0, 4) };
        assert_eq!((result.is_ok(), evicted, left), expected, "{state:?}");
        assert!(result.is_ok() || result == Err(InsertError::Full));
        assert_eq!(assert_sound(&table.table).len(), 4);
    }
}

fn a_flow_that_may_not_go_in_makes_nobody_give_way<A: Address>() {
    let table = table::<A>(2);
    table.insert(&flow(1, 2), NOW).unwrap();
    table.insert(&flow(3, 4), NOW).unwrap();
    let mut evicted = 0;
    for (new, error) in [
        (flow(1, 5), InsertError::RequestTaken),
        (flow(5, 4), InsertError::ReplyTaken),
        (flow(5, 5), InsertError::ReplyTaken),
    ] {
        assert_eq!(table.insert_evicting(&new, NOW, &mut evicted), Err(error));
    }
    assert_eq!((evicted, assert_sound(&table.table).len()), (0, 2));
}

fn a_search_is_bounded_and_the_next_goes_on_where_it_ended<A: Address>() {
    const CAPACITY: u32 = 640;
    let heap = Heap::<A>::new(CAPACITY);
    let (table, _) = Table::start(&heap, SECRET);
    for number in 0..CAPACITY {
        let state = if number == 400 { State::SynSent } else { State::Established };
        table.insert(&in_state(number, state), NOW).unwrap();
    }
    let mut evicted = 0;
    let results: Vec<bool> = (0..10)
        .map(|number| {
            let reads = Rc::new(Cell::new(0));
            let count = Rc::clone(&reads);
            let hook = move |access| count.set(count.get() + u32::from(access == Access::Read));
            let new = in_state(CAPACITY + number, State::Established);
            let result = hooked(hook, || table.insert_evicting(&new, NOW, &mut evicted));
            // One word of each record looked at; both buckets of both keys, for looking, publishing and clearing.
            assert!(reads.get() < 64 + 400, "{} reads", reads.get());
            result.is_ok()
        })
        .collect();
    let expected: Vec<bool> = (0..10).map(|number| number == 400 / 64).collect();
    assert_eq!((results, evicted), (expected, 1));
    assert_eq!(assert_sound(&table).len(), CAPACITY as usize);
}

fn who_came_last_gives_way_last<A: Address>() {
    const CAPACITY: u32 = 300;
    let table = table::<A>(CAPACITY);
    let mut waiting = Vec::new();
    for number in 0..CAPACITY {
        let state = if number % 3 == 0 { State::SynSent } else { State::UdpStream };
        let flow = table.insert(&in_state(number, state), NOW).unwrap();
        waiting.extend((state == State::SynSent).then_some(flow));
    }
    let mut evicted = 0;
    for number in CAPACITY..10 * CAPACITY {
        let new = table.insert_evicting(&in_state(number, State::SynSent), NOW, &mut evicted).unwrap();
        assert!(!is_live(&table, waiting.remove(0)), "the oldest went");
        waiting.push(new);
        assert!(waiting.iter().all(|flow| is_live(&table, *flow)));
    }
    assert_eq!(evicted, u64::from(9 * CAPACITY));
}

#[test]
fn no_established_flow_is_dropped_in_a_flood_of_syns_and_handshakes_complete() {
    a_flood_of_syns_drops_no_established_flow::<Ipv4Addr>();
    a_flood_of_syns_drops_no_established_flow::<Ipv6Addr>();
}

/// Nine tenths of the table are established; a handshake takes as long as 100 SYNs of the flood.
fn a_flood_of_syns_drops_no_established_flow<A: Address>() {
    const CAPACITY: u32 = 4_096;
    const ESTABLISHED: u32 = CAPACITY * 9 / 10;
    const HANDSHAKE: u32 = 100;
    let table = table::<A>(CAPACITY);
    let mut established: Vec<FlowRef> = (0..ESTABLISHED)
        .map(|number| table.insert(&in_state(number, State::Established), NOW).unwrap())
        .collect();
    let (mut evicted, mut refused) = (0, 0);
    let mut handshakes: Vec<(u32, FlowRef)> = Vec::new();
    let mut completed = 0;
    for number in 0..100_000 {
        let is_real = number % 50 == 0;
        let new = own_flow(CAPACITY + number);
        match table.insert_evicting(&new, NOW, &mut evicted) {
            Ok(flow) if is_real => handshakes.push((number, flow)),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, InsertError::Full);
                refused += u32::from(is_real);
            }
        }
        if let Some(&(begun, flow)) = handshakes.first()
            && begun + HANDSHAKE == number
        {
            handshakes.remove(0);
            assert!(table.change_state(flow, State::SynSent, State::SynRecv, NOW));
            assert!(table.change_state(flow, State::SynRecv, State::Established, NOW));
            completed += 1;
            established.push(flow);
            // An established connection ends for each that begins.
            let ended = established.remove((number as usize * 7_919) % established.len());
            assert!(table.remove(ended));
        }
    }
    assert!(established.iter().all(|flow| is_live(&table, *flow)), "no established flow was dropped");
    assert!(evicted > 90_000, "{evicted}");
    assert!(refused < 20, "{refused} of 2,000 were refused");
    assert_eq!(completed + refused as usize + handshakes.len(), 2_000);
    assert_sound(&table.table);
}

fn threads_that_flood_never_drop_what_was_established<A: Address>() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 20_000;
    let table = table::<A>(64);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let (mut own, mut evicted) = (Vec::new(), 0);
                for round in 0..ROUNDS {
                    let new = own_flow(thread * ROUNDS + round);
                    let Ok(flow) = table.insert_evicting(&new, NOW, &mut evicted) else { continue };
                    let is_promoted = round % 8 == 0
                        && own.len() < 12
                        && table.change_state(flow, State::SynSent, State::Established, NOW);
                    own.extend(is_promoted.then_some((new.reply, flow)));
                    if round % 500 == 0
                        && let Some((_, flow)) = own.pop()
                    {
                        assert!(table.remove(flow));
                    }
                    for (key, flow) in &own {
                        let found = table.lookup(table.hash(key), key);
                        assert_eq!(found.map(|found| found.flow), Some(*flow));
                    }
                }
                assert!(evicted > 0);
            });
        }
    });
    assert_sound(&table.table);
}
