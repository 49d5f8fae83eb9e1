//! kube-proxy's nftables rules, as for `nft -f`.

use std::fmt::Write as _;

use super::{CLUSTER, ServicePort, hash, service_ports};
use crate::traffic::targets::Targets;

/// What differs between the tables of the two families.
struct Family {
    name: &'static str,
    address: &'static str,
    node: &'static str,
    cluster: &'static str,
    services: &'static str,
}

const IPV4: Family =
    Family { name: "ip", address: "ipv4_addr", node: "10.2.1.1", cluster: CLUSTER, services: "10.96.0.0/16" };

const IPV6: Family = Family {
    name: "ip6",
    address: "ipv6_addr",
    node: "fd00:2:1::1",
    cluster: "fd00::/20",
    services: "fd00:96::/112",
};

/// Of each Service's endpoints, those on the node: they may be their own clients.
const ON_NODE: [usize; 2] = [0, 3];

/// Writes the rule set of both families; the Services are of IPv4.
#[must_use]
pub fn rules(targets: Targets) -> String {
    table(&IPV4, &service_ports(targets)) + &table(&IPV6, &[])
}

fn table(family: &Family, ports: &[ServicePort]) -> String {
    let mut text = format!("table {} kube-proxy {{\n\tcomment \"rules for kube-proxy\"\n", family.name);
    text += &sets(family, ports);
    text += &base_chains();
    text += &shared_chains(family);
    for port in ports {
        let endpoints: Vec<_> = (0..)
            .zip(&port.endpoints)
            .map(|(n, (address, port))| format!("{n} : {address} . {port}"))
            .collect();
        let _never_fails = writeln!(
            text,
            "\tchain {} {{\n\t\tmeta l4proto {} dnat ip to numgen random mod {} map {{ {} }}\n\t}}",
            chain(port),
            port.protocol,
            endpoints.len(),
            endpoints.join(", ")
        );
    }
    text + "}\n"
}

fn chain(port: &ServicePort) -> String {
    let ServicePort { name, port_name, protocol, .. } = port;
    format!("service-{}-{name}/{protocol}/{port_name}", hash(name, 8))
}

fn sets(family: &Family, ports: &[ServicePort]) -> String {
    let address = family.address;
    let of_services = ports.iter().filter(|port| port.endpoints.len() > 1);
    let hairpins: Vec<_> = of_services
        .flat_map(|port| ON_NODE.map(|place| (port.protocol, port.endpoints[place])))
        .map(|(protocol, (address, port))| format!("{address} . {address} . {protocol} . {port}"))
        .collect();
    let addresses: Vec<_> = ports.iter().map(|port| port.address.to_string()).collect();
    let by_address: Vec<_> = ports
        .iter()
        .map(|port| format!("{} . {} . {} : goto {}", port.address, port.protocol, port.port, chain(port)))
        .collect();
    let tuple = format!("{address} . inet_proto . inet_service : verdict");
    let node_port = "inet_proto . inet_service : verdict";
    let pair = format!("{address} . {address} . inet_proto . inet_service");
    let node = [family.node.to_owned()];
    [
        set("set hairpin-connections", &pair, "service hairpin connections", &hairpins),
        set("set cluster-ips", address, "Active ClusterIPs", &addresses),
        set("set nodeport-ips", address, "IPs that accept NodePort traffic", &node),
        set(
            "map no-endpoint-services",
            &tuple,
            "vmap to drop or reject packets to services with no endpoints",
            &[],
        ),
        set(
            "map no-endpoint-nodeports",
            node_port,
            "vmap to drop or reject packets to service nodeports with no endpoints",
            &[],
        ),
        set("map firewall-ips", &tuple, "destinations that are subject to LoadBalancerSourceRanges", &[]),
        set("map service-ips", &tuple, "ClusterIP, ExternalIP and LoadBalancer IP traffic", &by_address),
        set("map service-nodeports", node_port, "NodePort traffic", &[]),
    ]
    .concat()
}

fn set(name: &str, kind: &str, comment: &str, elements: &[String]) -> String {
    let elements = match elements {
        [] => String::new(),
        elements => format!("\t\telements = {{ {} }}\n", elements.join(",\n\t\t\t     ")),
    };
    format!("\t{name} {{\n\t\ttype {kind}\n\t\tcomment \"{comment}\"\n{elements}\t}}\n\n")
}

/// The chains that the kernel calls: name, hook and priority, and what they jump to.
fn base_chains() -> String {
    let all = [
        (
            "filter-prerouting-pre-dnat",
            "filter hook prerouting priority dstnat - 10",
            &["ct state new jump firewall-check"][..],
        ),
        ("filter-output-pre-dnat", "filter hook output priority -110", &["ct state new jump firewall-check"]),
        (
            "filter-input",
            "filter hook input priority filter",
            &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
        ),
        (
            "filter-forward",
            "filter hook forward priority filter",
            &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        (
            "filter-output",
            "filter hook output priority filter",
            &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        ("nat-prerouting", "nat hook prerouting priority dstnat", &["jump services"]),
        ("nat-output", "nat hook output priority -100", &["jump services"]),
        ("nat-postrouting", "nat hook postrouting priority srcnat", &["jump masquerading"]),
    ];
    let write = |(name, hook, rules): &(&str, &str, &[&str])| {
        format!("\tchain {name} {{\n\t\ttype {hook}; policy accept;\n\t\t{}\n\t}}\n\n", rules.join("\n\t\t"))
    };
    all.iter().map(write).collect()
}

fn shared_chains(family: &Family) -> String {
    let Family { name, node: _, cluster, services, address: _ } = family;
    let masquerade_mark = "meta mark set meta mark | 0x00004000";
    let all = [
        (
            "nodeport-endpoints-check",
            vec![format!("{name} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports")],
        ),
        (
            "service-endpoints-check",
            vec![format!("{name} daddr . meta l4proto . th dport vmap @no-endpoint-services")],
        ),
        ("firewall-check", vec![format!("{name} daddr . meta l4proto . th dport vmap @firewall-ips")]),
        (
            "services",
            vec![
                format!(
                    "{name} daddr @cluster-ips {name} saddr != {cluster} {masquerade_mark} \
                     comment \"masquerade clusterIP traffic from outside cluster\""
                ),
                format!("{name} daddr . meta l4proto . th dport vmap @service-ips"),
                format!("{name} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
            ],
        ),
        (
            "masquerading",
            vec![
                "meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random"
                    .to_owned(),
                format!(
                    "ct status dnat {name} saddr . {name} daddr . meta l4proto . th dport @hairpin-connections \
                     masquerade fully-random"
                ),
            ],
        ),
        (
            "cluster-ips-check",
            vec![
                format!("{name} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""),
                format!("{name} daddr {services} drop comment \"Drop traffic to unallocated ClusterIPs\""),
            ],
        ),
        (
            "reject-chain",
            vec!["comment \"helper for @no-endpoint-services / @no-endpoint-nodeports\"".to_owned(), "reject".to_owned()],
        ),
    ];
    all.iter()
        .map(|(name, rules)| format!("\tchain {name} {{\n\t\t{}\n\t}}\n\n", rules.join("\n\t\t")))
        .collect()
}
