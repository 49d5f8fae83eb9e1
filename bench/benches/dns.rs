//! What an answer of cluster DNS costs without a socket: the short way, and the same question through hickory's codec.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{Criterion, criterion_group, criterion_main};
use hickory_proto::op::{Edns, Message, Metadata, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tidegate::dns::{Writer, Zone};
use tidegate_bench::names;

const SERVICES: usize = 5000;

fn question(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), qtype));
    message.set_edns(Edns::new());
    message.to_vec().expect("encodes")
}

/// Measures questions about all Services in turn, so that the table is not in the processor's caches.
fn measure(criterion: &mut Criterion, what: &str, zone: &Zone, questions: &[Vec<u8>]) {
    let (mut writer, mut reply, mut turn) = (Writer::default(), Vec::with_capacity(65_535), 0);
    criterion.bench_function(what, |bencher| {
        bencher.iter(|| {
            turn += 1;
            let message = &questions[turn * 2_654_435 % questions.len()];
            writer.answer(black_box(zone), black_box(message), false, turn, &mut reply).expect("an answer")
        });
    });
}

fn short_way(criterion: &mut Criterion) {
    let zone = names::zone(SERVICES);
    let all = |name: &dyn Fn(usize) -> String, qtype| -> Vec<Vec<u8>> {
        (0..SERVICES).map(|number| question(&name(number), qtype)).collect()
    };
    let found = |number: usize| format!("{}.cluster.local.", names::owner(number));
    let missed = |number: usize| format!("{}.client.svc.cluster.local.", names::owner(number));
    measure(criterion, "dns/hit", &zone, &all(&found, RecordType::A));
    measure(criterion, "dns/nodata", &zone, &all(&found, RecordType::AAAA));
    measure(criterion, "dns/nxdomain", &zone, &all(&missed, RecordType::A));
    measure(criterion, "dns/srv", &zone, &all(&found, RecordType::SRV));
}

/// Decodes a question and encodes a reply with one address: the codec alone, without a look-up.
fn hickory(criterion: &mut Criterion) {
    let message = question("service-1.namespace-1.svc.cluster.local.", RecordType::A);
    criterion.bench_function("dns/hickory_codec", |bencher| {
        bencher.iter(|| {
            let asked = Message::from_vec(black_box(&message)).expect("decodes");
            let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
            reply.metadata = Metadata::response_from_request(&asked.metadata);
            let name = asked.queries[0].name().clone();
            reply.add_queries(asked.queries);
            reply.add_answer(Record::from_rdata(name, 30, RData::A(Ipv4Addr::new(10, 96, 0, 2).into())));
            reply.set_edns(Edns::new());
            reply.to_vec().expect("encodes")
        });
    });
}

criterion_group!(dns, short_way, hickory);
criterion_main!(dns);
