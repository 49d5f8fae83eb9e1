//! What a plain answer costs the allocator: the list of its records, and for SRV what tells equal ones apart.
#![allow(unsafe_code)]

mod dns_cluster;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use dns_cluster::zone;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tidegate::dns::Writer;

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

thread_local! {
    // Made without a call of the allocator, which would not end.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every request goes unchanged to `System`, which upholds the contract; the count touches no memory but the
// thread's own cell, which needs no allocator and no destructor. Zeroed and resized memory come through the trait's
// default methods, which call these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn message(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), qtype));
    message.set_edns(Edns::new());
    message.to_vec().expect("encodes")
}

#[test]
fn a_plain_answer_costs_two_allocations_at_most() {
    let (zone, mut writer, mut reply) = (zone(), Writer::default(), Vec::with_capacity(65_535));
    let rows = [
        ("ent.dev.svc.cluster.local.", RecordType::A, 1),
        ("ent.dev.svc.cluster.local.", RecordType::AAAA, 1),
        ("web.dev.svc.cluster.local.", RecordType::A, 1),
        ("ent.prod.svc.cluster.local.", RecordType::AAAA, 0),
        ("nobody.dev.svc.cluster.local.", RecordType::A, 0),
        ("ent.nowhere.svc.cluster.local.", RecordType::A, 0),
        ("www.example.org.cluster.local.", RecordType::A, 0),
        ("1-2-3-4.dev.pod.cluster.local.", RecordType::A, 2),
    ];
    for (name, qtype, most) in rows {
        let message = message(name, qtype);
        let before = ALLOCATIONS.get();
        let answered = writer.answer(black_box(&zone), black_box(&message), false, 0, &mut reply);
        let cost = ALLOCATIONS.get() - before;
        assert!(answered.is_some(), "{name}");
        assert!(cost <= most, "{name} {qtype}: {cost} allocations");
    }
}
