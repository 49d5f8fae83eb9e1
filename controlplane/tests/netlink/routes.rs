//! Routes, links and addresses as the kernel has them.

use std::net::IpAddr;

use serde_json::Value;
use tidegate::netlink::{KernelEvent, KernelEvents, Netlink, VethPair};
use tidegate_dataplane::routes::{DeviceIndex, MultipathRoute, Path, Route, RouteKind, RouteTable, Routes};

use crate::namespace::Namespace;
use crate::wait_for;

/// A gateway's namespace with a link, addresses, and one route of each sort.
fn furnished() -> Option<(Namespace, Namespace)> {
    let (gateway, other) = (Namespace::new()?, Namespace::new()?);
    gateway.join("lan", &other, "peer");
    gateway.ip("addr add 10.9.0.1/24 dev lan");
    gateway.ip("-6 addr add fd09::1/64 dev lan nodad");
    for route in [
        "default via 10.9.0.254 metric 50",
        "10.20.0.0/16 via 10.9.0.2 metric 10",
        "10.20.0.0/16 via 10.9.0.3 metric 5",
        "10.30.0.0/16 nexthop via 10.9.0.4 weight 1 nexthop via 10.9.0.5 weight 3",
        "10.40.0.0/16 via inet6 fd09::2 dev lan",
        "unreachable 10.50.0.0/16",
        "blackhole 10.51.0.0/16",
        "prohibit 10.52.0.0/16",
        "10.60.0.0/16 via 10.9.0.6 table 100",
        "10.20.30.0/24 tos 0x10 via 10.9.0.7",
    ] {
        gateway.ip(&format!("route add {route}"));
    }
    for route in [
        "fd20::/16 via fd09::2",
        "fd21::/16 via fe80::9 dev lan",
        "fd22::/16 nexthop via fd09::4 weight 1 nexthop via fe80::5 dev lan weight 2",
        "unreachable fd23::/16",
    ] {
        gateway.ip(&format!("-6 route add {route}"));
    }
    Some((gateway, other))
}

/// The same routes, from what `ip -j route` prints.
fn printed(gateway: &Namespace, device: DeviceIndex) -> Vec<MultipathRoute> {
    let mut routes = Vec::new();
    for (table, name) in [(RouteTable::Local, "local"), (RouteTable::Main, "main")] {
        for family in ["-4", "-6"] {
            for object in gateway.ip_json(&format!("-d {family} route show table {name}")) {
                if object.get("tos").is_none() {
                    routes.push(from_printed(&object, table, family == "-6", device));
                }
            }
        }
    }
    routes
}

fn from_printed(object: &Value, table: RouteTable, ipv6: bool, lan: DeviceIndex) -> MultipathRoute {
    let text = |object: &Value, field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
    let destination = match text(object, "dst").expect("a route has a destination").as_str() {
        "default" if ipv6 => "::/0".to_owned(),
        "default" => "0.0.0.0/0".to_owned(),
        network if network.contains('/') => network.to_owned(),
        host if ipv6 => format!("{host}/128"),
        host => format!("{host}/32"),
    };
    let (address, length) = destination.split_once('/').expect("a prefix");
    let device = |hop: &Value| if text(hop, "dev").as_deref() == Some("lo") { DeviceIndex(1) } else { lan };
    let router = |hop: &Value| {
        let via = hop.get("via").and_then(|via| text(via, "host"));
        text(hop, "gateway").or(via).map(|gateway| gateway.parse().expect("an address"))
    };
    let hops = object.get("nexthops").and_then(Value::as_array);
    let weight = |hop: &Value| hop["weight"].as_u64().expect("a weight") as u16;
    let path = |hop| Path { device: device(hop), gateway: router(hop), weight: weight(hop) };
    let first = hops.and_then(|hops| hops.first()).unwrap_or(object);
    let kind = match text(object, "type").as_deref() {
        Some("unicast") | None => RouteKind::Unicast { device: device(first), gateway: router(first) },
        Some("unreachable" | "blackhole" | "prohibit") => RouteKind::Unreachable,
        Some(_) => RouteKind::Local,
    };
    let route = Route {
        table,
        destination: address.parse().expect("an address"),
        prefix_length: length.parse().expect("a length"),
        metric: object.get("metric").and_then(Value::as_u64).unwrap_or(0) as u32,
        kind,
    };
    MultipathRoute { route, paths: hops.into_iter().flatten().map(path).collect() }
}

fn sorted(mut routes: Vec<MultipathRoute>) -> Vec<MultipathRoute> {
    routes.sort_by_key(|route| format!("{route:?}"));
    routes
}

#[test]
fn the_routes_are_those_that_ip_route_prints() {
    let Some((gateway, _other)) = furnished() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let lan = netlink.link("lan").await.unwrap().expect("lan is there");
        // IPv6 adds routes when the link gets its address, a moment after it is up: until then ask again.
        let mut events = KernelEvents::subscribe().unwrap();
        let (mut read, mut shown) = (netlink.routes().await.unwrap(), printed(&gateway, lan.index));
        while sorted(read.clone()) != sorted(shown.clone()) {
            println!("read {read:#?}\nip shows {shown:#?}");
            wait_for(&mut events, "further routes", |event| *event == KernelEvent::RoutesChanged).await;
            (read, shown) = (netlink.routes().await.unwrap(), printed(&gateway, lan.index));
        }
        assert!(shown.len() > 15, "the comparison had something to compare: {shown:#?}");

        let routes = Routes::new(read);
        let via = |gateway: &str| {
            let gateway: IpAddr = gateway.parse().unwrap();
            Some(RouteKind::Unicast { device: lan.index, gateway: Some(gateway) })
        };
        for (destination, kind) in [
            ("10.9.0.1", Some(RouteKind::Local)),
            ("10.9.0.255", Some(RouteKind::Local)),
            ("127.0.0.53", Some(RouteKind::Local)),
            ("10.9.0.77", Some(RouteKind::Unicast { device: lan.index, gateway: None })),
            ("192.0.2.1", via("10.9.0.254")),
            ("10.20.30.1", via("10.9.0.3")),
            ("10.30.0.1", via("10.9.0.4")),
            ("fd21::1", via("fe80::9")),
            ("fd22::1", via("fd09::4")),
            ("fd23::1", Some(RouteKind::Unreachable)),
            ("10.40.0.1", via("fd09::2")),
            ("10.50.0.1", Some(RouteKind::Unreachable)),
            ("10.60.0.1", via("10.9.0.254")),
            ("fd20::1", via("fd09::2")),
            ("fd30::1", None),
        ] {
            assert_eq!(routes.lookup(destination.parse().unwrap(), 0), kind, "{destination}");
        }
        for (destination, next_hop) in [("10.30.0.1", "10.9.0.5"), ("fd22::1", "fe80::5")] {
            for hash in [1 << 31, u32::MAX] {
                let found = routes.lookup(destination.parse().unwrap(), hash);
                assert_eq!(found, via(next_hop), "a flow of {hash:#x} to {destination}");
            }
        }
    });
}

#[test]
fn routes_by_a_next_hop_object_are_followed_unless_the_kernel_hides_them() {
    let Some((gateway, _other)) = furnished() else { return };
    gateway.ip("nexthop add id 7 via 10.9.0.9 dev lan");
    gateway.ip("route add 10.70.0.0/16 nhid 7");
    let lookup = |gateway: &Namespace| {
        gateway.enter_async(async || {
            let netlink = Netlink::connect().unwrap();
            let lan = netlink.link("lan").await.unwrap().expect("lan is there");
            (lan.index, Routes::new(netlink.routes().await.unwrap()).lookup("10.70.0.1".parse().unwrap(), 0))
        })
    };
    let (device, found) = lookup(&gateway);
    let by_object = RouteKind::Unicast { device, gateway: Some("10.9.0.9".parse().unwrap()) };
    assert_eq!(found, Some(by_object));
    gateway.sysctl("ipv4/nexthop_compat_mode", "0");
    let by_default = RouteKind::Unicast { device, gateway: Some("10.9.0.254".parse().unwrap()) };
    assert_eq!(lookup(&gateway).1, Some(by_default));
}

#[test]
fn a_next_hop_group_is_followed_with_its_weights_and_when_it_is_replaced() {
    let Some((gateway, _other)) = furnished() else { return };
    for (family, first, second, network) in
        [("-4", "10.9.0.8", "10.9.0.9", "10.80.0.0/16"), ("-6", "fd09::8", "fd09::9", "fd80::/16")]
    {
        let number = |own: u32| if family == "-4" { own } else { own + 10 };
        gateway.ip(&format!("{family} nexthop add id {} via {first} dev lan", number(1)));
        gateway.ip(&format!("{family} nexthop add id {} via {second} dev lan", number(2)));
        gateway.ip(&format!("nexthop add id {} group {},3/{},1", number(3), number(1), number(2)));
        gateway.ip(&format!("{family} route add {network} nhid {}", number(3)));
        let destination = network.split_once('/').unwrap().0.parse().unwrap();
        gateway.enter_async(async || {
            let netlink = Netlink::connect().unwrap();
            let mut events = KernelEvents::subscribe().unwrap();
            let lan = netlink.link("lan").await.unwrap().expect("lan is there");
            let flows = async || {
                let routes = Routes::new(netlink.routes().await.unwrap());
                [0, (1 << 31) + 1, u32::MAX].map(|hash| match routes.lookup(destination, hash) {
                    Some(RouteKind::Unicast { device, gateway: Some(router) }) if device == lan.index => {
                        router
                    }
                    other => panic!("{network}: {other:?}"),
                })
            };
            let (first, second): (IpAddr, IpAddr) = (first.parse().unwrap(), second.parse().unwrap());
            assert_eq!(flows().await, [first, first, second]);
            gateway.ip(&format!("nexthop replace id {} group {}", number(3), number(2)));
            wait_for(&mut events, "routes", |event| *event == KernelEvent::RoutesChanged).await;
            assert_eq!(flows().await, [second; 3]);
        });
    }
}

#[test]
fn an_address_is_a_source_once_it_is_proved_unique_and_while_it_is_preferred() {
    let (Some(gateway), Some(other)) = (Namespace::new(), Namespace::new()) else { return };
    gateway.join("lan", &other, "peer");
    other.ip("-6 addr add fd09::3/64 dev peer nodad");
    gateway.ip("addr add 10.9.0.1/24 dev lan");
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let mut events = KernelEvents::subscribe().unwrap();
        let is_source = async |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let addresses = netlink.addresses().await.unwrap();
            addresses.iter().find(|local| local.address == address).map(|local| local.is_source)
        };
        assert_eq!(is_source("10.9.0.1").await, Some(true));
        gateway.ip("-6 addr add fd09::2/64 dev lan");
        gateway.ip("-6 addr add fd09::3/64 dev lan");
        gateway.ip("-6 addr add fd09::4/64 dev lan nodad preferred_lft 0 valid_lft 1000");
        assert_eq!(is_source("fd09::2").await, Some(false), "tentative");
        assert_eq!(is_source("fd09::4").await, Some(false), "deprecated");
        while is_source("fd09::2").await != Some(true) {
            wait_for(&mut events, "addresses", |event| *event == KernelEvent::AddressesChanged).await;
        }
        assert_eq!(is_source("fd09::3").await, Some(false), "another has it");
        let all = netlink.addresses().await.unwrap();
        let link_local = all.iter().find(|local| local.address.to_string().starts_with("fe80:"));
        assert!(!link_local.expect("the link has one").is_source);
    });
}

#[test]
fn ten_thousand_routes_arrive_whole() {
    let Some((gateway, _other)) = furnished() else { return };
    add_many_routes(&gateway, 10_000);
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let routes = netlink.routes().await.unwrap();
        assert_eq!(routes.iter().filter(|multipath| multipath.route.metric == 777).count(), 10_000);
    });
}

/// In one call of `ip`, which blocks the calling thread and so the events of its runtime.
fn add_many_routes(gateway: &Namespace, count: u32) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: String = (0..count)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            format!("route add 172.{}.{b}.{c}/32 dev lan metric 777\n", 16 + a)
        })
        .collect();
    std::fs::write(file.path(), lines).unwrap();
    gateway.ip(&format!("-batch {}", file.path().display()));
}

#[test]
fn lost_messages_are_told_as_a_resync() {
    let Some((gateway, _other)) = furnished() else { return };
    gateway.enter_async(async || {
        let mut events = KernelEvents::subscribe().unwrap();
        add_many_routes(&gateway, 10_000);
        wait_for(&mut events, "resync", |event| *event == KernelEvent::Resync).await;
        // The subscription goes on after the loss.
        gateway.ip("addr add 10.9.0.99/32 dev lan");
        wait_for(&mut events, "an address", |event| *event == KernelEvent::AddressesChanged).await;
    });
}

#[test]
fn a_link_that_goes_down_takes_its_routes_and_says_so() {
    let Some((gateway, _other)) = furnished() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let mut events = KernelEvents::subscribe().unwrap();
        gateway.ip("link set lan down");
        wait_for(&mut events, "links", |event| *event == KernelEvent::LinksChanged).await;
        wait_for(&mut events, "routes", |event| *event == KernelEvent::RoutesChanged).await;
        let routes = Routes::new(netlink.routes().await.unwrap());
        assert_eq!(routes.lookup("192.0.2.1".parse().unwrap(), 0), None);
        assert!(!netlink.link("lan").await.unwrap().expect("lan is there").up);
    });
}

#[test]
fn a_route_in_another_table_is_no_event() {
    let Some((gateway, _other)) = furnished() else { return };
    gateway.enter_async(async || {
        let mut events = KernelEvents::subscribe().unwrap();
        // An address of the loopback is no link event, so what comes first is the route if it is told at all.
        gateway.ip("route add 10.61.0.0/16 via 10.9.0.6 table 100");
        gateway.ip("neigh add 10.9.0.66 lladdr 02:00:00:00:00:66 dev lan");
        let first = wait_for(&mut events, "a change", |event| match event {
            KernelEvent::RoutesChanged => true,
            KernelEvent::NeighbourChanged(next_hop, _) => next_hop.address.is_ipv4(),
            _ => false,
        });
        assert!(matches!(first.await, KernelEvent::NeighbourChanged(..)));
    });
}

#[test]
fn links_show_their_kind_their_peer_and_what_was_set() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        let pair = VethPair { name: "left", peer: "right", queues: 3, mtu: 1400 };
        netlink.create_veth(pair).await.unwrap();
        let left = netlink.link("left").await.unwrap().expect("left is there");
        let right = netlink.link("right").await.unwrap().expect("right is there");
        assert_eq!((left.peer, right.peer), (Some(right.index), Some(left.index)));
        assert_eq!((left.kind.as_deref(), left.mtu, right.mtu, left.up), (Some("veth"), 1400, 1400, false));
        assert_eq!(
            (&left.parent, &left.master, &left.xdp_program, &left.alias),
            (&None, &None, &None, &None)
        );

        netlink.set_alias(&left, "the left one").await.unwrap();
        netlink.set_mtu(&left, 1300).await.unwrap();
        netlink.set_up(&left).await.unwrap();
        let left = netlink.link("left").await.unwrap().expect("left is there");
        assert_eq!((left.alias.as_deref(), left.mtu, left.up), (Some("the left one"), 1300, true));
        for name in ["left", "right"] {
            let shown = gateway.ip_json(&format!("-d link show {name}"));
            assert_eq!((&shown[0]["num_tx_queues"], &shown[0]["num_rx_queues"]), (&3.into(), &3.into()));
            assert!(shown[0]["flags"].as_array().unwrap().contains(&"NOARP".into()), "{shown:?}");
        }

        let taken = netlink.create_veth(pair).await.unwrap_err();
        assert!(format!("{taken:#}").starts_with("devices left and right: "), "{taken:#}");
        netlink.delete_link(&left).await.unwrap();
        assert_eq!(netlink.link("right").await.unwrap(), None);
        let gone = netlink.set_up(&left).await.unwrap_err();
        assert!(format!("{gone:#}").starts_with("device left: "), "{gone:#}");
    });
}

#[test]
fn addresses_of_the_loopback_come_and_go() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let netlink = Netlink::connect().unwrap();
        for address in ["10.96.0.10", "fd96::10"] {
            let address: IpAddr = address.parse().unwrap();
            netlink.add_loopback_address(address).await.unwrap();
            let addresses = netlink.addresses().await.unwrap();
            let added = addresses.iter().find(|local| local.address == address).expect("it is listed");
            assert_eq!(
                (added.device, added.prefix_length),
                (DeviceIndex(1), if address.is_ipv4() { 32 } else { 128 })
            );
            let twice = netlink.add_loopback_address(address).await.unwrap_err();
            assert!(format!("{twice:#}").starts_with(&format!("address {address}: ")), "{twice:#}");
            assert!(netlink.remove_loopback_address(address).await.unwrap());
            assert!(!netlink.remove_loopback_address(address).await.unwrap());
        }
    });
}
