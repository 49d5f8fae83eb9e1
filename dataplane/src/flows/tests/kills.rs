//! A real process on a real mapping, killed at each of its writes; then the next start.

use core::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, io};

use super::super::file::{self, BootId, OpenFile};
use super::super::mapping::Mapping;
use super::super::{Cursor, FlowTable, Timeouts};
use super::file::Place;
use super::heap::{Access, HookedWord, hooked};
use super::*;

const CAPACITY: u32 = 16;
/// The flow that comes in.
const NEWCOMER: u32 = 100;
const LATE: Now = Now::from_seconds(2_000);
/// Tells the child what to do: family, act, seed, write, file.
const ORDER: &str = "TIDEGATE_TEST_KILL";
const STOPPED: &str = "stopped before the write";
const ENDED: &str = "came to its end";

/// What the child is doing when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Start,
    Insert,
    Remove,
    Expire,
    Evict,
}

const ACTS: [Act; 5] = [Act::Start, Act::Insert, Act::Remove, Act::Expire, Act::Evict];

/// A table as it is before the act; its flows have the numbers from zero.
struct Scene {
    act: Act,
    seed: u32,
    states: Vec<State>,
}

impl Scene {
    fn new(act: Act, seed: u32) -> Self {
        let count = if act == Act::Evict { CAPACITY } else { 3 + seed % 10 };
        let states = [State::Established, State::SynSent, State::UdpStream, State::TimeWait];
        let draw = |number: u32| (seed.wrapping_mul(0x9e37_79b9) ^ number.wrapping_mul(0x85eb_ca6b)) >> 13;
        Self { act, seed, states: (0..count).map(|number| states[draw(number) as usize % 4]).collect() }
    }

    fn write<A: Address>(&self, path: &Path) {
        let (table, recovery) = FlowTable::<A>::open(path, CAPACITY).unwrap();
        assert_eq!(recovery.kept, 0);
        for (number, state) in (0..).zip(&self.states) {
            table.insert(&NewFlow { state: *state, ..own_flow(number) }, NOW).unwrap();
        }
    }

    fn removed(&self) -> u32 {
        self.seed % self.states.len() as u32
    }

    /// Says whether the flow may be gone when the child was killed, and must be when the act came to its end.
    fn may_go(&self, number: u32, state: State) -> bool {
        match self.act {
            Act::Start | Act::Insert => false,
            Act::Remove => number == self.removed(),
            Act::Expire => LATE.seconds() - NOW.seconds() > Timeouts::default().seconds(state),
            Act::Evict => state.gives_way(),
        }
    }

    /// Compares what a start found with what may be left.
    fn check<A: Address>(&self, path: &Path, has_ended: bool) {
        let (table, recovery) = FlowTable::<A>::open(path, CAPACITY).unwrap();
        assert_eq!(recovery.refused, None);
        assert_eq!(assert_sound(&table.table).len(), recovery.kept as usize);
        let mut found: BTreeMap<u32, State> = BTreeMap::new();
        for number in (0..self.states.len() as u32).chain([NEWCOMER]) {
            let new = own_flow::<A>(number);
            let [request, reply] = [new.request, new.reply].map(|key| table.lookup(table.hash(&key), &key));
            assert_eq!(request.map(|found| found.flow), reply.map(|found| found.flow));
            let Some(request) = request else { continue };
            assert_eq!(request.leaves_as, new.reply.reversed());
            assert_eq!(table.ids(request.flow), Some((new.service, new.endpoint)));
            found.insert(number, request.state);
        }
        assert_eq!(found.len(), recovery.kept as usize, "no other flow is there");

        let going = (0..).zip(&self.states).filter(|(number, state)| self.may_go(*number, **state)).count();
        let gone = (0..).zip(&self.states).filter(|(number, state)| {
            assert!(found.get(number).is_none_or(|found| found == *state));
            let is_gone = !found.contains_key(number);
            assert!(!is_gone || self.may_go(*number, **state), "flow {number}, {state:?}, was lost");
            is_gone
        });
        let gone = gone.count();
        let most = if self.act == Act::Evict { going.min(1) } else { going };
        assert!(gone <= most && (gone == most || !has_ended), "{gone} of {most} are gone");
        let comes = self.act == Act::Insert || self.act == Act::Evict && going > 0;
        assert!(comes || !found.contains_key(&NEWCOMER));
        assert!(!has_ended || found.contains_key(&NEWCOMER) == comes);
        for number in 0..CAPACITY - recovery.kept {
            table.insert(&own_flow(1_000 + number), NOW).expect("every other record is free");
        }
        assert_eq!(assert_sound(&table.table).len(), CAPACITY as usize);
    }

    /// Acts in the child; `left` is how many writes it may still make.
    fn play<A: Address>(&self, path: &Path, left: usize) {
        let OpenFile::<A, HookedWord> { mapping, secret, .. } =
            file::open(path, CAPACITY, BootId::read().unwrap()).unwrap();
        if self.act == Act::Start {
            hooked(stop_after(left), || drop(Table::start(mapping, secret)));
            return;
        }
        let (table, _) = Table::start(mapping, secret);
        hooked(stop_after(left), || self.act_on(&table));
    }

    fn act_on<A: Address>(&self, table: &Table<Mapping<A, HookedWord>>) {
        match self.act {
            Act::Start => {}
            Act::Insert => drop(table.insert(&own_flow(NEWCOMER), NOW).unwrap()),
            Act::Remove => {
                let key = own_flow::<A>(self.removed()).request;
                let found = table.lookup(table.hasher.hash(&key), &key).unwrap();
                assert!(table.remove(found.flow));
            }
            Act::Expire => {
                table.expire(&mut Cursor::part(0, 1), LATE, CAPACITY as usize);
            }
            Act::Evict => drop(table.insert_evicting(&own_flow(NEWCOMER), NOW, &mut 0)),
        }
    }
}

/// Makes the hook that lets `left` writes pass and then says so and waits to be killed, or for the parent's end.
fn stop_after(left: usize) -> impl FnMut(Access) {
    let left = Cell::new(left);
    move |access| {
        if access == Access::Read {
            return;
        }
        match left.get().checked_sub(1) {
            Some(fewer) => left.set(fewer),
            None => {
                println!("{STOPPED}");
                let _ = io::stdin().read(&mut [0]);
            }
        }
    }
}

/// Carries out the order in the child.
fn obey(order: &str) {
    let [family, act, seed, write, path] = order.splitn(5, ' ').collect::<Vec<_>>()[..] else {
        panic!("{order}");
    };
    let act = ACTS.into_iter().find(|known| format!("{known:?}") == act).unwrap();
    let scene = Scene::new(act, seed.parse().unwrap());
    let (write, path) = (write.parse().unwrap(), Path::new(path));
    match family {
        "4" => scene.play::<Ipv4Addr>(path, write),
        _ => scene.play::<Ipv6Addr>(path, write),
    }
    println!("{ENDED}");
}

/// Runs a child up to a write and kills it there; says whether it came to its end before.
fn kill_at(test: &str, order: &str) -> bool {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ORDER, order)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find(|line| line.contains(STOPPED) || line.contains(ENDED));
    child.kill().unwrap();
    child.wait().unwrap();
    said.unwrap_or_else(|| panic!("the child of order {order} said nothing")).contains(ENDED)
}

fn kill_at_each_write<A: Address>(test: &str, act: Act, seed: u32) -> usize {
    let scene = Scene::new(act, seed);
    let family = if A::UNSPECIFIED.into().is_ipv4() { 4 } else { 6 };
    // A start writes every slot; a step there is as good as the next.
    let stride = if act == Act::Start { 13 } else { 1 };
    for kills in 0.. {
        let place = Place::new("killed");
        scene.write::<A>(&place.0);
        let write = kills * stride + seed as usize % stride;
        let order = format!("{family} {act:?} {seed} {write} {}", place.0.display());
        let has_ended = kill_at(test, &order);
        scene.check::<A>(&place.0, has_ended);
        if has_ended {
            return kills;
        }
    }
    unreachable!("every act ends")
}

#[test]
fn a_process_killed_at_any_write_leaves_each_flow_with_both_keys_or_none() {
    if let Ok(order) = env::var(ORDER) {
        return obey(&order);
    }
    let test = "flows::tests::kills::a_process_killed_at_any_write_leaves_each_flow_with_both_keys_or_none";
    let wanted = if is_long() { 10_000 } else { 1_000 };
    let mut kills = 0;
    for seed in 0.. {
        for act in ACTS {
            kills += kill_at_each_write::<Ipv4Addr>(test, act, 2 * seed);
            kills += kill_at_each_write::<Ipv6Addr>(test, act, 2 * seed + 1);
        }
        if kills >= wanted {
            return;
        }
    }
}
