//! A dead letter: a row of the table, and the headers in it.

use super::args::Place;
use anyhow::{Context, bail};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Int32Type, Int64Type, TimestampMicrosecondType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    pub reason: String,
    pub detail: String,
    pub topic: String,
    pub place: Place,
    /// Microseconds since the epoch.
    pub received_at: i64,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    /// JSON array of `[name, value]`; see [`parse_headers`].
    pub headers: String,
}

/// A header's name and value.
pub type Header = (String, Option<Bytes>);

impl Letter {
    /// The letter in a row.
    pub fn of_row(batch: &RecordBatch, row: usize) -> anyhow::Result<Letter> {
        Ok(Letter {
            reason: text(batch, "reason", row)?,
            detail: text(batch, "detail", row)?,
            topic: text(batch, "topic", row)?,
            place: place(batch, row)?,
            received_at: number::<TimestampMicrosecondType>(batch, "received_at", row)?.unwrap_or_default(),
            key: bytes(batch, "key", row)?,
            payload: bytes(batch, "payload", row)?,
            headers: text(batch, "headers", row)?,
        })
    }
}

/// The place that a row is about.
pub fn place(batch: &RecordBatch, row: usize) -> anyhow::Result<Place> {
    let partition = number::<Int32Type>(batch, "kafka_partition", row)?;
    let offset = number::<Int64Type>(batch, "kafka_offset", row)?;
    let place = partition.zip(offset).map(|(partition, offset)| Place { partition, offset });
    place.context("a row of the table has no place in the topic")
}

/// A value of a column of texts, empty if it is null.
pub fn text(batch: &RecordBatch, name: &str, row: usize) -> anyhow::Result<String> {
    let column = column(batch, name)?.as_string_opt::<i32>().with_context(|| format!("column {name} is no text"))?;
    Ok(if column.is_null(row) { String::new() } else { column.value(row).to_owned() })
}

pub fn bytes(batch: &RecordBatch, name: &str, row: usize) -> anyhow::Result<Option<Bytes>> {
    let column = column(batch, name)?.as_binary_opt::<i32>().with_context(|| format!("column {name} is no bytes"))?;
    Ok((!column.is_null(row)).then(|| Bytes::copy_from_slice(column.value(row))))
}

pub fn number<T: ArrowPrimitiveType>(batch: &RecordBatch, name: &str, row: usize) -> anyhow::Result<Option<T::Native>> {
    let column = column(batch, name)?.as_primitive_opt::<T>().with_context(|| format!("column {name} is no number"))?;
    Ok((!column.is_null(row)).then(|| column.value(row)))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a dyn Array> {
    batch.column_by_name(name).map(AsRef::as_ref).with_context(|| format!("the table has no column {name}"))
}

/// Headers out of the form that the table keeps them in: text as a string, other bytes as `{"base64": "…"}`, no value
/// as null. Names may repeat.
pub fn parse_headers(headers: &Value) -> anyhow::Result<Vec<Header>> {
    let Some(pairs) = headers.as_array() else { bail!("headers are a JSON array of [name, value]") };
    pairs.iter().map(parse_header).collect()
}

fn parse_header(pair: &Value) -> anyhow::Result<Header> {
    let Some([Value::String(name), value]) = pair.as_array().map(Vec::as_slice) else {
        bail!("a header is written as [name, value], not {pair}");
    };
    let value = match value {
        Value::Null => None,
        Value::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        other => match other["base64"].as_str().and_then(|text| BASE64.decode(text).ok()) {
            Some(bytes) => Some(bytes.into()),
            None => bail!("the value of header {name} is a text, null or {{\"base64\": \"…\"}}"),
        },
    };
    Ok((name.clone(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn headers_come_back_with_repeated_names_null_and_bytes() {
        let headers = parse_headers(&json!([["h", "1"], ["h", null], ["b", {"base64": "/wA="}]])).unwrap();
        let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        assert_eq!(headers, [("h".into(), bytes(b"1")), ("h".into(), None), ("b".into(), bytes(b"\xff\x00"))]);
        for wrong in [json!({}), json!([1]), json!([["a"]]), json!([["a", 1]]), json!([["a", {"base64": "?"}]])] {
            assert!(parse_headers(&wrong).is_err(), "{wrong}");
        }
    }
}
