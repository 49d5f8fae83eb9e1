//! How the source stands, in figures and words.

use std::time::Duration;

use crate::http::metrics::Family;
use crate::objects::Kind;

/// How one watch stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchStanding {
    /// What is watched.
    pub kind: Kind,
    /// For how long nothing was heard on it.
    pub age: Duration,
    /// Lists that were begun since the start, the first one left out.
    pub relists: u64,
    /// Times that it failed.
    pub failures: u64,
    /// Why it does not work now.
    pub trouble: Option<String>,
}

/// How the source stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Each watch.
    pub watches: Vec<WatchStanding>,
    /// Not all has been heard from the API server since the start; what is in force, if anything, an earlier run
    /// wrote so long ago.
    pub stale: Option<Option<Duration>>,
    /// Events that could not be written.
    pub complaints_dropped: u64,
}

impl Standing {
    /// Lists the metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        type Value = fn(&WatchStanding) -> u64;
        let shown: [(&str, &str, bool, Value); 3] = [
            ("watch_age_seconds", "Time since anything was last heard on a watch", true, |watch| {
                watch.age.as_secs()
            }),
            ("relists", "Times that all objects were listed anew", false, |watch| watch.relists),
            ("watch_failures", "Times that a list or watch failed", false, |watch| watch.failures),
        ];
        let mut families: Vec<Family> = Vec::new();
        for (name, help, gauge, value) in shown {
            let label = |watch: &WatchStanding| vec![("kind".to_owned(), watch.kind.as_str().to_owned())];
            let series = self.watches.iter().map(|watch| (label(watch), value(watch))).collect();
            families.push(Family { name: name.into(), help: help.into(), gauge, series });
        }
        let stale = u64::from(self.stale.is_some());
        let help = "1 while what an earlier run knew stands for what the API server says";
        families.push(Family::single("cluster_stale", help, true, stale));
        let help = "Kubernetes Events about refused objects that could not be written";
        families.push(Family::single("complaints_dropped", help, false, self.complaints_dropped));
        families
    }

    /// Says in lines what is not as it should be.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.stale {
            Some(Some(age)) => lines.push(format!(
                "stale: what an earlier run wrote {} s ago is in force until the API server has said all",
                age.as_secs()
            )),
            Some(None) => lines.push("waiting: the API server has not said all yet".to_owned()),
            None => {}
        }
        for watch in &self.watches {
            if let Some(trouble) = &watch.trouble {
                lines.push(format!("watch of {}s, {} s old: {trouble}", watch.kind, watch.age.as_secs()));
            }
        }
        lines
    }
}
