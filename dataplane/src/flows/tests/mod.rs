//! The table as a whole: against a slow model, against crashes, against other threads, and from file to file.

/// Makes two tests of each function: one for IPv4, one for IPv6.
macro_rules! for_both_families {
    ($($test:ident),+ $(,)?) => {
        mod ipv4 {
            $(#[test] fn $test() { super::$test::<std::net::Ipv4Addr>(); })+
        }
        mod ipv6 {
            $(#[test] fn $test() { super::$test::<std::net::Ipv6Addr>(); })+
        }
    };
}

mod behaviour;
mod crash;
mod eviction;
mod file;
mod flooding;
mod heap;
mod histories;
mod kills;
mod models;
mod preemptions;
mod probes;
mod races;
mod schedules;
mod soak;

use core::sync::atomic::Ordering::Relaxed;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) use heap::HookedWord;

use super::index;
use super::memory::{Memory, Word};
use super::record::{Glimpse, Record, Status, glimpse};
use super::table::Table;
use super::{Direction, EndpointId, FlowRef, Key, NewFlow, ServicePortId, State};
use crate::clock::Now;
use crate::net::{Address, Port, Protocol};

const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
/// The word of a slot that is never empty and leads nowhere; memories have such slots to make their buckets small.
const FULL_FOR_GOOD: u64 = 1;
const NOW: Now = Now::from_seconds(1_000);

/// Says whether the tests that take minutes are asked for.
fn is_long() -> bool {
    std::env::var_os("TIDEGATE_LONG").is_some()
}

/// Returns one of many addresses that all differ.
fn address<A: Address>(number: u32) -> A {
    let ipv4 = Ipv4Addr::from_bits(0x0a01_0000 + number);
    let ipv6 = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number) << 64 | u128::from(number));
    A::of(ipv4.into()).or_else(|| A::of(ipv6.into())).unwrap()
}

/// Returns one of many keys that all differ.
fn key<A: Address>(number: u32) -> Key<A> {
    Key::new(
        (address(number / 60_000), Port::new((number % 60_000) as u16 + 1024)),
        (address(0xffff), Port::new(80)),
        Protocol::Tcp,
    )
}

/// Returns a flow between two keys; all its other values follow from their numbers.
fn flow<A: Address>(request: u32, reply: u32) -> NewFlow<A> {
    NewFlow {
        request: key(request),
        reply: key(reply),
        service: ServicePortId(u64::from(request)),
        endpoint: EndpointId(u64::from(reply)),
        ip_difference: request as u16 ^ 0x1234,
        transport_difference: reply as u16 ^ 0x4321,
        state: State::SynSent,
        account: 0,
    }
}

/// Returns a flow with keys that no flow of another number has.
fn own_flow<A: Address>(number: u32) -> NewFlow<A> {
    flow(2 * number, 2 * number + 1)
}

/// Asserts the table's invariant with no thread at work, and returns the live flows.
///
/// Every record is live or free; every live flow is found by both its keys; no key is in two flows; the index holds
/// two slots per live flow and nothing else; the account of free records agrees.
fn assert_sound<M: Memory>(table: &Table<M>) -> Vec<FlowRef> {
    let mut live = Vec::new();
    let mut keys = HashSet::new();
    for number in 0..table.memory.capacity() {
        let meta = super::record::Record::of(&table.memory, number).unwrap().meta();
        assert!(matches!(meta.status(), Status::Free | Status::Live), "record {number}: {:?}", meta.status());
        let record = Record::of(&table.memory, number).unwrap();
        let Glimpse::Whole(meta, contents) = glimpse(&table.memory, &record) else { continue };
        let flow = FlowRef { record: number, generation: meta.generation() };
        for direction in [Direction::Request, Direction::Reply] {
            let key = contents.key(direction);
            assert!(keys.insert(key), "{key:?} is in two flows");
            let found =
                table.lookup(table.hasher.hash(&key), &key).expect("a live flow is found by both keys");
            assert_eq!((found.flow, found.direction), (flow, direction));
        }
        live.push(flow);
    }
    assert_eq!(occupied_slots(&table.memory), 2 * live.len());
    assert_eq!(table.len(), live.len());
    live
}

fn occupied_slots<M: Memory>(memory: &M) -> usize {
    let words = (0..memory.buckets()).flat_map(|number| memory.bucket(number).unwrap());
    words.filter(|word| ![0, FULL_FOR_GOOD].contains(&word.load(Relaxed))).count()
}
