//! What is wrong now, and the figures of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::http::metrics::Family;
use crate::objects::{Fault, Kind, ObjectKey, Refusal};

/// Something that is wrong and to be mended by people; it stands until it is.
///
/// Written out as `file:line: namespace/name: field: what`, as far as there are these parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Problem {
    /// The file in the directory.
    pub file: Option<Arc<str>>,
    /// The line, from 1, at which the document begins or the file does not parse.
    pub line: Option<u64>,
    /// Kind and name of the object.
    pub object: Option<String>,
    /// Path of the field.
    pub field: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Problem {
    /// Makes a problem of a file as a whole.
    pub(super) fn of_file(file: &Arc<str>, line: Option<u64>, what: &str) -> Self {
        Self { file: Some(file.clone()), line, what: what.to_owned(), ..Self::default() }
    }

    /// Makes a problem of an object that is in force or would be.
    pub(crate) fn of_object(place: Option<(&Arc<str>, u64)>, key: &ObjectKey, fault: &Fault) -> Self {
        Self {
            file: place.map(|(file, _)| file.clone()),
            line: place.map(|(_, line)| line),
            object: Some(key.to_string()),
            field: Some(fault.field.clone()),
            what: fault.what.clone(),
        }
    }

    /// Makes a problem of a document that was refused.
    pub(super) fn of_refusal(file: &Arc<str>, line: u64, refusal: &Refusal) -> Self {
        Self { file: Some(file.clone()), line: Some(line), ..Self::of_refused(refusal) }
    }

    /// Makes a problem of an object that was refused, wherever it came from.
    pub(crate) fn of_refused(refusal: &Refusal) -> Self {
        let kind = refusal.kind.map(Kind::as_str).unwrap_or("an object");
        let object =
            refusal.key().map_or_else(|| format!("{kind} without a usable name"), |key| key.to_string());
        Self {
            file: None,
            line: None,
            object: Some(object),
            field: Some(refusal.fault.field.clone()).filter(|field| !field.is_empty()),
            what: refusal.fault.what.clone(),
        }
    }

    /// Writes the problem to the log, with its parts as fields.
    pub(super) fn log(&self) {
        let Self { file, line, object, field, what } = self;
        tracing::warn!(
            file = file.as_deref(),
            line,
            object = object.as_deref(),
            field = field.as_deref(),
            "{what}"
        );
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// The figures of the source for metrics and displays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Files that hold manifests, also those that cannot be read now.
    pub files: usize,
    /// Objects in force by kind.
    pub objects: BTreeMap<Kind, usize>,
    /// Faults of objects that have been seen since the start, each once while it stands.
    pub object_errors_total: u64,
    /// Files that cannot be read or do not parse now.
    pub file_errors: usize,
    /// The directory is gone or cannot be read; what was last seen of it stays in force.
    pub directory_missing: bool,
    /// Times that files were looked at and something in them had changed.
    pub reloads_total: u64,
    /// All that is wrong now.
    pub problems: BTreeSet<Problem>,
}

impl Report {
    /// Lists the metrics that only a directory of files has.
    pub(crate) fn families(&self) -> Vec<Family> {
        let gauges = [
            ("manifest_files", "Files that hold manifests", self.files as u64),
            ("manifest_file_errors", "Files that do not parse; their last good content is in force", {
                self.file_errors as u64
            }),
            ("manifest_directory_missing", "1 while the manifest directory is not there", {
                u64::from(self.directory_missing)
            }),
        ];
        gauges.map(|(name, help, value)| Family::single(name, help, true, value)).into()
    }

    /// Puts newer figures in place, and logs what has become wrong and what has been mended.
    pub(crate) fn replace(&mut self, fresh: Self, looked: bool) {
        let mut object_errors = 0;
        for problem in fresh.problems.difference(&self.problems) {
            problem.log();
            object_errors += u64::from(problem.object.is_some());
        }
        for problem in self.problems.difference(&fresh.problems) {
            tracing::info!("mended: {problem}");
        }
        *self = Self {
            object_errors_total: self.object_errors_total + object_errors,
            reloads_total: self.reloads_total + u64::from(looked),
            ..fresh
        };
    }
}
