//! Where Services come from, whichever it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;

use crate::cli::{PodsMode, RunArguments, Source as Which, SourceArguments};
use crate::cluster::Event;
use crate::http::metrics::Family;
use crate::manifests::{self, Manifests, Report};

use crate::publish::Refusal;
use crate::settings::BadConfiguration;
use crate::watch::{self, AccessError, Kubernetes, Limits};

/// When a change was read, and when what it shows came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// When it was decoded.
    pub read: Instant,
    /// What the object itself says of when it happened.
    pub triggered: Option<SystemTime>,
}

/// Changes that belong together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// What changed: what adds comes before what removes.
    pub events: Vec<Event>,
    /// Where they came from; empty where that is not known.
    pub origins: Vec<Origin>,
}

/// What a source is opened with.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Which one, and how to reach it.
    pub arguments: &'a SourceArguments,
    /// `--service-cidr`.
    pub service_cidrs: &'a [IpNet],
    /// Pods are of interest by themselves.
    pub pods: bool,
    /// `--dns-endpoint-pod-names`.
    pub pod_names: bool,
    /// `--node-name`.
    pub node_name: Option<Arc<str>>,
    /// The file that keeps assigned ClusterIPs over a restart.
    pub cluster_ips: Option<PathBuf>,
    /// The file of the last known cluster.
    pub cluster_file: Option<PathBuf>,
    /// This is a run, which tells the API server what it refuses; others only look.
    pub run: bool,
}

impl<'a> Settings<'a> {
    /// Returns what a run is to be opened with, or, without a state directory, a look at what it would do.
    #[must_use]
    pub fn of_run(arguments: &'a RunArguments, run: bool) -> Self {
        let state = run.then_some(&arguments.state_dir);
        let cluster_file = arguments.cluster_file.clone();
        Self {
            arguments: &arguments.cluster,
            service_cidrs: &arguments.service_cidrs,
            pods: arguments.names.dns_pods == PodsMode::Verified,
            pod_names: arguments.names.dns_endpoint_pod_names,
            node_name: arguments.node_name.as_deref().map(Arc::from),
            cluster_ips: state.map(|state| state.join("clusterips.json")),
            cluster_file: state.map(|state| cluster_file.unwrap_or_else(|| state.join("cluster"))),
            run,
        }
    }
}

/// A source that is being followed.
#[derive(Debug)]
pub enum Source {
    /// A directory of YAML files.
    Manifests(Box<Manifests>),
    /// A Kubernetes API server.
    Kubernetes(Box<Kubernetes>),
}

impl Source {
    /// Begins to follow it.
    ///
    /// # Errors
    /// A directory that cannot be read; settings by which no API server can be reached.
    pub async fn open(settings: Settings<'_>) -> anyhow::Result<Self> {
        match &settings.arguments.source {
            Which::Manifests(directory) => {
                let manifests = manifests::Settings {
                    service_cidrs: settings.service_cidrs.to_vec(),
                    state_file: settings.cluster_ips,
                    pods: settings.pods,
                };
                let opened = Manifests::open(directory.clone(), manifests).map_err(|error| match error {
                    manifests::Error::Directory(path, why) => {
                        let flag = format!("--source manifests:{}", path.display());
                        BadConfiguration(format!("{flag}: cannot follow the directory: {why}")).into()
                    }
                    manifests::Error::Watch(_) => anyhow::Error::from(error),
                });
                Ok(Self::Manifests(Box::new(opened?)))
            }
            Which::Kubernetes => {
                let kubernetes = watch::Settings {
                    kubeconfig: settings.arguments.kubeconfig.clone(),
                    node_name: settings.node_name,
                    pods: settings.pods,
                    pod_names: settings.pod_names,
                    service_cidrs: settings.service_cidrs.to_vec(),
                    cluster_file: settings.cluster_file,
                    limits: Limits::of_watch(settings.arguments.watch_time.0),
                    complain: settings.run,
                };
                let opened = Kubernetes::open(kubernetes).await.map_err(|error| match error {
                    AccessError::Settings(what) => BadConfiguration(what).into(),
                    AccessError::Credentials(_) => anyhow::Error::from(error),
                });
                Ok(Self::Kubernetes(Box::new(opened?)))
            }
        }
    }

    /// Returns the next update: at first everything, later the differences, never an empty one then.
    ///
    /// May be dropped while it waits, as in `select!`: the next call goes on.
    pub async fn next(&mut self) -> Update {
        match self {
            Self::Manifests(manifests) => Update { events: manifests.next().await, origins: Vec::new() },
            Self::Kubernetes(kubernetes) => kubernetes.next().await,
        }
    }

    /// Returns what is in force and what is wrong now.
    #[must_use]
    pub fn report(&self) -> Report {
        match self {
            Self::Manifests(manifests) => manifests.report(),
            Self::Kubernetes(kubernetes) => kubernetes.report(),
        }
    }

    /// Says whether all that is known comes from the source itself, and none of it from what an earlier run wrote.
    #[must_use]
    pub fn is_current(&self) -> bool {
        match self {
            Self::Manifests(_) => true,
            Self::Kubernetes(kubernetes) => kubernetes.standing().stale.is_none(),
        }
    }

    /// Says whether what is in force is what the source says now, as far as we can know.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        match self {
            Self::Manifests(manifests) => !manifests.reports().borrow().directory_missing,
            Self::Kubernetes(kubernetes) => kubernetes.standing().troubles().is_empty(),
        }
    }

    /// Says in lines what is not as it should be with the source as a whole.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        match self {
            Self::Manifests(_) => Vec::new(),
            Self::Kubernetes(kubernetes) => kubernetes.standing().troubles(),
        }
    }

    /// Lists the metrics that only this source has.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        match self {
            Self::Manifests(manifests) => manifests.report().families(),
            Self::Kubernetes(kubernetes) => kubernetes.standing().families(),
        }
    }

    /// Tells the authors of Services what of them cannot be put in force.
    pub fn complain(&self, refusals: Vec<Refusal>) {
        if let Self::Kubernetes(kubernetes) = self {
            refusals.into_iter().for_each(|refusal| kubernetes.complain(refusal));
        }
    }

    /// Keeps what the next start goes on from.
    pub async fn end(&mut self) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.end().await;
        }
    }
}
