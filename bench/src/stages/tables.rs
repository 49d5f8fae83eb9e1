//! The flow table by itself: look-ups, insertion, expiry.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_dataplane::clock::Now;
use tidegate_dataplane::flows::{
    Cursor, EndpointId, FlowTable, Key, NewFlow, ServicePortId, Sought, State, Timeouts,
};
use tidegate_dataplane::net::Protocol;
use tidegate_dataplane::worker::BURST;

use super::{Draws, Recipe, SIZES, Stage};
use crate::bursts::time;
use crate::cluster;
use crate::traffic::popularity::Popularity;

/// Flows that end together in one burst of the expiry.
const ENDING: u32 = 4_096;

pub(super) fn recipes() -> Vec<Recipe> {
    let mut recipes = Vec::new();
    for (size, flows) in SIZES {
        for (order, popularity) in [("", Popularity::Uniform), ("/zipf", Popularity::Zipf(1.1))] {
            let hit = move || lookup(flows, popularity, true);
            recipes.push(Recipe::new(format!("flows/lookup_hit/{size}{order}"), hit));
        }
        recipes.push(Recipe::new(format!("flows/lookup_miss/{size}"), move || {
            lookup(flows, Popularity::Uniform, false)
        }));
        recipes.push(Recipe::new(format!("flows/insert/{size}"), move || insert(flows)));
        recipes.push(Recipe::new(format!("flows/insert_full/{size}"), move || insert_full(flows)));
        recipes.push(Recipe::new(format!("flows/expire/{size}"), move || expire(flows)));
    }
    recipes.push(Recipe::new("flows/sweep_idle/1M", || sweep(1_000_000)));
    recipes
}

/// The table that was made last, since stages of one size share it one after the other.
type Kept = Option<(u32, Rc<FlowTable>)>;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(None) };
}

/// Returns a table with that many flows, three quarters full.
fn table_of(flows: u32) -> Rc<FlowTable> {
    KEPT.with_borrow_mut(|kept| {
        if let Some((count, table)) = kept
            && *count == flows
        {
            return Rc::clone(table);
        }
        *kept = None;
        let table = FlowTable::in_memory(flows + flows / 3).expect("memory for flows");
        for number in 0..flows {
            table.insert(&flow(number, State::Established), Now::read()).expect("room for every flow");
        }
        let table = Rc::new(table);
        *kept = Some((flows, Rc::clone(&table)));
        table
    })
}

fn flow(number: u32, state: State) -> NewFlow {
    let request = cluster::request(number, Protocol::Udp);
    let reply = request.reversed().with_source(cluster::virtual_address(number % 7 + 1_000));
    NewFlow {
        request,
        reply,
        service: ServicePortId(1),
        endpoint: EndpointId(1),
        ip_difference: 1,
        transport_difference: 2,
        state,
        account: 0,
    }
}

/// Look-ups as a burst makes them: hash and prefetch all, then the records of all, then look each up.
fn lookup(flows: u32, popularity: Popularity, is_hit: bool) -> Stage {
    let (table, mut draws) = (table_of(flows), Draws::new(popularity.draws(flows)));
    let first = if is_hit { 0 } else { flows };
    Stage::new(BURST, move || {
        let keys: Vec<Key> =
            draws.take(BURST).iter().map(|number| cluster::request(first + number, Protocol::Udp)).collect();
        let mut hashes = Vec::with_capacity(keys.len());
        let mut found = 0;
        let taken = time(|| {
            for key in &keys {
                let hash = table.hash(key);
                table.prefetch_first(hash);
                hashes.push(hash);
            }
            let mut sought: Vec<Sought> = hashes.iter().map(|hash| table.seek(*hash)).collect();
            for sought in sought.iter_mut().filter(|sought| sought.is_unknown()) {
                *sought = table.seek_on(sought.hash());
            }
            let is_found = |(sought, key): &(&Sought, &Key)| table.lookup_sought(**sought, key).is_some();
            found = sought.iter().zip(&keys).filter(is_found).count();
        });
        assert_eq!(found, if is_hit { keys.len() } else { 0 });
        taken
    })
}

/// Flows with keys of their own, inserted into a table with room; removed again outside the time.
fn insert(flows: u32) -> Stage {
    let (table, mut draws) = (table_of(flows), Draws::new(Popularity::Uniform.draws(flows)));
    Stage::new(BURST, move || {
        let news: Vec<NewFlow> =
            draws.take(BURST).iter().map(|number| flow(flows + number, State::UdpUnreplied)).collect();
        let mut inserted = Vec::with_capacity(BURST);
        let taken = time(|| {
            table.prefetch_insertions(BURST);
            inserted.extend(news.iter().filter_map(|new| table.insert(new, Now::from_seconds(0)).ok()));
        });
        assert_eq!(inserted.len(), BURST);
        inserted.iter().for_each(|flow| assert!(table.remove(*flow)));
        taken
    })
}

/// Flows inserted into a full table: each takes the place of one that gives way.
fn insert_full(flows: u32) -> Stage {
    let table = FlowTable::in_memory(flows).expect("memory for flows");
    for number in 0..flows {
        table.insert(&flow(number, State::UdpUnreplied), Now::read()).expect("room for every flow");
    }
    let mut next = flows;
    Stage::new(BURST, move || {
        // Numbers come round again long after their flows are gone.
        let first = next;
        next = flows + (next + BURST as u32 - flows) % (4 * flows);
        let news: Vec<NewFlow> =
            (first..first + BURST as u32).map(|number| flow(number, State::UdpUnreplied)).collect();
        let (mut evicted, mut inserted) = (0, 0);
        let taken = time(|| {
            table.prefetch_insertions(BURST);
            for new in &news {
                inserted +=
                    usize::from(table.insert_evicting(new, Now::from_seconds(0), &mut evicted).is_ok());
            }
        });
        assert_eq!((inserted, evicted), (BURST, BURST as u64));
        taken
    })
}

/// A sweep that finds flows that are over, beside others that are not.
fn expire(flows: u32) -> Stage {
    let table = table_of(flows);
    let ending = ENDING.min(flows / 3);
    Stage::new(ending as usize, move || {
        for number in flows..flows + ending {
            table.insert(&flow(number, State::Close), Now::read()).expect("room for every flow");
        }
        let late = Now::from_seconds(Now::read().seconds() + Timeouts::DEFAULT.seconds(State::Close) + 1);
        let mut expired = 0;
        let taken = time(|| expired = table.expire(&mut Cursor::part(0, 1), late, usize::MAX));
        assert_eq!(expired as u32, ending);
        taken
    })
}

/// A sweep that finds nothing to do: what a second costs whatever comes. Counted by stretches.
fn sweep(flows: u32) -> Stage {
    let table = table_of(flows);
    let stretches = table.capacity().div_ceil(64);
    Stage::new(stretches, move || {
        time(|| table.expire(&mut Cursor::part(0, 1), Now::from_seconds(0), usize::MAX))
    })
}
