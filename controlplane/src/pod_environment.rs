//! What kubelet gives a pod for finding Services: environment variables, and a resolv.conf.
//!
//! Source: Kubernetes `pkg/kubelet/envvars/envvars.go` `FromServices`, `pkg/kubelet/kubelet_pods.go`
//! `getServiceEnvVarMap`, `pkg/kubelet/network/dns/dns.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use tidegate_dataplane::net::Protocol;

use crate::cli::{EnvArguments, ResolvConfArguments};
use crate::cluster::{Cluster, Dirty, Service, ServiceKind};
use crate::printout::say;
use crate::settings::BadConfiguration;
use crate::source::{self, Source};

/// The namespace and name of the Service that every pod is told of.
const MASTER: (&str, &str) = ("default", "kubernetes");
/// More name servers than these are not asked by resolvers.
const SERVERS_MAX: usize = 3;
/// More search domains than these, or more characters of them, make a pod that does not start.
const SEARCH_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;
/// The port of name servers, which resolv.conf cannot change.
const DNS_PORT: u16 = 53;

/// `tidegate env`: prints the variables as `NAME=value`.
///
/// # Errors
/// A source that cannot be read.
pub async fn print_variables(arguments: &EnvArguments) -> anyhow::Result<()> {
    let mut source = Source::open(source::Settings {
        arguments: &arguments.cluster,
        service_cidrs: &arguments.service_cidrs,
        pods: false,
        pod_names: false,
        node_name: None,
        cluster_ips: None,
        cluster_file: None,
        run: false,
    })
    .await?;
    let mut cluster = Cluster::default();
    for event in source.next().await.events {
        cluster.apply(event, &mut Dirty::default());
    }
    for (name, value) in variables(&cluster, &arguments.namespace, !arguments.no_service_links) {
        say(format_args!("{name}={value}"));
    }
    Ok(())
}

/// Returns the variables of a pod in a namespace. A Service of the namespace hides the master Service of its name.
#[must_use]
pub fn variables(cluster: &Cluster, namespace: &str, service_links: bool) -> BTreeMap<String, String> {
    let mut by_name = BTreeMap::new();
    for service in cluster.services() {
        let (own, name) = (&*service.name.namespace, &*service.name.name);
        if (own, name) == MASTER {
            by_name.entry(name).or_insert(service);
        } else if own == namespace && service_links {
            by_name.insert(name, service);
        }
    }
    let mut variables = BTreeMap::new();
    for service in by_name.values() {
        add_variables(service, &mut variables);
    }
    variables
}

/// Adds the variables of a Service; one without a ClusterIP has none.
fn add_variables(service: &Service, variables: &mut BTreeMap<String, String>) {
    let ServiceKind::ClusterIp(addresses) = &service.kind else { return };
    let (Some(address), Some(first)) = (addresses.first(), service.ports.first()) else { return };
    let name = variable_name(&service.name.name);
    variables.insert(format!("{name}_SERVICE_HOST"), address.to_string());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        variables.insert(format!("{name}_SERVICE_PORT_{}", variable_name(&port.name)), port.port.to_string());
    }
    variables.insert(format!("{name}_PORT"), link(first.protocol, *address, first.port));
    for port in &service.ports {
        let word = word(port.protocol);
        let prefix = format!("{name}_PORT_{}_{}", port.port, word.to_ascii_uppercase());
        variables.insert(format!("{prefix}_PROTO"), word.to_owned());
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), address.to_string());
        variables.insert(prefix, link(port.protocol, *address, port.port));
    }
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn link(protocol: Protocol, address: IpAddr, port: u16) -> String {
    format!("{}://{}", word(protocol), SocketAddr::new(address, port))
}

/// `tidegate resolv-conf`: prints the file of a pod with `dnsPolicy: ClusterFirst`.
///
/// # Errors
/// What cannot be a resolv.conf, or a file that cannot be read.
pub fn print_resolv_conf(arguments: &ResolvConfArguments) -> anyhow::Result<()> {
    let node = match &arguments.resolv_conf {
        Some(path) => {
            let fault = |error| BadConfiguration(format!("--resolv-conf {}: {error}", path.display()));
            std::fs::read_to_string(path).map_err(fault)?
        }
        None => String::new(),
    };
    let servers: Vec<SocketAddr> = arguments.dns_listen.iter().map(|listen| listen.0).collect();
    let text = resolv_conf(&arguments.namespace, &arguments.cluster_domain, &servers, &node)?;
    say(format_args!("{}", text.trim_end()));
    Ok(())
}

/// Returns the resolv.conf of a pod; of the node's own file the search list comes behind.
///
/// # Errors
/// Names what cannot stand in one.
pub fn resolv_conf(
    namespace: &str,
    domain: &str,
    servers: &[SocketAddr],
    node: &str,
) -> Result<String, BadConfiguration> {
    if let Some(server) = servers.iter().find(|server| server.port() != DNS_PORT) {
        return Err(BadConfiguration(format!(
            "--dns-listen {server}: a resolv.conf knows port {DNS_PORT} only"
        )));
    }
    let domain = domain.trim_end_matches('.');
    let mut search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    // The last line of a file counts.
    let last = node.lines().filter_map(|line| line.trim().strip_prefix("search")).next_back();
    for name in last.unwrap_or_default().split_whitespace().map(|name| name.trim_end_matches('.')) {
        if !name.is_empty() && !search.iter().any(|known| known == name) {
            search.push(name.to_owned());
        }
    }
    search.truncate(SEARCH_MAX);
    while search.join(" ").len() > SEARCH_CHARACTERS_MAX {
        search.pop();
    }
    let mut text = String::new();
    for server in servers.iter().take(SERVERS_MAX) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {}", server.ip());
    }
    let _ = write!(text, "search {}\noptions ndots:5\n", search.join(" "));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Event, ObjectName, ServicePort};

    type Port<'a> = (&'a str, Protocol, u16);

    fn cluster(services: &[(&str, &str, &[&str], &[Port<'_>])]) -> Cluster {
        let mut cluster = Cluster::default();
        for (namespace, name, addresses, ports) in services {
            let port = |(name, protocol, port): &Port<'_>| ServicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
                node_port: None,
            };
            let kind = match addresses.first() {
                None => ServiceKind::Headless,
                Some(_) => {
                    ServiceKind::ClusterIp(addresses.iter().map(|text| text.parse().unwrap()).collect())
                }
            };
            let (name, ports) = (ObjectName::new(namespace, name), ports.iter().map(port).collect());
            let service = Service {
                name,
                kind,
                ports,
                foreign_proxy: false,
                traffic: crate::traffic::Traffic::default(),
            };
            cluster.apply(Event::ServiceApplied(service.into()), &mut Dirty::default());
        }
        cluster
    }

    #[test]
    fn variables_are_those_that_kubelet_makes() {
        let cluster = cluster(&[
            ("default", "kubernetes", &["10.96.0.1"], &[("https", Protocol::Tcp, 443)]),
            ("default", "other", &["10.96.0.2"], &[("", Protocol::Tcp, 80)]),
            (
                "dev",
                "db-main",
                &["10.96.1.1", "fd00::1"],
                &[("sql", Protocol::Tcp, 5432), ("d-x", Protocol::Udp, 53)],
            ),
            ("dev", "six", &["fd00::2"], &[("", Protocol::Tcp, 80)]),
            ("dev", "headless", &[], &[("", Protocol::Tcp, 80)]),
        ]);
        let lines = |links| -> Vec<String> {
            let variables = variables(&cluster, "dev", links);
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let kubernetes = [
            "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
        ];
        let own = [
            "DB_MAIN_PORT=tcp://10.96.1.1:5432",
            "DB_MAIN_PORT_53_UDP=udp://10.96.1.1:53",
            "DB_MAIN_PORT_53_UDP_ADDR=10.96.1.1",
            "DB_MAIN_PORT_53_UDP_PORT=53",
            "DB_MAIN_PORT_53_UDP_PROTO=udp",
            "DB_MAIN_PORT_5432_TCP=tcp://10.96.1.1:5432",
            "DB_MAIN_PORT_5432_TCP_ADDR=10.96.1.1",
            "DB_MAIN_PORT_5432_TCP_PORT=5432",
            "DB_MAIN_PORT_5432_TCP_PROTO=tcp",
            "DB_MAIN_SERVICE_HOST=10.96.1.1",
            "DB_MAIN_SERVICE_PORT=5432",
            "DB_MAIN_SERVICE_PORT_D_X=53",
            "DB_MAIN_SERVICE_PORT_SQL=5432",
        ];
        let six = [
            "SIX_PORT=tcp://[fd00::2]:80",
            "SIX_PORT_80_TCP=tcp://[fd00::2]:80",
            "SIX_PORT_80_TCP_ADDR=fd00::2",
            "SIX_PORT_80_TCP_PORT=80",
            "SIX_PORT_80_TCP_PROTO=tcp",
            "SIX_SERVICE_HOST=fd00::2",
            "SIX_SERVICE_PORT=80",
        ];
        assert_eq!(lines(true), [&own[..], &kubernetes, &six].concat());
        assert_eq!(lines(false), kubernetes);
    }

    #[test]
    fn a_service_of_the_namespace_hides_the_master_service() {
        let cluster = cluster(&[
            ("default", "kubernetes", &["10.96.0.1"], &[("", Protocol::Tcp, 443)]),
            ("dev", "kubernetes", &["10.96.1.1"], &[("", Protocol::Tcp, 80)]),
            ("zoo", "kubernetes", &["10.96.2.1"], &[("", Protocol::Tcp, 80)]),
        ]);
        let host = |namespace| variables(&cluster, namespace, true)["KUBERNETES_SERVICE_HOST"].clone();
        assert_eq!([host("dev"), host("zoo"), host("prod")], ["10.96.1.1", "10.96.2.1", "10.96.0.1"]);
    }

    #[test]
    fn a_resolv_conf_has_the_search_list_of_its_namespace_and_then_the_nodes() {
        let servers = ["10.96.0.10:53".parse().unwrap()];
        let node = "nameserver 192.0.2.1\nsearch old.example\nsearch example.org cluster.local. lan\n";
        let text = resolv_conf("dev", "cluster.local.", &servers, node).unwrap();
        let search = "dev.svc.cluster.local svc.cluster.local cluster.local example.org lan";
        assert_eq!(text, format!("nameserver 10.96.0.10\nsearch {search}\noptions ndots:5\n"));
        let error =
            resolv_conf("dev", "cluster.local", &["10.96.0.10:5353".parse().unwrap()], "").unwrap_err();
        assert!(error.to_string().contains("--dns-listen 10.96.0.10:5353"), "{error}");
    }
}
