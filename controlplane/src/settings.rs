//! What a run needs to know, checked as far as it can be without the kernel.

use std::fmt;

use anyhow::{Context, bail};

use crate::cli::RunArguments;
use crate::netlink::{Link, Netlink};

/// A setting that cannot hold on this machine: the process ends with status 2.
#[derive(Debug)]
pub struct BadConfiguration(pub String);

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfiguration {}

/// Fails with what `message` says unless `good`.
fn require(good: bool, message: impl FnOnce() -> String) -> Result<(), BadConfiguration> {
    if good { Ok(()) } else { Err(BadConfiguration(message())) }
}

/// Returns the cores of the workers: those named, or the last one that this process may use.
///
/// # Errors
/// Names the core that is not to be had.
pub fn cores(arguments: &RunArguments) -> anyhow::Result<Vec<usize>> {
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .context("cannot read the cores of this process")?
        .iter()
        .map(|c| c.id)
        .collect();
    let Some(list) = &arguments.cores else {
        return Ok(vec![*allowed.last().context("this process may use no core")?]);
    };
    for core in &list.0 {
        require(allowed.contains(core), || {
            format!("--cores: core {core} is not to be had for this process; it has {allowed:?}")
        })?;
    }
    Ok(list.0.clone())
}

/// The capabilities that a run needs, by their bit in `CapEff`. Source: `include/uapi/linux/capability.h`.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")];
/// May stand for `CAP_SYS_ADMIN` since Linux 5.8.
const CAP_BPF: u32 = 39;

/// Checks that this process may do what a run does.
///
/// # Errors
/// Names the capabilities that are missing.
pub fn check_privileges() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let effective = effective.context("/proc/self/status: no CapEff")?;
    let has = |bit: u32| effective & 1 << bit != 0;
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, name)| !(has(*bit) || *name == "CAP_SYS_ADMIN" && has(CAP_BPF)))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        bail!("this process lacks {}; run tidegate as root", missing.join(", "));
    }
    Ok(())
}

/// Finds the devices to serve and refuses those that cannot be served rightly (design decision 15).
///
/// # Errors
/// Names the device and what to do.
pub async fn served_links(arguments: &RunArguments, netlink: &Netlink) -> anyhow::Result<Vec<Link>> {
    let links = netlink.links().await?;
    let mut served = Vec::new();
    for name in &arguments.interfaces {
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            let known: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            let message = format!("--interface {name}: no such device; there are {}", known.join(", "));
            return Err(BadConfiguration(message).into());
        };
        require_servable(link, &links)?;
        require(!served.iter().any(|other: &Link| other.index == link.index), || {
            format!("--interface {name}: named twice")
        })?;
        served.push(link.clone());
    }
    Ok(served)
}

fn require_servable(link: &Link, links: &[Link]) -> Result<(), BadConfiguration> {
    let name = &link.name;
    require(name != "lo", || "--interface lo: the loopback device carries no packets of others".to_owned())?;
    require(link.kind.as_deref() != Some("bond"), || {
        format!("--interface {name}: it is a bond; name its members instead")
    })?;
    require(link.up, || format!("--interface {name}: it is down; bring it up with `ip link set {name} up`"))?;
    let is_vlan = |child: &&Link| child.parent == Some(link.index) && child.kind.as_deref() == Some("vlan");
    let child = links.iter().find(is_vlan);
    require(child.is_none() || !rx_vlan_offload(name), || {
        format!(
            "--interface {name}: it has the VLAN device {} and takes tags off by itself; switch that off with \
             `ethtool -K {name} rxvlan off`",
            child.map_or("", |child| child.name.as_str())
        )
    })
}

/// Asks whether a device strips VLAN tags; one that cannot be asked does not.
fn rx_vlan_offload(name: &str) -> bool {
    tidegate_dataplane::xdp::strips_vlan_tags(name).unwrap_or(false)
}
