//! What a table is after long use, and what it takes.

use core::sync::atomic::AtomicU64;
use std::collections::BTreeSet;
use std::thread;

use super::super::mapping::Layout;
use super::super::{Cursor, FlowTable, InsertError, Timeouts};
use super::*;

#[test]
fn no_record_is_lost_or_free_twice_after_long_use() {
    every_record_is_free_once_in_the_end::<Ipv4Addr>();
    every_record_is_free_once_in_the_end::<Ipv6Addr>();
}

/// Two workers, each with flows of its own and its part of the sweep; the table is full now and then.
fn every_record_is_free_once_in_the_end<A: Address>() {
    const CAPACITY: u32 = 1_000;
    const WORKERS: u32 = 2;
    let flows: u32 = if is_long() { 10_000_000 } else { 500_000 };
    let timeouts = Timeouts { tcp_established: 5, ..Timeouts::default() };
    let table = FlowTable::<A>::in_memory(CAPACITY).unwrap().with_timeouts(timeouts);
    let (inserted, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (table, inserted, ended) = (&table, &inserted, &ended);
            scope.spawn(move || {
                let mut cursor = Cursor::part(worker, WORKERS);
                let (mut ins, mut evicted, mut gone) = (0, 0, 0);
                for number in 0..flows {
                    // A second in 100 flows; those of UDP end after 30, those that are over after 10.
                    let now = Now::from_seconds(1_000 + number / 100);
                    let state = [State::UdpUnreplied, State::Close, State::Established][number as usize % 3];
                    let new = NewFlow { state, ..own_flow(worker * flows + number) };
                    match table.insert_evicting(&new, now, &mut evicted) {
                        Ok(flow) => {
                            ins += 1;
                            gone += u64::from(number % 5 == 0 && table.remove(flow));
                        }
                        Err(error) => assert_eq!(error, InsertError::Full),
                    }
                    gone += table.expire(&mut cursor, now, 4) as u64;
                }
                inserted.fetch_add(ins, Relaxed);
                ended.fetch_add(gone + evicted, Relaxed);
            });
        }
    });
    let left = assert_sound(&table.table).len();
    assert_eq!(inserted.into_inner(), ended.into_inner() + left as u64, "each flow ended once");
    let late = Now::from_seconds(u32::MAX);
    let expired = table.expire(&mut Cursor::part(0, 1), late, CAPACITY as usize);
    assert_eq!((expired, table.len()), (left, 0));
    let free: BTreeSet<u32> = std::iter::from_fn(|| table.table.free.pop()).collect();
    assert_eq!(free, (0..CAPACITY).collect());
    assert_eq!(occupied_slots(&table.table.memory), 0);
}

fn memory_of_a_million<A: Address>(family: &str) -> String {
    const FLOWS: u32 = 1 << 20;
    const HEADER: usize = 4096;
    let few = FlowTable::<A>::in_memory(1 << 12).unwrap();
    let per_flow = (few.bytes() - HEADER) >> 12;
    let mapping = Layout::<A>::new(FLOWS).unwrap().bytes() - HEADER;
    let whole = mapping + (FLOWS as usize) * 8;
    assert_eq!(whole, per_flow * FLOWS as usize);
    let calendar = (1 << 12) / 8;
    assert_eq!(few.bytes(), Layout::<A>::new(1 << 12).unwrap().bytes() + (8 << 12) + calendar);
    format!("| {family} | {per_flow} | {} MiB | {} MiB |", mapping >> 20, whole >> 20)
}

#[test]
fn a_flow_takes_what_the_readme_says_and_no_more_than_promised() {
    let readme = include_str!("../../../README.md");
    for row in [memory_of_a_million::<Ipv4Addr>("IPv4"), memory_of_a_million::<Ipv6Addr>("IPv6")] {
        assert!(readme.contains(&row), "no row {row}");
        let per_flow: usize = row.split('|').nth(2).unwrap().trim().parse().unwrap();
        assert!(per_flow <= if row.contains("IPv4") { 128 } else { 192 }, "{row}");
    }
}
