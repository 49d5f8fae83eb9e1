//! The Services as manifests, for Tidegate.

use std::fmt::Write as _;

use crate::traffic::targets::{ENDPOINT_PORT, ENDPOINTS, Protocol, SERVICE_PORT, Targets};

/// Writes a Service and its EndpointSlice for each number.
#[must_use]
pub fn manifests(targets: Targets) -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: load}\n".to_owned();
    for number in 0..targets.services {
        let protocol = match targets.protocol(number) {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        let cluster_ip = targets.cluster_ip(number);
        let endpoints: String =
            (0..ENDPOINTS).map(|n| format!("  - addresses: [{}]\n", targets.endpoint(number, n))).collect();
        let _never_fails = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: svc-{number}, namespace: load}}
spec:
  clusterIP: {cluster_ip}
  ports: [{{name: http, protocol: {protocol}, port: {SERVICE_PORT}, targetPort: {ENDPOINT_PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: svc-{number}-a, namespace: load, labels: {{kubernetes.io/service-name: svc-{number}}}}}
addressType: IPv4
ports: [{{name: http, protocol: {protocol}, port: {ENDPOINT_PORT}}}]
endpoints:
{endpoints}"
        );
    }
    text
}
