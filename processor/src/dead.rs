//! Rows of the dead-letter table: what could not be written, to the byte, and why (invariant I6).

use crate::decode::received_at;
use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::error::ArrowError;
use base64::Engine;
use eventlog::Record;
use lake::event::Invalid;
use lake::schema::{self, ZONE};
use serde_json::{Value, json};
use std::sync::Arc;

/// Dead letters of one partition, in the order of their offsets.
#[derive(Debug, Default)]
pub struct DeadLetters {
    reason: StringBuilder,
    detail: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    received_at: Vec<i64>,
    key: BinaryBuilder,
    payload: BinaryBuilder,
    headers: StringBuilder,
}

impl DeadLetters {
    pub fn push(&mut self, topic: &str, record: &Record<'_>, why: &Invalid) {
        self.reason.append_value(why.reason.as_str());
        self.detail.append_value(&why.detail);
        self.topic.append_value(topic);
        self.partition.append_value(record.partition);
        self.offset.append_value(record.offset);
        self.received_at.push(received_at(record));
        self.key.append_option(record.key);
        self.payload.append_option(record.value);
        self.headers.append_value(headers_json(record));
    }

    pub fn len(&self) -> usize {
        self.received_at.len()
    }

    pub fn is_empty(&self) -> bool {
        self.received_at.is_empty()
    }

    /// Bytes that the rows hold in memory, growth reserves not counted.
    pub fn bytes(&self) -> usize {
        let texts = [&self.reason, &self.detail, &self.topic, &self.headers];
        let texts: usize = texts.iter().map(|text| text.values_slice().len()).sum();
        texts + self.key.values_slice().len() + self.payload.values_slice().len() + self.len() * 48
    }

    pub fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let mut received_at = TimestampMicrosecondBuilder::new().with_timezone(ZONE);
        received_at.append_slice(&self.received_at);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.reason.finish()),
            Arc::new(self.detail.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(received_at.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.headers.finish()),
        ];
        RecordBatch::try_new(schema::dead().arrow, columns)
    }
}

/// Headers as a JSON array of `[name, value]`, for names may repeat: text as a string, other bytes as
/// `{"base64": "…"}`, no value as null.
fn headers_json(record: &Record<'_>) -> String {
    let value = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    };
    let header = |(name, bytes): (&str, Option<&[u8]>)| json!([name, bytes.map(value)]);
    Value::Array(record.headers.iter().map(header).collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use eventlog::Headers;
    use lake::event::Reason;

    #[test]
    fn every_byte_of_the_record_is_kept() {
        let headers = [("a", Some(&b"1"[..])), ("a", None), ("b", Some(&b"\xff"[..]))];
        let record = Record {
            partition: 1,
            offset: 9,
            timestamp_ms: 5,
            key: Some(b"k\x00"),
            value: Some(b"\xfe{"),
            headers: Headers::from_pairs(&headers),
        };
        let mut dead = DeadLetters::default();
        dead.push("events", &record, &Invalid { reason: Reason::InvalidJson, detail: "d".into() });
        let batch = dead.finish().unwrap();
        let bytes = |name: &str| batch.column_by_name(name).unwrap().as_binary::<i32>().value(0).to_vec();
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
        assert_eq!((bytes("key"), bytes("payload")), (b"k\x00".to_vec(), b"\xfe{".to_vec()));
        assert_eq!(text("headers"), r#"[["a","1"],["a",null],["b",{"base64":"/w=="}]]"#);
        assert_eq!((text("reason"), text("topic")), ("invalid_json".into(), "events".into()));
    }
}
