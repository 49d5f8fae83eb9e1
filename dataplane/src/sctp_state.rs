//! How an SCTP packet changes the state of its flow.
//!
//! The semantics are those of Linux connection tracking; what the kernel calls invalid leaves the state as it is.
//! Source: `net/netfilter/nf_conntrack_proto_sctp.c`, `sctp_conntracks`.
//!
//! DEVIATION: verification tags are not compared, as TCP's sequence numbers are not (K28): the receivers do it, and
//! what a forged chunk can do here is shorten a timeout.

use crate::flows::{Direction, State};
use crate::net::Protocol;
use crate::net::sctp::Chunks;

/// What changes a state, in the order in which a packet can carry it (RFC 9260 §6.10).
const EVENTS: [Chunks; 10] = [
    Chunks::INIT,
    Chunks::INIT_ACK,
    Chunks::COOKIE_ECHO,
    Chunks::COOKIE_ACK,
    Chunks::HEARTBEAT_ACK,
    Chunks::ERROR,
    Chunks::SHUTDOWN,
    Chunks::SHUTDOWN_ACK,
    Chunks::SHUTDOWN_COMPLETE,
    Chunks::ABORT,
];

/// Returns the state of a flow that a packet of the client opens; `None` if it cannot open one.
///
/// An INIT opens an association, a HEARTBEAT another path of one or one that we have forgotten; a SHUTDOWN ACK wants
/// its answer (RFC 9260 §8.4 rule 5). The kernel lets nothing else pass its verification tags.
/// Source: `sctp_new`.
///
/// DEVIATION: a HEARTBEAT opens also together with data, and a HEARTBEAT ACK never.
#[must_use]
pub const fn first(chunks: Chunks) -> Option<State> {
    match chunks {
        _ if chunks.intersects(Chunks::ABORT) => None,
        _ if chunks.contains(Chunks::INIT) => Some(State::SctpClosed),
        _ if chunks.contains(Chunks::HEARTBEAT) => Some(State::SctpHeartbeatSent),
        _ if chunks.contains(Chunks::SHUTDOWN_ACK) => Some(State::SctpShutdownAckSent),
        _ => None,
    }
}

/// Returns the state of a flow after a packet with these chunks. A state that is not SCTP's stays.
#[must_use]
pub fn next(state: State, direction: Direction, chunks: Chunks) -> State {
    EVENTS
        .into_iter()
        .filter(|event| chunks.contains(*event))
        .fold(state, |state, event| after(state, direction, event))
}

/// Says whether a packet keeps its flow alive: all do but a repeated INIT that nobody answers.
///
/// So a client that goes on trying from one port gets a new flow, and with it a new choice, when the timeout is over.
/// Source: `nf_conntrack_sctp_packet`, "don't renew timeout on init retransmit".
#[must_use]
pub const fn keeps_alive(state: State, direction: Direction, chunks: Chunks) -> bool {
    let is_init = matches!(direction, Direction::Request) && chunks.contains(Chunks::INIT);
    !(is_init && matches!(state, State::SctpClosed))
}

const fn after(state: State, direction: Direction, event: Chunks) -> State {
    if matches!(state, State::SctpHeartbeatSent) {
        return after_heartbeat(direction, event);
    }
    match event {
        Chunks::INIT => after_init(state, direction),
        Chunks::INIT_ACK => after_init_ack(state, direction),
        Chunks::COOKIE_ECHO => after_cookie_echo(state),
        Chunks::COOKIE_ACK => after_cookie_ack(state),
        Chunks::ERROR => after_error(state, direction),
        Chunks::SHUTDOWN => after_shutdown(state, direction),
        Chunks::SHUTDOWN_ACK => after_shutdown_ack(state),
        Chunks::SHUTDOWN_COMPLETE => after_shutdown_complete(state),
        Chunks::ABORT => after_abort(state),
        _ => state,
    }
}

/// On a path picked up, the client begins anew, or the backend answers its HEARTBEAT; nothing else fits.
const fn after_heartbeat(direction: Direction, event: Chunks) -> State {
    match (direction, event) {
        (Direction::Request, Chunks::INIT) => State::SctpCookieWait,
        (Direction::Request, Chunks::SHUTDOWN_ACK) => State::SctpShutdownAckSent,
        (Direction::Reply, Chunks::HEARTBEAT_ACK) => State::SctpEstablished,
        (Direction::Request, Chunks::HEARTBEAT_ACK) | (Direction::Reply, _) => State::SctpHeartbeatSent,
        (Direction::Request, _) => State::SctpClosed,
    }
}

/// The client may open again what is about to end.
const fn after_init(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SctpShutdownSent | State::SctpShutdownRecd, Direction::Request) => State::SctpClosed,
        _ => state,
    }
}

const fn after_init_ack(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SctpClosed, Direction::Reply) => State::SctpCookieWait,
        _ => state,
    }
}

/// Either end may send the cookie when two INITs have crossed (RFC 9260 §5.2).
const fn after_cookie_echo(state: State) -> State {
    match state {
        State::SctpCookieWait => State::SctpCookieEchoed,
        _ => state,
    }
}

const fn after_cookie_ack(state: State) -> State {
    match state {
        State::SctpCookieEchoed => State::SctpEstablished,
        _ => state,
    }
}

/// The backend finds the cookie stale (RFC 9260 §5.2.6).
const fn after_error(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SctpCookieEchoed, Direction::Reply) => State::SctpClosed,
        _ => state,
    }
}

const fn after_shutdown(state: State, direction: Direction) -> State {
    match (state, direction) {
        (State::SctpEstablished, Direction::Request) => State::SctpShutdownSent,
        (State::SctpEstablished, Direction::Reply) => State::SctpShutdownRecd,
        _ => state,
    }
}

const fn after_shutdown_ack(state: State) -> State {
    match state {
        State::SctpShutdownSent | State::SctpShutdownRecd => State::SctpShutdownAckSent,
        _ => state,
    }
}

const fn after_shutdown_complete(state: State) -> State {
    match state {
        State::SctpShutdownAckSent => State::SctpClosed,
        _ => state,
    }
}

/// An ABORT ends the association in whatever state.
const fn after_abort(state: State) -> State {
    match state.protocol() {
        Protocol::Sctp => State::SctpClosed,
        Protocol::Tcp | Protocol::Udp => state,
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Reply, Request};
    use super::State::*;
    use super::*;

    fn states(packets: &[(Direction, Chunks)]) -> Vec<State> {
        let mut state = first(packets[0].1).unwrap();
        let mut seen = vec![state];
        for &(direction, chunks) in &packets[1..] {
            state = next(state, direction, chunks);
            seen.push(state);
        }
        seen
    }

    #[test]
    fn an_association_opens_and_closes() {
        let packets = [
            (Request, Chunks::INIT),
            (Reply, Chunks::INIT_ACK),
            (Request, Chunks::COOKIE_ECHO.with(Chunks::DATA)),
            (Reply, Chunks::COOKIE_ACK.with(Chunks::DATA)),
            (Request, Chunks::DATA),
            (Reply, Chunks::HEARTBEAT),
            (Request, Chunks::HEARTBEAT_ACK),
            (Request, Chunks::SHUTDOWN),
            (Reply, Chunks::SHUTDOWN_ACK),
            (Request, Chunks::SHUTDOWN_COMPLETE),
        ];
        let expected = [
            SctpClosed,
            SctpCookieWait,
            SctpCookieEchoed,
            SctpEstablished,
            SctpEstablished,
            SctpEstablished,
            SctpEstablished,
            SctpShutdownSent,
            SctpShutdownAckSent,
            SctpClosed,
        ];
        assert_eq!(states(&packets), expected);
    }

    #[test]
    fn a_second_path_is_established_by_the_answer_to_its_heartbeat() {
        let packets = [
            (Request, Chunks::HEARTBEAT),
            (Request, Chunks::HEARTBEAT),
            (Reply, Chunks::HEARTBEAT_ACK),
            (Reply, Chunks::SHUTDOWN),
        ];
        let expected = [SctpHeartbeatSent, SctpHeartbeatSent, SctpEstablished, SctpShutdownRecd];
        assert_eq!(states(&packets), expected);
    }

    #[test]
    fn chunks_of_one_packet_count_one_after_the_other() {
        let end = Chunks::COOKIE_ACK.with(Chunks::SHUTDOWN);
        assert_eq!(next(SctpCookieEchoed, Reply, end), SctpShutdownRecd);
        let abort = Chunks::COOKIE_ECHO.with(Chunks::ABORT);
        assert_eq!(next(SctpCookieWait, Request, abort), SctpClosed);
    }

    #[test]
    fn only_the_clients_init_heartbeat_and_shutdown_ack_open_a_flow() {
        assert_eq!(first(Chunks::INIT), Some(SctpClosed));
        assert_eq!(first(Chunks::HEARTBEAT.with(Chunks::DATA)), Some(SctpHeartbeatSent));
        assert_eq!(first(Chunks::SHUTDOWN_ACK), Some(SctpShutdownAckSent));
        assert_eq!(first(Chunks::HEARTBEAT.with(Chunks::ABORT)), None);
        let others = [
            Chunks::DATA,
            Chunks::INIT_ACK,
            Chunks::HEARTBEAT_ACK,
            Chunks::ABORT,
            Chunks::SHUTDOWN,
            Chunks::ERROR,
            Chunks::COOKIE_ECHO,
            Chunks::COOKIE_ACK,
            Chunks::SHUTDOWN_COMPLETE,
        ];
        assert!(others.into_iter().all(|chunks| first(chunks).is_none()));
    }

    #[test]
    fn a_repeated_init_without_an_answer_does_not_keep_its_flow_alive() {
        assert!(!keeps_alive(SctpClosed, Request, Chunks::INIT));
        assert!(keeps_alive(SctpClosed, Reply, Chunks::INIT_ACK));
        assert!(keeps_alive(SctpCookieWait, Request, Chunks::INIT));
        assert!(keeps_alive(SctpEstablished, Request, Chunks::INIT));
    }

    #[test]
    fn no_packet_changes_a_state_of_another_protocol() {
        let all = EVENTS.into_iter().fold(Chunks::default(), Chunks::with);
        for state in State::ALL.into_iter().filter(|state| state.protocol() != Protocol::Sctp) {
            for event in EVENTS {
                assert_eq!((next(state, Request, event), next(state, Reply, event)), (state, state));
            }
            assert_eq!(next(state, Request, all), state);
        }
    }

    /// The kernel's table, one row per chunk, columns CL CW CE ES SS SR SA HS; invalid is a dot.
    #[test]
    fn every_transition_is_that_of_the_kernel() {
        const COLUMNS: [(State, &str); 8] = [
            (SctpClosed, "CL"),
            (SctpCookieWait, "CW"),
            (SctpCookieEchoed, "CE"),
            (SctpEstablished, "ES"),
            (SctpShutdownSent, "SS"),
            (SctpShutdownRecd, "SR"),
            (SctpShutdownAckSent, "SA"),
            (SctpHeartbeatSent, "HS"),
        ];
        let rows = [
            (Request, Chunks::INIT, "CL CW CE ES CL CL SA CW"),
            (Request, Chunks::INIT_ACK, "CL CW CE ES SS SR SA CL"),
            (Request, Chunks::ABORT, "CL CL CL CL CL CL CL CL"),
            (Request, Chunks::SHUTDOWN, "CL CW CE SS SS SR SA CL"),
            (Request, Chunks::SHUTDOWN_ACK, "CL CW CE ES SA SA SA SA"),
            (Request, Chunks::ERROR, "CL CW CE ES SS SR SA CL"),
            (Request, Chunks::COOKIE_ECHO, "CL CE CE ES SS SR SA CL"),
            (Request, Chunks::COOKIE_ACK, "CL CW ES ES SS SR SA CL"),
            (Request, Chunks::SHUTDOWN_COMPLETE, "CL CW CE ES SS SR CL CL"),
            (Request, Chunks::HEARTBEAT, "CL CW CE ES SS SR SA HS"),
            (Request, Chunks::HEARTBEAT_ACK, "CL CW CE ES SS SR SA HS"),
            (Reply, Chunks::INIT, "CL CW CE ES SS SR SA ."),
            (Reply, Chunks::INIT_ACK, "CW CW CE ES SS SR SA ."),
            (Reply, Chunks::ABORT, "CL CL CL CL CL CL CL ."),
            (Reply, Chunks::SHUTDOWN, "CL CW CE SR SS SR SA ."),
            (Reply, Chunks::SHUTDOWN_ACK, "CL CW CE ES SA SA SA ."),
            (Reply, Chunks::ERROR, "CL CW CL ES SS SR SA ."),
            (Reply, Chunks::COOKIE_ECHO, "CL CE CE ES SS SR SA ."),
            (Reply, Chunks::COOKIE_ACK, "CL CW ES ES SS SR SA ."),
            (Reply, Chunks::SHUTDOWN_COMPLETE, "CL CW CE ES SS SR CL ."),
            (Reply, Chunks::HEARTBEAT, "CL CW CE ES SS SR SA HS"),
            (Reply, Chunks::HEARTBEAT_ACK, "CL CW CE ES SS SR SA ES"),
        ];
        for (direction, chunks, row) in rows {
            for ((state, name), cell) in COLUMNS.iter().zip(row.split_whitespace()) {
                let wanted =
                    COLUMNS.iter().find(|(_, name)| *name == cell).map_or(*state, |(state, _)| *state);
                assert_eq!(next(*state, direction, chunks), wanted, "{name} {direction:?} {chunks:?}");
            }
        }
    }
}
