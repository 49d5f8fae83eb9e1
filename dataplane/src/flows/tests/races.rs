//! Real threads on a real mapping, as fast as they go.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::super::{Cursor, FlowTable, InsertError};
use super::*;

const THREADS: u32 = 4;

for_both_families! {
    each_key_is_won_by_one_thread_at_most,
    threads_that_insert_change_look_up_and_expire_leave_a_sound_table,
}

fn each_key_is_won_by_one_thread_at_most<A: Address>() {
    const KEYS: u32 = 64;
    for round in 0..200 {
        let table = FlowTable::<A>::in_memory(256).unwrap();
        let barrier = Barrier::new(THREADS as usize);
        let winners: Vec<AtomicUsize> = (0..KEYS).map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, barrier, winners) = (&table, &barrier, &winners);
                scope.spawn(move || {
                    barrier.wait();
                    for number in 0..KEYS {
                        // The same request for all; the same reply for two threads each.
                        match table.insert(&flow(number, 1_000 * (1 + thread / 2) + number), NOW) {
                            Ok(_) => winners[number as usize].fetch_add(1, Relaxed),
                            Err(error) => {
                                assert_ne!(error, InsertError::Full);
                                0
                            }
                        };
                    }
                });
            }
        });
        let won: Vec<usize> = winners.iter().map(|count| count.load(Relaxed)).collect();
        assert!(won.iter().all(|&count| count <= 1), "round {round}: {won:?}");
        assert_eq!(assert_sound(&table.table).len(), won.iter().sum::<usize>());
    }
}

fn threads_that_insert_change_look_up_and_expire_leave_a_sound_table<A: Address>() {
    const ROUNDS: u32 = 60_000;
    const KEYS: u32 = 48;
    let table = FlowTable::<A>::in_memory(16).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let mut cursor = Cursor::part(thread, THREADS);
                let mut random = u64::from(thread) + 1;
                for round in 0..ROUNDS {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let (first, second) = ((random >> 33) as u32 % KEYS, (random >> 45) as u32 % KEYS);
                    let now = Now::from_seconds(1_000 + round / 1_000 * 40);
                    if let Ok(flow) = table.insert(&flow(first, second), now) {
                        table.change_state(flow, State::SynSent, State::UdpUnreplied, now);
                    }
                    let key = key(second);
                    if let Some(found) = table.lookup(table.hash(&key), &key) {
                        table.touch(&found, now);
                        if random.is_multiple_of(3) {
                            table.remove(found.flow);
                        }
                    }
                    table.expire(&mut cursor, now, 1);
                }
            });
        }
    });
    let live = assert_sound(&table.table);
    assert_eq!(table.len(), live.len());
    for flow in live {
        assert!(table.remove(flow));
    }
    assert!(table.is_empty() && occupied_slots(&table.table.memory) == 0);
}
