//! kube-proxy's iptables rules, as for `iptables-restore`.

use std::fmt::{self, Write as _};

use super::{CLUSTER, ServicePort, hash, service_ports};
use crate::traffic::targets::Targets;

/// From this many endpoints on, kube-proxy leaves comments out of the rules of endpoints.
const LARGE_CLUSTER: usize = 1000;

const MANGLE: &str = "\
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
";

const FILTER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" \
-j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" \
-j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT_CHAINS: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
";

const NAT_RULES: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
";

const LAST_OF_SERVICES: &str = "\
-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
";

/// Writes the rule set.
#[must_use]
pub fn rules(targets: Targets) -> String {
    let ports = service_ports(targets);
    let commented = ports.iter().map(|port| port.endpoints.len()).sum::<usize>() < LARGE_CLUSTER;
    let mut text = [MANGLE, FILTER, NAT_CHAINS].concat();
    for port in &ports {
        let _never_fails = write_chains(&mut text, port);
    }
    text.push_str(NAT_RULES);
    for port in &ports {
        let _never_fails = write_rules(&mut text, port, commented);
    }
    text.push_str(LAST_OF_SERVICES);
    text
}

fn service_chain(port: &ServicePort) -> String {
    format!("KUBE-SVC-{}", hash(&port.name, 16))
}

fn endpoint_chain(port: &ServicePort, place: usize) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{}/{place}", port.name), 16))
}

fn write_chains(text: &mut String, port: &ServicePort) -> fmt::Result {
    writeln!(text, ":{} - [0:0]", service_chain(port))?;
    (0..port.endpoints.len()).try_for_each(|place| writeln!(text, ":{} - [0:0]", endpoint_chain(port, place)))
}

fn write_rules(text: &mut String, port: &ServicePort, commented: bool) -> fmt::Result {
    let ServicePort { name, port_name, protocol, address, port: number, endpoints } = port;
    let chain = service_chain(port);
    let comment =
        |text: String| if commented { format!("-m comment --comment \"{text}\" ") } else { String::new() };
    let portal =
        format!("-m comment --comment \"{name}:{port_name} cluster IP\" -m {protocol} --dport {number}");
    writeln!(text, "-A KUBE-SERVICES -d {address}/32 -p {protocol} {portal} -j {chain}")?;
    writeln!(text, "-A {chain} ! -s {CLUSTER} -d {address}/32 -p {protocol} {portal} -j KUBE-MARK-MASQ")?;
    for (place, (endpoint, target)) in endpoints.iter().enumerate() {
        let leads = comment(format!("{name}:{port_name} -> {endpoint}:{target}"));
        let left = endpoints.len() - place;
        let chance = if left == 1 {
            String::new()
        } else {
            // Of 2^31, as the kernel keeps it and iptables-save prints it.
            let share = (2_147_483_648.0 / left as f64).round() / 2_147_483_648.0;
            format!("-m statistic --mode random --probability {share:.11} ")
        };
        let endpoint_chain = endpoint_chain(port, place);
        writeln!(text, "-A {chain} {leads}{chance}-j {endpoint_chain}")?;
        let of = comment(format!("{name}:{port_name}"));
        writeln!(text, "-A {endpoint_chain} -s {endpoint}/32 {of}-j KUBE-MARK-MASQ")?;
        writeln!(
            text,
            "-A {endpoint_chain} -p {protocol} {of}-m {protocol} -j DNAT --to-destination {endpoint}:{target}"
        )?;
    }
    Ok(())
}
