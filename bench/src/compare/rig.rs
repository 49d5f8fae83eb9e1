//! The namespaces of one contender: a client, a gateway, and where the pods are.
//!
//! ```text
//!  client 10.0.1.2 ── client0 10.0.1.1 [gateway] pods0 10.0.2.1 ── 10.0.2.2 pods
//!  and 10.1.0.0/16                                                 and 10.3.0.0/16
//! ```
//!
//! Next hops are set by hand, so that nobody asks for a neighbour while the clock runs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::traffic::ends::Place;
use crate::traffic::frame::Stations;

/// Station of the client's device.
pub const CLIENT_STATION: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// Station of the gateway's device towards the client.
pub const GATEWAY_CLIENT_STATION: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Station of the gateway's device towards the pods.
pub const GATEWAY_PODS_STATION: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// Station of the device where the pods are.
pub const PODS_STATION: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Namespaces, removed when the value goes.
#[derive(Debug)]
pub struct Rig {
    prefix: String,
    has_gateway: bool,
}

impl Rig {
    /// Builds a client, a gateway and the pods; without a gateway, client and pods are on one wire.
    pub fn build(prefix: &str, has_gateway: bool) -> Result<Self> {
        let rig = Self { prefix: prefix.to_owned(), has_gateway };
        rig.remove();
        for place in rig.namespaces() {
            run(&["ip", "netns", "add", &place])?;
        }
        if has_gateway {
            rig.join(("client", "eth0", CLIENT_STATION), ("gw", "client0", GATEWAY_CLIENT_STATION))?;
            rig.join(("pods", "eth0", PODS_STATION), ("gw", "pods0", GATEWAY_PODS_STATION))?;
            rig.address_gateway()?;
        } else {
            rig.join(("client", "eth0", CLIENT_STATION), ("pods", "eth0", GATEWAY_CLIENT_STATION))?;
        }
        rig.address_ends()?;
        Ok(rig)
    }

    /// Where traffic begins.
    #[must_use]
    pub fn client(&self) -> Place {
        Place { namespace: self.name("client"), device: "eth0".to_owned() }
    }

    /// Where traffic ends.
    #[must_use]
    pub fn sink(&self) -> Place {
        Place { namespace: self.name("pods"), device: "eth0".to_owned() }
    }

    /// Stations on the client's link.
    #[must_use]
    pub const fn stations(&self) -> Stations {
        Stations { gateway: GATEWAY_CLIENT_STATION, client: CLIENT_STATION }
    }

    /// A namespace's whole name.
    #[must_use]
    pub fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    /// Runs a shell command in a namespace, which must succeed; returns what it printed.
    pub fn shell(&self, place: &str, command: &str) -> Result<String> {
        run(&["ip", "netns", "exec", &self.name(place), "sh", "-ec", command])
    }

    /// A program in a namespace, not yet started. `ip` replaces itself by it, so the child's id is the program's.
    #[must_use]
    pub fn command(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    fn namespaces(&self) -> Vec<String> {
        let places: &[&str] = if self.has_gateway { &["client", "gw", "pods"] } else { &["client", "pods"] };
        places.iter().map(|place| self.name(place)).collect()
    }

    fn join(&self, one: (&str, &str, [u8; 6]), other: (&str, &str, [u8; 6])) -> Result<()> {
        let (one_name, other_name) = (self.name(one.0), self.name(other.0));
        let pair = ["ip", "-n", &one_name, "link", "add", one.1, "address", &station(one.2), "type", "veth"];
        let peer = ["peer", "name", other.1, "address", &station(other.2), "netns", &other_name];
        run(&[&pair[..], &peer[..]].concat())?;
        for (place, device, _) in [one, other] {
            // Whole frames with whole checksums: kernels on both sides of a veth pair may otherwise leave both undone.
            self.shell(
                place,
                &format!(
                    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1
                     ethtool -K {device} tx off tso off gso off gro off >/dev/null
                     ip link set lo up; ip link set {device} up"
                ),
            )?;
        }
        Ok(())
    }

    fn address_gateway(&self) -> Result<()> {
        let (client, pods) = (station(CLIENT_STATION), station(PODS_STATION));
        self.shell(
            "gw",
            &format!(
                "ip addr add 10.0.1.1/24 dev client0; ip addr add 10.0.2.1/24 dev pods0
                 ip neigh replace 10.0.1.2 lladdr {client} nud permanent dev client0
                 ip neigh replace 10.0.2.2 lladdr {pods} nud permanent dev pods0
                 ip route add 10.1.0.0/16 via 10.0.1.2; ip route add 10.3.0.0/16 via 10.0.2.2
                 sysctl -qw net.ipv4.conf.all.send_redirects=0"
            ),
        )?;
        Ok(())
    }

    fn address_ends(&self) -> Result<()> {
        self.shell("client", "ip addr add 10.0.1.2/24 dev eth0; ip route add default via 10.0.1.1")?;
        self.shell("pods", "ip addr add 10.0.2.2/24 dev eth0; ip route add default via 10.0.2.1")?;
        Ok(())
    }

    fn remove(&self) {
        for name in self.namespaces() {
            let _may_not_exist = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns a MAC address as people write it.
#[must_use]
pub fn station(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// Runs a program that must succeed; returns what it printed.
pub fn run(words: &[&str]) -> Result<String> {
    let (program, arguments) = words.split_first().context("no program")?;
    let output = Command::new(program).args(arguments).output().with_context(|| (*program).to_owned())?;
    if !output.status.success() {
        bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
