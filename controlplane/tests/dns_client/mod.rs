//! A server on loopback, and a client that speaks to it with plain sockets.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tidegate::dns::{
    Counters, Error, ForwardSettings, Sample, Server, ServerSettings, TcpLimits, Value, Zone,
};
use tokio::sync::oneshot;

/// Longer than any answer takes, upstreams' time-outs included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A server on a thread of its own; stops when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(zone: Zone, forward: ForwardSettings) -> Self {
        Self::try_start(zone, forward, vec![ANY_PORT]).expect("the server starts")
    }

    pub(crate) fn try_start(
        zone: Zone,
        forward: ForwardSettings,
        listen: Vec<SocketAddr>,
    ) -> Result<Self, Error> {
        Self::try_start_with(zone, forward, listen, TcpLimits::default())
    }

    pub(crate) fn try_start_with(
        zone: Zone,
        forward: ForwardSettings,
        listen: Vec<SocketAddr>,
        tcp: TcpLimits,
    ) -> Result<Self, Error> {
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        let counters = Arc::new(Counters::default());
        let settings = ServerSettings { listen, zone: zone.clone(), forward, log_queries: false, tcp };
        let (started, start) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let shared = counters.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                match Server::start(settings, shared) {
                    Ok(server) => {
                        started.send(Ok(server.addresses()[0])).expect("the test waits");
                        stopped.await.ok();
                        server.shutdown().await;
                    }
                    Err(error) => started.send(Err(error)).expect("the test waits"),
                }
            });
        });
        let address = start.recv().expect("the thread lives")?;
        Ok(Self { address, zone, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// Reads a counter by its name and the value of one of its labels; empty stands for any.
    pub(crate) fn count(&self, name: &str, label: &str) -> u64 {
        let samples = self.counters.snapshot();
        let is = |sample: &&Sample| {
            sample.name == name && (label.is_empty() || sample.labels.iter().any(|(_, value)| value == label))
        };
        let value = |sample: &Sample| match &sample.value {
            Value::Count(value) | Value::Level(value) => *value,
            Value::Spread(buckets, _) => buckets.iter().map(|(_, count)| count).sum(),
        };
        samples.iter().filter(is).map(value).sum()
    }

    /// Waits until a counter has a value; what is counted may come after what a client sees.
    #[track_caller]
    pub(crate) fn await_count(&self, name: &str, label: &str, value: u64) {
        let start = Instant::now();
        while self.count(name, label) != value {
            assert!(start.elapsed() < PATIENCE, "{name} {label} is {}, not {value}", self.count(name, label));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn udp(&self, message: &Message) -> Message {
        Message::from_vec(&self.udp_octets(&message.to_vec().expect("encodes"))).expect("decodes")
    }

    pub(crate) fn udp_octets(&self, octets: &[u8]) -> Vec<u8> {
        let socket = self.udp_socket();
        socket.send(octets).expect("sends");
        receive(&socket).expect("a reply")
    }

    pub(crate) fn udp_socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind(ANY_PORT).expect("binds");
        socket.connect(self.address).expect("connects");
        socket.set_read_timeout(Some(PATIENCE)).expect("sets");
        socket
    }

    pub(crate) fn tcp(&self, message: &Message) -> Message {
        Message::from_vec(&self.tcp_octets(&message.to_vec().expect("encodes"))).expect("decodes")
    }

    pub(crate) fn tcp_octets(&self, octets: &[u8]) -> Vec<u8> {
        let mut stream = self.tcp_stream();
        send_tcp(&mut stream, octets);
        receive_tcp(&mut stream).expect("a reply")
    }

    /// Returns all counters as `name{labels} value`; of a histogram, the count.
    pub(crate) fn metrics(&self) -> Vec<String> {
        let line = |sample: Sample| {
            let labels: Vec<String> =
                sample.labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            let value = match sample.value {
                Value::Count(value) | Value::Level(value) => value,
                Value::Spread(buckets, _) => buckets.iter().map(|(_, count)| count).sum(),
            };
            format!("{}{{{}}} {value}", sample.name, labels.join(","))
        };
        self.counters.snapshot().into_iter().map(line).collect()
    }

    pub(crate) fn tcp_stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("sets");
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends without a panic");
        }
    }
}

pub(crate) fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut datagram = vec![0; 65_536];
    let length = socket.recv(&mut datagram)?;
    datagram.truncate(length);
    Ok(datagram)
}

pub(crate) fn send_tcp(stream: &mut TcpStream, octets: &[u8]) {
    let length = u16::try_from(octets.len()).expect("fits").to_be_bytes();
    stream.write_all(&[&length, octets].concat()).expect("sends");
}

pub(crate) fn receive_tcp(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

pub(crate) fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), qtype));
    message
}

pub(crate) fn question_edns(name: &str, qtype: RecordType, payload: u16) -> Message {
    let mut message = question(name, qtype);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// Returns the records as `owner TYPE data`.
pub(crate) fn lines(records: &[hickory_proto::rr::Record]) -> Vec<String> {
    let line = |record: &hickory_proto::rr::Record| {
        format!("{} {} {}", record.name, record.record_type(), record.data)
    };
    records.iter().map(line).collect()
}
