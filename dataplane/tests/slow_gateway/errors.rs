//! ICMP errors: those about flows, and those of the slow gateway itself.

use super::chain;
use super::checksum::{missing, set_word, sum, word};
use super::datagram::{self, Datagram, Five, Kind};
use super::ip::{self, IPV6};
use super::{Fate, Gateway, sctp};

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
    /// Where it ends here, and where the whole ended.
    end: usize,
    total: usize,
}

impl Gateway {
    /// Passes an error on that is about a flow. The flow stays as it is.
    pub(super) fn pass_error(&self, mut error: Datagram) -> Result<Option<Fate>, &'static str> {
        let quote_at = error.transport + 8;
        let is_ipv6 = error.is_ipv6();
        let Some(quote) = read_quote(&error.octets[quote_at..error.end], is_ipv6)? else { return Ok(None) };
        let Some(place) = self.owner(quote.sent.reversed()) else { return Ok(None) };
        if error.five.destination != quote.sent.source {
            return Ok(None);
        }
        if !error.has_right_checksum() {
            return Err("drop_icmp_checksum");
        }
        match error.octets[error.transport] {
            4 if !is_ipv6 => return Err("drop_source_quench"),
            5 if !is_ipv6 => return Err("drop_icmp_redirect"),
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
        error.mend_icmp();
        Ok(Some(self.leave_by(exit, error.octets)))
    }

    /// Tells the sender why its packet is dropped, if it may be told.
    pub(super) fn explain(
        &mut self,
        device: u32,
        octets: &[u8],
        reason: &'static str,
    ) -> Result<Fate, &'static str> {
        // 1500 octets are what a link takes.
        let (name, ipv4, ipv6) = match reason {
            "drop_ttl_exceeded" => ("answered_time_exceeded", [11, 0, 0, 0], [3, 0, 0, 0]),
            "drop_exceeds_mtu" => ("answered_fragmentation_needed", [3, 4, 0x05, 0xdc], [2, 0, 0x05, 0xdc]),
            _ => return Err(reason),
        };
        let datagram = Datagram::read(octets).unwrap();
        let is_to_many = octets[0] & 1 == 1;
        let is_later_of_ipv4 = datagram.kind == Kind::Fragment && !datagram.is_ipv6();
        if is_to_many || datagram.kind == Kind::IcmpError || is_later_of_ipv4 {
            return Err(reason);
        }
        self.spend()?;
        let [kind, code, high, low] = if datagram.is_ipv6() { ipv6 } else { ipv4 };
        let own = self.links.own(device, datagram.is_ipv6());
        Ok(Fate::Answer(name, datagram.quoted_in([kind, code, 0, 0, 0, 0, high, low], own)))
    }

    /// Says that nothing listens at the port, as the Service.
    pub(super) fn port_unreachable(&mut self, datagram: &Datagram) -> Result<Fate, &'static str> {
        self.spend()?;
        let [kind, code] = if datagram.is_ipv6() { [1, 4] } else { [3, 3] };
        let answer = datagram.quoted_in([kind, code, 0, 0, 0, 0, 0, 0], datagram.five.destination);
        Ok(Fate::Answer("answered_port_unreachable", answer))
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

/// `None` if the quoted packet is of a kind that has no flows, or no port is to be seen in it.
fn read_quote(quote: &[u8], is_ipv6: bool) -> Result<Option<Quote>, &'static str> {
    let malformed = Err("drop_malformed_quote");
    let read = if is_ipv6 { read_ipv6(quote) } else { read_ipv4(quote) };
    let Ok(read) = read else { return malformed };
    let Some((protocol, transport, total)) = read else { return Ok(None) };
    let end = total.min(quote.len());
    match protocol {
        number if number == datagram::icmp_of(is_ipv6) => {
            let is_error = end > transport && datagram::is_error(quote[transport], is_ipv6);
            if is_error { Err("drop_nested_icmp_error") } else { Ok(None) }
        }
        6 | 17 | 132 if end - transport < 8 => malformed,
        6 | 17 | 132 => {
            let (source, destination) = ip::addresses(quote, is_ipv6);
            let (source_port, destination_port) = (word(quote, transport), word(quote, transport + 2));
            let sent = Five { protocol, source, source_port, destination, destination_port };
            Ok(Some(Quote { sent, transport, end, total }))
        }
        _ => Ok(None),
    }
}

/// Protocol, start of the transport header, and end of a packet of which there may be less; `None` of one that has no
/// transport header.
type Parts = Option<(u8, usize, usize)>;

fn read_ipv4(quote: &[u8]) -> Result<Parts, ()> {
    if quote.len() < 20 || quote[0] >> 4 != 4 {
        return Err(());
    }
    let (transport, total) = (usize::from(quote[0] & 15) * 4, usize::from(word(quote, 2)));
    if transport < 20 || transport > quote.len() || total < transport {
        return Err(());
    }
    let is_first = word(quote, 6) & 0x1fff == 0;
    Ok(is_first.then_some((quote[9], transport, total)))
}

fn read_ipv6(quote: &[u8]) -> Result<Parts, ()> {
    let is_jumbogram = |quote: &[u8]| word(quote, 4) == 0 && quote[6] == 0;
    if quote.len() < IPV6 || quote[0] >> 4 != 6 || is_jumbogram(quote) {
        return Err(());
    }
    let total = IPV6 + usize::from(word(quote, 4));
    let packet = &quote[..total.min(quote.len())];
    let chain = chain::walk(packet).map_err(|_| ())?;
    let has_transport = chain.is_of_first(packet) && !chain.has_segments_left(packet);
    Ok(has_transport.then_some((chain.protocol, chain.end, total)))
}

/// Gives the quoted packet the ends it came with. What its checksums cover has the same sum before and after.
fn rewrite_quote(octets: &mut [u8], quote: &Quote, came: Five) {
    let Quote { transport, end, total, .. } = *quote;
    let is_ipv6 = came.source.is_ipv6();
    let checksum = match came.protocol {
        6 if end - transport >= 18 => Some(transport + 16),
        17 if word(octets, transport + 6) != 0 => Some(transport + 6),
        _ => None,
    };
    let addresses = ip::place_of_addresses(is_ipv6);
    // Addresses, ports and checksum: all of what the transport checksum covers that changes.
    let changing = |octets: &[u8]| {
        let checksum = checksum.map_or([0, 0], |place| [octets[place], octets[place + 1]]);
        sum(&[&octets[addresses.clone()], &octets[transport..transport + 4], &checksum].concat())
    };
    let (whole, header) = (changing(octets), sum(&octets[..transport]));
    let came_from_to = [ip::octets_of(came.source), ip::octets_of(came.destination)].concat();
    octets[addresses.clone()].copy_from_slice(&came_from_to);
    let ports_before = octets[transport..transport + 4].to_vec();
    set_word(octets, transport, came.source_port);
    set_word(octets, transport + 2, came.destination_port);
    if came.protocol == 132 && end - transport >= sctp::HEADER {
        // What is not here of the packet changes both sums alike, so zeros do as well.
        let of_whole = |ports: &[u8]| {
            let rest = std::iter::repeat_n(0, total - transport - ports.len());
            sctp::crc(ports.iter().copied().chain(rest))
        };
        let ports = &octets[transport..transport + 4];
        let change = of_whole(&ports_before) ^ of_whole(ports);
        let packet = &mut octets[transport..];
        let checksum = sctp::stated(packet) ^ change;
        sctp::state_checksum(packet, checksum);
    }
    if !is_ipv6 {
        set_word(octets, 10, 0);
        let mended = missing(header, sum(&octets[..transport]));
        set_word(octets, 10, mended);
    }
    if let Some(place) = checksum {
        set_word(octets, place, 0);
        let mended = missing(whole, changing(octets));
        let is_none = came.protocol == 17 && mended == 0;
        set_word(octets, place, if is_none { 0xffff } else { mended });
    }
}
