//! What becomes of a packet: the one enum of ways out and the one enum of drop reasons.

use crate::neighbours::NextHop;
use crate::net::Mac;
use crate::routes::DeviceIndex;

/// Where a packet that is not dropped goes. Its octets are already as they leave, but for the two MACs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Egress {
    /// To the next hop, out of a device that we serve.
    Forward {
        /// The device.
        device: DeviceIndex,
        /// The station on that link.
        next_hop: Mac,
    },
    /// Back to the station it came from, as an answer of `length` octets made of it.
    Answer {
        /// What kind of answer it is.
        answer: Answer,
        /// Octets of the frame.
        length: usize,
    },
    /// To the kernel, by the punt device.
    Punt,
    /// Waits until the kernel has resolved the next hop.
    Hold(NextHop),
}

/// An answer that we give in a Service's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// ICMP Echo Reply: people ping services to check them.
    EchoReply,
    /// TCP RST: nothing listens here (K19, K23), or the segment belongs to no connection.
    Reset,
    /// ICMP port unreachable: nothing listens here (K19, K23).
    PortUnreachable,
    /// ICMP time exceeded: the TTL ends here.
    TimeExceeded,
    /// ICMP fragmentation needed: the packet is longer than the next link allows and must not be cut.
    FragmentationNeeded,
}

/// A way out, or the reason why there is none.
pub type Verdict = Result<Egress, DropReason>;

/// Declares the reasons once: the variant, the counter's name and what it means.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet was dropped. Each reason is a counter of the same name.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the counter's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Returns what the reason means, for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The IPv4 header, its checksum, its length or its options do not agree with the octets received.
    MalformedIpv4 => "drop_malformed_ipv4",
    /// The IPv6 header, its length or its extension headers do not agree with the octets received.
    MalformedIpv6 => "drop_malformed_ipv6",
    /// A packet to a virtual address with more extension headers than we walk: 8, or 1024 octets.
    HeaderChainTooLong => "drop_header_chain_too_long",
    /// A routing header with segments left: the packet's last destination is not in its header (RFC 5095).
    RoutingHeader => "drop_routing_header",
    /// The TCP, UDP or ICMP header does not agree with the octets received.
    MalformedTransport => "drop_malformed_transport",
    /// A fragment without octets, of a length that is no multiple of 8 though more follow, or past 65535 octets.
    MalformedFragment => "drop_malformed_fragment",
    /// A first fragment without the whole transport header, or one that starts in it (RFC 1858, RFC 3128).
    TinyFragment => "drop_tiny_fragment",
    /// A fragment with octets that have come before and others, and all later ones of its datagram (RFC 5722).
    FragmentOverlap => "drop_fragment_overlap",
    /// A fragment that says otherwise where its datagram ends, and all later ones of that datagram.
    FragmentContradiction => "drop_fragment_contradiction",
    /// A fragment of which every octet has come before.
    FragmentDuplicate => "drop_fragment_duplicate",
    /// A later fragment of a datagram whose first was refused or dropped.
    FragmentRefused => "drop_fragment_refused",
    /// A fragment that waited in vain for the first of its datagram.
    FragmentTimeout => "drop_fragment_timeout",
    /// A fragment from a source of which too many wait already.
    FragmentSourceFull => "drop_fragment_source_full",
    /// A fragment that waited for the first of its datagram and gave way to newer ones.
    FragmentEvicted => "drop_fragment_evicted",
    /// The worker that a fragment belongs to does not take more from this one at the moment.
    HandOverFull => "drop_hand_over_full",
    /// A protocol that no Service can have, to a virtual address.
    UnsupportedProtocol => "drop_unsupported_protocol",
    /// An ICMP message to a virtual address that is no Echo and no error about a flow.
    UnsupportedIcmp => "drop_unsupported_icmp",
    /// The checksum of an ICMP error is wrong.
    IcmpChecksum => "drop_icmp_checksum",
    /// An ICMP error that does not fit one frame; none may be so long (RFC 1812 4.3.2.3, RFC 4443 2.4).
    LongIcmpError => "drop_long_icmp_error",
    /// The packet that an ICMP error quotes is cut before its ports, or lies about its lengths.
    MalformedQuote => "drop_malformed_quote",
    /// An ICMP error about an ICMP error, which nobody may send (RFC 1122 3.2.2).
    NestedIcmpError => "drop_nested_icmp_error",
    /// A source quench about a flow; nobody sends them any more (RFC 6633).
    SourceQuench => "drop_source_quench",
    /// A redirect about a flow: it names a router for an address that was translated.
    IcmpRedirect => "drop_icmp_redirect",
    /// The source address can belong to no sender (RFC 1122 3.2.1.3, RFC 6890).
    MartianSource => "drop_martian_source",
    /// The source address means something on its own link only (RFC 4291 2.5.6).
    BeyondScope => "drop_beyond_scope",
    /// The TTL or hop limit ends here, and it is not for us to say so.
    TtlExceeded => "drop_ttl_exceeded",
    /// The packet is longer than the next link allows, and it is not for us to say so.
    ExceedsMtu => "drop_exceeds_mtu",
    /// An address of a service CIDR that no Service has (K23).
    UnallocatedAddress => "drop_unallocated_address",
    /// The client is in none of the networks that the Service admits to its load-balancer address (K22).
    SourceRange => "drop_source_range",
    /// The Service has endpoints, but none on this node, and its traffic policy is Local (K19).
    NoLocalEndpoint => "drop_no_local_endpoint",
    /// A packet of an endpoint that its flow has left (K27).
    LateReply => "drop_late_reply",
    /// A fragment of an SCTP packet whose port would change: the checksum depends on how long the whole is.
    SctpFragment => "drop_sctp_fragment",
    /// A RST or an ABORT that belongs to no flow; neither is answered (RFC 9293 3.10.7.1, RFC 9260 8.4).
    StrayReset => "drop_stray_reset",
    /// The Service has endpoints of the other address family only.
    AddressFamily => "drop_address_family",
    /// The chosen endpoint is the client itself, and masquerade is off or the kernel would send the packet on.
    Hairpin => "drop_hairpin",
    /// The kernel has no route, or one that rejects.
    NoRoute => "drop_no_route",
    /// The kernel could not resolve the next hop.
    NeighbourFailed => "drop_neighbour_failed",
    /// The next hop did not resolve while the packet was held.
    HoldTimeout => "drop_hold_timeout",
    /// Too many packets were waiting for a next hop.
    HoldFull => "drop_hold_full",
    /// The flow table has no room.
    FlowTableFull => "drop_flow_table_full",
    /// Another worker was inserting a flow with the same key at the same moment.
    FlowContended => "drop_flow_contended",
    /// No source port was free that tells the reply apart.
    NoSourcePort => "drop_no_source_port",
    /// Every masquerade port is in use to that destination.
    MasqueradePortsExhausted => "drop_masquerade_ports_exhausted",
    /// The search for a free masquerade port was broken off; the next packet to that destination goes on with it.
    MasqueradeSearchPaused => "drop_masquerade_search_paused",
    /// The device that the packet would leave by has no address to masquerade with.
    NoMasqueradeAddress => "drop_no_masquerade_address",
    /// A packet longer than 9,216 octets, or in more than 8 frames: as a sender that cuts in its device (TSO) leaves them.
    OversizedPacket => "drop_oversized_packet",
    /// A packet in several frames whose first has fewer than 1,536 octets.
    ShortFirstFrame => "drop_short_first_frame",
    /// A packet in several frames, and the device that it would leave by takes each in one.
    NoMultiBuffer => "drop_no_multi_buffer",
    /// The transmit ring of the device was full.
    TxRingFull => "drop_tx_ring_full",
    /// No socket of this worker leaves by that device.
    NoTxQueue => "drop_no_tx_queue",
    /// No frame was free for the pieces of a packet too long for its link.
    NoFrame => "drop_no_frame",
    /// The answer did not fit the frame.
    AnswerTooLong => "drop_answer_too_long",
    /// An ICMP error or a RST of ours was due, but too many had been sent just before.
    IcmpRateLimited => "drop_icmp_rate_limited",
}
