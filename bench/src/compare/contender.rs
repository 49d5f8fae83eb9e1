//! Who is compared, and how each is set up in the gateway.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::traffic::plan::Kind;

/// What stands between client and pods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Carrier {
    /// Nothing: client and pods on one wire. What generator and sink cost by themselves.
    Wire,
    /// The product.
    Tidegate,
    /// A loop on our socket layer that rewrites the MAC addresses and knows nothing else.
    Bare,
    /// An experiment: known flows rewritten and redirected in XDP.
    FlowEntries,
    /// DPDK's testpmd on AF_XDP, rewriting the MAC addresses.
    Testpmd,
    /// The kernel's forwarding, without any rule and without connection tracking.
    Forward,
    /// The kernel with the rules of kube-proxy in nftables mode.
    Nftables,
    /// The kernel with the rules of kube-proxy in iptables mode.
    Iptables,
}

/// One of those that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Contender {
    /// What it is.
    pub carrier: Carrier,
    /// How many Services it has.
    pub services: u32,
    /// Whether the kernel forwards on the other core (receive packet steering) and not on the sender's.
    pub steered: bool,
}

impl Contender {
    /// Whether it translates addresses, and so knows connections.
    #[must_use]
    pub const fn knows_services(self) -> bool {
        matches!(self.carrier, Carrier::Tidegate | Carrier::Nftables | Carrier::Iptables)
    }

    /// Whether the kernel does the work.
    #[must_use]
    pub const fn is_kernel(self) -> bool {
        matches!(self.carrier, Carrier::Forward | Carrier::Nftables | Carrier::Iptables)
    }

    /// Whether a kind of traffic says something about it.
    #[must_use]
    pub const fn takes(self, kind: Kind) -> bool {
        match kind {
            Kind::EstablishedUdp | Kind::EstablishedTcp => true,
            Kind::NewUdp => self.knows_services(),
            Kind::Connections => self.knows_services() && self.services > 1,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self.carrier {
            Carrier::Wire => "generator and sink alone, nothing between them",
            Carrier::Tidegate => "this project, one worker",
            Carrier::Bare => "bare AF_XDP loop on our sockets: rewrites MAC addresses, tracks nothing",
            Carrier::FlowEntries => {
                "experiment: XDP rewrites and redirects known flows by entries a worker would install"
            }
            Carrier::Testpmd => "dpdk-testpmd over net_af_xdp: rewrites MAC addresses, tracks nothing",
            Carrier::Forward => "kernel routing, no rules, no connection tracking",
            Carrier::Nftables => "kernel with kube-proxy's nftables rules",
            Carrier::Iptables => "kernel with kube-proxy's iptables rules (iptables-nft)",
        }
    }
}

const NAMES: [(&str, Carrier); 8] = [
    ("wire", Carrier::Wire),
    ("tidegate", Carrier::Tidegate),
    ("bare", Carrier::Bare),
    ("xdp", Carrier::FlowEntries),
    ("testpmd", Carrier::Testpmd),
    ("kernel", Carrier::Forward),
    ("nftables", Carrier::Nftables),
    ("iptables", Carrier::Iptables),
];

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not NAME[:SERVICES][:steered], with NAME of {:?}",
                NAMES.map(|(name, _)| name)
            )
        };
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let carrier =
            NAMES.iter().find(|(known, _)| *known == name).map(|(_, carrier)| *carrier).ok_or_else(wrong)?;
        let mut contender = Self { carrier, services: 1, steered: false };
        for word in words {
            match (word, word.parse()) {
                ("steered", _) if contender.is_kernel() => contender.steered = true,
                // As many as the network of ClusterIPs has in rows of 250.
                (_, Ok(services @ 1..=60_000)) if contender.knows_services() => contender.services = services,
                _ => return Err(wrong()),
            }
        }
        Ok(contender)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, carrier)| *carrier == self.carrier).map_or("?", |(name, _)| name);
        f.write_str(name)?;
        if self.knows_services() {
            write!(f, ":{}", self.services)?;
        }
        if self.steered {
            f.write_str(":steered")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again_and_nonsense_is_not() {
        for text in
            ["wire", "tidegate:5000", "bare", "testpmd", "kernel", "kernel:steered", "nftables:100:steered"]
        {
            assert_eq!(text.parse::<Contender>().unwrap().to_string(), text);
        }
        for text in ["", "tidegate:0", "tidegate:steered", "bare:5", "nginx", "nftables:1000000", "wire:"] {
            assert!(text.parse::<Contender>().is_err(), "{text}");
        }
    }
}
