//! Where Services come from: the flags of every subcommand that looks at a cluster.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::{Span, values};

/// Where Services come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A Kubernetes API server.
    Kubernetes,
    /// A directory of YAML files.
    Manifests(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("manifests", "")) => {
                Err("`manifests:` needs a directory, as `manifests:/etc/tidegate`".into())
            }
            Some(("manifests", directory)) => Ok(Self::Manifests(directory.into())),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => Err("expected `kubernetes` or `manifests:DIR`; no other source is built in".into()),
        }
    }
}

/// What says where Services come from.
#[derive(Args, Debug, Clone)]
pub struct SourceArguments {
    /// Where Services come from: `kubernetes`, an API server; or `manifests:DIR`, YAML files as `kubectl apply` takes
    /// them, followed while they change.
    #[arg(long, value_name = "SOURCE", env = "TIDEGATE_SOURCE")]
    pub source: Source,

    /// How to reach the API server [default: as kubectl finds it, else the account of the pod].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// How long the API server keeps a watch open; without a word for a quarter more, it is taken to be gone.
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = values::positive_time, env = "TIDEGATE_WATCH_TIME", hide = true)]
    pub watch_time: Span,
}
