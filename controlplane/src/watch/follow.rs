//! Following one kind of object: list it, then watch from there, for ever.
//!
//! kube's own watcher is not used: it does not tell of bookmarks, so a quiet watch and a dead one look alike; it asks
//! again at once when a server ends each watch at once; it keeps its client when credentials were changed; and it
//! logs a whole list that it cannot read.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::Request;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::access::{Access, AccessError, causes};
use super::backoff::Backoff;
use super::life::Lives;
use super::mirror::Told;
use super::wire::{self, Line, Page, Status};
use crate::objects::Kind;

/// Objects in a part of a list.
const PAGE: u32 = 500;
/// A watch that ends sooner is asked for again only after a wait.
const SHORT: Duration = Duration::from_secs(1);
/// The longest line of a watch; the API server's own limit for an object is about 3 MB.
const LINE_MAX: usize = 16 << 20;
/// More than this is decoded on another thread, since this one answers DNS too.
const DECODE_HERE: usize = 64 << 10;
/// After so many failures in a row credentials and address are read anew, whatever the failures were.
const RENEW_AFTER: u32 = 5;
/// The longest part of a refusal's text that is of interest.
const REFUSAL_MAX: usize = 4096;

/// Time limits of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How long the server is asked to keep a watch open.
    pub watch: Duration,
    /// How long nothing at all may be heard on a watch, and between the parts of an answer.
    pub silence: Duration,
    /// How long an answer may take to begin; that to a list may take as long as the silence, for it is made first.
    pub answer: Duration,
    /// The longest wait between two tries, but for what the server asks for.
    pub retry: Duration,
}

impl Limits {
    /// Derives all limits from the time that a watch is kept open: a server ends each watch by then, so a quarter more
    /// without a word means that it is gone.
    #[must_use]
    pub fn of_watch(watch: Duration) -> Self {
        let quarter = (watch / 4).max(Duration::from_millis(250));
        let most = quarter.min(Duration::from_secs(10));
        Self { watch, silence: watch + quarter, answer: most, retry: most }
    }
}

/// What was told, and when it was read.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) told: Told,
    pub(super) at: std::time::Instant,
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Fault {
    /// The server refuses it.
    Refused(Status, Option<Duration>),
    /// What we have seen is too old to go on from.
    Gone,
    /// Nothing was heard for so long.
    Silent(Duration),
    /// The connection broke or never was.
    Broken(String),
    /// What came makes no sense.
    Unreadable(String),
    /// There are no credentials.
    Access(AccessError),
    /// Nobody listens to us any more.
    Over,
}

impl Fault {
    fn text(&self) -> String {
        match self {
            Self::Refused(status, _) => {
                let Status { code, reason, message, .. } = status;
                format!("the API server answers {code} {reason}: {message}")
            }
            Self::Gone => "the API server does not remember what we saw last; all is read anew".to_owned(),
            Self::Silent(limit) => format!("nothing heard of the API server for {limit:?}"),
            Self::Broken(what) => format!("the API server is not reached: {what}"),
            Self::Unreadable(what) => format!("the API server's answer makes no sense: {what}"),
            Self::Access(error) => error.to_string(),
            Self::Over => String::new(),
        }
    }
}

/// Follows one kind.
pub(super) struct Follower {
    kind: Kind,
    /// The name of the only object of interest.
    only: Option<Arc<str>>,
    access: Arc<Access>,
    told: mpsc::Sender<Heard>,
    lives: Arc<Lives>,
    limits: Limits,
    /// The number of the client in use.
    client: u64,
    /// The request of the moment was answered.
    is_answered: bool,
}

impl Follower {
    /// Makes one that has not begun.
    pub(super) fn new(
        kind: Kind,
        only: Option<Arc<str>>,
        access: Arc<Access>,
        told: mpsc::Sender<Heard>,
        lives: Arc<Lives>,
        limits: Limits,
    ) -> Self {
        Self { kind, only, access, told, lives, limits, client: 0, is_answered: false }
    }

    /// Follows until nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.limits.retry);
        let mut failures = 0_u32;
        // From where to watch; nothing before a list has ended.
        let mut version: Option<String> = None;
        loop {
            let begun = Instant::now();
            self.is_answered = false;
            let outcome = match &mut version {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(version) => self.watch(version).await.map(|()| self.is_answered = false),
            };
            let lasted = begun.elapsed() >= SHORT;
            if lasted || self.is_answered {
                failures = 0;
            }
            match outcome {
                Ok(()) if lasted => backoff.reset(),
                // A list is followed by its watch at once; a watch that ends at once is not asked for at once.
                Ok(()) if self.is_answered => {}
                Ok(()) => tokio::time::sleep(backoff.next(None)).await,
                Err(Fault::Over) => return,
                Err(fault) => {
                    failures += 1;
                    if matches!(fault, Fault::Gone | Fault::Unreadable(_)) {
                        version = None;
                    }
                    self.note(&fault, failures).await;
                    let asked = if let Fault::Refused(_, asked) = fault { asked } else { None };
                    tokio::time::sleep(backoff.next(asked)).await;
                }
            }
        }
    }

    async fn note(&self, fault: &Fault, failures: u32) {
        let text = fault.text();
        if self.lives.fail(self.kind, text.clone()) {
            tracing::warn!("watch of {}s: {text}", self.kind);
        }
        let unauthorized = matches!(fault, Fault::Refused(status, _) if status.code == 401);
        if unauthorized || failures.is_multiple_of(RENEW_AFTER) {
            self.access.renew(self.client).await;
        }
    }

    /// Reads the list, part by part, and returns the version that it is of.
    async fn list(&mut self) -> Result<String, Fault> {
        self.lives.begin_list(self.kind);
        self.tell(Told::ListBegan(self.kind)).await?;
        let mut parameters = ListParams { limit: Some(PAGE), ..ListParams::default() };
        parameters.field_selector = self.only.as_ref().map(|name| format!("metadata.name={name}"));
        loop {
            let request = Request::new(path(self.kind)).list(&parameters);
            let request = request.map_err(|error| Fault::Unreadable(causes(&error)))?;
            let mut body = self.send(request, self.limits.silence).await?;
            let mut octets = Vec::new();
            while let Some(more) = self.next_octets(&mut body).await? {
                octets.extend_from_slice(&more);
            }
            let Page { items, version, next } = self.decode(octets).await?;
            self.tell(Told::Listed(self.kind, items)).await?;
            parameters.continue_token = next;
            if parameters.continue_token.is_none() {
                let version = version.ok_or_else(|| Fault::Unreadable("a list without a version".into()))?;
                self.tell(Told::ListEnded(self.kind)).await?;
                return Ok(version);
            }
        }
    }

    async fn decode(&self, octets: Vec<u8>) -> Result<Page, Fault> {
        let kind = self.kind;
        let page = if octets.len() <= DECODE_HERE {
            wire::read_page(kind, &octets)
        } else {
            let decoding = tokio::task::spawn_blocking(move || wire::read_page(kind, &octets));
            decoding.await.unwrap_or_else(|error| Err(error.to_string()))
        };
        page.map_err(Fault::Unreadable)
    }

    /// Watches from a version on, until the server ends it; `version` goes with what was told.
    async fn watch(&mut self, version: &mut String) -> Result<(), Fault> {
        let parameters = WatchParams {
            field_selector: self.only.as_ref().map(|name| format!("metadata.name={name}")),
            timeout: Some(self.limits.watch.as_secs().max(1) as u32),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(path(self.kind)).watch(&parameters, version);
        let request = request.map_err(|error| Fault::Unreadable(causes(&error)))?;
        let mut body = self.send(request, self.limits.answer).await?;
        let mut unread = Vec::new();
        while let Some(more) = self.next_octets(&mut body).await? {
            let mut begin = unread.len();
            unread.extend_from_slice(&more);
            let mut taken = 0;
            while let Some(length) = unread.iter().skip(begin).position(|octet| *octet == b'\n') {
                let end = begin + length;
                self.take_line(unread.get(taken..end).unwrap_or_default(), version).await?;
                taken = end + 1;
                begin = taken;
            }
            unread.drain(..taken);
            if unread.len() > LINE_MAX {
                return Err(Fault::Unreadable(format!("a line longer than {LINE_MAX} octets")));
            }
        }
        Ok(())
    }

    async fn take_line(&self, line: &[u8], version: &mut String) -> Result<(), Fault> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let (told, seen) = match wire::read_line(self.kind, line).map_err(Fault::Unreadable)? {
            Line::Bookmark(seen) => (None, Some(seen)),
            Line::Error(status) if status.code == 410 => return Err(Fault::Gone),
            Line::Error(status) => {
                let asked = status.retry_after();
                return Err(Fault::Refused(status, asked));
            }
            Line::Deleted(item) if item.name.is_none() => {
                return Err(Fault::Unreadable("something without a name was deleted".into()));
            }
            Line::Applied(mut item) => {
                let seen = item.version.take();
                (Some(Told::Applied(self.kind, item)), seen)
            }
            Line::Deleted(mut item) => {
                let seen = item.version.take();
                (Some(Told::Deleted(self.kind, item)), seen)
            }
        };
        if let Some(told) = told {
            self.tell(told).await?;
        }
        if let Some(seen) = seen {
            *version = seen;
        }
        Ok(())
    }

    async fn tell(&self, told: Told) -> Result<(), Fault> {
        let at = std::time::Instant::now();
        self.told.send(Heard { told, at }).await.map_err(|_| Fault::Over)
    }

    /// Sends a request and returns the body of a good answer.
    async fn send(&mut self, request: http::Request<Vec<u8>>, limit: Duration) -> Result<Body, Fault> {
        let (client, number) = self.access.client().await.map_err(Fault::Access)?;
        self.client = number;
        let answer = timeout(limit, client.send(request.map(Body::from))).await;
        let answer = answer.map_err(|_| Fault::Silent(limit))?;
        let answer = answer.map_err(|error| Fault::Broken(causes(&error)))?;
        self.lives.hear(self.kind);
        let code = answer.status();
        let retry_after = answer.headers().get(http::header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = answer.into_body();
        if code.is_success() {
            self.is_answered = true;
            if self.lives.mend(self.kind) {
                tracing::info!("watch of {}s: the API server answers again", self.kind);
            }
            return Ok(body);
        }
        if code == http::StatusCode::GONE {
            return Err(Fault::Gone);
        }
        let mut octets = Vec::new();
        while octets.len() < REFUSAL_MAX
            && let Ok(Some(more)) = self.next_octets(&mut body).await
        {
            octets.extend_from_slice(&more);
        }
        let status = serde_json::from_slice::<Status>(&octets).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(&octets).trim().to_owned(),
            ..Status::default()
        });
        let asked = retry_after.map(Duration::from_secs).or(status.retry_after());
        Err(Fault::Refused(Status { code: code.as_u16(), ..status }, asked))
    }

    /// Waits for more of an answer; `None` at its end.
    async fn next_octets(&self, body: &mut Body) -> Result<Option<bytes::Bytes>, Fault> {
        loop {
            let frame = timeout(self.limits.silence, body.frame()).await;
            let frame = match frame.map_err(|_| Fault::Silent(self.limits.silence))? {
                None => return Ok(None),
                Some(frame) => frame.map_err(|error| Fault::Broken(causes(&error)))?,
            };
            self.lives.hear(self.kind);
            if let Ok(octets) = frame.into_data() {
                return Ok(Some(octets));
            }
        }
    }
}

/// Returns where the objects of a kind are.
const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "/api/v1/namespaces",
        Kind::Node => "/api/v1/nodes",
        Kind::Service => "/api/v1/services",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::Endpoints => "/api/v1/endpoints",
        Kind::Pod => "/api/v1/pods",
    }
}
