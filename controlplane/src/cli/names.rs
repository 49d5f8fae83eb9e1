//! The flags of cluster DNS that more than one subcommand has, and `tidegate dns`.

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::{DnsAddress, SourceArguments, values};

/// How names are made of the cluster.
#[derive(Args, Debug, Clone)]
pub struct NameArguments {
    /// Seconds for which answers may be kept.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = values::whole_number(0..=3600),
        env = "TIDEGATE_DNS_TTL"
    )]
    pub dns_ttl: u32,

    /// Seconds for which negative answers may be kept [default: as --dns-ttl].
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = values::whole_number(0..=3600),
        env = "TIDEGATE_DNS_NEGATIVE_TTL"
    )]
    pub dns_negative_ttl: Option<u32>,

    /// What `1-2-3-4.NAMESPACE.pod` names say.
    #[arg(long, value_name = "MODE", default_value = "insecure", env = "TIDEGATE_DNS_PODS")]
    pub dns_pods: PodsMode,

    /// Namespace whose names are served; repeat for several [default: all].
    #[arg(
        long = "dns-namespace",
        value_name = "NAMESPACE", value_parser = values::namespace,
        env = "TIDEGATE_DNS_NAMESPACE",
        value_delimiter = ','
    )]
    pub dns_namespaces: Vec<String>,

    /// `nodata`: answer AAAA with NODATA whatever the name, for clusters without IPv6.
    #[arg(long, value_name = "ANSWER", env = "TIDEGATE_DNS_AAAA")]
    pub dns_aaaa: Option<AaaaAnswer>,

    /// Name endpoints without a hostname by their Pod instead of their address.
    #[arg(long, env = "TIDEGATE_DNS_ENDPOINT_POD_NAMES")]
    pub dns_endpoint_pod_names: bool,

    /// Answer NXDOMAIN for Services with a ClusterIP that have no ready endpoint.
    #[arg(long, env = "TIDEGATE_DNS_IGNORE_EMPTY_SERVICE")]
    pub dns_ignore_empty_service: bool,
}

/// What names of pods say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PodsMode {
    /// They do not exist.
    Disabled,
    /// Each says the address it spells.
    Insecure,
    /// As `insecure`, if a Pod of the namespace has the address.
    Verified,
}

/// What AAAA questions get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AaaaAnswer {
    /// NODATA, whatever the name has.
    Nodata,
}

/// What `tidegate dns` can do.
#[derive(Subcommand, Debug)]
pub enum DnsCommand {
    /// Says what a name is answered with and why: which object, which rule. Works without a running gateway.
    Explain(Box<ExplainArguments>),
}

/// Everything `tidegate dns explain` can be told.
#[derive(Args, Debug, Clone)]
pub struct ExplainArguments {
    /// The name; without a dot at its end, a name that is not in the cluster's zone is also tried with the search
    /// list of a pod in --namespace.
    pub name: String,

    /// Type of record.
    #[arg(default_value = "A", value_name = "TYPE")]
    pub qtype: String,

    /// The namespace of the pod that asks.
    #[arg(long, value_name = "NAMESPACE", value_parser = values::namespace, default_value = "default")]
    pub namespace: String,

    /// Where Services come from, as for `tidegate run`.
    #[command(flatten)]
    pub cluster: SourceArguments,

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

    /// Address of the cluster DNS; repeat for several.
    #[arg(
        long = "dns-listen",
        value_name = "ADDR[:PORT]",
        env = "TIDEGATE_DNS_LISTEN",
        value_delimiter = ','
    )]
    pub dns_listen: Vec<DnsAddress>,

    /// How names are made.
    #[command(flatten)]
    pub names: NameArguments,
}
