//! Objects for the API server.

use serde_json::{Value, json};

use super::{ApiServer, NAMESPACES, SERVICES, SLICES};

/// A Namespace.
pub(crate) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// A Node in a zone.
pub(crate) fn node(name: &str, zone: &str) -> Value {
    let labels = json!({ "topology.kubernetes.io/zone": zone });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } })
}

/// A Service with HTTP and UDP echo on 8080 and lines on 9000, as the rig's pods have them.
pub(crate) fn service(namespace: &str, name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{namespace}-{name}") },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [
                { "name": "http", "protocol": "TCP", "port": 8080, "targetPort": 8080 },
                { "name": "echo", "protocol": "UDP", "port": 8080, "targetPort": 8080 },
                { "name": "line", "protocol": "TCP", "port": 9000, "targetPort": "line" },
            ],
        },
    })
}

/// The EndpointSlice of such a Service.
pub(crate) fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| {
        json!({
            "addresses": [address],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "node-1",
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-x"),
            "namespace": namespace,
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [
            { "name": "http", "protocol": "TCP", "port": 8080 },
            { "name": "echo", "protocol": "UDP", "port": 8080 },
            { "name": "line", "protocol": "TCP", "port": 9000 },
        ],
    })
}

impl ApiServer {
    /// Puts a Namespace with a Service and its slice.
    pub(crate) fn put_service(&self, space: &str, name: &str, cluster_ip: &str, addresses: &[&str]) {
        self.put(NAMESPACES, namespace(space));
        self.put(SERVICES, service(space, name, cluster_ip));
        self.put(SLICES, slice(space, name, addresses));
    }
}
