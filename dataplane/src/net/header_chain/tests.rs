use super::*;
use etherparse::{IpNumber, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, Ipv6Header};
use proptest::collection::vec;
use proptest::prelude::*;

/// One extension header to be written: its kind, octets behind the fixed ones, and what a special field holds.
#[derive(Clone, Debug)]
enum Piece {
    /// Hop-by-hop, destination options or AH, with that many units of content.
    Plain(u8, u8),
    /// Routing with units of content and segments left.
    Routing(u8, u8),
    /// Fragment: offset in blocks, more.
    Fragment(u16, bool),
}

impl Piece {
    const fn kind(&self) -> u8 {
        match self {
            Self::Plain(kind, _) => *kind,
            Self::Routing(..) => ROUTING,
            Self::Fragment(..) => FRAGMENT,
        }
    }

    fn octets(&self, next_header: u8) -> Vec<u8> {
        match *self {
            Self::Plain(AUTHENTICATION, units) => {
                [&[next_header, units + 1][..], &vec![0xaa; 10 + 4 * usize::from(units)]].concat()
            }
            Self::Plain(_, units) => {
                [&[next_header, units][..], &vec![0x01; 6 + 8 * usize::from(units)]].concat()
            }
            Self::Routing(units, left) => {
                [&[next_header, units, 4, left][..], &vec![0; 4 + 8 * usize::from(units)]].concat()
            }
            Self::Fragment(blocks, more) => {
                let [high, low] = (blocks << 3 | u16::from(more)).to_be_bytes();
                vec![next_header, 0, high, low, 0xde, 0xad, 0xbe, 0xef]
            }
        }
    }
}

/// Writes a packet of these headers, an upper-layer protocol and its octets.
fn packet(pieces: &[Piece], protocol: u8, upper: &[u8]) -> Vec<u8> {
    let kinds: Vec<u8> = pieces.iter().map(Piece::kind).chain([protocol]).collect();
    let mut payload: Vec<u8> =
        pieces.iter().zip(&kinds[1..]).flat_map(|(piece, next)| piece.octets(*next)).collect();
    payload.extend(upper);
    let header = Ipv6Header {
        payload_length: payload.len() as u16,
        next_header: IpNumber(kinds[0]),
        ..Ipv6Header::default()
    };
    [&header.to_bytes()[..], &payload].concat()
}

fn walk(packet: &[u8]) -> Result<HeaderChain, BrokenChain> {
    HeaderChain::parse(ipv6::Header::parse_cut(packet).unwrap(), packet)
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let kind = prop_oneof![Just(HOP_BY_HOP), Just(DESTINATION_OPTIONS), Just(AUTHENTICATION)];
    let piece = prop_oneof![
        4 => (kind, 0..24u8).prop_map(|(kind, units)| Piece::Plain(kind, units)),
        1 => (0..4u8, 0..3u8).prop_map(|(units, left)| Piece::Routing(units, left)),
        1 => (prop_oneof![Just(0), 0..8192u16], any::<bool>()).prop_map(|(at, more)| Piece::Fragment(at, more)),
    ];
    vec(piece, 0..11)
}

/// What etherparse finds: protocol, offset, segments left; it looks neither at bounds nor at what a fragment hides.
fn oracle(packet: &[u8]) -> Option<(u8, usize, u8, usize)> {
    let (header, rest) = Ipv6Header::from_slice(packet).ok()?;
    let rest = &rest[..rest.len().min(header.payload_length.into())];
    let (chain, protocol, upper) = Ipv6ExtensionsSlice::from_slice(header.next_header, rest).ok()?;
    let mut left = 0;
    let mut headers = 0;
    for header in chain.into_iter() {
        headers += 1;
        if let Ipv6ExtensionSlice::Routing(routing) = header {
            left = left.max(routing.slice()[3]);
        }
    }
    Some((protocol.0, 40 + rest.len() - upper.len(), left, headers))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_walk_over_whole_headers_finds_what_etherparse_finds(
        pieces in pieces(), protocol in prop_oneof![Just(6u8), Just(17), Just(58), Just(59), Just(135), Just(50)],
    ) {
        // A fragment that is not the first hides what follows; etherparse walks on.
        let shown = pieces.iter().position(|piece| matches!(piece, Piece::Fragment(1.., _)));
        let pieces = shown.map_or(&pieces[..], |place| &pieces[..place]);
        let packet = packet(pieces, protocol, b"upper layer");
        let fragments = pieces.iter().filter(|piece| piece.kind() == FRAGMENT).count();
        let octets = packet.len() - 40 - b"upper layer".len();
        let is_ours = fragments < 2 && pieces.len() <= HEADERS_MAX && octets <= CHAIN_BYTES_MAX;
        let found = walk(&packet).ok();
        let known = oracle(&packet).filter(|_| is_ours);
        prop_assert_eq!(found.map(|chain| (chain.protocol, chain.upper_offset, chain.segments_left)),
            known.map(|(protocol, offset, left, _)| (protocol, offset, left)));
        if let Some(chain) = found {
            prop_assert_eq!(&packet[chain.upper_offset..], b"upper layer");
            prop_assert_eq!(chain.fragment.is_some(), fragments == 1);
        }
    }

    #[test]
    fn no_octets_make_a_walk_panic_or_leave_the_packet(
        start in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
        next in vec(prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()], 0..300),
        length in any::<u16>(),
    ) {
        let header = Ipv6Header {
            payload_length: length % 400 + 1,
            next_header: IpNumber(start),
            ..Ipv6Header::default()
        };
        let packet = [&header.to_bytes()[..], &next].concat();
        if let Ok(chain) = walk(&packet) {
            prop_assert!(chain.upper_offset <= packet.len().min(40 + usize::from(header.payload_length)));
            let known = oracle(&packet);
            if let (Some((protocol, offset, ..)), false) = (known, chain.is_behind_first_fragment()) {
                prop_assert_eq!((chain.protocol, chain.upper_offset), (protocol, offset));
            }
        }
    }

    #[test]
    fn a_chain_cut_anywhere_is_truncated_and_behind_it_anything_may_be_cut(pieces in pieces(), cut in 0..2_000usize) {
        let packet = packet(&pieces, 17, &[0; 8]);
        let Ok(whole) = walk(&packet) else { return Ok(()) };
        let cut = 40 + cut % (packet.len() - 40 + 1);
        let expected = if cut < whole.upper_offset { Err(BrokenChain::Truncated) } else { Ok(whole) };
        prop_assert_eq!(walk(&packet[..cut]), expected);
    }
}

#[test]
fn a_packet_without_extension_headers_is_its_upper_layer() {
    let chain = walk(&packet(&[], 6, &[0; 20])).unwrap();
    assert_eq!(chain, HeaderChain { protocol: 6, upper_offset: 40, fragment: None, segments_left: 0 });
}

#[test]
fn a_fragment_header_is_read_and_ends_the_walk_unless_it_is_the_first() {
    let options = Piece::Plain(DESTINATION_OPTIONS, 0);
    let header = FragmentHeader {
        at: 48,
        next_header: DESTINATION_OPTIONS,
        offset_bytes: 0,
        more: true,
        identification: [0xde, 0xad, 0xbe, 0xef],
    };
    let first = [Piece::Plain(HOP_BY_HOP, 0), Piece::Fragment(0, true), options.clone()];
    let chain = walk(&packet(&first, 17, &[0; 8])).unwrap();
    assert_eq!((chain.protocol, chain.upper_offset, chain.fragment), (17, 64, Some(header)));
    assert!(chain.is_fragment());

    let later = [Piece::Plain(HOP_BY_HOP, 0), Piece::Fragment(8191, false), options];
    let chain = walk(&packet(&later, 17, &[0; 8])).unwrap();
    let header = FragmentHeader { offset_bytes: 65_528, more: false, ..header };
    assert_eq!((chain.protocol, chain.upper_offset, chain.fragment), (DESTINATION_OPTIONS, 56, Some(header)));
    assert!(chain.is_fragment() && !header.is_first());
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let chain = walk(&packet(&[Piece::Fragment(0, false)], 58, &[0; 8])).unwrap();
    assert_eq!((chain.protocol, chain.upper_offset, chain.is_fragment()), (58, 48, false));
    assert!(chain.fragment.is_some_and(|fragment| fragment.is_atomic()));
}

#[test]
fn a_packet_on_its_way_through_segments_says_so() {
    let pieces = [Piece::Routing(2, 1), Piece::Routing(0, 0)];
    assert_eq!(walk(&packet(&pieces, 6, &[])).unwrap().segments_left, 1);
}

#[test]
fn eight_headers_are_walked_and_nine_are_not() {
    let pieces = vec![Piece::Plain(DESTINATION_OPTIONS, 0); 9];
    assert_eq!(walk(&packet(&pieces[1..], 6, &[])).unwrap().upper_offset, 40 + 64);
    assert_eq!(walk(&packet(&pieces, 6, &[])), Err(BrokenChain::TooLong));
}

#[test]
fn headers_of_1024_octets_are_walked_and_longer_ones_are_not() {
    assert!(walk(&packet(&[Piece::Plain(DESTINATION_OPTIONS, 127)], 6, &[])).is_ok());
    let longer = packet(&[Piece::Plain(DESTINATION_OPTIONS, 127), Piece::Plain(AUTHENTICATION, 0)], 6, &[]);
    assert_eq!(walk(&longer), Err(BrokenChain::TooLong));
}

#[test]
fn headers_in_places_where_they_must_not_be_are_refused() {
    let late = [Piece::Plain(DESTINATION_OPTIONS, 0), Piece::Plain(HOP_BY_HOP, 0)];
    assert_eq!(walk(&packet(&late, 6, &[])), Err(BrokenChain::Misplaced));
    let twice = [Piece::Plain(HOP_BY_HOP, 0), Piece::Plain(HOP_BY_HOP, 0)];
    assert_eq!(walk(&packet(&twice, 6, &[])), Err(BrokenChain::Misplaced));
    let nested = [Piece::Fragment(0, false), Piece::Fragment(0, true)];
    assert_eq!(walk(&packet(&nested, 6, &[])), Err(BrokenChain::Misplaced));
}
