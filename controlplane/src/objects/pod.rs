//! Pods, as far as endpoints are made of them.

use std::net::IpAddr;
use std::sync::Arc;

use tidegate_dataplane::net::Protocol;

use super::field::{Fault, Field, Labels};
use super::{Metadata, syntax};
use crate::cluster::{Family, ObjectName};

/// A Pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// `metadata.labels`, which selectors match.
    pub labels: Labels,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`: it will never serve again.
    pub finished: bool,
    /// `status.conditions` has `Ready` with status `"True"`.
    pub ready: bool,
    /// `status.podIPs`, or `status.podIP`; at most one per family.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`.
    pub subdomain: Option<Arc<str>>,
    /// Named ports in the order in which a named `targetPort` looks for them: containers, then sidecars.
    pub ports: Vec<ContainerPort>,
}

/// A named port of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerPort {
    /// `name`.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: u16,
}

pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Pod, Fault> {
    let (spec, status) = (root.child("spec")?, root.child("status")?);
    Ok(Pod {
        name: metadata.name.clone(),
        labels: metadata.labels.clone(),
        terminating: metadata.deleting,
        finished: matches!(status.child("phase")?.text()?, Some("Succeeded" | "Failed")),
        ready: read_ready(&status.child("conditions")?)?,
        addresses: read_addresses(&status)?,
        node: spec.child("nodeName")?.filled_text()?.map(Arc::from),
        hostname: spec.child("hostname")?.named(syntax::label)?,
        subdomain: spec.child("subdomain")?.named(syntax::label)?,
        ports: read_ports(&spec)?,
    })
}

/// Reads the first `Ready` condition; a Pod without one is not ready.
///
/// Source: Kubernetes `staging/src/k8s.io/endpointslice/util` `IsPodReady`.
fn read_ready(conditions: &Field<'_>) -> Result<bool, Fault> {
    for condition in conditions.items()? {
        if condition.child("type")?.text()? == Some("Ready") {
            return Ok(condition.child("status")?.text()? == Some("True"));
        }
    }
    Ok(false)
}

fn read_addresses(status: &Field<'_>) -> Result<Vec<IpAddr>, Fault> {
    let single = status.child("podIP")?;
    let mut fields = Vec::new();
    for item in status.child("podIPs")?.items()? {
        fields.push(item.child("ip")?);
    }
    match (single.filled_text()?, fields.first()) {
        (Some(_), None) => fields.push(single),
        (Some(ip), Some(listed)) if listed.text()? != Some(ip) => {
            return Err(listed.fault(&format!("must be the same as status.podIP, {ip:?}")));
        }
        _ => {}
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for field in &fields {
        let address = field.address()?;
        if addresses.iter().any(|other| Family::of(other) == Family::of(&address)) {
            return Err(field.fault(&format!("{address} is a second address of one family")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Reads the named ports of containers and of sidecars, which are init containers that restart always.
///
/// Source: Kubernetes `staging/src/k8s.io/endpointslice/utils.go` `FindPort`.
fn read_ports(spec: &Field<'_>) -> Result<Vec<ContainerPort>, Fault> {
    let mut ports = Vec::new();
    for container in spec.child("containers")?.items()? {
        read_container_ports(&container, &mut ports)?;
    }
    for container in spec.child("initContainers")?.items()? {
        if container.child("restartPolicy")?.text()? == Some("Always") {
            read_container_ports(&container, &mut ports)?;
        }
    }
    Ok(ports)
}

fn read_container_ports(container: &Field<'_>, ports: &mut Vec<ContainerPort>) -> Result<(), Fault> {
    for field in container.child("ports")?.items()? {
        let port = field.child("containerPort")?.required_port()?;
        let protocol = field.child("protocol")?.protocol()?;
        if let Some(name) = field.child("name")?.named(syntax::port_name)? {
            ports.push(ContainerPort { name, protocol, port });
        }
    }
    Ok(())
}
