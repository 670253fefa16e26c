//! Translates CloudEvents 1.0 into events as `lake::event` reads them, so that nobody behind the gateway need know of
//! CloudEvents.
//!
//! `id`, `type`, `time` and `data` keep their names; `device_id` is `subject`, or else `source`. Everything else is kept
//! as a member whose name begins with `ce_`: `ce_source` (always), `ce_dataschema`, `ce_datacontenttype` and what
//! extensions there are. Without that beginning every event whose data has a member `source` of its own would be
//! ambiguous. Only `specversion` is not kept: it is always "1.0".
//!
//! `data` must be an object in an event. Of CloudEvents it may be anything: other JSON, and text, becomes the member
//! `data_value`, other bytes become `data_base64`. `data` never holds what the sender did not put there, and an
//! attribute of CloudEvents cannot have these names.
//!
//! Values are copied as they are in JSON, escapes and all. Nothing is checked here that `lake::event` checks afterwards.

mod binary;
mod structured;

use crate::answer::{Report, Why};
use crate::decode::{Form, Malformed, frame, shorten};
use axum::http::HeaderMap;
use bytes::Bytes;
use lake::event::{MAX_EVENT_BYTES, MAX_NAME_BYTES, Reason};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// The events of a body, translated.
#[derive(Debug, Default)]
pub(crate) struct Native {
    /// The texts of all events, one after another.
    pub(crate) body: Bytes,
    ranges: Vec<Range<usize>>,
    /// Why the text of an event is empty, by index.
    refused: HashMap<usize, Refused>,
}

/// Why a CloudEvent cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    why: Why,
    detail: String,
    id: Option<String>,
}

/// What a body of CloudEvents contains; `None` for other forms. At most `max` events.
pub(crate) fn translate(form: Form, headers: &HeaderMap, body: &[u8], max: usize) -> Result<Option<Native>, Malformed> {
    let mut writer = Writer { text: String::new(), native: Native::default() };
    match form {
        Form::Json | Form::NdJson => return Ok(None),
        Form::CloudEvent | Form::CloudEventBatch => {
            writer.text.reserve_exact(body.len());
            for text in frame(form, body, max)? {
                writer.add(text.len(), || structured::read(text));
            }
        }
        Form::CloudEventBinary => writer.add(body.len(), || binary::read(headers, body)),
    }
    Ok(Some(writer.finish()))
}

/// The most bytes that a body of so many becomes.
///
/// In JSON only the source is written twice, and `specversion` left out makes room for what else is added. A body that
/// is the data of an event may grow sixfold by escapes, but no event beyond its own bound is kept.
pub(crate) fn most_translated(body: usize) -> usize {
    (2 * body).max(MAX_EVENT_BYTES)
}

impl Native {
    /// The texts of the events in their order; an empty one could not be translated.
    pub(crate) fn events(&self) -> Vec<&str> {
        // It was written as text.
        let text = str::from_utf8(&self.body).unwrap_or_default();
        self.ranges.iter().map(|range| text.get(range.clone()).unwrap_or_default()).collect()
    }

    /// Why the text of an event is empty, by its place among all, or among those of the `rest`.
    pub(crate) fn untranslated(&self, rest: Option<&[u32]>) -> HashMap<usize, &Refused> {
        match rest {
            None => self.refused.iter().map(|(index, refused)| (*index, refused)).collect(),
            Some(rest) => {
                let refused = |index: &u32| self.refused.get(&(*index as usize));
                rest.iter().enumerate().filter_map(|(place, index)| Some((place, refused(index)?))).collect()
            }
        }
    }
}

impl Refused {
    fn new(why: Why, detail: impl Into<String>) -> Refused {
        Refused { why, detail: detail.into(), id: None }
    }

    /// Of an attribute, which the detail names.
    fn attribute(detail: impl Into<String>) -> Refused {
        Refused::new(Why::InvalidCloudEvent, detail)
    }

    /// Lists the event as rejected.
    pub(crate) fn report(&self, index: usize, report: &mut Report) {
        report.reject(index, self.why, || self.id.clone(), || shorten(&self.detail));
    }
}

/// A CloudEvent, its values as JSON.
#[derive(Default)]
struct CloudEvent<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    /// What the event keeps as `ce_` and the name.
    others: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    data: Option<Data<'a>>,
}

enum Data<'a> {
    Object(&'a str),
    /// Other JSON, or a text.
    Value(Cow<'a, str>),
    /// The JSON text of the base64 text of bytes.
    Base64(Cow<'a, str>),
}

impl<'a> CloudEvent<'a> {
    /// Takes an attribute with its value as JSON.
    fn set(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) -> Result<(), Refused> {
        // The JSON format says so.
        if value == "null" {
            return Ok(());
        }
        let slot = match name.as_ref() {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            _ => {
                // `lake::event` sees to it that no name comes twice.
                self.others.push((name, value));
                return Ok(());
            }
        };
        if !value.starts_with('"') {
            return Err(Refused::attribute(format!("the attribute `{name}` must be a string")));
        }
        if value == "\"\"" {
            return Err(Refused::attribute(format!("the attribute `{name}` must not be empty")));
        }
        if slot.is_some() {
            let detail = format!("the attribute `{name}` is given twice");
            return Err(Refused::new(Why::Invalid(Reason::AmbiguousMember), detail));
        }
        *slot = Some(value);
        Ok(())
    }

    /// The version first: of another one nothing else is known.
    fn check(&self) -> Result<(), Refused> {
        match self.specversion.as_deref().map(serde_json::from_str::<String>) {
            Some(Ok(version)) if version == "1.0" => {}
            Some(version) => {
                let version = version.unwrap_or_default();
                return Err(Refused::attribute(format!("`specversion` is {version:?}; only \"1.0\" is understood")));
            }
            None => return Err(Refused::attribute("the attribute `specversion` is required")),
        }
        let required = [("id", &self.id), ("source", &self.source), ("type", &self.kind)];
        match required.into_iter().find(|(_, value)| value.is_none()) {
            Some((name, _)) => Err(Refused::attribute(format!("the attribute `{name}` is required"))),
            None => Ok(()),
        }
    }

    fn write(&self, to: &mut String) {
        let device = self.subject.as_ref().or(self.source.as_ref());
        let named = [
            ("id", self.id.as_ref()),
            ("device_id", device),
            ("type", self.kind.as_ref()),
            ("time", self.time.as_ref()),
        ];
        to.push('{');
        for (name, value) in named {
            if let Some(value) = value {
                member(to, &format!("\"{name}\""), value);
            }
        }
        match &self.data {
            None => {}
            Some(Data::Object(object)) => member(to, "\"data\"", object),
            Some(Data::Value(value)) => member(to, "\"data_value\"", value),
            Some(Data::Base64(text)) => member(to, "\"data_base64\"", text),
        }
        if let Some(source) = &self.source {
            member(to, "\"ce_source\"", source);
        }
        for (name, value) in &self.others {
            member(to, &json(&format!("ce_{name}")), value);
        }
        to.push('}');
    }
}

fn member(to: &mut String, name: &str, value: &str) {
    if !to.ends_with('{') {
        to.push(',');
    }
    to.extend([name, ":", value]);
}

/// A text as JSON.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Writer {
    text: String,
    native: Native,
}

impl Writer {
    /// Adds an event of `len` bytes, which `read` reads.
    fn add<'a>(&mut self, len: usize, read: impl FnOnce() -> Result<CloudEvent<'a>, Refused>) {
        let start = self.text.len();
        // A larger one is never accepted, and escapes could make it six times as large.
        let read = if len > MAX_EVENT_BYTES { Err(too_large(len)) } else { read() };
        let written = read.and_then(|event| {
            event.write(&mut self.text);
            match self.text.len() - start {
                len if len > MAX_EVENT_BYTES => with_id(event, Err(too_large(len))).map(drop),
                _ => Ok(()),
            }
        });
        if let Err(refused) = written {
            self.text.truncate(start);
            self.native.refused.insert(self.native.ranges.len(), refused);
        }
        self.native.ranges.push(start..self.text.len());
    }

    fn finish(self) -> Native {
        Native { body: Bytes::from(self.text), ..self.native }
    }
}

fn too_large(len: usize) -> Refused {
    let detail = format!("the event has {len} bytes, more than the {MAX_EVENT_BYTES} allowed");
    Refused::new(Why::Invalid(Reason::TooLarge), detail)
}

/// Names the event in its refusal, if it has a name as events may have.
fn with_id<'a>(event: CloudEvent<'a>, outcome: Result<(), Refused>) -> Result<CloudEvent<'a>, Refused> {
    let Err(refused) = outcome else { return Ok(event) };
    let id = event.id.as_deref().and_then(|json| serde_json::from_str::<String>(json).ok());
    Err(Refused { id: id.filter(|id| id.len() <= MAX_NAME_BYTES), ..refused })
}

#[cfg(test)]
mod tests;
