//! Cuts a packet that is too long for its link. Read RFC 791 §3.2, "An Example Fragmentation Procedure", first.

use super::BLOCK_BYTES;
use crate::net::checksum::Sum;
use crate::net::{ethernet, ipv4, ipv6};
use crate::verdict::DropReason;

/// Most pieces of one packet; the longest that is carried gives 192 on the smallest link there is (68 octets).
pub const PIECES_MAX: usize = 192;

/// Octets of the longest IPv4 header (RFC 791 §3.1, IHL).
const HEADER_BYTES_MAX: usize = 60;

/// `copied`: the option is in every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;
/// End of Option List.
const END_OF_LIST: u8 = 0;
/// No Operation.
const NO_OPERATION: u8 = 1;

/// A header with its options.
#[derive(Clone, Copy, Debug)]
struct PieceHeader {
    octets: [u8; HEADER_BYTES_MAX],
    len: usize,
}

/// How a packet is cut: all but the octets themselves.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    link: [u8; ethernet::HEADER_BYTES],
    /// Header of the first piece, with all options, and of the others, with those that are copied.
    headers: [PieceHeader; 2],
    /// Octets of data in each piece but the last: of the first, and of each other.
    data_bytes: [usize; 2],
    /// Octets of data in the whole packet.
    total_bytes: usize,
    /// Place of the packet's data in its datagram, if it is itself a fragment.
    offset_bytes: usize,
    /// Says whether the packet is itself a fragment that others follow.
    more: bool,
}

impl Cut {
    /// Plans the pieces of a packet for a link; `None` if the packet fits in one.
    ///
    /// # Errors
    /// [`DropReason::ExceedsMtu`] if the packet may not be cut, or the link is too narrow for that;
    /// [`DropReason::MalformedIpv4`] if an option lies about its length.
    pub fn plan(frame: &[u8], mtu: usize) -> Result<Option<Self>, DropReason> {
        let (link, packet) =
            frame.split_first_chunk::<{ ethernet::HEADER_BYTES }>().ok_or(DropReason::MalformedIpv4)?;
        let ethertype = link.last_chunk::<2>();
        if ethertype == Some(&ethernet::ETHERTYPE_IPV6) {
            // Only its sender may cut it (RFC 8200 §4.5).
            let header = ipv6::Header::parse(packet).ok_or(DropReason::MalformedIpv6)?;
            return if header.total_bytes() <= mtu { Ok(None) } else { Err(DropReason::ExceedsMtu) };
        }
        let header = ipv4::Header::parse(packet).ok_or(DropReason::MalformedIpv4)?;
        if header.total_bytes() <= mtu {
            return Ok(None);
        }
        if header.is_unfragmentable() {
            return Err(DropReason::ExceedsMtu);
        }
        let octets = packet.get(..header.header_bytes()).ok_or(DropReason::MalformedIpv4)?;
        let headers = [PieceHeader::of_first(octets), PieceHeader::of_others(octets)];
        let [Some(first), Some(others)] = headers else { return Err(DropReason::MalformedIpv4) };
        let blocks = |header: &PieceHeader| mtu.saturating_sub(header.len) / BLOCK_BYTES * BLOCK_BYTES;
        let cut = Self {
            link: *link,
            headers: [first, others],
            data_bytes: [blocks(&first), blocks(&others)],
            total_bytes: header.total_bytes() - header.header_bytes(),
            offset_bytes: header.fragment_offset_bytes(),
            more: header.has_more_fragments(),
        };
        let [first_bytes, other_bytes] = cut.data_bytes;
        let is_wide_enough = first_bytes > 0 && other_bytes > 0 && cut.pieces() <= PIECES_MAX;
        if is_wide_enough { Ok(Some(cut)) } else { Err(DropReason::ExceedsMtu) }
    }

    /// Returns how many pieces there are.
    #[must_use]
    pub const fn pieces(&self) -> usize {
        let [first, others] = self.data_bytes;
        1 + self.total_bytes.saturating_sub(first).div_ceil(others)
    }

    /// Writes a piece of the packet in `frame` and returns its length; `None` if it does not fit `piece`.
    #[must_use]
    pub fn write(&self, number: usize, frame: &[u8], piece: &mut [u8]) -> Option<usize> {
        let [first, others] = &self.headers;
        let (from, header) = (self.start(number), if number == 0 { first } else { others });
        let data_at = ethernet::HEADER_BYTES + first.len + from;
        let data = frame.get(data_at..data_at + self.start(number + 1) - from)?;
        piece.get_mut(..ethernet::HEADER_BYTES)?.copy_from_slice(&self.link);
        let (place, rest) = piece.get_mut(ethernet::HEADER_BYTES..)?.split_at_mut_checked(header.len)?;
        self.write_header(number, place)?;
        rest.get_mut(..data.len())?.copy_from_slice(data);
        Some(ethernet::HEADER_BYTES + header.len + data.len())
    }

    /// Turns the packet in `frame` into its first piece and returns its length; the others are written by then.
    #[must_use]
    pub fn shorten(&self, frame: &mut [u8]) -> Option<usize> {
        let [first, _] = &self.headers;
        let header = frame.get_mut(ethernet::HEADER_BYTES..ethernet::HEADER_BYTES + first.len)?;
        self.write_header(0, header)?;
        Some(ethernet::HEADER_BYTES + first.len + self.start(1))
    }

    /// Writes the header of a piece; `place` is as long as that.
    fn write_header(&self, number: usize, place: &mut [u8]) -> Option<()> {
        let [first, others] = &self.headers;
        let header = if number == 0 { first } else { others };
        place.copy_from_slice(header.octets.get(..header.len)?);
        let (from, to) = (self.start(number), self.start(number + 1));
        let total_bytes = (header.len + to - from) as u16;
        let more = self.more || to < self.total_bytes;
        ipv4::Header::writable(place)?.become_piece(header.len, total_bytes, self.offset_bytes + from, more);
        let checksum = Sum::default().octets(place).checksum();
        ipv4::Header::writable(place)?.set_checksum(checksum);
        Some(())
    }

    /// Returns where the data of a piece starts in that of the packet.
    fn start(&self, number: usize) -> usize {
        let [first, others] = self.data_bytes;
        let start = if number == 0 { 0 } else { first + (number - 1) * others };
        start.min(self.total_bytes)
    }
}

impl PieceHeader {
    fn of_first(header: &[u8]) -> Option<Self> {
        let mut octets = [0; HEADER_BYTES_MAX];
        octets.get_mut(..header.len())?.copy_from_slice(header);
        Some(Self { octets, len: header.len() })
    }

    /// Leaves out the options that are only for the first; `None` if one lies about its length.
    fn of_others(header: &[u8]) -> Option<Self> {
        let (fixed, mut options) = header.split_at_checked(ipv4::HEADER_BYTES)?;
        let mut kept = Self::of_first(fixed)?;
        while let Some((kind, rest)) = options.split_first() {
            let bytes = match *kind {
                END_OF_LIST => break,
                NO_OPERATION => 1,
                _ => usize::from(*rest.first().filter(|bytes| **bytes >= 2)?),
            };
            let (option, behind) = options.split_at_checked(bytes)?;
            if kind & COPIED != 0 {
                kept.octets.get_mut(kept.len..kept.len + bytes)?.copy_from_slice(option);
                kept.len += bytes;
            }
            options = behind;
        }
        kept.len = kept.len.next_multiple_of(4);
        Some(kept)
    }
}
