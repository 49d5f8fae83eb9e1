//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_dataplane::net::Protocol;

use super::field::{Fault, Field, Labels};
use super::{Metadata, syntax, traffic};
use crate::cluster::{Family, ObjectName};
use crate::traffic::Traffic;

/// A Service as its manifest has it: its ClusterIP may be still to assign, its target ports to resolve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// Label `service.kubernetes.io/service-proxy-name` is set (K1).
    pub foreign_proxy: bool,
    /// How clients reach it.
    pub reach: Reach,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; empty for a Service whose endpoints others keep (K6).
    pub selector: Labels,
    /// `spec.publishNotReadyAddresses` (K9).
    pub publish_not_ready: bool,
    /// `spec.ipFamilies`, in order; empty if not stated.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// How packets to it are treated.
    pub traffic: Traffic,
}

/// How clients are to reach a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// By `spec.clusterIPs`; those not stated are to be assigned. NodePort and LoadBalancer Services too.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`; without a trailing dot.
    ExternalName(Arc<str>),
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both, as far as there are service CIDRs.
    PreferDualStack,
    /// Both, or the Service is refused.
    RequireDualStack,
}

/// One entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Empty for the unnamed port of a single-port Service (K4).
    pub name: Arc<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port that clients use.
    pub port: u16,
    /// Where it leads to in a Pod (K5).
    pub target: TargetPort,
    /// `nodePort`; none of Services that have no NodePorts (K16).
    pub node_port: Option<u16>,
}

/// `targetPort`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPort {
    /// The same number in all Pods.
    Number(u16),
    /// The name of a container port, whose number each Pod has for itself.
    Name(Arc<str>),
}

pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Service, Fault> {
    let spec = root.child("spec")?;
    let reach = read_reach(&spec)?;
    let families = read_families(&spec, &reach)?;
    let has_node_ports = matches!(spec.child("type")?.filled_text()?, Some("NodePort" | "LoadBalancer"));
    let ports = read_ports(&spec.child("ports")?, has_node_ports)?;
    if ports.is_empty() && matches!(reach, Reach::ClusterIp(_)) {
        return Err(spec.child("ports")?.fault("is missing; only a headless Service can do without ports"));
    }
    Ok(Service {
        name: metadata.name.clone(),
        foreign_proxy: metadata.labels.contains_key("service.kubernetes.io/service-proxy-name"),
        family_policy: read_family_policy(&spec.child("ipFamilyPolicy")?, &families, &reach)?,
        reach,
        ports,
        selector: spec.child("selector")?.labels()?,
        publish_not_ready: spec.child("publishNotReadyAddresses")?.flag()?.unwrap_or(false),
        families,
        traffic: traffic::read(root, metadata)?,
    })
}

/// Reads type and addresses. An ExternalName Service has no address even if one is stated (K3).
fn read_reach(spec: &Field<'_>) -> Result<Reach, Fault> {
    let kind = spec.child("type")?;
    match kind.filled_text()? {
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => read_cluster_ips(spec),
        Some("ExternalName") => {
            let field = spec.child("externalName")?;
            let name = field.required_text()?;
            let name = name.strip_suffix('.').unwrap_or(name);
            syntax::subdomain(name).map_err(|what| field.fault(&format!("{name:?} {what}")))?;
            Ok(Reach::ExternalName(name.into()))
        }
        Some(other) => {
            let what = format!("{other:?} is not one of ClusterIP, NodePort, LoadBalancer, ExternalName");
            Err(kind.fault(&what))
        }
    }
}

fn read_cluster_ips(spec: &Field<'_>) -> Result<Reach, Fault> {
    let (single, list) = (spec.child("clusterIP")?, spec.child("clusterIPs")?);
    let mut fields = list.items()?;
    let first = single.filled_text()?;
    match (first, fields.first()) {
        (Some(_), None) => fields = vec![single.clone()],
        (Some(first), Some(listed)) if listed.text()? != Some(first) => {
            return Err(listed.fault(&format!("must be the same as spec.clusterIP, {first:?}")));
        }
        _ => {}
    }
    if fields.first().map(Field::text).transpose()?.flatten() == Some("None") {
        return match fields.get(1) {
            None => Ok(Reach::Headless),
            Some(second) => Err(second.fault("must not follow None")),
        };
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for field in &fields {
        let address = field.address()?;
        if addresses.iter().any(|other| Family::of(other) == Family::of(&address)) {
            return Err(field.fault(&format!("{address} is a second address of one family")));
        }
        addresses.push(address);
    }
    Ok(Reach::ClusterIp(addresses))
}

fn read_families(spec: &Field<'_>, reach: &Reach) -> Result<Vec<Family>, Fault> {
    let mut families = Vec::new();
    for field in spec.child("ipFamilies")?.items()? {
        let family = match field.required_text()? {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => return Err(field.fault(&format!("{other:?} is not one of IPv4, IPv6"))),
        };
        if families.contains(&family) {
            return Err(field.fault(&format!("{family} is there twice")));
        }
        families.push(family);
    }
    let Reach::ClusterIp(addresses) = reach else { return Ok(families) };
    for (address, family) in addresses.iter().zip(&families) {
        if Family::of(address) != *family {
            let what =
                format!("{address} is not of the family that spec.ipFamilies has in its place, {family}");
            return Err(spec.child("clusterIP")?.fault(&what));
        }
    }
    Ok(families)
}

/// Reads the policy; two families or two addresses without one mean `RequireDualStack`.
///
/// Source: Kubernetes `pkg/registry/core/service/storage/alloc.go` `initIPFamilyFields`.
fn read_family_policy(field: &Field<'_>, families: &[Family], reach: &Reach) -> Result<FamilyPolicy, Fault> {
    let two = families.len() > 1 || matches!(reach, Reach::ClusterIp(addresses) if addresses.len() > 1);
    match field.filled_text()? {
        None if two => Ok(FamilyPolicy::RequireDualStack),
        Some("SingleStack") if two => Err(field.fault("is SingleStack, but two families are asked for")),
        None | Some("SingleStack") => Ok(FamilyPolicy::SingleStack),
        Some("PreferDualStack") => Ok(FamilyPolicy::PreferDualStack),
        Some("RequireDualStack") => Ok(FamilyPolicy::RequireDualStack),
        Some(other) => {
            let what = format!("{other:?} is not one of SingleStack, PreferDualStack, RequireDualStack");
            Err(field.fault(&what))
        }
    }
}

fn read_ports(list: &Field<'_>, has_node_ports: bool) -> Result<Vec<ServicePort>, Fault> {
    let fields = list.items()?;
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::with_capacity(fields.len());
    for field in &fields {
        let port = read_port(field, has_node_ports)?;
        let name = field.child("name")?;
        if port.name.is_empty() && fields.len() > 1 {
            return Err(name.fault("is missing; each port needs a name where there are several"));
        }
        if !names.insert(port.name.clone()) {
            return Err(name.fault(&format!("{:?} is there twice", port.name)));
        }
        if port.node_port.is_some_and(|number| !node_ports.insert((port.protocol, number))) {
            return Err(field.child("nodePort")?.fault("is there twice for one protocol"));
        }
        if !numbers.insert((port.protocol, port.port)) {
            return Err(field
                .child("port")?
                .fault(&format!("{}/{} is there twice", port.port, port.protocol)));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn read_port(field: &Field<'_>, has_node_ports: bool) -> Result<ServicePort, Fault> {
    let port = field.child("port")?.required_port()?;
    Ok(ServicePort {
        name: field.child("name")?.named(syntax::label)?.unwrap_or_default(),
        protocol: field.child("protocol")?.protocol()?,
        port,
        target: read_target(&field.child("targetPort")?, port)?,
        node_port: read_node_port(&field.child("nodePort")?, has_node_ports)?,
    })
}

/// Reads `nodePort`; 0 is none, and so is that of a Service whose type has none.
fn read_node_port(field: &Field<'_>, has_node_ports: bool) -> Result<Option<u16>, Fault> {
    if field.number()? == Some(0) {
        return Ok(None);
    }
    Ok(field.port()?.filter(|_| has_node_ports))
}

/// Reads `targetPort`; an absent one, `0` and `""` mean the Service's own port.
///
/// Source: Kubernetes `pkg/apis/core/v1/defaults.go` `SetDefaults_Service`.
fn read_target(field: &Field<'_>, port: u16) -> Result<TargetPort, Fault> {
    if let Ok(number) = field.number() {
        return match number {
            None | Some(0) => Ok(TargetPort::Number(port)),
            Some(_) => Ok(TargetPort::Number(field.required_port()?)),
        };
    }
    Ok(field.named(syntax::port_name)?.map_or(TargetPort::Number(port), TargetPort::Name))
}
