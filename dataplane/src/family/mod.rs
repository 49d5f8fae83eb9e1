//! What IPv4 and IPv6 do each in their own way on the packet path; everything else is one code for both.
//!
//! A family is named by the type of its addresses, so that a packet of one family never meets the flows of the other.

mod ipv4;
mod ipv6;

use crate::flows::{FlowTable, FlowTables};
use crate::fragments::Fragment;
use crate::masquerade::{PortSearch, PortSearches};
use crate::net::Address;
use crate::net::checksum::{Difference, Sum};
use crate::packet::{Packet, Transport};
use crate::verdict::DropReason;

/// An ICMP error that we originate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// Nothing listens at the port.
    PortUnreachable,
    /// The TTL or hop limit ends here.
    TimeExceeded,
    /// The packet is too long for the next link, whose MTU in octets this is.
    TooBig(usize),
}

/// The packet that an ICMP error quotes, as far as its headers are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted<A> {
    /// Its sender.
    pub source: A,
    /// Its receiver.
    pub destination: A,
    /// What it carries (IANA protocol numbers).
    pub protocol: u8,
    /// Where its transport header starts, in octets from its own start.
    pub transport_at: usize,
    /// Where it ends, in octets from its own start; the quote may be shorter, or go on with what is not of the packet.
    pub end: usize,
}

/// An address family on the packet path. All functions over octets take them from the start of the IP header, and
/// return `None` only where the octets are not those of a packet that was parsed before.
pub trait Family: Address {
    /// What says so in an Ethernet header.
    const ETHERTYPE: [u8; 2];
    /// Octets of a header without options or extension headers.
    const HEADER_BYTES: usize;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// Longest IP packet that carries an ICMP error, in octets.
    const ICMP_ERROR_BYTES: usize;
    /// Says whether the checksum of ICMP covers both addresses (RFC 4443 §2.3).
    const ICMP_COVERS_ADDRESSES: bool;
    /// Says whether ICMP errors may be about fragments other than the first (RFC 1122 §3.2.2: no; RFC 4443 §2.4: yes).
    const ERRORS_ABOUT_LATER_FRAGMENTS: bool;
    /// What is said of a packet whose headers lie.
    const MALFORMED: DropReason;

    /// Returns the flows of this family.
    fn flows(tables: &FlowTables) -> &FlowTable<Self>;

    /// Returns the endpoints that clients of this family are bound to.
    fn affinity(tables: &FlowTables) -> &FlowTable<Self>;

    /// Returns the replies of this family that come too late.
    fn tombstones(tables: &FlowTables) -> &FlowTable<Self>;

    /// Returns the port search of this family.
    fn ports(searches: &mut PortSearches) -> &mut PortSearch<Self>;

    /// Parses a packet of which `beyond` octets more are in other frames; its headers are all here.
    ///
    /// # Errors
    /// In what the packet lies about itself.
    fn parse(network: &[u8], beyond: usize) -> Result<Packet<Self>, DropReason>;

    /// Parses what nearly all packets are: TCP or UDP right behind a header of [`Family::HEADER_BYTES`], in one piece and
    /// whole; `None` of any other, for [`Family::parse`] to say more.
    fn parse_plain(network: &[u8]) -> Option<Packet<Self>>;

    /// Says what an ICMP message is.
    fn message(message: &[u8]) -> Option<Transport>;

    /// Reads the facts of a packet that was found to be a fragment; only its headers need to be there.
    ///
    /// # Errors
    /// In what it lies about itself.
    fn fragment(network: &[u8]) -> Result<Fragment, DropReason>;

    /// Reads source, destination and the links that the packet may still cross.
    fn addresses(network: &[u8]) -> Option<(Self, Self, u8)>;

    /// Replaces both addresses; `difference` is that of the addresses.
    fn readdress(network: &mut [u8], source: Self, destination: Self, difference: Difference) -> Option<()>;

    /// Replaces both addresses and takes one from the TTL or hop limit.
    fn translate(network: &mut [u8], source: Self, destination: Self, difference: Difference) -> Option<()>;

    /// Exchanges sender and receiver, for an answer in place that starts anew.
    fn turn_round(network: &mut [u8]) -> Option<()>;

    /// Turns an Echo, which starts and ends where told, into its Echo Reply; returns where that ends.
    fn answer_echo(network: &mut [u8], message_at: usize, end: usize, is_fragment: bool) -> Option<usize>;

    /// Writes the header of a packet of ours.
    fn originate(
        network: &mut [u8],
        source: Self,
        destination: Self,
        protocol: u8,
        payload_bytes: usize,
    ) -> Option<()>;

    /// Makes the first octets of an ICMP error; the checksum is left zero.
    fn icmp_error(error: IcmpError) -> [u8; 8];

    /// Says whether messages of a type are errors, which quote the packet that they are about.
    fn is_icmp_error(kind: u8) -> bool;

    /// Says why errors of a type about a flow are dropped, if they are.
    fn refused_error(kind: u8) -> Option<DropReason>;

    /// Reads the headers of a quoted packet, which may be cut short behind them; `None` if they lead to no transport
    /// header.
    ///
    /// # Errors
    /// If they lie, or are cut.
    fn quoted(quote: &[u8]) -> Result<Option<Quoted<Self>>, DropReason>;

    /// Sums what the checksum of an ICMP message covers besides the message.
    #[must_use]
    fn icmp_sum(source: Self, destination: Self, message_bytes: usize) -> Sum {
        if Self::ICMP_COVERS_ADDRESSES {
            crate::net::checksum::pseudo_header(source, destination, Self::ICMP, message_bytes as u16)
        } else {
            Sum::default()
        }
    }
}
