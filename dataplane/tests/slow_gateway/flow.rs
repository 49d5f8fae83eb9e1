//! What the slow gateway remembers of a flow: the kernel's table of TCP states, spelled out; that of SCTP is in `sctp`.

use std::collections::VecDeque;

use super::datagram::Five;

/// The states by the numbers of `enum tcp_conntrack`, with three of ours and SCTP's behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    SynSent = 1,
    SynRecv = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
    TimeWait = 7,
    Close = 8,
    SynSent2 = 9,
    UdpUnreplied = 10,
    UdpStream = 11,
    PickedUp = 12,
    SctpClosed = 13,
    SctpCookieWait = 14,
    SctpCookieEchoed = 15,
    SctpEstablished = 16,
    SctpShutdownSent = 17,
    SctpShutdownRecd = 18,
    SctpShutdownAckSent = 19,
    SctpHeartbeatSent = 20,
}

use State::*;

/// The columns of the tables below; a picked-up flow is one more.
const COLUMNS: [State; 10] =
    [SynSent, SynRecv, Established, FinWait, CloseWait, LastAck, TimeWait, Close, SynSent2, PickedUp];

/// `net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_conntracks`; what is ignored or invalid there is a dot here.
const REQUEST: [(&str, &str); 5] = [
    ("syn", "SS .  .  .  .  .  .  .  S2 . "),
    ("synack", ".  .  .  .  .  .  .  .  SR . "),
    ("fin", ".  FW FW LA LA LA TW CL .  FW"),
    ("ack", ".  ES ES CW CW TW TW PU .  . "),
    ("rst", "CL CL CL CL CL CL CL CL CL CL"),
];
const REPLY: [(&str, &str); 5] = [
    ("syn", "S2 .  .  .  .  .  .  .  S2 . "),
    ("synack", "SR .  .  .  .  .  .  .  SR . "),
    ("fin", ".  FW FW LA LA LA TW CL .  FW"),
    ("ack", ".  .  ES CW CW TW TW PU .  ES"),
    ("rst", "CL CL CL CL CL CL CL CL CL CL"),
];
const NAMES: [(&str, State); 10] = [
    ("SS", SynSent),
    ("SR", SynRecv),
    ("ES", Established),
    ("FW", FinWait),
    ("CW", CloseWait),
    ("LA", LastAck),
    ("TW", TimeWait),
    ("CL", Close),
    ("S2", SynSent2),
    ("PU", PickedUp),
];

/// Which row a segment is in; `None` if no flag counts.
fn row(flags: u8) -> Option<&'static str> {
    let [fin, syn, rst, _, ack] = [0, 1, 2, 3, 4].map(|bit| flags >> bit & 1 == 1);
    match () {
        () if rst => Some("rst"),
        () if syn && ack => Some("synack"),
        () if syn => Some("syn"),
        () if fin => Some("fin"),
        () if ack => Some("ack"),
        () => None,
    }
}

/// A flow, by its two keys.
#[derive(Clone, Debug)]
pub struct Flow {
    pub request: Five,
    pub reply: Five,
    pub state: State,
    pub last_second: u64,
    /// Where it stands in the table.
    pub place: usize,
}

/// The places of a table: the free ones in the order in which they are taken, and where the next flow that gives way
/// is looked for.
pub struct Places {
    pub free: VecDeque<usize>,
    hand: usize,
    capacity: usize,
}

impl Places {
    pub fn new(capacity: usize) -> Self {
        Self { free: (0..capacity).collect(), hand: 0, capacity }
    }

    /// Finds the flow that gives way to another, as a place in the list.
    pub fn next_to_go(&mut self, flows: &[Flow], is_ipv6: bool) -> Option<usize> {
        for _ in 0..self.capacity.min(64) {
            let place = self.hand % self.capacity;
            self.hand = place + 1;
            let found = flows.iter().position(|flow| flow.at() == (is_ipv6, place) && flow.state.gives_way());
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Flow {
    /// Which table it is in, and where.
    pub fn at(&self) -> (bool, usize) {
        (self.request.source.is_ipv6(), self.place)
    }
}

impl State {
    /// The state that the first segment of a flow gives it. Design decision 7: a segment with ACK and without SYN and
    /// RST is picked up, and a FIN counts at once.
    pub fn of_first(flags: u8) -> Option<Self> {
        match row(flags)? {
            "syn" => Some(SynSent),
            "ack" => Some(PickedUp),
            "fin" if flags & 0x10 != 0 => Some(FinWait),
            _ => None,
        }
    }

    pub fn after(self, flags: u8, is_reply: bool) -> Self {
        let Some(row) = row(flags) else { return self };
        let table = if is_reply { REPLY } else { REQUEST };
        let cells = table.iter().find(|(name, _)| *name == row).unwrap().1;
        let column = COLUMNS.iter().position(|state| *state == self).unwrap();
        let cell = cells.split_whitespace().nth(column).unwrap();
        NAMES.iter().find(|(name, _)| *name == cell).map_or(self, |(_, state)| *state)
    }

    /// Says whether a segment of the client opens a connection anew.
    pub fn is_reopened_by(self, flags: u8) -> bool {
        matches!(self, TimeWait | Close) && row(flags) == Some("syn")
    }

    /// Says whether the flow may be dropped for another: half-open, one-way or over (design decision 13).
    fn gives_way(self) -> bool {
        !matches!(
            self,
            Established
                | FinWait
                | CloseWait
                | LastAck
                | UdpStream
                | SctpEstablished
                | SctpShutdownSent
                | SctpShutdownRecd
        )
    }

    /// How many seconds of silence end the flow.
    pub fn timeout(self) -> u64 {
        match self {
            SynSent | SynSent2 | FinWait | TimeWait | UdpStream => 120,
            SynRecv => 60,
            Established => 86_400,
            CloseWait => 3_600,
            LastAck | UdpUnreplied => 30,
            Close | SctpClosed => 10,
            SctpEstablished => 210,
            SctpHeartbeatSent => 30,
            SctpCookieWait | SctpCookieEchoed => 3,
            SctpShutdownSent | SctpShutdownRecd | SctpShutdownAckSent => 3,
            PickedUp => 300,
        }
    }
}
