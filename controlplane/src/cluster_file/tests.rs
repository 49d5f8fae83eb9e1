use tidegate_dataplane::net::Protocol;

use super::*;
use crate::cluster::Hints;
use crate::cluster::{Endpoint, ObjectName, ServiceKind, ServicePort, SlicePort};
use crate::traffic::Traffic;

const SERVER: &str = "https://192.0.2.1:6443/";

fn contents() -> Contents {
    let name = ObjectName::new("dev", "ent");
    let port =
        ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30_080) };
    let other = ServicePort { name: "quic".into(), protocol: Protocol::Udp, port: 443, node_port: None };
    let addresses = vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let kind = ServiceKind::ClusterIp(addresses);
    let service = Service {
        name: name.clone(),
        kind,
        ports: vec![port.clone(), other],
        foreign_proxy: false,
        traffic: Traffic { affinity_seconds: Some(7), ..Traffic::default() },
    };
    let endpoint = Endpoint {
        hints: Some(Arc::new(Hints { zones: vec!["east".into()], nodes: Vec::new() })),
        address: "10.1.0.1".parse().unwrap(),
        hostname: Some("one".into()),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("node-1".into()),
        zone: None,
        pod: Some("ent-1".into()),
    };
    let slice = EndpointSlice {
        name: ObjectName::new("dev", "ent-x"),
        service: name.clone(),
        endpoints: vec![endpoint],
        ports: vec![SlicePort { name: port.name, protocol: Protocol::Sctp, port: 8080 }],
    };
    let node =
        Node { name: "node-1".into(), addresses: Vec::new(), zone: Some("a".into()), is_leaving: true };
    Contents {
        namespaces: vec!["dev".into(), "prod".into()],
        nodes: vec![node.into()],
        services: vec![service.into()],
        slices: vec![slice.into()],
        pods: vec![Pod { name, addresses: vec!["10.1.0.1".parse().unwrap()] }.into()],
    }
}

fn file(directory: &tempfile::TempDir) -> ClusterFile {
    ClusterFile::new(directory.path().join("cluster"), SERVER.to_owned())
}

#[test]
fn what_was_saved_is_loaded_and_only_its_user_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(&directory);
    assert!(file.load().unwrap().is_none());
    file.save(&Contents::default()).unwrap();
    file.save(&contents()).unwrap();
    let remembered = file.load().unwrap().unwrap();
    assert_eq!(remembered.contents, contents());
    assert!(remembered.written.elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing aside is left");
}

#[test]
fn a_torn_file_is_refused_wherever_it_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(&directory);
    file.save(&contents()).unwrap();
    let whole = fs::read(file.path()).unwrap();
    for length in 0..whole.len() {
        fs::write(file.path(), &whole[..length]).unwrap();
        assert!(file.load().is_err(), "cut to {length} octets");
    }
    for at in 0..whole.len() {
        let mut torn = whole.clone();
        torn[at] ^= 0x40;
        fs::write(file.path(), &torn).unwrap();
        assert!(file.load().is_err(), "octet {at} is another");
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(file.path(), &longer).unwrap();
    assert!(matches!(file.load(), Err(Refusal::Torn(_))));
}

#[test]
fn a_foreign_file_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(&directory);
    let said = |file: &ClusterFile| file.load().unwrap_err().to_string();
    fs::write(file.path(), "apiVersion: v1\nkind: Service\nmetadata: {}\n").unwrap();
    assert_eq!(said(&file), "is no file of a cluster");
    ClusterFile::new(file.path().to_owned(), "https://192.0.2.9/".to_owned()).save(&contents()).unwrap();
    assert_eq!(said(&file), "is of the cluster at https://192.0.2.9/");
    let mut later = fs::read(file.path()).unwrap();
    later[16] += 1;
    fs::write(file.path(), &later).unwrap();
    assert_eq!(said(&file), format!("has layout {}, not {VERSION}", VERSION + 1));
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    assert_eq!(said(&file), "is no ordinary file of this user");
    fs::remove_dir(file.path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", file.path()).unwrap();
    assert!(matches!(file.load(), Err(Refusal::Unreadable(_))));
}

#[test]
fn a_save_that_fails_leaves_the_file_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(&directory);
    file.save(&contents()).unwrap();
    fs::create_dir(directory.path().join("cluster.new")).unwrap();
    assert!(file.save(&Contents::default()).is_err());
    assert_eq!(file.load().unwrap().unwrap().contents, contents());
}

/// If this fails, values have another layout: count [`VERSION`] up and put the new checksum here.
#[test]
fn a_change_of_layout_needs_a_new_version() {
    let body = postcard::to_allocvec(&contents()).unwrap();
    assert_eq!((VERSION, crc32fast::hash(&body)), (2, 3_646_465_908));
}
