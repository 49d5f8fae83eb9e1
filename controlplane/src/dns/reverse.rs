//! Names of addresses: `in-addr.arpa` and `ip6.arpa`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::name::NameRef;
use super::resolve::Question;
use super::service_names::Claim;
use super::verdict::{Outcome, Reason, Verdict};
use super::{Data, Type, Zone};
use crate::cluster::ObjectName;

/// What a name below an arpa zone spells.
struct Spelled {
    /// The address so far, zeros after it.
    address: IpAddr,
    /// Labels that spell it, octets or nibbles.
    depth: usize,
    /// Labels left of those: beyond a whole address, or no octet or nibble.
    excess: usize,
}

impl Spelled {
    /// Reads a name; `None` outside both arpa zones. Source: RFC 1035 §3.5, RFC 3596 §2.5.
    fn parse(name: NameRef<'_>) -> Option<Self> {
        // Most names outside the zone are nobody's address: they cost no more than this.
        if !name.octets().ends_with(b"\x04arpa\0") {
            return None;
        }
        let labels: Vec<&[u8]> = name.labels().collect();
        let (digits, whole) = match &*labels {
            [digits @ .., b"in-addr", b"arpa"] => (digits, 4),
            [digits @ .., b"ip6", b"arpa"] => (digits, 32),
            _ => return None,
        };
        let read = if whole == 4 { octet } else { nibble };
        let values: Vec<u8> = digits.iter().rev().take(whole).map_while(|label| read(label)).collect();
        let at = |place: usize| values.get(place).copied().unwrap_or(0);
        let address = if whole == 4 {
            IpAddr::from([at(0), at(1), at(2), at(3)])
        } else {
            IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| at(2 * i) << 4 | at(2 * i + 1)))
        };
        Some(Self { address, depth: values.len(), excess: digits.len() - values.len() })
    }

    /// Returns the address if the name spells one whole, and nothing more.
    fn whole(&self) -> Option<IpAddr> {
        let whole = if self.address.is_ipv4() { 4 } else { 32 };
        (self.depth == whole && self.excess == 0).then_some(self.address)
    }

    /// Returns how many labels spell the apex of the reverse zone around this name: the network, rounded up
    /// to whole labels; `None` if the name is in none of the networks.
    fn apex_depth(&self, networks: &[IpNet]) -> Option<usize> {
        let bits = if self.address.is_ipv4() { 8 } else { 4 };
        let around = |network: &&IpNet| network.contains(&self.address);
        let depth = |network: &IpNet| usize::from(network.prefix_len()).div_ceil(bits);
        networks.iter().filter(around).map(depth).filter(|&depth| depth <= self.depth).min()
    }
}

/// Decides about a name outside the cluster zone.
///
/// Addresses in the service CIDRs are ours alone. An endpoint's address elsewhere is answered where we know
/// it, each such name being a zone of its own; what we do not know is somebody else's.
pub(super) fn resolve(zone: &Zone, name: NameRef<'_>, qtype: Type) -> Verdict {
    let not_ours = Verdict { outcome: Outcome::Forward, reason: Reason::NotOurs };
    let Some(spelled) = Spelled::parse(name) else { return not_ours };
    let apex_depth = spelled.apex_depth(&zone.settings().service_cidrs);
    let apex = apex_depth.map_or(name, |depth| name.parent(spelled.depth + spelled.excess - depth));
    let question = Question { zone, apex, qtype };
    let claims = spelled.whole().and_then(|address| Some((address, zone.claims(address)?)));
    if apex_depth.is_none() && claims.is_none() && (zone.synced() || spelled.whole().is_none()) {
        return not_ours;
    }
    if let Some(verdict) = question.barred() {
        return verdict;
    }
    match claims {
        Some((address, claims)) => question.pointers(address, claims),
        None if apex == name => question.apex(),
        // Whether an address below is known is not looked up: NODATA is true of a zone's inner nodes or
        // harmless.
        None if spelled.whole().is_none() && spelled.excess == 0 => {
            question.no_data(Reason::EmptyNonTerminal)
        }
        None => question.nx_domain(Reason::UnknownAddress),
    }
}

impl Question<'_> {
    /// Answers with one PTR to the Service that has the address, else with one to each of its endpoints.
    fn pointers(&self, address: IpAddr, claims: &[Claim]) -> Verdict {
        let (mut records, mut reason) = (Vec::new(), Reason::UnknownAddress);
        for claim in claims {
            let (Claim::Service(name) | Claim::Endpoint(name)) = claim;
            let Some(service) = self.zone.service(name.namespace.as_bytes(), name.name.as_bytes()) else {
                continue;
            };
            if matches!(claim, Claim::Service(_)) {
                records.push(self.record(Data::Ptr(service.domain_name.clone())));
                reason = Reason::ReverseClusterIp(ObjectName::clone(name));
                break;
            }
            if records.is_empty() {
                reason = Reason::ReverseEndpoints(ObjectName::clone(name));
            }
            let targets = service.endpoint_names_at(address).into_iter();
            records.extend(targets.map(|target| self.record(Data::Ptr(target))));
        }
        if self.qtype != Type::PTR {
            return self.no_data(reason);
        }
        self.answer(records, vec![], reason)
    }
}

/// Reads an octet in decimal as an address is written: no leading zero.
fn octet(label: &[u8]) -> Option<u8> {
    let canonical = label.len() <= 3 && (label.len() == 1 || label.first() != Some(&b'0'));
    let digits = canonical && label.iter().all(u8::is_ascii_digit);
    str::from_utf8(label).ok().filter(|_| digits)?.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).map(|value| value as u8)
}
