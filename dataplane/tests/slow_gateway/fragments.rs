//! Datagrams in pieces: lists of what came, what became of the first, and what waits for it. And the cutting of packets
//! that are too long for their link.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::checksum::{set_word, word};
use super::datagram::Datagram;
use super::ip::{self, LINK, Piece};
use super::links::{Hop, MTU, Station};
use super::{Fate, Gateway, Sent};

/// Limits of waiting: fragments in all (a quarter of the rig's frames), fragments of one source, and for how long.
const MOST_WAITING: usize = 128;
const MOST_OF_SOURCE: usize = 64;
const PATIENCE_NS: u64 = 30_000_000_000;
/// For how long what became of a first fragment is known.
const MEMORY_NS: u64 = 5_000_000_000;

/// Source, destination, and what else groups the pieces of one datagram.
type Id = (IpAddr, IpAddr, (u8, u32));

/// What becomes of the later fragments.
#[derive(Clone, Copy, Debug)]
enum Lot {
    Translate { source: IpAddr, destination: IpAddr, way: Way },
    Turn,
    Punt,
    Drop(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Forward(Hop, [u8; 6]),
    Hold(Hop),
    Punt,
}

#[derive(Clone, Debug)]
struct Pieces {
    id: Id,
    came: Vec<Piece>,
    lot: Option<Lot>,
    since_ns: u64,
}

#[derive(Clone, Debug)]
struct Early {
    id: Id,
    device: u32,
    octets: Vec<u8>,
}

/// All datagrams in pieces, those that came first at the front, and what waits.
#[derive(Clone, Debug, Default)]
pub struct Fragments {
    datagrams: Vec<Pieces>,
    waiting: Vec<Early>,
}

impl Fragments {
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// The blocks of 8 octets that a piece has.
fn blocks(piece: &Piece) -> BTreeSet<usize> {
    (piece.start / 8..piece.end.div_ceil(8)).collect()
}

impl Pieces {
    /// Why a piece does not fit those that came.
    fn objection(&self, piece: &Piece) -> Option<&'static str> {
        let come: BTreeSet<usize> = self.came.iter().flat_map(blocks).collect();
        let end = self.came.iter().find(|other| !other.more).map(|last| last.end);
        let reach = self.came.iter().map(|other| other.end).max().unwrap_or(0);
        let fits = match end {
            Some(end) if piece.more => piece.end < end,
            Some(end) => piece.end == end,
            None => piece.more || piece.end >= reach,
        };
        let blocks = blocks(piece);
        if blocks.is_subset(&come) && fits {
            Some("drop_fragment_duplicate")
        } else if !blocks.is_disjoint(&come) {
            Some("drop_fragment_overlap")
        } else if !fits {
            Some("drop_fragment_contradiction")
        } else {
            None
        }
    }

    fn is_whole(&self) -> bool {
        let octets: usize = self.came.iter().map(|piece| piece.end - piece.start).sum();
        self.came.iter().any(|piece| !piece.more && piece.end == octets)
    }
}

impl Gateway {
    pub(super) fn carry_piece(&mut self, device: u32, piece: Piece, datagram: Datagram) -> Vec<Sent> {
        let id = (datagram.five.source, datagram.five.destination, piece.group);
        if let Err(reason) = self.note(id, piece, datagram.five.source) {
            return self.drop(reason).into_iter().collect();
        }
        let entry = self.fragments.datagrams.iter().position(|known| known.id == id).unwrap();
        let is_whole = self.fragments.datagrams[entry].is_whole();
        match self.fragments.datagrams[entry].lot {
            Some(lot) => {
                if is_whole {
                    self.fragments.datagrams.remove(entry);
                }
                self.carry_later(device, lot, datagram)
            }
            None if piece.start > 0 => {
                self.fragments.waiting.push(Early { id, device, octets: datagram.octets });
                vec![]
            }
            None => {
                let octets = datagram.octets.clone();
                let decided =
                    self.decide(device, &octets).or_else(|reason| self.explain(device, &octets, reason));
                let lot = lot_of(&decided, &octets);
                if is_whole {
                    self.fragments.datagrams.remove(entry);
                } else {
                    self.settle(entry, lot);
                }
                let mut left = self.carry_out(device, decided);
                for early in self.dismiss(id) {
                    let later = Datagram::read(&early.octets).unwrap();
                    left.extend(self.carry_later(early.device, lot, later));
                }
                left
            }
        }
    }

    /// Notes that a piece came, unless it must not.
    fn note(&mut self, id: Id, piece: Piece, source: IpAddr) -> Result<(), &'static str> {
        let known = self.fragments.datagrams.iter().position(|known| known.id == id);
        let lot = known.and_then(|place| self.fragments.datagrams[place].lot);
        if let Some(Lot::Drop(reason @ ("drop_fragment_overlap" | "drop_fragment_contradiction"))) = lot {
            return Err(reason);
        }
        if lot.is_none() && piece.start > 0 {
            let waiting = &self.fragments.waiting;
            let of_source = waiting.iter().filter(|early| counted_by(early.id.0) == counted_by(source));
            if of_source.count() == MOST_OF_SOURCE {
                return Err("drop_fragment_source_full");
            }
            if waiting.len() == MOST_WAITING {
                let oldest = self.fragments.datagrams.iter().position(|known| known.lot.is_none()).unwrap();
                self.forget(oldest, "drop_fragment_evicted");
            }
        }
        let place = self.fragments.datagrams.iter().position(|known| known.id == id).unwrap_or_else(|| {
            self.fragments.datagrams.push(Pieces { id, came: vec![], lot: None, since_ns: self.now_ns });
            self.fragments.datagrams.len() - 1
        });
        match self.fragments.datagrams[place].objection(&piece) {
            None => self.fragments.datagrams[place].came.push(piece),
            Some("drop_fragment_duplicate") => return Err("drop_fragment_duplicate"),
            Some(reason) => {
                self.settle(place, Lot::Drop(reason));
                self.dismiss(id).iter().for_each(|_| self.count(reason, 1));
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Decides a datagram; it is the youngest of the decided from now on.
    fn settle(&mut self, place: usize, lot: Lot) {
        let entry = self.fragments.datagrams.remove(place);
        self.fragments.datagrams.push(Pieces { lot: Some(lot), since_ns: self.now_ns, ..entry });
    }

    fn dismiss(&mut self, id: Id) -> Vec<Early> {
        let (leaving, staying) =
            std::mem::take(&mut self.fragments.waiting).into_iter().partition(|early| early.id == id);
        self.fragments.waiting = staying;
        leaving
    }

    fn forget(&mut self, place: usize, reason: &'static str) {
        let entry = self.fragments.datagrams.remove(place);
        self.dismiss(entry.id).iter().for_each(|_| self.count(reason, 1));
    }

    /// Forgets all whose time is over.
    pub fn expire_fragments(&mut self) {
        let is_over = |entry: &Pieces, now_ns: u64| {
            now_ns - entry.since_ns >= if entry.lot.is_some() { MEMORY_NS } else { PATIENCE_NS }
        };
        while let Some(place) = self.fragments.datagrams.iter().position(|entry| is_over(entry, self.now_ns))
        {
            self.forget(place, "drop_fragment_timeout");
        }
    }

    fn carry_later(&mut self, device: u32, lot: Lot, mut later: Datagram) -> Vec<Sent> {
        let decided = match lot {
            Lot::Drop(reason) => Err(reason),
            Lot::Punt => Ok(Fate::Punt(later.octets)),
            Lot::Turn => Ok(Fate::Answer("answered_echo", later.turned())),
            Lot::Translate { .. } if later.ttl() <= 1 => {
                self.explain(device, &later.octets, "drop_ttl_exceeded")
            }
            Lot::Translate { way: Way::Forward(..) | Way::Hold(_), .. }
                if later.must_stay_whole() && later.ip_length() > MTU =>
            {
                self.explain(device, &later.octets, "drop_exceeds_mtu")
            }
            Lot::Translate { source, destination, way } => {
                later.readdress(source, destination);
                Ok(match way {
                    Way::Forward(hop, station) => Fate::Forward(hop, station, later.octets),
                    Way::Punt => Fate::Punt(later.octets),
                    Way::Hold(hop) => match self.links.stations.get(&hop) {
                        Some(Station::Known(station)) => Fate::Forward(hop, *station, later.octets),
                        _ => Fate::Hold(hop, later.octets),
                    },
                })
            }
        };
        self.carry_out(device, decided)
    }
}

/// What fragments are counted by: a host of IPv6 has a network of 64 bits to itself (RFC 7421).
fn counted_by(source: IpAddr) -> Vec<u8> {
    ip::octets_of(source).into_iter().take(8).collect()
}

fn lot_of(decided: &Result<Fate, &'static str>, before: &[u8]) -> Lot {
    let ttl = ip::place_of_ttl(ip::is_ipv6(before));
    let translate = |octets: &[u8], way| {
        let (source, destination) = ip::addresses(&octets[LINK..], ip::is_ipv6(octets));
        Lot::Translate { source, destination, way }
    };
    match decided {
        Ok(Fate::Forward(hop, station, octets)) => translate(octets, Way::Forward(*hop, *station)),
        Ok(Fate::Hold(hop, octets)) => translate(octets, Way::Hold(*hop)),
        Ok(Fate::Punt(octets)) if octets[ttl] == before[ttl] => Lot::Punt,
        Ok(Fate::Punt(octets)) => translate(octets, Way::Punt),
        Ok(Fate::Answer("answered_echo", _)) => Lot::Turn,
        Ok(Fate::Answer(..)) | Err(_) => Lot::Drop("drop_fragment_refused"),
    }
}

/// Cuts a packet that is longer than its link allows; one that is not stays as it is. IPv6 is for its sender to cut.
pub(super) fn cut(octets: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let total = ip::length(octets);
    if total <= MTU {
        return Ok(vec![octets.to_vec()]);
    }
    if ip::is_ipv6(octets) || octets[20] & 0x40 != 0 {
        return Err("drop_exceeds_mtu");
    }
    let header = 14 + usize::from(octets[14] & 15) * 4;
    let later_header = [&octets[..34], &copied_options(&octets[34..header])?].concat();
    let (field, data) = (word(octets, 20), &octets[header..14 + total]);
    let mut pieces: Vec<Vec<u8>> = vec![];
    let mut from = 0;
    while from < data.len() {
        let header = if from == 0 { &octets[..header] } else { &later_header[..] };
        let to = data.len().min(from + (MTU + 14 - header.len()) / 8 * 8);
        let mut piece = [header, &data[from..to]].concat();
        piece[14] = 0x40 | ((header.len() - 14) / 4) as u8;
        let length = (piece.len() - 14) as u16;
        set_word(&mut piece, 16, length);
        let more = if to < data.len() { 0x2000 } else { field & 0x2000 };
        set_word(&mut piece, 20, (field & 0x8000) + more + (field & 0x1fff) + (from / 8) as u16);
        ip::mend(&mut piece);
        pieces.push(piece);
        from = to;
    }
    Ok(pieces)
}

/// The options that every piece has, filled up to whole words.
fn copied_options(options: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut copied = vec![];
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        let length = match options[at] {
            1 => 1,
            _ => usize::from(*options.get(at + 1).ok_or("drop_malformed_ipv4")?),
        };
        let is_honest = (options[at] == 1 || length > 1) && at + length <= options.len();
        if !is_honest {
            return Err("drop_malformed_ipv4");
        }
        if options[at] >= 0x80 {
            copied.extend(&options[at..at + length]);
        }
        at += length;
    }
    while copied.len() % 4 != 0 {
        copied.push(0);
    }
    Ok(copied)
}
