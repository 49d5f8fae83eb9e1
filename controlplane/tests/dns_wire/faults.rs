//! Messages that are no questions, and noise.

use super::*;

#[test]
fn what_is_no_query_of_class_in_is_refused_by_its_code() {
    let server = running();
    let mut status = question(ENT, RecordType::A);
    status.metadata.op_code = OpCode::Status;
    let mut notify = question(ENT, RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let mut update = question("cluster.local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut two = question(ENT, RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let mut none = question(ENT, RecordType::A);
    none.queries.clear();
    let cases = [
        (status, ResponseCode::NotImp),
        (notify, ResponseCode::NotImp),
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (question("cluster.local.", RecordType::AXFR), ResponseCode::Refused),
    ];
    for (asked, code) in cases {
        for reply in [server.udp(&asked), server.tcp(&asked)] {
            assert_eq!(reply.metadata.response_code, code, "{asked}");
            assert_eq!(reply.metadata.id, asked.metadata.id);
            assert!(reply.answers.is_empty() && reply.authorities.is_empty());
        }
    }
}

#[test]
fn undecodable_messages_are_formerr_and_those_that_may_be_replies_are_dropped() {
    let server = running();
    let good = question(ENT, RecordType::A).to_vec().expect("encodes");
    let code = |octets: &[u8]| octets[3] & 15;
    // Every proper prefix with a whole header, and a header that promises more than there is.
    for length in 12..good.len() {
        let reply = server.udp_octets(&good[..length]);
        assert_eq!((reply.len(), code(&reply)), (12, 1), "{length} octets");
        assert_eq!(reply[..2], good[..2]);
    }
    for (at, value) in [(4, 0xff), (7, 1), (9, 1), (11, 1), (12, 0x80), (12, 0xc0)] {
        let mut lying = good.clone();
        lying[at] = value;
        assert_eq!(code(&server.udp_octets(&lying)), 1, "octet {at} = {value:#x}");
    }
    let socket = server.udp_socket();
    let mut answer = good.clone();
    answer[2] |= 0x80;
    for silent in [&good[..11], &answer[..], &[]] {
        socket.send(silent).expect("sends");
    }
    socket.send(&good).expect("sends");
    let reply = receive(&socket).expect("a reply");
    assert_eq!(code(&reply), 0, "only the question is answered");
    let mut trailing = good.clone();
    trailing.extend([0; 7]);
    assert_eq!(Message::from_vec(&server.udp_octets(&trailing)).expect("decodes").answers.len(), 1);
}

/// A small generator of octets that do not repeat (xorshift64).
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

#[test]
fn noise_disturbs_nothing() {
    let server = running();
    let good = question_edns(ENT, RecordType::A, 1232).to_vec().expect("encodes");
    let mut state = 0x7469_6465_6761_7465;
    let socket = server.udp_socket();
    socket.set_nonblocking(true).expect("sets");
    for round in 0..4000_usize {
        let mut octets = if round % 2 == 0 { good.clone() } else { vec![0; round % 600] };
        for octet in &mut octets {
            // Half the rounds are noise throughout, half a good question with some octets wrong.
            if round % 2 == 1 || noise(&mut state) < 16 {
                *octet = noise(&mut state);
            }
        }
        // The kernel may say that its buffer is full: then this one is lost.
        socket.send(&octets).ok();
        while receive(&socket).is_ok() {}
    }
    for length in [0_u16, 1, 11, 12, 600, 65_535] {
        let mut stream = server.tcp_stream();
        let octets: Vec<u8> = (0..length).map(|_| noise(&mut state)).collect();
        send_tcp(&mut stream, &octets);
        stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes the connection");
    }
    let half_open = server.tcp_stream();
    assert_eq!(server.udp(&question(ENT, RecordType::A)).answers.len(), 1);
    assert_eq!(server.tcp(&question(ENT, RecordType::A)).answers.len(), 1);
    drop(half_open);
}
