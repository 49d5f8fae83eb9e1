//! Sends what a plan says and puts together what became of it.
#![allow(unsafe_code)]

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use tidegate_dataplane::clock::Now;

use super::ends::{Ends, Place};
use super::frame::{Reply, Segment, Stamp, Stations, Template, flags, read_reply, since_time_value};
use super::plan::{Kind, Pace, Plan, Schedule};
use super::port::{BURST, Port};
use super::results::{Results, Tally};
use super::targets::{Addressing, Protocol, Targets, flow_number};
use crate::netns;
use crate::processor::Work;

/// The first of the flows that are opened while the clock runs; those opened before are below.
const FIRST_NEW_FLOW: u32 = 1 << 24;
/// How fast flows are opened before the clock starts, per second.
const OPENING_RATE: f64 = 40_000.0;
/// Rounds of opening the flows that are not yet open.
const OPENING_ROUNDS: u32 = 5;
/// Time for what is under way at the end to arrive.
const DRAIN: Duration = Duration::from_millis(100);
/// Time for the last units to leave: more than a nap.
const GRACE_NS: u64 = 400_000;
/// A nap of [`Pace::Sleep`].
const NAP: Duration = Duration::from_micros(200);
/// First sequence number of a client's connection.
const CLIENT_SEQUENCE: u32 = 1000;

/// A client and a sink with something to be measured between them.
pub struct Generator {
    port: Port,
    ends: Ends,
    targets: Targets,
    stations: Stations,
    /// Number of the next packet of each flow that is kept.
    sequences: Vec<u32>,
    next_new_flow: u32,
    /// Connections of [`Kind::EstablishedTcp`]: the first one's number, and how many.
    connections: Option<(u32, u32)>,
    /// Where the next connections that are kept begin.
    next_connections: u32,
}

/// Said about once a second while a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the start.
    pub seconds: f64,
    /// Units that left.
    pub sent: u64,
    /// Units that arrived.
    pub arrived: u64,
}

impl Generator {
    /// Opens the client's queue and attaches the programs at both ends.
    pub fn open(
        client: &Place,
        queue: u32,
        sink: &Place,
        stations: Stations,
        targets: Targets,
    ) -> Result<Self> {
        let mut ends = Ends::attach(client, sink)?;
        let port = netns::within(&client.namespace, || Port::open(&client.device, queue))?;
        ends.give_replies(queue, &port)?;
        let next_new_flow = FIRST_NEW_FLOW;
        let sequences = Vec::new();
        Ok(Self {
            port,
            ends,
            targets,
            stations,
            sequences,
            next_new_flow,
            connections: None,
            next_connections: 0,
        })
    }

    /// Forgets the connections that were opened: whoever knew them is gone.
    pub fn forget_connections(&mut self) {
        self.connections = None;
    }

    /// Carries out a plan.
    pub fn run(&mut self, plan: &Plan, mut tell: impl FnMut(Progress)) -> Result<Results> {
        let template = Template::new(self.stations, plan.bytes);
        let first_flow = self.prepare(plan, &template)?;
        let draws = if plan.kind.opens_flows() { vec![0] } else { plan.popularity.draws(plan.flows) };
        self.ends.echo_below(if plan.echo { u32::MAX } else { 0 })?;
        prefer_short_sleeps();
        let (counts, buckets) = (self.ends.counts()?, self.ends.buckets()?);
        let work = Work::read()?;
        let start = Now::read().ns() + 1_000_000;
        let mut run = Run {
            plan,
            template: &template,
            draws: &draws,
            first_flow,
            schedule: plan.schedule(start),
            tally: Tally::default(),
        };
        let end = start + (plan.seconds * 1e9) as u64;
        let mut told = start;
        loop {
            let now = Now::read().ns();
            if now >= end + GRACE_NS || (run.schedule.next_due().is_none() && self.port.in_flight() == 0) {
                break;
            }
            let busy = run.send_due(self, now)? + run.receive(self)?;
            if now > told + 1_000_000_000 {
                told = now;
                let arrived = self.ends.counts()?.since(counts).received;
                tell(Progress { seconds: (now - start) as f64 / 1e9, sent: run.tally.sent, arrived });
            }
            if busy == 0 && plan.pace == Pace::Sleep {
                thread::sleep(NAP);
            }
        }
        let seconds = (Now::read().ns().min(end) - start) as f64 / 1e9;
        let cpu_seconds = Work::read()?.ours_since(work);
        run.drain(self)?;
        let sink = self.ends.counts()?.since(counts);
        let latency = self.ends.buckets()?.since(&buckets);
        Ok(Results::new(*plan, (seconds.max(plan.seconds), cpu_seconds), &run.tally, sink, &latency))
    }

    /// Sees that the flows of a plan are open; returns the number of the first.
    fn prepare(&mut self, plan: &Plan, template: &Template) -> Result<u32> {
        match plan.kind {
            Kind::NewUdp | Kind::Connections => Ok(0),
            Kind::EstablishedUdp => {
                self.sequences.resize(self.sequences.len().max(plan.flows as usize), 0);
                self.ends.echo_below(u32::MAX)?;
                self.open_flows(Kind::EstablishedUdp, 0, plan.flows, template)?;
                Ok(0)
            }
            Kind::EstablishedTcp => {
                if let Some((first, _)) = self.connections.filter(|(_, count)| *count == plan.flows) {
                    return Ok(first);
                }
                let first = self.next_connections;
                self.next_connections += plan.flows;
                self.sequences.resize(self.sequences.len().max((first + plan.flows) as usize), 0);
                self.open_flows(Kind::EstablishedTcp, first, plan.flows, template)?;
                self.connections = Some((first, plan.flows));
                Ok(first)
            }
        }
    }

    /// Sends the first packet of each flow until each was answered.
    fn open_flows(&mut self, kind: Kind, first: u32, count: u32, template: &Template) -> Result<()> {
        let mut is_open = vec![false; count as usize];
        for _ in 0..OPENING_ROUNDS {
            let missing: Vec<u32> =
                (0..count).filter(|number| !is_open[*number as usize]).map(|number| first + number).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let start = Now::read().ns();
            for (place, number) in (0_u64..).zip(missing) {
                let due = start + (place as f64 * 1e9 / OPENING_RATE) as u64;
                while Now::read().ns() < due {
                    self.take_openings(first, template, &mut is_open)?;
                }
                self.stage_opening(kind, number, template)?;
                if place.is_multiple_of(BURST as u64 / 4) {
                    self.port.flush()?;
                }
            }
            let drained = Now::read().ns() + DRAIN.as_nanos() as u64;
            while Now::read().ns() < drained && is_open.contains(&false) {
                self.port.flush()?;
                self.take_openings(first, template, &mut is_open)?;
            }
        }
        let missing = is_open.iter().filter(|is_open| !**is_open).count();
        if missing > 0 {
            bail!("{missing} of {count} flows were not answered");
        }
        Ok(())
    }

    fn stage_opening(&mut self, kind: Kind, number: u32, template: &Template) -> Result<bool> {
        let flow = self.targets.flow(number, kind.protocol());
        let due_ns = Now::read().ns();
        if kind.protocol() == Protocol::Udp {
            let sequence = &mut self.sequences[number as usize];
            let stamp = Stamp { flow: number, sequence: *sequence, due_ns };
            *sequence += 1;
            return self.port.stage(|frame| template.write_datagram(frame, &flow, stamp));
        }
        let syn = Segment { flags: flags::SYN, sequence: CLIENT_SEQUENCE, acknowledged: 0 };
        self.port.stage(|frame| template.write_segment(frame, &flow, syn, due_ns, None))
    }

    /// Notes which flows were answered, and finishes the handshakes of connections.
    fn take_openings(&mut self, first: u32, template: &Template, is_open: &mut [bool]) -> Result<()> {
        let mut opened: Vec<(u32, Option<(Addressing, Segment)>)> = Vec::with_capacity(BURST);
        self.port.receive(|frame| match read_reply(frame) {
            Some(Reply::Datagram(stamp)) => opened.push((stamp.flow, None)),
            Some(Reply::Segment { flow, segment, .. }) if segment.flags == flags::SYN | flags::ACK => {
                let number = flow_number(flow.client, flow.client_port);
                opened.extend(number.map(|number| (number, Some((flow, segment)))));
            }
            _ => {}
        });
        for (number, segment) in opened {
            if let Some(is_open) = number.checked_sub(first).and_then(|place| is_open.get_mut(place as usize))
            {
                *is_open = true;
            }
            if let Some((flow, segment)) = segment {
                let ack = acknowledge(&segment, flags::ACK);
                self.port.stage(|frame| template.write_segment(frame, &flow, ack, Now::read().ns(), None))?;
            }
        }
        Ok(())
    }
}

/// What a client says next to a segment that took one sequence number.
const fn acknowledge(segment: &Segment, flags: u8) -> Segment {
    Segment { flags, sequence: segment.acknowledged, acknowledged: segment.sequence.wrapping_add(1) }
}

/// Lets naps be as short as they are meant: a thread's timers may otherwise be 50 µs late.
fn prefer_short_sleeps() {
    // SAFETY: sets a number of the calling thread; no memory is touched. It cannot fail for this option.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// A plan that is being carried out.
struct Run<'plan> {
    plan: &'plan Plan,
    template: &'plan Template,
    draws: &'plan [u32],
    first_flow: u32,
    schedule: Schedule,
    tally: Tally,
}

impl Run<'_> {
    /// Sends the units that are due, at most a burst; returns how many.
    fn send_due(&mut self, generator: &mut Generator, now: u64) -> Result<usize> {
        for staged in 0..BURST {
            let Some(due_ns) = self.schedule.next_due().filter(|due| *due <= now) else {
                if staged > 0 || generator.port.in_flight() > 0 {
                    generator.port.flush()?;
                }
                return Ok(staged);
            };
            if !self.stage_unit(generator, due_ns)? {
                return Ok(staged);
            }
            self.schedule.due(now);
            self.tally.sent += 1;
            self.tally.lateness.saturating_record((now - due_ns).max(1));
        }
        Ok(BURST)
    }

    fn stage_unit(&self, generator: &mut Generator, due_ns: u64) -> Result<bool> {
        let template = self.template;
        if self.plan.kind.opens_flows() {
            let number = generator.next_new_flow;
            let flow = generator.targets.flow(number, self.plan.kind.protocol());
            let stamp = Stamp { flow: number, sequence: 0, due_ns };
            let syn = Segment { flags: flags::SYN, sequence: CLIENT_SEQUENCE, acknowledged: 0 };
            let staged = generator.port.stage(|frame| match self.plan.kind {
                Kind::NewUdp => template.write_datagram(frame, &flow, stamp),
                _ => template.write_segment(frame, &flow, syn, due_ns, None),
            })?;
            generator.next_new_flow += u32::from(staged);
            return Ok(staged);
        }
        let draw = self.draws[(self.tally.sent % self.draws.len() as u64) as usize];
        let number = self.first_flow + draw;
        let sequence = &mut generator.sequences[number as usize];
        let stamp = Stamp { flow: number, sequence: *sequence, due_ns };
        let flow = generator.targets.flow(number, self.plan.kind.protocol());
        // The same data again and again: always inside of the window, and never acknowledged.
        let data = Segment { flags: flags::ACK | flags::PSH, sequence: CLIENT_SEQUENCE + 1, acknowledged: 2 };
        let staged = generator.port.stage(|frame| match self.plan.kind.protocol() {
            Protocol::Udp => template.write_datagram(frame, &flow, stamp),
            Protocol::Tcp => template.write_segment(frame, &flow, data, due_ns, Some(stamp)),
        })?;
        *sequence = sequence.wrapping_add(u32::from(staged));
        Ok(staged)
    }

    /// Takes a burst of replies and goes on with their connections; returns how many.
    fn receive(&mut self, generator: &mut Generator) -> Result<usize> {
        let mut segments: Vec<(Addressing, Segment)> = Vec::new();
        let now = Now::read().ns();
        let tally = &mut self.tally;
        let count = generator.port.receive(|frame| match read_reply(frame) {
            Some(Reply::Datagram(stamp)) => {
                tally.replies += 1;
                tally
                    .round_trip
                    .saturating_record((now & 0xffff_ffff_ffff).saturating_sub(stamp.due_ns).max(1));
            }
            Some(Reply::Segment { flow, segment, echoed }) => {
                if segment.flags & flags::SYN != 0 {
                    tally.round_trip.saturating_record(since_time_value(echoed, now).max(1));
                }
                segments.push((flow, segment));
            }
            None => {}
        });
        for (flow, segment) in &segments {
            self.go_on(generator, flow, segment)?;
        }
        if !segments.is_empty() {
            generator.port.flush()?;
        }
        Ok(count)
    }

    /// Sends what follows in a connection.
    fn go_on(&mut self, generator: &mut Generator, flow: &Addressing, segment: &Segment) -> Result<()> {
        let Some(number) = flow_number(flow.client, flow.client_port) else { return Ok(()) };
        if self.plan.kind != Kind::Connections || number < FIRST_NEW_FLOW {
            return Ok(());
        }
        let due_ns = Now::read().ns();
        let mut send = |segment, stamp| {
            generator.port.stage(|frame| self.template.write_segment(frame, flow, segment, due_ns, stamp))
        };
        if segment.flags & flags::RST != 0 {
            self.tally.reset += 1;
        } else if segment.flags & flags::SYN != 0 {
            self.tally.opened += 1;
            send(acknowledge(segment, flags::ACK), None)?;
            let stamp = Stamp { flow: number, sequence: 0, due_ns };
            send(acknowledge(segment, flags::ACK | flags::PSH), Some(stamp))?;
            let mut fin = acknowledge(segment, flags::ACK | flags::FIN);
            fin.sequence = fin.sequence.wrapping_add(self.template.segment_data());
            send(fin, None)?;
        } else if segment.flags & flags::FIN != 0 {
            self.tally.closed += 1;
            send(acknowledge(segment, flags::ACK), None)?;
        }
        Ok(())
    }

    /// Waits until what is under way has arrived, or the time for that is over.
    fn drain(&mut self, generator: &mut Generator) -> Result<()> {
        let mut quiet_since = Now::read().ns();
        let mut seen = generator.ends.counts()?;
        while Now::read().ns() - quiet_since < DRAIN.as_nanos() as u64 {
            generator.port.flush()?;
            let count = self.receive(generator)?;
            let counts = generator.ends.counts()?;
            if count > 0 || counts != seen {
                seen = counts;
                quiet_since = Now::read().ns();
            }
        }
        Ok(())
    }
}
