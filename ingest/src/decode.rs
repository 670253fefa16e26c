//! Cuts a body into the texts of single events. Pure: bytes in, slices out, nothing copied.
//!
//! An array is only taken apart here, not read: each element becomes the text of an event of its own, so that one bad
//! event does not refuse the others. Reading is `lake::event`'s business.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// How events are arranged in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One object, or an array of objects.
    Json,
    /// One object per line; blank lines do not count.
    NdJson,
    /// One CloudEvent, attributes and data in one object (structured mode).
    CloudEvent,
    /// An array of those (batched mode).
    CloudEventBatch,
    /// One CloudEvent, its attributes in headers (binary mode).
    CloudEventBinary,
}

/// The content types that are understood, as answers name them.
pub(crate) const ACCEPTED: &str =
    "application/json, application/x-ndjson, application/cloudevents+json, application/cloudevents-batch+json";
/// With it, the body is the data of a CloudEvent of any content type.
pub(crate) const BINARY: &str = "ce-specversion";

/// What the headers say that this gateway does not understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// As found; `None` when there was none.
    ContentType(Option<String>),
    /// As found.
    ContentEncoding(String),
}

/// Why a body is not a sequence of events at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// No event in it.
    Empty,
    /// Not UTF-8 from this byte on.
    Utf8 {
        at: usize,
    },
    /// An array that JSON does not allow.
    Json(String),
    TooManyEvents,
}

impl Form {
    /// The form that the headers announce.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Form, Unsupported> {
        let found = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let form = found.as_deref().and_then(Form::named);
        if headers.contains_key(BINARY) && !found.as_deref().is_some_and(is_cloudevent) {
            return Ok(Form::CloudEventBinary);
        }
        form.ok_or_else(|| Unsupported::ContentType(found.map(|found| shorten(&found))))
    }

    fn named(content_type: &str) -> Option<Form> {
        let mut parts = content_type.split(';').map(str::trim);
        let name = parts.next()?;
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let utf8 = |part: &str| match part.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                matches!(value.trim().trim_matches('"').to_ascii_lowercase().as_str(), "utf-8" | "utf8" | "us-ascii")
            }
            _ => true,
        };
        if !parts.all(utf8) {
            return None;
        }
        if is("application/json") {
            return Some(Form::Json);
        }
        if is("application/cloudevents+json") {
            return Some(Form::CloudEvent);
        }
        if is("application/cloudevents-batch+json") {
            return Some(Form::CloudEventBatch);
        }
        // The first is the one to use; the others are what libraries send.
        let ndjson = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];
        ndjson.into_iter().any(is).then_some(Form::NdJson)
    }
}

/// Whether attributes and data of CloudEvents are in the body, in whatever format.
fn is_cloudevent(content_type: &str) -> bool {
    const PREFIX: &str = "application/cloudevents";
    content_type.trim_ascii_start().get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The texts of the events in `body`, in their order, at most `max` of them.
pub fn frame(form: Form, body: &[u8], max: usize) -> Result<Vec<&str>, Malformed> {
    let text = str::from_utf8(body).map_err(|err| Malformed::Utf8 { at: err.valid_up_to() })?;
    // Some editors and shells put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii();
    let events = match form {
        Form::NdJson => lines(text, max)?,
        Form::Json if text.starts_with('[') => elements(text, max)?,
        // CloudEvents' own specification allows a batch to be empty.
        Form::CloudEventBatch => return elements(text, max),
        _ if text.is_empty() => Vec::new(),
        Form::Json | Form::CloudEvent | Form::CloudEventBinary => vec![text],
    };
    if events.is_empty() { Err(Malformed::Empty) } else { Ok(events) }
}

fn lines(text: &str, max: usize) -> Result<Vec<&str>, Malformed> {
    let mut events = Vec::new();
    for line in text.split('\n').map(str::trim_ascii).filter(|line| !line.is_empty()) {
        if events.len() == max {
            return Err(Malformed::TooManyEvents);
        }
        events.push(line);
    }
    Ok(events)
}

fn elements(text: &str, max: usize) -> Result<Vec<&str>, Malformed> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut elements = Elements { max, found: Vec::new(), too_many: false };
    let outcome = json.deserialize_seq(&mut elements).and_then(|()| json.end());
    match outcome {
        _ if elements.too_many => Err(Malformed::TooManyEvents),
        Ok(()) => Ok(elements.found),
        Err(err) => Err(Malformed::Json(err.to_string())),
    }
}

struct Elements<'a> {
    max: usize,
    found: Vec<&'a str>,
    too_many: bool,
}

impl<'de> Visitor<'de> for &mut Elements<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if self.found.len() == self.max {
                self.too_many = true;
                return Err(A::Error::custom("too many events"));
            }
            self.found.push(element.get());
        }
        Ok(())
    }
}

/// Enough of a stranger's text to recognise it.
pub(crate) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
