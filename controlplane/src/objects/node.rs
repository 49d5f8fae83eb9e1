//! Nodes.

use super::Metadata;
use super::field::{Fault, Field};
use crate::cluster::Node;

pub(super) fn read(root: &Field<'_>, metadata: &Metadata) -> Result<Node, Fault> {
    let mut addresses = Vec::new();
    for field in root.child("status")?.child("addresses")?.items()? {
        if matches!(field.child("type")?.text()?, Some("InternalIP" | "ExternalIP")) {
            addresses.push(field.child("address")?.address()?);
        }
    }
    let zone = metadata.labels.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty());
    let mut is_leaving = metadata.deleting;
    for taint in root.child("spec")?.child("taints")?.items()? {
        is_leaving |= taint.child("key")?.text()? == Some("ToBeDeletedByClusterAutoscaler");
    }
    Ok(Node { name: metadata.name.name.clone(), addresses, zone: zone.cloned(), is_leaving })
}
