//! The next hop of a destination, from a copy of the kernel's `local` and `main` routing tables.
//!
//! The control thread builds a [`Routes`] from a netlink dump; workers look up only when a flow is new or the
//! generation of the tables changed. Reading order: [`Route`] and [`MultipathRoute`] what is given, [`Routes`] the
//! tables, `Spread` how flows share several next hops.

use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// The kernel's number of a network device (`ifindex`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceIndex(pub u32);

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RouteKind {
    /// Out of a device, by `gateway` or, without one, straight to the destination on the link.
    Unicast {
        /// The device that packets leave by.
        device: DeviceIndex,
        /// The router on that link, if the destination is not on it; may be IPv6 for an IPv4 route
        /// (`RTA_VIA`).
        gateway: Option<IpAddr>,
    },
    /// To the box itself (`RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, multicast): the kernel's.
    Local,
    /// To nobody (`RTN_BLACKHOLE`, `RTN_UNREACHABLE`, `RTN_PROHIBIT`).
    Unreachable,
}

/// The table that a route stands in, in the order the kernel consults them.
///
/// Source: the default rules of `ip rule`: priority 0 `local`, priority 32766 `main`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RouteTable {
    /// `RT_TABLE_LOCAL`: the box's own addresses; any match wins over `main`, however short its prefix.
    Local,
    /// `RT_TABLE_MAIN`.
    Main,
}

/// One route of the kernel's `local` or `main` table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// The table it stands in.
    pub table: RouteTable,
    /// Network address; bits past `prefix_length` do not count.
    pub destination: IpAddr,
    /// 0..=32 for IPv4, 0..=128 for IPv6.
    pub prefix_length: u8,
    /// Lower wins among routes of one table and prefix (`RTA_PRIORITY`).
    pub metric: u32,
    /// Where it leads.
    pub kind: RouteKind,
}

/// One of several next hops that share a route's flows (`RTA_MULTIPATH`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// The device that packets leave by.
    pub device: DeviceIndex,
    /// The router on that link, if the destination is not on it.
    pub gateway: Option<IpAddr>,
    /// Its part of the flows is its part of the sum of weights; 0 gets none.
    pub weight: u16,
}

/// A route with all its next hops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultipathRoute {
    /// The route; its `kind` counts while there are no `paths` with a weight.
    pub route: Route,
    /// The next hops that share its flows. More than [`PATHS_MAX`] are left out.
    pub paths: Vec<Path>,
}

impl From<Route> for MultipathRoute {
    fn from(route: Route) -> Self {
        Self { route, paths: Vec::new() }
    }
}

/// The most next hops of one route.
pub const PATHS_MAX: usize = 256;

/// All routes, fixed once built.
///
/// The prefixes of a table are cut into ranges of addresses that do not overlap, so that a look-up is one
/// binary search per table, whatever the mix of prefix lengths. At most two ranges per route: 10,000
/// IPv4 routes take about 0.6 MB. Routes over the same next hops with the same weights share one list of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    local_ipv4: Ranges<u32>,
    main_ipv4: Ranges<u32>,
    local_ipv6: Ranges<u128>,
    main_ipv6: Ranges<u128>,
    spreads: Box<[Spread]>,
}

impl Routes {
    /// Builds the tables; of routes with one table, prefix and metric the first counts, as in the kernel's
    /// dump order.
    ///
    /// A route whose `prefix_length` its family does not have is left out. Cost: a sort.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = impl Into<MultipathRoute>>) -> Self {
        let (mut local_ipv4, mut main_ipv4) = (Vec::new(), Vec::new());
        let (mut local_ipv6, mut main_ipv6) = (Vec::new(), Vec::new());
        let mut spreads = Spreads::default();
        for MultipathRoute { route, paths } in routes.into_iter().map(Into::into) {
            let (prefixes, first, width) = match (route.destination, route.table) {
                (IpAddr::V4(address), RouteTable::Local) => {
                    (&mut local_ipv4, u128::from(address.to_bits()), 32)
                }
                (IpAddr::V4(address), RouteTable::Main) => {
                    (&mut main_ipv4, u128::from(address.to_bits()), 32)
                }
                (IpAddr::V6(address), RouteTable::Local) => (&mut local_ipv6, address.to_bits(), 128),
                (IpAddr::V6(address), RouteTable::Main) => (&mut main_ipv6, address.to_bits(), 128),
            };
            let answer = spreads.share(paths).map_or(Answer::Plain(route.kind), Answer::Spread);
            prefixes.extend(Prefix::new(first, width, &route, answer));
        }
        let low_32 = |start: u128| start as u32;
        let highest_ipv4 = u128::from(u32::MAX);
        Self {
            local_ipv4: Ranges::new(local_ipv4, highest_ipv4, low_32),
            main_ipv4: Ranges::new(main_ipv4, highest_ipv4, low_32),
            local_ipv6: Ranges::new(local_ipv6, u128::MAX, |start| start),
            main_ipv6: Ranges::new(main_ipv6, u128::MAX, |start| start),
            spreads: spreads.all.into_boxed_slice(),
        }
    }

    /// Looks up where packets of a flow to `destination` go: the `local` table before `main`, then the longest
    /// prefix, then the lowest metric, then the next hop that `flow_hash` picks if there are several. `None` if no
    /// route fits.
    ///
    /// Packets of one flow must come with one hash. Cost: at most two binary searches, and a third one among several
    /// next hops; no allocation.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr, flow_hash: u32) -> Option<RouteKind> {
        let answer = match destination {
            IpAddr::V4(address) => {
                let address = address.to_bits();
                self.local_ipv4.lookup(address).or_else(|| self.main_ipv4.lookup(address))
            }
            IpAddr::V6(address) => {
                let address = address.to_bits();
                self.local_ipv6.lookup(address).or_else(|| self.main_ipv6.lookup(address))
            }
        };
        match answer? {
            Answer::Plain(kind) => Some(kind),
            Answer::Spread(number) => self.spreads.get(number as usize)?.choose(flow_hash),
        }
    }
}

/// What a range of addresses leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// One way.
    Plain(RouteKind),
    /// Several next hops: the position of their list.
    Spread(u32),
}

/// Next hops that share flows by their weights.
///
/// The range of a flow's hash is cut into one part for each next hop, as the kernel does, so that one next hop more
/// or less moves few flows. Source: RFC 2992 §2 (hash-threshold); net/ipv4/fib_semantics.c, `fib_rebalance`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Spread {
    /// Each next hop with the sum of the weights up to and with its own, in ascending order.
    bounds: Box<[(u32, RouteKind)]>,
}

impl Spread {
    /// `None` without a path that has a weight.
    fn new(paths: &[Path]) -> Option<Self> {
        let mut sum = 0;
        let weighted = paths.iter().take(PATHS_MAX).filter(|path| path.weight > 0);
        let bounds: Box<[_]> = weighted
            .map(|path| {
                sum += u32::from(path.weight);
                (sum, RouteKind::Unicast { device: path.device, gateway: path.gateway })
            })
            .collect();
        (!bounds.is_empty()).then_some(Self { bounds })
    }

    fn choose(&self, flow_hash: u32) -> Option<RouteKind> {
        let (sum, _) = self.bounds.last()?;
        let place = (u64::from(flow_hash) * u64::from(*sum)) >> u32::BITS;
        let position = self.bounds.partition_point(|(bound, _)| u64::from(*bound) <= place);
        self.bounds.get(position).map(|(_, kind)| *kind)
    }
}

/// All lists of next hops, equal ones once.
#[derive(Default)]
struct Spreads {
    all: Vec<Spread>,
    positions: HashMap<Vec<Path>, Option<u32>, RandomState>,
}

impl Spreads {
    fn share(&mut self, paths: Vec<Path>) -> Option<u32> {
        if paths.is_empty() {
            return None;
        }
        if let Some(position) = self.positions.get(&paths) {
            return *position;
        }
        let position = Spread::new(&paths).map(|spread| {
            self.all.push(spread);
            self.all.len() as u32 - 1
        });
        self.positions.insert(paths, position);
        position
    }
}

/// A prefix as the range of addresses it covers, both ends included.
struct Prefix {
    first: u128,
    last: u128,
    metric: u32,
    answer: Answer,
}

impl Prefix {
    /// `None` if `route.prefix_length` is more than `width`, the bits of an address of its family.
    fn new(address: u128, width: u8, route: &Route, answer: Answer) -> Option<Self> {
        let host_bits = width.checked_sub(route.prefix_length)?;
        let host_mask = u128::MAX.checked_shr(128 - u32::from(host_bits)).unwrap_or(0);
        let first = address & !host_mask;
        Some(Self { first, last: first | host_mask, metric: route.metric, answer })
    }
}

/// The answer for each range of addresses: entry `i` of `answers` holds from `starts[i]` to before the next
/// start.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ranges<A> {
    starts: Box<[A]>,
    answers: Box<[Option<Answer>]>,
}

impl<A> Default for Ranges<A> {
    fn default() -> Self {
        Self { starts: Box::default(), answers: Box::default() }
    }
}

impl<A: Copy + Ord> Ranges<A> {
    /// Sweeps over the prefixes by address; `open` holds those that cover the current address, innermost
    /// last, which works because two prefixes either nest or do not touch. Nothing begins behind the family's
    /// `highest` address.
    fn new(mut prefixes: Vec<Prefix>, highest: u128, narrow: impl Fn(u128) -> A) -> Self {
        prefixes.sort_by_key(|prefix| (prefix.first, core::cmp::Reverse(prefix.last), prefix.metric));
        prefixes.dedup_by_key(|prefix| (prefix.first, prefix.last));

        let mut ranges: Vec<(u128, Option<Answer>)> = Vec::with_capacity(prefixes.len() * 2);
        let mut open: Vec<Prefix> = Vec::new();
        for prefix in prefixes {
            close_before(prefix.first, &mut open, &mut ranges);
            begin(prefix.first, Some(prefix.answer), &mut ranges);
            open.push(prefix);
        }
        close_before(highest, &mut open, &mut ranges);

        Self {
            starts: ranges.iter().map(|(start, _)| narrow(*start)).collect(),
            answers: ranges.iter().map(|(_, answer)| *answer).collect(),
        }
    }

    fn lookup(&self, address: A) -> Option<Answer> {
        let after = self.starts.partition_point(|start| *start <= address);
        self.answers.get(after.checked_sub(1)?).copied().flatten()
    }
}

/// Ends the prefixes that end before `address`; what encloses each goes on behind it.
fn close_before(address: u128, open: &mut Vec<Prefix>, ranges: &mut Vec<(u128, Option<Answer>)>) {
    while let Some(ended) = open.pop_if(|innermost| innermost.last < address) {
        begin(ended.last + 1, open.last().map(|enclosing| enclosing.answer), ranges);
    }
}

/// Starts a range; one that starts at the same address has no addresses and is replaced.
fn begin(start: u128, answer: Option<Answer>, ranges: &mut Vec<(u128, Option<Answer>)>) {
    match ranges.last_mut() {
        Some((last_start, last_answer)) if *last_start == start => *last_answer = answer,
        _ => ranges.push((start, answer)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn route(table: RouteTable, network: &str, metric: u32, kind: RouteKind) -> Route {
        let (address, length) = network.split_once('/').unwrap();
        let (destination, prefix_length) = (address.parse().unwrap(), length.parse().unwrap());
        Route { table, destination, prefix_length, metric, kind }
    }

    fn out_of(device: u32) -> RouteKind {
        RouteKind::Unicast { device: DeviceIndex(device), gateway: None }
    }

    fn lookup(routes: &Routes, destination: &str) -> Option<RouteKind> {
        routes.lookup(destination.parse().unwrap(), 0)
    }

    #[test]
    fn no_route_is_no_answer() {
        assert_eq!(lookup(&Routes::default(), "10.0.0.1"), None);
        let routes = Routes::new([route(RouteTable::Main, "10.0.0.0/8", 0, out_of(1))]);
        assert_eq!(lookup(&routes, "9.255.255.255"), None);
        assert_eq!(lookup(&routes, "11.0.0.0"), None);
        assert_eq!(lookup(&routes, "::a00:1"), None, "an IPv4 route says nothing of IPv6");
    }

    #[test]
    fn the_longest_prefix_wins_and_its_neighbours_keep_the_shorter_one() {
        let routes = Routes::new([
            route(RouteTable::Main, "0.0.0.0/0", 0, out_of(1)),
            route(RouteTable::Main, "10.0.0.0/8", 0, out_of(2)),
            route(RouteTable::Main, "10.1.0.0/16", 0, RouteKind::Unreachable),
            route(RouteTable::Main, "255.255.255.255/32", 0, out_of(3)),
        ]);
        for (destination, kind) in [
            ("0.0.0.0", out_of(1)),
            ("10.0.255.255", out_of(2)),
            ("10.1.0.0", RouteKind::Unreachable),
            ("10.1.255.255", RouteKind::Unreachable),
            ("10.2.0.0", out_of(2)),
            ("11.0.0.0", out_of(1)),
            ("255.255.255.254", out_of(1)),
            ("255.255.255.255", out_of(3)),
        ] {
            assert_eq!(lookup(&routes, destination), Some(kind), "{destination}");
        }
    }

    #[test]
    fn the_lowest_metric_wins_and_among_equals_the_first() {
        let routes = Routes::new([
            route(RouteTable::Main, "10.0.0.0/8", 20, out_of(1)),
            route(RouteTable::Main, "10.0.0.0/8", 10, out_of(2)),
            route(RouteTable::Main, "10.0.0.0/8", 10, out_of(3)),
        ]);
        assert_eq!(lookup(&routes, "10.0.0.1"), Some(out_of(2)));
    }

    #[test]
    fn a_short_local_route_wins_over_a_long_main_one() {
        let routes = Routes::new([
            route(RouteTable::Main, "127.0.0.1/32", 0, out_of(1)),
            route(RouteTable::Local, "127.0.0.0/8", 9, RouteKind::Local),
        ]);
        assert_eq!(lookup(&routes, "127.0.0.1"), Some(RouteKind::Local));
    }

    #[test]
    fn a_prefix_length_that_the_family_lacks_is_left_out() {
        let mut lying = route(RouteTable::Main, "10.0.0.0/8", 0, out_of(1));
        lying.prefix_length = 33;
        assert_eq!(Routes::new([lying]), Routes::default());
    }

    fn path(device: u32, weight: u16) -> Path {
        Path { device: DeviceIndex(device), gateway: None, weight }
    }

    fn default_over(paths: &[Path]) -> Routes {
        let route = route(RouteTable::Main, "::/0", 0, out_of(9));
        Routes::new([MultipathRoute { route, paths: paths.to_vec() }])
    }

    #[test]
    fn next_hops_share_flows_by_their_weights() {
        let routes = default_over(&[path(1, 1), path(2, 0), path(3, 2), path(4, 5)]);
        let mut flows = [0_u32; 5];
        for number in 0..8000_u32 {
            // Evenly over all hashes.
            let hash = (u64::from(number) * (1 << 32) / 8000) as u32;
            match routes.lookup("fd00::1".parse().unwrap(), hash) {
                Some(RouteKind::Unicast { device: DeviceIndex(device), .. }) => flows[device as usize] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(flows, [0, 1000, 0, 2000, 5000]);
        assert_eq!(routes.lookup("fd00::1".parse().unwrap(), u32::MAX), Some(out_of(4)));
    }

    #[test]
    fn next_hops_without_weight_leave_the_route_its_own_way() {
        assert_eq!(lookup(&default_over(&[path(1, 0)]), "fd00::1"), Some(out_of(9)));
        assert_eq!(lookup(&default_over(&[]), "fd00::1"), Some(out_of(9)));
    }

    #[test]
    fn a_route_has_no_more_next_hops_than_the_limit_and_equal_lists_are_one() {
        let many: Vec<Path> = (0..300).map(|device| path(device, u16::MAX)).collect();
        let networks = ["10.0.0.0/8", "11.0.0.0/8"].map(|network| MultipathRoute {
            route: route(RouteTable::Main, network, 0, out_of(9)),
            paths: many.clone(),
        });
        let routes = Routes::new(networks);
        assert_eq!(routes.spreads.len(), 1);
        assert_eq!(routes.lookup("10.0.0.1".parse().unwrap(), u32::MAX), Some(out_of(255)));
    }

    #[test]
    fn one_way_takes_no_more_room_than_before_there_were_several() {
        assert_eq!(size_of::<Option<Answer>>(), size_of::<RouteKind>());
    }

    /// The obviously right model: looks at every route, and gives each unit of weight its own slot.
    fn linear(routes: &[MultipathRoute], destination: IpAddr, flow_hash: u32) -> Option<RouteKind> {
        let MultipathRoute { route, paths } = linear_route(routes, destination)?;
        let slots: Vec<RouteKind> = paths
            .iter()
            .flat_map(|path| {
                vec![RouteKind::Unicast { device: path.device, gateway: path.gateway }; path.weight.into()]
            })
            .collect();
        if slots.is_empty() {
            return Some(route.kind);
        }
        let share = f64::from(flow_hash) / (f64::from(u32::MAX) + 1.0);
        slots.get((share * slots.len() as f64) as usize).copied()
    }

    fn linear_route(routes: &[MultipathRoute], destination: IpAddr) -> Option<&MultipathRoute> {
        let covers = |route: &Route| match (route.destination, destination) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(route.prefix_length)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(route.prefix_length)
            }
            _ => false,
        };
        let fitting = routes.iter().filter(|multipath| covers(&multipath.route));
        fitting.min_by_key(|MultipathRoute { route, .. }| {
            (route.table, core::cmp::Reverse(route.prefix_length), route.metric)
        })
    }

    /// Addresses from few bits at both ends, so that prefixes nest, touch and repeat.
    fn address() -> impl Strategy<Value = IpAddr> {
        let few = prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(254), Just(255)];
        (any::<bool>(), [few.clone(), few.clone(), few.clone(), few]).prop_map(|(ipv6, [a, b, c, d])| {
            if ipv6 {
                IpAddr::V6(Ipv6Addr::from([a, b, a, a, a, a, a, a, a, a, a, a, a, a, c, d]))
            } else {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
        })
    }

    fn any_route() -> impl Strategy<Value = MultipathRoute> {
        let route = (address(), 0..=128u8, any::<bool>(), 0..3u32, 0..50u32).prop_map(
            |(destination, length, local, metric, device)| Route {
                table: if local { RouteTable::Local } else { RouteTable::Main },
                destination,
                prefix_length: if destination.is_ipv4() { length % 33 } else { length },
                metric,
                kind: out_of(device),
            },
        );
        let paths = proptest::collection::vec(
            (0..9u32, 0..5u16).prop_map(|(device, weight)| path(device, weight)),
            0..4,
        );
        (route, paths).prop_map(|(route, paths)| MultipathRoute { route, paths })
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_looking_at_every_route(
            routes in proptest::collection::vec(any_route(), 0..60),
            flows in proptest::collection::vec((address(), any::<u32>()), 40),
        ) {
            let built = Routes::new(routes.iter().cloned());
            for (destination, hash) in flows {
                let expected = linear(&routes, destination, hash);
                prop_assert_eq!(built.lookup(destination, hash), expected, "{} {}", destination, hash);
            }
        }
    }
}
