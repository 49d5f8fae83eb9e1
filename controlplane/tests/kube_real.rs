//! The source `kubernetes` against a real API server with its etcd, where both programs are on PATH; else skipped.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};
use tidegate::cluster::{Event, ServiceKind};
use tidegate::watch::{Kubernetes, Limits, Settings};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts both and writes a kubeconfig.
fn cluster(directory: &Path) -> [Running; 2] {
    let [clients, peers, port] = [free_port(), free_port(), free_port()];
    let file = |name: &str| directory.join(name).display().to_string();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let etcd = [
        format!("--data-dir={}", file("etcd")),
        format!("--listen-client-urls={}", url(clients)),
        format!("--advertise-client-urls={}", url(clients)),
        format!("--listen-peer-urls={}", url(peers)),
        format!("--initial-advertise-peer-urls={}", url(peers)),
        format!("--initial-cluster=default={}", url(peers)),
    ];
    let key = Command::new("openssl").args(["genrsa", "-out", &file("key"), "2048"]).output().unwrap();
    assert!(key.status.success(), "openssl: {}", String::from_utf8_lossy(&key.stderr));
    fs::write(file("tokens"), "secret,admin,admin,system:masters\n").unwrap();
    let server = [
        format!("--etcd-servers={}", url(clients)),
        format!("--cert-dir={}", file("certificates")),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--token-auth-file={}", file("tokens")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-account-key-file={}", file("key")),
        format!("--service-account-signing-key-file={}", file("key")),
        "--service-account-issuer=https://tidegate.test".to_owned(),
    ];
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "real", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "real", "user": { "token": "secret" } }],
        "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "real" } }],
        "current-context": "real",
    });
    fs::write(file("kubeconfig"), kubeconfig.to_string()).unwrap();
    [Running::start("etcd", &etcd), Running::start("kube-apiserver", &server)]
}

/// Asks the server for something; objects are sent, and none is needed.
async fn ask(client: &kube::Client, method: &str, path: &str, object: Option<Value>) -> kube::Result<Value> {
    let body = object.map(|object| object.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.request(request.body(body).unwrap()).await
}

/// Waits for an event.
async fn next(source: &mut Kubernetes, is_it: impl Fn(&Event) -> bool) {
    let found = async { while !source.next().await.events.iter().any(&is_it) {} };
    timeout(PATIENCE, found).await.expect("the event comes");
}

#[tokio::test]
async fn a_real_api_server_is_followed() {
    if let Some(missing) = ["etcd", "kube-apiserver"].into_iter().find(|program| !is_on_path(program)) {
        println!("skipped: no {missing} on PATH");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _programs = cluster(directory.path());
    let kubeconfig = directory.path().join("kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let read = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let begun = Instant::now();
    while ask(&client, "GET", "/api/v1/namespaces/default", None).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the API server does not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let mut source = Kubernetes::open(Settings {
        kubeconfig: Some(kubeconfig),
        node_name: None,
        pods: false,
        pod_names: false,
        service_cidrs: Vec::new(),
        cluster_file: None,
        limits: Limits::of_watch(Duration::from_secs(5)),
        complain: true,
    })
    .await
    .unwrap();
    let first = timeout(PATIENCE, source.next()).await.expect("everything comes");
    assert!(
        first
            .events
            .iter()
            .any(|event| matches!(event, Event::NamespaceApplied(name) if &**name == "default"))
    );

    let port = json!({ "name": "http", "port": 80 });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "ports": [port] } });
    let services = "/api/v1/namespaces/default/services";
    ask(&client, "POST", services, Some(service)).await.unwrap();
    let is_web = |event: &Event| match event {
        Event::ServiceApplied(service) => {
            &*service.name.name == "web"
                && matches!(&service.kind, ServiceKind::ClusterIp(own) if own.len() == 1)
        }
        _ => false,
    };
    next(&mut source, is_web).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [{ "addresses": ["10.244.0.11"] }], "ports": [{ "name": "http", "port": 8080 }] });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    ask(&client, "POST", slices, Some(slice)).await.unwrap();
    next(&mut source, |event| matches!(event, Event::SliceApplied(slice) if slice.endpoints.len() == 1))
        .await;
    // Longer than a watch lasts: the next one goes on where it ended, without a word.
    assert!(timeout(Duration::from_secs(12), source.next()).await.is_err());
    assert_eq!(source.standing().watches.iter().map(|watch| watch.relists).sum::<u64>(), 0);
    ask(&client, "DELETE", &format!("{services}/web"), None).await.unwrap();
    next(&mut source, |event| matches!(event, Event::ServiceDeleted(name) if &*name.name == "web")).await;
}
