//! What Tidegate reads from the kernel and puts on the machine, each test in network namespaces of its own.

mod instance;
mod namespace;
mod neighbours;
mod punt_device;
mod routes;

use std::time::Duration;

use tidegate::netlink::{KernelEvent, KernelEvents};

/// Waits until an event fits; panics after 10 s.
async fn wait_for(events: &mut KernelEvents, what: &str, fits: impl Fn(&KernelEvent) -> bool) -> KernelEvent {
    let wait = async {
        loop {
            let event = events.next().await.expect("the event socket lives");
            if fits(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("no event: {what}"))
}
