//! A cluster as kube-proxy writes it for the kernel: nftables rules of its shape, chain by chain, of IPv4.
//!
//! Which endpoints a Service port has is settled before there are rules, in kube-proxy as here, so it is the model's to
//! say; what the rules make of a packet is the kernel's.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::model::{
    Address, Cluster, Protocol, Service, ServicePort, cluster_set, joined, local_set, served,
};

/// Text for `nft -f`: the table in place of the one before.
pub(crate) fn rules(cluster: &Cluster) -> String {
    let mut rules = Rules::default();
    for service in served(cluster) {
        for port in &service.ports {
            rules.add(cluster, service, port);
        }
    }
    let nodes: Vec<String> = cluster.node_addresses.iter().map(|own| text(*own)).collect();
    let of_address = "ipv4_addr . inet_proto . inet_service : verdict";
    let of_port = "inet_proto . inet_service : verdict";
    let sets = [
        set("set hairpin-connections", "ipv4_addr . ipv4_addr . inet_proto . inet_service", &rules.hairpins),
        set("set cluster-ips", "ipv4_addr", &rules.cluster_ips),
        set("set nodeport-ips", "ipv4_addr", &nodes),
        set("map no-endpoint-services", of_address, &rules.no_endpoint_services),
        set("map no-endpoint-nodeports", of_port, &rules.no_endpoint_nodeports),
        set("map firewall-ips", of_address, &rules.firewall_ips),
        set("map service-ips", of_address, &rules.service_ips),
        set("map service-nodeports", of_port, &rules.service_nodeports),
    ];
    let (sets, chains) = (sets.concat(), rules.chains);
    let fixed = fixed_chains(&network(cluster.pod_network), &network(cluster.service_network));
    format!(
        "table ip kube-proxy {{}}\ndelete table ip kube-proxy\ntable ip kube-proxy {{\n{sets}{fixed}{chains}}}\n"
    )
}

/// Elements of the sets and maps, and the chains of Services.
#[derive(Default)]
struct Rules {
    hairpins: Vec<String>,
    cluster_ips: Vec<String>,
    no_endpoint_services: Vec<String>,
    no_endpoint_nodeports: Vec<String>,
    firewall_ips: Vec<String>,
    service_ips: Vec<String>,
    service_nodeports: Vec<String>,
    chains: String,
}

impl Rules {
    fn add(&mut self, cluster: &Cluster, service: &Service, port: &ServicePort) {
        let endpoints = joined(service, port);
        let of_cluster = cluster_set(cluster, &endpoints);
        let of_node = local_set(cluster, &endpoints);
        let has_any = !of_cluster.is_empty() || !of_node.is_empty();
        let protocol = protocol(port.protocol);
        let name = format!("{}/{protocol}/{}", text(service.cluster_ip), port.name);
        let without = if has_any { "drop" } else { "goto reject-chain" };
        let at = |address: Address| format!("{} . {protocol} . {}", text(address), port.number);

        if !self.cluster_ips.contains(&text(service.cluster_ip)) {
            self.cluster_ips.push(text(service.cluster_ip));
        }
        let (kind, usable) =
            if service.internal_local { ("local", &of_node) } else { ("service", &of_cluster) };
        if usable.is_empty() {
            self.no_endpoint_services.push(format!("{} : {without}", at(service.cluster_ip)));
        } else {
            self.service_ips.push(format!("{} : goto {kind}-{name}", at(service.cluster_ip)));
        }

        let has_external = if service.external_local { !of_node.is_empty() } else { !of_cluster.is_empty() };
        for address in service.external.iter().chain(&service.balancer) {
            if has_any {
                self.service_ips.push(format!("{} : goto external-{name}", at(*address)));
            }
            if !has_external {
                self.no_endpoint_services.push(format!("{} : {without}", at(*address)));
            }
        }
        if let Some(number) = port.node_port {
            if has_any {
                self.service_nodeports.push(format!("{protocol} . {number} : goto external-{name}"));
            }
            if !has_external {
                self.no_endpoint_nodeports.push(format!("{protocol} . {number} : {without}"));
            }
        }
        self.add_firewall(service, &at, &name);
        self.add_external_chain(cluster, service, &name, has_external);
        for (kind, set) in [("service", &of_cluster), ("local", &of_node)] {
            self.add_endpoints(&format!("{kind}-{name}"), protocol, set);
        }
        let hairpins = of_node.iter().map(|(address, number)| {
            format!("{} . {} . {protocol} . {number}", text(*address), text(*address))
        });
        self.hairpins.extend(hairpins.filter(|hairpin| !self.hairpins.contains(hairpin)).collect::<Vec<_>>());
    }

    /// K22: a range of length 0 is none.
    fn add_firewall(&mut self, service: &Service, at: &dyn Fn(Address) -> String, name: &str) {
        let Some(balancer) = service.balancer else { return };
        if service.ranges.is_empty() || service.ranges.iter().any(|(_, bits)| *bits == 0) {
            return;
        }
        let mut ranges: Vec<String> = service.ranges.iter().map(|range| network(*range)).collect();
        ranges.sort();
        ranges.dedup();
        self.firewall_ips.push(format!("{} : goto firewall-{name}", at(balancer)));
        self.chain(&format!("firewall-{name}"), &format!("ip saddr != {{ {} }} drop", ranges.join(", ")));
    }

    /// K20, K24.
    fn add_external_chain(&mut self, cluster: &Cluster, service: &Service, name: &str, has_external: bool) {
        let pods = network(cluster.pod_network);
        let rules = if service.external_local {
            let local = if has_external { format!("goto local-{name}") } else { String::new() };
            format!(
                "ip saddr {pods} goto service-{name} comment \"short-circuit pod traffic\"
                 fib saddr type local jump mark-for-masquerade
                 fib saddr type local goto service-{name}
                 {local}"
            )
        } else {
            format!("jump mark-for-masquerade\ngoto service-{name}")
        };
        self.chain(&format!("external-{name}"), &rules);
    }

    fn add_endpoints(&mut self, name: &str, protocol: &str, set: &[(Address, u16)]) {
        let map: Vec<String> = set
            .iter()
            .enumerate()
            .map(|(place, (address, number))| format!("{place} : {} . {number}", text(*address)))
            .collect();
        let rule = match set.len() {
            0 => String::new(),
            count => {
                format!(
                    "meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {} }}",
                    map.join(", ")
                )
            }
        };
        self.chain(name, &rule);
    }

    fn chain(&mut self, name: &str, rules: &str) {
        writeln!(self.chains, "chain {name} {{\n{rules}\n}}").unwrap();
    }
}

fn fixed_chains(pods: &str, services: &str) -> String {
    let hooked = [
        (
            "filter-prerouting-pre-dnat",
            "filter hook prerouting priority dstnat - 10",
            "ct state new jump firewall-check",
        ),
        (
            "filter-input",
            "filter hook input priority filter",
            "ct state new jump nodeport-endpoints-check\nct state new jump service-endpoints-check",
        ),
        (
            "filter-forward",
            "filter hook forward priority filter",
            "ct state new jump service-endpoints-check\nct state new jump cluster-ips-check",
        ),
        ("nat-prerouting", "nat hook prerouting priority dstnat", "jump services"),
        ("nat-postrouting", "nat hook postrouting priority srcnat", "jump masquerading"),
    ];
    let plain = [
        ("mark-for-masquerade", "meta mark set meta mark | 0x00004000".to_owned()),
        (
            "nodeport-endpoints-check",
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports".to_owned(),
        ),
        (
            "service-endpoints-check",
            "ip daddr . meta l4proto . th dport vmap @no-endpoint-services".to_owned(),
        ),
        ("firewall-check", "ip daddr . meta l4proto . th dport vmap @firewall-ips".to_owned()),
        (
            "services",
            format!(
                "ip daddr @cluster-ips ip saddr != {pods} meta mark set meta mark | 0x00004000
                 ip daddr . meta l4proto . th dport vmap @service-ips
                 ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"
            ),
        ),
        (
            "masquerading",
            "meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
             ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random"
                .to_owned(),
        ),
        ("cluster-ips-check", format!("ip daddr @cluster-ips reject\nip daddr {services} drop")),
        ("reject-chain", "reject".to_owned()),
    ];
    let hooked = hooked
        .iter()
        .map(|(name, hook, rules)| format!("chain {name} {{\ntype {hook}; policy accept;\n{rules}\n}}\n"));
    let plain = plain.iter().map(|(name, rules)| format!("chain {name} {{\n{rules}\n}}\n"));
    hooked.chain(plain).collect()
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = match elements {
        [] => String::new(),
        elements => format!("elements = {{ {} }}\n", elements.join(", ")),
    };
    format!("{name} {{\ntype {kind}\n{elements}}}\n")
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn text(address: Address) -> String {
    Ipv4Addr::from(address).to_string()
}

fn network((address, bits): (Address, u32)) -> String {
    format!("{}/{bits}", text(address))
}
