//! What a run needs to know, checked as far as it can be without the kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tidegate_dataplane::net::Prefix;
use tidegate_dataplane::xdp::{AttachPreference, Room};

use crate::cli::{AaaaAnswer, DnsUpstream, NameArguments, PodsMode, RunArguments, XdpMode};
use crate::compile::Locality;
use crate::dns::{self, PodNames, Zone, ZoneSettings};
use crate::netlink::{Link, Netlink};
use crate::{frame_limit, offloads};

/// A setting that cannot hold on this machine: the process ends with status 2.
#[derive(Debug)]
pub struct BadConfiguration(pub String);

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfiguration {}

/// Fails with what `message` says unless `good`.
fn require(good: bool, message: impl FnOnce() -> String) -> Result<(), BadConfiguration> {
    if good { Ok(()) } else { Err(BadConfiguration(message())) }
}

/// Returns the cores of the workers: those named, or the last one that this process may use.
///
/// # Errors
/// Names the core that is not to be had.
pub fn cores(arguments: &RunArguments) -> anyhow::Result<Vec<usize>> {
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .context("cannot read the cores of this process")?
        .iter()
        .map(|c| c.id)
        .collect();
    let Some(list) = &arguments.cores else {
        return Ok(vec![*allowed.last().context("this process may use no core")?]);
    };
    for core in &list.0 {
        require(allowed.contains(core), || {
            format!("--cores: core {core} is not to be had for this process; it has {allowed:?}")
        })?;
    }
    Ok(list.0.clone())
}

/// Virtual addresses that there is room for: those of any cluster, since none takes memory before it is there.
const VIP_PREFIXES: u32 = 1 << 20;

/// Returns how much the XDP program's maps are to hold.
#[must_use]
pub const fn room(arguments: &RunArguments) -> Room {
    Room { vip_prefixes: VIP_PREFIXES, endpoints: arguments.endpoints }
}

/// The capabilities that a run needs, by their bit in `CapEff`. Source: `include/uapi/linux/capability.h`.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (CAP_BPF, "CAP_BPF")];
const CAP_BPF: u32 = 39;
/// Without it the verifier adds barriers against speculation. Source: `kernel/bpf/verifier.c`, `bpf_bypass_spec_v1`.
const CAP_PERFMON: u32 = 38;
/// Stands for `CAP_BPF` and `CAP_PERFMON`, too.
const CAP_SYS_ADMIN: u32 = 21;

/// Checks that this process may do what a run does.
///
/// # Errors
/// Names the capabilities that are missing.
pub fn check_privileges() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let effective = effective.context("/proc/self/status: no CapEff")?;
    let has = |bit: u32| effective & 1 << bit != 0;
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| !(has(*bit) || *bit == CAP_BPF && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        bail!("this process lacks {}; run tidegate as root", missing.join(", "));
    }
    if !has(CAP_PERFMON) && !has(CAP_SYS_ADMIN) {
        tracing::info!("without CAP_PERFMON the XDP program runs with barriers against speculation: slower");
    }
    Ok(())
}

/// Refuses a state directory that is, or lies in, what is no directory, and a cluster file that is none.
///
/// # Errors
/// Names the flag and the path.
pub fn check_paths(arguments: &RunArguments) -> Result<(), BadConfiguration> {
    let state = &arguments.state_dir;
    let there = state.ancestors().find(|path| path.symlink_metadata().is_ok());
    require(there.is_none_or(Path::is_dir), || {
        let at = there.unwrap_or(state).display();
        format!("--state-dir {}: {at} is no directory", state.display())
    })?;
    let cluster = arguments.cluster_file.as_deref().filter(|file| file.is_dir());
    require(cluster.is_none(), || {
        format!("--cluster-file {}: is a directory; name a file", cluster.unwrap_or(state).display())
    })
}

/// Finds the devices to serve and refuses those that cannot be served rightly (design decision 15).
///
/// # Errors
/// Names the device and what to do.
pub async fn served_links(arguments: &RunArguments, netlink: &Netlink) -> anyhow::Result<Vec<Link>> {
    let links = netlink.links().await?;
    let mut served = Vec::new();
    for name in &arguments.interfaces {
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            let known: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            let message = format!("--interface {name}: no such device; there are {}", known.join(", "));
            return Err(BadConfiguration(message).into());
        };
        require_servable(link, &links)?;
        frame_limit::require_fitting_mtu(link, attach_preference(arguments))?;
        require(!served.iter().any(|other: &Link| other.index == link.index), || {
            format!("--interface {name}: named twice")
        })?;
        served.push(link.clone());
    }
    Ok(served)
}

/// Refuses a service CIDR that shares addresses with a network of the box or of pods: what goes to an address there
/// that no Service has is dropped (K23).
///
/// # Errors
/// Names the CIDR and the network.
pub async fn require_free_service_cidrs(arguments: &RunArguments, netlink: &Netlink) -> anyhow::Result<()> {
    let local = netlink.addresses().await?.into_iter().filter_map(|local| {
        let host = if local.address.is_ipv4() { 32 } else { 128 };
        let network = IpNet::new(local.address, local.prefix_length).ok()?.trunc();
        (local.prefix_length < host).then_some((network, "is a network of this box"))
    });
    let pods = arguments.pod_cidrs.iter().map(|pods| (pods.trunc(), "is a --pod-cidr"));
    require_disjoint(&arguments.service_cidrs, local.chain(pods)).map_err(Into::into)
}

fn require_disjoint(
    cidrs: &[IpNet],
    others: impl Iterator<Item = (IpNet, &'static str)>,
) -> Result<(), BadConfiguration> {
    for (network, what) in others {
        let shares = |cidr: &&IpNet| cidr.contains(&network) || network.contains(&cidr.trunc());
        if let Some(cidr) = cidrs.iter().find(shares) {
            return Err(BadConfiguration(format!(
                "--service-cidr {cidr}: shares addresses with {network}, which {what}"
            )));
        }
    }
    Ok(())
}

/// Refuses a device that cannot be served rightly.
///
/// # Errors
/// Names the device and what to do.
pub fn require_servable(link: &Link, links: &[Link]) -> Result<(), BadConfiguration> {
    let name = &link.name;
    require(name != "lo", || "--interface lo: the loopback device carries no packets of others".to_owned())?;
    require(link.kind.as_deref() != Some("bond"), || {
        format!("--interface {name}: it is a bond; name its members instead")
    })?;
    require(link.up, || format!("--interface {name}: it is down; bring it up with `ip link set {name} up`"))?;
    let is_vlan = |child: &&Link| child.parent == Some(link.index) && child.kind.as_deref() == Some("vlan");
    let child = links.iter().find(is_vlan);
    require(child.is_none() || !rx_vlan_offload(name), || {
        format!(
            "--interface {name}: it has the VLAN device {} and takes tags off by itself; switch that off with \
             `ethtool -K {name} rxvlan off`",
            child.map_or("", |child| child.name.as_str())
        )
    })
}

/// Returns what way of attaching the XDP program was asked for.
#[must_use]
pub const fn attach_preference(arguments: &RunArguments) -> AttachPreference {
    match arguments.xdp_mode {
        XdpMode::Auto => AttachPreference::NativeThenGeneric,
        XdpMode::Generic => AttachPreference::GenericOnly,
    }
}

/// Refuses a device whose receive queues do not give each worker at least one.
///
/// # Errors
/// Names the device and what to do.
pub fn require_queues(served: &[Link], workers: usize) -> anyhow::Result<()> {
    for Link { name, .. } in served {
        let queues = offloads::receive_queues(name)?;
        require(queues as usize >= workers, || {
            format!(
                "--cores: device {name} has {queues} receive queues, too few for {workers} workers; name fewer \
                 cores, or raise them with `ethtool -L {name} combined {workers}`"
            )
        })?;
    }
    Ok(())
}

/// Asks whether a device strips VLAN tags; one that cannot be asked does not.
fn rx_vlan_offload(name: &str) -> bool {
    tidegate_dataplane::xdp::strips_vlan_tags(name).unwrap_or(false)
}

/// Returns where this gateway stands among nodes and zones.
#[must_use]
pub fn locality(arguments: &RunArguments) -> Locality {
    let name = |text: &Option<String>| text.as_deref().map(Arc::from);
    Locality { node: name(&arguments.node_name), zone: name(&arguments.zone) }
}

/// Returns networks as the packet side has them.
#[must_use]
pub fn prefixes(networks: &[IpNet]) -> Arc<[Prefix]> {
    networks.iter().map(|net| Prefix { address: net.network(), length: net.prefix_len() }).collect()
}

/// Returns what the zone of cluster names is made with.
#[must_use]
pub fn zone(arguments: &RunArguments) -> ZoneSettings {
    let servers = arguments.dns_listen.iter().map(|listen| listen.0.ip()).collect();
    zone_of(&arguments.names, &arguments.cluster_domain, &arguments.service_cidrs, servers)
}

/// Returns what a zone of such names is made with.
#[must_use]
pub fn zone_of(
    names: &NameArguments,
    domain: &str,
    service_cidrs: &[IpNet],
    servers: Vec<IpAddr>,
) -> ZoneSettings {
    ZoneSettings {
        domain: domain.to_owned(),
        ttl: names.dns_ttl,
        negative_ttl: names.dns_negative_ttl.unwrap_or(names.dns_ttl),
        service_cidrs: service_cidrs.to_vec(),
        servers,
        pods: match names.dns_pods {
            PodsMode::Disabled => PodNames::Disabled,
            PodsMode::Insecure => PodNames::Insecure,
            PodsMode::Verified => PodNames::Verified,
        },
        namespaces: names.dns_namespaces.iter().cloned().collect(),
        aaaa_nodata: names.dns_aaaa == Some(AaaaAnswer::Nodata),
        endpoint_pod_names: names.dns_endpoint_pod_names,
        hide_empty: names.dns_ignore_empty_service,
        ..ZoneSettings::default()
    }
}

/// Returns what a DNS server on these addresses is made with.
///
/// # Errors
/// Names the file of upstreams that cannot be read, or has none to ask.
pub fn dns(
    arguments: &RunArguments,
    listen: Vec<SocketAddr>,
    zone: Arc<ArcSwap<Zone>>,
) -> anyhow::Result<dns::ServerSettings> {
    Ok(dns::ServerSettings {
        listen,
        zone,
        forward: dns::ForwardSettings {
            upstreams: upstreams(arguments)?,
            stubs: arguments.dns_stubs.iter().map(|stub| (stub.zone.clone(), stub.server)).collect(),
            allow: arguments.pod_cidrs.iter().chain(&arguments.dns_allow).copied().collect(),
            probe_loops: true,
        },
        log_queries: arguments.dns_log_queries,
        tcp: dns::TcpLimits::default(),
    })
}

/// Returns the upstreams that are named, and those of the files that are named, without those of a file that would
/// come back to us.
///
/// # Errors
/// Names the file that cannot be read, or has none to ask.
pub fn upstreams(arguments: &RunArguments) -> anyhow::Result<Vec<SocketAddr>> {
    let own: Vec<IpAddr> = arguments.dns_listen.iter().map(|listen| listen.0.ip()).collect();
    let mut upstreams = Vec::new();
    for upstream in &arguments.dns_upstream {
        match upstream {
            DnsUpstream::Server(server) => upstreams.push(*server),
            DnsUpstream::File(path) => {
                let flag = format!("--dns-upstream {}", path.display());
                let text = std::fs::read_to_string(path)
                    .map_err(|error| BadConfiguration(format!("{flag}: {error}")))?;
                let file = dns::ResolvConf::parse(&text, &own);
                for line in &file.bad_lines {
                    tracing::warn!("{flag}: `{line}` names no address: left out");
                }
                for refused in &file.refused {
                    tracing::warn!("{flag}: {refused} is ourselves or this machine's loopback: left out");
                }
                require(!file.servers.is_empty(), || {
                    format!("{flag}: names no server to ask, other than ourselves and loopback addresses")
                })?;
                upstreams.extend(file.servers);
            }
        }
    }
    Ok(upstreams)
}

/// Checks all settings of names, without a socket. Must run within a tokio runtime.
///
/// # Errors
/// Names the flag.
pub fn check_dns(arguments: &RunArguments) -> anyhow::Result<()> {
    let zone = Zone::new(zone(arguments)).map_err(|error| {
        BadConfiguration(format!("--cluster-domain {}: {error}", arguments.cluster_domain))
    })?;
    let settings = dns(arguments, Vec::new(), Arc::new(ArcSwap::from_pointee(zone)))?;
    let mut listen = BTreeSet::new();
    for address in arguments.dns_listen.iter().map(|listen| listen.0) {
        require(!address.ip().is_unspecified(), || {
            format!("--dns-listen {address}: name an address, so that replies leave from it")
        })?;
        require(listen.insert(address), || format!("--dns-listen {address}: named twice"))?;
    }
    let stubs = settings.forward.stubs.iter().map(|(_, server)| server);
    for server in settings.forward.upstreams.iter().chain(stubs) {
        let flag = if settings.forward.upstreams.contains(server) { "--dns-upstream" } else { "--dns-stub" };
        require(!listen.contains(server), || format!("{flag} {server}: it is where we listen ourselves"))?;
    }
    dns::Server::start(settings, Arc::default()).map(drop).map_err(dns_fault)
}

/// Says which flag a fault of the DNS server is about.
#[must_use]
pub fn dns_fault(error: dns::Error) -> anyhow::Error {
    let flag = match error {
        dns::Error::Listen { .. } => return anyhow::Error::new(error).context("--dns-listen"),
        dns::Error::Unspecified(_) => "--dns-listen",
        dns::Error::Upstream(_) => "--dns-upstream or --dns-stub",
        dns::Error::Stub(_) | dns::Error::StubInZone(_) => "--dns-stub",
    };
    BadConfiguration(format!("{flag}: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_served_is_refused_with_what_to_do() {
        let good = Link::ethernet(2, "eth1");
        assert!(require_servable(&good, &[]).is_ok());
        for (bad, says) in [
            (Link::ethernet(1, "lo"), "loopback"),
            (Link { kind: Some("bond".into()), ..good.clone() }, "name its members instead"),
            (Link { up: false, ..good.clone() }, "`ip link set eth1 up`"),
        ] {
            let error = require_servable(&bad, std::slice::from_ref(&bad)).unwrap_err().to_string();
            assert!(error.contains(says) && error.starts_with("--interface "), "{error}");
        }
    }

    #[test]
    fn a_service_cidr_that_shares_addresses_with_a_network_of_its_family_is_refused() {
        let cidrs: Vec<IpNet> = ["10.96.0.0/12", "fd96::/112"].map(|cidr| cidr.parse().unwrap()).into();
        let refused = |network: &str| {
            let others = [(network.parse().unwrap(), "is a --pod-cidr")];
            require_disjoint(&cidrs, others.into_iter()).err().map(|error| error.to_string())
        };
        for free in ["10.244.0.0/16", "fd97::/64", "fe80::/64", "fd96::1:0/112"] {
            assert_eq!(refused(free), None, "{free}");
        }
        for (taken, cidr) in
            [("10.100.0.0/24", "10.96.0.0/12"), ("fd96::/64", "fd96::/112"), ("::/0", "fd96::/112")]
        {
            let error = refused(taken).unwrap_or_default();
            let expected =
                format!("--service-cidr {cidr}: shares addresses with {taken}, which is a --pod-cidr");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_vlan_device_is_in_the_way_only_of_a_device_that_strips_tags() {
        // A device that cannot be asked strips none.
        let parent = Link::ethernet(2, "no-such-device");
        let vlan =
            Link { kind: Some("vlan".into()), parent: Some(parent.index), ..Link::ethernet(3, "eth1.7") };
        assert!(require_servable(&parent, &[parent.clone(), vlan]).is_ok());
    }

    fn arguments(more: &[&str]) -> RunArguments {
        let all = ["tidegate", "run", "--interface", "a", "--source", "manifests:/m"].iter().chain(more);
        match crate::cli::parse(all.map(std::ffi::OsString::from)).unwrap().command {
            crate::cli::Command::Run(run) => *run,
            other => panic!("{other:?} is no run"),
        }
    }

    #[test]
    fn upstreams_of_a_file_come_after_those_named_before_it_and_ourselves_never() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "nameserver 127.0.0.53\nnameserver 10.96.0.10\nnameserver 192.0.2.2\n")
            .unwrap();
        let path = file.path().to_str().unwrap();
        let listen = ["--dns-listen", "10.96.0.10"];
        let both =
            arguments(&[&["--dns-upstream", "192.0.2.1", "--dns-upstream", path], &listen[..]].concat());
        let addresses: Vec<String> = upstreams(&both).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1:53", "192.0.2.2:53"]);

        std::fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
        let error = upstreams(&arguments(&["--dns-upstream", path])).unwrap_err();
        assert!(
            error.is::<BadConfiguration>() && error.to_string().contains("names no server to ask"),
            "{error}"
        );
        let error = upstreams(&arguments(&["--dns-upstream", "/no/such/file"])).unwrap_err();
        assert!(error.to_string().starts_with("--dns-upstream /no/such/file: "), "{error}");
    }
}
