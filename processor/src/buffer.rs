//! What a processor holds of one partition: rows and dead letters of the offsets `[start, end)`.
//!
//! `start` is where the last flush ended, not the offset of the first record: logs leave holes (transaction markers,
//! compacted records), and the ranges of a partition must form a chain.

use crate::dead::DeadLetters;
use crate::decode::{Outcome, decode, id_of, received_at};
use eventlog::Record;
use lake::OffsetRange;
use lake::batch::{EventColumns, RowMeta, RowPlan};
use std::sync::Arc;
use std::time::Instant;

/// Rows of one partition on their way to the next flush.
#[derive(Debug)]
pub struct PartitionBuffer {
    plan: Arc<RowPlan>,
    partition: i32,
    start: i64,
    end: i64,
    rows: EventColumns,
    dead: DeadLetters,
    /// When the first offset of the range came in.
    since: Option<Instant>,
}

/// The content of a buffer, taken out to be flushed.
#[derive(Debug)]
pub struct Taken {
    pub range: OffsetRange,
    pub rows: EventColumns,
    pub dead: DeadLetters,
    pub bytes: usize,
}

impl PartitionBuffer {
    /// An empty buffer whose next record is expected at `start`.
    pub fn new(plan: Arc<RowPlan>, partition: i32, start: i64) -> PartitionBuffer {
        let (rows, dead) = (EventColumns::new(Arc::clone(&plan)), DeadLetters::default());
        PartitionBuffer { plan, partition, start, end: start, rows, dead, since: None }
    }

    /// Takes in a record, unless it was taken in before: a log may repeat some after a seek. `repeats` tells of a device,
    /// an id that it gave and when that was received whether it was seen before; only then is it asked.
    pub fn push(
        &mut self,
        topic: &str,
        record: &Record<'_>,
        made_id: &mut String,
        now: Instant,
        repeats: impl FnOnce(&str, &str, i64) -> bool,
    ) -> Pushed {
        if record.offset < self.end {
            return Pushed::Repeated;
        }
        self.end = record.offset + 1;
        self.since.get_or_insert(now);
        match decode(record) {
            Outcome::Row(event) => {
                let received_at = received_at(record);
                if event.id.as_deref().is_some_and(|id| repeats(&event.device_id, id, received_at)) {
                    return Pushed::Duplicate;
                }
                let meta = RowMeta {
                    partition: record.partition,
                    offset: record.offset,
                    received_at,
                    // Made only for events that bring none.
                    id: if event.id.is_some() { "" } else { id_of(record, made_id) },
                };
                self.rows.push(&event, meta);
                Pushed::Row
            }
            Outcome::Dead(why) => {
                self.dead.push(topic, record, &why);
                Pushed::Dead(why.reason)
            }
        }
    }

    /// Extends the range over offsets that the log no longer has. Returns how many.
    pub fn skip_to(&mut self, offset: i64, now: Instant) -> i64 {
        let gone = (offset - self.end).max(0);
        if gone > 0 {
            self.end = offset;
            self.since.get_or_insert(now);
        }
        gone
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The next offset to read.
    pub fn position(&self) -> i64 {
        self.end
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.dead.bytes()
    }

    /// When the first offset of the range came in; `None` while it is empty.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Empties the buffer; the next range starts where this one ends.
    pub fn take(&mut self) -> Option<Taken> {
        if self.is_empty() {
            return None;
        }
        let range = OffsetRange { partition: self.partition, start: self.start, end: self.end };
        let bytes = self.bytes();
        self.start = self.end;
        self.since = None;
        let rows = std::mem::replace(&mut self.rows, EventColumns::new(Arc::clone(&self.plan)));
        Some(Taken { range, rows, dead: std::mem::take(&mut self.dead), bytes })
    }
}

/// What a record became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Row,
    Dead(lake::event::Reason),
    /// The event is in the table, or on its way there, with another offset.
    Duplicate,
    /// The same offset again.
    Repeated,
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventlog::Headers;
    use lake::dataset::{Dataset, DatasetSpec};

    fn buffer(start: i64) -> PartitionBuffer {
        let plan = Arc::new(RowPlan::new(&Dataset::new("events", DatasetSpec::default()).unwrap()));
        PartitionBuffer::new(plan, 3, start)
    }

    fn push(buffer: &mut PartitionBuffer, offset: i64, value: &str) -> Pushed {
        let record = Record {
            partition: 3,
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.as_bytes()),
            headers: Headers::from_pairs(&[]),
        };
        buffer.push("events", &record, &mut String::new(), Instant::now(), |_, id, _| id == "seen")
    }

    const EVENT: &str = r#"{"device_id":"d"}"#;

    #[test]
    fn ranges_form_a_chain_over_holes() {
        let mut buffer = buffer(10);
        assert!(buffer.take().is_none());
        assert_eq!(push(&mut buffer, 12, EVENT), Pushed::Row);
        assert!(matches!(push(&mut buffer, 13, "x"), Pushed::Dead(_)));
        let taken = buffer.take().unwrap();
        assert_eq!(taken.range, OffsetRange { partition: 3, start: 10, end: 14 });
        assert_eq!((taken.rows.len(), taken.dead.len()), (1, 1));
        assert!(taken.bytes > 0 && buffer.bytes() == 0 && buffer.since().is_none());
        push(&mut buffer, 20, EVENT);
        assert_eq!(buffer.take().unwrap().range, OffsetRange { partition: 3, start: 14, end: 21 });
    }

    #[test]
    fn a_record_counts_once_however_often_the_log_hands_it_out() {
        let mut buffer = buffer(0);
        push(&mut buffer, 0, EVENT);
        assert_eq!(push(&mut buffer, 0, EVENT), Pushed::Repeated);
        buffer.take();
        assert_eq!(push(&mut buffer, 0, EVENT), Pushed::Repeated);
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_event_that_was_seen_is_no_row_but_part_of_the_range() {
        let mut buffer = buffer(0);
        assert_eq!(push(&mut buffer, 0, r#"{"device_id":"d","id":"seen"}"#), Pushed::Duplicate);
        assert_eq!(push(&mut buffer, 1, r#"{"device_id":"d","id":"new"}"#), Pushed::Row);
        assert!(matches!(push(&mut buffer, 2, r#"{"device_id":7,"id":"seen"}"#), Pushed::Dead(_)));
        let taken = buffer.take().unwrap();
        assert_eq!(taken.range, OffsetRange { partition: 3, start: 0, end: 3 });
        assert_eq!((taken.rows.len(), taken.dead.len()), (1, 1));
    }

    #[test]
    fn only_ids_that_events_bring_themselves_are_looked_up() {
        let headers = Headers::from_pairs(&[("id", Some(b"made by the gateway"))]);
        let value = Some(EVENT.as_bytes());
        let record = Record { partition: 3, offset: 0, timestamp_ms: 0, key: None, value, headers };
        let asked = |_: &str, _: &str, _: i64| panic!("asked for an id that was made");
        assert_eq!(buffer(0).push("events", &record, &mut String::new(), Instant::now(), asked), Pushed::Row);
    }

    #[test]
    fn a_gap_is_part_of_the_chain() {
        let mut buffer = buffer(5);
        assert_eq!(buffer.skip_to(5, Instant::now()), 0);
        assert!(buffer.is_empty());
        assert_eq!(buffer.skip_to(9, Instant::now()), 4);
        assert_eq!(buffer.take().unwrap().range, OffsetRange { partition: 3, start: 5, end: 9 });
    }
}
