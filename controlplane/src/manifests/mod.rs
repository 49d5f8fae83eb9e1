//! The source `manifests:DIR`: a directory of YAML and JSON files as `kubectl apply` takes them, followed
//! while they change.
//!
//! A file takes effect when it is closed, moved in or deleted (inotify); what inotify cannot see, the targets
//! of links, by a slow look at time, size and inode. What cannot be used never takes away what is in force.
//!
//! Reading order: `file` what one file says, `inventory` which objects are in force, `projection` what they
//! mean as events (a `batch` of them), `directory` and `watch` how the files get here, `problem` what is
//! wrong.

mod batch;
mod directory;
mod file;
mod inventory;
mod label_index;
mod problem;
mod projection;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

pub(crate) use self::batch::Batch;
use self::directory::{Identity, Look, Scope, Seen, Stamp, Task};
use self::inventory::Inventory;
pub use self::problem::{Problem, Report};
use self::projection::Projection;
pub(crate) use self::projection::{as_stated, named_pod};
use self::watch::Watch;
use crate::cluster::Event;
use crate::cluster_ip::{Addresses, ClusterIps, state_file};
use crate::objects::{Kind, ObjectKey};

/// How long events are gathered before the files are looked at.
const GATHER: Duration = Duration::from_millis(15);
/// Time between slow looks at all files.
const RESCAN: Duration = Duration::from_secs(5);
/// Time between looks while the directory is gone, or a file was seen to change behind a link.
const RETRY: Duration = Duration::from_millis(200);
/// A directory that came back must be left alone for so long before a file that it lacks counts as deleted.
const QUIET: Duration = Duration::from_secs(1);

/// What the source needs to know beside the directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// `--service-cidr`, in the order given: the first one's family is the default.
    pub service_cidrs: Vec<IpNet>,
    /// The file that keeps assigned ClusterIPs over a restart.
    pub state_file: Option<PathBuf>,
    /// Pods are of interest by themselves, not only as endpoints: `--dns-pods verified`.
    pub pods: bool,
}

/// Why a directory cannot be followed at all.
#[derive(Debug)]
pub enum Error {
    /// The directory is not there, is none, or cannot be read.
    Directory(PathBuf, io::Error),
    /// The kernel gives no inotify instance.
    Watch(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, _) => write!(f, "cannot follow the directory {}", path.display()),
            Self::Watch(_) => f.write_str("no inotify instance"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory(_, error) | Self::Watch(error) => Some(error),
        }
    }
}

/// A directory of manifests that is being followed.
pub struct Manifests {
    directory: PathBuf,
    state_file: Option<PathBuf>,
    watch: Watch,
    stamps: BTreeMap<Arc<str>, Stamp>,
    /// Files that the inventory knows.
    held: BTreeSet<Arc<str>>,
    settling: BTreeMap<Arc<str>, Stamp>,
    inventory: Inventory,
    projection: Projection,
    saved: Addresses,
    /// Why the directory cannot be read now.
    missing: Option<Problem>,
    state_file_fault: Option<Problem>,
    /// Since the directory came back: when a file that it lacks begins to count as deleted.
    returning: Option<Instant>,
    /// The next look, if it is known; kept here so that dropping [`Self::next`] loses nothing.
    due: Option<Scope>,
    gathered_at: Option<Instant>,
    rescan_at: Instant,
    /// The start-up batch, until it is taken.
    first: Option<Vec<Event>>,
    logged: BTreeSet<String>,
    report: tokio::sync::watch::Sender<Report>,
}

impl fmt::Debug for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifests").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Manifests {
    /// Reads the directory and begins to follow it. Must run within a Tokio runtime; blocks while it reads.
    ///
    /// # Errors
    /// The directory is not there or cannot be read. Bad files and objects are no errors, they are reported.
    pub fn open(directory: PathBuf, settings: Settings) -> Result<Self, Error> {
        let remembered = settings.state_file.as_deref().map(state_file::load).unwrap_or_default();
        let mut source = Self {
            directory,
            state_file: settings.state_file,
            watch: Watch::new().map_err(Error::Watch)?,
            stamps: BTreeMap::new(),
            held: BTreeSet::new(),
            settling: BTreeMap::new(),
            inventory: Inventory::default(),
            projection: Projection::new(
                ClusterIps::new(settings.service_cidrs, remembered.clone()),
                settings.pods,
            ),
            saved: remembered,
            missing: None,
            state_file_fault: None,
            returning: None,
            due: None,
            gathered_at: None,
            rescan_at: Instant::now() + RESCAN,
            first: None,
            logged: BTreeSet::new(),
            report: tokio::sync::watch::Sender::default(),
        };
        let at = |error| Error::Directory(source.directory.clone(), error);
        let (identity, _) = source.watch.ensure(&source.directory).map_err(at)?;
        let task = source.task(identity, Scope::All { settle: false });
        let look = directory::look(&task).map_err(at)?;
        source.first = Some(source.take_in(look));
        Ok(source)
    }

    /// Returns the next batch of events: at first everything, later the differences, never an empty one then.
    ///
    /// May be dropped while it waits, as in `select!`: the next call goes on.
    pub async fn next(&mut self) -> Vec<Event> {
        loop {
            if let Some(first) = self.first.take() {
                return first;
            }
            let scope = match self.due.clone() {
                Some(scope) => scope,
                None => self.wait().await,
            };
            self.due = Some(scope.clone());
            let events = self.look(scope).await;
            self.due = None;
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// Returns what is in force and what is wrong now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Returns a handle to the report, to read while another task follows the directory.
    #[must_use]
    pub fn reports(&self) -> tokio::sync::watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// Waits until there is something to look at.
    async fn wait(&mut self) -> Scope {
        loop {
            let now = Instant::now();
            let soon = (self.missing.is_some() || !self.settling.is_empty()).then(|| now + RETRY);
            let quiet = self.returning.filter(|quiet| *quiet > now);
            let until =
                [soon, quiet, self.gathered_at].into_iter().flatten().fold(self.rescan_at, Instant::min);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                noted = self.watch.note_next(&self.directory) => {
                    if let Err(error) = noted {
                        tracing::warn!(%error, "inotify fails; the directory is looked at every few seconds");
                        tokio::time::sleep_until(until).await;
                    }
                    self.note_event();
                    continue;
                }
            }
            if self.gathered_at.is_none_or(|gathered| gathered > Instant::now()) {
                self.rescan_at = Instant::now() + RESCAN;
                return Scope::All { settle: self.returning.is_none_or(|quiet| quiet > Instant::now()) };
            }
            self.gathered_at = None;
            let changed = std::mem::take(&mut self.watch.pending.changed);
            if std::mem::take(&mut self.watch.pending.all) || self.watch.pending.directory {
                return Scope::All { settle: false };
            }
            return Scope::Named(changed);
        }
    }

    fn note_event(&mut self) {
        let now = Instant::now();
        if !self.watch.pending.is_empty() {
            self.gathered_at.get_or_insert(now + GATHER);
        }
        if let Some(quiet) = &mut self.returning {
            *quiet = now + QUIET;
        }
    }

    fn task(&self, identity: Identity, scope: Scope) -> Task {
        let mut task = Task { directory: self.directory.clone(), identity, scope, ..Task::default() };
        if let Scope::All { .. } = task.scope {
            task.known = self.stamps.clone();
            task.held = self.held.clone();
            task.settling = self.settling.clone();
            task.writing = self.watch.pending.writing.clone();
        }
        task
    }

    /// Looks at the directory and takes in what is seen.
    async fn look(&mut self, scope: Scope) -> Vec<Event> {
        let look = match self.watch.ensure(&self.directory) {
            Err(error) => Err(error),
            Ok((identity, renewed)) => {
                let mut scope = scope;
                if renewed {
                    self.returning = Some(Instant::now() + QUIET);
                    scope = Scope::All { settle: true };
                }
                let task = self.task(identity, scope);
                let look = tokio::task::spawn_blocking(move || directory::look(&task));
                look.await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        };
        match look {
            Ok(look) => {
                self.missing = None;
                self.take_in(look)
            }
            Err(error) => {
                let what = format!(
                    "--source manifests:{}: {error}; all that was read stays in force",
                    self.directory.display()
                );
                self.missing = Some(Problem { what, ..Problem::default() });
                self.update_report(false);
                Vec::new()
            }
        }
    }

    fn take_in(&mut self, look: Look) -> Vec<Event> {
        let hold_back = self.returning.is_some_and(|quiet| Instant::now() < quiet || !look.has_files);
        let mut changes = BTreeMap::new();
        let mut looked = false;
        for (name, seen) in look.seen {
            self.settling.remove(&name);
            looked |= !matches!(seen, Seen::Settling(_));
            let file_changes = match seen {
                Seen::Content(stamp, content) => {
                    self.held.insert(name.clone());
                    self.stamps.insert(name.clone(), stamp);
                    self.inventory.apply(&name, content)
                }
                Seen::Failed(stamp, fault) => {
                    self.held.insert(name.clone());
                    self.stamps.remove(&name);
                    self.stamps.extend(stamp.map(|stamp| (name.clone(), stamp)));
                    self.inventory.fail(&name, &fault);
                    Vec::new()
                }
                Seen::Settling(stamp) => {
                    self.settling.insert(name, stamp);
                    Vec::new()
                }
                Seen::Gone if hold_back => Vec::new(),
                Seen::Gone => {
                    self.held.remove(&name);
                    self.stamps.remove(&name);
                    self.inventory.remove(&name)
                }
            };
            inventory::merge(&mut changes, file_changes);
        }
        if !hold_back && self.returning.is_some_and(|quiet| Instant::now() >= quiet) {
            self.returning = None;
        }
        let changes: Vec<_> = changes.into_values().filter(|change| change.before != change.after).collect();
        let events = self.projection.apply(&self.inventory, &changes);
        self.save_cluster_ips();
        self.update_report(looked);
        events
    }

    /// Keeps assigned ClusterIPs before anybody hears of them.
    fn save_cluster_ips(&mut self) {
        let Some(path) = &self.state_file else { return };
        let addresses = self.projection.cluster_ips().remembered();
        if *addresses == self.saved && self.state_file_fault.is_none() {
            return;
        }
        match state_file::save(path, addresses) {
            Ok(()) => {
                self.saved = addresses.clone();
                self.state_file_fault = None;
            }
            Err(error) => {
                let what = format!("{}: assigned ClusterIPs cannot be kept: {error}", path.display());
                self.state_file_fault = Some(Problem { what, ..Problem::default() });
            }
        }
    }

    fn update_report(&mut self, looked: bool) {
        let mut problems = self.inventory.problems();
        for (name, fault) in self.projection.refused() {
            let key = ObjectKey { kind: Kind::Service, name: name.clone() };
            let place = self.inventory.place(&key);
            problems.insert(Problem::of_object(place, &key, fault));
        }
        problems.extend(self.missing.iter().chain(&self.state_file_fault).cloned());
        self.log_ignored();
        let (files, file_errors) = self.inventory.files();
        let objects = Kind::ALL.map(|kind| (kind, self.inventory.count(kind))).into();
        let directory_missing = self.missing.is_some();
        let fresh = Report { files, objects, file_errors, directory_missing, problems, ..Report::default() };
        self.report.send_modify(|report| report.replace(fresh, looked));
    }

    fn log_ignored(&mut self) {
        for what in self.inventory.ignored() {
            if !self.logged.contains(what) {
                tracing::info!("ignored: {what}");
                self.logged.insert(what.clone());
            }
        }
    }
}
