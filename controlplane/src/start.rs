//! From the command line to a gateway that serves, and back to a machine without a trace of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use ipnet::IpNet;
use tidegate_dataplane::flows::{FlowTable, Timeouts};
use tidegate_dataplane::services::Services;
use tidegate_dataplane::snapshot::{Publisher, Snapshot};
use tidegate_dataplane::worker::Shared;
use tidegate_dataplane::xdp::{AttachMode, AttachPreference, Steering};
use tokio::net::UnixDatagram;

use crate::cli::{RunArguments, Source, XdpMode};
use crate::cluster::{Cluster, Dirty};
use crate::dns::{self, Zone, ZoneSettings};
use crate::gateway::Gateway;
use crate::instance::{Change, Instance};
use crate::manifests::{self, Manifests};
use crate::netlink::{KernelEvents, Link, Netlink};
use crate::publish::Publication;
use crate::punt_device::PuntDevice;
use crate::steering::DeviceSteering;
use crate::topology::{Changed, Topology};
use crate::workers::{AttachedDevice, Plan, Workers};
use crate::{masquerade, metrics, offloads, reserved_ports, settings, status};

/// Next hops that may wait for the control thread at once.
const WANTED: usize = 1024;

/// Runs a gateway until it is told to end.
///
/// # Errors
/// Names what could not be had, and why. The machine is left as it was.
pub async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    settings::check_privileges()?;
    let cores = settings::cores(arguments)?;
    let netlink = Arc::new(Netlink::connect()?);
    let served = settings::served_links(arguments, &netlink).await?;
    let mut instance = Instance::claim(&arguments.state_dir)?;
    instance.recover(&netlink, offloads::restore).await.context("what an earlier run left")?;
    let outcome = match start(arguments, &cores, &netlink, &served, &mut instance).await {
        Ok(mut gateway) => {
            announce(&gateway, arguments);
            let outcome = gateway.run().await;
            gateway.workers.end();
            if let Some(dns) = gateway.dns.take() {
                dns.shutdown().await;
            }
            outcome
        }
        Err(error) => Err(error),
    };
    let ended = instance.end(&netlink, offloads::restore).await;
    outcome.and(ended)
}

async fn start(
    arguments: &RunArguments,
    cores: &[usize],
    netlink: &Arc<Netlink>,
    served: &[Link],
    instance: &mut Instance,
) -> anyhow::Result<Gateway> {
    let kernel_events = KernelEvents::subscribe()?;
    let mut source = open_source(arguments, instance)?;
    let first_events = source.next().await;
    let (shared, wanted_bell) = share(arguments, instance)?;
    let mut steering = DeviceSteering::new(Steering::load().context("cannot load the XDP program")?);
    let devices = attach(arguments, &mut steering, served, instance)?;
    let punt = PuntDevice::create(netlink, instance, cores.len() as u32, served).await?;
    instance.record(Change::ManagedNeighbours)?;
    let topology = Topology::read(netlink, served).await?;

    let cidrs = arguments.service_cidrs.iter().filter_map(|cidr| match cidr {
        IpNet::V4(cidr) => Some((cidr.network(), cidr.prefix_len())),
        IpNet::V6(_) => None,
    });
    let masquerade = masquerade::policy(arguments);
    if let Some(ports) = masquerade::ports_in_use(&masquerade) {
        reserved_ports::reserve(ports, instance).context("--masquerade-ports")?;
        steering.program.set_masquerade_ports(Some(ports))?;
    }
    let first = Snapshot { masquerade, ..Snapshot::empty(Services::new(cidrs)) };
    let (publisher, subscribers) = Publisher::new(first, cores.len());
    let plan =
        Plan { devices: &devices, cores, frames: arguments.frames, punt: &punt, shared: shared.clone() };
    let workers = Workers::start(plan, &mut steering.program, subscribers)?;

    let names = Arc::new(ArcSwap::from_pointee(Zone::new(zone_settings(arguments))?));
    let linger = arguments.vip_linger.0;
    let mut gateway = Gateway {
        source,
        cluster: Cluster::default(),
        netlink: Arc::clone(netlink),
        kernel_events,
        topology,
        publication: Publication::new(steering, publisher, Arc::clone(&names), linger),
        workers,
        shared,
        wanted_bell,
        dns: None,
        dns_counters: Arc::default(),
        asked: None,
    };
    // From here on a failure has to end the workers too.
    if let Err(error) = begin(&mut gateway, arguments, instance, first_events, names).await {
        gateway.workers.end();
        return Err(error);
    }
    Ok(gateway)
}

/// Puts the first tables in force, then opens the doors: names last (design decision 6).
async fn begin(
    gateway: &mut Gateway,
    arguments: &RunArguments,
    instance: &mut Instance,
    first_events: Vec<crate::cluster::Event>,
    names: Arc<ArcSwap<Zone>>,
) -> anyhow::Result<()> {
    for listen in &arguments.dns_listen {
        gateway.publication.steering.insert_listener(listen.0)?;
        instance.add_loopback_address(&gateway.netlink, listen.0.ip()).await?;
    }
    gateway.topology = {
        let served = settings::served_links(arguments, &gateway.netlink).await?;
        Topology::read(&gateway.netlink, &served).await?
    };
    gateway.publish_topology(Changed { links: true, own_addresses: true });
    let mut dirty = Dirty::default();
    for event in first_events {
        gateway.cluster.apply(event, &mut dirty);
    }
    gateway.publication.apply(&gateway.cluster, &dirty, Instant::now()).await;
    for cidr in &arguments.service_cidrs {
        gateway.publication.steering.insert_service_cidr(cidr)?;
    }
    names.rcu(|zone| {
        let mut zone = Zone::clone(zone);
        zone.set_synced();
        zone
    });
    if !arguments.dns_listen.is_empty() {
        gateway.dns =
            Some(dns::Server::start(dns_settings(arguments, names), Arc::clone(&gateway.dns_counters))?);
    }
    if let Some(address) = arguments.metrics {
        gateway.asked = Some(metrics::serve(address).await?);
    }
    Ok(())
}

fn open_source(arguments: &RunArguments, instance: &Instance) -> anyhow::Result<Manifests> {
    let Source::Manifests(directory) = &arguments.source;
    let settings = manifests::Settings {
        service_cidrs: arguments.service_cidrs.clone(),
        state_file: Some(instance.directory().join("clusterips.json")),
    };
    Manifests::open(directory.clone(), settings)
        .with_context(|| format!("--source manifests:{}", directory.display()))
}

fn share(arguments: &RunArguments, instance: &Instance) -> anyhow::Result<(Shared, UnixDatagram)> {
    let path = instance.directory().join("flows");
    let (flows, recovery) = FlowTable::open(&path, arguments.flows)?;
    tracing::info!(
        "flow table {}: {} flows kept, {} dropped",
        path.display(),
        recovery.kept,
        recovery.dropped
    );
    if let Some(refusal) = recovery.refused {
        tracing::warn!("flow table {}: emptied: {refusal}", path.display());
    }
    let (bell, rings) = std::os::unix::net::UnixDatagram::pair().context("a pair of sockets")?;
    for end in [&bell, &rings] {
        end.set_nonblocking(true).context("a pair of sockets")?;
    }
    let shared = Shared {
        flows: Arc::new(flows),
        timeouts: Arc::new(Timeouts::default()),
        wanted: Arc::new(ArrayQueue::new(WANTED)),
        control_bell: Arc::new(bell),
        stop: Arc::new(AtomicBool::new(false)),
    };
    Ok((shared, UnixDatagram::from_std(rings).context("a pair of sockets")?))
}

fn attach(
    arguments: &RunArguments,
    steering: &mut DeviceSteering,
    served: &[Link],
    instance: &mut Instance,
) -> anyhow::Result<Vec<AttachedDevice>> {
    let want = match arguments.xdp_mode {
        XdpMode::Auto => AttachPreference::NativeThenGeneric,
        XdpMode::Generic => AttachPreference::GenericOnly,
    };
    let mut devices = Vec::new();
    for link in served {
        let queues = offloads::receive_queues(&link.name)?;
        let attach_mode = steering
            .program
            .attach(link.index, &link.name, queues, want)
            .with_context(|| format!("--interface {}", link.name))?;
        if attach_mode == AttachMode::Generic {
            offloads::switch_off(&link.name, instance)?;
        }
        devices.push(AttachedDevice { index: link.index, name: link.name.clone(), queues, attach_mode });
    }
    Ok(devices)
}

fn zone_settings(arguments: &RunArguments) -> ZoneSettings {
    ZoneSettings {
        domain: arguments.cluster_domain.clone(),
        service_cidrs: arguments.service_cidrs.clone(),
        servers: arguments.dns_listen.iter().map(|listen| listen.0.ip()).collect(),
        ..ZoneSettings::default()
    }
}

fn dns_settings(arguments: &RunArguments, zone: Arc<ArcSwap<Zone>>) -> dns::ServerSettings {
    dns::ServerSettings {
        listen: arguments.dns_listen.iter().map(|listen| listen.0).collect(),
        zone,
        forward: dns::ForwardSettings {
            upstreams: arguments.dns_upstream.iter().map(|upstream| upstream.0).collect(),
            stubs: arguments.dns_stubs.iter().map(|stub| (stub.zone.clone(), stub.server)).collect(),
            allow: arguments.pod_cidrs.iter().chain(&arguments.dns_allow).copied().collect(),
        },
        aaaa_nodata: arguments.dns_aaaa.is_some(),
    }
}

/// Says how each socket came out, and that packets and names are served.
fn announce(gateway: &Gateway, arguments: &RunArguments) {
    for socket in &gateway.workers.sockets {
        let (attach, mode) = status::mode_names(socket);
        tracing::info!(
            "device {} queue {}: {mode} mode, {attach} XDP, worker {}",
            socket.device,
            socket.queue,
            socket.worker
        );
    }
    let (addresses, endpoints) = gateway.publication.sizes();
    let listen: Vec<String> = arguments.dns_listen.iter().map(|listen| listen.0.to_string()).collect();
    let dns = if listen.is_empty() { "no DNS".to_owned() } else { format!("DNS on {}", listen.join(", ")) };
    eprintln!(
        "ready: {} Services, {addresses} virtual addresses, {endpoints} endpoints; serving {}; {dns}",
        gateway.cluster.services().count(),
        arguments.interfaces.join(", ")
    );
}
