//! Looks at a merged file as a reader would, before the table gives up its inputs for it.
//!
//! All of it is read back from the store: a file that was torn on its way, or that a bug made, is never committed.

use crate::input::Input;
use crate::merge::{MergeError, Merged};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use lake::stats::StatsCollector;
use lake::{OffsetRange, Table};
use std::sync::Arc;

/// Whether the file holds the rows of its inputs less the duplicates, in its ranges, with its statistics.
pub async fn verify(table: &Table, merged: &Merged) -> Result<(), MergeError> {
    match read_back(table, merged).await {
        // What was read may not be what is stored: the second look decides.
        Err(error) if !error.is_retryable() => read_back(table, merged).await,
        result => result,
    }
}

async fn read_back(table: &Table, merged: &Merged) -> Result<(), MergeError> {
    let file = &merged.file;
    let schema = table.schema();
    let input = Input::open(Arc::clone(table.store()), table.file_path(&file.path), &file.path, file.size).await?;
    let mut batches = input.rows_of(Arc::clone(&schema.arrow))?;
    let mut stats = StatsCollector::new(schema);
    let (mut checksum, mut hashes, mut out_of_range) = (0u64, Vec::new(), None);
    while let Some(batch) = batches.next().await? {
        stats.add(&batch);
        checksum = checksum.wrapping_add(merged.hasher.sum(&batch, &mut hashes));
        out_of_range = out_of_range.or_else(|| first_out_of_range(&batch, &file.ranges));
    }
    let stats = stats.finish();
    let expected_rows = merged.rows_in - merged.duplicates;
    let difference = if stats.rows != expected_rows || input.rows() != expected_rows {
        format!("{} rows, not {expected_rows}", stats.rows)
    } else if checksum != merged.checksum {
        "the checksum of its rows".to_owned()
    } else if stats != file.stats {
        "its statistics".to_owned()
    } else if let Some((partition, offset)) = out_of_range {
        format!("offset {offset} of partition {partition} is in no input")
    } else {
        return Ok(());
    };
    Err(MergeError::Different { path: file.path.clone(), difference })
}

/// A row from an offset that none of the (sorted) ranges holds. A file of another writer may have come without ranges.
fn first_out_of_range(batch: &RecordBatch, ranges: &[OffsetRange]) -> Option<(i32, i64)> {
    let (partitions, offsets) = (batch.column_by_name("kafka_partition")?, batch.column_by_name("kafka_offset")?);
    if ranges.is_empty() || partitions.null_count() + offsets.null_count() > 0 {
        return None;
    }
    let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
    let rows = partitions.values().iter().copied().zip(offsets.values().iter().copied());
    let mut inside = ranges[0];
    rows.into_iter().find(|(partition, offset)| {
        let holds = |range: &OffsetRange| range.partition == *partition && (range.start..range.end).contains(offset);
        if !holds(&inside) {
            let next = ranges.partition_point(|range| (range.partition, range.end) <= (*partition, *offset));
            inside = ranges.get(next).copied().unwrap_or(inside);
        }
        !holds(&inside)
    })
}
