//! Random histories: the table and a slow model agree in every result.

use proptest::prelude::*;

use super::super::{Cursor, Found, InsertError, Timeouts};
use super::heap::Heap;
use super::*;

const CAPACITY: u32 = 6;
const KEYS: u32 = 16;

#[derive(Clone, Debug)]
enum Step {
    Insert {
        request: u32,
        reply: u32,
        state: State,
        /// Whether another flow may give way.
        evicting: bool,
    },
    Lookup {
        key: u32,
    },
    Touch {
        key: u32,
    },
    /// Flows are named by the order of their insertion, those long gone included.
    ChangeState {
        flow: usize,
        from: State,
        to: State,
    },
    CacheNextHop {
        flow: usize,
        direction: Direction,
        next_hop: u64,
    },
    Ids {
        flow: usize,
    },
    Remove {
        flow: usize,
    },
    Wait {
        seconds: u32,
    },
    Expire,
    Restart,
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![
        State::SynSent,
        State::Established,
        State::Close,
        State::UdpUnreplied,
        State::UdpStream,
        State::PickedUp,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let flow = 0..40_usize;
    prop_oneof![
        6 => (0..KEYS, 0..KEYS, state(), any::<bool>())
            .prop_map(|(request, reply, state, evicting)| Step::Insert { request, reply, state, evicting }),
        4 => (0..KEYS).prop_map(|key| Step::Lookup { key }),
        2 => (0..KEYS).prop_map(|key| Step::Touch { key }),
        2 => (flow.clone(), state(), state()).prop_map(|(flow, from, to)| Step::ChangeState { flow, from, to }),
        2 => (flow.clone(), prop::bool::ANY, 0..=1_u64 << 48).prop_map(|(flow, request, next_hop)| {
            let direction = if request { Direction::Request } else { Direction::Reply };
            Step::CacheNextHop { flow, direction, next_hop }
        }),
        1 => flow.clone().prop_map(|flow| Step::Ids { flow }),
        3 => flow.prop_map(|flow| Step::Remove { flow }),
        2 => (0..150_u32).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
    ]
}

/// A flow as the model remembers it.
#[derive(Clone, Debug)]
struct Remembered<A: Address> {
    name: FlowRef,
    new: NewFlow<A>,
    state: State,
    last_seen: u32,
    next_hops: [u64; 2],
}

struct Model<A: Address> {
    live: Vec<Remembered<A>>,
    names: Vec<FlowRef>,
    second: u32,
}

impl<A: Address> Model<A> {
    fn now(&self) -> Now {
        Now::from_seconds(self.second)
    }

    fn by_name(&mut self, name: FlowRef) -> Option<&mut Remembered<A>> {
        self.live.iter_mut().find(|flow| flow.name == name)
    }

    fn has(&self, key: Key<A>) -> bool {
        self.live.iter().any(|flow| flow.new.request == key || flow.new.reply == key)
    }

    fn refusal(&self, new: &NewFlow<A>) -> Option<InsertError> {
        if new.request != new.reply && self.has(new.request) {
            return Some(InsertError::RequestTaken);
        }
        if new.request == new.reply || self.has(new.reply) {
            return Some(InsertError::ReplyTaken);
        }
        (self.live.len() == CAPACITY as usize).then_some(InsertError::Full)
    }

    fn lookup(&self, key: Key<A>) -> Option<Found<A>> {
        self.live.iter().find_map(|flow| {
            let [request_next_hop, reply_next_hop] = flow.next_hops;
            let request = Found {
                flow: flow.name,
                direction: Direction::Request,
                state: flow.state,
                leaves_as: flow.new.reply.reversed(),
                ip_difference: flow.new.ip_difference,
                transport_difference: flow.new.transport_difference,
                next_hop: request_next_hop,
                last_seen: flow.last_seen,
                account: flow.new.account,
            };
            if key == flow.new.request {
                return Some(request);
            }
            (key == flow.new.reply).then_some(Found {
                direction: Direction::Reply,
                leaves_as: flow.new.request.reversed(),
                ip_difference: !flow.new.ip_difference,
                transport_difference: !flow.new.transport_difference,
                next_hop: reply_next_hop,
                ..request
            })
        })
    }

    /// Takes out the flow that the table dropped for another; says whether one that may had to.
    fn give_way(&mut self, table: &Table<&Heap<A>>) -> Result<bool, TestCaseError> {
        let may = |flow: &Remembered<A>| {
            matches!(flow.state, State::SynSent | State::Close | State::UdpUnreplied | State::PickedUp)
        };
        let must = self.live.iter().any(may);
        let gone: Vec<usize> =
            (0..self.live.len()).filter(|&place| table.ids(self.live[place].name).is_none()).collect();
        prop_assert_eq!(gone.len(), usize::from(must), "of {:?}", self.live);
        for place in gone {
            prop_assert!(may(&self.live.remove(place)), "an established flow was dropped for room");
        }
        Ok(must)
    }

    fn expire(&mut self, timeouts: &Timeouts) -> usize {
        let (before, second) = (self.live.len(), self.second);
        self.live.retain(|flow| second - flow.last_seen <= timeouts.seconds(flow.state));
        before - self.live.len()
    }
}

/// Does one step on both and compares what they say.
fn take<A: Address>(step: &Step, table: &Table<&Heap<A>>, model: &mut Model<A>) -> Result<(), TestCaseError> {
    let now = model.now();
    match *step {
        Step::Insert { request, reply, state, evicting } => {
            let new = NewFlow { state, ..flow(request, reply) };
            let mut evicted = 0;
            let result = if evicting {
                table.insert_evicting(&new, now, &mut evicted)
            } else {
                table.insert(&new, now)
            };
            if evicting && model.refusal(&new) == Some(InsertError::Full) {
                prop_assert_eq!(evicted, u64::from(model.give_way(table)?));
                evicted = 0;
            }
            prop_assert_eq!((evicted, result.err()), (0, model.refusal(&new)));
            if let Ok(name) = result {
                let remembered = Remembered { name, new, state, last_seen: model.second, next_hops: [0; 2] };
                model.live.push(remembered);
                model.names.push(name);
            }
        }
        Step::Lookup { key: number } => {
            let key = key(number);
            prop_assert_eq!(table.lookup(table.hasher.hash(&key), &key), model.lookup(key));
        }
        Step::Touch { key: number } => {
            let key = key(number);
            if let Some(found) = table.lookup(table.hasher.hash(&key), &key) {
                table.touch(&found, now);
                let second = model.second;
                model.by_name(found.flow).unwrap().last_seen = second;
            }
        }
        Step::Wait { seconds } => model.second += seconds,
        Step::Expire => {
            let timeouts = Timeouts::default();
            let expired = table.expire(&mut Cursor::part(0, 1), now, CAPACITY as usize);
            prop_assert_eq!(expired, model.expire(&timeouts));
        }
        Step::ChangeState { flow, .. }
        | Step::CacheNextHop { flow, .. }
        | Step::Ids { flow }
        | Step::Remove { flow } => {
            if let Some(name) = model.names.get(flow).copied() {
                take_by_name(step, name, table, model)?;
            }
        }
        Step::Restart => {}
    }
    Ok(())
}

/// Does a step that names a flow, live or long gone.
fn take_by_name<A: Address>(
    step: &Step,
    name: FlowRef,
    table: &Table<&Heap<A>>,
    model: &mut Model<A>,
) -> Result<(), TestCaseError> {
    let (now, second) = (model.now(), model.second);
    let live = model.by_name(name);
    match *step {
        Step::ChangeState { from, to, .. } => {
            let changes = live.as_ref().is_some_and(|flow| flow.state == from);
            prop_assert_eq!(table.change_state(name, from, to, now), changes);
            if let Some(flow) = live {
                flow.last_seen = second;
                flow.state = if changes { to } else { flow.state };
            }
        }
        Step::CacheNextHop { direction, next_hop, .. } => {
            let fits = next_hop < 1 << 48;
            prop_assert_eq!(table.cache_next_hop(name, direction, next_hop), fits);
            if let Some(flow) = live.filter(|_| fits) {
                let [request, reply] = &mut flow.next_hops;
                *(if direction == Direction::Request { request } else { reply }) = next_hop;
            }
        }
        Step::Ids { .. } => {
            let ids = live.map(|flow| (flow.new.service, flow.new.endpoint));
            prop_assert_eq!(table.ids(name), ids);
        }
        Step::Remove { .. } => {
            prop_assert_eq!(table.remove(name), live.is_some());
            model.live.retain(|flow| flow.name != name);
        }
        _ => unreachable!("no other step names a flow"),
    }
    Ok(())
}

fn live_through<A: Address>(steps: &[Step]) -> Result<(), TestCaseError> {
    let heap = Heap::<A>::new(CAPACITY);
    let (mut table, _) = Table::start(&heap, SECRET);
    let mut model = Model { live: Vec::new(), names: Vec::new(), second: 1 };
    for step in steps {
        take(step, &table, &mut model)?;
        if matches!(step, Step::Restart) {
            let scan;
            (table, scan) = Table::start(&heap, SECRET);
            prop_assert_eq!((scan.kept as usize, scan.dropped), (model.live.len(), 0));
            // What was remembered of next hops meant something only to the process that ended.
            model.live.iter_mut().for_each(|flow| flow.next_hops = [0; 2]);
        }
        prop_assert_eq!(assert_sound(&table).len(), model.live.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if is_long() { 20_000 } else { 1_000 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_and_a_list_of_flows_agree_in_every_result(steps in prop::collection::vec(step(), 1..120)) {
        live_through::<Ipv4Addr>(&steps)?;
        live_through::<Ipv6Addr>(&steps)?;
    }
}
