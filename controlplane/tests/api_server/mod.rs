//! An API server for tests: it lists in parts, watches with bookmarks, forgets its history, checks tokens, and fails in
//! the ways that real ones do. In front of it is either TLS on a port (`listener`) or kube's own client without any
//! network, for virtual time.

#![allow(dead_code, reason = "each test program takes what it needs")]

pub(crate) mod listener;
pub(crate) mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::Notify;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The last part of the path of a list.
pub(crate) type Resource = &'static str;

pub(crate) const NAMESPACES: Resource = "namespaces";
pub(crate) const NODES: Resource = "nodes";
pub(crate) const SERVICES: Resource = "services";
pub(crate) const SLICES: Resource = "endpointslices";
const RESOURCES: [Resource; 5] = [NAMESPACES, NODES, SERVICES, SLICES, "pods"];

/// How requests fail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// They get this status, and the wish for such a wait in seconds.
    Refuse(u16, Option<u64>),
    /// They get no answer, and watches say nothing more, not even their end.
    Hang,
    /// They get an answer only after so long.
    Slow(Duration),
    /// They get octets that are no JSON.
    Garbage,
    /// Watches end as soon as they begin.
    EndAtOnce,
    /// The rest of a list cannot be had any more.
    ExpiredContinue,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Older versions are forgotten.
    oldest: u64,
    objects: BTreeMap<Resource, BTreeMap<String, Arc<Value>>>,
    /// Version, resource, type of event, object.
    history: Vec<(u64, Resource, &'static str, Arc<Value>)>,
    /// Rests of lists by their tokens.
    rests: HashMap<String, (u64, Vec<Arc<Value>>)>,
    fault: Option<Fault>,
    tokens: BTreeSet<String>,
    requests: Vec<String>,
    written: Vec<Value>,
    /// Connections that began under an older number are cut.
    era: u64,
}

/// The server; clones share it.
#[derive(Clone)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// Time between bookmarks of a quiet watch.
    bookmarks: Duration,
}

impl ApiServer {
    /// One that has no objects.
    pub(crate) fn new() -> Self {
        let state = State { version: 100, ..State::default() };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
            bookmarks: Duration::from_secs(60),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts an object in place of the one of its name.
    pub(crate) fn put(&self, resource: Resource, object: Value) {
        let mut object = object;
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let key = key(&object);
        let object = Arc::new(object);
        let before = state.objects.entry(resource).or_default().insert(key, object.clone());
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.history.push((version, resource, type_, object));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Removes an object by its namespace and name.
    pub(crate) fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        let mut state = self.state();
        let Some(object) = state.objects.entry(resource).or_default().remove(&format!("{namespace}/{name}"))
        else {
            return;
        };
        state.version += 1;
        let version = state.version;
        let mut object = Value::clone(&object);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.history.push((version, resource, "DELETED", Arc::new(object)));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Has all requests fail in this way, or none.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
        self.changed.notify_waiters();
    }

    /// Forgets what was before now: watches from there are told so.
    pub(crate) fn forget_history(&self) {
        let mut state = self.state();
        // What happens to others makes the version go on.
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
    }

    /// Cuts all watches.
    pub(crate) fn cut(&self) {
        self.state().era += 1;
        self.changed.notify_waiters();
    }

    /// Wants one of these tokens from now on; an empty list wants none.
    pub(crate) fn set_tokens(&self, tokens: &[&str]) {
        self.state().tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    /// The requests so far, as `list services` or `watch nodes`, and forgets them.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// The requests so far of that name.
    pub(crate) fn requests(&self, name: &str) -> usize {
        self.state().requests.iter().filter(|request| *request == name).count()
    }

    /// The objects that were written by clients.
    pub(crate) fn written(&self) -> Vec<Value> {
        self.state().written.clone()
    }

    /// The objects of a resource.
    pub(crate) fn objects(&self, resource: Resource) -> Vec<Value> {
        self.state()
            .objects
            .get(resource)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|object| Value::clone(object))
            .collect()
    }

    /// kube's client of this server without any network.
    pub(crate) fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let octets = body.collect().await?.to_bytes();
                Ok::<_, tower::BoxError>(server.answer(Request::from_parts(parts, octets)).await)
            }
        });
        kube::Client::new(service, "default")
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let resource = path.rsplit('/').next().unwrap_or_default();
        let query = Query::of(request.uri().query().unwrap_or_default());
        let verb = match (request.method(), query.value("watch")) {
            (&http::Method::POST, _) => "create",
            (_, Some("true" | "1")) => "watch",
            _ => "list",
        };
        let fault = {
            let mut state = self.state();
            state.requests.push(format!("{verb} {resource}"));
            let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
            if !state.tokens.is_empty() && !state.tokens.contains(token) {
                return refusal(401, "Unauthorized", None);
            }
            state.fault.clone()
        };
        match fault {
            Some(Fault::Refuse(code, wait)) => return refusal(code, "for the test", wait),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Garbage) => return plain(StatusCode::OK, "\u{1}\u{2}{\"items\": [\n"),
            Some(Fault::EndAtOnce) if verb == "watch" => return plain(StatusCode::OK, ""),
            Some(Fault::ExpiredContinue) if query.value("continue").is_some() => {
                return refusal(410, "Expired", None);
            }
            _ => {}
        }
        if verb == "create" {
            return self.create(&request);
        }
        let Some(resource) = RESOURCES.into_iter().find(|known| *known == resource) else {
            return refusal(404, "NotFound", None);
        };
        if verb == "watch" { self.watch(resource, &query) } else { self.list(resource, &query) }
    }

    fn create(&self, request: &Request<Bytes>) -> Response<Body> {
        let object: Value = serde_json::from_slice(request.body()).unwrap();
        let mut state = self.state();
        let name = &object["metadata"]["name"];
        if state.written.iter().any(|written| written["metadata"]["name"] == *name) {
            return refusal(409, "AlreadyExists", None);
        }
        state.written.push(object);
        plain(StatusCode::CREATED, "{}")
    }

    fn list(&self, resource: Resource, query: &Query) -> Response<Body> {
        let mut state = self.state();
        let (version, mut items) = match query.value("continue") {
            Some(token) => match state.rests.remove(token) {
                Some(rest) => rest,
                None => return refusal(410, "Expired", None),
            },
            None => {
                let only =
                    query.value("fieldSelector").and_then(|field| field.strip_prefix("metadata.name="));
                let all = state.objects.entry(resource).or_default().values();
                let wanted =
                    |object: &&Arc<Value>| only.is_none_or(|name| object["metadata"]["name"] == name);
                let items = all.filter(wanted).cloned().collect();
                (state.version, items)
            }
        };
        let limit = query.value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let rest = if items.len() > limit { items.split_off(limit) } else { Vec::new() };
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if !rest.is_empty() {
            let token = format!("rest/{resource}/{version}+{}", rest.len());
            metadata["continue"] = token.as_str().into();
            state.rests.insert(token, (version, rest));
        }
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items });
        plain(StatusCode::OK, &list.to_string())
    }

    fn watch(&self, resource: Resource, query: &Query) -> Response<Body> {
        let number = |name| query.value(name).and_then(|value| value.parse::<u64>().ok());
        let now = tokio::time::Instant::now();
        let watcher = Watcher {
            server: self.clone(),
            resource,
            only: query
                .value("fieldSelector")
                .and_then(|f| f.strip_prefix("metadata.name="))
                .map(str::to_owned),
            seen: number("resourceVersion").unwrap_or(0),
            end: now + Duration::from_secs(number("timeoutSeconds").unwrap_or(1800)),
            bookmark: now + self.bookmarks,
            era: self.state().era,
            is_over: false,
        };
        let lines = stream::unfold(watcher, |mut watcher| async move {
            let line = watcher.next().await?;
            Some((line.map(|line| hyper::body::Frame::data(Bytes::from(line))), watcher))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    }
}

/// One watch.
struct Watcher {
    server: ApiServer,
    resource: Resource,
    only: Option<String>,
    seen: u64,
    end: tokio::time::Instant,
    bookmark: tokio::time::Instant,
    era: u64,
    is_over: bool,
}

impl Watcher {
    /// The next line; `None` at its end.
    async fn next(&mut self) -> Option<Result<String, std::io::Error>> {
        loop {
            if self.is_over {
                return None;
            }
            let server = self.server.clone();
            let changed = server.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.step() {
                Step::Line(line) => return Some(line),
                Step::Hang => {
                    changed.await;
                    continue;
                }
                Step::Wait => {}
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(self.end) => {
                    self.is_over = true;
                    return Some(Ok(self.bookmark_line()));
                }
                () = tokio::time::sleep_until(self.bookmark) => {
                    self.bookmark += self.server.bookmarks;
                    return Some(Ok(self.bookmark_line()));
                }
            }
        }
    }

    fn step(&mut self) -> Step {
        let state = self.server.state();
        if state.era != self.era {
            self.is_over = true;
            return Step::Line(Err(std::io::Error::other("cut for the test")));
        }
        if state.fault == Some(Fault::Hang) {
            return Step::Hang;
        }
        if self.seen < state.oldest {
            self.is_over = true;
            let status = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
            return Step::Line(Ok(format!("{}\n", json!({ "type": "ERROR", "object": status }))));
        }
        let begin = state.history.partition_point(|(version, ..)| *version <= self.seen);
        let mut lines = String::new();
        for (version, resource, type_, object) in &state.history[begin..] {
            self.seen = *version;
            let is_wanted = self.only.as_ref().is_none_or(|name| object["metadata"]["name"] == **name);
            if *resource == self.resource && is_wanted {
                lines += &json!({ "type": type_, "object": object }).to_string();
                lines.push('\n');
            }
        }
        if lines.is_empty() { Step::Wait } else { Step::Line(Ok(lines)) }
    }

    fn bookmark_line(&self) -> String {
        let version = self.server.state().version.max(self.seen).to_string();
        let object = json!({ "metadata": { "resourceVersion": version } });
        format!("{}\n", json!({ "type": "BOOKMARK", "object": object }))
    }
}

enum Step {
    Line(Result<String, std::io::Error>),
    Wait,
    Hang,
}

/// `a=b&c=d`.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let decode = |text: &str| {
            let mut octets = Vec::new();
            let mut rest = text.as_bytes();
            while let [first, tail @ ..] = rest {
                rest = match (first, tail) {
                    (b'%', [high, low, tail @ ..]) => {
                        let digits = [*high, *low];
                        octets.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                        tail
                    }
                    _ => {
                        octets.push(if *first == b'+' { b' ' } else { *first });
                        tail
                    }
                };
            }
            String::from_utf8(octets).unwrap()
        };
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decode(name), decode(value))).collect())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never: Infallible| match never {});
    Response::builder().status(status).body(body.boxed_unsync()).unwrap()
}

fn refusal(code: u16, reason: &str, wait: Option<u64>) -> Response<Body> {
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": reason });
    let mut response = plain(StatusCode::from_u16(code).unwrap(), &status.to_string());
    if let Some(wait) = wait {
        response.headers_mut().insert("retry-after", wait.into());
    }
    response
}
