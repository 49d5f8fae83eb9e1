//! The way back to the kernel: a veth pair into which workers send what is not ours.
//!
//! A frame that a worker sends on [`TRANSMIT_END`] comes out of [`RECEIVE_END`] as if from a wire; the
//! kernel's firewall, NAT, routes and sockets then treat it like any other. The far end asks nobody anything
//! (no ARP) and has no IPv6 of its own. Sending by AF_XDP in copy mode needs no NAPI on the far end, so GRO
//! stays as the kernel sets it.
//!
//! Which sources the far end takes (net/ipv4/fib_frontend.c, `__fib_validate_source`):
//! - any that some route leads to (`rp_filter=2`), and the box's own, which replies of a NodePort carry
//!   (`accept_local=1`);
//! - but on a device without an address a filter of 1 or 2 drops all, and the filter of `conf/all` cannot be
//!   taken back for one device: hence [`INNER_ADDRESS`].
//!
//! Limits: firewall rules see `tide1` as the incoming device, and a source to which no route leads is
//! dropped.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_dataplane::net::Mac;
use tidegate_dataplane::routes::DeviceIndex;

use crate::frame_limit::MULTI_BUFFER_MTU;
use crate::instance::{Change, Instance};
use crate::netlink::{Link, Netlink, VethPair};
use crate::sysctl;

/// The end that workers send on.
pub const TRANSMIT_END: &str = "tide0";

/// The end that the kernel receives on.
pub const RECEIVE_END: &str = "tide1";

/// The receiving end's address: within 127.0.0.0/8, which is the box's own anyway, so that no network is
/// hidden by it.
pub const INNER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, b'T');

/// How IPv6 is on for the receiving end: it hears, and neither says nor learns anything.
const SILENT_IPV6: [(&str, &str); 6] = [
    // `IN6_ADDR_GEN_MODE_NONE`, include/uapi/linux/if_link.h.
    ("addr_gen_mode", "1"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("router_solicitations", "0"),
    ("accept_redirects", "0"),
    ("accept_dad", "0"),
];

/// Too narrow for IPv6 (`IPV6_MIN_MTU` less one): the MTU that the pair is made with, since the kernel would join the
/// routers' groups in the same breath, before the device can be told to be without multicast.
const NARROW: u32 = 1279;

/// How long the kernel may take to put its multicast route on the receiving end once it is up: it does so when it
/// has looked at the carrier.
const MULTICAST_ROUTE_LIMIT: Duration = Duration::from_secs(2);
const MULTICAST_ROUTE_POLL: Duration = Duration::from_millis(5);

/// The pair, made and up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PuntDevice {
    /// The device that workers send on.
    pub transmit: DeviceIndex,
    /// Source address for frames sent there.
    pub transmit_mac: Mac,
    /// Destination address for frames sent there; the kernel drops frames to any other.
    pub receive_mac: Mac,
    /// MTU of both ends, in octets.
    pub mtu: u32,
}

impl PuntDevice {
    /// Makes the pair with one queue per worker, and the largest MTU of `served`, at most [`MULTI_BUFFER_MTU`]; notes
    /// it in the journal first.
    ///
    /// # Errors
    /// When a device of that name is not this instance's, or the kernel refuses a step.
    pub async fn create(
        netlink: &Netlink,
        instance: &mut Instance,
        workers: u32,
        served: &[Link],
    ) -> anyhow::Result<Self> {
        let marker = marker(instance);
        remove_leftover(netlink, &marker).await?;

        let served_mtu = served.iter().map(|link| link.mtu).max().context("no device is served")?;
        let mtu = served_mtu.min(MULTI_BUFFER_MTU);
        instance.record(Change::PuntDevice)?;
        let pair = VethPair { name: TRANSMIT_END, peer: RECEIVE_END, queues: workers, mtu: mtu.min(NARROW) };
        netlink.create_veth(pair).await?;

        let transmit = existing(netlink, TRANSMIT_END).await?;
        let receive = existing(netlink, RECEIVE_END).await?;
        for end in [&transmit, &receive] {
            netlink.set_alias(end, &marker).await?;
            netlink.set_mtu(end, mtu).await?;
        }
        disable_ipv6(TRANSMIT_END)?;
        let has_ipv6 = silence_ipv6(served)?;
        set_sysctl(&format!("ipv4/conf/{RECEIVE_END}/rp_filter"), "2")?;
        set_sysctl(&format!("ipv4/conf/{RECEIVE_END}/accept_local"), "1")?;
        netlink.add_inner_address(&receive, INNER_ADDRESS.into()).await?;
        for end in [&receive, &transmit] {
            netlink.set_up(end).await?;
        }
        if has_ipv6 {
            remove_multicast_route(netlink, &receive).await?;
        }
        Ok(Self { transmit: transmit.index, transmit_mac: transmit.mac, receive_mac: receive.mac, mtu })
    }

    /// Removes the pair that this instance's journal names; that it is gone is no error.
    ///
    /// One without any alias is taken too: a run may be killed between making the pair and marking it.
    pub(crate) async fn undo(netlink: &Netlink, instance: &Instance) -> anyhow::Result<()> {
        let Some(link) = netlink.link(TRANSMIT_END).await? else { return Ok(()) };
        let unmarked = link.alias.is_none() && link.kind.as_deref() == Some("veth");
        if unmarked || link.alias == Some(marker(instance)) {
            netlink.delete_link(&link).await?;
        }
        Ok(())
    }
}

/// The alias that says whose the pair is. Only one process at a time holds a state directory, so a pair that
/// names ours was left behind; one that names another may be in use.
fn marker(instance: &Instance) -> String {
    format!("tidegate punt device, state in {}", instance.directory().display())
}

async fn remove_leftover(netlink: &Netlink, marker: &str) -> anyhow::Result<()> {
    for name in [TRANSMIT_END, RECEIVE_END] {
        let Some(link) = netlink.link(name).await? else { continue };
        match link.alias.as_deref() {
            Some(alias) if alias == marker => netlink.delete_link(&link).await?,
            Some(alias) => bail!("device {name} exists and is not this instance's; its alias is {alias:?}"),
            None => bail!("device {name} exists and is not this instance's; it has no alias"),
        }
    }
    Ok(())
}

async fn existing(netlink: &Netlink, name: &str) -> anyhow::Result<Link> {
    netlink.link(name).await?.with_context(|| format!("device {name} vanished while it was being set up"))
}

/// A kernel without IPv6 has nothing to switch off; nor has a device that is too narrow for it.
fn disable_ipv6(device: &str) -> anyhow::Result<()> {
    if has_ipv6_settings(device) {
        set_sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
    }
    Ok(())
}

/// Has the receiving end take IPv6 and say nothing; says whether it takes it. Where no served device has IPv6, it
/// stays off.
fn silence_ipv6(served: &[Link]) -> anyhow::Result<bool> {
    if !has_ipv6_settings(RECEIVE_END) || !served.iter().any(|link| is_ipv6_on(&link.name)) {
        disable_ipv6(RECEIVE_END)?;
        return Ok(false);
    }
    for (name, value) in SILENT_IPV6 {
        set_sysctl(&format!("ipv6/conf/{RECEIVE_END}/{name}"), value)?;
    }
    set_sysctl(&format!("ipv6/conf/{RECEIVE_END}/disable_ipv6"), "0")?;
    Ok(true)
}

fn has_ipv6_settings(device: &str) -> bool {
    sysctl::path(&format!("ipv6/conf/{device}")).exists()
}

fn is_ipv6_on(device: &str) -> bool {
    let disabled = fs::read_to_string(sysctl::path(&format!("ipv6/conf/{device}/disable_ipv6")));
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

/// Takes away `ff00::/8` by the receiving end, which would get the box's own multicast packets that name no device.
async fn remove_multicast_route(netlink: &Netlink, receive: &Link) -> anyhow::Result<()> {
    let removed = async {
        while !netlink.remove_multicast_route(receive).await? {
            tokio::time::sleep(MULTICAST_ROUTE_POLL).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(MULTICAST_ROUTE_LIMIT, removed).await {
        Ok(removed) => removed,
        Err(_) => {
            tracing::warn!("device {RECEIVE_END}: no route of ff00::/8 to remove");
            Ok(())
        }
    }
}

/// Writes a setting below `/proc/sys/net`, which shows the namespace of the calling thread.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = sysctl::path(name);
    fs::write(&path, value).map_err(|error| {
        io::Error::new(error.kind(), format!("{}: cannot set {value}: {error}", path.display()))
    })
}
