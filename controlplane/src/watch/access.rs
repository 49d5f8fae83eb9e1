//! The way to the API server: its address, our credentials, and connections that notice when it is gone.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ipnet::IpNet;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tower::util::ServiceExt as _;

/// Pings of an idle connection: the first after, and between them.
const PING: Duration = Duration::from_secs(10);
/// Unanswered pings after which a connection is dead.
const PINGS: u32 = 3;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long sent octets may stay unacknowledged before a connection is dead (`TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Where address and credentials come from.
#[derive(Clone)]
enum Origin {
    /// `--kubeconfig`.
    File(PathBuf),
    /// As kubectl does: `KUBECONFIG`, `~/.kube/config`, the account in the cluster.
    Inferred,
    /// They are fixed.
    Given(Client),
}

/// Why there is no way to the API server.
#[derive(Debug)]
pub enum AccessError {
    /// The settings say what cannot be.
    Settings(String),
    /// Credentials could not be had now, such as those of an exec plugin; that may change.
    Credentials(String),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(what) | Self::Credentials(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for AccessError {}

/// Makes clients, and makes new ones when credentials have changed.
pub(super) struct Access {
    origin: Origin,
    server: String,
    current: Mutex<Option<Client>>,
    /// How many clients have been given up.
    renewals: AtomicU64,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the settings; credentials are asked for later, since what gives them may be away too.
    ///
    /// # Errors
    /// No settings, or such as cannot be used.
    pub(super) async fn open(kubeconfig: Option<&Path>) -> Result<Self, AccessError> {
        let origin = kubeconfig.map_or(Origin::Inferred, |path| Origin::File(path.to_owned()));
        let config = read_config(&origin).await?;
        Ok(Self::new(origin, config.cluster_url.to_string()))
    }

    /// Uses a client as it is.
    pub(super) fn given(client: Client, server: &str) -> Self {
        Self::new(Origin::Given(client), server.to_owned())
    }

    fn new(origin: Origin, server: String) -> Self {
        Self { origin, server, current: Mutex::new(None), renewals: AtomicU64::new(0) }
    }

    /// Returns the address of the API server.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Fails if the API server is reached by a ClusterIP: its packets would be for us to carry, and we cannot before
    /// we know the Service (design decision 2).
    pub(super) async fn require_outside(&self, service_cidrs: &[IpNet]) -> Result<(), AccessError> {
        let Some((host, port)) = host_and_port(&self.server) else { return Ok(()) };
        let inside = |address: &IpAddr| service_cidrs.iter().any(|cidr| cidr.contains(address));
        // A name that cannot be looked up now is no reason not to start.
        let looked_up = tokio::time::timeout(CONNECT, tokio::net::lookup_host((host.as_str(), port))).await;
        let mut addresses = looked_up.into_iter().flatten().flatten().map(|socket| socket.ip());
        match addresses.find(inside) {
            None => Ok(()),
            Some(address) => Err(AccessError::Settings(format!(
                "--source kubernetes: the API server {} is reached by {address}, an address of --service-cidr, which \
                 leads nowhere until we run; name a real address of it: in the kubeconfig, or in a pod by \
                 KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT",
                self.server
            ))),
        }
    }

    /// Returns a client, with the number to give back if it is no good.
    pub(super) async fn client(&self) -> Result<(Client, u64), AccessError> {
        let mut current = self.current.lock().await;
        let client = match &*current {
            Some(client) => client.clone(),
            None => current.insert(make_client(&self.origin).await?).clone(),
        };
        Ok((client, self.renewals.load(Ordering::Relaxed)))
    }

    /// Has the next client made anew, of what files and plugins say then, unless that has been done since `number`.
    pub(super) async fn renew(&self, number: u64) {
        let mut current = self.current.lock().await;
        if self.renewals.load(Ordering::Relaxed) == number {
            self.renewals.fetch_add(1, Ordering::Relaxed);
            *current = None;
        }
    }
}

async fn read_config(origin: &Origin) -> Result<Config, AccessError> {
    let settings = |what: String| AccessError::Settings(format!("--source kubernetes: {what}"));
    let config = match origin {
        Origin::Given(_) => return Err(settings("the client is given".to_owned())),
        Origin::Inferred => Config::infer().await.map_err(|error| {
            settings(format!("no kubeconfig and no account in a cluster: {}", causes(&error)))
        })?,
        Origin::File(path) => {
            let named = |error: kube::config::KubeconfigError| {
                AccessError::Settings(format!("--kubeconfig {}: {}", path.display(), causes(&error)))
            };
            let file = Kubeconfig::read_from(path).map_err(named)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(named)?
        }
    };
    match &config.proxy_url {
        None => Ok(config),
        Some(proxy) => Err(settings(format!(
            "a proxy, {proxy}, is not supported; take proxy-url out of the kubeconfig and HTTPS_PROXY out of the \
             environment"
        ))),
    }
}

async fn make_client(origin: &Origin) -> Result<Client, AccessError> {
    if let Origin::Given(client) = origin {
        return Ok(client.clone());
    }
    let config = read_config(origin).await?;
    // A plugin that gives credentials is a program that may take its time.
    let made = tokio::task::spawn_blocking(move || connect(&config)).await;
    let credentials = |error: &dyn std::error::Error| AccessError::Credentials(causes(error));
    made.map_err(|error| credentials(&error))?.map_err(|error| credentials(&error))
}

/// Builds kube's client over connections of our own: kube has no setting for `TCP_USER_TIMEOUT`, and its layer of
/// retries would hide for minutes that the server refuses.
fn connect(config: &Config) -> kube::Result<Client> {
    let connector = config.rustls_https_connector_with_connector(connector())?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(http.map_err(tower::BoxError::from));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Makes connections that notice within half a minute when the other side is gone, with something sent or without.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(PING));
    connector.set_keepalive_interval(Some(PING));
    connector.set_keepalive_retries(Some(PINGS));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

fn host_and_port(server: &str) -> Option<(String, u16)> {
    let uri: http::Uri = server.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    Some((host, port))
}

/// Writes an error with all that led to it, each once.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(server: &str) -> Option<String> {
        let access = Access::new(Origin::Inferred, server.to_owned());
        let cidrs = ["10.96.0.0/12".parse().unwrap(), "fd00:96::/108".parse().unwrap()];
        access.require_outside(&cidrs).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_api_server_behind_a_cluster_ip_is_refused_with_the_way_out() {
        for inside in ["https://10.96.0.1:443/", "https://[fd00:96::1]/"] {
            let said = refusal(inside).await.unwrap();
            assert!(said.contains("KUBERNETES_SERVICE_HOST") && said.contains("--service-cidr"), "{said}");
        }
        for outside in
            ["https://192.0.2.1:6443/", "https://[2001:db8::1]:6443", "https://no-such-name.invalid/"]
        {
            assert_eq!(refusal(outside).await, None);
        }
    }

    #[tokio::test]
    async fn connections_ping_and_give_up_on_what_nobody_acknowledges() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", server.local_addr().unwrap()).parse::<http::Uri>().unwrap();
        let connection = connector().oneshot(address).await.unwrap();
        let socket = socket2::SockRef::from(connection.inner());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PING);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PING);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PINGS);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
