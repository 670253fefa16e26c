//! What an event is, and what makes one invalid.
//!
//! The gateway and the processor ask the same function, [`Event::parse`], so an event that was accepted over HTTP can
//! always be written, and a record from any other producer is measured by the same rule. Parsing borrows from the
//! input: the fast path allocates nothing.
//!
//! Members that the contract does not name are not dropped: they count as members of `data` (see
//! [`Event::members`]).

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Largest JSON text of one event, in bytes. Kafka's default limit of a whole batch is 1,048,588 bytes
/// (`message.max.bytes`); this leaves room for key, headers and framing.
pub const MAX_EVENT_BYTES: usize = 1_000_000;

/// Largest `id` and `device_id`, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 128;

/// 0001-01-01T00:00:00Z, microseconds since the epoch: the first instant that every reader of the table can show.
const MIN_TIME: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const MAX_TIME: i64 = 253_402_300_799_999_999;

/// One event as a device posted it, borrowed from its JSON text.
#[derive(Debug, Clone, Default)]
pub struct Event<'a> {
    pub id: Option<Cow<'a, str>>,
    pub device_id: Cow<'a, str>,
    /// The member `type`.
    pub kind: Option<Cow<'a, str>>,
    /// Microseconds since the epoch, UTC; `None` means "when it was received".
    pub time: Option<i64>,
    /// The text of the `data` object.
    pub data: Option<&'a RawValue>,
    /// Members of the event itself that the contract does not name.
    pub others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Why something is not an event: a reason from a small closed set, for metrics and programs, and a sentence for
/// people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    pub reason: Reason,
    pub detail: String,
}

/// The closed set of reasons. The gateway answers them per event; the dead-letter table has them as a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::VariantArray)]
pub enum Reason {
    InvalidJson,
    NotAnObject,
    MissingDeviceId,
    InvalidDeviceId,
    InvalidId,
    InvalidType,
    InvalidTime,
    InvalidData,
    AmbiguousMember,
    TooLarge,
    /// A record without a value (Kafka's tombstone); never from the gateway.
    Empty,
}

impl Reason {
    /// The name used in answers, metrics and the dead-letter table.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::MissingDeviceId => "missing_device_id",
            Reason::InvalidDeviceId => "invalid_device_id",
            Reason::InvalidId => "invalid_id",
            Reason::InvalidType => "invalid_type",
            Reason::InvalidTime => "invalid_time",
            Reason::InvalidData => "invalid_data",
            Reason::AmbiguousMember => "ambiguous_member",
            Reason::TooLarge => "too_large",
            Reason::Empty => "empty",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn invalid(reason: Reason, detail: impl Into<String>) -> Invalid {
    Invalid { reason, detail: detail.into() }
}

impl<'a> Event<'a> {
    /// Reads one event. Pure: the same bytes always give the same answer, whatever the clock says.
    pub fn parse(json: &'a [u8]) -> Result<Event<'a>, Invalid> {
        if json.len() > MAX_EVENT_BYTES {
            let detail = format!("the event has {} bytes, more than the {MAX_EVENT_BYTES} allowed", json.len());
            return Err(invalid(Reason::TooLarge, detail));
        }
        // Checked once as a whole: else every string in it is, one by one.
        let Ok(text) = std::str::from_utf8(json) else {
            return Err(invalid(Reason::InvalidJson, "the event is not UTF-8"));
        };
        let members = match serde_json::from_str::<Members<'a>>(text) {
            Ok(members) => members,
            Err(_) if first_byte(json).is_some_and(|b| b != b'{') && is_json(json) => {
                return Err(invalid(Reason::NotAnObject, "an event must be a JSON object"));
            }
            Err(err) => return Err(invalid(Reason::InvalidJson, err.to_string())),
        };
        members.check()
    }

    /// Refuses an event whose `time` lies outside `[now - max_age, now + max_ahead]`. Microseconds since the epoch.
    /// Only the gateway asks: it can still tell the device.
    pub fn check_time(&self, now: i64, max_age: i64, max_ahead: i64) -> Result<(), Invalid> {
        let Some(time) = self.time else { return Ok(()) };
        let (first, last) = (now.saturating_sub(max_age), now.saturating_add(max_ahead));
        if (first..=last).contains(&time) {
            return Ok(());
        }
        let detail = format!("time {} is outside {} to {}", format_time(time), format_time(first), format_time(last));
        Err(invalid(Reason::InvalidTime, detail))
    }

    /// Calls `each` with every member that a column may take: those of `data`, then those of the event that the
    /// contract does not name. `data` was checked by [`Event::parse`] to be an object.
    pub fn members(&self, mut each: impl FnMut(&str, &'a RawValue)) {
        if let Some(data) = self.data {
            each_member(data, &mut each);
        }
        for (name, value) in &self.others {
            each(name, value);
        }
    }
}

/// Microseconds since the epoch as RFC 3339.
pub fn format_time(micros: i64) -> String {
    match DateTime::<Utc>::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{micros} µs"),
    }
}

/// RFC 3339 to microseconds since the epoch, UTC. Finer fractions are cut off.
pub fn parse_time(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros();
    (MIN_TIME..=MAX_TIME).contains(&time).then_some(time)
}

/// Epoch milliseconds to microseconds.
pub fn time_from_millis(millis: i64) -> Option<i64> {
    let time = millis.checked_mul(1_000)?;
    (MIN_TIME..=MAX_TIME).contains(&time).then_some(time)
}

/// Calls `each` for every member of a JSON object, in its order. Anything else has no members.
pub fn each_member<'a>(object: &'a RawValue, each: &mut dyn FnMut(&str, &'a RawValue)) {
    struct Walk<'f, 'a>(&'f mut dyn FnMut(&str, &'a RawValue));
    impl<'de> Visitor<'de> for Walk<'_, 'de> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
                (self.0)(&name, map.next_value()?);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(object.get());
    // A `RawValue` is well-formed, so the only error left is "not an object", which has no members.
    let _ = json.deserialize_map(Walk(each));
}

/// The members of an event as they came, before anything is required of them.
#[derive(Default)]
struct Members<'a> {
    id: Option<Value<'a>>,
    device_id: Option<Value<'a>>,
    kind: Option<Value<'a>>,
    time: Option<Value<'a>>,
    data: Option<&'a RawValue>,
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// A member of the contract that came twice.
    repeated: Option<&'static str>,
}

impl<'a> Members<'a> {
    fn check(self) -> Result<Event<'a>, Invalid> {
        if let Some(name) = self.repeated {
            return Err(invalid(Reason::AmbiguousMember, format!("`{name}` is given twice")));
        }
        let device_id = match self.device_id {
            None | Some(Value::Null) => {
                return Err(invalid(Reason::MissingDeviceId, "`device_id` is required"));
            }
            Some(value) => name(value, "device_id", Reason::InvalidDeviceId)?,
        };
        let id = match self.id {
            None | Some(Value::Null) => None,
            Some(value) => Some(name(value, "id", Reason::InvalidId)?),
        };
        let kind = match self.kind {
            None | Some(Value::Null) => None,
            Some(Value::Text(text)) => Some(text),
            Some(_) => return Err(invalid(Reason::InvalidType, "`type` must be a string")),
        };
        let time = match self.time {
            None | Some(Value::Null) => None,
            Some(value) => Some(time(&value)?),
        };
        let data = match self.data {
            Some(data) if data.get() == "null" => None,
            Some(data) if data.get().starts_with('{') => Some(data),
            Some(_) => return Err(invalid(Reason::InvalidData, "`data` must be a JSON object")),
            None => None,
        };
        if !self.others.is_empty() {
            check_names(data, &self.others)?;
        }
        Ok(Event { id, device_id, kind, time, data, others: self.others })
    }
}

/// A member outside `data` must not hide one inside it, for both end up in the same place.
fn check_names(data: Option<&RawValue>, others: &[(Cow<'_, str>, &RawValue)]) -> Result<(), Invalid> {
    let mut names: HashSet<Cow<'_, str>> = HashSet::new();
    if let Some(data) = data {
        each_member(data, &mut |name, _| {
            names.insert(name.to_owned().into());
        });
    }
    for (name, _) in others {
        if !names.insert(name.as_ref().into()) {
            return Err(invalid(Reason::AmbiguousMember, format!("`{name}` is given twice")));
        }
    }
    Ok(())
}

fn name<'a>(value: Value<'a>, member: &str, reason: Reason) -> Result<Cow<'a, str>, Invalid> {
    match value {
        Value::Text(text) if text.is_empty() => Err(invalid(reason, format!("`{member}` must not be empty"))),
        Value::Text(text) if text.len() > MAX_NAME_BYTES => {
            let detail = format!("`{member}` has {} bytes, more than the {MAX_NAME_BYTES} allowed", text.len());
            Err(invalid(reason, detail))
        }
        Value::Text(text) => Ok(text),
        _ => Err(invalid(reason, format!("`{member}` must be a string"))),
    }
}

fn time(value: &Value<'_>) -> Result<i64, Invalid> {
    let time = match value {
        Value::Text(text) => parse_time(text),
        Value::Integer(millis) => time_from_millis(*millis),
        // JavaScript clocks may say 1763800000000.25.
        Value::Float(millis) if millis.abs() < 9e15 => time_from_millis(millis.trunc() as i64),
        _ => None,
    };
    time.ok_or_else(|| {
        let detail = "`time` must be RFC 3339, as 2026-01-31T12:00:00Z, or milliseconds since 1970, between the years 1 \
                      and 9999";
        invalid(Reason::InvalidTime, detail)
    })
}

fn first_byte(json: &[u8]) -> Option<u8> {
    json.iter().copied().find(|b| !b.is_ascii_whitespace())
}

fn is_json(json: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(json).is_ok()
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(Text(name)) = map.next_key()? {
                    match name.as_ref() {
                        "id" => set(&mut members.id, map.next_value()?, "id", &mut members.repeated),
                        "device_id" => {
                            set(&mut members.device_id, map.next_value()?, "device_id", &mut members.repeated)
                        }
                        "type" => set(&mut members.kind, map.next_value()?, "type", &mut members.repeated),
                        "time" => set(&mut members.time, map.next_value()?, "time", &mut members.repeated),
                        "data" => set(&mut members.data, map.next_value()?, "data", &mut members.repeated),
                        _ => members.others.push((name, map.next_value()?)),
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(V)
    }
}

fn set<T>(slot: &mut Option<T>, value: T, name: &'static str, repeated: &mut Option<&'static str>) {
    if slot.replace(value).is_some() {
        *repeated = Some(name);
    }
}

/// A string, borrowed when it holds no escapes.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

/// A JSON value as far as columns and the event's own members care.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// An array or an object.
    Nested,
}

impl<'a> Value<'a> {
    /// The value of a JSON text; `None` if it is a number that no double holds.
    pub(crate) fn of(json: &'a RawValue) -> Option<Value<'a>> {
        let text = json.get();
        Value::of_plain(text).or_else(|| serde_json::from_str(text).ok())
    }

    /// As [`Value::of`] for what nearly all values are, without a parser: the text is known to be JSON.
    fn of_plain(text: &'a str) -> Option<Value<'a>> {
        match text.as_bytes() {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Some(Value::Text(text[1..text.len() - 1].into())),
            // Minus zero is a double.
            [b'-', b'0', ..] => None,
            [b'-' | b'0'..=b'9', ..] => match text.parse() {
                Ok(integer) => Some(Value::Integer(integer)),
                Err(_) if text.bytes().all(|b| b != b'.' && b != b'e' && b != b'E') => None,
                Err(_) => text.parse().ok().filter(|float: &f64| float.is_finite()).map(Value::Float),
            },
            b"true" => Some(Value::Bool(true)),
            b"false" => Some(Value::Bool(false)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Value<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Value::Integer(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
                if value.is_finite() { Ok(Value::Float(value)) } else { Err(E::custom("number out of range")) }
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Nested)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Nested)
            }
        }
        deserializer.deserialize_any(V)
    }
}

#[cfg(test)]
mod tests;
