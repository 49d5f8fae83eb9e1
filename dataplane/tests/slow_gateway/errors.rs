//! ICMP errors: those about flows, and those of the slow gateway itself.

use super::datagram::{self, Datagram, Five, Kind};
use super::{Fate, Gateway};

/// A thousand answers a second, and a thousand at once.
const ANSWER_NS: u64 = 1_000_000;
const MOST_ANSWERS: u64 = 1_000;

/// The answers that may still be sent, as the time that they stand for.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left_ns: u64,
    at_ns: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left_ns: MOST_ANSWERS * ANSWER_NS, at_ns: 0 }
    }
}

/// Where the parts of a quoted packet are, in octets of the quote.
struct Quote {
    sent: Five,
    transport: usize,
    end: usize,
}

impl Gateway {
    /// Passes an error on that is about a flow. The flow stays as it is.
    pub(super) fn pass_error(&self, mut error: Datagram) -> Result<Option<Fate>, &'static str> {
        let quote_at = error.transport + 8;
        let Some(quote) = read_quote(&error.octets[quote_at..error.end])? else { return Ok(None) };
        let Some(place) = self.owner(quote.sent.reversed()) else { return Ok(None) };
        if error.five.destination != quote.sent.source {
            return Ok(None);
        }
        if datagram::sum(&error.octets[error.transport..error.end]) != 0 {
            return Err("drop_icmp_checksum");
        }
        match error.octets[error.transport] {
            4 => return Err("drop_source_quench"),
            5 => return Err("drop_icmp_redirect"),
            _ => {}
        }
        let flow = &self.flows[place];
        let is_request = quote.sent == flow.reply.reversed();
        let came = if is_request { flow.request } else { flow.reply };
        let exit = self.exit(&error, came.source)?;
        let is_by_end = error.five.source == quote.sent.destination;
        let from = if is_by_end { came.destination } else { error.five.source };
        rewrite_quote(&mut error.octets[quote_at..error.end], &quote, came);
        error.readdress(from, came.source);
        datagram::mend_icmp(&mut error.octets[error.transport..error.end]);
        Ok(Some(self.leave_by(exit, error.octets)))
    }

    /// Tells the sender why its packet is dropped, if it may be told.
    pub(super) fn explain(
        &mut self,
        device: u32,
        octets: &[u8],
        reason: &'static str,
    ) -> Result<Fate, &'static str> {
        let (name, message) = match reason {
            "drop_ttl_exceeded" => ("answered_time_exceeded", [11, 0, 0, 0, 0, 0, 0, 0]),
            // 1500 octets.
            "drop_exceeds_mtu" => ("answered_fragmentation_needed", [3, 4, 0, 0, 0, 0, 0x05, 0xdc]),
            _ => return Err(reason),
        };
        let datagram = Datagram::read(octets).unwrap();
        let is_to_many = octets[0] & 1 == 1;
        if is_to_many || matches!(datagram.kind, Kind::IcmpError | Kind::Fragment) {
            return Err(reason);
        }
        self.spend()?;
        let answer = datagram.quoted_in(message, self.links.own[&device]);
        Ok(Fate::Answer(name, answer))
    }

    /// Takes one answer from the allowance.
    pub(super) fn spend(&mut self) -> Result<(), &'static str> {
        let Allowance { left_ns, at_ns } = self.allowance;
        let left_ns = (left_ns + self.now_ns - at_ns).min(MOST_ANSWERS * ANSWER_NS);
        let spent = left_ns.checked_sub(ANSWER_NS);
        self.allowance = Allowance { left_ns: spent.unwrap_or(left_ns), at_ns: self.now_ns };
        spent.map(|_| ()).ok_or("drop_icmp_rate_limited")
    }
}

fn read_quote(quote: &[u8]) -> Result<Option<Quote>, &'static str> {
    let malformed = Err("drop_malformed_quote");
    if quote.len() < 20 || quote[0] >> 4 != 4 {
        return malformed;
    }
    let transport = usize::from(quote[0] & 15) * 4;
    let total = usize::from(datagram::word(quote, 2));
    if transport < 20 || transport > quote.len() || total < transport {
        return malformed;
    }
    if datagram::word(quote, 6) & 0x1fff != 0 {
        return Ok(None);
    }
    let end = total.min(quote.len());
    match quote[9] {
        1 if end > transport && [3, 4, 5, 11, 12].contains(&quote[transport]) => {
            Err("drop_nested_icmp_error")
        }
        6 | 17 | 132 if end - transport < 8 => malformed,
        6 | 17 => {
            let address = |at: usize| [quote[at], quote[at + 1], quote[at + 2], quote[at + 3]];
            let sent = Five {
                protocol: quote[9],
                source: address(12),
                source_port: datagram::word(quote, transport),
                destination: address(16),
                destination_port: datagram::word(quote, transport + 2),
            };
            Ok(Some(Quote { sent, transport, end }))
        }
        _ => Ok(None),
    }
}

/// Gives the quoted packet the ends it came with. What its checksums cover has the same sum before and after.
fn rewrite_quote(octets: &mut [u8], quote: &Quote, came: Five) {
    let Quote { transport, end, .. } = *quote;
    let checksum = match came.protocol {
        6 if end - transport >= 18 => Some(transport + 16),
        17 if datagram::word(octets, transport + 6) != 0 => Some(transport + 6),
        _ => None,
    };
    // Addresses, ports and checksum: all of what the transport checksum covers that changes.
    let changing = |octets: &[u8]| {
        let checksum = checksum.map_or([0, 0], |place| [octets[place], octets[place + 1]]);
        datagram::sum(&[&octets[12..20], &octets[transport..transport + 4], &checksum].concat())
    };
    let (whole, header) = (changing(octets), datagram::sum(&octets[..transport]));
    octets[12..16].copy_from_slice(&came.source);
    octets[16..20].copy_from_slice(&came.destination);
    datagram::set_word(octets, transport, came.source_port);
    datagram::set_word(octets, transport + 2, came.destination_port);
    datagram::set_word(octets, 10, 0);
    let mended = datagram::missing(header, datagram::sum(&octets[..transport]));
    datagram::set_word(octets, 10, mended);
    if let Some(place) = checksum {
        datagram::set_word(octets, place, 0);
        let mended = datagram::missing(whole, changing(octets));
        let is_none = came.protocol == 17 && mended == 0;
        datagram::set_word(octets, place, if is_none { 0xffff } else { mended });
    }
}
