//! IPv6 (RFC 8200) with ICMPv6 (RFC 4443).

use std::net::Ipv6Addr;

use super::{Family, IcmpError, Quoted};
use crate::flows::{FlowTable, FlowTables};
use crate::fragments::{DatagramId, Fragment};
use crate::masquerade::{PortSearch, PortSearches};
use crate::net::checksum::Difference;
use crate::net::header_chain::{BrokenChain, FRAGMENT_BYTES, FragmentHeader, HeaderChain};
use crate::net::{ethernet, icmpv6, ipv6};
use crate::packet::{Packet, Transport};
use crate::verdict::DropReason;

impl Family for Ipv6Addr {
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const HEADER_BYTES: usize = ipv6::HEADER_BYTES;
    const ICMP: u8 = ipv6::PROTOCOL_ICMPV6;
    /// Source: RFC 4443 §2.4 (c), "without making the error message packet exceed the minimum IPv6 MTU".
    const ICMP_ERROR_BYTES: usize = ipv6::MINIMUM_MTU;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const ERRORS_ABOUT_LATER_FRAGMENTS: bool = true;
    const MALFORMED: DropReason = DropReason::MalformedIpv6;

    #[inline]
    fn flows(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.ipv6
    }

    fn affinity(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.affinity.ipv6
    }

    fn tombstones(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.tombstones.ipv6
    }

    #[inline]
    fn ports(searches: &mut PortSearches) -> &mut PortSearch<Self> {
        &mut searches.ipv6
    }

    #[inline(always)]
    fn parse_plain(network: &[u8]) -> Option<Packet<Self>> {
        let header = ipv6::Header::parse(network)?;
        let payload = network.get(ipv6::HEADER_BYTES..header.total_bytes())?;
        Some(Packet {
            addresses: header.addresses(),
            ttl: header.hop_limit,
            transport_offset: ethernet::HEADER_BYTES + ipv6::HEADER_BYTES,
            end: ethernet::HEADER_BYTES + header.total_bytes(),
            is_unfragmentable: true,
            is_fragment: false,
            transport: Transport::parse_plain(header.next_header, payload)?,
        })
    }

    fn parse(network: &[u8], beyond: usize) -> Result<Packet<Self>, DropReason> {
        let header = ipv6::Header::parse_cut(network).ok_or(DropReason::MalformedIpv6)?;
        let missing = header.total_bytes().saturating_sub(network.len());
        if missing > beyond {
            return Err(DropReason::MalformedIpv6);
        }
        let chain = match HeaderChain::parse(header, network) {
            Ok(chain) => chain,
            Err(BrokenChain::TooLong) => return Ok(hidden(header)),
            Err(broken) => return Err(refusal(broken)),
        };
        if chain.segments_left > 0 {
            return Err(DropReason::RoutingHeader);
        }
        let payload = network
            .get(chain.upper_offset..header.total_bytes() - missing)
            .ok_or(DropReason::MalformedIpv6)?;
        let transport = match chain.fragment.filter(|_| chain.is_fragment()) {
            Some(piece) => {
                let fragment = fragment(header, &piece)?;
                Transport::parse_fragment::<Self>(&fragment, chain.protocol, payload)?
            }
            None if missing > 0 => Transport::parse_cut::<Self>(chain.protocol, payload, missing)?,
            None => {
                Transport::parse::<Self>(chain.protocol, payload).ok_or(DropReason::MalformedTransport)?
            }
        };
        Ok(Packet {
            addresses: header.addresses(),
            ttl: header.hop_limit,
            transport_offset: ethernet::HEADER_BYTES + chain.upper_offset,
            end: ethernet::HEADER_BYTES + header.total_bytes(),
            is_unfragmentable: true,
            is_fragment: chain.is_fragment(),
            transport,
        })
    }

    fn message(message: &[u8]) -> Option<Transport> {
        let header = icmpv6::Header::parse(message)?;
        Some(match header.kind {
            icmpv6::ECHO_REQUEST if header.code == 0 => Transport::Echo,
            kind if icmpv6::is_error(kind) => Transport::IcmpError,
            _ => Transport::Icmp,
        })
    }

    fn fragment(network: &[u8]) -> Result<Fragment, DropReason> {
        let header = ipv6::Header::parse_cut(network).ok_or(DropReason::MalformedIpv6)?;
        let chain = HeaderChain::parse(header, network).map_err(refusal)?;
        fragment(header, &chain.fragment.ok_or(DropReason::MalformedFragment)?)
    }

    fn addresses(network: &[u8]) -> Option<(Self, Self, u8)> {
        ipv6::Header::parse_cut(network)
            .map(|header| (header.source(), header.destination(), header.hop_limit))
    }

    fn readdress(network: &mut [u8], source: Self, destination: Self, _: Difference) -> Option<()> {
        ipv6::Header::writable(network)?.readdress(source, destination);
        Some(())
    }

    #[inline]
    fn translate(network: &mut [u8], source: Self, destination: Self, _: Difference) -> Option<()> {
        ipv6::Header::writable(network)?.translate(source, destination);
        Some(())
    }

    fn turn_round(network: &mut [u8]) -> Option<()> {
        ipv6::Header::writable(network)?.turn_round();
        Some(())
    }

    /// Leaves out the extension headers, which were for the way here; those of a fragment stay, since every fragment
    /// has them. That takes all of the packet in one frame: no octet may be left where it is.
    fn answer_echo(network: &mut [u8], message_at: usize, end: usize, is_fragment: bool) -> Option<usize> {
        icmpv6::Header::writable(network.get_mut(message_at..)?)?.answer_echo();
        if message_at == ipv6::HEADER_BYTES || is_fragment {
            Self::turn_round(network)?;
            return Some(end);
        }
        let message_bytes = network.get(message_at..end)?.len();
        let (source, destination, _) = Self::addresses(network)?;
        network.copy_within(message_at..end, ipv6::HEADER_BYTES);
        Self::originate(network, destination, source, Self::ICMP, message_bytes)?;
        Some(ipv6::HEADER_BYTES + message_bytes)
    }

    fn originate(
        network: &mut [u8],
        source: Self,
        destination: Self,
        protocol: u8,
        payload_bytes: usize,
    ) -> Option<()> {
        let total_bytes = u16::try_from(ipv6::HEADER_BYTES + payload_bytes).ok()?;
        *ipv6::Header::writable(network)? =
            ipv6::Header::originate(source, destination, protocol, total_bytes);
        Some(())
    }

    fn icmp_error(error: IcmpError) -> [u8; 8] {
        let header = match error {
            IcmpError::PortUnreachable => {
                icmpv6::Header::new(icmpv6::DESTINATION_UNREACHABLE, icmpv6::PORT_UNREACHABLE)
            }
            IcmpError::TimeExceeded => {
                icmpv6::Header::new(icmpv6::TIME_EXCEEDED, icmpv6::EXCEEDED_IN_TRANSIT)
            }
            IcmpError::TooBig(mtu) => icmpv6::Header::packet_too_big(u32::try_from(mtu).unwrap_or(u32::MAX)),
        };
        zerocopy::transmute!(header)
    }

    fn is_icmp_error(kind: u8) -> bool {
        icmpv6::is_error(kind)
    }

    fn refused_error(_kind: u8) -> Option<DropReason> {
        None
    }

    fn quoted(quote: &[u8]) -> Result<Option<Quoted<Self>>, DropReason> {
        let header = ipv6::Header::parse_cut(quote).ok_or(DropReason::MalformedQuote)?;
        let chain = HeaderChain::parse(header, quote).map_err(|_| DropReason::MalformedQuote)?;
        let is_first = chain.fragment.is_none_or(|fragment| fragment.is_first());
        Ok((is_first && chain.segments_left == 0).then(|| Quoted {
            source: header.source(),
            destination: header.destination(),
            protocol: chain.protocol,
            transport_at: chain.upper_offset,
            end: header.total_bytes(),
        }))
    }
}

/// Makes the packet of which only the addresses are known.
#[cold]
fn hidden(header: &ipv6::Header) -> Packet<Ipv6Addr> {
    Packet {
        addresses: header.addresses(),
        ttl: header.hop_limit,
        transport_offset: ethernet::HEADER_BYTES + ipv6::HEADER_BYTES,
        end: ethernet::HEADER_BYTES + header.total_bytes(),
        is_unfragmentable: true,
        is_fragment: false,
        transport: Transport::Hidden,
    }
}

/// Reads the facts of a fragment whose headers are sound.
fn fragment(header: &ipv6::Header, piece: &FragmentHeader) -> Result<Fragment, DropReason> {
    let datagram = DatagramId {
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: 0,
        identification: piece.identification,
    };
    let data_at = piece.at + FRAGMENT_BYTES;
    let unfragmented = piece.at - ipv6::HEADER_BYTES;
    Fragment::new(datagram, piece.offset_bytes, header.total_bytes() - data_at, unfragmented, piece.more)
}

/// Says why a packet is dropped whose header chain is broken.
#[cold]
fn refusal(broken: BrokenChain) -> DropReason {
    match broken {
        BrokenChain::TooLong => DropReason::HeaderChainTooLong,
        BrokenChain::Truncated | BrokenChain::Misplaced => DropReason::MalformedIpv6,
    }
}
