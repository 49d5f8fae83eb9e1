//! A packet's facts, parsed once: everything later reads them from here.

use std::net::Ipv4Addr;

use crate::flows::Key;
use crate::fragments::Fragment;
use crate::net::{Protocol, ethernet, icmpv4, ipv4, tcp, udp};
use crate::verdict::DropReason;

/// What a packet carries, as far as we tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A TCP segment.
    Tcp(Key, tcp::Flags),
    /// A UDP datagram.
    Udp(Key),
    /// An ICMP Echo.
    Echo,
    /// An ICMP error: it quotes the packet that it is about.
    IcmpError,
    /// Another ICMP message.
    Icmp,
    /// A piece of a larger datagram that is not the first: it has no transport header.
    Fragment,
    /// Any other protocol.
    Other,
}

/// The facts of an IPv4 packet in an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The sender.
    pub source: Ipv4Addr,
    /// The receiver.
    pub destination: Ipv4Addr,
    /// Links it may still cross.
    pub ttl: u8,
    /// Where the transport header starts, in octets from the start of the frame.
    pub transport_offset: usize,
    /// Where the packet ends, in octets from the start of the frame; padding may follow.
    pub end: usize,
    /// Says whether its sender wants it in one piece or not at all.
    pub is_unfragmentable: bool,
    /// Says whether it is a piece of a larger datagram; [`Fragment::parse`] says which.
    pub is_fragment: bool,
    /// What it carries; of a first fragment, what its datagram carries.
    pub transport: Transport,
}

/// Why a frame gave no [`Packet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// Not IPv4: the kernel's business.
    Foreign,
    /// It lies about itself.
    Malformed(DropReason),
}

impl Packet {
    /// Parses a frame. What it returns agrees with the octets: every offset lies within the frame.
    ///
    /// # Errors
    /// [`Unparsed`] says what the frame is instead.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, Unparsed> {
        let (link, network) = frame.split_at_checked(ethernet::HEADER_BYTES).ok_or(Unparsed::Foreign)?;
        let link = ethernet::Header::parse(link).ok_or(Unparsed::Foreign)?;
        if link.ethertype != ethernet::ETHERTYPE_IPV4 {
            return Err(Unparsed::Foreign);
        }
        let header = ipv4::Header::parse(network).ok_or(Unparsed::Malformed(DropReason::MalformedIpv4))?;
        let payload = network
            .get(header.header_bytes()..header.total_bytes())
            .ok_or(Unparsed::Malformed(DropReason::MalformedIpv4))?;
        if !header.has_right_checksum(network) {
            return Err(Unparsed::Malformed(DropReason::MalformedIpv4));
        }
        let is_fragment = header.is_fragment();
        let transport = if is_fragment {
            Transport::parse_fragment(header, payload).map_err(Unparsed::Malformed)?
        } else {
            Transport::parse(header, payload).ok_or(Unparsed::Malformed(DropReason::MalformedTransport))?
        };
        Ok(Self {
            source: header.source(),
            destination: header.destination(),
            ttl: header.ttl,
            transport_offset: ethernet::HEADER_BYTES + header.header_bytes(),
            end: ethernet::HEADER_BYTES + header.total_bytes(),
            is_unfragmentable: header.is_unfragmentable(),
            is_fragment,
            transport,
        })
    }

    /// Returns the key of the packet's flow, if it is of a kind that has flows.
    #[must_use]
    pub const fn key(&self) -> Option<&Key> {
        match &self.transport {
            Transport::Tcp(key, _) | Transport::Udp(key) => Some(key),
            _ => None,
        }
    }

    /// Returns the length of the IP packet, in octets.
    #[must_use]
    pub const fn ip_bytes(&self) -> usize {
        self.end - ethernet::HEADER_BYTES
    }

    /// Says whether no sender can have this source address. Source: RFC 1122 §3.2.1.3, RFC 6890.
    #[must_use]
    pub const fn has_martian_source(&self) -> bool {
        let address = self.source;
        address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast()
    }
}

impl Transport {
    /// Parses what a fragment carries: the first the whole transport header (RFC 1858 §3), the others none.
    #[cold]
    fn parse_fragment(header: &ipv4::Header, payload: &[u8]) -> Result<Self, DropReason> {
        let fragment = Fragment::parse(header)?;
        if fragment.is_first() {
            let transport = if header.protocol == Protocol::Udp.number() {
                udp::Header::parse_first(payload)
                    .map(|start| Self::Udp(key(header, Protocol::Udp, start.source(), start.destination())))
            } else {
                Self::parse(header, payload)
            };
            return transport.ok_or(DropReason::TinyFragment);
        }
        if fragment.reaches_into_tcp_header() {
            return Err(DropReason::TinyFragment);
        }
        Ok(Self::Fragment)
    }

    #[inline]
    fn parse(header: &ipv4::Header, payload: &[u8]) -> Option<Self> {
        match header.protocol {
            ipv4::PROTOCOL_ICMP => {
                let message = icmpv4::Header::parse(payload)?;
                Some(match message.kind {
                    icmpv4::ECHO if message.code == 0 => Self::Echo,
                    kind if icmpv4::is_error(kind) => Self::IcmpError,
                    _ => Self::Icmp,
                })
            }
            number => match Protocol::from_number(number) {
                Some(Protocol::Tcp) => {
                    let segment = tcp::Header::parse(payload)?;
                    let key = key(header, Protocol::Tcp, segment.source(), segment.destination());
                    Some(Self::Tcp(key, segment.flags()))
                }
                Some(Protocol::Udp) => {
                    let datagram = udp::Header::parse(payload)?;
                    Some(Self::Udp(key(header, Protocol::Udp, datagram.source(), datagram.destination())))
                }
                Some(Protocol::Sctp) | None => Some(Self::Other),
            },
        }
    }
}

const fn key(
    header: &ipv4::Header,
    protocol: Protocol,
    source_port: crate::net::Port,
    destination_port: crate::net::Port,
) -> Key {
    Key {
        source: header.source(),
        destination: header.destination(),
        source_port,
        destination_port,
        protocol,
    }
}
