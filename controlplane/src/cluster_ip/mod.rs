//! ClusterIPs: who has which, and new ones from the service CIDRs.
//!
//! An address in force does not move: not while we run, and not by a restart, for [`state_file`] keeps what
//! was assigned. A new one is taken at a place that the hash of namespace and name picks, so that the same
//! set of files gets the same addresses even without that file.

mod range;
pub mod state_file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::cluster::{Family, ObjectName};
use crate::objects::{FamilyPolicy, Fault, Reach, Service};

/// Addresses by Service.
pub type Addresses = BTreeMap<ObjectName, Vec<IpAddr>>;

/// The assigner of ClusterIPs; pure.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterIps {
    cidrs: Vec<IpNet>,
    remembered: Addresses,
}

/// The outcome for each Service that was to be settled.
pub type Settled = BTreeMap<ObjectName, Result<Vec<IpAddr>, Fault>>;

impl ClusterIps {
    /// Makes an assigner over the service CIDRs that remembers assignments of an earlier run.
    #[must_use]
    pub fn new(cidrs: Vec<IpNet>, remembered: Addresses) -> Self {
        Self { cidrs, remembered }
    }

    /// Returns what is to be kept for the next run.
    #[must_use]
    pub fn remembered(&self) -> &Addresses {
        &self.remembered
    }

    /// Says whether an address is in a service CIDR.
    #[must_use]
    pub fn covers(&self, address: &IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(address))
    }

    /// Notes the addresses of a Service for the next run, or that there is nothing to note.
    pub fn remember(&mut self, service: &Service, addresses: &[IpAddr]) {
        match &service.reach {
            Reach::ClusterIp(stated) if stated.len() < addresses.len() => {
                self.remembered.insert(service.name.clone(), addresses.to_vec());
            }
            _ => {
                self.remembered.remove(&service.name);
            }
        }
    }

    /// Forgets the assignments of Services that are no more.
    pub fn forget_all_but(&mut self, present: impl Fn(&ObjectName) -> bool) {
        self.remembered.retain(|name, _| present(name));
    }

    /// Returns the families in which a Service is served, the first one first.
    ///
    /// # Errors
    /// Names the field that asks for a family of which there is no service CIDR.
    pub fn families(&self, service: &Service) -> Result<Vec<Family>, Fault> {
        let stated: &[IpAddr] = match &service.reach {
            Reach::ClusterIp(stated) => stated,
            Reach::Headless | Reach::ExternalName(_) => &[],
        };
        let has_cidr = |family: Family| self.cidrs.iter().any(|cidr| Family::of(&cidr.network()) == family);
        let first = stated.first().map(Family::of).or(service.families.first().copied());
        let headless = service.reach == Reach::Headless;
        let Some(first) = first.or(self.cidrs.first().map(|cidr| Family::of(&cidr.network()))) else {
            if headless {
                return Ok(vec![Family::V4, Family::V6]);
            }
            return Err(fault("is absent, and there is no --service-cidr to take one from"));
        };
        let is_stated = |family: Family| stated.iter().any(|address| Family::of(address) == family);
        let second = first.other();
        let possible = headless || is_stated(second) || has_cidr(second);
        match service.family_policy {
            FamilyPolicy::SingleStack => Ok(vec![first]),
            FamilyPolicy::PreferDualStack if !possible => Ok(vec![first]),
            FamilyPolicy::PreferDualStack => Ok(vec![first, second]),
            FamilyPolicy::RequireDualStack if possible => Ok(vec![first, second]),
            FamilyPolicy::RequireDualStack => Err(Fault {
                field: "spec.ipFamilyPolicy".to_owned(),
                what: format!("is RequireDualStack, but there is no --service-cidr of {second}"),
            }),
        }
    }

    /// Settles the addresses of new and changed Services against those in force.
    ///
    /// `in_force` holds the addresses of all Services, also the earlier ones of those in `candidates`; a
    /// candidate that is refused keeps its earlier ones. Of two that want one address, the one that has it,
    /// in force or remembered, comes first, then the order of names. Costs the Services in force once, and
    /// once more for each refused candidate whose earlier address another has just taken.
    #[must_use]
    pub fn settle(&self, in_force: &Addresses, candidates: &BTreeMap<ObjectName, Arc<Service>>) -> Settled {
        let mut settled = Settled::new();
        let mut trying: BTreeSet<&ObjectName> = candidates.keys().collect();
        while let Err(refused) = self.try_settle(in_force, candidates, &trying, &mut settled) {
            trying.retain(|name| !refused.contains(*name));
        }
        settled
    }

    /// Tries to settle `trying`; the error names refused ones that have to keep an address taken meanwhile.
    fn try_settle(
        &self,
        in_force: &Addresses,
        candidates: &BTreeMap<ObjectName, Arc<Service>>,
        trying: &BTreeSet<&ObjectName>,
        settled: &mut Settled,
    ) -> Result<(), BTreeSet<ObjectName>> {
        let mut taken = Taken {
            cluster_ips: self,
            in_force,
            holders: BTreeMap::new(),
            stated: BTreeSet::new(),
            remembered: self.remembered.values().flatten().copied().collect(),
        };
        for (name, addresses) in in_force.iter().filter(|(name, _)| !trying.contains(name)) {
            taken.holders.extend(addresses.iter().map(|address| (*address, name.clone())));
        }
        for service in candidates.values() {
            if let Reach::ClusterIp(stated) = &service.reach {
                taken.stated.extend(stated);
            }
        }
        let mut order: Vec<&Arc<Service>> = trying.iter().filter_map(|name| candidates.get(*name)).collect();
        order.sort_by_cached_key(|service| (taken.rank(service), service.name.clone()));
        let mut refused = BTreeSet::new();
        for service in order {
            let outcome = taken.claim(service);
            if outcome.is_err() && in_force.contains_key(&service.name) {
                refused.insert(service.name.clone());
            }
            settled.insert(service.name.clone(), outcome);
        }
        let evicted = refused.iter().any(|name| {
            in_force[name]
                .iter()
                .any(|address| taken.holders.get(address).is_some_and(|holder| holder != name))
        });
        if evicted { Err(refused) } else { Ok(()) }
    }
}

/// The state of one attempt to settle.
struct Taken<'a> {
    cluster_ips: &'a ClusterIps,
    in_force: &'a Addresses,
    holders: BTreeMap<IpAddr, ObjectName>,
    stated: BTreeSet<IpAddr>,
    remembered: BTreeSet<IpAddr>,
}

impl Taken<'_> {
    /// Returns the addresses that a Service has had, in force before remembered.
    fn earlier(&self, name: &ObjectName) -> impl Iterator<Item = IpAddr> {
        let lists = [self.in_force.get(name), self.cluster_ips.remembered.get(name)];
        lists.into_iter().flatten().flatten().copied()
    }

    /// Orders claims: who has the address in force, who had it in an earlier run, anyone.
    fn rank(&self, service: &Service) -> u8 {
        let has = |addresses: &Addresses| {
            addresses.get(&service.name).is_some_and(|earlier| match &service.reach {
                Reach::ClusterIp(stated) => {
                    stated.is_empty() || stated.iter().any(|address| earlier.contains(address))
                }
                Reach::Headless | Reach::ExternalName(_) => false,
            })
        };
        if has(self.in_force) {
            0
        } else if has(&self.cluster_ips.remembered) {
            1
        } else {
            2
        }
    }

    /// Takes the addresses of a Service: stated ones, then its earlier ones, then new ones. All or nothing.
    fn claim(&mut self, service: &Service) -> Result<Vec<IpAddr>, Fault> {
        let Reach::ClusterIp(stated) = &service.reach else { return Ok(Vec::new()) };
        for address in stated {
            if let Some(holder) = self.holders.get(address) {
                return Err(fault(&format!("{address} is in force for Service {holder}")));
            }
        }
        let mut addresses = stated.clone();
        for family in self.cluster_ips.families(service)? {
            if addresses.iter().any(|address| Family::of(address) == family) {
                continue;
            }
            let kept = self.earlier(&service.name).find(|address| {
                let free = !self.holders.contains_key(address);
                Family::of(address) == family && free && self.cluster_ips.covers(address)
            });
            let address = kept.or_else(|| self.pick(&service.name, family)).ok_or_else(|| {
                let cidrs =
                    self.cluster_ips.cidrs.iter().filter(|cidr| Family::of(&cidr.network()) == family);
                let cidrs: Vec<String> = cidrs.map(ToString::to_string).collect();
                fault(&if cidrs.is_empty() {
                    format!("is absent, and there is no --service-cidr of {family} to take one from")
                } else {
                    format!("is absent, and no address is left in --service-cidr {}", cidrs.join(", "))
                })
            })?;
            addresses.push(address);
        }
        self.holders.extend(addresses.iter().map(|address| (*address, service.name.clone())));
        Ok(addresses)
    }

    /// Picks a free address: not taken, not stated by another, and if possible not remembered for another.
    fn pick(&self, name: &ObjectName, family: Family) -> Option<IpAddr> {
        let cidrs =
            || self.cluster_ips.cidrs.iter().filter(move |cidr| Family::of(&cidr.network()) == family);
        let free = |address: &IpAddr| !self.holders.contains_key(address) && !self.stated.contains(address);
        let fresh = |address: &IpAddr| free(address) && !self.remembered.contains(address);
        let hash = range::hash(name);
        cidrs()
            .find_map(|cidr| range::pick(cidr, hash, &fresh))
            .or_else(|| cidrs().find_map(|cidr| range::pick(cidr, hash, &free)))
    }
}

fn fault(what: &str) -> Fault {
    Fault { field: "spec.clusterIP".to_owned(), what: what.to_owned() }
}
