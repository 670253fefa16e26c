//! The order of rows inside a file: by date, then by the dataset's `sort_by`, then by partition and offset.
//!
//! The last two make the order total, so a merge of sorted files is one walk, and copies of an event stand side by side
//! in the order of their arrival.

use crate::layout;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, rank};
use arrow::datatypes::{DataType, Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use chrono::NaiveDate;
use hashbrown::HashMap;
use std::cmp::Ordering;

/// Names of the columns that decide the order within one date.
pub fn order(sort_by: &[String]) -> Vec<String> {
    let tail = ["kafka_partition", "kafka_offset"].map(str::to_owned).into_iter();
    let tail = tail.filter(|name| !sort_by.contains(name));
    sort_by.iter().filter(|name| name.as_str() != "date").cloned().chain(tail).collect()
}

/// The rows of `batch` in order, cut by the UTC date of the column `time`: for every date, in order, its rows.
pub fn by_date(batch: &RecordBatch, time: &str, order: &[String]) -> Result<Vec<(NaiveDate, UInt32Array)>, ArrowError> {
    let times = column(batch, time)?.as_primitive::<TimestampMicrosecondType>();
    let columns: Vec<&ArrayRef> = order.iter().map(|name| column(batch, name)).collect::<Result<_, _>>()?;
    let (first, rest) = columns.split_at(columns.len().min(2));
    let prefixes: Vec<Vec<u64>> = first.iter().map(|column| prefixes(column)).collect::<Result<_, _>>()?;
    let prefix = |column: usize, row: usize| prefixes.get(column).map_or(0, |prefix| prefix[row]);
    let ties = rest
        .iter()
        .map(|column| arrow::array::make_comparator(column, column, NULLS_FIRST))
        .collect::<Result<Vec<_>, _>>()?;
    // Two columns as plain numbers beside the row: nearly every comparison ends without touching the columns.
    let mut rows: Vec<(i32, u64, u64, u32)> = (0..batch.num_rows())
        .map(|row| (layout::days_of(times.value(row)), prefix(0, row), prefix(1, row), row as u32))
        .collect();
    rows.sort_unstable_by(|a, b| {
        let by_ties = || {
            let compare = |tie: &arrow::array::DynComparator| tie(a.3 as usize, b.3 as usize);
            ties.iter().map(compare).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        };
        (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)).then_with(by_ties)
    });
    let date = |run: &[(i32, u64, u64, u32)]| {
        (layout::date_from_days(run[0].0), run.iter().map(|row| row.3).collect::<UInt32Array>())
    };
    Ok(rows.chunk_by(|a, b| a.0 == b.0).map(date).collect())
}

const NULLS_FIRST: SortOptions = SortOptions { descending: false, nulls_first: true };

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))
}

/// A number for every value, that compares exactly as the values do.
fn prefixes(column: &ArrayRef) -> Result<Vec<u64>, ArrowError> {
    // Flips the sign bit, so that negative numbers come first.
    let biased = |value: i64| (value as u64) ^ (1 << 63);
    let whole = column.null_count() == 0;
    Ok(match column.data_type() {
        DataType::Timestamp(_, _) if whole => {
            column.as_primitive::<TimestampMicrosecondType>().values().iter().map(|v| biased(*v)).collect()
        }
        DataType::Int64 if whole => column.as_primitive::<Int64Type>().values().iter().map(|v| biased(*v)).collect(),
        DataType::Int32 if whole => {
            column.as_primitive::<Int32Type>().values().iter().map(|v| biased((*v).into())).collect()
        }
        DataType::Utf8 => text_ranks(column),
        _ => rank(column, Some(NULLS_FIRST))?.into_iter().map(u64::from).collect(),
    })
}

/// Ranks of texts among the distinct ones: there are far fewer devices than rows, so few texts are compared. Null is 0.
fn text_ranks(column: &ArrayRef) -> Vec<u64> {
    let texts = column.as_string::<i32>();
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let row_numbers: Vec<Option<usize>> = texts
        .iter()
        .map(|text| {
            let next = numbers.len();
            text.map(|text| *numbers.entry(text).or_insert(next))
        })
        .collect();
    let mut distinct: Vec<(&str, usize)> = numbers.into_iter().collect();
    distinct.sort_unstable();
    let mut ranks = vec![0; distinct.len()];
    for (rank, (_, number)) in distinct.into_iter().enumerate() {
        ranks[number] = rank as u64 + 1;
    }
    row_numbers.into_iter().map(|number| number.map_or(0, |number| ranks[number])).collect()
}

/// Sort keys of rows as bytes that compare as [`by_date`] orders the rows of one date; for merging sorted files.
#[derive(Debug)]
pub struct SortKeys {
    converter: RowConverter,
    columns: Vec<String>,
}

impl SortKeys {
    /// `schema` gives the types of the columns in `order`.
    pub fn new(schema: &Schema, order: &[String]) -> Result<SortKeys, ArrowError> {
        let field = |name: &String| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone()));
        let fields = order.iter().map(field).collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(SortKeys { converter: RowConverter::new(fields)?, columns: order.to_vec() })
    }

    /// The keys of a batch, row by row.
    pub fn of(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns = self.columns.iter().map(|name| column(batch, name).cloned()).collect::<Result<Vec<_>, _>>()?;
        self.converter.convert_columns(&columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::compute::take_record_batch;
    use arrow::datatypes::Field;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(rows: &[(Option<String>, i64, Option<f64>, i32)]) -> RecordBatch {
        let time = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.1)).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("device_id", Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0.as_deref())))),
            ("time", Arc::new(time)),
            ("temp", Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.2)))),
            ("kafka_partition", Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.3)))),
            ("kafka_offset", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
        ];
        let fields: Vec<Field> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|c| c.1).collect()).unwrap()
    }

    fn order_of(names: &[&str]) -> Vec<String> {
        order(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    proptest! {
        /// Every row once, every date in one piece, and within a date the order of the merge keys.
        #[test]
        fn rows_are_cut_by_date_and_sorted_as_a_merge_expects(
            rows in proptest::collection::vec(
                (proptest::option::of("[a-c]{0,3}"), -200_000_000_000i64..200_000_000_000, proptest::option::of(-2.0..2.0f64), 0..3i32),
                0..60,
            ),
            sort_by in proptest::sample::subsequence(vec!["device_id", "time", "temp", "kafka_partition"], 0..=4).prop_shuffle(),
        ) {
            let batch = batch(&rows);
            let order = order_of(&sort_by);
            let dates = by_date(&batch, "time", &order).unwrap();
            let keys = SortKeys::new(batch.schema_ref(), &order).unwrap();
            let mut seen = Vec::new();
            for (date, indices) in &dates {
                let cut = take_record_batch(&batch, indices).unwrap();
                let keys = keys.of(&cut).unwrap();
                for row in 1..cut.num_rows() {
                    prop_assert!(keys.row(row - 1) < keys.row(row));
                }
                for row in indices.values() {
                    prop_assert_eq!(layout::date_of(rows[*row as usize].1), *date);
                    seen.push(*row);
                }
            }
            prop_assert!(dates.is_sorted_by(|a, b| a.0 < b.0));
            seen.sort();
            prop_assert_eq!(seen, (0..rows.len() as u32).collect::<Vec<_>>());
        }
    }
}
