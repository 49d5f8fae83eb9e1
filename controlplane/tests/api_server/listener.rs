//! The API server on a port, with TLS, and the kubeconfig that leads to it.

// Entering a namespace has no safe binding in the standard library.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::ApiServer;

/// A server that listens; ends when the value goes.
pub(crate) struct Listener {
    server: ApiServer,
    tls: TlsAcceptor,
    address: Cell<SocketAddr>,
    namespace: Option<String>,
    directory: PathBuf,
    running: RefCell<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
}

impl Listener {
    /// Listens on loopback, in a network namespace if one is named; files go to `directory`.
    pub(crate) fn start(server: &ApiServer, namespace: Option<&str>, directory: &Path) -> Self {
        let address = Cell::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let tls = certify(directory);
        let namespace = namespace.map(str::to_owned);
        let listener = Self {
            server: server.clone(),
            tls,
            address,
            namespace,
            directory: directory.into(),
            running: RefCell::default(),
        };
        listener.resume();
        fs::write(directory.join("token"), "first").unwrap();
        let kubeconfig = format!(
            "apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: 'https://{}', certificate-authority: '{}'}}}}]
users: [{{name: test, user: {{tokenFile: '{}'}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
current-context: test
",
            listener.address.get(),
            directory.join("ca.pem").display(),
            directory.join("token").display()
        );
        fs::write(listener.kubeconfig(), kubeconfig).unwrap();
        listener
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// The file that leads to it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The file of the token that clients show.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Is gone: nobody listens, and all connections are cut.
    pub(crate) fn stop(&self) {
        if let Some((over, thread)) = self.running.take() {
            over.send(true).unwrap();
            thread.join().unwrap();
        }
    }

    /// Is there again, under the same address.
    pub(crate) fn resume(&self) {
        let socket = self.bind();
        self.address.set(socket.local_addr().unwrap());
        socket.set_nonblocking(true).unwrap();
        let (over, mut is_over) = watch::channel(false);
        let (server, tls) = (self.server.clone(), self.tls.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                loop {
                    tokio::select! {
                        _ = is_over.changed() => return,
                        accepted = socket.accept() => {
                            let Ok((connection, _)) = accepted else { continue };
                            connection.set_nodelay(true).unwrap();
                            tokio::spawn(serve(server.clone(), tls.clone(), connection));
                        }
                    }
                }
            });
            // Connections are dropped, and so closed, with the runtime.
        });
        self.running.replace(Some((over, thread)));
    }

    fn bind(&self) -> TcpListener {
        let (address, namespace) = (self.address.get(), self.namespace.clone());
        let bind = move || {
            if let Some(namespace) = namespace {
                let file = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
                // SAFETY: the descriptor is open for the whole call, and only this thread, which ends with this
                // closure, changes its namespace.
                let joined = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(joined, 0, "setns: {}", std::io::Error::last_os_error());
            }
            // SO_REUSEADDR is set, so that the same port can be had again at once.
            TcpListener::bind(address).unwrap()
        };
        std::thread::spawn(bind).join().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(server: ApiServer, tls: TlsAcceptor, connection: tokio::net::TcpStream) {
    let Ok(connection) = tls.accept(connection).await else { return };
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let octets = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(server.answer(hyper::Request::from_parts(parts, octets)).await)
        }
    });
    let _client_went_away = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

/// Makes an authority, writes its certificate, and makes one for the server.
fn certify(directory: &Path) -> TlsAcceptor {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
