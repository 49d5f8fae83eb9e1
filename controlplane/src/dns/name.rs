//! Domain names as keys: wire format, lower case.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Longest name on the wire, root label included. Source: RFC 1035 §2.3.4.
const MAX_OCTETS: usize = 255;
/// Longest label. Source: RFC 1035 §2.3.4.
const MAX_LABEL_OCTETS: usize = 63;

/// A domain name in wire format without compression, in lower case (S0), with the root label.
///
/// A clone costs a reference count. Source: RFC 1035 §3.1, RFC 4343 §3.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

/// A name that lies somewhere else, in the same form as [`Name`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameRef<'n>(&'n [u8]);

/// How many labels left of a zone are told apart: more than any name of ours has.
const KEPT_LABELS: usize = 8;

/// The labels of a name left of an origin; of more than eight the last eight.
#[derive(Debug)]
pub(super) struct Relative<'n> {
    labels: [&'n [u8]; KEPT_LABELS],
    count: usize,
}

/// A text is no domain name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InvalidName {
    /// A label is empty or longer than 63 octets.
    Label(String),
    /// The name is longer than 255 octets.
    TooLong(String),
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(text) => write!(f, "{text:?} has a label that is empty or longer than 63 octets"),
            Self::TooLong(text) => write!(f, "{text:?} is longer than 255 octets as a domain name"),
        }
    }
}

impl std::error::Error for InvalidName {}

impl Name {
    /// Parses dotted text; the trailing dot may be left out.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let dotted = text.strip_suffix('.').unwrap_or(text);
        if dotted.is_empty() {
            return if text == "." { Ok(Self::root()) } else { Err(InvalidName::Label(text.into())) };
        }
        if dotted.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL_OCTETS) {
            return Err(InvalidName::Label(text.into()));
        }
        Self::from_labels(dotted.split('.').map(str::as_bytes))
            .ok_or_else(|| InvalidName::TooLong(text.into()))
    }

    /// Returns the root.
    #[must_use]
    pub fn root() -> Self {
        Self([0].into())
    }

    /// Joins labels, leftmost first; `None` if a label or the whole has no wire format.
    pub fn from_labels<'l>(labels: impl IntoIterator<Item = &'l [u8]>) -> Option<Self> {
        Self::root().below(labels)
    }

    /// Puts labels, leftmost first, before this name; `None` if the result has no wire format.
    pub fn below<'l>(&self, labels: impl IntoIterator<Item = &'l [u8]>) -> Option<Self> {
        let mut octets = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL_OCTETS {
                return None;
            }
            octets.push(label.len() as u8);
            octets.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        octets.extend_from_slice(&self.0);
        (octets.len() <= MAX_OCTETS).then(|| Self(octets.into()))
    }

    /// Says whether a label before this name makes a name with a wire format.
    pub(super) fn has_room_for(&self, label: &str) -> bool {
        (1..=MAX_LABEL_OCTETS).contains(&label.len()) && self.0.len() + 1 + label.len() <= MAX_OCTETS
    }

    /// Returns the wire format.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Iterates over the labels from the left, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels_of(&self.0)
    }

    /// Borrows this name.
    #[must_use]
    pub fn as_name_ref(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }

    /// Says whether this name is `origin` or below it.
    #[must_use]
    pub fn is_within(&self, origin: &Self) -> bool {
        self.as_name_ref().relative_to(origin).is_some()
    }
}

impl<'n> NameRef<'n> {
    /// Takes octets that are a whole name in wire format, lower case, without compression.
    pub(super) fn of_lower_case(octets: &'n [u8]) -> Self {
        Self(octets)
    }

    /// Returns the wire format.
    pub(super) fn octets(self) -> &'n [u8] {
        self.0
    }

    /// Iterates over the labels from the left, without the root.
    pub(super) fn labels(self) -> impl Iterator<Item = &'n [u8]> {
        labels_of(self.0)
    }

    /// Returns the name without its first `count` labels; the root if there are no more.
    pub(super) fn parent(self, count: usize) -> Self {
        let skipped: usize = self.labels().take(count).map(|label| 1 + label.len()).sum();
        Self(self.0.get(skipped..).unwrap_or(&[0]))
    }

    /// Copies the name.
    #[must_use]
    pub fn to_name(self) -> Name {
        Name(self.0.into())
    }

    /// Returns the labels left of `origin`, or `None` if this name is neither `origin` nor below it.
    pub(super) fn relative_to(self, origin: &Name) -> Option<Relative<'n>> {
        let boundary = self.0.len().checked_sub(origin.0.len())?;
        if self.0.get(boundary..) != Some(&*origin.0) {
            return None;
        }
        let mut relative = Relative { labels: [&[]; KEPT_LABELS], count: 0 };
        let mut at = 0;
        for label in self.labels() {
            if at >= boundary {
                break;
            }
            at += 1 + label.len();
            relative.push(label);
        }
        // Octets may look like the origin from within a label; only a label's start counts.
        (at == boundary).then_some(relative)
    }
}

impl<'n> Relative<'n> {
    fn push(&mut self, label: &'n [u8]) {
        if self.count == KEPT_LABELS {
            self.labels.rotate_left(1);
        } else {
            self.count += 1;
        }
        if let Some(last) = self.labels.get_mut(self.count - 1) {
            *last = label;
        }
    }
}

impl<'n> Deref for Relative<'n> {
    type Target = [&'n [u8]];

    fn deref(&self) -> &Self::Target {
        self.labels.get(..self.count).unwrap_or_default()
    }
}

/// Iterates over the labels of an uncompressed wire format in any case.
pub(super) fn labels_of(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = octets.split_first()?;
        if length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        octets = rest;
        Some(label)
    })
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(octet))?,
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_name(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn a_name_is_lower_case_and_prints_with_its_root() {
        assert_eq!(name("Ent.DEV").to_string(), "ent.dev.");
        assert_eq!(name("ent.dev."), name("ENT.dev"));
        assert_eq!(name("."), Name::root());
    }

    #[test]
    fn a_text_that_is_no_name_is_refused_with_the_reason() {
        let long = vec!["a".repeat(63); 4].join(".");
        assert_eq!(Name::parse(""), Err(InvalidName::Label(String::new())));
        assert_eq!(Name::parse("a..b"), Err(InvalidName::Label("a..b".into())));
        assert_eq!(Name::parse(&"a".repeat(64)), Err(InvalidName::Label("a".repeat(64))));
        assert_eq!(Name::parse(&long), Err(InvalidName::TooLong(long)));
    }

    fn relative(name: &Name, origin: &Name) -> Option<Vec<Vec<u8>>> {
        let relative = name.as_name_ref().relative_to(origin)?;
        Some(relative.iter().map(|label| label.to_vec()).collect())
    }

    #[test]
    fn relative_labels_end_at_a_label_boundary() {
        let zone = name("cluster.local");
        let labels = vec![b"ent".to_vec(), b"dev".to_vec()];
        assert_eq!(relative(&name("ent.dev.cluster.local"), &zone), Some(labels));
        assert_eq!(relative(&zone, &zone), Some(vec![]));
        assert_eq!(relative(&name("cluster.locals"), &zone), None);
        assert_eq!(relative(&name("local"), &zone), None);
        let within_a_label = Name::from_labels([b"x\x07cluster".as_slice(), b"local"]).expect("a name");
        assert_eq!(relative(&within_a_label, &zone), None);
    }

    #[test]
    fn of_many_labels_the_last_eight_are_told_apart() {
        let labels = relative(&name("a.b.c.d.e.f.g.h.i.j.cluster.local"), &name("cluster.local"));
        let last: Vec<Vec<u8>> = (b'c'..=b'j').map(|letter| vec![letter]).collect();
        assert_eq!(labels, Some(last));
    }
}
