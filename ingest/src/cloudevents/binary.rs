//! A CloudEvent whose attributes are headers and whose data is the body.
//!
//! What the data is, its content type alone decides, never a look at the bytes: a device whose readings happen to be
//! digits is not to have some of them stored as text and others as numbers.

use super::{CloudEvent, Data, Refused, json, with_id};
use crate::answer::Why;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lake::event::Reason;
use percent_encoding::percent_decode;
use serde_json::value::RawValue;

pub(crate) fn read<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Result<CloudEvent<'a>, Refused> {
    let mut event = CloudEvent::default();
    let outcome = attributes(&mut event, headers).and_then(|()| event.check()).and_then(|()| {
        event.data = data(headers.get(CONTENT_TYPE), body)?;
        Ok(())
    });
    with_id(event, outcome)
}

fn attributes<'a>(event: &mut CloudEvent<'a>, headers: &'a HeaderMap) -> Result<(), Refused> {
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("ce-") {
            let text = text(value).ok_or_else(|| Refused::attribute(format!("the attribute `{name}` is not UTF-8")))?;
            event.set(name.into(), json(&text).into())?;
        }
    }
    if let Some(value) = headers.get(CONTENT_TYPE) {
        event.set("datacontenttype".into(), json(&String::from_utf8_lossy(value.as_bytes())).into())?;
    }
    Ok(())
}

/// The value of a header: first out of its quotes, then percent-decoded, once.
fn text(value: &HeaderValue) -> Option<String> {
    let bytes = match value.as_bytes() {
        [b'"', quoted @ .., b'"'] => &unescape(quoted)[..],
        plain => plain,
    };
    Some(percent_decode(bytes).decode_utf8().ok()?.into_owned())
}

fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter();
    let mut text = Vec::with_capacity(quoted.len());
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    text
}

fn data<'a>(content_type: Option<&HeaderValue>, body: &'a [u8]) -> Result<Option<Data<'a>>, Refused> {
    if body.is_empty() {
        return Ok(None);
    }
    let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let media = content_type.as_deref().map(|value| value.split(';').next().unwrap_or(value).trim());
    // CloudEvents takes data without a content type for JSON.
    if media.is_none_or(|media| matches!(media, "application/json" | "text/json") || media.ends_with("+json")) {
        return match serde_json::from_slice::<&RawValue>(body).map(RawValue::get) {
            Ok("null") => Ok(None),
            Ok(object) if object.starts_with('{') => Ok(Some(Data::Object(object))),
            Ok(value) => Ok(Some(Data::Value(value.into()))),
            Err(err) => {
                let detail = format!("the data is not JSON, as its content type says: {err}");
                Err(Refused::new(Why::Invalid(Reason::InvalidData), detail))
            }
        };
    }
    let is_text = |media: &str| media.starts_with("text/") || media == "application/xml" || media.ends_with("+xml");
    match str::from_utf8(body) {
        Ok(text) if media.is_some_and(is_text) => Ok(Some(Data::Value(json(text).into()))),
        _ => Ok(Some(Data::Base64(json(&STANDARD.encode(body)).into()))),
    }
}
