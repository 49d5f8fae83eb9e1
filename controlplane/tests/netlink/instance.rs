//! What a run put on the machine goes when it ends, or when the next one starts: that, and nothing else.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::bail;
use tempfile::TempDir;
use tidegate::instance::{Change, Instance, Offloads};
use tidegate::netlink::{Link, Netlink};
use tidegate::punt_device::PuntDevice;
use tidegate_dataplane::neighbours::NextHop;

use crate::namespace::Namespace;

const DNS: &str = "10.96.0.10";
const USERS: &str = "10.96.0.20";

fn offloads() -> Offloads {
    Offloads { device: "lan".to_owned(), gro: true, lro: false }
}

fn nothing_to_restore(offloads: &Offloads) -> anyhow::Result<()> {
    bail!("no offload was switched off, yet {offloads:?} is restored")
}

/// A gateway's namespace with things of its user that look like ours.
fn used() -> Option<(Namespace, Namespace)> {
    let (gateway, other) = (Namespace::new()?, Namespace::new()?);
    gateway.join("lan", &other, "peer");
    gateway.ip("addr add 10.9.0.1/24 dev lan");
    gateway.ip(&format!("addr add {USERS}/32 dev lo"));
    gateway.ip("neigh add 10.9.0.3 lladdr 02:00:00:00:00:03 dev lan nud permanent");
    gateway.ip("neigh add 10.9.0.4 dev lan managed");
    Some((gateway, other))
}

/// Puts one change of each kind on the machine.
async fn start(netlink: &Netlink, instance: &mut Instance) {
    assert!(instance.add_loopback_address(netlink, DNS.parse().unwrap()).await.unwrap());
    assert!(!instance.add_loopback_address(netlink, USERS.parse().unwrap()).await.unwrap());
    let served: Vec<Link> = netlink.links().await.unwrap();
    PuntDevice::create(netlink, instance, 1, &served).await.unwrap();
    instance.record(Change::ManagedNeighbours).unwrap();
    let lan = netlink.link("lan").await.unwrap().expect("lan is there");
    netlink.resolve(NextHop { device: lan.index, address: "10.9.0.9".parse().unwrap() }).await.unwrap();
    instance.record(Change::Offloads(offloads())).unwrap();
}

/// What of ours, and what of the user's, is on the machine.
async fn assert_machine(gateway: &Namespace, netlink: &Netlink, ours_is_there: bool) {
    let addresses: Vec<IpAddr> =
        netlink.addresses().await.unwrap().iter().map(|local| local.address).collect();
    assert_eq!(addresses.contains(&DNS.parse().unwrap()), ours_is_there, "{addresses:?}");
    assert!(addresses.contains(&USERS.parse().unwrap()), "{addresses:?}");
    assert_eq!(netlink.link("tide0").await.unwrap().is_some(), ours_is_there);
    let entries = gateway.ip_json("-d neigh show dev lan");
    let managed =
        |address: &str| entries.iter().any(|entry| entry["dst"] == address && entry.get("managed").is_some());
    assert_eq!((managed("10.9.0.9"), managed("10.9.0.4")), (ours_is_there, true), "{entries:?}");
    let fixed = entries.iter().find(|entry| entry["dst"] == "10.9.0.3").expect("the user's entry stays");
    assert_eq!(fixed["state"][0], "PERMANENT");
}

#[test]
fn a_clean_end_takes_everything_back_and_leaves_no_journal() {
    let Some((gateway, _other)) = used() else { return };
    gateway.enter_async(async || {
        let directory = TempDir::new().unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut instance = Instance::claim(directory.path()).unwrap();
        start(&netlink, &mut instance).await;
        assert_machine(&gateway, &netlink, true).await;

        let mut restored = Vec::new();
        let restore = |offloads: &Offloads| {
            restored.push(offloads.clone());
            Ok(())
        };
        instance.end(&netlink, restore).await.unwrap();
        assert_eq!(restored, [offloads()]);
        assert_machine(&gateway, &netlink, false).await;
        assert!(!directory.path().join("journal.json").exists());
    });
}

#[test]
fn the_start_after_a_kill_clears_what_that_run_left_and_only_that() {
    let Some((gateway, _other)) = used() else { return };
    gateway.enter_async(async || {
        let directory = TempDir::new().unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut killed = Instance::claim(directory.path()).unwrap();
        start(&netlink, &mut killed).await;
        drop(killed);
        assert_machine(&gateway, &netlink, true).await;

        let mut next = Instance::claim(directory.path()).unwrap();
        let mut restored = Vec::new();
        let restore = |offloads: &Offloads| {
            restored.push(offloads.clone());
            Ok(())
        };
        next.recover(&netlink, restore).await.unwrap();
        assert_eq!(restored, [offloads()]);
        assert_machine(&gateway, &netlink, false).await;
        next.recover(&netlink, nothing_to_restore).await.unwrap();
    });
}

#[test]
fn a_kill_between_note_and_change_is_recovered_from() {
    let Some((gateway, _other)) = used() else { return };
    gateway.enter_async(async || {
        let directory = TempDir::new().unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut killed = Instance::claim(directory.path()).unwrap();
        killed.record(Change::LoopbackAddress(DNS.parse().unwrap())).unwrap();
        killed.record(Change::PuntDevice).unwrap();
        // Made, but not yet marked.
        gateway.ip("link add tide0 type veth peer name tide1");
        drop(killed);
        let mut next = Instance::claim(directory.path()).unwrap();
        next.recover(&netlink, nothing_to_restore).await.unwrap();
        assert_eq!(netlink.link("tide0").await.unwrap(), None);
    });
}

#[test]
fn what_could_not_be_taken_back_stays_in_the_journal_and_the_rest_goes() {
    let Some((gateway, _other)) = used() else { return };
    gateway.enter_async(async || {
        let directory = TempDir::new().unwrap();
        let netlink = Netlink::connect().unwrap();
        let mut instance = Instance::claim(directory.path()).unwrap();
        start(&netlink, &mut instance).await;
        let error = instance.end(&netlink, |_| bail!("device lan: no")).await.unwrap_err();
        assert!(format!("{error:#}").contains("device lan: no"), "{error:#}");
        assert_machine(&gateway, &netlink, false).await;

        let mut next = Instance::claim(directory.path()).unwrap();
        let mut restored = 0;
        let restore = |_: &Offloads| {
            restored += 1;
            Ok(())
        };
        next.recover(&netlink, restore).await.unwrap();
        assert_eq!(restored, 1);
    });
}

#[test]
fn a_journal_of_another_boot_or_namespace_is_dropped_unread() {
    let Some((gateway, other)) = used() else { return };
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal.json");
    let note = |gateway: &Namespace| {
        gateway.enter(|| {
            let mut killed = Instance::claim(directory.path()).unwrap();
            killed.record(Change::LoopbackAddress(USERS.parse().unwrap())).unwrap();
        });
    };
    let recover = || {
        gateway.enter_async(async || {
            let netlink = Netlink::connect().unwrap();
            let mut next = Instance::claim(directory.path()).unwrap();
            next.recover(&netlink, nothing_to_restore).await.unwrap();
            let addresses = netlink.addresses().await.unwrap();
            addresses.iter().any(|local| local.address == USERS.parse::<IpAddr>().unwrap())
        })
    };
    note(&other);
    assert!(recover(), "a note from another namespace");

    note(&gateway);
    let text = std::fs::read_to_string(&journal).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["boot"] = "another".into();
    std::fs::write(&journal, value.to_string()).unwrap();
    assert!(recover(), "a note from another boot");

    note(&gateway);
    assert!(!recover(), "a note from here");
}

#[test]
fn a_file_that_is_no_journal_is_put_aside() {
    let Some(gateway) = Namespace::new() else { return };
    gateway.enter_async(async || {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("journal.json"), "{\"boot\":").unwrap();
        let mut instance = Instance::claim(directory.path()).unwrap();
        instance.recover(&Netlink::connect().unwrap(), nothing_to_restore).await.unwrap();
        let aside = std::fs::read_to_string(directory.path().join("journal.json.unreadable")).unwrap();
        assert_eq!(aside, "{\"boot\":");
    });
}

#[test]
fn a_second_claim_names_the_process_that_holds_the_directory() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state");
    let first = Instance::claim(&directory).unwrap();
    let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let error = Instance::claim(&directory).unwrap_err();
    let expected = format!("in use by process {}", std::process::id());
    assert!(format!("{error:#}").ends_with(&expected), "{error:#}");
    drop(first);
    Instance::claim(&directory).unwrap();
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let directory = TempDir::new().unwrap();
    let open = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let error = Instance::claim(directory.path()).unwrap_err();
    assert!(format!("{error:#}").contains("mode 1777"), "{error:#}");
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Instance::claim(Path::new(&file)).unwrap_err();
    assert!(format!("{error:#}").contains("file: cannot make it"), "{error:#}");
}
