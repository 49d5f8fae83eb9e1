//! The servers that a file like `/etc/resolv.conf` names. Source: resolv.conf(5).

use std::net::{IpAddr, SocketAddr};

/// The port of DNS servers, which the file cannot change.
const PORT: u16 = 53;

/// What a file of name servers says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvConf {
    /// Servers to ask, in the order of the file.
    pub servers: Vec<SocketAddr>,
    /// Servers that must not be asked: loopback addresses, behind which we may be ourselves, and our own.
    pub refused: Vec<IpAddr>,
    /// `nameserver` lines without an address.
    pub bad_lines: Vec<String>,
}

impl ResolvConf {
    /// Reads the `nameserver` lines of a file; others mean nothing to a server.
    #[must_use]
    pub fn parse(text: &str, own: &[IpAddr]) -> Self {
        let mut file = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let word = words.next().unwrap_or_default();
            // A zone, as in fe80::1%eth0, needs an interface that we do not look up.
            match word.parse::<IpAddr>() {
                Ok(address)
                    if address.is_loopback() || address.is_unspecified() || own.contains(&address) =>
                {
                    file.refused.push(address);
                }
                Ok(address) => file.servers.push(SocketAddr::new(address, PORT)),
                Err(_) => file.bad_lines.push(line.trim().to_owned()),
            }
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_in_the_order_of_the_file_without_those_that_may_be_ourselves() {
        let text = "# by hand\nsearch example.org\nnameserver 192.0.2.1\n  nameserver\t2001:db8::53 # two\n\
                    nameserver 127.0.0.53\nnameserver 10.96.0.10\nnameserver ::1\nnameserver none\nnameserver\n\
                    options ndots:5\n";
        let own = ["10.96.0.10".parse().expect("an address")];
        let file = ResolvConf::parse(text, &own);
        let servers: Vec<String> = file.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::53]:53"]);
        let refused: Vec<String> = file.refused.iter().map(ToString::to_string).collect();
        assert_eq!(refused, ["127.0.0.53", "10.96.0.10", "::1"]);
        assert_eq!(file.bad_lines, ["nameserver none", "nameserver"]);
    }
}
