//! Which entries of the XDP program the frontends of Services need: pure.
//!
//! A virtual address is one entry, whatever ports Services have there. At the box's own addresses only sockets are
//! taken, so that all else stays the kernel's (design decision 1): a NodePort is one at each node address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::services::Frontend;

/// An entry of the XDP program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entry {
    /// All packets to an address.
    Address(IpAddr),
    /// Packets to a port of an own address.
    Socket(IpAddr, Protocol, Port),
}

/// The frontends that are to be taken, and the addresses that decide by which entries.
#[derive(Debug, Default)]
pub struct Frontends {
    /// `--nodeport-addresses`; all own addresses but loopback and link-local ones, if there are none.
    networks: Vec<IpNet>,
    own: BTreeSet<IpAddr>,
    present: BTreeSet<Frontend>,
    /// How many frontends need each entry.
    needed: BTreeMap<Entry, usize>,
}

/// Entries that come and that go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Entries to make.
    pub inserted: Vec<Entry>,
    /// Entries to take out.
    pub removed: Vec<Entry>,
}

impl Frontends {
    /// Begins without any, for NodePorts on own addresses in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, ..Self::default() }
    }

    /// Adds a frontend.
    pub fn insert(&mut self, frontend: Frontend) -> Changes {
        let mut changes = Changes::default();
        if self.present.insert(frontend) {
            self.entries(frontend).into_iter().for_each(|entry| self.need(entry, &mut changes));
        }
        changes
    }

    /// Takes a frontend out.
    pub fn remove(&mut self, frontend: Frontend) -> Changes {
        let mut changes = Changes::default();
        if self.present.remove(&frontend) {
            self.entries(frontend).into_iter().for_each(|entry| self.release(entry, &mut changes));
        }
        changes
    }

    /// Replaces the box's own addresses. Costs all frontends but ClusterIPs.
    pub fn replace_own(&mut self, own: &BTreeSet<IpAddr>) -> Changes {
        let mut changes = Changes::default();
        if *own == self.own {
            return changes;
        }
        let sockets = |of: &Self| -> Vec<Entry> {
            let sockets = of.present.iter().filter(|one| matches!(one, Frontend::Socket(..)));
            sockets.flat_map(|frontend| of.entries(*frontend)).collect()
        };
        let before = sockets(self);
        self.own.clone_from(own);
        sockets(self).into_iter().for_each(|entry| self.need(entry, &mut changes));
        before.into_iter().for_each(|entry| self.release(entry, &mut changes));
        changes
    }

    /// Returns the own addresses that have NodePorts, in order (K16).
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_node = |address: &&IpAddr| match address {
            _ if !self.networks.is_empty() => self.networks.iter().any(|network| network.contains(*address)),
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        };
        self.own.iter().filter(is_node).copied()
    }

    fn entries(&self, frontend: Frontend) -> Vec<Entry> {
        match frontend {
            Frontend::Address(address) => vec![Entry::Address(address)],
            Frontend::Socket(address, protocol, port) if address.is_unspecified() => self
                .node_addresses()
                .filter(|node| node.is_ipv4() == address.is_ipv4())
                .map(|node| Entry::Socket(node, protocol, port))
                .collect(),
            Frontend::Socket(address, protocol, port) if self.own.contains(&address) => {
                vec![Entry::Socket(address, protocol, port)]
            }
            Frontend::Socket(address, ..) => vec![Entry::Address(address)],
        }
    }

    fn need(&mut self, entry: Entry, changes: &mut Changes) {
        let frontends = self.needed.entry(entry).or_default();
        *frontends += 1;
        if *frontends == 1 {
            changes.inserted.push(entry);
        }
    }

    fn release(&mut self, entry: Entry, changes: &mut Changes) {
        let Some(frontends) = self.needed.get_mut(&entry) else { return };
        *frontends -= 1;
        if *frontends == 0 {
            self.needed.remove(&entry);
            changes.removed.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn socket(at: &str, port: u16) -> Frontend {
        Frontend::Socket(address(at), Protocol::Tcp, Port::new(port))
    }

    fn entry(at: &str, port: u16) -> Entry {
        Entry::Socket(address(at), Protocol::Tcp, Port::new(port))
    }

    fn own(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|text| address(text)).collect()
    }

    fn inserted(entries: &[Entry]) -> Changes {
        Changes { inserted: entries.to_vec(), removed: Vec::new() }
    }

    fn removed(entries: &[Entry]) -> Changes {
        Changes { inserted: Vec::new(), removed: entries.to_vec() }
    }

    #[test]
    fn k16_a_node_port_is_at_each_node_address_of_its_family_and_never_on_loopback() {
        let mut frontends = Frontends::default();
        frontends.replace_own(&own(&[
            "127.0.0.1",
            "10.1.0.1",
            "192.0.2.1",
            "169.254.0.1",
            "fd00::1",
            "fe80::1",
        ]));
        let port = socket("0.0.0.0", 30_080);
        let both = [entry("10.1.0.1", 30_080), entry("192.0.2.1", 30_080)];
        assert_eq!(frontends.insert(port), inserted(&both));
        assert_eq!(frontends.insert(port), Changes::default(), "once");
        assert_eq!(frontends.insert(socket("::", 30_080)), inserted(&[entry("fd00::1", 30_080)]));
        let changes = frontends.replace_own(&own(&["192.0.2.1", "198.51.100.1"]));
        assert_eq!(changes.inserted, [entry("198.51.100.1", 30_080)]);
        assert_eq!(changes.removed, [entry("10.1.0.1", 30_080), entry("fd00::1", 30_080)]);
        let left = [entry("192.0.2.1", 30_080), entry("198.51.100.1", 30_080)];
        assert_eq!(frontends.remove(port), removed(&left));
    }

    #[test]
    fn k16_nodeport_addresses_are_the_own_ones_in_the_networks_of_the_flag() {
        let mut frontends =
            Frontends::new(vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()]);
        frontends.replace_own(&own(&["127.0.0.1", "10.1.0.1", "192.0.2.1"]));
        assert!(frontends.node_addresses().eq([address("127.0.0.1"), address("192.0.2.1")]));
    }

    #[test]
    fn k17_an_external_address_is_taken_whole_unless_it_is_the_boxs_own() {
        let mut frontends = Frontends::default();
        let (web, tls) = (socket("203.0.113.5", 80), socket("203.0.113.5", 443));
        let whole = Entry::Address(address("203.0.113.5"));
        assert_eq!(frontends.insert(web), inserted(&[whole]));
        assert_eq!(frontends.insert(tls), Changes::default(), "the address is taken already");
        let changes = frontends.replace_own(&own(&["203.0.113.5"]));
        assert_eq!(changes.inserted, [entry("203.0.113.5", 80), entry("203.0.113.5", 443)]);
        assert_eq!(changes.removed, [whole]);
        assert_eq!(frontends.remove(web), removed(&[entry("203.0.113.5", 80)]));
        assert_eq!(frontends.replace_own(&own(&[])).inserted, [whole]);
        assert_eq!(frontends.remove(tls), removed(&[whole]));
    }
}
