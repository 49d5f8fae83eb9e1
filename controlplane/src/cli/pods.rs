//! The flags of the subcommands that say what a pod is given.

use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use super::{DnsAddress, SourceArguments, values};

/// Everything `tidegate env` can be told.
#[derive(Args, Debug, Clone)]
pub struct EnvArguments {
    /// The namespace of the pod.
    #[arg(long, value_name = "NAMESPACE", value_parser = values::namespace)]
    pub namespace: String,

    /// As a pod with `enableServiceLinks: false`: the Service `default/kubernetes` only.
    #[arg(long)]
    pub no_service_links: bool,

    /// Where Services come from, as for `tidegate run`.
    #[command(flatten)]
    pub cluster: SourceArguments,

    /// Network of ClusterIPs; repeat for several.
    #[arg(
        long = "service-cidr",
        value_name = "CIDR", value_parser = values::network,
        default_value = "10.96.0.0/12",
        env = "TIDEGATE_SERVICE_CIDR",
        value_delimiter = ','
    )]
    pub service_cidrs: Vec<IpNet>,
}

/// Everything `tidegate resolv-conf` can be told.
#[derive(Args, Debug, Clone)]
pub struct ResolvConfArguments {
    /// The namespace of the pod.
    #[arg(long, value_name = "NAMESPACE", value_parser = values::namespace)]
    pub namespace: String,

    /// Zone of the cluster's names.
    #[arg(long, value_name = "DOMAIN", value_parser = values::cluster_domain, default_value = "cluster.local", env = "TIDEGATE_CLUSTER_DOMAIN")]
    pub cluster_domain: String,

    /// Address of the cluster DNS; repeat for several.
    #[arg(
        long = "dns-listen",
        value_name = "ADDR",
        required = true,
        env = "TIDEGATE_DNS_LISTEN",
        value_delimiter = ','
    )]
    pub dns_listen: Vec<DnsAddress>,

    /// The node's own file, whose search list comes behind, as kubelet's `--resolv-conf`.
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
}
