//! A packet's facts, parsed once: everything later reads them from here.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::family::Family;
use crate::flows::Key;
use crate::fragments::Fragment;
use crate::net::{Address, Ports, Protocol, ethernet, sctp, tcp, udp};
use crate::verdict::DropReason;

/// What a packet carries, as far as we tell apart.
///
/// Those with ports have them at the same place, and are numbered as their protocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Transport {
    /// A TCP segment.
    Tcp(Ports, tcp::Flags) = Protocol::Tcp.number(),
    /// A UDP datagram.
    Udp(Ports) = Protocol::Udp.number(),
    /// An SCTP packet.
    Sctp(Ports, sctp::Chunks) = Protocol::Sctp.number(),
    /// An ICMP Echo.
    Echo = 0,
    /// An ICMP error: it quotes the packet that it is about.
    IcmpError,
    /// Another ICMP message.
    Icmp,
    /// A piece of a larger datagram that is not the first: it has no transport header.
    Fragment,
    /// More extension headers than we walk hide what it is.
    Hidden,
    /// Any other protocol.
    Other,
}

/// The facts of an IP packet in an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<A: Address = Ipv4Addr> {
    /// The sender and the receiver, packed by [`Address::pair`].
    pub addresses: A::Pair,
    /// Links it may still cross: the TTL, or the hop limit.
    pub ttl: u8,
    /// Where the transport header starts, in octets from the start of the frame.
    pub transport_offset: usize,
    /// Where the packet ends, in octets from the start of the frame; padding may follow. Behind the frame's end if the
    /// packet goes on in others.
    pub end: usize,
    /// Says whether no router may cut it: its sender does not want it, or it is IPv6.
    pub is_unfragmentable: bool,
    /// Says whether it is a piece of a larger datagram; [`Fragment::of_frame`] says which.
    pub is_fragment: bool,
    /// What it carries; of a first fragment, what its datagram carries.
    pub transport: Transport,
}

/// A packet of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// RFC 791.
    Ipv4(Packet<Ipv4Addr>),
    /// RFC 8200.
    Ipv6(Packet<Ipv6Addr>),
}

/// Why a frame gave no [`Packet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// Neither IPv4 nor IPv6: the kernel's business.
    Foreign,
    /// It lies about itself.
    Malformed(DropReason),
}

impl Parsed {
    /// Parses a frame. What it returns agrees with the octets: every offset lies within the frame.
    ///
    /// # Errors
    /// [`Unparsed`] says what the frame is instead.
    pub fn parse(frame: &[u8]) -> Result<Self, Unparsed> {
        Self::parse_beyond(frame, 0)
    }

    /// Parses the first frame of a packet that goes on for `beyond` octets in others, where no header may be.
    ///
    /// Every offset but [`Packet::end`] lies within the first frame.
    ///
    /// # Errors
    /// As [`Self::parse`]; and [`DropReason::LongIcmpError`].
    #[cold]
    pub fn parse_first(frame: &[u8], beyond: usize) -> Result<Self, Unparsed> {
        Self::parse_beyond(frame, beyond)
    }

    fn parse_beyond(frame: &[u8], beyond: usize) -> Result<Self, Unparsed> {
        let link = ethernet::Header::parse(frame).ok_or(Unparsed::Foreign)?;
        match link.ethertype {
            ethernet::ETHERTYPE_IPV4 => {
                Packet::parse(frame, beyond).map(Self::Ipv4).map_err(Unparsed::Malformed)
            }
            ethernet::ETHERTYPE_IPV6 => {
                Packet::parse(frame, beyond).map(Self::Ipv6).map_err(Unparsed::Malformed)
            }
            _ => Err(Unparsed::Foreign),
        }
    }
}

impl<A: Family> Packet<A> {
    /// Parses a frame whose link header names this family, of a packet with `beyond` octets more in others.
    ///
    /// # Errors
    /// In what the packet lies about itself.
    pub fn parse(frame: &[u8], beyond: usize) -> Result<Self, DropReason> {
        A::parse(frame.get(ethernet::HEADER_BYTES..).ok_or(A::MALFORMED)?, beyond)
    }

    /// Parses what nearly all frames of this family are ([`Family::parse_plain`]), as [`Parsed::parse`] would; `None` of any
    /// other.
    // Of many callers or more cases, the facts would be handed on by memory and read again at once.
    #[inline(always)]
    pub fn parse_plain(frame: &[u8]) -> Option<Self> {
        let (link, network) = ethernet::Header::split(frame)?;
        if link.ethertype != A::ETHERTYPE {
            return None;
        }
        A::parse_plain(network)
    }
}

impl<A: Address> Packet<A> {
    /// Returns the key of the packet's flow, if it is of a kind that has flows.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<Key<A>> {
        let (ports, protocol) = match &self.transport {
            Transport::Tcp(ports, _) => (ports, Protocol::Tcp),
            Transport::Udp(ports) => (ports, Protocol::Udp),
            Transport::Sctp(ports, _) => (ports, Protocol::Sctp),
            _ => return None,
        };
        Some(Key::of(self.addresses, *ports, protocol))
    }

    /// Returns the sender.
    #[inline]
    #[must_use]
    pub fn source(&self) -> A {
        A::unpair(self.addresses).0
    }

    /// Returns the receiver.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> A {
        A::unpair(self.addresses).1
    }

    /// Returns the length of the IP packet, in octets.
    #[must_use]
    pub const fn ip_bytes(&self) -> usize {
        self.end - ethernet::HEADER_BYTES
    }
}

impl Transport {
    /// Parses the transport headers that nearly all packets have.
    #[inline(always)]
    pub(crate) fn parse_plain(protocol: u8, payload: &[u8]) -> Option<Self> {
        match Protocol::from_number(protocol) {
            Some(Protocol::Udp) => udp::Header::parse(payload).map(|datagram| Self::Udp(datagram.ports())),
            Some(Protocol::Tcp) => {
                tcp::Header::parse(payload).map(|segment| Self::Tcp(segment.ports(), segment.flags()))
            }
            _ => None,
        }
    }

    /// Parses what a packet carries that is no fragment; `payload` follows the last IP header.
    pub(crate) fn parse<A: Family>(protocol: u8, payload: &[u8]) -> Option<Self> {
        match Protocol::from_number(protocol) {
            Some(Protocol::Tcp | Protocol::Udp) => Self::parse_plain(protocol, payload),
            Some(Protocol::Sctp) => Self::sctp(payload, sctp::Chunks::parse(payload)?),
            None if protocol == A::ICMP => A::message(payload),
            None => Some(Self::Other),
        }
    }

    /// Parses what a packet carries whose last `missing` octets are in other frames.
    ///
    /// Of SCTP the chunks that begin here are known; those that follow a chunk which reaches into another frame are not
    /// looked at. An ICMP error is refused: its checksum has to be looked at, and none may be so long (RFC 1812 §4.3.2.3,
    /// RFC 4443 §2.4).
    #[cold]
    pub(crate) fn parse_cut<A: Family>(
        protocol: u8,
        payload: &[u8],
        missing: usize,
    ) -> Result<Self, DropReason> {
        let transport = match Protocol::from_number(protocol) {
            Some(Protocol::Udp) => {
                udp::Header::parse_cut(payload, missing).map(|datagram| Self::Udp(datagram.ports()))
            }
            Some(Protocol::Sctp) => {
                sctp::Chunks::parse_first(payload).and_then(|chunks| Self::sctp(payload, chunks))
            }
            _ => Self::parse::<A>(protocol, payload),
        };
        match transport {
            Some(Self::IcmpError) => Err(DropReason::LongIcmpError),
            Some(transport) => Ok(transport),
            None => Err(DropReason::MalformedTransport),
        }
    }

    fn sctp(payload: &[u8], chunks: sctp::Chunks) -> Option<Self> {
        Some(Self::Sctp(sctp::Header::parse(payload)?.ports(), chunks))
    }

    /// Parses what a fragment carries: the first the whole transport header (RFC 1858 §3, RFC 7112 §5), the others
    /// none.
    #[cold]
    pub(crate) fn parse_fragment<A: Family>(
        fragment: &Fragment,
        protocol: u8,
        payload: &[u8],
    ) -> Result<Self, DropReason> {
        if fragment.is_first() {
            let transport = match Protocol::from_number(protocol) {
                Some(Protocol::Udp) => {
                    udp::Header::parse_first(payload).map(|start| Self::Udp(start.ports()))
                }
                Some(Protocol::Sctp) => {
                    sctp::Chunks::parse_first(payload).and_then(|chunks| Self::sctp(payload, chunks))
                }
                _ => Self::parse::<A>(protocol, payload),
            };
            return transport.ok_or(DropReason::TinyFragment);
        }
        if fragment.reaches_into_tcp_header() {
            return Err(DropReason::TinyFragment);
        }
        Ok(Self::Fragment)
    }
}
