//! A thread is held up before any one of its accesses while another does a whole operation.

use core::cell::Cell;

use super::super::{Cursor, Found, InsertError};
use super::heap::{Heap, hooked};
use super::*;

type HeapTable<A> = Table<&'static Heap<A>>;
type Insertion<A> = fn(&'static HeapTable<A>, FlowRef) -> Result<FlowRef, InsertError>;

/// For each access of `act`, on a new table with flow (1, 2): holds it up there and calls `meanwhile`; then hands what
/// both returned to `check`.
fn at_each_access<A: Address, R, B: 'static>(
    capacity: u32,
    act: impl Fn(&'static HeapTable<A>, FlowRef) -> R,
    meanwhile: fn(&'static HeapTable<A>, FlowRef) -> B,
    check: impl Fn(&HeapTable<A>, R, B),
) {
    for access in 0.. {
        let heap: &'static Heap<A> = Box::leak(Box::new(Heap::new(capacity)));
        let table: &'static HeapTable<A> = Box::leak(Box::new(Table::start(heap, SECRET).0));
        let flow = table.insert(&flow(1, 2), NOW).unwrap();
        let other: &'static Cell<Option<B>> = Box::leak(Box::new(Cell::new(None)));
        let mut left = access;
        let hook = move |_| {
            if left == 0 {
                other.set(Some(meanwhile(table, flow)));
            }
            left -= 1;
        };
        let result = hooked(hook, || act(table, flow));
        let Some(other) = other.take() else {
            assert!(access > 1);
            return;
        };
        check(table, result, other);
    }
}

/// Puts flow (1, 3) into the record of flow (1, 2), with a next hop.
fn replace<A: Address>(table: &'static HeapTable<A>, old: FlowRef) -> Option<FlowRef> {
    table.remove(old);
    let new = table.insert(&flow(1, 3), Now::from_seconds(2_000)).ok()?;
    table.cache_next_hop(new, Direction::Request, 5);
    Some(new)
}

fn lookup<A: Address>(table: &HeapTable<A>, number: u32) -> Option<Found<A>> {
    table.lookup(table.hasher.hash(&key::<A>(number)), &key(number))
}

/// Asserts that the successor is as `replace` left it.
fn assert_untouched<A: Address>(table: &HeapTable<A>, successor: Option<FlowRef>) {
    let found = lookup(table, 1).unwrap();
    assert_eq!((Some(found.flow), found.state), (successor, State::SynSent));
    assert_eq!((found.last_seen, found.next_hop), (2_000, 5));
    assert_sound(table);
}

for_both_families! {
    a_look_up_meanwhile_a_record_changes_hands_gives_one_flow_whole,
    identities_read_meanwhile_a_record_changes_hands_are_those_of_the_flow_asked_for,
    whatever_was_meant_for_a_flow_misses_the_next_one_in_its_record,
    an_insertion_held_up_anywhere_never_shares_a_key,
    a_change_of_state_meanwhile_saves_a_flow_from_the_sweep,
}

fn a_look_up_meanwhile_a_record_changes_hands_gives_one_flow_whole<A: Address>() {
    let act = |table: &'static HeapTable<A>, _| lookup(table, 1);
    at_each_access(1, act, replace, |_, found, successor| {
        let Some(found) = found else { return };
        let (whole, told) =
            if Some(found.flow) == successor { (flow(1, 3), (2_000, 5)) } else { (flow(1, 2), (1_000, 0)) };
        let said = (found.leaves_as, found.transport_difference);
        assert_eq!(said, (whole.reply.reversed(), whole.transport_difference));
        assert_eq!((found.last_seen, found.next_hop), told);
    });
}

fn identities_read_meanwhile_a_record_changes_hands_are_those_of_the_flow_asked_for<A: Address>() {
    let act = |table: &'static HeapTable<A>, flow| table.ids(flow);
    at_each_access(1, act, replace, |_, ids, _| {
        assert!(ids.is_none_or(|ids| ids == (ServicePortId(1), EndpointId(2))), "{ids:?}");
    });
}

fn whatever_was_meant_for_a_flow_misses_the_next_one_in_its_record<A: Address>() {
    let later = Now::from_seconds(3_000);
    let touch = move |table: &'static HeapTable<A>, flow| {
        if let Some(found) = lookup(table, 1).filter(|found| found.flow == flow) {
            table.touch(&found, later);
        }
    };
    let change = move |table: &'static HeapTable<A>, flow| {
        table.change_state(flow, State::SynSent, State::Close, later);
    };
    let cache = |table: &'static HeapTable<A>, flow| {
        table.cache_next_hop(flow, Direction::Request, 9);
    };
    let remove = |table: &'static HeapTable<A>, flow| {
        table.remove(flow);
    };
    let expire = |table: &'static HeapTable<A>, _| {
        let late = Now::from_seconds(2_000);
        table.expire(&mut Cursor::part(0, 1), late, 1);
    };
    // On one record only `replace` gets it back; while a removal is held up there is none for it.
    at_each_access(1, touch, replace, |table, (), successor| assert_untouched(table, successor));
    at_each_access(1, change, replace, |table, (), successor| assert_untouched(table, successor));
    at_each_access(1, cache, replace, |table, (), successor| assert_untouched(table, successor));
    for act in [remove as fn(&'static HeapTable<A>, FlowRef), expire] {
        at_each_access(1, act, replace, |table, (), successor| match successor {
            Some(_) => assert_untouched(table, successor),
            None => assert!(assert_sound(table).is_empty()),
        });
    }
}

fn an_insertion_held_up_anywhere_never_shares_a_key<A: Address>() {
    let rivals: [Insertion<A>; 5] = [
        |table, _| table.insert(&flow(3, 4), NOW),
        |table, _| table.insert(&flow(3, 5), NOW),
        |table, _| table.insert(&flow(5, 4), NOW),
        |table, _| table.insert(&flow(4, 3), NOW),
        |table, _| table.insert(&flow(4, 5), NOW),
    ];
    let act = |table: &'static HeapTable<A>, _| table.insert(&flow(3, 4), NOW);
    for rival in rivals {
        at_each_access(4, act, rival, |table, first, second| {
            let winners = usize::from(first.is_ok()) + usize::from(second.is_ok());
            assert!(winners <= 1, "{first:?} {second:?}");
            assert_eq!(assert_sound(table).len(), 1 + winners);
        });
    }
}

fn a_change_of_state_meanwhile_saves_a_flow_from_the_sweep<A: Address>() {
    let expire = |table: &'static HeapTable<A>, _| {
        let late = Now::from_seconds(1_500);
        table.expire(&mut Cursor::part(0, 1), late, 1)
    };
    let establish = |table: &'static HeapTable<A>, flow| {
        table.change_state(flow, State::SynSent, State::Established, Now::from_seconds(1_500))
    };
    at_each_access(1, expire, establish, |table, expired, established| {
        assert_ne!(expired == 1, established);
        assert_eq!(assert_sound(table).len(), usize::from(established));
    });
}
