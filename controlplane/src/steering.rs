//! The XDP program's maps, kept equal to what publication and topology want.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tidegate_dataplane::clock::Now;
use tidegate_dataplane::net::{Mac, Port, Protocol};
use tidegate_dataplane::routes::DeviceIndex;
use tidegate_dataplane::services::Frontend;
use tidegate_dataplane::snapshot::Device;
use tidegate_dataplane::xdp::{HEARTBEAT_LIMIT, Steering};

use crate::frontends::{Changes, Entry, Frontends};
use crate::publish;
use crate::tables::EndpointKey;

/// The loaded program with the own addresses and the MACs that we told it.
pub struct DeviceSteering {
    /// The loaded program.
    pub program: Steering,
    own: BTreeSet<IpAddr>,
    /// What is taken for Services.
    pub frontends: Frontends,
    macs: BTreeMap<DeviceIndex, Mac>,
}

/// A worker that the program passes by, because it gave no sign of life for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SilentWorker {
    /// Its number.
    pub number: usize,
    /// How old its last heartbeat is; `None` if there was none.
    pub age: Option<Duration>,
}

impl SilentWorker {
    /// Finds the first that is silent, by the ages of all workers' heartbeats.
    fn find(ages: impl IntoIterator<Item = Option<Duration>>) -> Option<Self> {
        let mut workers = ages.into_iter().enumerate();
        let silent = workers.find(|(_, age)| age.is_none_or(|age| age >= HEARTBEAT_LIMIT));
        silent.map(|(number, age)| Self { number, age })
    }
}

impl fmt::Display for SilentWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age {
            Some(age) => write!(f, "worker {}: last heartbeat {} ms ago", self.number, age.as_millis()),
            None => write!(f, "worker {}: no heartbeat yet", self.number),
        }
    }
}

impl DeviceSteering {
    /// Takes a loaded program that knows nothing yet.
    #[must_use]
    pub fn new(program: Steering, frontends: Frontends) -> Self {
        Self { program, own: BTreeSet::new(), frontends, macs: BTreeMap::new() }
    }

    /// Makes the program take the frames that bear the MACs which these devices have now.
    pub fn follow_macs(&mut self, devices: &[Device]) {
        for Device { index, mac, .. } in devices {
            if self.macs.get(index) == Some(mac) {
                continue;
            }
            match self.program.set_mac(*index, *mac) {
                Ok(()) => drop(self.macs.insert(*index, *mac)),
                Err(error) => tracing::error!("MAC {mac}: {error}"),
            }
        }
    }

    /// Takes the program off a device that is gone.
    pub fn leave(&mut self, device: DeviceIndex, name: &str) {
        self.macs.remove(&device);
        if let Err(error) = self.program.detach(device) {
            tracing::error!("device {name}: {error}");
        }
    }

    /// Returns the first of so many workers whose queues the program passes to the kernel, if there is one.
    #[must_use]
    pub fn silent_worker(&self, workers: usize, now: Now) -> Option<SilentWorker> {
        let age = |worker| self.program.heartbeat(worker).ok()?.age(now);
        SilentWorker::find((0..workers as u32).map(age))
    }

    /// Makes the program know exactly these as the box's own addresses.
    pub fn replace_own_addresses(&mut self, addresses: &BTreeSet<IpAddr>) {
        for address in addresses.difference(&self.own) {
            if let Err(error) = self.program.insert_own_address(*address) {
                tracing::error!("own address {address}: {error}");
            }
        }
        for address in self.own.difference(addresses) {
            if let Err(error) = self.program.remove_own_address(*address) {
                tracing::error!("own address {address}: {error}");
            }
        }
        self.own.clone_from(addresses);
        let Changes { inserted, removed } = self.frontends.replace_own(addresses);
        for entry in inserted {
            if let Err(error) = self.insert_entry(entry) {
                tracing::error!("{entry:?}: {error:#}");
            }
        }
        for entry in removed {
            if let Err(error) = self.remove_entry(entry) {
                tracing::error!("{entry:?}: {error:#}");
            }
        }
    }

    fn insert_entry(&mut self, entry: Entry) -> anyhow::Result<()> {
        match entry {
            Entry::Address(address) => self.program.insert_vip(address, host_length(address))?,
            Entry::Socket(address, protocol, port) => self.program.insert_served(address, port, protocol)?,
        }
        Ok(())
    }

    fn remove_entry(&mut self, entry: Entry) -> anyhow::Result<()> {
        match entry {
            Entry::Address(address) => self.program.remove_vip(address, host_length(address))?,
            Entry::Socket(address, protocol, port) => self.program.remove_served(address, port, protocol)?,
        }
        Ok(())
    }

    /// Leaves packets to a DNS listener to the kernel, whatever Services say.
    ///
    /// # Errors
    /// The program's.
    pub fn insert_listener(&mut self, listener: SocketAddr) -> anyhow::Result<()> {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            self.program.insert_listener(listener.ip(), Port::new(listener.port()), protocol)?;
        }
        Ok(())
    }

    /// Takes packets to every address of a service CIDR: those that no Service has are dropped (K23).
    ///
    /// # Errors
    /// The program's.
    pub fn insert_service_cidr(&mut self, cidr: &IpNet) -> anyhow::Result<()> {
        Ok(self.program.insert_vip(cidr.network(), cidr.prefix_len())?)
    }

    /// Returns what the program counted, by reason.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.program.counters().map(|counters| counters.to_vec()).unwrap_or_default()
    }
}

impl publish::Steering for DeviceSteering {
    fn insert_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        let EndpointKey { address, port, protocol } = *endpoint;
        Ok(self.program.insert_endpoint(address, port, protocol)?)
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointKey) -> anyhow::Result<()> {
        let EndpointKey { address, port, protocol } = *endpoint;
        Ok(self.program.remove_endpoint(address, port, protocol)?)
    }

    fn insert_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        let inserted = self.frontends.insert(frontend).inserted;
        let failed = inserted.into_iter().find_map(|entry| self.insert_entry(entry).err());
        let Some(error) = failed else { return Ok(()) };
        for entry in self.frontends.remove(frontend).removed {
            // It may be among those that were not made.
            let _ = self.remove_entry(entry);
        }
        Err(error)
    }

    fn remove_frontend(&mut self, frontend: Frontend) -> anyhow::Result<()> {
        let removed = self.frontends.remove(frontend).removed;
        let errors: Vec<anyhow::Error> =
            removed.into_iter().filter_map(|entry| self.remove_entry(entry).err()).collect();
        errors.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Returns the prefix length of one address alone.
const fn host_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_worker_without_a_fresh_heartbeat_is_named_with_its_age() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let named = |ages: &[Option<Duration>]| SilentWorker::find(ages.to_vec()).map(|one| one.to_string());
        assert_eq!(named(&[]), None);
        assert_eq!(named(&[ms(0), ms(499)]), None);
        assert_eq!(named(&[ms(0), ms(500)]).as_deref(), Some("worker 1: last heartbeat 500 ms ago"));
        assert_eq!(named(&[ms(2000), None]).as_deref(), Some("worker 0: last heartbeat 2000 ms ago"));
        assert_eq!(named(&[ms(1), None]).as_deref(), Some("worker 1: no heartbeat yet"));
    }
}
