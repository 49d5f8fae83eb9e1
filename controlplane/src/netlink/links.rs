//! Network devices.

use anyhow::Context as _;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use tidegate_dataplane::net::Mac;
use tidegate_dataplane::routes::DeviceIndex;

use super::Netlink;

/// A network device of this namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The kernel's number for it.
    pub index: DeviceIndex,
    /// Its name, at most 15 octets.
    pub name: String,
    /// Its hardware address; zero if it has none of Ethernet's form.
    pub mac: Mac,
    /// Largest payload of a frame, in octets.
    pub mtu: u32,
    /// Set up by its administrator (`IFF_UP`); says nothing of the carrier.
    pub up: bool,
    /// The driver's kind (`veth`, `vlan`, `bond`), absent for hardware.
    pub kind: Option<String>,
    /// The bridge, bond or VRF it is a port of.
    pub master: Option<DeviceIndex>,
    /// The device beneath, as a VLAN has one; absent if it lies in another namespace.
    pub parent: Option<DeviceIndex>,
    /// The other end of a veth pair; absent if it lies in another namespace.
    pub peer: Option<DeviceIndex>,
    /// Free text of the administrator (`ip link set … alias`).
    pub alias: Option<String>,
    /// The kernel's number of the XDP program attached to it.
    pub xdp_program: Option<u32>,
}

impl Link {
    /// Returns a device of which nothing more is known, and which stands alone.
    fn unknown(index: u32) -> Self {
        Self {
            index: DeviceIndex(index),
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
            up: false,
            kind: None,
            master: None,
            parent: None,
            peer: None,
            alias: None,
            xdp_program: None,
        }
    }

    /// Returns a device of Ethernet that is up and stands alone.
    #[cfg(test)]
    pub(crate) fn ethernet(index: u32, name: &str) -> Self {
        Self { name: name.into(), mtu: 1500, up: true, ..Self::unknown(index) }
    }

    fn parse(message: LinkMessage) -> Self {
        let mut link = Self::unknown(message.header.index);
        link.up = message.header.flags.contains(LinkFlags::Up);
        let (mut lower, mut lower_is_elsewhere) = (None, false);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(octets) => link.mac = octets.try_into().map(Mac).unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(master) => link.master = Some(DeviceIndex(master)),
                LinkAttribute::Link(index) => lower = Some(DeviceIndex(index)),
                LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind),
                LinkAttribute::Xdp(attributes) => link.xdp_program = attributes.iter().find_map(xdp_program),
                _ => {}
            }
        }
        let lower = lower.filter(|_| !lower_is_elsewhere);
        if link.kind.as_deref() == Some("veth") {
            link.peer = lower;
        } else {
            link.parent = lower;
        }
        link
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn xdp_program(attribute: &LinkXdp) -> Option<u32> {
    match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    }
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of one end.
    pub name: &'a str,
    /// Name of the other end.
    pub peer: &'a str,
    /// Receive queues and transmit queues of each end.
    pub queues: u32,
    /// MTU of both ends, in octets.
    pub mtu: u32,
}

impl Netlink {
    /// Reads all devices.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn links(&self) -> anyhow::Result<Vec<Link>> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await;
        let parse = |message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
            _ => None,
        };
        Ok(messages.context("dump of the network devices")?.into_iter().filter_map(parse).collect())
    }

    /// Reads the device of that name.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn link(&self, name: &str) -> anyhow::Result<Option<Link>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// Makes a veth pair, both ends down, without ARP and ND (`IFF_NOARP`) and without multicast (`IFF_MULTICAST`).
    ///
    /// # Errors
    /// When one of the names is taken, or the kernel has no veth.
    pub async fn create_veth(&self, pair: VethPair<'_>) -> anyhow::Result<()> {
        let end = |name: &str| {
            let mut message = LinkMessage::default();
            message.header.flags = LinkFlags::Noarp;
            message.header.change_mask = LinkFlags::Noarp | LinkFlags::Multicast;
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(pair.mtu),
                LinkAttribute::NumTxQueues(pair.queues),
                LinkAttribute::NumRxQueues(pair.queues),
            ];
            message
        };
        let mut message = end(pair.name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(pair.peer)))),
        ]));
        let created = self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await;
        created.with_context(|| format!("devices {} and {}: cannot make the veth pair", pair.name, pair.peer))
    }

    /// Deletes a device; deleting one end of a veth pair deletes both.
    ///
    /// # Errors
    /// When it does not exist, or is hardware.
    pub async fn delete_link(&self, link: &Link) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index.0;
        let deleted = self.change(RouteNetlinkMessage::DelLink(message), 0).await;
        deleted.with_context(|| format!("device {}: cannot delete it", link.name))
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// When it does not exist, or its driver refuses.
    pub async fn set_up(&self, link: &Link) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set(link, message).await.with_context(|| format!("device {}: cannot set it up", link.name))
    }

    /// Sets the free text of a device, at most 255 octets.
    ///
    /// # Errors
    /// When the device does not exist.
    pub async fn set_alias(&self, link: &Link, alias: &str) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.set(link, message)
            .await
            .with_context(|| format!("device {}: cannot set alias {alias:?}", link.name))
    }

    /// Sets the MTU of a device, in octets.
    ///
    /// # Errors
    /// When the device does not exist or its driver cannot have that MTU.
    pub async fn set_mtu(&self, link: &Link, mtu: u32) -> anyhow::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set(link, message).await.with_context(|| format!("device {}: cannot set MTU {mtu}", link.name))
    }

    async fn set(&self, link: &Link, mut message: LinkMessage) -> std::io::Result<()> {
        message.header.index = link.index.0;
        self.change(RouteNetlinkMessage::SetLink(message), 0).await
    }
}
