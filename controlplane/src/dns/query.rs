//! A plain question, read from the octets that came. Read RFC 1035 §4 and RFC 6891 §6 first.

use super::Type;
use super::name::NameRef;

/// Longest name on the wire, root label included. Source: RFC 1035 §2.3.4.
const MAX_NAME_OCTETS: usize = 255;
/// Octets of a header. Source: RFC 1035 §4.1.1.
pub(super) const HEADER_OCTETS: usize = 12;
/// TYPE of an OPT record. Source: RFC 6891 §6.1.1.
const OPT: u16 = 41;
/// CLASS of the Internet. Source: RFC 1035 §3.2.4.
const IN: u16 = 1;

/// Room for the name of a question in lower case.
pub type NameBuffer = [u8; MAX_NAME_OCTETS];

/// A query with one question of class IN and nothing else but, perhaps, an OPT record of version 0.
///
/// That is what resolvers of pods send. What is different in any way is no `Query`, and left to the general decoder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query<'m> {
    /// The header as it came.
    pub(super) header: &'m [u8; HEADER_OCTETS],
    /// The question section as it came, in the client's case.
    pub(super) question: &'m [u8],
    name: NameRef<'m>,
    qtype: Type,
    edns: Option<Edns>,
}

/// What an OPT record asks for; its options are ignored (RFC 6891 §6.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// Octets that the client takes over UDP.
    pub payload: u16,
    /// The DO bit.
    pub dnssec_ok: bool,
}

impl<'m> Query<'m> {
    /// Parses a message; `None` if it is no plain query, well-formed or not.
    ///
    /// Costs one pass over the message and no allocation; `buffer` takes the name in lower case (S0).
    pub fn parse(message: &'m [u8], buffer: &'m mut NameBuffer) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<HEADER_OCTETS>()?;
        let [_, _, flags, _, qd_high, qd_low, counts @ ..] = header;
        // QR and OPCODE: a response, or no query at all.
        if flags & 0xf8 != 0 || [*qd_high, *qd_low] != [0, 1] {
            return None;
        }
        let [0, 0, 0, 0, 0, additionals @ (0 | 1)] = counts else { return None };
        let name_octets = copy_name(rest, buffer)?;
        let (fixed, after) = rest.get(name_octets..)?.split_first_chunk::<4>()?;
        let [type_high, type_low, class_high, class_low] = *fixed;
        if u16::from_be_bytes([class_high, class_low]) != IN {
            return None;
        }
        let edns = match (additionals, after) {
            (0, []) => None,
            (1, opt) => Some(Edns::parse(opt)?),
            _ => return None,
        };
        Some(Self {
            header,
            question: rest.get(..name_octets + fixed.len())?,
            name: NameRef::of_lower_case(buffer.get(..name_octets)?),
            qtype: Type(u16::from_be_bytes([type_high, type_low])),
            edns,
        })
    }

    /// Returns the name in lower case.
    #[must_use]
    pub fn name(&self) -> NameRef<'m> {
        self.name
    }

    /// Returns the type asked for.
    #[must_use]
    pub fn qtype(&self) -> Type {
        self.qtype
    }

    /// Returns what the OPT record says, if there is one.
    #[must_use]
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }
}

impl Edns {
    /// Parses the octets of an OPT record that are the rest of a message; `None` if they are not, or of another version.
    fn parse(octets: &[u8]) -> Option<Self> {
        let (fixed, mut options) = octets.split_first_chunk::<11>()?;
        let [0, type_high, type_low, payload_high, payload_low, 0, 0, flags, _, len_high, len_low] = *fixed
        else {
            return None;
        };
        let of = |high, low| usize::from(u16::from_be_bytes([high, low]));
        if of(type_high, type_low) != usize::from(OPT) || of(len_high, len_low) != options.len() {
            return None;
        }
        while !options.is_empty() {
            let ([_, _, high, low], rest) = options.split_first_chunk::<4>()?;
            options = rest.get(of(*high, *low)..)?;
        }
        Some(Self { payload: u16::from_be_bytes([payload_high, payload_low]), dnssec_ok: flags & 0x80 != 0 })
    }
}

/// Copies an uncompressed name in lower case and returns its octets; `None` if there is none.
fn copy_name(octets: &[u8], buffer: &mut NameBuffer) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*octets.get(at)?);
        // Pointers have nothing to point at in a first name. Source: RFC 1035 §4.1.4.
        if length > 63 {
            return None;
        }
        let end = at + 1 + length;
        let (from, to) = (octets.get(at..end)?, buffer.get_mut(at..end)?);
        to.copy_from_slice(from);
        to.get_mut(1..)?.make_ascii_lowercase();
        at = end;
        if length == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 12] = [0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
    const QUESTION: [u8; 13] = *b"\x03eNt\x03DEV\0\0\x01\0\x01";
    const OPT_RECORD: [u8; 11] = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0];

    fn message() -> Vec<u8> {
        [&HEADER[..], &QUESTION, &OPT_RECORD].concat()
    }

    fn is_plain(message: &[u8]) -> bool {
        Query::parse(message, &mut [0; MAX_NAME_OCTETS]).is_some()
    }

    #[test]
    fn a_plain_query_is_read_and_its_name_is_lower_case() {
        let (message, mut buffer) = (message(), [0; MAX_NAME_OCTETS]);
        let query = Query::parse(&message, &mut buffer).expect("a query");
        assert_eq!(query.name().to_name().to_string(), "ent.dev.");
        assert_eq!((query.question, query.qtype()), (&QUESTION[..], Type::A));
        assert_eq!(query.edns(), Some(Edns { payload: 4096, dnssec_ok: true }));
    }

    #[test]
    fn what_is_different_in_any_way_is_no_plain_query() {
        assert!(is_plain(&message()));
        for end in 0..message().len() {
            assert!(!is_plain(&message()[..end]), "{end} octets");
        }
        let rows = [
            (2, 0x81, "a response"),
            (2, 0x21, "NOTIFY"),
            (5, 2, "two questions"),
            (5, 0, "no question"),
            (7, 1, "an answer"),
            (9, 1, "an authority"),
            (11, 0, "octets behind"),
            (11, 2, "two additionals"),
            (12, 0xc0, "a pointer"),
            (12, 64, "a label of 64"),
            (24, 3, "class CH"),
            (25, 3, "an owner of the OPT"),
            (27, 1, "an A record behind"),
            (31, 1, "EDNS version 1"),
            (35, 1, "an option without its header"),
        ];
        for (at, octet, what) in rows {
            let mut changed = message();
            changed[at] = octet;
            assert!(!is_plain(&changed), "{what}");
        }
        let mut with_option = message();
        with_option[35] = 6;
        with_option.extend([0, 10, 0, 2, 1, 2]);
        assert!(is_plain(&with_option), "options are ignored");
        with_option[39] = 3;
        assert!(!is_plain(&with_option), "but not if they end in nowhere");
    }

    #[test]
    fn a_name_of_255_octets_is_read_and_one_of_256_is_not() {
        let name = |last: usize| {
            let mut octets = Vec::new();
            for length in [63, 63, 63, last] {
                octets.push(length as u8);
                octets.extend(vec![b'a'; length]);
            }
            octets.push(0);
            octets
        };
        let message = |name: Vec<u8>| {
            let mut header = HEADER;
            header[11] = 0;
            [&header[..], &name, &[0, 1, 0, 1]].concat()
        };
        assert_eq!(name(61).len(), 255);
        assert!(is_plain(&message(name(61))));
        assert!(!is_plain(&message(name(62))));
    }
}
