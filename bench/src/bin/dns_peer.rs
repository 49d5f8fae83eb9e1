//! A DNS server alone, on loopback, with as many Services as wanted: what `bench/dns` measures beside other servers.
//!
//! `serve COUNT ADDR:PORT` answers until it is killed. `zone COUNT` prints the same names as a zone file, `queries COUNT
//! MIX` a list of questions for dnsperf: `hits`, or `search`, what a pod's search list makes of names.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate::dns::{ForwardSettings, Server, ServerSettings, TcpLimits};
use tidegate_bench::names;

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

fn serve(count: usize, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let settings = ServerSettings {
        listen: vec![listen],
        zone: Arc::new(ArcSwap::from_pointee(names::zone(count))),
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
    for number in 0..count {
        for [a, b, c, d] in names::addresses(number) {
            println!("{} A {a}.{b}.{c}.{d}", names::owner(number));
        }
    }
}

/// Prints A questions in an order that jumps through the Services. The search mix is what a resolver with `ndots:5`
/// asks for a Service of another namespace: a name that does not exist, then the one that does, each also as AAAA.
fn print_queries(count: usize, search: bool) {
    let (mut printed, mut number) = (0, 0);
    while printed < QUESTIONS {
        number = (number + 2_654_435_761) % count.max(1);
        let found = format!("{}.cluster.local", names::owner(number));
        let missed = format!("{}.client.svc.cluster.local", names::owner(number));
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
