//! Rule sets of the shape that kube-proxy gives the kernel, for any number of Services.
//!
//! The chains, their order and what each rule matches are those that kube-proxy 1.36 was seen to write for the same
//! cluster: [`iptables`] as for `iptables-restore`, [`nftables`] as for `nft -f`. Names of chains end in a hash there;
//! here too, of the same length, but of our own making. A test compares with recorded rule sets where there are any.
//!
//! DEVIATION: the rule that counts invalid packets by `nfacct` does not count here. Its object is made by another
//! tool; packets that are in order do not come to that rule.

pub mod iptables;
pub mod nftables;

use std::net::Ipv4Addr;

use crate::traffic::targets::{ENDPOINT_PORT, ENDPOINTS, Protocol, SERVICE_PORT, Targets};

/// Source network of the cluster: its traffic is not masqueraded.
const CLUSTER: &str = "10.0.0.0/14";

/// One port of a Service, as the rules need it.
struct ServicePort {
    /// Namespace and name.
    name: String,
    /// Name of the port.
    port_name: &'static str,
    protocol: &'static str,
    address: Ipv4Addr,
    port: u16,
    endpoints: Vec<(Ipv4Addr, u16)>,
}

/// All Services, with the API server's first.
fn service_ports(targets: Targets) -> Vec<ServicePort> {
    let api_server = ServicePort {
        name: "default/kubernetes".to_owned(),
        port_name: "https",
        protocol: "tcp",
        address: Ipv4Addr::new(10, 96, 0, 1),
        port: 443,
        endpoints: vec![(Ipv4Addr::new(10, 9, 0, 1), 16443)],
    };
    let service = |number| ServicePort {
        name: format!("load/svc-{number}"),
        port_name: "http",
        protocol: protocol_name(targets.protocol(number)),
        address: targets.cluster_ip(number),
        port: SERVICE_PORT,
        endpoints: (0..ENDPOINTS).map(|n| (targets.endpoint(number, n), ENDPOINT_PORT)).collect(),
    };
    std::iter::once(api_server).chain((0..targets.services).map(service)).collect()
}

const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    }
}

/// Returns `length` letters and digits that stand for `text`, as in base 32.
///
/// Source: Fowler, Noll and Vo, FNV-1a, 64 bits, once for each twelve letters.
fn hash(text: &str, length: usize) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut letters = String::with_capacity(length);
    for round in 0_u8.. {
        let mut state = 0xcbf2_9ce4_8422_2325_u64;
        for octet in text.bytes().chain([round]) {
            state = (state ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        for shift in (4..64).step_by(5) {
            if letters.len() == length {
                return letters;
            }
            letters.push(char::from(LETTERS[(state >> shift & 31) as usize]));
        }
    }
    letters
}

#[cfg(test)]
mod tests;
