//! The command line: flags, environment and file mean the same; flags win over environment, environment over file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tidegate_dataplane::flows::Timeouts;
use tidegate_dataplane::worker::Polling;

use crate::instance::DEFAULT_DIRECTORY;
use crate::masquerade;

mod names;
mod pods;
mod source;
mod values;

pub use names::{AaaaAnswer, DnsCommand, ExplainArguments, NameArguments, PodsMode};
pub use pods::{EnvArguments, ResolvConfArguments};
pub use source::{Source, SourceArguments};
pub use values::{CoreList, DnsAddress, DnsStub, DnsUpstream, Span};

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
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
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
    #[arg(long, value_name = "NAME", value_parser = values::node_name, env = "TIDEGATE_NODE_NAME")]
    pub node_name: Option<String>,

    /// The zone that this box is in [default: the one that the Node's label says].
    #[arg(long, value_name = "NAME", value_parser = values::topology_zone, env = "TIDEGATE_ZONE")]
    pub zone: Option<String>,

    /// With `--source kubernetes`: the file of what is known, which a start without the API server goes on from
    /// [default: `cluster` in --state-dir; name one on a disk to keep it over a reboot].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CLUSTER_FILE")]
    pub cluster_file: Option<PathBuf>,

    /// Zone of the cluster's names.
    #[arg(long, value_name = "DOMAIN", value_parser = values::cluster_domain, default_value = "cluster.local", env = "TIDEGATE_CLUSTER_DOMAIN")]
    pub cluster_domain: String,

    /// Network of ClusterIPs; repeat for several.
    #[arg(
        long = "service-cidr",
        value_name = "CIDR", value_parser = values::network,
        default_value = "10.96.0.0/12",
        env = "TIDEGATE_SERVICE_CIDR",
        value_delimiter = ','
    )]
    pub service_cidrs: Vec<IpNet>,

    /// Network of pods; they may resolve names of other zones through us. Repeat for several.
    #[arg(long = "pod-cidr", value_name = "CIDR", value_parser = values::network, env = "TIDEGATE_POD_CIDR", value_delimiter = ',')]
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
    #[arg(long = "dns-allow", value_name = "CIDR", value_parser = values::network, env = "TIDEGATE_DNS_ALLOW", value_delimiter = ',')]
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
        value_name = "CIDR", value_parser = values::network,
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
        value_parser = values::whole_number(1024..=33_554_432),
        env = "TIDEGATE_FLOWS"
    )]
    pub flows: u32,

    /// Endpoints that there is room for; the kernel keeps 32 octets for each, and about 200 more for each that is there.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 262_144,
        value_parser = values::whole_number(1024..=16_777_216),
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
        value_parser = values::timeout
    )]
    pub timeouts: Vec<(String, u32)>,

    /// Packet buffers of 4 KiB for each worker; its rings take up to half of them, at most 4,096 for each queue.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16_384,
        value_parser = values::whole_number(4096..=1_048_576),
        env = "TIDEGATE_FRAMES"
    )]
    pub frames: u32,

    /// Address that serves /metrics (Prometheus text), /healthz, /livez and /readyz.
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::listen_address, env = "TIDEGATE_METRICS")]
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
    let matches = CommandLine::command().try_get_matches_from(all)?;
    refuse_repeated(&CommandLine::command(), &matches)?;
    let command_line = CommandLine::from_arg_matches(&matches)?;
    if let Command::Run(run) = &command_line.command {
        let mut names = BTreeSet::new();
        if let Some((name, _)) = run.timeouts.iter().find(|(name, _)| !names.insert(name)) {
            return Err(bad_value(format!("--timeout {name}: named twice")));
        }
    }
    Ok(command_line)
}

fn bad_value(message: String) -> clap::Error {
    CommandLine::command().error(clap::error::ErrorKind::InvalidValue, message)
}

/// Refuses a value that a repeatable flag has twice: one of them was meant to be another.
fn refuse_repeated(command: &clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    if let Some((name, matches)) = matches.subcommand() {
        return command.find_subcommand(name).map_or(Ok(()), |command| refuse_repeated(command, matches));
    }
    for argument in
        command.get_arguments().filter(|argument| matches!(argument.get_action(), ArgAction::Append))
    {
        let mut values = BTreeSet::new();
        let given = matches.get_raw(argument.get_id().as_str()).into_iter().flatten();
        for value in given {
            if !values.insert(value) {
                let flag = argument.get_long().unwrap_or_default();
                return Err(bad_value(format!("--{flag} {}: named twice", value.display())));
            }
        }
    }
    Ok(())
}

/// Finds clap's id of the argument with that long flag.
fn argument_id(long: &str) -> Option<String> {
    let command = CommandLine::command();
    let run = command.find_subcommand("run")?;
    run.get_arguments().find(|argument| argument.get_long() == Some(long)).map(|a| a.get_id().to_string())
}

/// Turns the file's keys into flags, but for those that were given otherwise.
fn file_arguments(file: &Path, given: impl Fn(&str) -> bool) -> Result<Vec<OsString>, clap::Error> {
    let fail = |what: String| bad_value(format!("--config {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
    let mut arguments = Vec::new();
    for (key, value) in table {
        if argument_id(&key).is_none() || key == "config" {
            return Err(fail(format!("`{key}` is no setting")));
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
                    return Err(fail(format!("`{key}`: {other} has the wrong type")));
                }
            };
            arguments.push(flag.into());
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests;
