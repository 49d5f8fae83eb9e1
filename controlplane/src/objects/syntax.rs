//! The syntax of names and addresses in Kubernetes objects.
//!
//! Source: Kubernetes `staging/src/k8s.io/apimachinery/pkg/util/validation`.

use std::net::{IpAddr, Ipv4Addr};

/// A check of a name; the error says what the name is not.
pub(super) type Rule = fn(&str) -> Result<(), &'static str>;

/// Checks a DNS label: at most 63 of `a-z 0-9 -`, with a letter or digit at both ends (RFC 1123).
pub(crate) fn label(name: &str) -> Result<(), &'static str> {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    if ends && bytes.len() <= 63 && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-') {
        Ok(())
    } else {
        Err("is no DNS label (at most 63 of a-z, 0-9 and -, with a letter or digit at both ends)")
    }
}

/// Checks a DNS name: at most 253 characters, labels of letters, digits and `-` joined by dots.
pub(crate) fn subdomain(name: &str) -> Result<(), &'static str> {
    let labels = name.split('.').all(|part| label(part).is_ok());
    if labels && name.len() <= 253 {
        Ok(())
    } else {
        Err("is no DNS name (at most 253 characters, labels of a-z, 0-9 and - joined by dots)")
    }
}

/// Checks the value of a label: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends. An
/// empty one, which Kubernetes takes, is refused here.
pub(crate) fn label_value(value: &str) -> Result<(), &'static str> {
    let bytes = value.as_bytes();
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if end(bytes.first()) && end(bytes.last()) && bytes.len() <= 63 && bytes.iter().all(inner) {
        Ok(())
    } else {
        Err(
            "is no value of a label (at most 63 letters, digits, -, _ and ., with a letter or digit at both ends)",
        )
    }
}

/// Checks the name of a container port: at most 15 of `a-z 0-9 -`, at least one letter (RFC 6335 §5.1).
pub(super) fn port_name(name: &str) -> Result<(), &'static str> {
    let bytes = name.as_bytes();
    let letters = bytes.iter().any(u8::is_ascii_lowercase);
    if label(name).is_ok() && bytes.len() <= 15 && letters && !name.contains("--") {
        Ok(())
    } else {
        Err(
            "is no port name (at most 15 of a-z, 0-9 and -, at least one letter); a port number takes no quotes",
        )
    }
}

/// Parses an address of one host.
///
/// # Errors
/// Says what is wrong: no address, an IPv4 address in IPv6 clothes, or an address no Service or Pod can have.
pub(super) fn address(text: &str) -> Result<IpAddr, &'static str> {
    let address: IpAddr = text.parse().map_err(|_| "is no IP address")?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err("is an IPv4-mapped IPv6 address; write the IPv4 address")
        }
        _ if address.is_unspecified() => Err("is the unspecified address"),
        _ if address.is_loopback() => Err("is a loopback address"),
        _ if address.is_multicast() => Err("is a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Err("is the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Err("is a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err("is a link-local address"),
        _ => Ok(address),
    }
}
