//! IPv4 (RFC 791) with ICMP (RFC 792).

use std::net::Ipv4Addr;

use super::{Family, IcmpError, Quoted};
use crate::flows::{FlowTable, FlowTables};
use crate::fragments::{DatagramId, Fragment};
use crate::masquerade::{PortSearch, PortSearches};
use crate::net::checksum::Difference;
use crate::net::{ethernet, icmpv4, ipv4};
use crate::packet::{Packet, Transport};
use crate::verdict::DropReason;

impl Family for Ipv4Addr {
    const ETHERTYPE: [u8; 2] = [0x08, 0x00];
    const HEADER_BYTES: usize = ipv4::HEADER_BYTES;
    const ICMP: u8 = ipv4::PROTOCOL_ICMP;
    /// Source: RFC 1812 §4.3.2.3, "without exceeding 576 bytes".
    const ICMP_ERROR_BYTES: usize = 576;
    const ICMP_COVERS_ADDRESSES: bool = false;
    const ERRORS_ABOUT_LATER_FRAGMENTS: bool = false;
    const MALFORMED: DropReason = DropReason::MalformedIpv4;

    #[inline]
    fn flows(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.ipv4
    }

    fn affinity(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.affinity.ipv4
    }

    fn tombstones(tables: &FlowTables) -> &FlowTable<Self> {
        &tables.tombstones.ipv4
    }

    #[inline]
    fn ports(searches: &mut PortSearches) -> &mut PortSearch<Self> {
        &mut searches.ipv4
    }

    #[inline(always)]
    fn parse_plain(network: &[u8]) -> Option<Packet<Self>> {
        let header = ipv4::Header::parse(network)?;
        if header.header_bytes() != ipv4::HEADER_BYTES
            || header.is_fragment()
            || !header.has_right_checksum(network)
        {
            return None;
        }
        let payload = network.get(ipv4::HEADER_BYTES..header.total_bytes())?;
        Some(Packet {
            addresses: header.addresses(),
            ttl: header.ttl,
            transport_offset: ethernet::HEADER_BYTES + ipv4::HEADER_BYTES,
            end: ethernet::HEADER_BYTES + header.total_bytes(),
            is_unfragmentable: header.is_unfragmentable(),
            is_fragment: false,
            transport: Transport::parse_plain(header.protocol, payload)?,
        })
    }

    fn parse(network: &[u8], beyond: usize) -> Result<Packet<Self>, DropReason> {
        let header = ipv4::Header::parse_cut(network).ok_or(DropReason::MalformedIpv4)?;
        let missing = header.total_bytes().saturating_sub(network.len());
        if missing > beyond {
            return Err(DropReason::MalformedIpv4);
        }
        let payload = network
            .get(header.header_bytes()..header.total_bytes() - missing)
            .ok_or(DropReason::MalformedIpv4)?;
        if !header.has_right_checksum(network) {
            return Err(DropReason::MalformedIpv4);
        }
        let is_fragment = header.is_fragment();
        let transport = if is_fragment {
            Transport::parse_fragment::<Self>(&fragment(header)?, header.protocol, payload)?
        } else if missing > 0 {
            Transport::parse_cut::<Self>(header.protocol, payload, missing)?
        } else {
            Transport::parse::<Self>(header.protocol, payload).ok_or(DropReason::MalformedTransport)?
        };
        Ok(Packet {
            addresses: header.addresses(),
            ttl: header.ttl,
            transport_offset: ethernet::HEADER_BYTES + header.header_bytes(),
            end: ethernet::HEADER_BYTES + header.total_bytes(),
            is_unfragmentable: header.is_unfragmentable(),
            is_fragment,
            transport,
        })
    }

    fn message(message: &[u8]) -> Option<Transport> {
        let header = icmpv4::Header::parse(message)?;
        Some(match header.kind {
            icmpv4::ECHO if header.code == 0 => Transport::Echo,
            kind if icmpv4::is_error(kind) => Transport::IcmpError,
            _ => Transport::Icmp,
        })
    }

    fn fragment(network: &[u8]) -> Result<Fragment, DropReason> {
        fragment(ipv4::Header::parse_cut(network).ok_or(DropReason::MalformedIpv4)?)
    }

    fn addresses(network: &[u8]) -> Option<(Self, Self, u8)> {
        ipv4::Header::parse_cut(network).map(|header| (header.source(), header.destination(), header.ttl))
    }

    fn readdress(network: &mut [u8], source: Self, destination: Self, difference: Difference) -> Option<()> {
        ipv4::Header::writable(network)?.readdress(source, destination, difference);
        Some(())
    }

    #[inline(always)]
    fn translate(network: &mut [u8], source: Self, destination: Self, difference: Difference) -> Option<()> {
        ipv4::Header::writable(network)?.translate(source, destination, difference);
        Some(())
    }

    fn turn_round(network: &mut [u8]) -> Option<()> {
        ipv4::Header::writable(network)?.turn_round();
        Some(())
    }

    fn answer_echo(network: &mut [u8], message_at: usize, end: usize, _is_fragment: bool) -> Option<usize> {
        Self::turn_round(network)?;
        icmpv4::Header::writable(network.get_mut(message_at..)?)?.answer_echo();
        Some(end)
    }

    fn originate(
        network: &mut [u8],
        source: Self,
        destination: Self,
        protocol: u8,
        payload_bytes: usize,
    ) -> Option<()> {
        let total_bytes = u16::try_from(ipv4::HEADER_BYTES + payload_bytes).ok()?;
        *ipv4::Header::writable(network)? =
            ipv4::Header::originate(source, destination, protocol, total_bytes);
        Some(())
    }

    fn icmp_error(error: IcmpError) -> [u8; 8] {
        let header = match error {
            IcmpError::PortUnreachable => {
                icmpv4::Header::new(icmpv4::DESTINATION_UNREACHABLE, icmpv4::PORT_UNREACHABLE)
            }
            IcmpError::TimeExceeded => {
                icmpv4::Header::new(icmpv4::TIME_EXCEEDED, icmpv4::EXCEEDED_IN_TRANSIT)
            }
            IcmpError::TooBig(mtu) => {
                icmpv4::Header::fragmentation_needed(u16::try_from(mtu).unwrap_or(u16::MAX))
            }
        };
        zerocopy::transmute!(header)
    }

    fn is_icmp_error(kind: u8) -> bool {
        icmpv4::is_error(kind)
    }

    fn refused_error(kind: u8) -> Option<DropReason> {
        match kind {
            icmpv4::SOURCE_QUENCH => Some(DropReason::SourceQuench),
            icmpv4::REDIRECT => Some(DropReason::IcmpRedirect),
            _ => None,
        }
    }

    fn quoted(quote: &[u8]) -> Result<Option<Quoted<Self>>, DropReason> {
        let header = ipv4::Header::parse_cut(quote).ok_or(DropReason::MalformedQuote)?;
        Ok(header.is_first().then(|| Quoted {
            source: header.source(),
            destination: header.destination(),
            protocol: header.protocol,
            transport_at: header.header_bytes(),
            end: header.total_bytes(),
        }))
    }
}

/// Reads the facts from the sound header of a fragment.
fn fragment(header: &ipv4::Header) -> Result<Fragment, DropReason> {
    let [a, b] = header.identification;
    let datagram = DatagramId {
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: header.protocol,
        identification: [0, 0, a, b],
    };
    Fragment::new(
        datagram,
        header.fragment_offset_bytes(),
        header.total_bytes() - header.header_bytes(),
        header.header_bytes(),
        header.has_more_fragments(),
    )
}
