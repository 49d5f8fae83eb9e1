//! EndpointSlices that people or programs wrote.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::field::{Fault, Field};
use super::{Metadata, syntax};
use crate::cluster::{Endpoint, EndpointSlice, Family, Hints, ObjectName, SlicePort};

/// Label that binds a slice to its Service (K6).
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Reads a slice; `None` if it has no Service (K6) or its addresses are names (`FQDN`, K7).
pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Option<EndpointSlice>, Fault> {
    let address_type = root.child("addressType")?;
    let family = match address_type.required_text()? {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Ok(None),
        other => return Err(address_type.fault(&format!("{other:?} is not one of IPv4, IPv6, FQDN"))),
    };
    let Some(service) = metadata.labels.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    syntax::label(service).map_err(|what| Fault {
        field: format!("metadata.labels[{LABEL_SERVICE_NAME}]"),
        what: format!("{service:?} {what}"),
    })?;
    let mut endpoints = Vec::new();
    for field in root.child("endpoints")?.items()? {
        endpoints.push(read_endpoint(&field, family)?);
    }
    Ok(Some(EndpointSlice {
        name: metadata.name.clone(),
        service: ObjectName { namespace: metadata.name.namespace.clone(), name: service.clone() },
        endpoints,
        ports: read_ports(&root.child("ports")?)?,
    }))
}

fn read_endpoint(field: &Field<'_>, family: Family) -> Result<Endpoint, Fault> {
    let list = field.child("addresses")?;
    let mut addresses = Vec::new();
    for item in list.items()? {
        let address = item.address()?;
        if Family::of(&address) != family {
            return Err(item.fault(&format!("{address} is not of addressType {family}")));
        }
        addresses.push(address);
    }
    let address = addresses.into_iter().next().ok_or_else(|| list.fault("must hold an address"))?;
    let conditions = field.child("conditions")?;
    let target = field.child("targetRef")?;
    let is_pod = target.child("kind")?.text()? == Some("Pod");
    Ok(Endpoint {
        address,
        hostname: field.child("hostname")?.named(syntax::label)?,
        ready: conditions.child("ready")?.flag()?.unwrap_or(true),
        serving: conditions.child("serving")?.flag()?.unwrap_or(true),
        terminating: conditions.child("terminating")?.flag()?.unwrap_or(false),
        node: field.child("nodeName")?.filled_text()?.map(Arc::from),
        zone: field.child("zone")?.filled_text()?.map(Arc::from),
        pod: target.child("name")?.filled_text()?.filter(|_| is_pod).map(Arc::from),
        hints: read_hints(&field.child("hints")?)?,
    })
}

/// Reads where an endpoint's traffic should come from (K11).
fn read_hints(field: &Field<'_>) -> Result<Option<Arc<Hints>>, Fault> {
    let read = |list: &str| -> Result<Vec<Arc<str>>, Fault> {
        let items = field.child(list)?.items()?;
        items.iter().map(|item| item.child("name")?.required_text().map(Arc::from)).collect()
    };
    let hints = Hints { zones: read("forZones")?, nodes: read("forNodes")? };
    Ok((hints != Hints::default()).then(|| hints.into()))
}

/// Reads ports. A port without a number, or number 0, is left out (K7).
///
/// K7 also has a port without a name left out; no manifest can say that, for the API server fills in the
/// empty name. Source: Kubernetes `pkg/apis/discovery/v1/defaults.go` `SetDefaults_EndpointPort`.
fn read_ports(list: &Field<'_>) -> Result<Vec<SlicePort>, Fault> {
    let mut names = BTreeSet::new();
    let mut ports = Vec::new();
    for field in list.items()? {
        let name = field.child("name")?;
        let port_name = name.named(syntax::label)?.unwrap_or_default();
        if !names.insert(port_name.clone()) {
            return Err(name.fault(&format!("{port_name:?} is there twice")));
        }
        let protocol = field.child("protocol")?.protocol()?;
        let number = field.child("port")?;
        if !matches!(number.number()?, None | Some(0)) {
            ports.push(SlicePort { name: port_name, protocol, port: number.required_port()? });
        }
    }
    Ok(ports)
}
