//! Looks at merged files as a reader would, before the table gives up the inputs for them.
//!
//! All of them is read back from the store: a file that was torn on its way, or that a bug made, is never committed.

use crate::checksum::RowHasher;
use crate::input::Input;
use crate::merge::{MergeError, Merged};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use lake::stats::StatsCollector;
use lake::{DataFile, OffsetRange, Table};
use std::sync::Arc;

/// Whether the files together hold the rows of the inputs less the duplicates, each in its ranges, with its statistics.
pub async fn verify(table: &Table, merged: &Merged) -> Result<(), MergeError> {
    match read_back(table, merged).await {
        // What was read may not be what is stored: the second look decides.
        Err(error) if !error.is_retryable() => read_back(table, merged).await,
        result => result,
    }
}

async fn read_back(table: &Table, merged: &Merged) -> Result<(), MergeError> {
    let mut found = Found::default();
    for file in &merged.files {
        found.add(table, file, &merged.hasher).await?;
    }
    let expected_rows = merged.rows_in - merged.duplicates;
    let different = |path: String, difference: String| Err(MergeError::Different { path, difference });
    if found.rows != expected_rows || found.rows_by_footers != expected_rows {
        different(merged.paths(), format!("{} rows, not {expected_rows}", found.rows))
    } else if found.checksum != merged.checksum {
        different(merged.paths(), "the checksum of its rows".to_owned())
    } else if let Some((path, difference)) = found.wrong {
        different(path, difference)
    } else {
        Ok(())
    }
}

/// What the files read so far hold.
#[derive(Default)]
struct Found {
    rows: u64,
    rows_by_footers: u64,
    checksum: u64,
    /// The first file that is not what it says, and how.
    wrong: Option<(String, String)>,
}

impl Found {
    async fn add(&mut self, table: &Table, file: &DataFile, hasher: &RowHasher) -> Result<(), MergeError> {
        let schema = table.schema();
        let input = Input::of(table, file).await?;
        let mut batches = input.rows_of(Arc::clone(&schema.arrow))?;
        let mut stats = StatsCollector::new(schema);
        let (mut hashes, mut out_of_range) = (Vec::new(), None);
        while let Some(batch) = batches.next().await? {
            stats.add(&batch);
            self.checksum = self.checksum.wrapping_add(hasher.sum(&batch, &mut hashes));
            out_of_range = out_of_range.or_else(|| first_out_of_range(&batch, &file.ranges));
        }
        let stats = stats.finish();
        self.rows += stats.rows;
        self.rows_by_footers += input.rows();
        let wrong = if stats != file.stats {
            Some("its statistics".to_owned())
        } else {
            out_of_range.map(|(partition, offset)| format!("offset {offset} of partition {partition} is in no input"))
        };
        self.wrong = self.wrong.take().or_else(|| wrong.map(|wrong| (file.path.clone(), wrong)));
        Ok(())
    }
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
