//! Where a flow stands in its life.

use super::Direction;
use crate::net::Protocol;

/// The state of a flow; those of TCP and SCTP carry the names of Linux, those of TCP its numbers, too.
///
/// Source: `include/uapi/linux/netfilter/nf_conntrack_tcp.h`, `enum tcp_conntrack`; `nf_conntrack_sctp.h`, `enum
/// sctp_conntrack`. No state is zero, so that memory never written holds none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// A SYN of the client was seen.
    SynSent = 1,
    /// A SYN-ACK was seen.
    SynRecv = 2,
    /// The client's ACK was seen.
    Established = 3,
    /// A FIN was seen.
    FinWait = 4,
    /// A FIN was acknowledged.
    CloseWait = 5,
    /// A second FIN was seen.
    LastAck = 6,
    /// The last ACK was seen.
    TimeWait = 7,
    /// A RST was seen.
    Close = 8,
    /// A SYN of the backend met the client's (simultaneous open).
    SynSent2 = 9,
    /// UDP in one direction only.
    UdpUnreplied = 10,
    /// UDP in both directions.
    UdpStream = 11,
    /// Picked up in mid-stream from a segment of the client; the backend has not spoken yet.
    PickedUp = 12,
    /// SCTP: an INIT of the client was seen, or an ABORT.
    SctpClosed = 13,
    /// SCTP: an INIT ACK is expected, or was seen.
    SctpCookieWait = 14,
    /// SCTP: a COOKIE ECHO was seen.
    SctpCookieEchoed = 15,
    /// SCTP: the COOKIE ACK was seen.
    SctpEstablished = 16,
    /// SCTP: a SHUTDOWN of the client was seen.
    SctpShutdownSent = 17,
    /// SCTP: a SHUTDOWN of the backend was seen.
    SctpShutdownRecd = 18,
    /// SCTP: a SHUTDOWN ACK was seen.
    SctpShutdownAckSent = 19,
    /// SCTP: picked up at a HEARTBEAT of the client, on another of its paths; the backend has not answered yet.
    SctpHeartbeatSent = 20,
}

impl State {
    /// Every state, in the order of the numbers.
    pub const ALL: [Self; 20] = [
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::SynSent2,
        Self::UdpUnreplied,
        Self::UdpStream,
        Self::PickedUp,
        Self::SctpClosed,
        Self::SctpCookieWait,
        Self::SctpCookieEchoed,
        Self::SctpEstablished,
        Self::SctpShutdownSent,
        Self::SctpShutdownRecd,
        Self::SctpShutdownAckSent,
        Self::SctpHeartbeatSent,
    ];

    /// Returns the state of a number, or `None` for a number that is none.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            10 => Self::UdpUnreplied,
            11 => Self::UdpStream,
            12 => Self::PickedUp,
            13 => Self::SctpClosed,
            14 => Self::SctpCookieWait,
            15 => Self::SctpCookieEchoed,
            16 => Self::SctpEstablished,
            17 => Self::SctpShutdownSent,
            18 => Self::SctpShutdownRecd,
            19 => Self::SctpShutdownAckSent,
            20 => Self::SctpHeartbeatSent,
            _ => return None,
        })
    }

    /// Returns the number that stands in a record.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the state's name, behind that of its protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "tcp_syn_sent",
            Self::SynRecv => "tcp_syn_recv",
            Self::Established => "tcp_established",
            Self::FinWait => "tcp_fin_wait",
            Self::CloseWait => "tcp_close_wait",
            Self::LastAck => "tcp_last_ack",
            Self::TimeWait => "tcp_time_wait",
            Self::Close => "tcp_close",
            Self::SynSent2 => "tcp_syn_sent2",
            Self::UdpUnreplied => "udp_unreplied",
            Self::UdpStream => "udp_stream",
            Self::PickedUp => "tcp_picked_up",
            Self::SctpClosed => "sctp_closed",
            Self::SctpCookieWait => "sctp_cookie_wait",
            Self::SctpCookieEchoed => "sctp_cookie_echoed",
            Self::SctpEstablished => "sctp_established",
            Self::SctpShutdownSent => "sctp_shutdown_sent",
            Self::SctpShutdownRecd => "sctp_shutdown_recd",
            Self::SctpShutdownAckSent => "sctp_shutdown_ack_sent",
            Self::SctpHeartbeatSent => "sctp_heartbeat_sent",
        }
    }

    /// Returns the protocol that has this state.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::SynSent
            | Self::SynRecv
            | Self::Established
            | Self::FinWait
            | Self::CloseWait
            | Self::LastAck
            | Self::TimeWait
            | Self::Close
            | Self::SynSent2
            | Self::PickedUp => Protocol::Tcp,
            Self::UdpUnreplied | Self::UdpStream => Protocol::Udp,
            Self::SctpClosed
            | Self::SctpCookieWait
            | Self::SctpCookieEchoed
            | Self::SctpEstablished
            | Self::SctpShutdownSent
            | Self::SctpShutdownRecd
            | Self::SctpShutdownAckSent
            | Self::SctpHeartbeatSent => Protocol::Sctp,
        }
    }

    /// Says whether a flow may be dropped for another when the table is full: half-open, in one direction only, or over
    /// (design decision 13).
    #[must_use]
    pub const fn gives_way(self) -> bool {
        match self {
            Self::SynSent
            | Self::SynRecv
            | Self::SynSent2
            | Self::PickedUp
            | Self::TimeWait
            | Self::Close
            | Self::UdpUnreplied
            | Self::SctpClosed
            | Self::SctpCookieWait
            | Self::SctpCookieEchoed
            | Self::SctpShutdownAckSent
            | Self::SctpHeartbeatSent => true,
            Self::Established
            | Self::FinWait
            | Self::CloseWait
            | Self::LastAck
            | Self::UdpStream
            | Self::SctpEstablished
            | Self::SctpShutdownSent
            | Self::SctpShutdownRecd => false,
        }
    }

    /// Returns the state of a UDP flow after a packet: the first reply makes it a stream.
    #[must_use]
    pub const fn next_udp(self, direction: Direction) -> Self {
        match (self, direction) {
            (Self::UdpUnreplied, Direction::Reply) => Self::UdpStream,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back_from_its_number() {
        let states: Vec<State> = (0..=u8::MAX).filter_map(State::from_number).collect();
        assert_eq!(states, State::ALL);
        assert!(states.iter().all(|&state| State::from_number(state.number()) == Some(state)));
        assert_eq!(State::from_number(0), None);
    }

    #[test]
    fn every_state_has_a_name_of_its_own_that_begins_with_its_protocols() {
        let names: std::collections::BTreeSet<_> = State::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(names.len(), State::ALL.len());
        for state in State::ALL {
            let protocol = format!("{:?}_", state.protocol()).to_lowercase();
            assert!(state.name().starts_with(&protocol), "{state:?}");
        }
    }

    #[test]
    fn only_a_reply_makes_udp_a_stream() {
        assert_eq!(State::UdpUnreplied.next_udp(Direction::Request), State::UdpUnreplied);
        assert_eq!(State::UdpUnreplied.next_udp(Direction::Reply), State::UdpStream);
        assert_eq!(State::UdpStream.next_udp(Direction::Request), State::UdpStream);
    }
}
