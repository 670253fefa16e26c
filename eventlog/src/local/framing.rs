//! Decides how records lie in a stored value.
//!
//! One value holds the records that one group commit wrote to one partition, so a thousand records cost one key, and a
//! reader borrows each record from the value without copying. Offsets are not stored: they are dense, the key names
//! the first. Nothing here checks sums; the store below does, for the journal and for its tables.
//!
//! ```text
//! batch   = version u8 | records u32 | timestamp_ms i64 | record*
//! record  = key_len u32 | value_len u32 | headers_len u32 | key | value | headers
//! headers = (name_len u16 | name | value_len u32, NULL for none | value)*
//! ```
//! All numbers are little-endian.

use crate::record::{Append, Headers};

const VERSION: u8 = 1;
/// Bytes before the first record of a batch.
pub(super) const BATCH_HEAD: usize = 1 + 4 + 8;
const RECORD_HEAD: usize = 4 + 4 + 4;
const NULL: u32 = u32::MAX;

/// What a stored batch says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) records: u32,
    pub(super) timestamp_ms: i64,
}

/// One record within a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framed<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: Headers<'a>,
}

impl Framed<'_> {
    /// Key and value bytes, as polls count them.
    pub(super) fn payload(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Bytes that `record` takes in a batch.
pub(super) fn framed_len(record: &impl Append) -> usize {
    let header = |(name, value): (&str, Option<&[u8]>)| 2 + name.len() + 4 + value.map_or(0, <[u8]>::len);
    let headers: usize = record.headers().map(header).sum();
    RECORD_HEAD + record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len) + headers
}

/// Appends `record` to `out`. The caller has bounded the record's size well below 4 GiB.
pub(super) fn write_record(out: &mut Vec<u8>, record: &impl Append) {
    let (key, value) = (record.key().unwrap_or_default(), record.value().unwrap_or_default());
    let headers_len = framed_len(record) - RECORD_HEAD - key.len() - value.len();
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(&(headers_len as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    for (name, value) in record.headers() {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value.map_or(NULL, |value| value.len() as u32).to_le_bytes());
        out.extend_from_slice(value.unwrap_or_default());
    }
}

/// Starts a batch; [`finish_batch`] fills in what is known only at its end.
pub(super) fn start_batch(out: &mut Vec<u8>) {
    out.clear();
    out.resize(BATCH_HEAD, 0);
}

/// Writes the head of a batch begun by [`start_batch`].
pub(super) fn finish_batch(batch: &mut [u8], head: BatchHead) {
    batch[0] = VERSION;
    batch[1..5].copy_from_slice(&head.records.to_le_bytes());
    batch[5..13].copy_from_slice(&head.timestamp_ms.to_le_bytes());
}

/// The head of a stored batch; `None` if it was not written by this version.
pub(super) fn read_head(batch: &[u8]) -> Option<BatchHead> {
    if *batch.first()? != VERSION {
        return None;
    }
    let records = u32_at(batch, 1)?;
    let timestamp_ms = i64::from_le_bytes(batch.get(5..13)?.try_into().ok()?);
    Some(BatchHead { records, timestamp_ms })
}

/// The record that starts at `at`, and where the next one starts; `None` if the bytes end before it does.
pub(super) fn read_record(batch: &[u8], at: usize) -> Option<(Framed<'_>, usize)> {
    let key_len = u32_at(batch, at)? as usize;
    let value_len = u32_at(batch, at + 4)? as usize;
    let headers_len = u32_at(batch, at + 8)? as usize;
    let (key, at) = slice(batch, at + RECORD_HEAD, key_len)?;
    let (value, at) = slice(batch, at, value_len)?;
    let (headers, at) = slice(batch, at, headers_len)?;
    Some((Framed { key, value, headers: Headers::from_framed(headers) }, at))
}

/// A header's name and value.
type Header<'a> = (&'a str, Option<&'a [u8]>);

/// The header that starts at `at`, and where the next one starts; `None` at the end.
pub(crate) fn read_header(bytes: &[u8], at: usize) -> Option<(Header<'_>, usize)> {
    let name_len = u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?) as usize;
    let (name, at) = slice(bytes, at + 2, name_len)?;
    let name = std::str::from_utf8(name).ok()?;
    let value_len = u32_at(bytes, at)?;
    if value_len == NULL {
        return Some(((name, None), at + 4));
    }
    let (value, at) = slice(bytes, at + 4, value_len as usize)?;
    Some(((name, Some(value)), at))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Option<(&[u8], usize)> {
    let end = at.checked_add(len)?;
    Some((bytes.get(at..end)?, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewRecord;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn any_record() -> impl Strategy<Value = NewRecord> {
        let name = prop_oneof![Just("id"), Just("received_at"), Just("traceparent"), Just("")];
        let headers = proptest::collection::vec((name, any_bytes(40)), 0..5);
        (any_bytes(64), any_bytes(600), headers).prop_map(|(key, value, headers)| NewRecord { key, value, headers })
    }

    proptest! {
        #[test]
        fn every_record_comes_back_as_it_was_written(records in proptest::collection::vec(any_record(), 0..40)) {
            let mut batch = Vec::new();
            start_batch(&mut batch);
            for record in &records {
                let before = batch.len();
                write_record(&mut batch, record);
                prop_assert_eq!(batch.len() - before, framed_len(record));
            }
            let head = BatchHead { records: records.len() as u32, timestamp_ms: 1_795_000_000_123 };
            finish_batch(&mut batch, head);

            prop_assert_eq!(read_head(&batch), Some(head));
            let mut at = BATCH_HEAD;
            for record in &records {
                let (framed, next) = read_record(&batch, at).unwrap();
                prop_assert_eq!(framed.key, &record.key[..]);
                prop_assert_eq!(framed.value, &record.value[..]);
                let headers: Vec<_> = framed.headers.iter().collect();
                let expected: Vec<_> = record.headers.iter().map(|(n, v)| (*n, Some(&v[..]))).collect();
                prop_assert_eq!(headers, expected);
                at = next;
            }
            prop_assert_eq!(at, batch.len());
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..220) {
            let _ = read_head(&bytes);
            if let Some((framed, next)) = read_record(&bytes, at) {
                prop_assert!(next <= bytes.len());
                let _ = framed.headers.iter().count();
            }
        }
    }
}
