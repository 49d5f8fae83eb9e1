//! From the command line to a gateway that serves, and back to a machine without a trace of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tidegate_dataplane::flows::FlowTables;
use tidegate_dataplane::services::Services;
use tidegate_dataplane::snapshot::{Publisher, Snapshot};
use tidegate_dataplane::worker::Shared;
use tidegate_dataplane::xdp::Steering;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::account_book::AccountBook;
use crate::announce::Announcer;
use crate::cli::{Announce, RunArguments};
use crate::cluster::Cluster;
use crate::devices::{self, ServedDevices};
use crate::dns::{self, Zone};
use crate::frontends::Frontends;
use crate::gateway::{self, Gateway};
use crate::http::health_checks::HealthChecks;
use crate::http::metrics;
use crate::instance::{Change, Instance};
use crate::latency::Latency;
use crate::netlink::{KernelEvents, Link, Netlink};
use crate::publish::Publication;
use crate::punt_device::PuntDevice;
use crate::source::{self, Source, Update};
use crate::steering::DeviceSteering;
use crate::tables::Compiler;
use crate::topology::{Changed, Topology};
use crate::workers::{AttachedDevice, Plan, SocketReport, Workers};
use crate::{masquerade, offloads, pages, reserved_ports, settings, status};

/// Next hops that may wait for the control thread at once.
const WANTED: usize = 1024;
/// How long the DNS server may take to end.
const DNS_END: Duration = Duration::from_secs(1);

/// Runs a gateway until it is told to end.
///
/// # Errors
/// Names what could not be had, and why. The machine is left as it was.
pub async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    settings::check_privileges()?;
    let cores = settings::cores(arguments)?;
    settings::check_dns(arguments)?;
    settings::check_paths(arguments)?;
    let netlink = Arc::new(Netlink::connect()?);
    let served = settings::served_links(arguments, &netlink).await?;
    settings::require_free_service_cidrs(arguments, &netlink).await?;
    settings::require_queues(&served, cores.len())?;
    // From here on a signal must not end the process before it has taken back what it did.
    let mut signals = EndSignals::listen()?;
    raise_descriptor_limit();
    let mut instance = Instance::claim(&arguments.state_dir)?;
    instance.recover(&netlink, offloads::restore).await.context("what an earlier run left")?;
    let starting = start(arguments, &cores, &netlink, &served, &mut instance);
    let outcome = match signals.unless_told(starting).await {
        Some(Ok(mut gateway)) => {
            announce(&gateway, arguments);
            let outcome = signals.unless_told(gateway.run(&mut instance)).await;
            end(gateway).await;
            outcome.map_or(Ok(()), |outcome| outcome.map(|never| match never {}))
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    let ended = instance.end(&netlink, offloads::restore).await;
    if let (Err(_), Err(error)) = (&outcome, &ended) {
        tracing::error!("{error:#}");
    }
    outcome.and(ended)
}

/// SIGTERM and SIGINT.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
        })
    }

    /// Returns what a task comes to, or `None`, and drops the task, if we are told to end before.
    async fn unless_told<T>(&mut self, task: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = task => Some(outcome),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        }
    }
}

/// Lets this process have as many descriptors as it may: each forwarded question and each TCP client has one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Ends names first and packets last; when it returns, devices are free of the XDP program.
async fn end(mut gateway: Gateway) {
    if let Some(dns) = gateway.dns.take()
        && tokio::time::timeout(DNS_END, dns.shutdown()).await.is_err()
    {
        tracing::warn!("the DNS server did not end within {DNS_END:?}");
    }
    gateway.workers.end();
    gateway.source.end().await;
}

/// Opens the doors for questions, which get SERVFAIL until the names are known; then carries packets; then
/// puts Services and names in force. What others may hold already, such as a port, fails before a packet is taken.
async fn start(
    arguments: &RunArguments,
    cores: &[usize],
    netlink: &Arc<Netlink>,
    served: &[Link],
    instance: &mut Instance,
) -> anyhow::Result<Gateway> {
    let kernel_events = KernelEvents::subscribe()?;
    let mut asked = match arguments.metrics {
        Some(address) => Some(metrics::serve(address).await?),
        None => None,
    };
    let mut source = Source::open(source::Settings::of_run(arguments, true)).await?;
    let first = gateway::first_update(&mut source, &mut asked).await;
    let names = Arc::new(ArcSwap::from_pointee(Zone::new(settings::zone(arguments))?));
    let dns_counters = Arc::default();
    let dns = open_dns(arguments, netlink, instance, Arc::clone(&names), Arc::clone(&dns_counters)).await?;

    let (shared, wanted_bell) = share(arguments, instance)?;
    let mut steering = load_program(arguments)?;
    let devices = attach(arguments, &mut steering, served, instance)?;
    let punt = PuntDevice::create(netlink, instance, cores.len() as u32, served).await?;
    instance.record(Change::ManagedNeighbours)?;
    let topology = Topology::read(netlink, served).await?;
    let masquerade = masquerade::policy(arguments);
    if let Some(ports) = masquerade::ports_in_use(&masquerade) {
        reserved_ports::reserve(ports, instance).context("--masquerade-ports")?;
        steering.program.set_masquerade_ports(Some(ports))?;
    }
    let services = Services::new(settings::prefixes(&arguments.service_cidrs).iter().copied());
    let pod_networks = settings::prefixes(&arguments.pod_cidrs);
    let empty = Snapshot { masquerade, pod_networks, ..Snapshot::empty(services) };
    let (publisher, subscribers) = Publisher::new(empty, cores.len());
    let plan =
        Plan { devices: &devices, cores, frames: arguments.frames, punt: &punt, shared: shared.clone() };
    let workers = Workers::start(plan, &mut steering.program, subscribers)?;

    let linger = arguments.vip_linger.0;
    let compiler = Compiler::new(settings::locality(arguments))
        .with_accounts(AccountBook::new(arguments.metrics_endpoints));
    let mut gateway = Gateway {
        source,
        cluster: Cluster::default(),
        netlink: Arc::clone(netlink),
        kernel_events,
        topology,
        health_checks: HealthChecks::default(),
        announcer: (arguments.announce == Announce::L2).then(Announcer::start),
        publication: Publication::new(steering, publisher, compiler, Arc::clone(&names), linger),
        workers,
        devices: ServedDevices::new(devices),
        attach_preference: settings::attach_preference(arguments),
        shared,
        wanted_bell,
        dns,
        dns_counters,
        asked,
        sweep_at: Instant::now(),
        latency: Latency::default(),
        litter: 0,
        litter_at: Instant::now(),
        has_judged_found: false,
    };
    begin(&mut gateway, arguments, first, &names).await?;
    Ok(gateway)
}

/// Loads the XDP program, which knows the listeners and nothing else.
fn load_program(arguments: &RunArguments) -> anyhow::Result<DeviceSteering> {
    let program = Steering::load_with(settings::room(arguments)).context("cannot load the XDP program")?;
    let mut steering = DeviceSteering::new(program, Frontends::new(arguments.nodeport_addresses.clone()));
    for listen in &arguments.dns_listen {
        steering.insert_listener(listen.0)?;
    }
    Ok(steering)
}

/// Puts the first tables and names in force.
async fn begin(
    gateway: &mut Gateway,
    arguments: &RunArguments,
    first: Update,
    names: &ArcSwap<Zone>,
) -> anyhow::Result<()> {
    gateway.publish_topology(Changed { links: true, own_addresses: true });
    gateway.apply_update(first);
    gateway.publication.settle(&gateway.cluster).await;
    let flows = &gateway.shared.flows;
    let found = flows.sockets_in_use().into_iter().map(|(_, socket)| socket);
    gateway.publication.steer_found(found.chain(flows.sockets_with_tombstones()));
    gateway.judge_found();
    for cidr in &arguments.service_cidrs {
        gateway.publication.steering.insert_service_cidr(cidr)?;
    }
    names.rcu(|zone| {
        let mut zone = Zone::clone(zone);
        zone.set_synced();
        zone
    });
    gateway.dns_counters.note_synced();
    Ok(())
}

/// Listens for questions, on addresses that are added to `lo` if no interface has them.
async fn open_dns(
    arguments: &RunArguments,
    netlink: &Netlink,
    instance: &mut Instance,
    names: Arc<ArcSwap<Zone>>,
    counters: Arc<dns::Counters>,
) -> anyhow::Result<Option<dns::Server>> {
    for listen in &arguments.dns_listen {
        instance.add_loopback_address(netlink, listen.0.ip()).await?;
    }
    if arguments.dns_listen.is_empty() {
        return Ok(None);
    }
    let listen = arguments.dns_listen.iter().map(|listen| listen.0).collect();
    let server = dns::Server::start(settings::dns(arguments, listen, names)?, counters);
    server.map(Some).map_err(settings::dns_fault)
}

fn share(arguments: &RunArguments, instance: &Instance) -> anyhow::Result<(Shared, UnixDatagram)> {
    let (flows, recoveries) = FlowTables::open(instance.directory(), arguments.flows)?;
    let flows = flows.with_timeouts(arguments.flow_timeouts());
    for (name, recovery) in FlowTables::FILES.iter().zip(recoveries) {
        let path = instance.directory().join(name);
        let (kept, dropped) = (recovery.kept, recovery.dropped);
        tracing::info!("flow table {}: {kept} flows kept, {dropped} dropped", path.display());
        if let Some(refusal) = recovery.refused {
            tracing::warn!("flow table {}: emptied: {refusal}", path.display());
        }
    }
    let (bell, rings) = std::os::unix::net::UnixDatagram::pair().context("a pair of sockets")?;
    for end in [&bell, &rings] {
        end.set_nonblocking(true).context("a pair of sockets")?;
    }
    let shared = Shared {
        flows: Arc::new(flows),
        wanted: Arc::new(ArrayQueue::new(WANTED)),
        control_bell: Arc::new(bell),
        polling: arguments.polling.into(),
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
    let want = settings::attach_preference(arguments);
    let attach = |link| {
        devices::attach(link, want, &mut steering.program, instance)
            .with_context(|| format!("--interface {}", link.name))
    };
    served.iter().map(attach).collect()
}

/// Says how each socket came out, and that packets and names are served.
fn announce(gateway: &Gateway, arguments: &RunArguments) {
    gateway.workers.sockets.iter().for_each(SocketReport::log);
    let (addresses, endpoints) = gateway.publication.sizes();
    let listen: Vec<String> = arguments.dns_listen.iter().map(|listen| listen.0.to_string()).collect();
    let dns = if listen.is_empty() { "no DNS".to_owned() } else { format!("DNS on {}", listen.join(", ")) };
    eprintln!(
        "ready: {} Services, {addresses} virtual addresses, {endpoints} endpoints; serving {}; {dns}",
        gateway.cluster.services().count(),
        served_devices(&gateway.workers.sockets)
    );
    pages::log(&gateway.workers.frame_addresses(), &arguments.state_dir);
    for trouble in gateway.source.troubles() {
        tracing::warn!("{trouble}");
    }
}

/// Names each device with the modes that its sockets are in, as `eth1 (zero-copy), eth2 (copy)`.
fn served_devices(sockets: &[SocketReport]) -> String {
    let mut devices: Vec<(&str, Vec<&str>)> = Vec::new();
    for socket in sockets {
        let (_, mode) = status::mode_names(socket);
        match devices.iter_mut().find(|(device, _)| *device == socket.device) {
            Some((_, modes)) if modes.contains(&mode) => {}
            Some((_, modes)) => modes.push(mode),
            None => devices.push((&socket.device, vec![mode])),
        }
    }
    let named = devices.iter().map(|(device, modes)| format!("{device} ({})", modes.join(" and ")));
    named.collect::<Vec<_>>().join(", ")
}
