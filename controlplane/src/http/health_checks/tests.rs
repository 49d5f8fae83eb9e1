//! The ports on loopback, asked over HTTP.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::cluster::{Dirty, Endpoint, EndpointSlice, Event, Service, ServiceKind};
use crate::traffic::{Policy, Traffic};

fn free_port() -> u16 {
    std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn cluster(port: u16, nodes: &[(&str, bool)]) -> Cluster {
    let name = ObjectName::new("dev", "ent");
    let endpoint = |(number, (node, ready)): (u8, &(&str, bool))| Endpoint {
        ready: *ready,
        node: Some((*node).into()),
        ..Endpoint::ready_at(IpAddr::from([10, 244, 0, number]))
    };
    let traffic = Traffic { external: Policy::Local, health_check_port: Some(port), ..Traffic::default() };
    let service = Service {
        name: name.clone(),
        kind: ServiceKind::ClusterIp(vec!["10.96.0.1".parse().unwrap()]),
        ports: Vec::new(),
        foreign_proxy: false,
        traffic,
    };
    let slice = EndpointSlice {
        name: ObjectName::new("dev", "ent-1"),
        service: name,
        endpoints: (1..).zip(nodes).map(endpoint).collect(),
        ports: Vec::new(),
    };
    let mut cluster = Cluster::default();
    cluster.apply(Event::ServiceApplied(service.into()), &mut Dirty::default());
    cluster.apply(Event::SliceApplied(slice.into()), &mut Dirty::default());
    cluster
}

async fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn follow(checks: &mut HealthChecks, cluster: &Cluster, locality: &Locality, is_healthy: bool) {
    checks.note(cluster, [&ObjectName::new("dev", "ent")]);
    checks.follow(cluster, locality, || is_healthy);
}

#[tokio::test]
async fn k32_a_health_check_port_says_how_many_endpoints_are_ready_on_this_node() {
    let port = free_port();
    let here = Locality { node: Some("here".into()), zone: None };
    let mut checks = HealthChecks::default();
    let nodes = [("here", true), ("here", true), ("here", false), ("there", true)];
    follow(&mut checks, &cluster(port, &nodes), &here, true);
    let answer = ask(port).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
    let body =
        r#"{"localEndpoints":2,"service":{"name":"ent","namespace":"dev"},"serviceProxyHealthy":true}"#;
    assert!(answer.ends_with(body), "{answer}");

    follow(&mut checks, &cluster(port, &[("there", true)]), &here, true);
    assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503"));
    follow(&mut checks, &cluster(port, &[("there", true)]), &Locality::default(), true);
    assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 200"), "no node: all endpoints are served");
    follow(&mut checks, &cluster(port, &[("here", true)]), &here, false);
    let answer = ask(port).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains(r#""serviceProxyHealthy":false"#),
        "{answer}"
    );

    follow(&mut checks, &Cluster::default(), &here, true);
    let gone = async {
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the port is closed");
}
