//! The source `kubernetes`: Services, EndpointSlices, Namespaces and the own Node from a Kubernetes API server. The
//! only room that names kube.
//!
//! Everything is watched unfiltered, once (K1): packets and names want different parts of it and filter for
//! themselves. While the server is away what was known stays in force; before it was ever reached, a file of an
//! earlier run may stand for it ([`crate::cluster_file`]).
//!
//! Reading order: `wire` what the server sends, `follow` how it is asked (`access`, `backoff`, `life`), `mirror` what
//! it all comes to, `complaints` what we write back; then [`Kubernetes`], which puts them together.

mod access;
mod backoff;
mod complaints;
mod follow;
mod life;
mod mirror;
mod standing;
mod store;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::access::Access;
pub use self::access::AccessError;
use self::complaints::{Complaint, Complaints};
pub use self::follow::Limits;
use self::follow::{Follower, Heard};
use self::life::Lives;
use self::mirror::{Mirror, Told};
pub use self::standing::{Standing, WatchStanding};
use self::store::{Done, Store};
use crate::cluster_file::ClusterFile;
use crate::manifests::Report;
use crate::objects::{Fault, Kind, ObjectKey};
use crate::publish::Refusal;
use crate::source::{Origin, Update};

/// How long changes of a burst are gathered. A change that comes alone goes out at once.
const GATHER: Duration = Duration::from_millis(5);
/// How long a start with a file of an earlier run waits for the API server, if nothing says that it is away.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often it is looked at meanwhile whether something says so.
const LOOK: Duration = Duration::from_millis(10);
/// Times of changes that are kept for one update; of a greater burst the first ones tell enough.
const ORIGINS: usize = 4096;
/// What was told and not yet taken in; beyond that the server has to wait.
const TOLD: usize = 256;

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--kubeconfig`; without it, as kubectl finds its own, or the account in the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `--node-name`: this Node is followed.
    pub node_name: Option<Arc<str>>,
    /// Pods are followed: `--dns-pods verified`.
    pub pods: bool,
    /// `--dns-endpoint-pod-names`: endpoints are asked for the names of their Pods.
    pub pod_names: bool,
    /// `--service-cidr`: where the API server must not be.
    pub service_cidrs: Vec<IpNet>,
    /// The file of what is known, for a start without the API server.
    pub cluster_file: Option<PathBuf>,
    /// Time limits of requests.
    pub limits: Limits,
    /// Objects that are refused get an Event that says so.
    pub complain: bool,
}

/// What is said before the API server has said all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beginning {
    /// Nothing so far; what the file says goes out then, if there is any.
    Waiting(Instant),
    /// What the file says is in force.
    Stale,
    /// All comes from the API server.
    Over,
}

/// A cluster that is being followed.
pub struct Kubernetes {
    mirror: Mirror,
    told: mpsc::Receiver<Heard>,
    lives: Arc<Lives>,
    server: String,
    /// Ends the followers when it goes.
    _followers: JoinSet<()>,
    complaints: Option<Complaints>,
    store: Option<Store>,
    beginning: Beginning,
    /// When what the file says was written.
    remembered: Option<std::time::SystemTime>,
    /// What the events to come were made of.
    origins: Vec<Origin>,
    flushed_at: Option<Instant>,
    report: Report,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Begins to follow a cluster. Must run within a Tokio runtime. That the API server is away is no error.
    ///
    /// # Errors
    /// Settings that are missing or cannot be used.
    pub async fn open(settings: Settings) -> Result<Self, AccessError> {
        let access = Access::open(settings.kubeconfig.as_deref()).await?;
        access.require_outside(&settings.service_cidrs).await?;
        Ok(Self::begin(access, settings))
    }

    /// Begins to follow a cluster by a client that is given; `server` is its name for the file.
    #[must_use]
    pub fn follow(client: Client, server: &str, settings: Settings) -> Self {
        Self::begin(Access::given(client, server), settings)
    }

    fn begin(access: Access, settings: Settings) -> Self {
        let mut kinds = vec![Kind::Namespace, Kind::Service, Kind::EndpointSlice];
        kinds.extend(settings.node_name.is_some().then_some(Kind::Node));
        kinds.extend(settings.pods.then_some(Kind::Pod));
        let (tell, told) = mpsc::channel(TOLD);
        let (access, lives) = (Arc::new(access), Arc::new(Lives::new(kinds.iter().copied())));
        let mut followers = JoinSet::new();
        for kind in &kinds {
            let only = settings.node_name.clone().filter(|_| *kind == Kind::Node);
            let (access, tell) = (Arc::clone(&access), tell.clone());
            let follower = Follower::new(*kind, only, access, tell, Arc::clone(&lives), settings.limits);
            followers.spawn(follower.run());
        }
        let complaints = settings.complain.then(|| Complaints::new(Arc::clone(&access), settings.limits));
        let server = access.server().to_owned();
        let mirror = Mirror::new(kinds);
        let store = settings.cluster_file.map(|path| Store::open(ClusterFile::new(path, server.clone())));
        Self {
            mirror: if settings.pod_names { mirror } else { mirror.without_pod_names() },
            told,
            lives,
            server,
            _followers: followers,
            complaints,
            store,
            beginning: Beginning::Waiting(Instant::now() + PATIENCE),
            remembered: None,
            origins: Vec::new(),
            flushed_at: None,
            report: Report::default(),
        }
    }

    /// Returns the next update: at first everything, later the differences, never an empty one then.
    ///
    /// May be dropped while it waits, as in `select!`: the next call goes on.
    pub async fn next(&mut self) -> Update {
        loop {
            while let Ok(heard) = self.told.try_recv() {
                self.take_in(heard);
            }
            if let Some(update) = self.flush() {
                return update;
            }
            if let Some(store) = &mut self.store {
                store.save(|| self.mirror.contents());
            }
            let wake_at = self.wake_at();
            tokio::select! {
                // The followers never end before us.
                Some(heard) = self.told.recv() => self.take_in(heard),
                () = until(wake_at) => {}
                done = next_done(&mut self.store) => self.take_done(done),
            }
        }
    }

    fn take_in(&mut self, heard: Heard) {
        let Heard { told, at } = heard;
        let triggered = match &told {
            Told::Applied(Kind::EndpointSlice, item) => Some(item.triggered),
            Told::Applied(..) | Told::Deleted(..) => Some(None),
            Told::ListBegan(_) | Told::Listed(..) | Told::ListEnded(_) => None,
        };
        let changed = self.mirror.apply(told);
        if let Some(triggered) = triggered.filter(|_| changed && self.origins.len() < ORIGINS) {
            self.origins.push(Origin { read: at, triggered });
        }
        let complaints = self.mirror.take_complaints();
        if let Some(writer) = &self.complaints {
            complaints.into_iter().for_each(|refused| writer.push(Complaint::skipped(refused)));
        }
    }

    /// Takes in what another thread did with the file.
    fn take_done(&mut self, done: Done) {
        let (Done::Loaded(loaded), Some(store)) = (done, &self.store) else { return };
        let path = store.file.path().display();
        match loaded {
            Ok(Some(remembered)) if !self.mirror.is_synced() => {
                self.remembered = Some(remembered.written);
                self.mirror.seed(remembered.contents);
            }
            Ok(Some(_)) => {}
            Ok(None) => tracing::info!("{path}: is not there; the start waits for the API server"),
            Err(refusal) => tracing::warn!("{path}: {refusal}; the start waits for the API server"),
        }
    }

    /// Returns what there is to say, if it is time to say it.
    fn flush(&mut self) -> Option<Update> {
        let now = Instant::now();
        self.begin_or_go_on(now);
        if self.mirror.take_problems_changed() {
            self.update_report();
        }
        let is_first = self.flushed_at.is_none();
        let is_early = self.flushed_at.is_some_and(|at| now < at + GATHER);
        if matches!(self.beginning, Beginning::Waiting(_))
            || is_early
            || !(is_first || self.mirror.has_touched())
        {
            return None;
        }
        let (events, origins) = (self.mirror.take_events(), std::mem::take(&mut self.origins));
        if events.is_empty() && !is_first {
            return None;
        }
        self.flushed_at = Some(now);
        if let Some(store) = self.store.as_mut().filter(|_| self.beginning == Beginning::Over) {
            store.mark_changed();
        }
        self.report.objects = self.mirror.objects();
        Some(Update { events, origins })
    }

    fn begin_or_go_on(&mut self, now: Instant) {
        match self.beginning {
            Beginning::Waiting(_) | Beginning::Stale if self.mirror.is_synced() => {
                if self.beginning == Beginning::Stale {
                    tracing::info!(
                        "the API server has said all; what an earlier run knew no longer stands for it"
                    );
                }
                self.beginning = Beginning::Over;
                self.mirror.forget_unused_names();
            }
            Beginning::Waiting(at)
                if self.remembered.is_some() && (now >= at || self.lives.has_trouble()) =>
            {
                self.beginning = Beginning::Stale;
                for trouble in self.standing().troubles() {
                    tracing::warn!("{trouble}");
                }
            }
            Beginning::Waiting(_) | Beginning::Stale | Beginning::Over => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let patience = match self.beginning {
            Beginning::Waiting(at) => self.remembered.map(|_| at.min(Instant::now() + LOOK)),
            Beginning::Stale | Beginning::Over => None,
        };
        let gathered = self.flushed_at.map(|at| at + GATHER).filter(|_| self.mirror.has_touched());
        let save = self.store.as_ref().and_then(Store::due);
        [patience, gathered, save].into_iter().flatten().min()
    }

    fn update_report(&mut self) {
        let (problems, objects) = (self.mirror.problems(), self.mirror.objects());
        self.report.replace(Report { problems, objects, ..Report::default() }, false);
    }

    /// Returns what is in force and what is wrong now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// Returns how the watches fare.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let watches = self.lives.snapshot().into_iter().map(|(kind, life)| WatchStanding {
            kind,
            age: life.heard.elapsed(),
            relists: life.relists,
            failures: life.failures,
            trouble: life.trouble,
        });
        let age = self.remembered.map(|written| written.elapsed().unwrap_or_default());
        let stale = match self.beginning {
            Beginning::Waiting(_) => Some(None),
            Beginning::Stale => Some(age),
            Beginning::Over => None,
        };
        let complaints_dropped = self.complaints.as_ref().map_or(0, Complaints::dropped);
        Standing { watches: watches.collect(), stale, complaints_dropped }
    }

    /// Has an Event written about a Service that cannot be put in force as it is.
    pub fn complain(&self, refusal: Refusal) {
        let Refusal { service, field, what } = refusal;
        if let Some(writer) = &self.complaints {
            let key = ObjectKey { kind: Kind::Service, name: service };
            writer.push(Complaint::left_out(key, Fault { field: field.to_owned(), what }));
        }
    }

    /// Brings the file up to date before the process ends.
    pub async fn end(&mut self) {
        if let Some(store) = self.store.as_mut().filter(|_| self.beginning == Beginning::Over) {
            store.end(|| self.mirror.contents()).await;
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_done(store: &mut Option<Store>) -> Done {
    match store {
        Some(store) => store.next().await,
        None => std::future::pending().await,
    }
}
