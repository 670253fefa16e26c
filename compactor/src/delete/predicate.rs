//! Which rows are meant: conditions that all must hold.
//!
//! A row whose column is null is never meant, as in SQL. The condition on `date` is one on files: it is the partition
//! column, which readers see for every row of a file and files do not hold.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono::NaiveDate;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Conditions that all must hold. Made by parsing, see [`super::parse`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Predicate {
    /// As it was written.
    pub(super) written: String,
    /// Of a column of texts, the values that are meant.
    pub(super) texts: BTreeMap<&'static str, BTreeSet<String>>,
    /// Microseconds since the epoch.
    pub(super) time: Option<Span>,
    /// Days since the epoch.
    pub(super) date: Option<Span>,
}

/// Numbers from a first to a last; none if the last comes first.
pub(super) type Span = RangeInclusive<i64>;

/// Bytes of a clause that the table's history keeps: every reader reads them.
const WRITTEN: usize = 1_000;

/// At most so many bytes of a text, and then how many there are.
pub fn cut(text: &str, most: usize) -> String {
    match text.len() {
        length if length <= most => text.to_owned(),
        length => format!("{}… ({length} bytes)", &text[..text.floor_char_boundary(most)]),
    }
}

/// Columns of texts that a condition may name.
pub(super) const TEXTS: [&str; 3] = ["device_id", "id", "type"];
pub(super) const TIME: &str = "time";

impl Predicate {
    /// The clause as it was written, for people: a long one is cut.
    pub fn written(&self) -> String {
        cut(&self.written, WRITTEN)
    }

    /// The columns that must be read to know which rows are meant; none if the date tells.
    pub(super) fn columns(&self, schema: &Schema) -> Result<SchemaRef, ArrowError> {
        let time = self.time.as_ref().map(|_| TIME);
        let names = self.texts.keys().copied().chain(time);
        let indices = names.map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(schema.project(&indices)?))
    }

    /// Whether rows of this date may be meant.
    pub(super) fn takes_date(&self, date: NaiveDate) -> bool {
        let day = i64::from(date.to_epoch_days());
        self.date.as_ref().is_none_or(|span| span.contains(&day))
    }

    /// Which rows of a file of that date are meant. A column that the batch lacks is null.
    pub(super) fn matches(&self, batch: &RecordBatch, date: NaiveDate) -> BooleanBuffer {
        let rows = batch.num_rows();
        if !self.takes_date(date) {
            return BooleanBuffer::new_unset(rows);
        }
        let mut meant = BooleanBuffer::new_set(rows);
        for (name, values) in &self.texts {
            meant = &meant & &is_one_of(batch, name, values);
        }
        if let Some(span) = &self.time {
            meant = &meant & &is_within(batch, span);
        }
        meant
    }
}

fn is_one_of(batch: &RecordBatch, name: &str, values: &BTreeSet<String>) -> BooleanBuffer {
    let Some(texts) = batch.column_by_name(name).and_then(|column| column.as_string_view_opt()) else {
        return BooleanBuffer::new_unset(batch.num_rows());
    };
    BooleanBuffer::collect_bool(texts.len(), |row| texts.is_valid(row) && values.contains(texts.value(row)))
}

fn is_within(batch: &RecordBatch, span: &Span) -> BooleanBuffer {
    let times = batch.column_by_name(TIME).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let Some(times) = times else { return BooleanBuffer::new_unset(batch.num_rows()) };
    BooleanBuffer::collect_bool(times.len(), |row| times.is_valid(row) && span.contains(&times.value(row)))
}
