//! A batch of records that are replayed together: as rows of the table of replays, and as records of the topic. Pure.

use super::args::Place;
use super::letter::{self, bytes, number, parse_headers, text};
use anyhow::Context;
use arrow::array::{
    ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use eventlog::{OwnedRecord, Position};
use lake::OffsetRange;
use lake::schema::{self, ZONE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Header that tells which dead letter a record is: `<batch>/<partition>/<offset>`.
pub const HEADER: &str = "lakehose-replay-of";

/// A batch is full with so many records, or with the one that brings it to so many bytes.
const MAX_RECORDS: usize = 1_000;
const MAX_BYTES: usize = 8 << 20;

/// Where records of a batch are in the topic.
pub type Landed = BTreeMap<Place, Position>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub id: String,
    /// When it was begun, microseconds since the epoch.
    pub at: i64,
    pub entries: Vec<Entry>,
}

/// A record as it is to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub place: Place,
    pub corrected: bool,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    pub headers: String,
}

impl Batch {
    pub fn is_full(&self) -> bool {
        let bytes = |entry: &Entry| entry.payload.as_ref().map_or(0, Bytes::len);
        self.entries.len() >= MAX_RECORDS || self.entries.iter().map(bytes).sum::<usize>() >= MAX_BYTES
    }

    /// The records that are not in the topic yet, with the places that they come from.
    pub fn records(&self, landed: &Landed) -> anyhow::Result<(Vec<Place>, Vec<OwnedRecord>)> {
        let missing = self.entries.iter().filter(|entry| !landed.contains_key(&entry.place));
        let records = missing.map(|entry| Ok((entry.place, self.record(entry)?)));
        records.collect::<anyhow::Result<Vec<_>>>().map(|records| records.into_iter().unzip())
    }

    /// The record as it was, and which one it is: last, so that it is found in a letter that is replayed once more.
    fn record(&self, entry: &Entry) -> anyhow::Result<OwnedRecord> {
        let headers = serde_json::from_str(&entry.headers).context("headers of a dead letter are not JSON")?;
        let mut headers = parse_headers(&headers)?;
        headers.push((HEADER.to_owned(), Some(format!("{}/{}", self.id, entry.place).into())));
        Ok(OwnedRecord { key: entry.key.clone(), value: entry.payload.clone(), headers })
    }

    /// Which record of this batch a header names.
    pub fn place_in(&self, header: &[u8]) -> Option<Place> {
        std::str::from_utf8(header).ok()?.strip_prefix(&self.id)?.strip_prefix('/')?.parse().ok()
    }

    /// The range of offsets that the records come from, by partition.
    pub fn ranges(&self) -> Vec<OffsetRange> {
        let mut ranges: BTreeMap<i32, OffsetRange> = BTreeMap::new();
        for Place { partition, offset } in self.entries.iter().map(|entry| entry.place) {
            let range = ranges.entry(partition).or_insert(OffsetRange { partition, start: offset, end: offset + 1 });
            (range.start, range.end) = (range.start.min(offset), range.end.max(offset + 1));
        }
        ranges.into_values().collect()
    }

    /// Rows of a batch that is under way: what is to be appended, and nothing of where it will be.
    pub fn begun(&self) -> anyhow::Result<RecordBatch> {
        let rows: Vec<_> = self.entries.iter().map(|entry| (entry, None)).collect();
        self.rows(&rows)
    }

    /// Rows of the records that landed; the others are dead letters as before.
    pub fn settled(&self, landed: &Landed) -> anyhow::Result<RecordBatch> {
        let landed = |entry| Some((entry, Some(*landed.get(&Entry::place(entry))?)));
        self.rows(&self.entries.iter().filter_map(landed).collect::<Vec<_>>())
    }

    fn rows(&self, rows: &[(&Entry, Option<Position>)]) -> anyhow::Result<RecordBatch> {
        let open = |(entry, to): &(&'_ Entry, Option<Position>)| to.is_none().then(|| Entry::clone(entry));
        let open: Vec<Option<Entry>> = rows.iter().map(open).collect();
        let payload = |pick: fn(&Entry) -> Option<&Bytes>| -> ArrayRef {
            let values = open.iter().map(|entry| entry.as_ref().and_then(pick).map(Bytes::as_ref));
            Arc::new(values.collect::<BinaryArray>())
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|_| Some(&self.id)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|(entry, _)| entry.place.partition).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(entry, _)| entry.place.offset).collect::<Int64Array>()),
            Arc::new(TimestampMicrosecondArray::from(vec![self.at; rows.len()]).with_timezone(ZONE)),
            Arc::new(rows.iter().map(|(entry, _)| Some(entry.corrected)).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|(_, to)| to.map(|to| to.partition)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(_, to)| to.map(|to| to.offset)).collect::<Int64Array>()),
            payload(|entry| entry.key.as_ref()),
            payload(|entry| entry.payload.as_ref()),
            Arc::new(open.iter().map(|entry| entry.as_ref().map(|entry| &entry.headers)).collect::<StringArray>()),
        ];
        Ok(RecordBatch::try_new(schema::dead_replays().arrow, columns)?)
    }

    /// The inverse of [`Batch::begun`]; the rows may come in several parts.
    pub fn of_rows(parts: &[RecordBatch]) -> anyhow::Result<Batch> {
        let mut batch = Batch { id: String::new(), at: 0, entries: Vec::new() };
        for rows in parts {
            let corrected = rows.column_by_name("corrected").and_then(|column| column.as_boolean_opt());
            let corrected = corrected.context("the table of replays has no column corrected")?;
            for row in 0..rows.num_rows() {
                batch.id = text(rows, "batch", row)?;
                batch.at = number::<TimestampMicrosecondType>(rows, "replayed_at", row)?.unwrap_or_default();
                batch.entries.push(Entry {
                    place: letter::place(rows, row)?,
                    corrected: corrected.value(row),
                    key: bytes(rows, "key", row)?,
                    payload: bytes(rows, "payload", row)?,
                    headers: text(rows, "headers", row)?,
                });
            }
        }
        Ok(batch)
    }
}

impl Entry {
    fn place(&self) -> Place {
        self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let entry = |partition, offset, key: Option<&'static [u8]>| Entry {
            place: Place { partition, offset },
            corrected: offset == 5,
            key: key.map(Bytes::from_static),
            payload: Some(Bytes::from_static(b"\xff{")),
            headers: r#"[["a","1"],["a",null]]"#.into(),
        };
        let entries = vec![entry(1, 5, Some(b"")), entry(0, 9, None), entry(1, 3, Some(b"k"))];
        Batch { id: "b-1".into(), at: 7, entries }
    }

    #[test]
    fn a_batch_comes_back_from_its_rows() {
        let rows = batch().begun().unwrap();
        assert_eq!(Batch::of_rows(&[rows.slice(0, 2), rows.slice(2, 1)]).unwrap(), batch());
    }

    #[test]
    fn records_are_as_they_were_and_say_which_they_are() {
        let landed = Landed::from([(Place { partition: 0, offset: 9 }, Position { partition: 2, offset: 50 })]);
        let (places, records) = batch().records(&landed).unwrap();
        assert_eq!(places, [Place { partition: 1, offset: 5 }, Place { partition: 1, offset: 3 }]);
        let OwnedRecord { key, value, headers } = &records[1];
        assert_eq!((key.as_deref(), value.as_deref()), (Some(&b"k"[..]), Some(&b"\xff{"[..])));
        let [(_, Some(one)), (_, None), (name, Some(header))] = &headers[..] else { panic!("{headers:?}") };
        assert_eq!((&one[..], name.as_str(), &header[..]), (&b"1"[..], HEADER, &b"b-1/1/3"[..]));
        assert_eq!(batch().place_in(header), Some(places[1]));
        for other in [&b"b-2/1/3"[..], b"b-1", b"b-1/1", b"b-11/1/3", b"\xff"] {
            assert_eq!(batch().place_in(other), None);
        }
    }

    #[test]
    fn settled_rows_tell_where_records_are_and_hold_them_no_more() {
        let landed = Landed::from([(Place { partition: 1, offset: 3 }, Position { partition: 2, offset: 50 })]);
        let rows = batch().settled(&landed).unwrap();
        assert_eq!(rows.num_rows(), 1);
        assert_eq!(rows.column_by_name("replayed_offset").unwrap().null_count(), 0);
        assert_eq!(rows.column_by_name("payload").unwrap().null_count(), 1);
        let range = |partition, start, end| OffsetRange { partition, start, end };
        assert_eq!(batch().ranges(), [range(0, 9, 10), range(1, 3, 6)]);
    }
}
