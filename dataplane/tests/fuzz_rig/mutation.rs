//! Changes inputs with an eye to what they mean: fields, headers, lengths, pieces, quotes; then often mends them, so
//! that they come past the first check.

use super::random::Random;
use super::seeds::{ADDRESSES, PORTS};
use super::step::Step;
use super::wire::{self, LINK};

/// Longest frame that a link of 1,500 octets brings.
const FRAME_MAX: usize = LINK + 1500;
/// Steps of the longest input.
const STEPS_MAX: usize = 24;

/// Returns a changed input; `others` is what may be spliced in.
pub fn mutate(random: &mut Random, input: &[Step], others: &[Vec<Step>]) -> Vec<Step> {
    let mut steps = input.to_vec();
    for _ in 0..=random.below(3) {
        if random.one_in(4) {
            rearrange(random, &mut steps, others);
        } else {
            change_one(random, &mut steps);
        }
    }
    steps.truncate(STEPS_MAX);
    steps
}

fn rearrange(random: &mut Random, steps: &mut Vec<Step>, others: &[Vec<Step>]) {
    let at = random.below(steps.len() + 1);
    let other = random.pick(others);
    match random.below(6) {
        0 => {
            let from = random.below(other.len());
            steps.splice(at..at, other[from..].iter().cloned());
        }
        1 if !other.is_empty() => steps.insert(at, random.pick(other).clone()),
        2 if steps.len() > 1 => drop(steps.remove(at % steps.len())),
        3 if !steps.is_empty() => steps.insert(at, random.pick(steps).clone()),
        4 if steps.len() > 1 => {
            let other = random.below(steps.len());
            let at = at % steps.len();
            steps.swap(at, other);
        }
        _ => steps.insert(at, Step::Wait(*random.pick(&[1, 200, 1_000, 5_000, 31_000, 130_000]))),
    }
}

fn change_one(random: &mut Random, steps: &mut Vec<Step>) {
    if steps.is_empty() {
        return;
    }
    let at = random.below(steps.len());
    let other = random.pick(steps).frame().unwrap_or_default().to_vec();
    let Some(frame) = steps[at].frame_mut() else { return };
    if random.one_in(12) {
        let pieces = pieces(random, frame);
        let is_client = matches!(steps[at], Step::Client(_));
        let pieces =
            pieces.into_iter().map(|piece| if is_client { Step::Client(piece) } else { Step::Pod(piece) });
        steps.splice(at..=at, pieces);
        return;
    }
    if random.one_in(12) {
        let error = error_about(random, frame);
        let comes_by_pods = matches!(steps[at], Step::Client(_)) ^ random.one_in(4);
        steps.insert(at + 1, if comes_by_pods { Step::Pod(error) } else { Step::Client(error) });
        return;
    }
    for _ in 0..=random.below(2) {
        change(random, frame, &other);
    }
    if !random.one_in(4) {
        wire::mend(frame, !random.one_in(3));
    }
    frame.truncate(FRAME_MAX);
}

fn change(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    if frame.len() <= LINK {
        frame.extend_from_slice(other);
        return;
    }
    // Headers are where things are decided.
    let reach = if random.one_in(4) { frame.len() } else { frame.len().min(90) };
    let at = random.below(reach);
    match random.below(12) {
        0 => frame[at] ^= 1 << random.below(8),
        1 => frame[at] = *random.pick(&[0, 1, 4, 7, 8, 0x3b, 0x3c, 0x7f, 0x80, 0xff]),
        2 => set_field(random, frame),
        3 => set_address(random, frame),
        4 => set_port(random, frame),
        5 => frame.truncate(random.below(frame.len() + 1)),
        6 => {
            let more = random.below(64);
            frame.resize(frame.len() + more, random.octet());
        }
        7 => insert_header(random, frame),
        8 => {
            let to = (at + random.below(16)).min(frame.len());
            frame.drain(at..to);
        }
        9 => {
            let from = random.below(other.len() + 1);
            frame.truncate(at.max(LINK));
            frame.extend_from_slice(&other[from..]);
        }
        10 => set_protocol(random, frame),
        _ => turn_round(frame),
    }
}

/// Sets a field that others are measured by: lengths, offsets, flags, types.
fn set_field(random: &mut Random, frame: &mut [u8]) {
    let transport = wire::places(frame).map_or(LINK + 20, |places| places.transport);
    let at = *random.pick(&[
        12,
        LINK,
        LINK + 2,
        LINK + 4,
        LINK + 6,
        LINK + 8,
        transport,
        transport + 2,
        transport + 4,
        transport + 12,
        transport + 14,
        transport + 8 + 2,
        transport + 8 + 4,
        transport + 8 + 6,
    ]);
    if at + 2 > frame.len() {
        return;
    }
    let length = frame.len();
    let near =
        [length, length - 13, length - 14, length - 15, length.saturating_sub(54), length.saturating_sub(34)];
    let value = match random.below(3) {
        0 => *random
            .pick(&[0, 1, 7, 8, 16, 20, 40, 0x0800, 0x1fff, 0x2000, 0x2001, 0x4000, 0x86dd, 0xfff8, 0xffff]),
        1 => *random.pick(&near),
        _ => wire::word(frame, at) ^ 1 << random.below(16),
    };
    wire::set_word(frame, at, value);
}

fn set_address(random: &mut Random, frame: &mut [u8]) {
    let Some(places) = wire::places(frame) else { return };
    let address = *random.pick(&ADDRESSES);
    let is_source = random.one_in(2);
    if places.is_ipv6 {
        let at = LINK + if is_source { 8 } else { 24 };
        frame[at..at + 16].copy_from_slice(&crate::path_rig::ipv6(address).octets());
    } else {
        let at = LINK + if is_source { 12 } else { 16 };
        frame[at..at + 4].copy_from_slice(&address);
    }
}

fn set_port(random: &mut Random, frame: &mut [u8]) {
    let Some(places) = wire::places(frame) else { return };
    let at = places.transport + 2 * random.below(2);
    if at + 2 <= frame.len() {
        wire::set_word(frame, at, (*random.pick(&PORTS)).into());
    }
}

fn set_protocol(random: &mut Random, frame: &mut [u8]) {
    let Some(places) = wire::places(frame) else { return };
    let at = LINK + if places.is_ipv6 { 6 } else { 9 };
    frame[at] = *random.pick(&[0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135]);
}

/// Puts options, or an extension header of any kind, between the IP header and what follows.
fn insert_header(random: &mut Random, frame: &mut Vec<u8>) {
    let Some(places) = wire::places(frame) else { return };
    if places.is_ipv6 {
        let kind = *random.pick(&[0, 43, 44, 51, 60]);
        let units = random.below(3) as u8;
        let bytes = if kind == 51 {
            8 + usize::from(units) * 4
        } else if kind == 44 {
            8
        } else {
            8 + usize::from(units) * 8
        };
        let mut header = vec![0; bytes];
        header[0] = std::mem::replace(&mut frame[LINK + 6], kind);
        header[1] = if kind == 44 { 0 } else { units };
        if random.one_in(3) {
            header[3] = random.octet();
        }
        frame.splice(LINK + 40..LINK + 40, header);
    } else {
        let words = random.below(3) + 1;
        let option = *random.pick(&[0, 1, 7, 0x44, 0x83, 0x94]);
        let mut options = vec![option; words * 4];
        options[1] = (words * 4) as u8;
        frame.splice(LINK + 20..LINK + 20, options);
        frame[LINK] = frame[LINK].wrapping_add(words as u8) & 0x4f;
    }
    wire::mend(frame, true);
}

/// Exchanges the ends of a packet.
fn turn_round(frame: &mut [u8]) {
    let Some(places) = wire::places(frame) else { return };
    let (at, bytes) = if places.is_ipv6 { (LINK + 8, 16) } else { (LINK + 12, 4) };
    frame[at..at + 2 * bytes].rotate_left(bytes);
    if let Some(ports) = frame.get_mut(places.transport..places.transport + 4) {
        ports.rotate_left(2);
    }
}

/// Cuts a packet into two to four fragments, now and then out of order.
pub fn pieces(random: &mut Random, frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(places) = wire::places(frame).filter(|places| places.fragment.is_none()) else {
        return vec![frame.to_vec()];
    };
    let data = &frame[places.transport..places.end];
    let blocks = data.len() / 8;
    let mut cuts: Vec<usize> = (0..=random.below(3)).map(|_| random.below(blocks + 1) * 8).collect();
    cuts.extend([0, data.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let id = random.octet() % 4;
    let piece = |from: usize, to: usize| {
        let more = usize::from(to < data.len());
        let mut piece = frame[..places.transport].to_vec();
        if places.is_ipv6 {
            let [high, low] = ((from | more) as u16).to_be_bytes();
            piece.truncate(LINK + 40);
            piece[LINK + 6] = 44;
            piece.extend([places.protocol, 0, high, low, 0, 0, 0, id]);
        } else {
            wire::set_word(&mut piece, LINK + 4, id.into());
            wire::set_word(&mut piece, LINK + 6, (more << 13) | (from / 8));
        }
        piece.extend_from_slice(&data[from..to]);
        wire::mend(&mut piece, true);
        piece
    };
    let mut pieces: Vec<_> = cuts.windows(2).map(|ends| piece(ends[0], ends[1])).collect();
    let turn = random.below(pieces.len() + 1);
    if random.one_in(2) && turn < pieces.len() {
        pieces.rotate_left(turn);
    }
    pieces
}

/// Makes an ICMP error that quotes a packet, towards its source.
fn error_about(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let Some(places) = wire::places(frame) else { return frame.to_vec() };
    let quoted = frame.len().min(LINK + 20 + random.below(560));
    let quote = &frame[LINK..quoted];
    let mtu = *random.pick(&[0, 68, 1200, 1280, 1500]);
    let [high, low] = u16::to_be_bytes(mtu);
    let router = *random.pick(&ADDRESSES);
    let (kind, code) = if places.is_ipv6 {
        *random.pick(&[(1, 4), (2, 0), (3, 0), (4, 1), (137, 0)])
    } else {
        *random.pick(&[(3, 3), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0)])
    };
    let message = [&[kind, code, 0, 0, 0, 0, high, low], quote].concat();
    let link = [&frame[6..12], &frame[..6], &frame[12..LINK]].concat();
    let Some((source, destination)) = wire::addresses(frame) else { return frame.to_vec() };
    let (source, mut from) = (source.to_vec(), destination.to_vec());
    let mut error = if places.is_ipv6 {
        if random.one_in(2) {
            from = crate::path_rig::ipv6(router).octets().to_vec();
        }
        [&link[..], &[0x60, 0, 0, 0, 0, 0, 58, 64], &from, &source, &message].concat()
    } else {
        if random.one_in(2) {
            from = router.to_vec();
        }
        [&link[..], &[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0], &from, &source, &message].concat()
    };
    wire::mend(&mut error, true);
    error
}
