//! Questions over TCP, and what clients do to connections.

use super::*;

#[test]
fn many_questions_go_over_one_tcp_connection_pipelined() {
    let server = running();
    let mut stream = server.tcp_stream();
    let asked: Vec<Message> = (0..200).map(|_| question(ENT, RecordType::A)).collect();
    for message in &asked {
        send_tcp(&mut stream, &message.to_vec().expect("encodes"));
    }
    for message in &asked {
        let reply = Message::from_vec(&receive_tcp(&mut stream).expect("a reply")).expect("decodes");
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert_eq!(reply.answers.len(), 1);
    }
}

/// Limits that a test does not have to wait for.
fn short_limits() -> TcpLimits {
    let limit = Duration::from_millis(300);
    TcpLimits { idle: limit, write: limit, connections: 6, connections_per_client: 4 }
}

fn running_with(limits: TcpLimits, zone: Zone) -> Running {
    Running::try_start_with(zone, ForwardSettings::default(), vec![ANY_PORT], limits).expect("starts")
}

/// Waits for the server's end of a connection.
fn is_closed(stream: &mut std::net::TcpStream) -> bool {
    stream.read_to_end(&mut Vec::new()).is_ok_and(|rest| rest == 0)
}

#[test]
fn a_silent_connection_and_one_that_stops_amid_a_question_are_closed() {
    let server = running_with(short_limits(), zone());
    let mut silent = server.tcp_stream();
    let mut amid = server.tcp_stream();
    amid.write_all(&[0, 40, 1, 2, 3]).expect("sends");
    assert!(is_closed(&mut silent) && is_closed(&mut amid));
    assert_eq!(server.count("dns_tcp_idle", ""), 2);
    server.await_count("dns_tcp_open", "", 0);
}

#[test]
fn a_connection_that_asks_now_and_then_stays_open() {
    let server = running_with(short_limits(), zone());
    let mut stream = server.tcp_stream();
    for _ in 0..4 {
        std::thread::sleep(short_limits().idle / 2);
        send_tcp(&mut stream, &question(ENT, RecordType::A).to_vec().expect("encodes"));
        receive_tcp(&mut stream).expect("a reply");
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_and_disturbs_nobody() {
    let server = running_with(short_limits(), crowd(300));
    let asked =
        question("_http._tcp.many.dev.svc.cluster.local.", RecordType::SRV).to_vec().expect("encodes");
    let mut slow = server.tcp_stream();
    slow.set_write_timeout(Some(short_limits().write)).expect("sets");
    // Replies of some 20 kB: more than the kernel keeps for a client that reads none.
    let framed = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
    for _ in 0..4000 {
        if slow.write_all(&framed).is_err() {
            break;
        }
    }
    assert_eq!(server.udp(&question("many.dev.svc.cluster.local.", RecordType::MX)).authorities.len(), 1);
    server.await_count("dns_tcp_slow", "", 1);
    server.await_count("dns_tcp_open", "", 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let limits = TcpLimits { idle: PATIENCE, ..short_limits() };
    let server = running_with(limits, zone());
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    let mut open: Vec<_> = (0..4).map(|_| server.tcp_stream()).collect();
    server.await_count("dns_tcp_open", "", 4);
    assert!(is_closed(&mut server.tcp_stream()), "a fifth of one client");
    assert_eq!(server.count("dns_tcp_refused", ""), 1);
    for stream in &mut open {
        send_tcp(stream, &asked);
        receive_tcp(stream).expect("a reply");
    }
    drop(open.pop());
    server.await_count("dns_tcp_open", "", 3);
    let mut next = server.tcp_stream();
    send_tcp(&mut next, &asked);
    receive_tcp(&mut next).expect("a reply");
}

#[test]
fn a_half_closed_connection_still_gets_its_replies() {
    let server = running();
    let mut stream = server.tcp_stream();
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    send_tcp(&mut stream, &asked);
    send_tcp(&mut stream, &asked);
    stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
    for _ in 0..2 {
        receive_tcp(&mut stream).expect("a reply");
    }
    assert!(is_closed(&mut stream));
}

#[test]
fn a_question_may_come_octet_by_octet() {
    let server = running();
    let mut stream = server.tcp_stream();
    stream.set_nodelay(true).expect("sets");
    let asked = question(ENT, RecordType::A).to_vec().expect("encodes");
    for octet in [&(asked.len() as u16).to_be_bytes()[..], &asked].concat() {
        stream.write_all(&[octet]).expect("sends");
    }
    let reply = Message::from_vec(&receive_tcp(&mut stream).expect("a reply")).expect("decodes");
    assert_eq!(reply.answers.len(), 1);
}
