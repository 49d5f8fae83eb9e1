//! What load balancers ask about Services with external traffic policy Local: `healthCheckNodePort` (K32).
//!
//! Each such port answers any request over HTTP: 200 if endpoints of the Service are ready on this node and the gateway
//! is well, else 503, with what kube-proxy says in the body and in the header that weighs nodes.
//!
//! Source: Kubernetes `pkg/proxy/healthcheck/service_health.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ObjectName, Service};
use crate::compile::Locality;

/// The answer of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The Service.
    pub service: ObjectName,
    /// How many of its endpoints are ready on this node; without a node name, all that are ready.
    pub local_endpoints: usize,
    /// Whether the gateway serves.
    pub is_healthy: bool,
}

/// The ports that answer.
#[derive(Debug, Default)]
pub struct HealthChecks {
    ports: BTreeMap<u16, Port>,
    /// The Services that have such a port.
    services: BTreeSet<ObjectName>,
}

#[derive(Debug)]
struct Port {
    standing: watch::Sender<Standing>,
    task: Option<JoinHandle<()>>,
}

impl HealthChecks {
    /// Notes which of these Services, which may have changed, have such a port.
    pub fn note<'a>(&mut self, cluster: &Cluster, changed: impl IntoIterator<Item = &'a ObjectName>) {
        for name in changed {
            let is_asked_for = |service: &Arc<Service>| {
                !service.foreign_proxy && service.traffic.health_check_port.is_some()
            };
            if cluster.service(name).is_some_and(is_asked_for) {
                self.services.insert(name.clone());
            } else {
                self.services.remove(name);
            }
        }
    }

    /// Makes the ports answer what the cluster says now; must be called within a tokio runtime. A port that cannot be
    /// listened on is reported once. Costs the Services that were noted to have one.
    pub fn follow(&mut self, cluster: &Cluster, locality: &Locality, is_healthy: impl Fn() -> bool) {
        if self.services.is_empty() && self.ports.is_empty() {
            return;
        }
        let wanted = self.standings(cluster, locality, is_healthy());
        self.ports.retain(|port, one| {
            let stays = wanted.contains_key(port);
            if let (false, Some(task)) = (stays, &one.task) {
                task.abort();
            }
            stays
        });
        for (port, standing) in wanted {
            match self.ports.get(&port) {
                Some(one) => {
                    one.standing.send_if_modified(|current| {
                        let is_new = *current != standing;
                        *current = standing;
                        is_new
                    });
                }
                None => drop(self.ports.insert(port, Port::open(port, standing))),
            }
        }
    }

    /// Returns what each port answers. Of two Services with one port the first has it.
    fn standings(&self, cluster: &Cluster, locality: &Locality, is_healthy: bool) -> BTreeMap<u16, Standing> {
        let mut standings = BTreeMap::new();
        for service in self.services.iter().filter_map(|name| cluster.service(name)) {
            if let Some(port) = service.traffic.health_check_port {
                let local_endpoints = local_endpoints(cluster, &service.name, locality);
                let standing = Standing { service: service.name.clone(), local_endpoints, is_healthy };
                standings.entry(port).or_insert(standing);
            }
        }
        standings
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.ports.values().filter_map(|port| port.task.as_ref()).for_each(JoinHandle::abort);
    }
}

impl Port {
    fn open(port: u16, standing: Standing) -> Self {
        let service = standing.service.clone();
        let (standing, told) = watch::channel(standing);
        let task = match listen(port) {
            Ok(listener) => Some(tokio::spawn(serve(listener, told))),
            Err(error) => {
                tracing::error!("Service {service}: spec.healthCheckNodePort {port}: cannot listen: {error}");
                None
            }
        };
        Self { standing, task }
    }
}

/// Listens on all addresses of both families, or of IPv4 alone where there is no IPv6.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let bind = |socket: TcpSocket, address: IpAddr| {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(128)
    };
    match TcpSocket::new_v6() {
        Ok(socket) => bind(socket, Ipv6Addr::UNSPECIFIED.into()),
        Err(_) => bind(TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
    }
}

async fn serve(listener: TcpListener, told: watch::Receiver<Standing>) {
    let router = Router::new().fallback(answer).with_state(Arc::new(told));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("health check server ended: {error}");
    }
}

async fn answer(State(told): State<Arc<watch::Receiver<Standing>>>) -> impl IntoResponse {
    let standing = told.borrow().clone();
    let Standing { service, local_endpoints, is_healthy } = &standing;
    let body = serde_json::json!({
        "service": { "namespace": *service.namespace, "name": *service.name },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": is_healthy,
    });
    let is_good = *local_endpoints > 0 && *is_healthy;
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("X-Load-Balancing-Endpoint-Weight", local_endpoints.to_string()),
    ];
    (status, headers, body.to_string())
}

/// Counts the addresses that are ready on this node, each once whatever ports it has.
fn local_endpoints(cluster: &Cluster, service: &ObjectName, locality: &Locality) -> usize {
    let is_local = |node: &Option<Arc<str>>| locality.node.is_none() || *node == locality.node;
    let endpoints = cluster.slices_of(service).flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.ready && is_local(&endpoint.node));
    ready.map(|endpoint| endpoint.address).collect::<BTreeSet<IpAddr>>().len()
}

#[cfg(test)]
mod tests;
