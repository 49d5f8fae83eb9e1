//! Writes the generator's packets, and reads those that come back.

use std::net::Ipv4Addr;

use tidegate_dataplane::net::checksum::Sum;

use super::plan::Kind;
use super::targets::{Addressing, Protocol, SERVICE_PORT};

/// Octets that every measured packet begins with behind its transport header.
pub const STAMP_BYTES: usize = 18;

const STAMP_MAGIC: [u8; 4] = 0x5447_6231_u32.to_be_bytes();
const LINK_BYTES: usize = 14;
const IP_AT: usize = LINK_BYTES;
const TRANSPORT_AT: usize = LINK_BYTES + 20;
const UDP_STAMP_AT: usize = TRANSPORT_AT + 8;
const TCP_BYTES: usize = 32;
const TCP_STAMP_AT: usize = TRANSPORT_AT + TCP_BYTES;
/// Longest frame that a device with an MTU of 1500 takes.
const LONGEST: usize = LINK_BYTES + 1500;
/// A unit of the TCP time value, so that 32 bits last for minutes.
const TIME_VALUE_SHIFT: u32 = 6;

/// Flags of a TCP header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Data for the application.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement counts.
    pub const ACK: u8 = 0x10;
}

/// Where the frames go on the first link.
#[derive(Clone, Copy, Debug)]
pub struct Stations {
    /// The gateway's.
    pub gateway: [u8; 6],
    /// The client's.
    pub client: [u8; 6],
}

/// Says which packet this is and when it was due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Number of the flow.
    pub flow: u32,
    /// Number of the packet in its flow.
    pub sequence: u32,
    /// When it was due, on the monotonic clock.
    pub due_ns: u64,
}

impl Stamp {
    fn octets(self) -> [u8; STAMP_BYTES] {
        let mut octets = [0; STAMP_BYTES];
        octets[..4].copy_from_slice(&STAMP_MAGIC);
        octets[4..8].copy_from_slice(&self.flow.to_be_bytes());
        octets[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        octets[12..].copy_from_slice(&self.due_ns.to_be_bytes()[2..]);
        octets
    }

    /// Reads a stamp from the beginning of a payload.
    fn read(payload: &[u8]) -> Option<Self> {
        let stamp = payload.first_chunk::<STAMP_BYTES>().filter(|stamp| stamp[..4] == STAMP_MAGIC)?;
        let word = |at: usize| stamp[at..at + 4].try_into().map(u32::from_be_bytes).unwrap_or_default();
        let due_high = u64::from(u16::from_be_bytes([stamp[12], stamp[13]]));
        Some(Self { flow: word(4), sequence: word(8), due_ns: due_high << 32 | u64::from(word(14)) })
    }
}

/// Sequence numbers and flags of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// See [`flags`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
}

/// The octets that all frames of a run share, and their checksums.
#[derive(Clone, Debug)]
pub struct Template {
    datagram: Vec<u8>,
    segment: Vec<u8>,
}

impl Template {
    /// Makes the frames of a run; `bytes` of a frame with data are brought within what its kind can be.
    #[must_use]
    pub fn new(stations: Stations, bytes: usize) -> Self {
        let frame = |protocol: Protocol, shortest: usize| {
            let mut frame = vec![0; bytes.clamp(shortest, LONGEST)];
            frame[..6].copy_from_slice(&stations.gateway);
            frame[6..12].copy_from_slice(&stations.client);
            frame[12..14].copy_from_slice(&[8, 0]);
            // No fragment, and none wanted; a TTL of 64.
            frame[IP_AT..IP_AT + 10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol.number()]);
            frame
        };
        let mut segment = frame(Protocol::Tcp, TCP_STAMP_AT + STAMP_BYTES);
        segment[TRANSPORT_AT + 12] = (TCP_BYTES as u8 / 4) << 4;
        segment[TRANSPORT_AT + 14..TRANSPORT_AT + 16].copy_from_slice(&[0xff, 0xff]);
        // Two octets of padding and the timestamps option (RFC 7323 §3).
        segment[TRANSPORT_AT + 20..TRANSPORT_AT + 24].copy_from_slice(&[1, 1, 8, 10]);
        Self { datagram: frame(Protocol::Udp, UDP_STAMP_AT + STAMP_BYTES), segment }
    }

    /// Returns the octets of a frame with data of this kind.
    #[must_use]
    pub fn frame_bytes(&self, kind: Kind) -> usize {
        match kind.protocol() {
            Protocol::Udp => self.datagram.len(),
            Protocol::Tcp => self.segment.len(),
        }
    }

    /// Writes a datagram with its stamp into a frame; returns its length.
    pub fn write_datagram(&self, frame: &mut [u8], flow: &Addressing, stamp: Stamp) -> usize {
        let length = self.datagram.len();
        let frame = &mut frame[..length];
        frame.copy_from_slice(&self.datagram);
        put(frame, TRANSPORT_AT + 4, ((length - TRANSPORT_AT) as u16).to_be_bytes());
        frame[UDP_STAMP_AT..UDP_STAMP_AT + STAMP_BYTES].copy_from_slice(&stamp.octets());
        write_addressing(frame, flow);
        let sum = checksum(frame, Protocol::Udp, UDP_STAMP_AT + STAMP_BYTES);
        put(frame, TRANSPORT_AT + 6, if sum == [0, 0] { [0xff, 0xff] } else { sum });
        length
    }

    /// Writes a segment into a frame, with data if it has a stamp; returns its length.
    pub fn write_segment(
        &self,
        frame: &mut [u8],
        flow: &Addressing,
        segment: Segment,
        due_ns: u64,
        stamp: Option<Stamp>,
    ) -> usize {
        let length = if stamp.is_some() { self.segment.len() } else { TCP_STAMP_AT };
        let frame = &mut frame[..length];
        frame.copy_from_slice(&self.segment[..length]);
        frame[TRANSPORT_AT + 4..TRANSPORT_AT + 8].copy_from_slice(&segment.sequence.to_be_bytes());
        frame[TRANSPORT_AT + 8..TRANSPORT_AT + 12].copy_from_slice(&segment.acknowledged.to_be_bytes());
        frame[TRANSPORT_AT + 13] = segment.flags;
        frame[TRANSPORT_AT + 24..TRANSPORT_AT + 28].copy_from_slice(&time_value(due_ns).to_be_bytes());
        if let Some(stamp) = stamp {
            frame[TCP_STAMP_AT..TCP_STAMP_AT + STAMP_BYTES].copy_from_slice(&stamp.octets());
        }
        write_addressing(frame, flow);
        let summed = length.min(TCP_STAMP_AT + STAMP_BYTES);
        let sum = checksum(frame, Protocol::Tcp, summed);
        put(frame, TRANSPORT_AT + 16, sum);
        length
    }

    /// Octets of data in a segment with a stamp.
    #[must_use]
    pub fn segment_data(&self) -> u32 {
        (self.segment.len() - TCP_STAMP_AT) as u32
    }
}

/// Addresses, ports, length and header checksum.
fn write_addressing(frame: &mut [u8], flow: &Addressing) {
    put(frame, IP_AT + 2, ((frame.len() - IP_AT) as u16).to_be_bytes());
    frame[IP_AT + 12..IP_AT + 16].copy_from_slice(&flow.client.octets());
    frame[IP_AT + 16..IP_AT + 20].copy_from_slice(&flow.service.octets());
    let sum = Sum::default().octets(&frame[IP_AT..TRANSPORT_AT]).checksum();
    put(frame, IP_AT + 10, sum);
    put(frame, TRANSPORT_AT, flow.client_port.to_be_bytes());
    put(frame, TRANSPORT_AT + 2, SERVICE_PORT.to_be_bytes());
}

/// The transport checksum; octets from `summed` on are zero.
fn checksum(frame: &[u8], protocol: Protocol, summed: usize) -> [u8; 2] {
    let transport = ((frame.len() - TRANSPORT_AT) as u16).to_be_bytes();
    Sum::default()
        .octets(&frame[IP_AT + 12..summed])
        .octets(&[0, protocol.number(), transport[0], transport[1]])
        .checksum()
}

fn put(frame: &mut [u8], at: usize, word: [u8; 2]) {
    frame[at..at + 2].copy_from_slice(&word);
}

/// Returns a moment as it goes into a TCP timestamps option.
#[must_use]
pub const fn time_value(ns: u64) -> u32 {
    (ns >> TIME_VALUE_SHIFT) as u32
}

/// Returns how long ago an echoed time value was made.
#[must_use]
pub const fn since_time_value(echoed: u32, now_ns: u64) -> u64 {
    (time_value(now_ns).wrapping_sub(echoed) as u64) << TIME_VALUE_SHIFT
}

/// What came back to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A datagram that was sent back.
    Datagram(Stamp),
    /// A segment, and the time value of ours that it echoes.
    Segment {
        /// The client and the Service.
        flow: Addressing,
        /// Numbers and flags.
        segment: Segment,
        /// Echoed time value.
        echoed: u32,
    },
}

/// Reads a frame that arrived at a client; `None` if it is no reply to the generator.
#[must_use]
pub fn read_reply(frame: &[u8]) -> Option<Reply> {
    let header = frame.get(..TRANSPORT_AT).filter(|frame| frame[12..15] == [8, 0, 0x45])?;
    if header[IP_AT + 9] == Protocol::Udp.number() {
        return Stamp::read(frame.get(UDP_STAMP_AT..)?).map(Reply::Datagram);
    }
    let transport = frame.get(TRANSPORT_AT..TCP_STAMP_AT)?;
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let word = |at: usize| transport[at..at + 4].try_into().map(u32::from_be_bytes).unwrap_or_default();
    Some(Reply::Segment {
        flow: Addressing {
            client: address(IP_AT + 16),
            client_port: u16::from_be_bytes([transport[2], transport[3]]),
            service: address(IP_AT + 12),
        },
        segment: Segment { flags: transport[13], sequence: word(4), acknowledged: word(8) },
        echoed: word(28),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::targets::Targets;

    const STATIONS: Stations = Stations { gateway: [2, 0, 0, 0, 0, 1], client: [2, 0, 0, 0, 0, 2] };

    fn verified(frame: &[u8], protocol: u8) {
        assert_eq!(Sum::default().octets(&frame[IP_AT..TRANSPORT_AT]).checksum(), [0, 0], "IPv4 header");
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - IP_AT);
        let length = ((frame.len() - TRANSPORT_AT) as u16).to_be_bytes();
        let sum = Sum::default().octets(&[0, protocol, length[0], length[1]]).octets(&frame[IP_AT + 12..]);
        assert_eq!(sum.checksum(), [0, 0], "transport");
    }

    #[test]
    fn datagrams_of_every_size_have_right_checksums_and_their_stamp_is_read_again() {
        let targets = Targets::alternating(5000);
        for bytes in [0, 60, 61, 64, 512, 1514, 9000] {
            let template = Template::new(STATIONS, bytes);
            let stamp = Stamp { flow: 77, sequence: 0xdead_beef, due_ns: 0x0000_1234_5678_9abc };
            let mut frame = [0xff; 4096];
            let length = template.write_datagram(&mut frame, &targets.flow(4711, Protocol::Udp), stamp);
            assert_eq!(length, bytes.clamp(60, 1514));
            verified(&frame[..length], 17);
            assert_eq!(read_reply(&frame[..length]), Some(Reply::Datagram(stamp)));
        }
    }

    #[test]
    fn segments_have_right_checksums_and_their_numbers_are_read_again() {
        let flow = Targets::alternating(5000).flow(4711, Protocol::Tcp);
        for bytes in [60, 128, 1514] {
            let template = Template::new(STATIONS, bytes);
            let segment = Segment { flags: flags::ACK, sequence: 5, acknowledged: 6 };
            for stamp in [None, Some(Stamp { flow: 1, sequence: 2, due_ns: 3 })] {
                let mut frame = [0xff; 4096];
                let length = template.write_segment(&mut frame, &flow, segment, 64_000, stamp);
                assert_eq!(length, if stamp.is_some() { bytes.max(84) } else { 66 });
                verified(&frame[..length], 6);
                let Some(Reply::Segment { segment: read, .. }) = read_reply(&frame[..length]) else {
                    panic!()
                };
                assert_eq!(read, segment);
                assert_eq!(frame[TRANSPORT_AT + 24..TRANSPORT_AT + 28], 1000_u32.to_be_bytes());
            }
        }
    }

    #[test]
    fn a_time_value_that_wrapped_still_says_how_long_ago_it_was() {
        let sent = u64::from(u32::MAX) << TIME_VALUE_SHIFT;
        assert_eq!(since_time_value(time_value(sent), sent + 640_000), 640_000);
    }

    #[test]
    fn foreign_and_short_frames_are_no_replies() {
        assert_eq!(read_reply(&[]), None);
        assert_eq!(read_reply(&[0; 60]), None);
        let mut arp = [0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(read_reply(&arp), None);
    }
}
