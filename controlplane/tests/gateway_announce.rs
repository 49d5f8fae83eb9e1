//! `--announce l2`, through the real binary in the namespace rig.

mod rig;

use std::time::Duration;

use rig::gateway::Gateway;
use rig::manifests::dual_stack_service;
use rig::{BOTH, Rig, Shape, eventually};

/// Virtual addresses in the networks that the gateway's device to the client is in.
const ON_LINK: [&str; 2] = ["10.1.0.100", "fd00:1::100"];
const PATIENCE: Duration = Duration::from_secs(10);

fn url(address: &str) -> String {
    if address.contains(':') {
        format!("http://[{address}]:8080/")
    } else {
        format!("http://{address}:8080/")
    }
}

/// Status of a client that tries for a second.
fn status(rig: &Rig, address: &str) -> i32 {
    rig.run("jump", &["curl", "-sS", "--max-time", "1", &url(address)]).status
}

/// The MAC that the client knows for an address, if it knows one.
fn known_mac(rig: &Rig, address: &str) -> Option<String> {
    let entry = rig.output("jump", &["ip", "neigh", "show", address, "dev", "eth0"]);
    entry.split_once("lladdr ").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
}

fn gateways_mac(rig: &Rig) -> String {
    rig.output("gw", &["cat", "/sys/class/net/client0/address"])
}

#[test]
fn virtual_addresses_on_the_link_are_answered_for_while_they_are_in_force() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("near.yaml", &dual_stack_service("dev", "near", ON_LINK, "enterprise"));
    let gateway = Gateway::start_with(&rig, &["--announce", "l2"]);
    for address in ON_LINK {
        let seen = rig.curl(&url(address));
        assert!(seen.output.starts_with("dev-"), "{address}: {}{}", seen.output, seen.errors);
        assert_eq!(known_mac(&rig, address), Some(gateways_mac(&rig)), "{address}");
    }
    // Both addresses of one Service change; the name goes when that is in force, and the linger is over soon after.
    rig.manifests
        .write("near.yaml", &dual_stack_service("dev", "near", ["10.96.1.50", "fd00:96::150"], "enterprise"));
    for address in ON_LINK {
        eventually("nobody answers for the address", PATIENCE, || {
            rig.output("jump", &["ip", "neigh", "flush", "to", address, "dev", "eth0"]);
            (status(&rig, address) != 0 && known_mac(&rig, address).is_none()).then_some(())
        });
    }
    assert_eq!(rig.curl(&url("10.96.1.50")).status, 0);
    gateway.assert_accounts_balance();
    gateway.stop();
}

#[test]
fn a_start_tells_those_who_knew_another_gateway() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("near.yaml", &dual_stack_service("dev", "near", ON_LINK, "enterprise"));
    for address in ON_LINK {
        rig.output(
            "jump",
            &["ip", "neigh", "add", address, "lladdr", "02:00:00:00:00:66", "dev", "eth0", "nud", "stale"],
        );
    }
    let gateway = Gateway::start_with(&rig, &["--announce", "l2"]);
    let own = gateways_mac(&rig);
    for address in ON_LINK {
        eventually("the client knows this gateway", PATIENCE, || {
            (known_mac(&rig, address).as_ref() == Some(&own)).then_some(())
        });
    }
    // A device that comes back has another MAC, and says so.
    rig.output("gw", &["ip", "link", "set", "client0", "address", "02:00:00:00:aa:01"]);
    for address in ON_LINK {
        eventually("the client knows the new MAC", PATIENCE, || {
            (known_mac(&rig, address).as_deref() == Some("02:00:00:00:aa:01")).then_some(())
        });
    }
    gateway.stop();
}

#[test]
fn nothing_is_announced_unless_it_is_asked_for_nor_what_lies_in_no_network_of_the_link() {
    let Some(rig) = Rig::up(Shape::TwoInterfaces) else { return };
    rig.manifests.write("near.yaml", &dual_stack_service("dev", "near", ON_LINK, "enterprise"));
    let gateway = Gateway::start(&rig);
    for address in ON_LINK {
        assert_ne!(status(&rig, address), 0, "{address}");
        assert_eq!(known_mac(&rig, address), None, "{address}");
    }
    gateway.stop();
    let _gateway = Gateway::start_with(&rig, &["--announce", "l2"]);
    rig.output("jump", &["ip", "route", "add", BOTH[0], "dev", "eth0"]);
    assert_ne!(status(&rig, BOTH[0]), 0);
    assert_eq!(known_mac(&rig, BOTH[0]), None);
}
