//! EDNS, and answers that are longer than a client takes.

use super::*;

#[test]
fn opt_is_answered_with_our_payload_and_only_if_asked() {
    let server = running();
    for payload in [0, 100, 512, 1232, 4096, 65_535] {
        let reply = server.udp(&question_edns(ENT, RecordType::A, payload));
        let edns = reply.edns.expect("an OPT");
        assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
        assert!(edns.options().as_ref().is_empty());
    }
}

#[test]
fn an_unknown_edns_version_is_badvers() {
    let server = running();
    let mut asked = question_edns(ENT, RecordType::A, 1232);
    asked.edns.as_mut().expect("an OPT").set_version(1);
    let reply = server.udp(&asked);
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.expect("an OPT").version(), 0);
    assert!(reply.answers.is_empty());
    assert_eq!(server.count("coredns_dns_responses", "BADVERS"), 1);
}

#[test]
fn two_opt_records_are_formerr() {
    let server = running();
    let mut octets = question_edns(ENT, RecordType::A, 1232).to_vec().expect("encodes");
    octets[11] = 2;
    octets.extend_from_within(octets.len() - 11..);
    assert_eq!(server.udp_octets(&octets)[3] & 15, 1);
}

#[test]
fn three_hundred_endpoints_are_cut_to_what_the_client_takes() {
    let server = Running::start(crowd(300), ForwardSettings::default());
    let name = "many.dev.svc.cluster.local.";
    // What is asked, the limit, and how many records of 16 octets fit behind the question.
    let cases = [
        (question(name, RecordType::A), 512, 29),
        (question_edns(name, RecordType::A, 100), 512, 28),
        (question_edns(name, RecordType::A, 1000), 1000, 59),
        (question_edns(name, RecordType::A, 1232), 1232, 73),
        (question_edns(name, RecordType::A, 65_535), 1232, 73),
    ];
    for (asked, limit, fitting) in cases {
        let octets = server.udp_octets(&asked.to_vec().expect("encodes"));
        assert!(octets.len() <= limit, "{} octets, limit {limit}", octets.len());
        let reply = Message::from_vec(&octets).expect("decodes");
        assert!(reply.metadata.truncation);
        assert_eq!(reply.answers.len(), fitting, "in {limit} octets");
        assert_eq!(reply.edns.is_some(), asked.edns.is_some(), "the OPT is kept");
    }
    for asked in [question(name, RecordType::A), question_edns(name, RecordType::A, 512)] {
        let reply = server.tcp(&asked);
        assert!(!reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 300);
    }
    let octets = server.tcp_octets(&question(name, RecordType::A).to_vec().expect("encodes"));
    assert_eq!(octets.len(), 44 + 300 * 16, "each owner is a pointer");
    let reply = server.tcp(&question("_http._tcp.many.dev.svc.cluster.local.", RecordType::SRV));
    assert_eq!((reply.answers.len(), reply.additionals.len()), (300, 300));
    assert!(!reply.metadata.truncation);
}

#[test]
fn additional_records_go_first_and_without_tc() {
    let server = Running::start(crowd(7), ForwardSettings::default());
    let name = "_http._tcp.many.dev.svc.cluster.local.";
    let reply = server.udp(&question_edns(name, RecordType::SRV, 1232));
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (7, 7, false));
    let octets = server.udp_octets(&question_edns(name, RecordType::SRV, 512).to_vec().expect("encodes"));
    let reply = Message::from_vec(&octets).expect("decodes");
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (7, 0, false));
    assert!(octets.len() <= 512 && reply.edns.is_some());
}
