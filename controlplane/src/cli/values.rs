//! What the values of flags must be: each parser says what is wrong with one, and what would be right.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use tidegate_dataplane::flows::Timeouts;

use crate::dns::Name;
use crate::objects::syntax;

/// A worker for each core, at most.
const CORES_MAX: usize = 64;
/// Kernels number their cores from 0 to less than this. Source: `arch/x86/Kconfig` `NR_CPUS_RANGE_END`.
const CORE_NUMBERS: usize = 8192;

/// Cores as `2`, `2,3` or `2-5`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreList(pub Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let core = text.trim().parse().ok().filter(|core: &usize| *core < CORE_NUMBERS);
            core.ok_or_else(|| format!("`{text}` is no core number; write `2`, `2,3` or `2-5`"))
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("`{part}` is no range: {first} comes after {last}"));
            }
            cores.extend(first..=last);
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != cores.len() {
            return Err(format!("`{text}` names a core twice"));
        }
        if cores.len() > CORES_MAX {
            return Err(format!("`{text}` names {} cores; 1 to {CORES_MAX} are possible", cores.len()));
        }
        Ok(Self(cores))
    }
}

/// An address with port 53 unless another is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsAddress(pub SocketAddr);

impl FromStr for DnsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, 53),
            Err(_) => text.parse().map_err(|_| {
                format!(
                    "`{text}` is no address, nor an address and a port, as `10.96.0.10` or `[fd00:96::a]:53`"
                )
            })?,
        };
        if address.port() == 0 {
            return Err(format!("`{text}` has port 0; the least is 1"));
        }
        if address.ip().is_multicast() {
            return Err(format!("`{text}` is a multicast address; name one of a host"));
        }
        Ok(Self(address))
    }
}

/// A server for names of other zones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsUpstream {
    /// One server.
    Server(SocketAddr),
    /// The `nameserver` lines of a file like /etc/resolv.conf, read at the start.
    File(PathBuf),
}

impl FromStr for DnsUpstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let server = text.parse().map_err(|error| format!("{error}; a file's path starts with `/`"));
        server.and_then(|DnsAddress(server)| askable(text, server)).map(Self::Server)
    }
}

/// A zone and the server of its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsStub {
    /// The zone's name.
    pub zone: String,
    /// Its server.
    pub server: SocketAddr,
}

impl FromStr for DnsStub {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (zone, server) = text.split_once('=').ok_or_else(|| format!("`{text}` is not ZONE=ADDR"))?;
        Name::parse(zone).map_err(|error| format!("zone {error}"))?;
        let DnsAddress(address) = server.parse()?;
        Ok(Self { zone: zone.to_owned(), server: askable(server, address)? })
    }
}

/// Refuses the address of nobody.
fn askable(text: &str, server: SocketAddr) -> Result<SocketAddr, String> {
    if server.ip().is_unspecified() {
        return Err(format!("`{text}` is nobody's address; name the one of a server"));
    }
    Ok(server)
}

/// A time as `1s`, `250ms` or `0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.get(digits.len()..).unwrap_or_default();
        let number: u64 =
            digits.parse().map_err(|_| format!("`{text}` is no time; write `1s` or `250ms`"))?;
        let time = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.saturating_mul(60)),
            "h" => Duration::from_secs(number.saturating_mul(60 * 60)),
            "" if number == 0 => Duration::ZERO,
            _ => return Err(format!("`{text}` needs a unit: `ms`, `s`, `m` or `h`")),
        };
        // Clocks count on from times of this size without an overflow.
        if time.as_secs() > u64::from(u32::MAX) {
            return Err(format!("`{text}` is longer than 136 years"));
        }
        Ok(Self(time))
    }
}

/// Parses a flow timeout; it is a time of whole seconds.
pub(super) fn timeout(text: &str) -> Result<(String, u32), String> {
    let (name, time) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=TIME"))?;
    let Span(time) = time.parse()?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    let seconds = seconds.ok_or_else(|| format!("`{text}` is no time of whole seconds below 136 years"))?;
    Timeouts::default().set(name, seconds).map_err(|error| error.to_string())?;
    Ok((Timeouts::short_name(name), seconds))
}

/// Parses a time that is not none.
pub(super) fn positive_time(text: &str) -> Result<Span, String> {
    let time: Span = text.parse()?;
    if time.0.is_zero() {
        return Err(format!("`{text}` is no time at all; the least is `1ms`"));
    }
    Ok(time)
}

/// Parses a network. An address whose host part is not zero stands for the network that it lies in.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let fail = |why: &dyn fmt::Display| Err(format!("`{text}` is no network ADDRESS/LENGTH: {why}"));
    let Some((address, length)) = text.split_once('/') else {
        return fail(&"it has no `/LENGTH`, as in `10.96.0.0/12`");
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return fail(&format_args!("`{address}` is no address"));
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(number) if number <= most => Ok(IpNet::new_assert(address, number)),
        Ok(_) => fail(&format_args!("the length {length} is above {most}")),
        Err(_) => fail(&format_args!("`{length}` is no length from 0 to {most}")),
    }
}

/// Parses the address and port that an HTTP server listens on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address: Option<SocketAddr> = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| {
        format!(
            "`{text}` is no address and port, as `127.0.0.1:9100` or `[::1]:9100`, the port from 1 to 65535"
        )
    })
}

/// Parses the name of a namespace.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    named(text, syntax::label(text))
}

/// Parses the name of a Node.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    named(text, syntax::subdomain(text))
}

/// Parses the zone of a Node, which is the value of a label.
pub(super) fn topology_zone(text: &str) -> Result<String, String> {
    named(text, syntax::label_value(text))
}

fn named(text: &str, checked: Result<(), &str>) -> Result<String, String> {
    checked.map(|()| text.to_owned()).map_err(|what| format!("`{text}` {what}"))
}

/// Parses the zone of the cluster's names.
pub(super) fn cluster_domain(text: &str) -> Result<String, String> {
    let domain = Name::parse(text).map_err(|error| error.to_string())?;
    if domain == Name::root() {
        return Err(format!(
            "`{text}` is the root, whose names are not the cluster's; write `cluster.local`"
        ));
    }
    Ok(text.to_owned())
}

/// Parses a whole number within bounds.
pub(super) fn whole_number(
    bounds: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number
            .ok_or_else(|| format!("`{text}` is no whole number from {} to {}", bounds.start(), bounds.end()))
    }
}
