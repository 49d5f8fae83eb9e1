//! `tidegate run --check`: says what a run would do and what it could not, and changes nothing.
//!
//! What it prints starts with one of a few words: `kernel`, `device`, `worker`, `announce`, `DNS`, `metrics`,
//! `Service` for the plan; `limit` for what a run would not do for a Service or an endpoint; `refused` for what is
//! wrong in manifests; `obstacle` for what would keep a run from starting now. `machine` looks at the box, this file
//! at the cluster.

mod machine;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use tidegate_dataplane::routes::{RouteKind, Routes};
use tidegate_dataplane::services::Frontend;

use crate::cli::{Announce, PollingMode, RunArguments};
use crate::cluster::{Cluster, Dirty, Service, ServiceKind};
use crate::compile::Locality;
use crate::frame_limit::needs_chains;
use crate::netlink::{Link, Netlink};
use crate::printout::say;
use crate::source::Source;
use crate::tables::Compiler;
use crate::traffic::Policy;
use crate::{masquerade, offloads, settings, source};

/// Prints the plan.
///
/// # Errors
/// A setting that cannot hold; or, when all is printed, that there are obstacles.
pub async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    settings::check_privileges()?;
    let cores = settings::cores(arguments)?;
    settings::check_dns(arguments)?;
    settings::check_paths(arguments)?;
    let netlink = Netlink::connect()?;
    let served = settings::served_links(arguments, &netlink).await?;
    settings::require_free_service_cidrs(arguments, &netlink).await?;
    settings::require_queues(&served, cores.len())?;
    let mut source = Source::open(source::Settings::of_run(arguments, false)).await?;
    let mut cluster = Cluster::default();
    for event in source.next().await.events {
        cluster.apply(event, &mut Dirty::default());
    }

    let mut obstacles = machine::obstacles(arguments, &netlink).await?;
    obstacles.extend(print_devices(&served, arguments, &cores)?);
    let own: BTreeSet<IpAddr> = netlink.addresses().await?.into_iter().map(|own| own.address).collect();
    print_doors(arguments, &own)?;
    let locality = settings::locality(arguments);
    print_cluster(&cluster, &locality, &served, &own, &Routes::new(netlink.routes().await?));
    print_refused(&source);
    for obstacle in &obstacles {
        say(format_args!("obstacle: {obstacle}"));
    }
    match obstacles.len() {
        0 => Ok(()),
        1 => bail!("a run would not start now: there is an obstacle"),
        several => bail!("a run would not start now: there are {several} obstacles"),
    }
}

fn print_devices(served: &[Link], arguments: &RunArguments, cores: &[usize]) -> anyhow::Result<Vec<String>> {
    let mut obstacles = Vec::new();
    for link in served {
        let queues = offloads::receive_queues(&link.name)?;
        let chains = if needs_chains(link.mtu) { " (multi-buffer)" } else { "" };
        say(format_args!(
            "device {}: {queues} receive queues, MTU {}{chains}, {}",
            link.name, link.mtu, link.mac
        ));
        if let Some(program) = link.xdp_program {
            obstacles.push(format!(
                "--interface {}: XDP program {program} is on it; stop what attached it, or `ip link set {} xdp off`",
                link.name, link.name
            ));
        }
        for (worker, core) in cores.iter().enumerate() {
            let own: Vec<String> =
                (worker..queues as usize).step_by(cores.len()).map(|q| q.to_string()).collect();
            say(format_args!(
                "worker {worker} on core {core}: device {} queues {}",
                link.name,
                own.join(", ")
            ));
        }
    }
    say(format_args!(
        "workers: {} packet buffers of 4 KiB each, a table of {} flows for all, in {}; {}",
        arguments.frames,
        arguments.flows,
        arguments.state_dir.display(),
        match arguments.polling {
            PollingMode::Adaptive => "they sleep when no packets come",
            PollingMode::Busy => "they always spin",
        }
    ));
    Ok(obstacles)
}

fn print_doors(arguments: &RunArguments, own: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    match masquerade::ports_in_use(&masquerade::policy(arguments)) {
        Some(ports) => {
            let mode = arguments.masquerade.name();
            say(format_args!("masquerade: {mode}, ports {}-{}", ports.first(), ports.last()));
        }
        None => say(format_args!("masquerade: never; a client that is itself chosen gets no answer")),
    }
    if arguments.announce == Announce::L2 {
        say(format_args!(
            "announce: virtual addresses in networks of served devices, by ARP and Neighbor Discovery"
        ));
    }
    for listen in arguments.dns_listen.iter().map(|listen| listen.0) {
        let added = if own.contains(&listen.ip()) { "" } else { "; a run would add the address to lo" };
        say(format_args!("DNS: {} on {listen}{added}", arguments.cluster_domain));
    }
    for upstream in settings::upstreams(arguments)? {
        say(format_args!("DNS: other names by {upstream}, for --pod-cidr and --dns-allow"));
    }
    for stub in &arguments.dns_stubs {
        say(format_args!("DNS: {} by {}, for --pod-cidr and --dns-allow", stub.zone, stub.server));
    }
    if let Some(address) = arguments.metrics {
        say(format_args!("metrics: http://{address}/metrics"));
    }
    Ok(())
}

fn print_cluster(
    cluster: &Cluster,
    locality: &Locality,
    served: &[Link],
    own: &BTreeSet<IpAddr>,
    routes: &Routes,
) {
    let mut compiler = Compiler::new(locality.clone());
    let mut endpoints = BTreeSet::new();
    for service in cluster.services() {
        for compiled in compiler.compile(cluster, &service.name, &BTreeSet::new()) {
            endpoints.extend(compiled.endpoints());
            for port in compiled.table.ports() {
                let backends = port.backends.members().len();
                let at = match compiled.frontend {
                    Frontend::Address(address) => Frontend::Socket(address, port.protocol, port.port),
                    socket => socket,
                };
                say(format_args!("Service {}: {at} -> {backends} endpoints", service.name));
            }
        }
        print_limits_of_service(service, locality, own);
    }
    for endpoint in &endpoints {
        if let Some(why) = passes_by(endpoint.address, routes, served) {
            let at = SocketAddr::new(endpoint.address, endpoint.port.number());
            say(format_args!(
                "limit: endpoint {at}/{}: {why}: its replies would pass us by",
                endpoint.protocol
            ));
        }
    }
}

fn print_limits_of_service(service: &Service, locality: &Locality, own: &BTreeSet<IpAddr>) {
    let ServiceKind::ClusterIp(addresses) = &service.kind else { return };
    let name = &service.name;
    if service.foreign_proxy {
        say(format_args!(
            "limit: Service {name}: label service-proxy-name: names only, packets are another proxy's"
        ));
        return;
    }
    let traffic = &service.traffic;
    for (policy, field) in
        [(traffic.internal, "internalTrafficPolicy"), (traffic.external, "externalTrafficPolicy")]
    {
        if policy == Policy::Local && locality.node.is_none() {
            say(format_args!(
                "limit: Service {name}: {field} Local: without --node-name it means all endpoints"
            ));
        }
    }
    for address in addresses {
        if own.contains(address) {
            say(format_args!(
                "limit: Service {name}: {address} is this box's own: packets to it stay the kernel's"
            ));
        }
    }
}

/// Says why replies of an endpoint would not come back through us, if so.
fn passes_by(endpoint: IpAddr, routes: &Routes, served: &[Link]) -> Option<String> {
    match routes.lookup(endpoint, 0) {
        Some(RouteKind::Unicast { device, .. }) if served.iter().any(|link| link.index == device) => None,
        Some(RouteKind::Unicast { device, .. }) => {
            Some(format!("is reached by device {} that is not served", device.0))
        }
        Some(RouteKind::Local) => Some("is on this box".to_owned()),
        Some(RouteKind::Unreachable) | None => Some("has no route".to_owned()),
    }
}

fn print_refused(source: &Source) {
    for problem in &source.report().problems {
        say(format_args!("refused: {problem}"));
    }
}
