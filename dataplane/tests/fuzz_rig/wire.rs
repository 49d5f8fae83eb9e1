//! What a frame carries and whether its checksums are right, found the slow way and by no code of the product.

/// Octets of the Ethernet header.
pub const LINK: usize = 14;

/// Where things are in a frame whose lengths fit it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    pub is_ipv6: bool,
    /// Where the transport header begins; in a later fragment, where its data does.
    pub transport: usize,
    /// Where the packet ends; padding may follow.
    pub end: usize,
    pub protocol: u8,
    /// Where the field with the fragment's offset is, if the packet is a fragment.
    pub fragment: Option<usize>,
}

pub fn word(octets: &[u8], at: usize) -> usize {
    usize::from(octets[at]) << 8 | usize::from(octets[at + 1])
}

pub fn set_word(octets: &mut [u8], at: usize, word: usize) {
    octets[at..at + 2].copy_from_slice(&(word as u16).to_be_bytes());
}

/// Finds the places of a frame; `None` if it is no IP packet, or if its headers or lengths do not fit into it.
pub fn places(frame: &[u8]) -> Option<Places> {
    match (frame.get(12..LINK)?, frame.get(LINK)? >> 4) {
        ([0x08, 0x00], 4) if frame.len() >= LINK + 20 => {
            let transport = LINK + usize::from(frame[LINK] & 15) * 4;
            let end = LINK + word(frame, LINK + 2);
            let fragment = (word(frame, LINK + 6) & 0x3fff != 0).then_some(LINK + 6);
            let fits = LINK + 20 <= transport && transport <= end && end <= frame.len();
            fits.then_some(Places { is_ipv6: false, transport, end, protocol: frame[LINK + 9], fragment })
        }
        ([0x86, 0xdd], 6) if frame.len() >= LINK + 40 => {
            let end = LINK + 40 + word(frame, LINK + 4);
            let places = Places {
                is_ipv6: true,
                transport: LINK + 40,
                end,
                protocol: frame[LINK + 6],
                fragment: None,
            };
            if end <= frame.len() { walk(frame, places) } else { None }
        }
        _ => None,
    }
}

fn walk(frame: &[u8], mut places: Places) -> Option<Places> {
    loop {
        let at = places.transport;
        let header = frame.get(at..places.end);
        let bytes = match places.protocol {
            0 | 43 | 60 => (usize::from(*header?.get(1)?) + 1) * 8,
            51 => (usize::from(*header?.get(1)?) + 2) * 4,
            44 => 8,
            _ => return Some(places),
        };
        let header = header?.get(..bytes)?;
        places.transport += bytes;
        if places.protocol == 44 && word(header, 2) & 0xfff9 != 0 {
            places.fragment = Some(at + 2);
        }
        places.protocol = header[0];
        if places.fragment.is_some_and(|field| word(frame, field) & 0xfff8 != 0) {
            return Some(places);
        }
    }
}

/// Says whether a packet of IPv6 has more than eight extension headers, or more than 1024 octets of them.
pub fn hides_its_transport(frame: &[u8]) -> bool {
    let (mut at, mut protocol) = (LINK + 40, frame[LINK + 6]);
    for _ in 0..8 {
        let bytes = match (protocol, frame.get(at..at + 4)) {
            (0 | 43 | 60, Some(header)) => (usize::from(header[1]) + 1) * 8,
            (51, Some(header)) => (usize::from(header[1]) + 2) * 4,
            (44, Some(header)) if word(header, 2) & 0xfff8 == 0 => 8,
            _ => return false,
        };
        protocol = frame[at];
        at += bytes;
        if at > LINK + 40 + 1024 {
            return true;
        }
    }
    matches!(protocol, 0 | 43 | 44 | 51 | 60)
}

/// Sums words as RFC 1071 says.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let octets = parts.concat();
    let mut sum = 0_u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Computes CRC32c bit by bit, as it stands in an SCTP packet (RFC 9260 Appendix A).
pub fn crc32c(parts: &[&[u8]]) -> [u8; 4] {
    let mut remainder = u32::MAX;
    for octet in parts.concat() {
        remainder ^= u32::from(octet);
        for _ in 0..8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!remainder).to_le_bytes()
}

/// Says whether the checksum of the IPv4 header is right.
pub fn is_header_right(frame: &[u8], places: Places) -> bool {
    places.is_ipv6 || sum(&[&frame[LINK..LINK + usize::from(frame[LINK] & 15) * 4]]) == 0xffff
}

/// Where the transport's checksum is, and how long it is.
fn checksum_at(places: Places) -> Option<(usize, usize)> {
    let (at, bytes) = match (places.protocol, places.is_ipv6) {
        (6, _) => (16, 2),
        (17, _) => (6, 2),
        (132, _) => (8, 4),
        (1, false) | (58, true) => (2, 2),
        _ => return None,
    };
    let at = places.transport + at;
    (places.fragment.is_none() && at + bytes <= places.end).then_some((at, bytes))
}

/// Computes the checksum that the transport should have, field taken as zero.
fn checksum(frame: &[u8], places: Places) -> Option<Vec<u8>> {
    let (at, bytes) = checksum_at(places)?;
    let (before, after) = (&frame[places.transport..at], &frame[at + bytes..places.end]);
    let zeros = [0; 4];
    if places.protocol == 132 {
        return Some(crc32c(&[before, &zeros, after]).to_vec());
    }
    let length = ((places.end - places.transport) as u32).to_be_bytes();
    let pseudo = match (places.protocol, places.is_ipv6) {
        (1, _) => vec![],
        (protocol, false) => [&frame[LINK + 12..LINK + 20], &[0, protocol], &length[2..]].concat(),
        (protocol, true) => [&frame[LINK + 8..LINK + 40], &length, &[0, 0, 0, protocol]].concat(),
    };
    let checksum = !sum(&[&pseudo, before, &zeros[..2], after]);
    let is_udp_zero = places.protocol == 17 && checksum == 0;
    Some(if is_udp_zero { vec![0xff; 2] } else { checksum.to_be_bytes().to_vec() })
}

/// Says whether the transport's checksum is right; `None` if there is none to judge: no such transport, a fragment, or
/// UDP that goes without.
pub fn is_transport_right(frame: &[u8]) -> Option<bool> {
    let places = places(frame)?;
    let (at, bytes) = checksum_at(places)?;
    let field = &frame[at..at + bytes];
    if places.protocol == 17
        && (field == [0, 0] || word(frame, places.transport + 4) != places.end - places.transport)
    {
        return None;
    }
    // Both zeros of ones' complement are right, but for the one that UDP gives a meaning to.
    let expected = checksum(frame, places)?;
    Some(field == expected || bytes == 2 && places.protocol != 17 && field == [0xff; 2] && expected == [0; 2])
}

/// Says whether a frame is a whole UDP datagram that goes without a checksum (RFC 768).
pub fn is_udp_without(frame: &[u8]) -> bool {
    let udp = places(frame).filter(|places| places.protocol == 17).and_then(checksum_at);
    udp.is_some_and(|(at, bytes)| frame[at..at + bytes] == [0, 0])
}

/// Makes lengths and checksums of a frame right, as far as its headers can be found.
pub fn mend(frame: &mut [u8], mends_lengths: bool) {
    if mends_lengths {
        mend_lengths(frame);
    }
    let Some(places) = places(frame) else { return };
    if !places.is_ipv6 {
        frame[LINK + 10..LINK + 12].fill(0);
        let header = !sum(&[&frame[LINK..LINK + usize::from(frame[LINK] & 15) * 4]]);
        set_word(frame, LINK + 10, header.into());
    }
    if let (Some((at, bytes)), Some(checksum)) = (checksum_at(places), checksum(frame, places)) {
        frame[at..at + bytes].copy_from_slice(&checksum);
    }
}

fn mend_lengths(frame: &mut [u8]) {
    let bytes = frame.len().saturating_sub(LINK);
    match frame.get(LINK).map(|octet| octet >> 4) {
        Some(4) if bytes >= 20 => set_word(frame, LINK + 2, bytes),
        Some(6) if bytes >= 40 => set_word(frame, LINK + 4, bytes - 40),
        _ => return,
    }
    let Some(places) = places(frame) else { return };
    if places.protocol == 17 && places.fragment.is_none() && places.transport + 8 <= places.end {
        set_word(frame, places.transport + 4, places.end - places.transport);
    }
}

/// Returns the packet that an ICMP error quotes, as a frame of its own.
pub fn quoted(frame: &[u8]) -> Option<Vec<u8>> {
    let places = places(frame)?;
    let kind = *frame.get(places.transport)?;
    let is_error = match (places.protocol, places.is_ipv6) {
        (1, false) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (58, true) => kind < 128,
        _ => false,
    };
    let quote =
        frame.get(places.transport + 8..places.end).filter(|_| is_error && places.fragment.is_none())?;
    Some([&frame[..LINK], quote].concat())
}

/// Returns source and destination of a frame with an IP header, cut behind it or not.
pub fn addresses(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let (at, bytes) = match frame.get(LINK)? >> 4 {
        4 => (LINK + 12, 4),
        6 => (LINK + 8, 16),
        _ => return None,
    };
    frame.get(at..at + 2 * bytes).map(|both| both.split_at(bytes))
}
