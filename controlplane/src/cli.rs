//! The command line: flags, environment and file mean the same; flags win over environment, environment over file.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tidegate_dataplane::flows::Timeouts;
use tidegate_dataplane::worker::Polling;

use crate::instance::DEFAULT_DIRECTORY;
use crate::masquerade;

mod names;
mod pods;
mod source;

pub use names::{AaaaAnswer, DnsCommand, ExplainArguments, NameArguments, PodsMode};
pub use pods::{EnvArguments, ResolvConfArguments};
pub use source::{Source, SourceArguments};

/// Kubernetes service gateway on AF_XDP: forwards Services to their pods and answers cluster DNS.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, about)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the gateway until SIGTERM or SIGINT.
    Run(Box<RunArguments>),
    /// Questions about cluster DNS.
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Prints the environment variables by which a pod finds Services, as kubelet makes them.
    Env(Box<EnvArguments>),
    /// Prints the resolv.conf of a pod, as kubelet makes it.
    ResolvConf(ResolvConfArguments),
}

/// Everything `tidegate run` can be told.
#[derive(Args, Debug, Clone)]
pub struct RunArguments {
    /// The same settings in TOML: each flag's name without dashes in front, lists for repeatable ones.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Device to serve; repeat for several.
    #[arg(
        long = "interface",
        value_name = "NAME",
        required = true,
        env = "TIDEGATE_INTERFACE",
        value_delimiter = ','
    )]
    pub interfaces: Vec<String>,

    /// Cores of the workers, one worker each, as `2`, `2,3` or `2-5` [default: the last one allowed].
    #[arg(long, value_name = "LIST", env = "TIDEGATE_CORES")]
    pub cores: Option<CoreList>,

    /// How workers wait for packets: `adaptive` sleeps in the kernel when none come, `busy` always takes the
    /// whole core, and has the kernel run the driver there.
    #[arg(long, value_name = "HOW", default_value = "adaptive", env = "TIDEGATE_POLLING")]
    pub polling: PollingMode,

    /// Where Services come from.
    #[command(flatten)]
    pub cluster: SourceArguments,

    /// The Node that this box is [default: none, so that no endpoint is local].
    #[arg(long, value_name = "NAME", env = "TIDEGATE_NODE_NAME")]
    pub node_name: Option<String>,

    /// The zone that this box is in [default: the one that the Node's label says].
    #[arg(long, value_name = "NAME", env = "TIDEGATE_ZONE")]
    pub zone: Option<String>,

    /// With `--source kubernetes`: the file of what is known, which a start without the API server goes on from
    /// [default: `cluster` in --state-dir; name one on a disk to keep it over a reboot].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CLUSTER_FILE")]
    pub cluster_file: Option<PathBuf>,

    /// Zone of the cluster's names.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", env = "TIDEGATE_CLUSTER_DOMAIN")]
    pub cluster_domain: String,

    /// Network of ClusterIPs; repeat for several.
    #[arg(
        long = "service-cidr",
        value_name = "CIDR",
        default_value = "10.96.0.0/12",
        env = "TIDEGATE_SERVICE_CIDR",
        value_delimiter = ','
    )]
    pub service_cidrs: Vec<IpNet>,

    /// Network of pods; they may resolve names of other zones through us. Repeat for several.
    #[arg(long = "pod-cidr", value_name = "CIDR", env = "TIDEGATE_POD_CIDR", value_delimiter = ',')]
    pub pod_cidrs: Vec<IpNet>,

    /// Address of the cluster DNS, port 53 unless given; put on `lo` if no interface has it. Repeat for several.
    #[arg(
        long = "dns-listen",
        value_name = "ADDR[:PORT]",
        env = "TIDEGATE_DNS_LISTEN",
        value_delimiter = ','
    )]
    pub dns_listen: Vec<DnsAddress>,

    /// Server for names of other zones, or a file of such as /etc/resolv.conf; repeat for several, asked in this order.
    #[arg(
        long = "dns-upstream",
        value_name = "ADDR[:PORT]|FILE",
        env = "TIDEGATE_DNS_UPSTREAM",
        value_delimiter = ','
    )]
    pub dns_upstream: Vec<DnsUpstream>,

    /// Server for the names of one zone; repeat for several.
    #[arg(
        long = "dns-stub",
        value_name = "ZONE=ADDR[:PORT]",
        env = "TIDEGATE_DNS_STUB",
        value_delimiter = ','
    )]
    pub dns_stubs: Vec<DnsStub>,

    /// More sources that may resolve names of other zones through us; repeat for several.
    #[arg(long = "dns-allow", value_name = "CIDR", env = "TIDEGATE_DNS_ALLOW", value_delimiter = ',')]
    pub dns_allow: Vec<IpNet>,

    /// How names are made of the cluster.
    #[command(flatten)]
    pub names: NameArguments,

    /// Log a line for each DNS question with its answer's code.
    #[arg(long, env = "TIDEGATE_DNS_LOG_QUERIES")]
    pub dns_log_queries: bool,

    /// Own addresses that have NodePorts; repeat for several [default: all but loopback].
    #[arg(
        long = "nodeport-addresses",
        value_name = "CIDR",
        env = "TIDEGATE_NODEPORT_ADDRESSES",
        value_delimiter = ','
    )]
    pub nodeport_addresses: Vec<IpNet>,

    /// Count packets, octets, flows and drops for each endpoint of a Service port, not only for the port.
    #[arg(long, env = "TIDEGATE_METRICS_ENDPOINTS")]
    pub metrics_endpoints: bool,

    /// Which new flows take the gateway's address for the client's.
    #[arg(long, value_name = "WHEN", default_value = "auto", env = "TIDEGATE_MASQUERADE")]
    pub masquerade: masquerade::Setting,

    /// Source ports of such flows; reserved in the kernel while the gateway runs (`ip_local_reserved_ports`).
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", env = "TIDEGATE_MASQUERADE_PORTS")]
    pub masquerade_ports: masquerade::Ports,

    /// How long a removed Service's address goes on after its name is gone, as `1s` or `250ms`.
    #[arg(long, value_name = "TIME", default_value = "1s", env = "TIDEGATE_VIP_LINGER")]
    pub vip_linger: Span,

    /// Whether ARP and Neighbor Solicitations are answered for virtual addresses that lie in a network of a served
    /// interface. Of several gateways on a link, only one may do so.
    #[arg(long, value_name = "HOW", default_value = "off", env = "TIDEGATE_ANNOUNCE")]
    pub announce: Announce,

    /// Capacity of the flow table, in flows.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 262_144,
        value_parser = clap::value_parser!(u32).range(1024..=33_554_432),
        env = "TIDEGATE_FLOWS"
    )]
    pub flows: u32,

    /// Endpoints that there is room for; the kernel keeps 32 octets for each, and about 200 more for each that is there.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 262_144,
        value_parser = clap::value_parser!(u32).range(1024..=16_777_216),
        env = "TIDEGATE_ENDPOINTS"
    )]
    pub endpoints: u32,

    /// How long flows of a state are remembered without a packet, as `tcp_established=2h`; repeat for several. The
    /// names are those of Linux without `nf_conntrack_` and `timeout_`.
    #[arg(
        long = "timeout",
        value_name = "NAME=TIME",
        env = "TIDEGATE_TIMEOUT",
        value_delimiter = ',',
        value_parser = timeout
    )]
    pub timeouts: Vec<(String, u32)>,

    /// Packet buffers of 4 KiB for each worker; its rings take up to half of them, at most 4,096 for each queue.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16_384,
        value_parser = clap::value_parser!(u32).range(4096..=1_048_576),
        env = "TIDEGATE_FRAMES"
    )]
    pub frames: u32,

    /// Address that serves /metrics (Prometheus text), /healthz and /readyz.
    #[arg(long, value_name = "ADDR:PORT", env = "TIDEGATE_METRICS")]
    pub metrics: Option<SocketAddr>,

    /// Directory of what outlives the process: flow table, lock, journal, assigned ClusterIPs, the last known cluster.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY, env = "TIDEGATE_STATE_DIR")]
    pub state_dir: PathBuf,

    /// `generic`: do not try the driver's native XDP mode.
    #[arg(long, value_name = "MODE", default_value = "auto", env = "TIDEGATE_XDP_MODE")]
    pub xdp_mode: XdpMode,

    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "TIDEGATE_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Validate everything, print the plan, change nothing.
    #[arg(long)]
    pub check: bool,
}

impl RunArguments {
    /// Returns Linux's flow timeouts, but for those that were given.
    #[must_use]
    pub fn flow_timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        for (name, seconds) in &self.timeouts {
            // Parsing has refused what cannot be set.
            let set = timeouts.set(name, *seconds);
            debug_assert!(set.is_ok(), "{set:?}");
        }
        timeouts
    }
}

/// How workers wait for packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PollingMode {
    /// They spin while packets come in short order, else they sleep.
    Adaptive,
    /// They always spin.
    Busy,
}

impl From<PollingMode> for Polling {
    fn from(mode: PollingMode) -> Self {
        match mode {
            PollingMode::Adaptive => Self::Adaptive,
            PollingMode::Busy => Self::Busy,
        }
    }
}

/// How virtual addresses are made known on links.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Announce {
    /// Not at all: routes lead to them.
    Off,
    /// By ARP and Neighbor Discovery.
    L2,
}

/// Which XDP mode to attach in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum XdpMode {
    /// Native, and generic where the driver has no native mode.
    Auto,
    /// Generic.
    Generic,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Cores as `2`, `2,3` or `2-5`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreList(pub Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is no core number"));
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != cores.len() {
            return Err(format!("`{text}` names a core twice"));
        }
        if cores.is_empty() || cores.len() > 64 {
            return Err(format!("`{text}` names {} cores; 1 to 64 are possible", cores.len()));
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
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self(address));
        }
        let address: IpAddr =
            text.parse().map_err(|_| format!("`{text}` is no address, nor an address and a port"))?;
        Ok(Self(SocketAddr::new(address, 53)))
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
        text.parse::<DnsAddress>().map(|server| Self::Server(server.0))
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
        Ok(Self { zone: zone.to_owned(), server: server.parse::<DnsAddress>()?.0 })
    }
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
        match unit {
            "ms" => Ok(Self(Duration::from_millis(number))),
            "s" => Ok(Self(Duration::from_secs(number))),
            "m" => Ok(Self(Duration::from_secs(number.saturating_mul(60)))),
            "h" => Ok(Self(Duration::from_secs(number.saturating_mul(60 * 60)))),
            "" if number == 0 => Ok(Self(Duration::ZERO)),
            _ => Err(format!("`{text}` needs a unit: `ms`, `s`, `m` or `h`")),
        }
    }
}

/// Parses a flow timeout; it is a time of whole seconds.
fn timeout(text: &str) -> Result<(String, u32), String> {
    let (name, time) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=TIME"))?;
    let Span(time) = time.parse()?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    let seconds = seconds.ok_or_else(|| format!("`{text}` is no time of whole seconds below 136 years"))?;
    Timeouts::default().set(name, seconds).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), seconds))
}

/// Parses the command line, with the file that it names.
///
/// # Errors
/// A [`clap::Error`] that names the flag, or the key of the file; the caller exits with 2.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // What `--help` prints says what is required; a file may provide it, so the first look must not insist.
    if let Err(help) = CommandLine::command().try_get_matches_from(&arguments)
        && !help.use_stderr()
    {
        return Err(help);
    }
    let lenient =
        CommandLine::command().mut_subcommand("run", |run| run.mut_args(|argument| argument.required(false)));
    let matches = lenient.try_get_matches_from(&arguments)?;
    let mut all = arguments.clone();
    if let Some(("run", run)) = matches.subcommand()
        && let Some(file) = run.get_one::<PathBuf>("config")
    {
        let given = |name: &str| {
            let id = argument_id(name);
            id.is_some_and(|id| {
                matches!(run.value_source(&id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
            })
        };
        all.extend(file_arguments(file, given)?);
    }
    CommandLine::from_arg_matches(&CommandLine::command().try_get_matches_from(all)?)
}

/// Finds clap's id of the argument with that long flag.
fn argument_id(long: &str) -> Option<String> {
    let command = CommandLine::command();
    let run = command.find_subcommand("run")?;
    run.get_arguments().find(|argument| argument.get_long() == Some(long)).map(|a| a.get_id().to_string())
}

/// Turns the file's keys into flags, but for those that were given otherwise.
fn file_arguments(file: &Path, given: impl Fn(&str) -> bool) -> Result<Vec<OsString>, clap::Error> {
    let fail = |message: String| CommandLine::command().error(clap::error::ErrorKind::InvalidValue, message);
    let text =
        std::fs::read_to_string(file).map_err(|e| fail(format!("--config {}: {e}", file.display())))?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| fail(format!("--config {}: {e}", file.display())))?;
    let mut arguments = Vec::new();
    for (key, value) in table {
        if argument_id(&key).is_none() || key == "config" {
            return Err(fail(format!("--config {}: `{key}` is no setting", file.display())));
        }
        if given(&key) {
            continue;
        }
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let flag = match value {
                toml::Value::String(text) => format!("--{key}={text}"),
                toml::Value::Integer(number) => format!("--{key}={number}"),
                toml::Value::Boolean(true) => format!("--{key}"),
                toml::Value::Boolean(false) => continue,
                other => {
                    let message = format!("--config {}: `{key}`: {other} has the wrong type", file.display());
                    return Err(fail(message));
                }
            };
            arguments.push(flag.into());
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<RunArguments, String> {
        let all = ["tidegate", "run"].iter().chain(arguments).map(OsString::from);
        match parse(all).map_err(|e| e.to_string())?.command {
            Command::Run(run) => Ok(*run),
            other => panic!("{other:?} is no run"),
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "interface = ['a', 'b']\nsource = 'manifests:/m'\nflows = 4096\n").unwrap();
        let config = file.path().to_str().unwrap();
        let both = run(&["--config", config, "--flows", "2048"]).unwrap();
        assert_eq!((both.interfaces, both.flows), (vec!["a".into(), "b".into()], 2048));
        assert_eq!(both.cluster.source, Source::Manifests("/m".into()));
    }

    #[test]
    fn workers_sleep_unless_the_command_line_or_the_file_says_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "polling = 'busy'\n").unwrap();
        let base = ["--interface", "a", "--source", "manifests:/m"];
        let with = |more: &[&str]| run(&[&base[..], more].concat()).unwrap().polling;
        let config = file.path().to_str().unwrap();
        assert_eq!(with(&[]), PollingMode::Adaptive);
        assert_eq!(with(&["--config", config]), PollingMode::Busy);
        assert_eq!(with(&["--config", config, "--polling", "adaptive"]), PollingMode::Adaptive);
    }

    #[test]
    fn how_names_are_made_can_be_said_by_flags_and_by_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "interface = 'a'\nsource = 'manifests:/m'\ndns-pods = 'verified'\ndns-ttl = 5\n\
                    dns-namespace = ['dev', 'prod']\ndns-endpoint-pod-names = true\n\
                    dns-upstream = ['192.0.2.1', '/etc/resolv.conf']\n";
        std::fs::write(&file, text).unwrap();
        let run = run(&["--config", file.path().to_str().unwrap(), "--dns-aaaa", "nodata"]).unwrap();
        assert_eq!((run.names.dns_pods, run.names.dns_ttl), (PodsMode::Verified, 5));
        assert_eq!(run.names.dns_namespaces, ["dev", "prod"]);
        assert!(run.names.dns_endpoint_pod_names && !run.names.dns_ignore_empty_service);
        assert_eq!(run.names.dns_aaaa, Some(AaaaAnswer::Nodata));
        let server = DnsUpstream::Server("192.0.2.1:53".parse().unwrap());
        assert_eq!(run.dns_upstream, [server, DnsUpstream::File("/etc/resolv.conf".into())]);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "inteface = 'a'\n").unwrap();
        let error = run(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        assert!(error.contains("`inteface` is no setting"), "{error}");
    }

    #[test]
    fn bad_values_are_named_with_their_flag() {
        let base = ["--interface", "a", "--source", "manifests:/m"];
        for (flag, value, says) in [
            ("--dns-listen", "10.96.0.300", "`10.96.0.300` is no address"),
            ("--service-cidr", "10.96.0.0/33", "10.96.0.0/33"),
            ("--vip-linger", "5", "needs a unit"),
            ("--cores", "1,1", "names a core twice"),
            ("--flows", "5", "--flows"),
            ("--timeout", "udp", "not NAME=TIME"),
            ("--timeout", "udp=5", "needs a unit"),
            ("--timeout", "udp=0s", "timeout udp: at least one second"),
            ("--timeout", "udp=1500ms", "no time of whole seconds"),
            ("--timeout", "tcp=5s", "`tcp` is no timeout; there are tcp_syn_sent"),
            ("--dns-stub", "corp", "not ZONE=ADDR"),
            ("--dns-upstream", "resolv.conf", "`resolv.conf` is no address"),
            ("--dns-ttl", "3601", "3601"),
            ("--dns-pods", "maybe", "[possible values: disabled, insecure, verified]"),
            ("--masquerade", "sometimes", "[possible values: auto, always, never]"),
            ("--masquerade-ports", "65535-61000", "`65535-61000` is no range"),
            ("--masquerade-ports", "0-5", "`0-5` is no range"),
            ("--masquerade-ports", "61000-70000", "`70000` is no port"),
        ] {
            let error = run(&[&base[..], &[flag, value]].concat()).unwrap_err();
            assert!(error.contains(says) && error.contains(flag), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn each_timeout_that_is_named_replaces_linuxs() {
        let base = ["--interface", "a", "--source", "manifests:/m"];
        assert_eq!(run(&base).unwrap().flow_timeouts(), Timeouts::default());
        let named =
            ["--timeout", "tcp_established=2h", "--timeout", "nf_conntrack_udp_timeout=45s,sctp_closed=1m"];
        let expected = Timeouts { tcp_established: 7_200, udp: 45, sctp_closed: 60, ..Timeouts::default() };
        assert_eq!(run(&[&base[..], &named].concat()).unwrap().flow_timeouts(), expected);
    }

    #[test]
    fn an_unknown_source_is_refused() {
        let error = run(&["--interface", "a", "--source", "etcd:/x"]).unwrap_err();
        assert!(error.contains("manifests:DIR"), "{error}");
    }

    #[test]
    fn a_dns_address_has_port_53_unless_given() {
        assert_eq!("10.96.0.10".parse::<DnsAddress>().unwrap().0, "10.96.0.10:53".parse().unwrap());
        assert_eq!("[::1]:5353".parse::<DnsAddress>().unwrap().0, "[::1]:5353".parse().unwrap());
    }

    #[test]
    fn core_lists_take_ranges() {
        assert_eq!("0,2-4".parse::<CoreList>().unwrap().0, [0, 2, 3, 4]);
    }
}
