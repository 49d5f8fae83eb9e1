//! A value of a document and the path that leads to it, so that every complaint names its field.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use tidegate_dataplane::net::Protocol;

use super::syntax;

/// What is wrong with which field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fault {
    /// Path of the field, as in `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

/// Labels, annotations or a selector.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A field of a document; an absent one and `null` are the same, as in Kubernetes.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> Field<'a> {
    /// Starts at the top of a document.
    pub(super) fn root(document: &'a Value) -> Self {
        Self { value: Some(document).filter(|value| !value.is_null()), path: String::new() }
    }

    /// Returns the field `name` of this map; a field of an absent map is absent.
    pub(super) fn child(&self, name: &str) -> Result<Self, Fault> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let value = match self.value {
            None => None,
            Some(Value::Object(map)) => map.get(name).filter(|value| !value.is_null()),
            Some(other) => return Err(self.mismatch("a map", other)),
        };
        Ok(Self { value, path })
    }

    /// Returns the items of this list; an absent list is empty.
    pub(super) fn items(&self) -> Result<Vec<Self>, Fault> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| Self { value: Some(item), path: format!("{}[{index}]", self.path) })
                .collect()),
            Some(other) => Err(self.mismatch("a list", other)),
        }
    }

    /// Says whether the field is there.
    pub(super) fn is_present(&self) -> bool {
        self.value.is_some()
    }

    /// Says whether the field is there and a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_some_and(Value::is_array)
    }

    /// Returns the same value as the top of a document of its own.
    pub(super) fn rerooted(self) -> Self {
        Self { path: String::new(), ..self }
    }

    /// Returns the text of the field.
    pub(super) fn text(&self) -> Result<Option<&'a str>, Fault> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mismatch("text (in quotes if it looks like something else)", other)),
        }
    }

    /// Returns the text of the field, or `None` if it is absent or empty.
    pub(super) fn filled_text(&self) -> Result<Option<&'a str>, Fault> {
        Ok(self.text()?.filter(|text| !text.is_empty()))
    }

    /// Returns the text of a field that must be there.
    pub(super) fn required_text(&self) -> Result<&'a str, Fault> {
        self.filled_text()?.ok_or_else(|| self.fault("is missing"))
    }

    /// Returns the truth value of the field.
    pub(super) fn flag(&self) -> Result<Option<bool>, Fault> {
        match self.value {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.mismatch("true or false", other)),
        }
    }

    /// Returns the number of the field.
    pub(super) fn number(&self) -> Result<Option<i128>, Fault> {
        match self.value {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let whole = number.as_u64().map(i128::from).or_else(|| number.as_i64().map(i128::from));
                whole.map(Some).ok_or_else(|| self.fault(&format!("{number} is no whole number")))
            }
            Some(other) => Err(self.mismatch("a number", other)),
        }
    }

    /// Returns the port number, 1..=65535.
    pub(super) fn port(&self) -> Result<Option<u16>, Fault> {
        let Some(number) = self.number()? else { return Ok(None) };
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(Some(port)),
            _ => Err(self.fault(&format!("{number} is outside 1..=65535"))),
        }
    }

    /// Returns the port number of a field that must be there, 1..=65535.
    pub(super) fn required_port(&self) -> Result<u16, Fault> {
        self.port()?.ok_or_else(|| self.fault("is missing"))
    }

    /// Returns the protocol; an absent one is TCP, as the API server fills it in.
    pub(super) fn protocol(&self) -> Result<Protocol, Fault> {
        match self.filled_text()? {
            None | Some("TCP") => Ok(Protocol::Tcp),
            Some("UDP") => Ok(Protocol::Udp),
            Some("SCTP") => Ok(Protocol::Sctp),
            Some(other) => Err(self.fault(&format!("{other:?} is not one of TCP, UDP, SCTP"))),
        }
    }

    /// Returns the address, which one host can have: not unspecified, multicast, loopback or link-local.
    ///
    /// Source: Kubernetes `pkg/apis/core/validation` `ValidateNonSpecialIP`.
    pub(super) fn address(&self) -> Result<IpAddr, Fault> {
        let text = self.required_text()?;
        syntax::address(text).map_err(|what| self.fault(&format!("{text:?} {what}")))
    }

    /// Returns the text of the field if it keeps to `rule`, a function of [`syntax`].
    pub(super) fn named(&self, rule: syntax::Rule) -> Result<Option<Arc<str>>, Fault> {
        let Some(text) = self.filled_text()? else { return Ok(None) };
        rule(text).map_err(|what| self.fault(&format!("{text:?} {what}")))?;
        Ok(Some(text.into()))
    }

    /// Returns a map of text to text.
    pub(super) fn labels(&self) -> Result<Labels, Fault> {
        let Some(value) = self.value else { return Ok(Labels::new()) };
        let Value::Object(map) = value else { return Err(self.mismatch("a map", value)) };
        map.keys()
            .map(|key| Ok((key.as_str().into(), self.child(key)?.text()?.unwrap_or_default().into())))
            .collect()
    }

    /// Makes a complaint about this field.
    pub(super) fn fault(&self, what: &str) -> Fault {
        Fault { field: self.path.clone(), what: what.to_owned() }
    }

    fn mismatch(&self, wanted: &str, found: &Value) -> Fault {
        let found = match found {
            Value::Null => "null".to_owned(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) => format!("the text {:?}", text.chars().take(64).collect::<String>()),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a map".to_owned(),
        };
        self.fault(&format!("must be {wanted}, not {found}"))
    }
}
