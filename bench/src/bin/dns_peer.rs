//! A DNS server alone, on loopback, with as many Services as wanted: what `bench/dns` measures beside other servers.
//!
//! `serve COUNT ADDR:PORT` answers until it is killed. `zone COUNT` prints the same names as a zone file, `queries COUNT
//! MIX` a list of questions for dnsperf: `hits`, or `search`, what a pod's search list makes of names.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate::cluster::{
    Cluster, Dirty, Endpoint, EndpointSlice, Event, ObjectName, Service, ServiceKind, ServicePort, SlicePort,
};
use tidegate::dns::{ForwardSettings, Server, ServerSettings, TcpLimits, Zone, ZoneSettings};
use tidegate_dataplane::net::Protocol;

/// Namespaces that the Services are spread over.
const NAMESPACES: usize = 50;
/// Every so many Services one is headless, with four endpoints.
const HEADLESS_EVERY: usize = 10;
/// Questions in a list.
const QUESTIONS: usize = 20_000;
const USAGE: &str = "usage: dns_peer serve COUNT ADDR:PORT | zone COUNT | queries COUNT hits|search";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", count, listen] => serve(count.parse()?, listen.parse()?),
        ["zone", count] => {
            print_zone(count.parse()?);
            Ok(())
        }
        ["queries", count, mix @ ("hits" | "search")] => {
            print_queries(count.parse()?, mix == "search");
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Name and namespace of a Service.
fn name(number: usize) -> (String, String) {
    (format!("service-{number}"), format!("namespace-{}", number % NAMESPACES))
}

fn address(network: u8, number: usize) -> [u8; 4] {
    let [_, high, middle, low] = (number as u32 + 1).to_be_bytes();
    [10, network | high, middle, low]
}

fn is_headless(number: usize) -> bool {
    number.is_multiple_of(HEADLESS_EVERY)
}

fn service_events(number: usize) -> [Event; 2] {
    let (service, namespace) = name(number);
    let object = ObjectName::new(&namespace, &service);
    let kind = match is_headless(number) {
        true => ServiceKind::Headless,
        false => ServiceKind::ClusterIp(vec![address(96, number).into()]),
    };
    let ports = vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }];
    let endpoint = |at: usize| Endpoint {
        address: address(128, 4 * number + at).into(),
        hostname: None,
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        pod: None,
    };
    let slice = EndpointSlice {
        name: ObjectName::new(&namespace, &format!("{service}-1")),
        service: object.clone(),
        endpoints: (0..4).map(endpoint).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    };
    let service = Service { name: object, kind, ports, foreign_proxy: false };
    [Event::ServiceApplied(Arc::new(service)), Event::SliceApplied(Arc::new(slice))]
}

fn serve(count: usize, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    (0..count).flat_map(service_events).for_each(|event| cluster.apply(event, &mut dirty));
    let mut zone = Zone::new(ZoneSettings::default())?.updated(&cluster, &dirty);
    zone.set_synced();
    let settings = ServerSettings {
        listen: vec![listen],
        zone: Arc::new(ArcSwap::from_pointee(zone)),
        forward: ForwardSettings::default(),
        log_queries: false,
        tcp: TcpLimits::default(),
    };
    // One thread, as in a gateway.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut server = Server::start(settings, Arc::default())?;
        println!("ready");
        Err(server.failed().await.into())
    })
}

fn print_zone(count: usize) {
    println!("$ORIGIN cluster.local.\n$TTL 30");
    println!("@ SOA ns.dns hostmaster 1 7200 1800 86400 30\n@ NS ns.dns\nns.dns A 127.0.0.1");
    let dotted = |[a, b, c, d]: [u8; 4]| format!("{a}.{b}.{c}.{d}");
    for number in 0..count {
        let (service, namespace) = name(number);
        let owner = format!("{service}.{namespace}.svc");
        if is_headless(number) {
            (0..4).for_each(|at| println!("{owner} A {}", dotted(address(128, 4 * number + at))));
        } else {
            println!("{owner} A {}", dotted(address(96, number)));
        }
    }
}

/// Prints A questions in an order that jumps through the Services. The search mix is what a resolver with `ndots:5`
/// asks for a Service of another namespace: a name that does not exist, then the one that does, each also as AAAA.
fn print_queries(count: usize, search: bool) {
    let (mut printed, mut number) = (0, 0);
    while printed < QUESTIONS {
        number = (number + 2_654_435_761) % count.max(1);
        let (service, namespace) = name(number);
        let found = format!("{service}.{namespace}.svc.cluster.local");
        let missed = format!("{service}.{namespace}.client.svc.cluster.local");
        let lines = match search {
            true => vec![
                format!("{missed} A"),
                format!("{missed} AAAA"),
                format!("{found} A"),
                format!("{found} AAAA"),
            ],
            false => vec![format!("{found} A")],
        };
        printed += lines.len();
        println!("{}", lines.join("\n"));
    }
}
