//! `tidegate run --check`: says what a run would do and what it could not, and changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use tidegate_dataplane::routes::{RouteKind, Routes};

use crate::cli::{RunArguments, Source};
use crate::cluster::{Cluster, Dirty};
use crate::manifests::{self, Manifests};
use crate::netlink::{Link, Netlink};
use crate::tables::{Compiler, EndpointKey};
use crate::{masquerade, offloads, settings};

/// Prints the plan.
///
/// # Errors
/// The first thing that would keep a run from starting.
pub async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    settings::check_privileges()?;
    let cores = settings::cores(arguments)?;
    let netlink = Netlink::connect()?;
    let served = settings::served_links(arguments, &netlink).await?;
    for link in &served {
        let queues = offloads::receive_queues(&link.name)?;
        println!("device {}: {queues} receive queues, MTU {}, {}", link.name, link.mtu, link.mac);
        if let Some(program) = link.xdp_program {
            println!("device {}: XDP program {program} is on it; a run would be refused", link.name);
        }
    }
    println!("workers: one on each of the cores {cores:?}");
    let Source::Manifests(directory) = &arguments.source;
    let settings = manifests::Settings { service_cidrs: arguments.service_cidrs.clone(), state_file: None };
    let mut source = Manifests::open(directory.clone(), settings)
        .with_context(|| format!("--source manifests:{}", directory.display()))?;
    let mut cluster = Cluster::default();
    let mut dirty = Dirty::default();
    for event in source.next().await {
        cluster.apply(event, &mut dirty);
    }
    let endpoints = print_services(&cluster);
    let routes = Routes::new(netlink.routes().await?);
    for endpoint in &endpoints {
        print_limit(endpoint, &routes, &served);
    }
    for problem in &source.report().problems {
        println!("refused: {problem}");
    }
    let ports = arguments.masquerade_ports.0;
    let masquerade = masquerade::policy(arguments);
    match masquerade::ports_in_use(&masquerade) {
        Some(_) => println!("masquerade: {:?}, ports {}-{}", masquerade.mode, ports.first(), ports.last()),
        None => println!("masquerade: never; a client that is itself an endpoint may get no answer"),
    }
    for listen in &arguments.dns_listen {
        println!("DNS: {}", listen.0);
    }
    Ok(())
}

fn print_services(cluster: &Cluster) -> BTreeSet<EndpointKey> {
    let mut compiler = Compiler::default();
    let mut all = BTreeSet::new();
    for service in cluster.services() {
        for compiled in compiler.compile(cluster, &service.name) {
            for port in compiled.table.ports() {
                let backends = port.backends.members().len();
                println!(
                    "Service {}: {}:{}/{} -> {backends} endpoints",
                    service.name, compiled.address, port.port, port.protocol
                );
            }
            all.extend(compiled.endpoints);
        }
    }
    all
}

/// Names an endpoint whose replies would not come back through us.
fn print_limit(endpoint: &EndpointKey, routes: &Routes, served: &[Link]) {
    let EndpointKey { address, port, protocol } = endpoint;
    let why = match routes.lookup(*address) {
        Some(RouteKind::Unicast { device, .. }) if served.iter().any(|link| link.index == device) => return,
        Some(RouteKind::Unicast { device, .. }) => {
            format!("leaves by device {} that is not served", device.0)
        }
        Some(RouteKind::Local) => "is on this box".to_owned(),
        Some(RouteKind::Unreachable) | None => "has no route".to_owned(),
    };
    println!(
        "limit: endpoint {}/{protocol} {why}: its replies would pass us by",
        socket(*address, port.number())
    );
}

fn socket(address: IpAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address, port)
}
