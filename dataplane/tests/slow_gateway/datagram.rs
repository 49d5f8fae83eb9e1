//! A packet read octet by octet, and its checksums computed in full. Slow, and easy to compare with the RFCs.

/// Octets of an Ethernet header.
const LINK: usize = 14;

/// One direction of a flow, in the order of the headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Five {
    pub protocol: u8,
    pub source: [u8; 4],
    pub source_port: u16,
    pub destination: [u8; 4],
    pub destination_port: u16,
}

impl Five {
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            ..self
        }
    }
}

/// What is behind the IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp {
        flags: u8,
    },
    Udp,
    Echo,
    IcmpError,
    OtherIcmp,
    /// A later fragment.
    Fragment,
    OtherProtocol,
}

/// Which octets of the data of a larger datagram a fragment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub more: bool,
}

/// An IPv4 packet in an Ethernet frame whose headers have been found to agree with its octets.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub octets: Vec<u8>,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the IP packet ends; what follows is padding.
    pub end: usize,
    pub kind: Kind,
    pub five: Five,
    /// Of what it is a piece, if it is a fragment.
    pub piece: Option<Piece>,
}

/// What a frame is if not a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    NotIpv4,
    Ipv4,
    Transport,
    Fragment,
    TinyFragment,
}

pub fn word(octets: &[u8], at: usize) -> u16 {
    u16::from(octets[at]) << 8 | u16::from(octets[at + 1])
}

pub fn set_word(octets: &mut [u8], at: usize, word: u16) {
    octets[at] = (word >> 8) as u8;
    octets[at + 1] = word as u8;
}

fn long(octets: &[u8], at: usize) -> u32 {
    u32::from(word(octets, at)) << 16 | u32::from(word(octets, at + 2))
}

/// The sum of RFC 1071 as a number from 0 to 65,534, where zero stands for both zeros of ones' complement.
pub fn sum(octets: &[u8]) -> u32 {
    let mut sum = 0;
    for (place, octet) in octets.iter().enumerate() {
        sum += if place % 2 == 0 { u32::from(*octet) << 8 } else { u32::from(*octet) };
        sum %= 65_535;
    }
    sum
}

/// The word that brings a sum of `rest` to `total`.
pub fn missing(total: u32, rest: u32) -> u16 {
    ((total + 65_535 - rest) % 65_535) as u16
}

/// The octets that a transport checksum covers, pseudo-header first (RFC 768, RFC 9293 §3.1).
fn covered(octets: &[u8], protocol: u8, transport: usize, end: usize) -> Vec<u8> {
    let mut covered = octets[LINK + 12..LINK + 20].to_vec();
    covered.extend([0, protocol]);
    covered.extend(((end - transport) as u16).to_be_bytes());
    covered.extend(&octets[transport..end]);
    covered
}

/// Computes the IPv4 header checksum in full.
pub fn mend_header(octets: &mut [u8]) {
    let end = LINK + usize::from(octets[LINK] & 15) * 4;
    set_word(octets, LINK + 10, 0);
    let checksum = missing(0, sum(&octets[LINK..end]));
    set_word(octets, LINK + 10, checksum);
}

/// Computes the checksum of an ICMP message in full.
pub fn mend_icmp(message: &mut [u8]) {
    set_word(message, 2, 0);
    let checksum = missing(0, sum(message));
    set_word(message, 2, checksum);
}

impl Datagram {
    pub fn read(octets: &[u8]) -> Result<Self, Unreadable> {
        if octets.len() < LINK || word(octets, 12) != 0x0800 {
            return Err(Unreadable::NotIpv4);
        }
        let available = octets.len() - LINK;
        if available < 20 || octets[LINK] >> 4 != 4 {
            return Err(Unreadable::Ipv4);
        }
        let header = usize::from(octets[LINK] & 15) * 4;
        let total = usize::from(word(octets, LINK + 2));
        if header < 20 || total < header || total > available || sum(&octets[LINK..LINK + header]) != 0 {
            return Err(Unreadable::Ipv4);
        }
        let (transport, end) = (LINK + header, LINK + total);
        let piece = Self::piece(octets, transport, end)?;
        let kind = match piece {
            None => Self::kind(octets, transport, end, false).ok_or(Unreadable::Transport)?,
            Some(Piece { start: 0, .. }) => {
                Self::kind(octets, transport, end, true).ok_or(Unreadable::TinyFragment)?
            }
            Some(Piece { start: ..20, .. }) if octets[LINK + 9] == 6 => return Err(Unreadable::TinyFragment),
            Some(_) => Kind::Fragment,
        };
        let has_ports = matches!(kind, Kind::Tcp { .. } | Kind::Udp);
        let address = |at: usize| [octets[at], octets[at + 1], octets[at + 2], octets[at + 3]];
        let five = Five {
            protocol: octets[LINK + 9],
            source: address(LINK + 12),
            source_port: if has_ports { word(octets, transport) } else { 0 },
            destination: address(LINK + 16),
            destination_port: if has_ports { word(octets, transport + 2) } else { 0 },
        };
        Ok(Self { octets: octets.to_vec(), transport, end, kind, five, piece })
    }

    /// `None` if the packet is whole.
    fn piece(octets: &[u8], transport: usize, end: usize) -> Result<Option<Piece>, Unreadable> {
        let (field, length) = (word(octets, LINK + 6), end - transport);
        let (more, start) = (field & 0x2000 != 0, usize::from(field & 0x1fff) * 8);
        if !more && start == 0 {
            return Ok(None);
        }
        // Header and data of the joined datagram are at most what its length field can say.
        if length == 0 || (more && length % 8 != 0) || start + end - LINK > 65_535 {
            return Err(Unreadable::Fragment);
        }
        Ok(Some(Piece { start, end: start + length, more }))
    }

    /// `None` if the transport header does not agree with the octets there are.
    fn kind(octets: &[u8], transport: usize, end: usize, more_follows: bool) -> Option<Kind> {
        let length = end - transport;
        match octets[LINK + 9] {
            1 if length < 8 => None,
            1 if octets[transport] == 8 && octets[transport + 1] == 0 => Some(Kind::Echo),
            1 if [3, 4, 5, 11, 12].contains(&octets[transport]) => Some(Kind::IcmpError),
            1 => Some(Kind::OtherIcmp),
            6 if length < 20 => None,
            6 => {
                let header = usize::from(octets[transport + 12] >> 4) * 4;
                (header >= 20 && header <= length).then(|| Kind::Tcp { flags: octets[transport + 13] })
            }
            17 if length < 8 => None,
            17 => {
                let stated = usize::from(word(octets, transport + 4));
                (stated >= 8 && (stated <= length || more_follows)).then_some(Kind::Udp)
            }
            _ => Some(Kind::OtherProtocol),
        }
    }

    pub fn ttl(&self) -> u8 {
        self.octets[LINK + 8]
    }

    pub fn ip_length(&self) -> usize {
        self.end - LINK
    }

    /// Where the transport checksum stands, and where what it covers ends.
    fn checksum_place(&self) -> (usize, usize) {
        match self.kind {
            Kind::Udp => {
                let stated = self.transport + usize::from(word(&self.octets, self.transport + 4));
                // Of a first fragment what there is: the rest of the sum stays as it is.
                (self.transport + 6, stated.min(self.end))
            }
            Kind::Tcp { .. } => (self.transport + 16, self.end),
            _ => (self.transport + 2, self.end),
        }
    }

    fn covered(&self) -> Vec<u8> {
        let (_, end) = self.checksum_place();
        match self.kind {
            Kind::Tcp { .. } | Kind::Udp => covered(&self.octets, self.five.protocol, self.transport, end),
            _ => self.octets[self.transport..end].to_vec(),
        }
    }

    /// Computes the transport checksum in full, so that one that was right is right, and one that was wrong by `error`
    /// is wrong by as much.
    fn mend_transport(&mut self, error: u32) {
        let (place, _) = self.checksum_place();
        set_word(&mut self.octets, place, 0);
        let checksum = missing(error, sum(&self.covered()));
        // Zero means "none" in UDP (RFC 768), and cannot stand for an all-zero ICMP message (RFC 1071: both zeros).
        let is_never_zero = !matches!(self.kind, Kind::Tcp { .. });
        set_word(&mut self.octets, place, if checksum == 0 && is_never_zero { 0xffff } else { checksum });
    }

    /// Returns the frame as it leaves translated: one link further, with other addresses and ports.
    pub fn translated(mut self, leaves_as: Five) -> Vec<u8> {
        let error = sum(&self.covered());
        let (place, _) = self.checksum_place();
        let has_checksum = !(self.kind == Kind::Udp && word(&self.octets, place) == 0);
        self.readdress(leaves_as.source, leaves_as.destination);
        set_word(&mut self.octets, self.transport, leaves_as.source_port);
        set_word(&mut self.octets, self.transport + 2, leaves_as.destination_port);
        if has_checksum {
            self.mend_transport(error);
        }
        self.octets
    }

    /// Gives the packet other addresses, one link further.
    pub fn readdress(&mut self, source: [u8; 4], destination: [u8; 4]) {
        self.octets[LINK + 8] -= 1;
        self.octets[LINK + 12..LINK + 16].copy_from_slice(&source);
        self.octets[LINK + 16..LINK + 20].copy_from_slice(&destination);
        mend_header(&mut self.octets);
    }

    /// Returns the Echo Reply (RFC 792), without padding.
    pub fn echo_reply(mut self) -> Vec<u8> {
        let error = sum(&self.covered());
        self.octets[self.transport] = 0;
        self.mend_transport(error);
        self.turned()
    }

    /// Returns the packet on its way back, without padding.
    pub fn turned(mut self) -> Vec<u8> {
        self.turn_round();
        self.octets[LINK + 8] = 64;
        mend_header(&mut self.octets);
        self.octets.truncate(self.end);
        self.octets
    }

    fn turn_round(&mut self) {
        let (from, to) = (self.five.source, self.five.destination);
        self.octets[LINK + 12..LINK + 16].copy_from_slice(&to);
        self.octets[LINK + 16..LINK + 20].copy_from_slice(&from);
        let stations = [&self.octets[6..12], &self.octets[..6]].concat();
        self.octets[..12].copy_from_slice(&stations);
    }

    /// Returns the RST that RFC 9293 §3.10.7.1 asks for where there is no connection.
    pub fn reset(&self, flags: u8) -> Vec<u8> {
        let segment = &self.octets[self.transport..self.end];
        let data = segment.len() - usize::from(segment[12] >> 4) * 4;
        let controls = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        let (sequence, acknowledgment, flags) = match flags & 0x10 {
            0 => (0, long(segment, 4).wrapping_add(data as u32).wrapping_add(controls), 0x14),
            _ => (long(segment, 8), 0, 0x04),
        };
        let transport = Segment { sequence, acknowledgment, flags, window: 0, payload: vec![] };
        tcp(self.stations_back(), self.five.reversed(), 64, &transport)
    }

    pub fn port_unreachable(&self) -> Vec<u8> {
        self.quoted_in([3, 3, 0, 0, 0, 0, 0, 0], self.five.destination)
    }

    /// Returns the ICMP error that quotes as much of the packet as 576 octets hold (RFC 1812 §4.3.2.3).
    pub fn quoted_in(&self, header: [u8; 8], source: [u8; 4]) -> Vec<u8> {
        let quoted = self.ip_length().min(576 - 28);
        let message = [&header, &self.octets[LINK..LINK + quoted]].concat();
        icmp(self.stations_back(), Five { source, ..self.five.reversed() }, 64, message)
    }

    fn stations_back(&self) -> [u8; 12] {
        [&self.octets[6..12], &self.octets[..6]].concat().try_into().unwrap()
    }
}

/// A segment to be made: what the headers do not have from elsewhere.
#[derive(Clone, Debug)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub window: u16,
    pub payload: Vec<u8>,
}

fn ipv4(stations: [u8; 12], ends: Five, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = stations.to_vec();
    octets.extend([8, 0, 0x45, 0]);
    octets.extend((20 + payload.len() as u16).to_be_bytes());
    octets.extend([0, 0, 0x40, 0, ttl, ends.protocol, 0, 0]);
    octets.extend(ends.source);
    octets.extend(ends.destination);
    octets.extend(payload);
    mend_header(&mut octets);
    octets
}

/// Makes a frame with a TCP segment. `stations` is the receiver's MAC, then the sender's.
pub fn tcp(stations: [u8; 12], ends: Five, ttl: u8, segment: &Segment) -> Vec<u8> {
    let mut header = [0; 20];
    set_word(&mut header, 0, ends.source_port);
    set_word(&mut header, 2, ends.destination_port);
    header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, segment.flags]);
    set_word(&mut header, 14, segment.window);
    let octets = ipv4(stations, ends, ttl, &[&header[..], &segment.payload].concat());
    with_checksum(octets)
}

/// Makes a frame with a UDP datagram.
pub fn udp(stations: [u8; 12], ends: Five, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 8];
    set_word(&mut header, 0, ends.source_port);
    set_word(&mut header, 2, ends.destination_port);
    set_word(&mut header, 4, 8 + payload.len() as u16);
    with_checksum(ipv4(stations, ends, ttl, &[&header[..], payload].concat()))
}

/// Makes a frame with an ICMP message; the ports of `ends` do not count.
pub fn icmp(stations: [u8; 12], ends: Five, ttl: u8, mut message: Vec<u8>) -> Vec<u8> {
    mend_icmp(&mut message);
    ipv4(stations, Five { protocol: 1, ..ends }, ttl, &message)
}

fn with_checksum(octets: Vec<u8>) -> Vec<u8> {
    let mut datagram = Datagram::read(&octets).unwrap();
    datagram.mend_transport(0);
    datagram.octets
}
