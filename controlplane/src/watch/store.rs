//! When the file of what is known is read and written; the reading and writing is done on other threads.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cluster_file::{ClusterFile, Contents, Refusal, Remembered};

/// How old the file may be while things change.
const SAVE_AFTER: Duration = Duration::from_secs(10);
/// At most this part of the time goes into writing the file.
const SAVE_SHARE: u32 = 20;

/// What another thread has done.
#[derive(Debug)]
pub(super) enum Done {
    /// The file was read.
    Loaded(Result<Option<Remembered>, Refusal>),
    /// The file was written, which took so long.
    Saved(io::Result<Duration>),
}

/// The file of a cluster, and what it is at.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) file: ClusterFile,
    tell: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    is_busy: bool,
    /// There is something to write.
    is_changed: bool,
    /// When it may be written next.
    save_at: Instant,
    /// What was wrong with writing it, as it was said.
    trouble: Option<String>,
}

impl Store {
    /// Begins to read the file.
    pub(super) fn open(file: ClusterFile) -> Self {
        let (tell, done) = mpsc::channel(2);
        let save_at = Instant::now();
        let store = Self { file, tell, done, is_busy: true, is_changed: false, save_at, trouble: None };
        let (file, tell) = (store.file.clone(), store.tell.clone());
        tokio::task::spawn_blocking(move || {
            // Who does not wait any more does not want it.
            let _ = tell.blocking_send(Done::Loaded(file.load()));
        });
        store
    }

    /// Waits until something was done.
    pub(super) async fn next(&mut self) -> Done {
        let done = self.done.recv().await;
        self.is_busy = false;
        match done {
            Some(Done::Saved(outcome)) => {
                let took = outcome.as_ref().map_or(Duration::ZERO, |took| *took);
                self.save_at = Instant::now() + SAVE_AFTER.max(took * SAVE_SHARE);
                self.note(outcome.as_ref().err());
                Done::Saved(outcome)
            }
            Some(done) => done,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, error: Option<&io::Error>) {
        let trouble = error.map(ToString::to_string);
        if let Some(trouble) = trouble.as_ref().filter(|now| self.trouble.as_ref() != Some(*now)) {
            tracing::warn!("{}: cannot be written: {trouble}", self.file.path().display());
        }
        self.is_changed |= trouble.is_some();
        self.trouble = trouble;
    }

    /// Notes that the file is not up to date any more.
    pub(super) fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns when to call [`Store::save`].
    pub(super) fn due(&self) -> Option<Instant> {
        (self.is_changed && !self.is_busy).then_some(self.save_at)
    }

    /// Begins to write the file if it is time.
    pub(super) fn save(&mut self, contents: impl FnOnce() -> Contents) {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.is_busy = true;
        self.is_changed = false;
        let (file, tell, contents) = (self.file.clone(), self.tell.clone(), contents());
        tokio::task::spawn_blocking(move || {
            let begun = std::time::Instant::now();
            let saved = file.save(&contents).map(|()| begun.elapsed());
            // Who does not wait any more does not want it.
            let _ = tell.blocking_send(Done::Saved(saved));
        });
    }

    /// Writes the file now, if it is not up to date, and waits for it.
    pub(super) async fn end(&mut self, contents: impl FnOnce() -> Contents) {
        if self.is_busy {
            self.next().await;
        }
        self.save_at = Instant::now();
        self.save(contents);
        if self.is_busy {
            self.next().await;
        }
    }
}
