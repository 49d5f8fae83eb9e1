//! Endpoints, the older form of EndpointSlices.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::field::{Fault, Field};
use super::{Metadata, syntax};
use crate::cluster::{Endpoint, ObjectName, SlicePort};

/// Endpoints of the Service of the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// Not to be mirrored: label `endpointslice.kubernetes.io/skip-mirror`, or a leader election's record.
    pub skip_mirror: bool,
    /// `subsets`.
    pub subsets: Vec<Subset>,
}

/// Addresses that have the same ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subset {
    /// `addresses` as ready and `notReadyAddresses` as not ready, of both families.
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
}

pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Endpoints, Fault> {
    let mut subsets = Vec::new();
    for subset in root.child("subsets")?.items()? {
        let mut endpoints = Vec::new();
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for field in subset.child(list)?.items()? {
                endpoints.push(read_endpoint(&field, ready)?);
            }
        }
        subsets.push(Subset { endpoints, ports: read_ports(&subset.child("ports")?)? });
    }
    let skip = metadata.labels.get("endpointslice.kubernetes.io/skip-mirror");
    let leader = metadata.annotations.contains_key("control-plane.alpha.kubernetes.io/leader");
    Ok(Endpoints {
        name: metadata.name.clone(),
        skip_mirror: leader || skip.is_some_and(|value| &**value == "true"),
        subsets,
    })
}

/// Reads an address; the conditions that Endpoints do not have are filled in by K7.
fn read_endpoint(field: &Field<'_>, ready: bool) -> Result<Endpoint, Fault> {
    let target = field.child("targetRef")?;
    let is_pod = target.child("kind")?.text()? == Some("Pod");
    Ok(Endpoint {
        address: field.child("ip")?.address()?,
        hostname: field.child("hostname")?.named(syntax::label)?,
        ready,
        serving: true,
        terminating: false,
        node: field.child("nodeName")?.filled_text()?.map(Arc::from),
        zone: None,
        pod: target.child("name")?.filled_text()?.filter(|_| is_pod).map(Arc::from),
        hints: None,
    })
}

fn read_ports(list: &Field<'_>) -> Result<Vec<SlicePort>, Fault> {
    let fields = list.items()?;
    let mut names = BTreeSet::new();
    let mut ports = Vec::with_capacity(fields.len());
    for field in &fields {
        let name = field.child("name")?;
        let port_name = name.named(syntax::label)?.unwrap_or_default();
        if port_name.is_empty() && fields.len() > 1 {
            return Err(name.fault("is missing; each port needs a name where there are several"));
        }
        if !names.insert(port_name.clone()) {
            return Err(name.fault(&format!("{port_name:?} is there twice")));
        }
        let protocol = field.child("protocol")?.protocol()?;
        ports.push(SlicePort { name: port_name, protocol, port: field.child("port")?.required_port()? });
    }
    Ok(ports)
}
