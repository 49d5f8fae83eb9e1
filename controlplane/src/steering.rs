//! The XDP program's maps, kept equal to what publication and topology want.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tidegate_dataplane::net::{Port, Protocol};
use tidegate_dataplane::xdp::Steering;

use crate::publish;
use crate::tables::EndpointKey;

/// The loaded program with the own addresses that it knows.
pub struct DeviceSteering {
    /// The loaded program.
    pub program: Steering,
    own: BTreeSet<Ipv4Addr>,
}

impl DeviceSteering {
    /// Takes a loaded program that knows nothing yet.
    #[must_use]
    pub const fn new(program: Steering) -> Self {
        Self { program, own: BTreeSet::new() }
    }

    /// Makes the program know exactly these as the box's own addresses.
    pub fn replace_own_addresses(&mut self, addresses: &BTreeSet<IpAddr>) {
        let next: BTreeSet<Ipv4Addr> = addresses.iter().filter_map(|address| ipv4(*address)).collect();
        for address in next.difference(&self.own) {
            if let Err(error) = self.program.insert_own_address(*address) {
                tracing::error!("own address {address}: {error}");
            }
        }
        for address in self.own.difference(&next) {
            if let Err(error) = self.program.remove_own_address(*address) {
                tracing::error!("own address {address}: {error}");
            }
        }
        self.own = next;
    }

    /// Leaves packets to a DNS listener to the kernel, whatever Services say.
    ///
    /// # Errors
    /// The program's.
    pub fn insert_listener(&mut self, listener: SocketAddr) -> anyhow::Result<()> {
        if let Some(address) = ipv4(listener.ip()) {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                self.program.insert_listener(address, Port::new(listener.port()), protocol)?;
            }
        }
        Ok(())
    }

    /// Takes packets to every address of a service CIDR: those that no Service has are dropped (K23).
    ///
    /// # Errors
    /// The program's.
    pub fn insert_service_cidr(&mut self, cidr: &IpNet) -> anyhow::Result<()> {
        if let IpNet::V4(cidr) = cidr {
            self.program.insert_vip(cidr.network(), cidr.prefix_len())?;
        }
        Ok(())
    }

    /// Returns what the program counted, by reason.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.program.counters().map(|counters| counters.to_vec()).unwrap_or_default()
    }
}

impl publish::Steering for DeviceSteering {
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        if let Some(address) = ipv4(endpoint.address) {
            self.program.insert_endpoint(address, endpoint.port, endpoint.protocol)?;
        }
        Ok(())
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        if let Some(address) = ipv4(endpoint.address) {
            self.program.remove_endpoint(address, endpoint.port, endpoint.protocol)?;
        }
        Ok(())
    }

    fn insert_virtual_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        if let Some(address) = ipv4(address) {
            self.program.insert_vip(address, 32)?;
        }
        Ok(())
    }

    fn remove_virtual_address(&mut self, address: IpAddr) -> anyhow::Result<()> {
        if let Some(address) = ipv4(address) {
            self.program.remove_vip(address, 32)?;
        }
        Ok(())
    }
}

/// IPv6 stays the kernel's for now.
const fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
