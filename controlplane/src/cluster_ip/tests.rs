//! Who gets which ClusterIP.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::objects::ServicePort;

fn service(name: &str, reach: Reach) -> Arc<Service> {
    let (namespace, name) = name.split_once('/').unwrap();
    Arc::new(Service {
        name: ObjectName::new(namespace, name),
        foreign_proxy: false,
        traffic: crate::traffic::Traffic::default(),
        reach,
        ports: Vec::<ServicePort>::new(),
        selector: BTreeMap::new(),
        publish_not_ready: false,
        families: Vec::new(),
        family_policy: FamilyPolicy::SingleStack,
    })
}

fn unstated(name: &str) -> Arc<Service> {
    service(name, Reach::ClusterIp(Vec::new()))
}

fn stated(name: &str, address: &str) -> Arc<Service> {
    service(name, Reach::ClusterIp(vec![address.parse().unwrap()]))
}

fn candidates(services: &[Arc<Service>]) -> BTreeMap<ObjectName, Arc<Service>> {
    services.iter().map(|service| (service.name.clone(), service.clone())).collect()
}

fn cluster_ips(cidrs: &[&str]) -> ClusterIps {
    ClusterIps::new(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(), Addresses::new())
}

fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn addresses(list: &[(&str, &str)]) -> Addresses {
    list.iter().map(|(service, address)| (name(service), vec![address.parse().unwrap()])).collect()
}

fn good(settled: &Settled, service: &str) -> Vec<String> {
    let addresses = settled[&name(service)].as_ref().unwrap_or_else(|fault| panic!("{service}: {fault:?}"));
    addresses.iter().map(ToString::to_string).collect()
}

fn bad(settled: &Settled, service: &str) -> String {
    let fault = settled[&name(service)].as_ref().unwrap_err();
    format!("{}: {}", fault.field, fault.what)
}

#[test]
fn the_same_set_of_services_gets_the_same_addresses_in_every_build() {
    let settled = cluster_ips(&["10.96.0.0/16"])
        .settle(&Addresses::new(), &candidates(&[unstated("dev/ent"), unstated("prod/ent")]));
    assert_eq!(good(&settled, "dev/ent"), ["10.96.135.47"]);
    assert_eq!(good(&settled, "prod/ent"), ["10.96.215.87"]);
}

#[test]
fn a_full_cidr_is_used_to_its_last_host_address_and_then_named() {
    let services: Vec<_> = (0..15).map(|index| unstated(&format!("dev/s{index:02}"))).collect();
    let settled = cluster_ips(&["10.96.0.0/28"]).settle(&Addresses::new(), &candidates(&services));
    let given: BTreeSet<IpAddr> = settled.values().flatten().flatten().copied().collect();
    let hosts: BTreeSet<IpAddr> = "10.96.0.0/28".parse::<IpNet>().unwrap().hosts().collect();
    assert_eq!(given, hosts, "all but the network and the broadcast address");
    assert_eq!(
        bad(&settled, "dev/s14"),
        "spec.clusterIP: is absent, and no address is left in --service-cidr 10.96.0.0/28"
    );
}

#[test]
fn an_ipv6_cidr_of_any_width_costs_a_look_for_each_address_that_is_taken_and_one_more() {
    for (cidr, behind_those_of_people) in [
        ("fd00:96::/48", "fd00:96::100"),
        ("fd00:96::/64", "fd00:96::100"),
        ("fd00:96::/108", "fd00:96::100"),
        ("fd00:96::/112", "fd00:96::100"),
        ("fd00:96::/120", "fd00:96::10"),
    ] {
        let cidr: IpNet = cidr.parse().unwrap();
        let mut taken = BTreeSet::new();
        for number in 0..100 {
            let looks = Cell::new(0);
            let free = |address: &IpAddr| {
                looks.set(looks.get() + 1);
                !taken.contains(address)
            };
            // One place for all: the worst that names can do.
            let picked = super::range::pick(&cidr, u64::MAX, &free).unwrap();
            assert!(cidr.contains(&picked), "{cidr}: {picked}");
            assert_eq!(looks.get(), number + 1, "{cidr}");
            taken.insert(picked);
        }
        let first = taken.first().copied();
        assert!(first >= Some(behind_those_of_people.parse().unwrap()), "{cidr}: {first:?}");
    }
}

#[test]
fn the_lower_places_are_left_to_people_until_the_upper_are_full() {
    let services: Vec<_> = (0..240).map(|index| unstated(&format!("dev/s{index:03}"))).collect();
    let settled = cluster_ips(&["10.96.0.0/24"]).settle(&Addresses::new(), &candidates(&services));
    let low = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[3] < 17);
    let count = settled.values().flatten().flatten().filter(|address| low(address)).count();
    assert_eq!(count, 240 - 238, "238 hosts above the reserved 16");
}

#[test]
fn an_assigned_address_is_never_one_that_another_service_states() {
    let assigner = cluster_ips(&["10.96.0.0/16"]);
    let alone = assigner.settle(&Addresses::new(), &candidates(&[unstated("dev/ent")]));
    let wanted = good(&alone, "dev/ent").remove(0);
    let both = candidates(&[unstated("dev/ent"), stated("zoo/last", &wanted)]);
    let settled = assigner.settle(&Addresses::new(), &both);
    assert_eq!(good(&settled, "zoo/last"), [&*wanted]);
    assert_ne!(good(&settled, "dev/ent"), [&*wanted]);
}

#[test]
fn of_two_services_that_state_one_address_the_first_by_name_gets_it_at_the_start() {
    let both = candidates(&[stated("dev/a", "10.96.0.5"), stated("dev/b", "10.96.0.5")]);
    let settled = cluster_ips(&["10.96.0.0/16"]).settle(&Addresses::new(), &both);
    assert_eq!(good(&settled, "dev/a"), ["10.96.0.5"]);
    assert_eq!(bad(&settled, "dev/b"), "spec.clusterIP: 10.96.0.5 is in force for Service dev/a");
}

#[test]
fn the_older_service_in_force_keeps_its_address_against_an_earlier_name() {
    let in_force = addresses(&[("dev/b", "10.96.0.5")]);
    let settled =
        cluster_ips(&["10.96.0.0/16"]).settle(&in_force, &candidates(&[stated("dev/a", "10.96.0.5")]));
    assert_eq!(bad(&settled, "dev/a"), "spec.clusterIP: 10.96.0.5 is in force for Service dev/b");
}

#[test]
fn two_services_swap_their_addresses_in_one_change() {
    let in_force = addresses(&[("dev/a", "10.96.0.5"), ("dev/b", "10.96.0.6")]);
    let swap = candidates(&[stated("dev/a", "10.96.0.6"), stated("dev/b", "10.96.0.5")]);
    let settled = cluster_ips(&["10.96.0.0/16"]).settle(&in_force, &swap);
    assert_eq!(good(&settled, "dev/a"), ["10.96.0.6"]);
    assert_eq!(good(&settled, "dev/b"), ["10.96.0.5"]);
}

#[test]
fn a_refused_service_keeps_its_earlier_address_even_from_one_that_was_to_inherit_it() {
    let in_force = addresses(&[("dev/a", "10.96.0.5"), ("dev/b", "10.96.0.6"), ("dev/c", "10.96.0.7")]);
    let change = candidates(&[stated("dev/a", "10.96.0.6"), stated("dev/c", "10.96.0.5")]);
    let settled = cluster_ips(&["10.96.0.0/16"]).settle(&in_force, &change);
    assert_eq!(bad(&settled, "dev/a"), "spec.clusterIP: 10.96.0.6 is in force for Service dev/b");
    assert_eq!(bad(&settled, "dev/c"), "spec.clusterIP: 10.96.0.5 is in force for Service dev/a");
}

#[test]
fn an_address_that_is_no_longer_stated_stays() {
    let in_force = addresses(&[("dev/a", "10.96.0.5")]);
    let settled = cluster_ips(&["10.96.0.0/16"]).settle(&in_force, &candidates(&[unstated("dev/a")]));
    assert_eq!(good(&settled, "dev/a"), ["10.96.0.5"]);
}

#[test]
fn a_remembered_address_comes_back_after_a_restart_unless_its_cidr_is_gone() {
    let remembered = addresses(&[("dev/a", "10.96.0.5")]);
    let again = |cidr: &str| {
        let assigner = ClusterIps::new(vec![cidr.parse().unwrap()], remembered.clone());
        let both = candidates(&[unstated("dev/a"), stated("dev/b", "10.96.0.5")]);
        assigner.settle(&Addresses::new(), &both)
    };
    assert_eq!(good(&again("10.96.0.0/16"), "dev/a"), ["10.96.0.5"]);
    assert_eq!(
        bad(&again("10.96.0.0/16"), "dev/b"),
        "spec.clusterIP: 10.96.0.5 is in force for Service dev/a"
    );
    assert!(good(&again("10.97.0.0/16"), "dev/a")[0].starts_with("10.97."));
}

#[test]
fn families_follow_the_policy_and_the_cidrs() {
    let policy = |families: &[Family], policy| {
        let mut service = (*unstated("dev/a")).clone();
        (service.families, service.family_policy) = (families.to_vec(), policy);
        candidates(&[Arc::new(service)])
    };
    let (single, prefer, require) =
        (FamilyPolicy::SingleStack, FamilyPolicy::PreferDualStack, FamilyPolicy::RequireDualStack);
    let both = cluster_ips(&["fd00:10::/108", "10.96.0.0/16"]);
    let four = cluster_ips(&["10.96.0.0/16"]);
    let families = |assigner: &ClusterIps, services| -> Vec<Family> {
        let settled = assigner.settle(&Addresses::new(), &services);
        settled[&name("dev/a")].as_ref().unwrap().iter().map(Family::of).collect()
    };
    assert_eq!(families(&both, policy(&[], single)), [Family::V6], "the first CIDR's");
    assert_eq!(families(&both, policy(&[Family::V4], single)), [Family::V4]);
    assert_eq!(families(&both, policy(&[Family::V4], prefer)), [Family::V4, Family::V6]);
    assert_eq!(families(&four, policy(&[], prefer)), [Family::V4]);
    let refused = four.settle(&Addresses::new(), &policy(&[], require));
    assert_eq!(
        bad(&refused, "dev/a"),
        "spec.ipFamilyPolicy: is RequireDualStack, but there is no --service-cidr of IPv6"
    );
    let refused = four.settle(&Addresses::new(), &policy(&[Family::V6], single));
    assert!(bad(&refused, "dev/a").contains("no --service-cidr of IPv6 to take one from"));
    let refused = cluster_ips(&[]).settle(&Addresses::new(), &candidates(&[unstated("dev/a")]));
    assert_eq!(
        bad(&refused, "dev/a"),
        "spec.clusterIP: is absent, and there is no --service-cidr to take one from"
    );
}

#[test]
fn the_state_file_comes_back_as_it_was_saved_and_a_torn_one_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/clusterips.json");
    assert_eq!(state_file::load(&path), Addresses::new(), "no file yet");
    let saved = addresses(&[("dev/a", "10.96.0.5"), ("prod/b", "fd00::5")]);
    state_file::save(&path, &saved).unwrap();
    assert_eq!(state_file::load(&path), saved);
    let whole = std::fs::read(&path).unwrap();
    for torn in [&whole[..whole.len() / 2], b"", b"{\"version\": 2, \"clusterIps\": {}}", b"[1]", b"\xff"] {
        std::fs::write(&path, torn).unwrap();
        assert_eq!(state_file::load(&path), Addresses::new());
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left beside it");
}

proptest! {
    #[test]
    fn no_address_is_ever_given_twice_and_none_in_force_moves(
        steps in prop::collection::vec(prop::collection::btree_map(0..12_u8, prop::option::of(1..14_u8), 0..12), 1..8),
    ) {
        let assigner = cluster_ips(&["10.96.0.0/28"]);
        let mut in_force = Addresses::new();
        let mut versions: BTreeMap<ObjectName, Arc<Service>> = BTreeMap::new();
        for step in steps {
            let wanted = candidates(&step.iter().map(|(index, address)| match address {
                None => unstated(&format!("dev/s{index:02}")),
                Some(last) => stated(&format!("dev/s{index:02}"), &format!("10.96.0.{last}")),
            }).collect::<Vec<_>>());
            in_force.retain(|name, _| wanted.contains_key(name));
            versions.retain(|name, _| wanted.contains_key(name));
            let changed: BTreeMap<_, _> =
                wanted.iter().filter(|(name, service)| versions.get(*name) != Some(service))
                    .map(|(name, service)| (name.clone(), service.clone())).collect();
            let before = in_force.clone();
            for (name, outcome) in assigner.settle(&before, &changed) {
                if let Ok(addresses) = outcome {
                    if let (Reach::ClusterIp(stated), Some(earlier)) = (&changed[&name].reach, before.get(&name)) {
                        prop_assert!(!stated.is_empty() || *earlier == addresses, "an unstated address moved");
                    }
                    versions.insert(name.clone(), changed[&name].clone());
                    in_force.insert(name, addresses);
                }
            }
            let given: Vec<&IpAddr> = in_force.values().flatten().collect();
            let distinct: BTreeSet<&IpAddr> = given.iter().copied().collect();
            prop_assert_eq!(given.len(), distinct.len(), "an address is there twice: {:?}", in_force);
            for service in versions.values() {
                if let Reach::ClusterIp(stated) = &service.reach {
                    prop_assert!(stated.iter().all(|address| in_force[&service.name].contains(address)));
                }
            }
        }
    }
}
