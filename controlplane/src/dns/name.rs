//! Domain names as keys: wire format, lower case.

use std::fmt;

/// Longest name on the wire, root label included. Source: RFC 1035 §2.3.4.
const MAX_OCTETS: usize = 255;
/// Longest label. Source: RFC 1035 §2.3.4.
const MAX_LABEL_OCTETS: usize = 63;

/// A domain name in wire format without compression, in lower case (S0), with the root label.
///
/// Source: RFC 1035 §3.1, RFC 4343 §3.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

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

    /// Returns the wire format.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Iterates over the labels from the left, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels_of(&self.0)
    }

    /// Returns the labels left of `origin`, or `None` if this name is neither `origin` nor below it.
    #[must_use]
    pub fn relative_to(&self, origin: &Self) -> Option<Vec<&[u8]>> {
        let boundary = self.0.len().checked_sub(origin.0.len())?;
        if self.0[boundary..] != *origin.0 {
            return None;
        }
        let mut relative = Vec::with_capacity(8);
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

    #[test]
    fn relative_labels_end_at_a_label_boundary() {
        let zone = name("cluster.local");
        let labels = [b"ent".as_slice(), b"dev"];
        assert_eq!(name("ent.dev.cluster.local").relative_to(&zone), Some(labels.to_vec()));
        assert_eq!(zone.relative_to(&zone), Some(vec![]));
        assert_eq!(name("cluster.locals").relative_to(&zone), None);
        assert_eq!(name("local").relative_to(&zone), None);
        let within_a_label = Name::from_labels([b"x\x07cluster".as_slice(), b"local"]).expect("a name");
        assert_eq!(within_a_label.relative_to(&zone), None);
    }
}
