//! A dead letter as a line of JSON, and back: to the byte.
//!
//! Text is `key` and `payload`; what is not UTF-8 is `key_base64` and `payload_base64` instead. Null is no bytes at all.

use super::args::Place;
use super::letter::{Header, Letter, parse_headers};
use super::times;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line, with the members in the order in which they are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    kafka_partition: i32,
    kafka_offset: i64,
    #[serde(default)]
    received_at: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    replayed: bool,
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    headers: Option<Value>,
}

/// What a line says of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrected {
    pub place: Place,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    /// As the table keeps them.
    pub headers: String,
}

/// Bytes as text, or else as base64.
pub fn text_or_base64(bytes: Option<&Bytes>) -> (Option<String>, Option<String>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| BASE64.encode(bytes))) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(base64)) => (None, Some(base64)),
    }
}

/// The line of a letter, without its end.
pub fn write(letter: &Letter, is_replayed: bool) -> anyhow::Result<String> {
    let (key, key_base64) = text_or_base64(letter.key.as_ref());
    let (payload, payload_base64) = text_or_base64(letter.payload.as_ref());
    let headers = serde_json::from_str(&letter.headers).context("the headers of a dead letter are not JSON")?;
    let line = Line {
        kafka_partition: letter.place.partition,
        kafka_offset: letter.place.offset,
        received_at: times::show(letter.received_at),
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
        topic: letter.topic.clone(),
        replayed: is_replayed,
        key,
        key_base64,
        payload,
        payload_base64,
        headers: Some(headers),
    };
    Ok(serde_json::to_string(&line)?)
}

/// The record in a line. Members that say nothing of it are for people.
pub fn parse(line: &str) -> anyhow::Result<Corrected> {
    let line: Line = serde_json::from_str(line)?;
    let headers = line.headers.unwrap_or_else(|| Value::Array(Vec::new()));
    let _: Vec<Header> = parse_headers(&headers)?;
    Ok(Corrected {
        place: Place { partition: line.kafka_partition, offset: line.kafka_offset },
        key: bytes("key", line.key, line.key_base64)?,
        payload: bytes("payload", line.payload, line.payload_base64)?,
        headers: headers.to_string(),
    })
}

fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> anyhow::Result<Option<Bytes>> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => {
            let bytes = BASE64.decode(base64).with_context(|| format!("{name}_base64 is not base64"))?;
            Ok(Some(bytes.into()))
        }
        (Some(_), Some(_)) => bail!("both {name} and {name}_base64 are given"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_letter()(
            place in (any::<i32>(), any::<i64>()),
            received_at in 0..253_402_300_800_000_000i64,
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400)),
            text in proptest::option::of(".*"),
            header in (".*", ".*"),
        ) -> Letter {
            Letter {
                reason: "empty".into(),
                place: Place { partition: place.0, offset: place.1 },
                received_at,
                key: key.map(Bytes::from),
                payload: text.map(Bytes::from).or(payload.map(Bytes::from)),
                headers: serde_json::json!([[header.0, header.1], ["n", null], ["b", {"base64": "/w=="}]]).to_string(),
                ..Letter::default()
            }
        }
    }

    proptest! {
        #[test]
        fn a_letter_comes_back_from_its_line_to_the_byte(letter in any_letter(), is_replayed: bool) {
            let line = write(&letter, is_replayed).unwrap();
            prop_assert!(!line.contains('\n'));
            let Letter { place, key, payload, headers, .. } = letter;
            prop_assert_eq!(parse(&line).unwrap(), Corrected { place, key, payload, headers });
        }

        #[test]
        fn any_text_is_a_line_or_an_error(text in ".*") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn empty_and_none_are_told_apart() {
        let letter = |payload| Letter { payload, headers: "[]".into(), ..Letter::default() };
        assert_eq!(parse(&write(&letter(None), false).unwrap()).unwrap().payload, None);
        assert_eq!(parse(&write(&letter(Some(Bytes::new())), false).unwrap()).unwrap().payload, Some(Bytes::new()));
    }

    #[test]
    fn a_line_that_says_two_things_is_refused() {
        let line = r#"{"kafka_partition":1,"kafka_offset":2,"payload":"x","payload_base64":"eA=="}"#;
        assert!(parse(line).unwrap_err().to_string().contains("payload_base64"));
        assert!(parse(r#"{"kafka_partition":1,"kafka_offset":2,"payload_base64":"?"}"#).is_err());
        assert!(parse(r#"{"kafka_partition":1,"payload":"x"}"#).is_err());
    }
}
