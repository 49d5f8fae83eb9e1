//! Where in a message which names stand, so that later ones point there. Source: RFC 1035 §4.1.4.

use super::name::labels_of;

/// Entries of the table, a power of two.
const SLOTS: usize = 4096;
/// As many entries as look-ups stay short with; names beyond are spelled out.
const MAX_ENTRIES: usize = SLOTS / 4 * 3;
/// The largest offset that a pointer can hold.
const MAX_OFFSET: usize = 0x3fff;
/// The two high bits that make an octet pair a pointer.
const POINTER: u16 = 0xc000;

/// A label at `offset` of the message of that generation, whose name goes on at `rest`; 0 stands for the root.
#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    offset: u16,
    rest: u16,
}

/// The suffixes of the names of one message. Costs a look-up for each label, whatever the size of the message.
///
/// Names are compared without case, so that the client's spelling of the zone comes back wherever it is pointed at.
pub(super) struct Compression {
    slots: Box<[Slot]>,
    generation: u32,
    entries: usize,
}

impl Compression {
    pub(super) fn new() -> Self {
        Self { slots: vec![Slot::default(); SLOTS].into(), generation: 0, entries: 0 }
    }

    /// Forgets the message before.
    pub(super) fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.entries = 0;
        if self.generation == 0 {
            self.slots.fill(Slot::default());
            self.generation = 1;
        }
    }

    /// Appends a name in wire format, as a pointer as far as it stands in the message already.
    pub(super) fn write_name(&mut self, message: &mut Vec<u8>, name: &[u8]) {
        let (spelled, rest) = self.longest_suffix(message, name);
        let at = message.len();
        message.extend_from_slice(name.get(..spelled).unwrap_or_default());
        match rest {
            0 => message.push(0),
            offset => message.extend_from_slice(&(POINTER | offset).to_be_bytes()),
        }
        self.insert_labels(message, name.get(..spelled).unwrap_or_default(), at, rest);
    }

    /// Notes a name that stands at an offset uncompressed.
    pub(super) fn note_name(&mut self, message: &[u8], name: &[u8], at: usize) {
        let (new, rest) = self.longest_suffix(message, name);
        self.insert_labels(message, name.get(..new).unwrap_or_default(), at, rest);
    }

    /// Returns how many octets of a name stand nowhere yet, and where the rest stands.
    fn longest_suffix(&self, message: &[u8], name: &[u8]) -> (usize, u16) {
        let (starts, count) = label_starts(name);
        let mut end = name.len().saturating_sub(1);
        let mut rest = 0;
        for &start in starts.iter().take(count).rev() {
            let label = name.get(usize::from(start)..end).unwrap_or_default();
            let Some(offset) = self.lookup(message, label, rest) else { break };
            (rest, end) = (offset, usize::from(start));
        }
        (end, rest)
    }

    /// Enters labels, with their length octets, that stand at an offset before `rest`.
    fn insert_labels(&mut self, message: &[u8], labels: &[u8], at: usize, mut rest: u16) {
        let (starts, count) = label_starts(labels);
        let mut end = labels.len();
        for start in starts.iter().take(count).rev().map(|&start| usize::from(start)) {
            let (label, offset) = (labels.get(start..end).unwrap_or_default(), at + start);
            if offset > MAX_OFFSET || self.entries == MAX_ENTRIES {
                return;
            }
            self.insert(message, label, offset as u16, rest);
            (rest, end) = (offset as u16, start);
        }
    }

    fn lookup(&self, message: &[u8], label: &[u8], rest: u16) -> Option<u16> {
        for at in probes(label, rest) {
            let slot = self.slots.get(at)?;
            if slot.generation != self.generation {
                return None;
            }
            let offset = usize::from(slot.offset);
            let stands = message.get(offset..offset + label.len());
            if slot.rest == rest && stands.is_some_and(|own| own.eq_ignore_ascii_case(label)) {
                return Some(slot.offset);
            }
        }
        None
    }

    fn insert(&mut self, message: &[u8], label: &[u8], offset: u16, rest: u16) {
        if self.lookup(message, label, rest).is_some() {
            return;
        }
        let generation = self.generation;
        for at in probes(label, rest) {
            if let Some(slot) = self.slots.get_mut(at)
                && slot.generation != generation
            {
                *slot = Slot { generation, offset, rest };
                self.entries += 1;
                return;
            }
        }
    }
}

/// Returns the places of a label in the order in which they are looked at.
fn probes(label: &[u8], rest: u16) -> impl Iterator<Item = usize> {
    // FNV-1a: short keys, and nothing to gain for who makes them collide: they cost their own answer.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(rest);
    for octet in label {
        hash = (hash ^ u64::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    let first = (hash ^ hash >> 32) as usize;
    (0..SLOTS).map(move |step| (first + step) % SLOTS)
}

/// Returns where the labels of a name begin, and how many they are.
fn label_starts(name: &[u8]) -> ([u8; 128], usize) {
    let (mut starts, mut count, mut at) = ([0; 128], 0, 0);
    for label in labels_of(name) {
        if let Some(start) = starts.get_mut(count) {
            *start = at as u8;
            count += 1;
        }
        at += 1 + label.len();
    }
    (starts, count)
}

#[cfg(test)]
mod tests {
    use super::super::Name;
    use super::*;

    fn octets(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn a_name_points_at_the_longest_suffix_that_stands_already() {
        let (mut message, mut compression) = (vec![0; 12], Compression::new());
        compression.begin();
        compression.write_name(&mut message, octets("ent.dev.svc.local").octets());
        assert_eq!(&message[12..], b"\x03ent\x03dev\x03svc\x05local\0");
        message.truncate(12);
        message.extend(b"\x03eNt\x03dev\x03svc\x05LOCAL\0");
        let mut add = |text: &str| {
            let at = message.len();
            compression.write_name(&mut message, octets(text).octets());
            message[at..].to_vec()
        };
        assert_eq!(add("ent.dev.svc.local"), [0xc0, 12]);
        assert_eq!(add("svc.local"), [0xc0, 20]);
        assert_eq!(add("web.dev.svc.local"), b"\x03web\xc0\x10");
        assert_eq!(add("a.web.dev.svc.local"), b"\x01a\xc0\x23");
        assert_eq!(add("local.example"), b"\x05local\x07example\0");
        assert_eq!(add("."), [0]);
    }

    #[test]
    fn a_message_knows_nothing_of_the_one_before() {
        let mut compression = Compression::new();
        for _ in 0..3 {
            let mut message = vec![0; 12];
            compression.begin();
            compression.write_name(&mut message, octets("ent.dev").octets());
            assert_eq!(&message[12..], b"\x03ent\x03dev\0");
        }
    }

    #[test]
    fn thousands_of_names_stay_readable() {
        let (mut message, mut compression) = (vec![0; 12], Compression::new());
        compression.begin();
        let names: Vec<Name> = (0..5000).map(|i| octets(&format!("host-{i}.web.dev.svc.local"))).collect();
        let starts: Vec<usize> = names
            .iter()
            .map(|name| {
                let at = message.len();
                compression.write_name(&mut message, name.octets());
                at
            })
            .collect();
        for (name, start) in names.iter().zip(starts) {
            assert_eq!(&read(&message, start), name);
        }
        assert!(message.len() < 80_000, "{} octets", message.len());
    }

    /// Follows pointers as a decoder does.
    fn read(message: &[u8], mut at: usize) -> Name {
        let mut labels = Vec::new();
        loop {
            match usize::from(message[at]) {
                0 => break,
                length if length > 63 => at = (length & 63) << 8 | usize::from(message[at + 1]),
                length => {
                    labels.push(&message[at + 1..at + 1 + length]);
                    at += 1 + length;
                }
            }
        }
        Name::from_labels(labels).expect("a name")
    }
}
