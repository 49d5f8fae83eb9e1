//! `--announce l2`: answers ARP and Neighbor Solicitations for virtual addresses that lie in a network of a served
//! device, and says to all on that link that they are here.
//!
//! The kernel's proxy entries would not do: they answer for what lies behind another device only, and with forwarding
//! on (net/ipv4/arp.c, `arp_process`). So packet sockets hear the requests, which the XDP program passes. `arp` and
//! `nd` are the messages, without a socket; `wire` the sockets; here is who is answered for what.
//!
//! Limit: nothing elects one of several gateways on a link; one at a time announces.

mod arp;
mod nd;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use socket2::Socket;
use tidegate_dataplane::net::{Mac, Prefix};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::snapshot::Device;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::wire::PacketSocket;

/// How often an address is announced, and how long lies between.
///
/// Source: RFC 5227 §1.1, `ANNOUNCE_NUM` and `ANNOUNCE_INTERVAL`; RFC 4861 §10 allows as much
/// (`MAX_NEIGHBOR_ADVERTISEMENT` 3, `RETRANS_TIMER` 1 s).
const ANNOUNCEMENTS: u32 = 2;
const INTERVAL: Duration = Duration::from_secs(2);
/// How long until sockets are tried again on a device where they could not be had.
const RETRY: Duration = Duration::from_secs(1);
/// More than a request is long.
const REQUEST_BYTES: usize = 256;

/// What is answered for on each device, and with which MAC.
pub type Announced = BTreeMap<DeviceIndex, (Mac, BTreeSet<IpAddr>)>;

/// Returns what is to be answered for: on each device the virtual addresses that lie in its networks, but for the
/// box's own, which the kernel answers for.
///
/// `within` lists the virtual addresses of a network. Costs what it lists.
pub fn announced<I: IntoIterator<Item = IpAddr>>(
    devices: &[Device],
    own: &BTreeSet<IpAddr>,
    within: impl Fn(Prefix) -> I,
) -> Announced {
    let of = |device: &Device| {
        let addresses = device.addresses.iter().flat_map(|network| within(*network));
        let addresses: BTreeSet<IpAddr> = addresses.filter(|address| !own.contains(address)).collect();
        (device.index, (device.mac, addresses))
    };
    devices.iter().map(of).filter(|(_, (_, addresses))| !addresses.is_empty()).collect()
}

/// The task that answers; ends when dropped.
#[derive(Debug)]
pub struct Announcer {
    wanted: watch::Sender<Announced>,
    task: JoinHandle<()>,
}

impl Announcer {
    /// Starts with nothing to answer for; must be called within a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        let (wanted, told) = watch::channel(Announced::new());
        Self { wanted, task: tokio::spawn(follow(told)) }
    }

    /// Answers for these from now on; those that are new, or have another MAC, are announced.
    pub fn set(&self, announced: Announced) {
        self.wanted.send_if_modified(|current| {
            let is_new = *current != announced;
            *current = announced;
            is_new
        });
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One device's sockets.
struct Link {
    arp: PacketSocket,
    solicitations: PacketSocket,
    groups: Socket,
}

impl Link {
    fn open(device: DeviceIndex) -> std::io::Result<Self> {
        Ok(Self {
            arp: PacketSocket::arp(device)?,
            solicitations: PacketSocket::solicitations(device)?,
            groups: wire::group_member()?,
        })
    }

    /// Answers the next request, if it is for one of these; an error means that the device is gone or down.
    async fn answer(&self, mac: Mac, addresses: &BTreeSet<IpAddr>) -> std::io::Result<()> {
        let (mut arp, mut nd) = ([0; REQUEST_BYTES], [0; REQUEST_BYTES]);
        let is_ours = |address: IpAddr| addresses.contains(&address);
        tokio::select! {
            octets = self.arp.receive(&mut arp) => {
                let frame = arp.get(..octets?).unwrap_or_default();
                if let Some(answer) = arp::answer(frame, mac, |address| is_ours(address.into())) {
                    self.arp.send(&answer)?;
                }
            }
            octets = self.solicitations.receive(&mut nd) => {
                let frame = nd.get(..octets?).unwrap_or_default();
                if let Some(answer) = nd::answer(frame, mac, |address| is_ours(address.into())) {
                    self.solicitations.send(&answer)?;
                }
            }
        }
        Ok(())
    }

    fn announce(&self, mac: Mac, address: IpAddr) {
        let sent = match address {
            IpAddr::V4(address) => self.arp.send(&arp::announcement(mac, address)),
            IpAddr::V6(address) => self.solicitations.send(&nd::announcement(mac, address)),
        };
        if let Err(error) = sent {
            tracing::warn!("--announce l2: {address}: {error}");
        }
    }

    fn set_membership(&self, device: DeviceIndex, address: IpAddr, is_member: bool) {
        if let IpAddr::V6(address) = address {
            wire::set_membership(&self.groups, device, address, is_member);
        }
    }
}

/// An address that is to be announced so many times more.
struct Announcement {
    device: DeviceIndex,
    address: IpAddr,
    left: u32,
}

/// What the task knows.
#[derive(Default)]
struct Answering {
    links: BTreeMap<DeviceIndex, Link>,
    announced: Announced,
    announcements: Vec<Announcement>,
    retry_at: Option<Instant>,
}

async fn follow(mut told: watch::Receiver<Announced>) {
    let mut answering = Answering::default();
    let mut announce = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = told.borrow_and_update().clone();
                answering.take_up(wanted);
                announce.reset_immediately();
            }
            lost = answer(&answering.links, &answering.announced) => {
                answering.links.remove(&lost);
                answering.retry_at = Some(Instant::now() + RETRY);
            }
            () = until(answering.retry_at) => {
                answering.open_links();
                announce.reset_immediately();
            }
            _ = announce.tick(), if !answering.announcements.is_empty() => answering.announce(),
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Answers on all links until one is lost, which it returns.
async fn answer(links: &BTreeMap<DeviceIndex, Link>, announced: &Announced) -> DeviceIndex {
    let answering = links.iter().filter_map(|(device, link)| {
        let (mac, addresses) = announced.get(device)?;
        Some(async move {
            let error = loop {
                if let Err(error) = link.answer(*mac, addresses).await {
                    break error;
                }
            };
            tracing::debug!("--announce l2: device {}: {error}", device.0);
            *device
        })
    });
    let mut answering: FuturesUnordered<_> = answering.collect();
    match answering.next().await {
        Some(lost) => lost,
        None => std::future::pending().await,
    }
}

impl Answering {
    fn take_up(&mut self, wanted: Announced) {
        let before = std::mem::replace(&mut self.announced, wanted);
        self.links.retain(|device, _| self.announced.contains_key(device));
        for (device, link) in &self.links {
            let none = BTreeSet::new();
            let (old_mac, old) = before.get(device).map_or((None, &none), |(mac, old)| (Some(mac), old));
            let Some((mac, new)) = self.announced.get(device) else { continue };
            old.difference(new).for_each(|address| link.set_membership(*device, *address, false));
            new.difference(old).for_each(|address| link.set_membership(*device, *address, true));
            for address in new.iter().filter(|address| old_mac != Some(mac) || !old.contains(*address)) {
                self.announcements.push(Announcement {
                    device: *device,
                    address: *address,
                    left: ANNOUNCEMENTS,
                });
            }
        }
        let announced = &self.announced;
        let is_wanted = |own: &Announcement| {
            announced.get(&own.device).is_some_and(|(_, addresses)| addresses.contains(&own.address))
        };
        self.announcements.retain(is_wanted);
        self.open_links();
    }

    /// Opens the sockets of devices that have none; all addresses there are announced.
    fn open_links(&mut self) {
        self.retry_at = None;
        for (device, (_, addresses)) in &self.announced {
            if self.links.contains_key(device) {
                continue;
            }
            match Link::open(*device) {
                Ok(link) => {
                    addresses.iter().for_each(|address| link.set_membership(*device, *address, true));
                    let announcement = |address: &IpAddr| Announcement {
                        device: *device,
                        address: *address,
                        left: ANNOUNCEMENTS,
                    };
                    self.announcements.extend(addresses.iter().map(announcement));
                    self.links.insert(*device, link);
                }
                Err(error) => {
                    tracing::warn!("--announce l2: device {}: {error}", device.0);
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn announce(&mut self) {
        for Announcement { device, address, left } in &mut self.announcements {
            if let (Some(link), Some((mac, _))) = (self.links.get(device), self.announced.get(device)) {
                link.announce(*mac, *address);
                *left -= 1;
            }
        }
        self.announcements.retain(|announcement| announcement.left > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, length: u8) -> Prefix {
        Prefix { address: address.parse().unwrap(), length }
    }

    #[test]
    fn what_lies_in_a_network_of_a_device_is_announced_there_but_for_the_boxs_own() {
        let device = |index, networks: &[Prefix]| Device {
            index: DeviceIndex(index),
            mac: Mac([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            addresses: networks.into(),
        };
        let devices = [
            device(2, &[prefix("10.1.0.1", 24), prefix("fd00:1::1", 64)]),
            device(3, &[prefix("10.244.0.1", 24)]),
        ];
        let own = BTreeSet::from(["10.1.0.1".parse().unwrap(), "10.1.0.50".parse().unwrap()]);
        let virtual_addresses = ["10.1.0.100", "10.1.0.50", "10.96.0.1", "fd00:1::100", "fd00:96::1"];
        let within = |network: Prefix| {
            let all = virtual_addresses.iter().map(|address| address.parse().unwrap());
            all.filter(|address| network.contains(*address)).collect::<Vec<IpAddr>>()
        };
        let expected = BTreeSet::from(["10.1.0.100".parse().unwrap(), "fd00:1::100".parse().unwrap()]);
        let announced = announced(&devices, &own, within);
        assert_eq!(announced, BTreeMap::from([(DeviceIndex(2), (Mac([2, 0, 0, 0, 0, 2]), expected))]));
    }
}
