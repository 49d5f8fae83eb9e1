//! What the API server sends: pages of lists, lines of watches, and refusals.
//!
//! Nothing here fails for one bad object: it becomes a refusal that names it. Octets that are no JSON, or not the
//! shape of a page or a line, fail as a whole.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::cluster::ObjectName;
use crate::objects::{self, Kind, Reading};

/// The annotation that says when what an EndpointSlice shows came to be.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An object as it came.
#[derive(Debug)]
pub(super) struct Item {
    /// Its name, if that could be told, whatever else is wrong with it.
    pub(super) name: Option<ObjectName>,
    /// `metadata.uid`.
    pub(super) uid: Option<Arc<str>>,
    /// `metadata.resourceVersion`.
    pub(super) version: Option<String>,
    /// When the change of the world happened that this object shows.
    pub(super) triggered: Option<SystemTime>,
    /// What it says.
    pub(super) reading: Reading,
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// From where to watch on.
    pub(super) version: Option<String>,
    /// Where the next part is.
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// An object is new or has changed.
    Applied(Item),
    /// An object is gone.
    Deleted(Item),
    /// All up to this version has been said.
    Bookmark(String),
    /// The watch has ended, for this reason.
    Error(Status),
}

/// Why the server does not do what it was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) details: Details,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    retry_after_seconds: u64,
}

impl Status {
    /// Returns how long the server wants us to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        Some(self.details.retry_after_seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

/// JSON without what makes objects long and is of no use here: `managedFields`, and what `kubectl apply` notes.
struct Pruned(Value);

impl<'de> Deserialize<'de> for Pruned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Pruning).map(Self)
    }
}

struct Pruning;

impl<'de> Visitor<'de> for Pruning {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Pruned(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key == "managedFields" || key == "kubectl.kubernetes.io/last-applied-configuration" {
                fields.next_value::<IgnoredAny>()?;
            } else {
                map.insert(key, fields.next_value::<Pruned>()?.0);
            }
        }
        Ok(Value::Object(map))
    }
}

#[derive(Deserialize)]
struct RawPage {
    #[serde(default)]
    metadata: RawListMeta,
    items: Option<Vec<Pruned>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawListMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct RawLine {
    #[serde(rename = "type")]
    kind: String,
    object: Pruned,
}

/// Reads a part of a list of objects of one kind.
///
/// # Errors
/// Says how it is no list.
pub(super) fn read_page(kind: Kind, octets: &[u8]) -> Result<Page, String> {
    let raw: RawPage = serde_json::from_slice(octets).map_err(|error| error.to_string())?;
    let items = raw.items.unwrap_or_default().into_iter().map(|item| read_item(kind, &item.0)).collect();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Page { items, version: filled(raw.metadata.resource_version), next: filled(raw.metadata.next) })
}

/// Reads a line of a watch.
///
/// # Errors
/// Says how it is none.
pub(super) fn read_line(kind: Kind, octets: &[u8]) -> Result<Line, String> {
    let raw: RawLine = serde_json::from_slice(octets).map_err(|error| error.to_string())?;
    let object = raw.object.0;
    match raw.kind.as_str() {
        "ADDED" | "MODIFIED" => Ok(Line::Applied(read_item(kind, &object))),
        "DELETED" => Ok(Line::Deleted(read_item(kind, &object))),
        "BOOKMARK" => {
            let version = text(&object, "/metadata/resourceVersion").ok_or("a bookmark without a version")?;
            Ok(Line::Bookmark(version.to_owned()))
        }
        "ERROR" => serde_json::from_value(object).map(Line::Error).map_err(|error| error.to_string()),
        other => Err(format!("an event of type {:?}", other.chars().take(32).collect::<String>())),
    }
}

fn read_item(kind: Kind, object: &Value) -> Item {
    let name = text(object, "/metadata/name").filter(|name| !name.is_empty());
    let namespace = text(object, "/metadata/namespace").unwrap_or_default();
    Item {
        name: name.map(|name| ObjectName::new(namespace, name)),
        uid: text(object, "/metadata/uid").map(Arc::from),
        version: text(object, "/metadata/resourceVersion").map(str::to_owned),
        triggered: object
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get(TRIGGER)?.as_str()?.parse::<Timestamp>().ok())
            .map(SystemTime::from),
        reading: objects::read_item(object, kind),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Object, Refusal};

    #[test]
    fn items_of_a_list_need_not_say_what_they_are() {
        let page = br#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":"x"},"items":[
            {"metadata":{"name":"a","namespace":"n","resourceVersion":"3","uid":"u","managedFields":[{"x":1}]},
             "spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}]}"#;
        let page = read_page(Kind::Service, page).unwrap();
        assert_eq!((page.version.as_deref(), page.next.as_deref()), (Some("7"), Some("x")));
        let [item] = &page.items[..] else { panic!("{page:?}") };
        assert_eq!((item.version.as_deref(), item.uid.as_deref()), (Some("3"), Some("u")));
        assert!(
            matches!(&item.reading, Reading::Object(key, Object::Service(_)) if key.to_string() == "Service n/a")
        );
    }

    #[test]
    fn one_bad_object_spoils_neither_its_list_nor_its_name() {
        let page = br#"{"items":[{"metadata":{"name":"a","namespace":"n","labels":7}},7,{"metadata":{"name":"b","namespace":"n"},
            "spec":{"clusterIP":"10.96.0.1","ports":[{"port":0}]}},{"kind":"Pod","apiVersion":"v1","metadata":{"name":"c"}}]}"#;
        let page = read_page(Kind::Service, page).unwrap();
        let told: Vec<String> = page
            .items
            .iter()
            .map(|item| {
                let Reading::Refused(Refusal { fault, .. }) = &item.reading else { panic!("{item:?}") };
                format!("{:?} {}: {}", item.name, fault.field, fault.what)
            })
            .collect();
        assert_eq!(
            told,
            [
                "Some(n/a) metadata.labels: must be a map, not the number 7",
                "None : must be a map, not the number 7",
                "Some(n/b) spec.ports[0].port: 0 is outside 1..=65535",
                "Some(/c) kind: is Pod where a Service was asked for",
            ]
        );
    }

    #[test]
    fn a_line_is_a_change_a_bookmark_or_an_end_and_nothing_else() {
        let line = |text: &str| read_line(Kind::Namespace, text.as_bytes());
        let named = |type_: &str| format!(r#"{{"type":"{type_}","object":{{"metadata":{{"name":"dev"}}}}}}"#);
        assert!(matches!(line(&named("ADDED")), Ok(Line::Applied(_))));
        assert!(matches!(line(&named("MODIFIED")), Ok(Line::Applied(_))));
        assert!(matches!(line(&named("DELETED")), Ok(Line::Deleted(_))));
        assert_eq!(line(&named("BOOKMARK")).unwrap_err(), "a bookmark without a version");
        assert_eq!(line(&named("ODD")).unwrap_err(), "an event of type \"ODD\"");
        let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(line(bookmark), Ok(Line::Bookmark(version)) if version == "9"));
        let gone =
            r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","details":{"retryAfterSeconds":2}}}"#;
        let Ok(Line::Error(status)) = line(gone) else { panic!() };
        assert_eq!((status.code, status.retry_after()), (410, Some(Duration::from_secs(2))));
        assert!(line("{\"type\":").is_err() && line("\u{0}").is_err() && line("[]").is_err());
    }

    #[test]
    fn the_time_of_a_change_is_read_from_its_annotation() {
        let slice = r#"{"type":"ADDED","object":{"metadata":{"name":"s","namespace":"n","annotations":{
            "endpoints.kubernetes.io/last-change-trigger-time":"1970-01-01T00:01:00.5Z"}}}}"#;
        let Ok(Line::Applied(item)) = read_line(Kind::EndpointSlice, slice.as_bytes()) else { panic!() };
        assert_eq!(item.triggered, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(60_500)));
    }
}
