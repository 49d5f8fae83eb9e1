//! How long a flow of each state may be silent.

use core::fmt;

use super::State;

/// What all these timeouts are called in the kernel, in front and in the middle.
const PREFIXES: [&str; 2] = ["nf_conntrack_", "timeout_"];

macro_rules! timeouts {
    ($($(#[$doc:meta])* $name:ident: $seconds:expr,)+) => {
        /// Seconds without a packet after which a flow of each state is forgotten.
        ///
        /// Source of the names: `Documentation/networking/nf_conntrack-sysctl.rst`, without `nf_conntrack_` and
        /// `timeout_`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Timeouts {
            $($(#[$doc])* pub $name: u32,)+
        }

        impl Timeouts {
            /// Names of all timeouts, as [`Timeouts::set`] takes them.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            fn by_name(&mut self, name: &str) -> Option<&mut u32> {
                $(if name == stringify!($name) {
                    return Some(&mut self.$name);
                })+
                None
            }
        }

        impl Timeouts {
            /// Linux's values, with kube-proxy's for established and close-wait (K29).
            pub const DEFAULT: Self = Self { $($name: $seconds,)+ };
        }

        impl Default for Timeouts {
            /// Returns [`Timeouts::DEFAULT`].
            fn default() -> Self {
                Self::DEFAULT
            }
        }
    };
}

timeouts! {
    /// `nf_conntrack_tcp_timeout_syn_sent`; also of a simultaneous open.
    tcp_syn_sent: 120,
    /// `nf_conntrack_tcp_timeout_syn_recv`.
    tcp_syn_recv: 60,
    /// `nf_conntrack_tcp_timeout_established`.
    tcp_established: 24 * 60 * 60,
    /// `nf_conntrack_tcp_timeout_fin_wait`.
    tcp_fin_wait: 120,
    /// `nf_conntrack_tcp_timeout_close_wait`: a connection closed in one direction.
    tcp_close_wait: 60 * 60,
    /// `nf_conntrack_tcp_timeout_last_ack`.
    tcp_last_ack: 30,
    /// `nf_conntrack_tcp_timeout_time_wait`.
    tcp_time_wait: 120,
    /// `nf_conntrack_tcp_timeout_close`.
    tcp_close: 10,
    /// `nf_conntrack_tcp_timeout_unacknowledged`: picked up in one direction only.
    tcp_unacknowledged: 300,
    /// `nf_conntrack_udp_timeout`: no reply so far.
    ///
    /// DEVIATION from RFC 4787 REQ-5 (two minutes at least): 30 s, as Linux has it, so that one-way traffic does not
    /// fill the table.
    udp: 30,
    /// `nf_conntrack_udp_timeout_stream`: packets in both directions.
    udp_stream: 120,
    /// `nf_conntrack_sctp_timeout_closed`.
    sctp_closed: 10,
    /// `nf_conntrack_sctp_timeout_cookie_wait`.
    sctp_cookie_wait: 3,
    /// `nf_conntrack_sctp_timeout_cookie_echoed`.
    sctp_cookie_echoed: 3,
    /// `nf_conntrack_sctp_timeout_established`.
    sctp_established: 210,
    /// `nf_conntrack_sctp_timeout_shutdown_sent`.
    sctp_shutdown_sent: 3,
    /// `nf_conntrack_sctp_timeout_shutdown_recd`.
    sctp_shutdown_recd: 3,
    /// `nf_conntrack_sctp_timeout_shutdown_ack_sent`.
    sctp_shutdown_ack_sent: 3,
    /// `nf_conntrack_sctp_timeout_heartbeat_sent`.
    sctp_heartbeat_sent: 30,
}

/// Why a timeout was not set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TimeoutError {
    /// No timeout has that name.
    Unknown(String),
    /// Flows would end at once.
    Zero(String),
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "`{name}` is no timeout; there are {}", Timeouts::NAMES.join(", "))
            }
            Self::Zero(name) => write!(f, "timeout {name}: at least one second"),
        }
    }
}

impl core::error::Error for TimeoutError {}

impl Timeouts {
    /// Sets one timeout by its name, as `tcp_established` or `nf_conntrack_tcp_timeout_established`.
    ///
    /// # Errors
    /// If no timeout has the name, or for no time at all; then nothing is changed.
    pub fn set(&mut self, name: &str, seconds: u32) -> Result<(), TimeoutError> {
        let timeout =
            self.by_name(&Self::short_name(name)).ok_or_else(|| TimeoutError::Unknown(name.to_owned()))?;
        if seconds == 0 {
            return Err(TimeoutError::Zero(name.to_owned()));
        }
        *timeout = seconds;
        Ok(())
    }

    /// Returns the name without what Linux puts before each, as `tcp_established`.
    #[must_use]
    pub fn short_name(name: &str) -> String {
        let [prefix, infix] = PREFIXES;
        match name.strip_prefix(prefix) {
            Some("udp_timeout") => "udp".to_owned(),
            Some(rest) => rest.replacen(infix, "", 1),
            None => name.to_owned(),
        }
    }

    /// Returns the timeout of a state in seconds.
    #[must_use]
    pub const fn seconds(&self, state: State) -> u32 {
        match state {
            State::SynSent | State::SynSent2 => self.tcp_syn_sent,
            State::SynRecv => self.tcp_syn_recv,
            State::Established => self.tcp_established,
            State::FinWait => self.tcp_fin_wait,
            State::CloseWait => self.tcp_close_wait,
            State::LastAck => self.tcp_last_ack,
            State::TimeWait => self.tcp_time_wait,
            State::Close => self.tcp_close,
            State::PickedUp => self.tcp_unacknowledged,
            State::UdpUnreplied => self.udp,
            State::UdpStream => self.udp_stream,
            State::SctpClosed => self.sctp_closed,
            State::SctpCookieWait => self.sctp_cookie_wait,
            State::SctpCookieEchoed => self.sctp_cookie_echoed,
            State::SctpEstablished => self.sctp_established,
            State::SctpShutdownSent => self.sctp_shutdown_sent,
            State::SctpShutdownRecd => self.sctp_shutdown_recd,
            State::SctpShutdownAckSent => self.sctp_shutdown_ack_sent,
            State::SctpHeartbeatSent => self.sctp_heartbeat_sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k29_the_default_timeouts_are_those_promised() {
        let timeouts = Timeouts::default();
        let seconds: Vec<u32> = State::ALL.iter().map(|&state| timeouts.seconds(state)).collect();
        let (tcp, sctp) = ([120, 60, 86_400, 120, 3_600, 30, 120, 10, 120], [10, 3, 3, 210, 3, 3, 3, 30]);
        assert_eq!(seconds, [&tcp[..], &[30, 120, 300], &sctp].concat());
    }

    #[test]
    fn each_timeout_is_set_by_either_of_its_names_and_no_other_with_it() {
        for (place, name) in Timeouts::NAMES.iter().enumerate() {
            let (protocol, state) = name.split_once('_').unwrap_or((name, ""));
            let kernel = format!("nf_conntrack_{protocol}_timeout_{state}");
            for name in [name, kernel.trim_end_matches('_')] {
                let mut timeouts = Timeouts::default();
                timeouts.set(name, 77).unwrap();
                let mut changed = Timeouts::default();
                let differ = |a: &mut Timeouts, b: &mut Timeouts, name| a.by_name(name) != b.by_name(name);
                let changes: Vec<usize> = (0..Timeouts::NAMES.len())
                    .filter(|&n| differ(&mut timeouts, &mut changed, Timeouts::NAMES[n]))
                    .collect();
                assert_eq!(changes, [place], "{name}");
                assert_eq!(timeouts.by_name(Timeouts::NAMES[place]), Some(&mut 77));
            }
        }
    }

    #[test]
    fn a_timeout_that_is_none_is_refused_by_its_name() {
        let mut timeouts = Timeouts::default();
        let error = timeouts.set("tcp_estabished", 5).unwrap_err();
        assert!(error.to_string().starts_with("`tcp_estabished` is no timeout; there are tcp_syn_sent, "));
        assert_eq!(timeouts.set("udp", 0), Err(TimeoutError::Zero("udp".into())));
        for name in ["", "nf_conntrack_", "timeout_", "nf_conntrack_tcp_be_liberal"] {
            assert_eq!(timeouts.set(name, 5), Err(TimeoutError::Unknown(name.into())));
        }
        assert_eq!(timeouts, Timeouts::default());
    }
}
