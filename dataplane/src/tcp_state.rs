//! How a TCP segment changes the state of its flow.
//!
//! The semantics are those of Linux connection tracking without its windows: segments are taken to be valid, so the
//! tracker is liberal (K28), and only timeouts follow from what it concludes.
//! Source: `net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_conntracks`, with `nf_conntrack_tcp_be_liberal` and
//! `nf_conntrack_tcp_loose`. What the kernel calls invalid or ignores leaves the state as it is.

use crate::flows::{Direction, State};
use crate::net::Protocol;
use crate::net::tcp::Flags;

/// What counts of a segment; the first of these that fits.
enum Segment {
    Rst,
    SynAck,
    Syn,
    Fin,
    Ack,
    /// None of the four bits: a null scan.
    Bare,
}

impl Segment {
    const fn new(flags: Flags) -> Self {
        match flags {
            _ if flags.contains(Flags::RST) => Self::Rst,
            _ if flags.contains(Flags::SYN.with(Flags::ACK)) => Self::SynAck,
            _ if flags.contains(Flags::SYN) => Self::Syn,
            _ if flags.contains(Flags::FIN) => Self::Fin,
            _ if flags.contains(Flags::ACK) => Self::Ack,
            _ => Self::Bare,
        }
    }
}

/// Says whether a segment asks for a connection.
#[must_use]
pub const fn is_opening(flags: Flags) -> bool {
    matches!(Segment::new(flags), Segment::Syn)
}

/// Returns the state of a flow that a segment of the client opens; `None` if it cannot open one.
///
/// A SYN opens a connection; a segment with ACK and without SYN or RST is one picked up in mid-stream (design decision
/// 7), be it its last.
#[must_use]
pub const fn first(flags: Flags) -> Option<State> {
    match Segment::new(flags) {
        Segment::Syn => Some(State::SynSent),
        Segment::Ack => Some(State::PickedUp),
        Segment::Fin if flags.contains(Flags::ACK) => Some(after_fin(State::PickedUp)),
        Segment::Rst | Segment::SynAck | Segment::Fin | Segment::Bare => None,
    }
}

/// Returns the state of a flow after a segment.
///
/// A SYN that re-opens ([`is_reopening`]) leaves the state alone: it belongs to the flow that replaces this one. A state
/// that is not TCP's stays.
#[must_use]
pub const fn next(state: State, direction: Direction, flags: Flags) -> State {
    match Segment::new(flags) {
        Segment::Rst => after_rst(state),
        Segment::Syn => after_syn(state, direction),
        Segment::SynAck => after_syn_ack(state, direction),
        Segment::Fin => after_fin(state),
        Segment::Ack => after_ack(state, direction),
        Segment::Bare => state,
    }
}

/// Says whether the client's SYN begins a new connection on the ports of one that has ended.
///
/// The SYN's number is not looked at, since those of the flow are not kept: the backend compares them, if it is the same
/// one. Source: RFC 9293 §3.6.1 (MAY-2); RFC 5382 §5 leaves it open; `net/netfilter/nf_conntrack_proto_tcp.c`,
/// `nf_conntrack_tcp_packet`, "Attempt to reopen a closed/aborted connection".
#[must_use]
pub const fn is_reopening(state: State, direction: Direction, flags: Flags) -> bool {
    matches!(Segment::new(flags), Segment::Syn)
        && matches!(direction, Direction::Request)
        && matches!(state, State::TimeWait | State::Close)
}

/// A RST ends the connection in whatever state.
const fn after_rst(state: State) -> State {
    match state.protocol() {
        Protocol::Tcp => State::Close,
        Protocol::Udp | Protocol::Sctp => state,
    }
}

/// A SYN of the backend meets the client's: simultaneous open. Any other SYN is a copy, or the receiver will answer it.
const fn after_syn(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SynSent, Direction::Reply) => State::SynSent2,
        _ => state,
    }
}

/// A SYN-ACK comes from the backend, or in a simultaneous open from either end.
const fn after_syn_ack(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SynSent, Direction::Reply) | (State::SynSent2, _) => State::SynRecv,
        _ => state,
    }
}

/// The first FIN begins the end; another, or a copy of it, waits for the last ACK.
const fn after_fin(state: State) -> State {
    match state {
        State::SynRecv | State::Established | State::PickedUp => State::FinWait,
        State::FinWait | State::CloseWait => State::LastAck,
        _ => state,
    }
}

/// The client's ACK completes the opening, the backend's confirms what was picked up; an ACK of either end answers a
/// FIN.
///
/// Who goes on after a RST has not accepted it: its number was not in the window, which only the two ends know
/// (RFC 9293 §3.5.3), or it was forged. So the flow is picked up again and dies no sooner for it; if the RST was good,
/// the next one follows, for the segment that crossed it. DEVIATION from nf_conntrack, which checks the number and stays
/// closed; RFC 7857 §2.2 asks that a session with packets outlives a RST.
///
/// The backend's ACK while the client's is awaited may answer a copy of the SYN, so it completes nothing.
const fn after_ack(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SynRecv, Direction::Request) | (State::PickedUp, Direction::Reply) => State::Established,
        (State::FinWait, _) => State::CloseWait,
        (State::LastAck, _) => State::TimeWait,
        (State::Close, _) => State::PickedUp,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Reply, Request};
    use super::State::*;
    use super::*;

    const SYN: Flags = Flags::SYN;
    const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
    const ACK: Flags = Flags::ACK;
    const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);
    const RST: Flags = Flags::RST;

    fn states(segments: &[(Direction, Flags)]) -> Vec<State> {
        let mut state = first(segments[0].1).unwrap();
        let mut seen = vec![state];
        for &(direction, flags) in &segments[1..] {
            state = next(state, direction, flags);
            seen.push(state);
        }
        seen
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let segments = [
            (Request, SYN),
            (Reply, SYN_ACK),
            (Request, ACK),
            (Reply, ACK),
            (Request, FIN_ACK),
            (Reply, ACK),
            (Reply, FIN_ACK),
            (Request, ACK),
        ];
        let expected = [SynSent, SynRecv, Established, Established, FinWait, CloseWait, LastAck, TimeWait];
        assert_eq!(states(&segments), expected);
    }

    #[test]
    fn a_fin_answered_by_a_fin_needs_one_more_ack() {
        let segments = [(Request, ACK), (Reply, FIN_ACK), (Request, FIN_ACK), (Reply, ACK)];
        assert_eq!(states(&segments), [PickedUp, FinWait, LastAck, TimeWait]);
    }

    #[test]
    fn two_syns_that_cross_open_a_connection() {
        let segments = [(Request, SYN), (Reply, SYN), (Request, SYN_ACK), (Reply, SYN_ACK), (Request, ACK)];
        assert_eq!(states(&segments), [SynSent, SynSent2, SynRecv, SynRecv, Established]);
    }

    #[test]
    fn a_flow_picked_up_is_established_only_by_the_backend() {
        let segments = [(Request, ACK), (Request, ACK), (Reply, ACK), (Request, ACK)];
        assert_eq!(states(&segments), [PickedUp, PickedUp, Established, Established]);
    }

    #[test]
    fn a_flow_picked_up_by_its_fin_is_closing() {
        assert_eq!(states(&[(Request, FIN_ACK), (Reply, ACK)]), [FinWait, CloseWait]);
        assert_eq!(first(Flags::FIN), None);
    }

    #[test]
    fn a_half_closed_connection_still_carries_data() {
        let segments = [(Request, ACK), (Request, FIN_ACK), (Reply, ACK), (Reply, ACK), (Request, ACK)];
        assert_eq!(states(&segments), [PickedUp, FinWait, CloseWait, CloseWait, CloseWait]);
    }

    #[test]
    fn a_reset_closes_every_tcp_state_and_no_other() {
        for state in State::ALL {
            let expected = if state.protocol() == Protocol::Tcp { Close } else { state };
            assert_eq!(next(state, Request, RST), expected);
            assert_eq!(next(state, Reply, RST.with(ACK).with(SYN)), expected);
        }
    }

    #[test]
    fn a_connection_that_goes_on_after_a_reset_is_not_closed_by_it() {
        let segments = [(Request, ACK), (Reply, ACK), (Reply, RST), (Request, ACK), (Reply, ACK)];
        assert_eq!(states(&segments), [PickedUp, Established, Close, PickedUp, Established]);
        let crossed = [(Request, ACK), (Reply, ACK), (Request, RST), (Reply, ACK), (Request, RST)];
        assert_eq!(states(&crossed), [PickedUp, Established, Close, PickedUp, Close]);
    }

    #[test]
    fn a_null_segment_changes_nothing() {
        for state in State::ALL {
            assert_eq!(next(state, Request, Flags::default()), state);
        }
        assert_eq!(first(Flags::default()), None);
    }

    #[test]
    fn only_a_clients_syn_reopens_and_only_what_has_ended() {
        for state in State::ALL {
            let has_ended = matches!(state, TimeWait | Close);
            assert_eq!(is_reopening(state, Request, SYN), has_ended);
            assert!(!is_reopening(state, Reply, SYN));
            assert!(!is_reopening(state, Request, SYN_ACK));
            assert!(!is_reopening(state, Request, SYN.with(RST)));
        }
    }

    /// The kernel's table, one row per segment, columns SS SR ES FW CW LA TW CL S2; invalid and ignored are a dot. Where
    /// an ACK follows a RST we differ.
    #[test]
    fn every_transition_is_that_of_the_kernel() {
        const COLUMNS: [(State, &str); 9] = [
            (SynSent, "SS"),
            (SynRecv, "SR"),
            (Established, "ES"),
            (FinWait, "FW"),
            (CloseWait, "CW"),
            (LastAck, "LA"),
            (TimeWait, "TW"),
            (Close, "CL"),
            (SynSent2, "S2"),
        ];
        let rows = [
            (Request, SYN, "SS .  .  .  .  .  .  .  S2"),
            (Request, SYN_ACK, ".  .  .  .  .  .  .  .  SR"),
            (Request, FIN_ACK, ".  FW FW LA LA LA TW CL ."),
            (Request, ACK, ".  ES ES CW CW TW TW PU ."),
            (Request, RST, "CL CL CL CL CL CL CL CL CL"),
            (Reply, SYN, "S2 .  .  .  .  .  .  .  S2"),
            (Reply, SYN_ACK, "SR .  .  .  .  .  .  .  SR"),
            (Reply, FIN_ACK, ".  FW FW LA LA LA TW CL ."),
            (Reply, ACK, ".  SR ES CW CW TW TW PU ."),
            (Reply, RST, "CL CL CL CL CL CL CL CL CL"),
        ];
        for (direction, flags, row) in rows {
            for ((state, name), cell) in COLUMNS.iter().zip(row.split_whitespace()) {
                let named = COLUMNS.iter().chain(&[(PickedUp, "PU")]);
                let wanted = named.into_iter().find(|(_, name)| *name == cell);
                let wanted = wanted.map_or(*state, |(state, _)| *state);
                assert_eq!(next(*state, direction, flags), wanted, "{name} {direction:?} {flags:?}");
            }
        }
    }
}
