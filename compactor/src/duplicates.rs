//! Finds copies of events among the inputs of a merge: rows with the same `device_id` and `id`. Of all copies the first
//! by `(kafka_partition, kafka_offset)` stays.
//!
//! Copies need not stand side by side (an event sent again without a `time` got another one), so they are looked for
//! before the merge, over the two columns alone. A first pass keeps 64 bits of every row; nearly always no two are equal
//! and that was all. If some are, a second pass keeps 128 bits, the partition and the offset of those rows. Hashes are
//! seeded anew for every search, so that nobody can send events whose hashes agree.
//!
//! Copies are found among the rows of one merge, not across files that never meet in one.

use crate::input::Input;
use crate::merge::MergeError;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that the search takes for a row, at most: every row may be a copy.
pub(crate) const ROW_BYTES: u64 = 8 + 32;

/// Rows that a merge must leave out, by partition and offset.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    /// Sorted.
    rows: Vec<(i32, i64)>,
}

impl Duplicates {
    /// Reads the inputs and finds their copies. Tables without the columns have none.
    pub(crate) async fn find(inputs: &[Input], schema: &Schema) -> Result<Duplicates, MergeError> {
        let Some(columns) = key_columns(schema) else { return Ok(Duplicates::default()) };
        let hashers = (DefaultHashBuilder::default(), DefaultHashBuilder::default());
        let repeated = repeated_hashes(inputs, &columns, &hashers.0).await?;
        if repeated.hashes.is_empty() {
            return Ok(Duplicates::default());
        }
        let mut copies: Vec<(u64, u64, i32, i64)> = Vec::with_capacity(repeated.rows);
        for input in inputs {
            let mut batches = input.rows_of(Arc::clone(&columns))?;
            while let Some(batch) = batches.next().await? {
                let partitions = batch.column(2).as_primitive::<Int32Type>();
                let offsets = batch.column(3).as_primitive::<Int64Type>();
                each_key(&batch, |row, key| {
                    let hash = hashers.0.hash_one(key);
                    if repeated.hashes.binary_search(&hash).is_ok() {
                        copies.push((hash, hashers.1.hash_one(key), partitions.value(row), offsets.value(row)));
                    }
                });
            }
        }
        copies.sort_unstable();
        let later = |pair: &[(u64, u64, i32, i64)]| {
            let [first, second] = pair else { return None };
            ((first.0, first.1) == (second.0, second.1)).then_some((second.2, second.3))
        };
        let mut rows: Vec<(i32, i64)> = copies.windows(2).filter_map(later).collect();
        rows.sort_unstable();
        Ok(Duplicates { rows })
    }

    /// Those of the given rows that must be left out, in order.
    pub(crate) fn among(&self, batch: &RecordBatch, rows: Range<usize>) -> Vec<usize> {
        let column = |name: &str| batch.column_by_name(name).filter(|_| !self.rows.is_empty());
        let (Some(partitions), Some(offsets)) = (column("kafka_partition"), column("kafka_offset")) else {
            return Vec::new();
        };
        let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
        rows.filter(|row| self.rows.binary_search(&(partitions.value(*row), offsets.value(*row))).is_ok()).collect()
    }
}

fn key_columns(schema: &Schema) -> Option<SchemaRef> {
    let field = |name: &str| schema.field_with_name(name).ok().cloned();
    let fields =
        ["device_id", "id", "kafka_partition", "kafka_offset"].map(field).into_iter().collect::<Option<Vec<_>>>();
    fields.map(|fields| Arc::new(Schema::new(fields)))
}

/// Hashes that more than one row has, and how many rows have them.
struct Repeated {
    /// Sorted.
    hashes: Vec<u64>,
    rows: usize,
}

async fn repeated_hashes(
    inputs: &[Input],
    columns: &SchemaRef,
    hasher: &DefaultHashBuilder,
) -> Result<Repeated, MergeError> {
    let rows: u64 = inputs.iter().map(Input::rows).sum();
    let mut hashes: Vec<u64> = Vec::with_capacity(rows as usize);
    let columns = Arc::new(columns.project(&[0, 1])?);
    for input in inputs {
        let mut batches = input.rows_of(Arc::clone(&columns))?;
        while let Some(batch) = batches.next().await? {
            each_key(&batch, |_, key| hashes.push(hasher.hash_one(key)));
        }
    }
    hashes.sort_unstable();
    let groups = hashes.chunk_by(|a, b| a == b).filter(|group| group.len() > 1);
    let (hashes, sizes): (Vec<u64>, Vec<usize>) = groups.map(|group| (group[0], group.len())).unzip();
    Ok(Repeated { hashes, rows: sizes.into_iter().sum() })
}

/// Calls `each` with the number and the key of every row that has one.
fn each_key(batch: &RecordBatch, mut each: impl FnMut(usize, (&str, &str))) {
    let (devices, ids) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
    for row in 0..batch.num_rows() {
        if devices.is_valid(row) && ids.is_valid(row) {
            each(row, (devices.value(row), ids.value(row)));
        }
    }
}
