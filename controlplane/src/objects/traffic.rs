//! What a Service says about its packets: addresses beyond ClusterIPs, policies, annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::Metadata;
use super::field::{Fault, Field};
use crate::cli::Span;
use crate::traffic::{Choice, Policy, Traffic};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` if it is not stated, and at most.
///
/// Source: Kubernetes `pkg/apis/core/types.go` `DefaultClientIPServiceAffinitySeconds`, `MaxClientIPServiceAffinitySeconds`.
const AFFINITY_SECONDS: u32 = 10_800;
const MAX_AFFINITY_SECONDS: u32 = 86_400;
/// Largest weight of an endpoint: a Maglev table has a hundred entries for each.
const MAX_WEIGHT: u16 = 100;

pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Traffic, Fault> {
    let spec = root.child("spec")?;
    let kind = spec.child("type")?.filled_text()?;
    let external_addresses = read_external_addresses(&spec.child("externalIPs")?)?;
    let is_external = matches!(kind, Some("NodePort" | "LoadBalancer")) || !external_addresses.is_empty();
    let external = read_policy(&spec.child("externalTrafficPolicy")?)?;
    let health_check_port = spec.child("healthCheckNodePort")?;
    let health_check_port =
        if health_check_port.number()? == Some(0) { None } else { health_check_port.port()? };
    let is_checked = kind == Some("LoadBalancer") && external == Policy::Local;
    Ok(Traffic {
        balancer_addresses: read_balancer_addresses(root)?,
        source_ranges: read_source_ranges(&spec.child("loadBalancerSourceRanges")?)?,
        internal: read_policy(&spec.child("internalTrafficPolicy")?)?,
        external: if is_external { external } else { Policy::Cluster },
        health_check_port: health_check_port.filter(|_| is_checked),
        affinity_seconds: read_affinity(&spec)?,
        choice: annotation(metadata, "choice", read_choice)?.unwrap_or_default(),
        weights: annotation(metadata, "weights", read_weights)?.unwrap_or_default(),
        reset_after: annotation(metadata, "reset-after", read_reset)?.unwrap_or(Some(Traffic::RESET_AFTER)),
        repick: annotation(metadata, "repick", read_switch)?.unwrap_or(true),
        external_addresses,
    })
}

fn read_external_addresses(list: &Field<'_>) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses = Vec::new();
    for item in list.items()? {
        let address = item.address()?;
        if addresses.contains(&address) {
            return Err(item.fault(&format!("{address} is there twice")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Reads the addresses that a load balancer has given the Service; those of a proxy are its own business, and a
/// balancer known by name has none (K18).
fn read_balancer_addresses(root: &Field<'_>) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses = Vec::new();
    for entry in root.child("status")?.child("loadBalancer")?.child("ingress")?.items()? {
        let (address, mode) = (entry.child("ip")?, entry.child("ipMode")?);
        let is_captured = match mode.filled_text()? {
            None | Some("VIP") => true,
            Some("Proxy") => false,
            Some(other) => return Err(mode.fault(&format!("{other:?} is not one of VIP, Proxy"))),
        };
        if address.filled_text()?.is_some() {
            let address = address.address()?;
            if is_captured && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

/// Reads the networks; blanks around them do not count (K22).
fn read_source_ranges(list: &Field<'_>) -> Result<Vec<IpNet>, Fault> {
    let mut ranges = Vec::new();
    for item in list.items()? {
        let text = item.required_text()?;
        let range: IpNet =
            text.trim().parse().map_err(|_| item.fault(&format!("{text:?} is no network as 10.0.0.0/8")))?;
        ranges.push(range.trunc());
    }
    Ok(ranges)
}

fn read_policy(field: &Field<'_>) -> Result<Policy, Fault> {
    match field.filled_text()? {
        None | Some("Cluster") => Ok(Policy::Cluster),
        Some("Local") => Ok(Policy::Local),
        Some(other) => Err(field.fault(&format!("{other:?} is not one of Cluster, Local"))),
    }
}

fn read_affinity(spec: &Field<'_>) -> Result<Option<u32>, Fault> {
    let field = spec.child("sessionAffinity")?;
    match field.filled_text()? {
        None | Some("None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => return Err(field.fault(&format!("{other:?} is not one of None, ClientIP"))),
    }
    let field = spec.child("sessionAffinityConfig")?.child("clientIP")?.child("timeoutSeconds")?;
    let Some(seconds) = field.number()? else { return Ok(Some(AFFINITY_SECONDS)) };
    match u32::try_from(seconds) {
        Ok(seconds @ 1..=MAX_AFFINITY_SECONDS) => Ok(Some(seconds)),
        _ => Err(field.fault(&format!("{seconds} is outside 1..={MAX_AFFINITY_SECONDS}"))),
    }
}

/// Reads an annotation of ours; the reader says what the text is not.
fn annotation<T>(
    metadata: &Metadata,
    name: &str,
    read: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Fault> {
    let key = format!("tidegate.io/{name}");
    let Some(text) = metadata.annotations.get(key.as_str()) else { return Ok(None) };
    let value = read(text.trim());
    value.map(Some).map_err(|what| Fault { field: format!("metadata.annotations[{key}]"), what })
}

fn read_choice(text: &str) -> Result<Choice, String> {
    match text {
        "maglev" => Ok(Choice::Maglev),
        "random" => Ok(Choice::Random),
        "least-connections" => Ok(Choice::LeastConnections),
        other => Err(format!("{other:?} is not one of maglev, random, least-connections")),
    }
}

fn read_weights(text: &str) -> Result<BTreeMap<IpAddr, u16>, String> {
    let mut weights = BTreeMap::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let parsed = entry
            .split_once('=')
            .and_then(|(address, weight)| Some((address.trim().parse().ok()?, weight.trim().parse().ok()?)));
        match parsed {
            Some((address, weight @ 1..=MAX_WEIGHT)) => drop(weights.insert(address, weight)),
            _ => return Err(format!("{entry:?} is not ADDRESS=WEIGHT with a weight of 1 to {MAX_WEIGHT}")),
        }
    }
    Ok(weights)
}

fn read_reset(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let time = Span::from_str(text).map_err(|what| format!("{what}; or off"))?;
    Ok(Some(time.0))
}

fn read_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("{other:?} is not one of on, off")),
    }
}
