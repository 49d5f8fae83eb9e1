//! What one manifest file says.

use serde_json::Value;
use serde_saphyr::Spanned;

use crate::objects::{self, Reading};

/// The largest file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Why a file cannot be read as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileFault {
    /// Line, from 1, if the fault has one.
    pub(super) line: Option<u64>,
    /// What is wrong.
    pub(super) what: String,
}

/// The readings of a file, each with the line at which its document begins.
pub(super) type Content = Vec<(u64, Reading)>;

/// Says whether a file of that name is a manifest.
pub(super) fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// Reads the content of a file: YAML, or JSON if its name says so; several documents, and lists of objects.
///
/// # Errors
/// A file that does not parse to its end gives nothing at all, so that half a file is never taken for the
/// whole.
pub(super) fn read(name: &str, content: &[u8]) -> Result<Content, FileFault> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let good = content.get(..error.valid_up_to()).unwrap_or_default();
        FileFault { line: Some(line_after(good)), what: "is no UTF-8 text".to_owned() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = if name.ends_with(".json") { json(text)? } else { yaml(text)? };
    let read = |(line, document): (u64, Value)| {
        objects::read(&document).into_iter().map(move |reading| (line, reading))
    };
    Ok(documents.into_iter().flat_map(read).collect())
}

fn yaml(text: &str) -> Result<Vec<(u64, Value)>, FileFault> {
    let budget = serde_saphyr::budget! {
        max_events: 100_000_000,
        max_nodes: 50_000_000,
        max_documents: 1_000_000,
        max_total_scalar_bytes: usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX),
    };
    let options = serde_saphyr::options! { with_snippet: false, emit_comments: false, budget: budget };
    let documents: Vec<Spanned<Value>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| FileFault {
            line: error.location().map(|location| location.line()).filter(|line| *line != 0),
            what: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
    Ok(documents.into_iter().map(|document| (document.referenced.line(), document.value)).collect())
}

fn json(text: &str) -> Result<Vec<(u64, Value)>, FileFault> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut documents = Vec::new();
    loop {
        let rest = text.get(stream.byte_offset()..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let line = line_after(text.get(..stream.byte_offset() + blank).unwrap_or_default().as_bytes());
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(document)) => documents.push((line, document)),
            Some(Err(error)) => {
                let line = u64::try_from(error.line()).ok().filter(|line| *line != 0);
                return Err(FileFault { line, what: error.to_string() });
            }
        }
    }
}

/// Returns the line on which the octet after `before` stands.
fn line_after(before: &[u8]) -> u64 {
    1 + before.iter().filter(|byte| **byte == b'\n').map(|_| 1).sum::<u64>()
}
