//! Kubernetes Events that tell the authors of objects what is wrong with them; nothing else is ever written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::core::{ObjectList, PartialObjectMeta, Request};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::access::{Access, causes};
use super::follow::Limits;
use super::mirror::Refused;
use crate::objects::{Fault, Kind, ObjectKey};
use crate::tables::stable_hash;

/// Complaints that wait to be written; more are dropped.
const WAITING: usize = 256;
/// Time between two of them, so that a cluster full of bad objects is no flood of requests.
const PACE: Duration = Duration::from_millis(100);
/// Longest name of an Event's object that its own name has room for, with a dot and 16 digits behind it.
const NAME_MAX: usize = 236;

/// What an Event is to say.
#[derive(Debug)]
pub(super) struct Complaint {
    refused: Refused,
    /// What becomes of the object.
    consequence: &'static str,
}

impl Complaint {
    /// Complains about an object that cannot be read.
    pub(super) const fn skipped(refused: Refused) -> Self {
        Self { refused, consequence: "the gateway skips this object" }
    }

    /// Complains about an object that asks for what it cannot have.
    pub(super) const fn left_out(key: ObjectKey, fault: Fault) -> Self {
        let refused = Refused { key, uid: None, fault };
        Self { refused, consequence: "the gateway leaves that out and tries again" }
    }
}

/// The writer of Events.
#[derive(Debug)]
pub(super) struct Complaints {
    waiting: mpsc::Sender<Complaint>,
    dropped: Arc<AtomicU64>,
    /// Ends the writer when it goes.
    _writer: JoinSet<()>,
}

impl Complaints {
    pub(super) fn new(access: Arc<Access>, limits: Limits) -> Self {
        let (waiting, taken) = mpsc::channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = JoinSet::new();
        writer.spawn(write_all(access, limits, taken, Arc::clone(&dropped)));
        Self { waiting, dropped, _writer: writer }
    }

    /// Has an Event written about an object.
    pub(super) fn push(&self, complaint: Complaint) {
        if self.waiting.try_send(complaint).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

async fn write_all(
    access: Arc<Access>,
    limits: Limits,
    mut taken: mpsc::Receiver<Complaint>,
    dropped: Arc<AtomicU64>,
) {
    let mut trouble = None;
    while let Some(complaint) = taken.recv().await {
        match timeout(limits.answer, write(&access, &complaint)).await.unwrap_or(Err("no answer".to_owned()))
        {
            Ok(()) => trouble = None,
            Err(why) => {
                dropped.fetch_add(1, Ordering::Relaxed);
                if trouble.as_ref() != Some(&why) {
                    tracing::warn!("{}: no Event could be written about it: {why}", complaint.refused.key);
                    trouble = Some(why);
                }
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Writes one Event. Its name is made of what it says, so that of all gateways and all starts one writes it.
async fn write(access: &Access, complaint: &Complaint) -> Result<(), String> {
    let Refused { key, uid, fault } = &complaint.refused;
    let (client, number) = access.client().await.map_err(|error| error.to_string())?;
    let uid = match uid {
        Some(uid) => Some(Arc::clone(uid)),
        None => uid_of(&client, key).await?,
    };
    // Events about objects that are in no namespace are kept in this one.
    let namespace = if key.name.namespace.is_empty() { "default" } else { &key.name.namespace };
    let api_version = if key.kind == Kind::EndpointSlice { "discovery.k8s.io/v1" } else { "v1" };
    let said = format!("{}: {}", fault.field, fault.what);
    let identity = stable_hash(format_args!("{}/{key}/{said}", uid.as_deref().unwrap_or_default()));
    let stem: String = key.name.name.chars().take(NAME_MAX).collect();
    let now = Timestamp::now().to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{stem}.{identity:016x}"), "namespace": namespace },
        "involvedObject": {
            "apiVersion": api_version,
            "kind": key.kind.as_str(),
            "name": &*key.name.name,
            "namespace": &*key.name.namespace,
            "uid": uid.as_deref().unwrap_or_default(),
        },
        "type": "Warning",
        "reason": "Refused",
        "message": format!("{said}; {}", complaint.consequence),
        "source": { "component": "tidegate" },
        "reportingComponent": "tidegate",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/events"))
        .create(&PostParams::default(), event.to_string().into_bytes())
        .map_err(|error| causes(&error))?;
    let answer = client.send(request.map(Body::from)).await.map_err(|error| causes(&error))?;
    match answer.status() {
        // Another gateway, or an earlier run, has written it.
        http::StatusCode::CONFLICT => Ok(()),
        status if status.is_success() => Ok(()),
        status => {
            if status == http::StatusCode::UNAUTHORIZED {
                access.renew(number).await;
            }
            Err(format!("the API server answers {status}"))
        }
    }
}

/// Asks for the `metadata.uid` of a Service that is in force, which is not kept; `None` if it is gone. By a list of
/// one, since the account may do nothing else.
async fn uid_of(client: &Client, key: &ObjectKey) -> Result<Option<Arc<str>>, String> {
    let one = ListParams::default().fields(&format!("metadata.name={}", key.name.name));
    let request = Request::new(format!("/api/v1/namespaces/{}/services", key.name.namespace))
        .list(&one)
        .map_err(|error| causes(&error))?;
    let list: ObjectList<PartialObjectMeta> =
        client.request(request).await.map_err(|error| causes(&error))?;
    let is_it = |one: &PartialObjectMeta| {
        let (own, of) = (&one.metadata, &key.name);
        own.name.as_deref() == Some(&*of.name) && own.namespace.as_deref() == Some(&*of.namespace)
    };
    let found = list.items.into_iter().find(is_it);
    Ok(found.and_then(|one| one.metadata.uid).map(Arc::from))
}
