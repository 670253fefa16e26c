//! Looks for rows that are meant in one file, and writes it anew without them.
//!
//! The rows that stay keep their order, their file's offset ranges and its date. The new file is read back before
//! anything depends on it: it must hold exactly the rows of its predecessor less those that are meant, by a checksum over
//! all values, and none that is meant.

use super::predicate::Predicate;
use super::prune;
use super::report::DeleteError;
use crate::checksum::RowHasher;
use crate::input::Input;
use crate::merge::{Budget, MergeError};
use crate::sink::Sink;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use lake::stats::StatsCollector;
use lake::{DataFile, Table, layout, range};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// A file that holds such rows, and what takes its place.
#[derive(Debug, Clone)]
pub(super) struct Rewritten {
    /// Without the rows; none if no other row is left.
    pub(super) successor: Option<DataFile>,
    /// Rows that are not in it.
    pub(super) deleted: u64,
    /// Not later than when the store had it.
    pub(super) at: Instant,
}

/// How many rows of the file are meant. Reads only the columns that tell.
pub(super) async fn count(
    table: &Table,
    predicate: &Predicate,
    file: &DataFile,
    input: &Input,
) -> Result<u64, MergeError> {
    let columns = predicate.columns(&table.schema().arrow)?;
    if columns.fields().is_empty() {
        return Ok(if predicate.takes_date(file.date) { input.rows() } else { 0 });
    }
    let groups = prune::row_groups(predicate, file, input).await?;
    let mut batches = input.rows_in(Some(groups), columns)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await? {
        rows += predicate.matches(&batch, file.date).count_set_bits() as u64;
    }
    Ok(rows)
}

/// Memory that rewriting the file takes at most: what reading takes, a row group that is written and handed on, and parts
/// under way.
pub(super) fn cost(input: &Input, file: &DataFile, budget: Budget) -> u64 {
    let row_group = (budget.row_group() as u64).min(input.row_bytes());
    input.cost() + 2 * row_group + file.size.min(3 * budget.part() as u64)
}

/// Writes the file anew without the rows that are meant, of which there are some.
pub(super) async fn rewrite(
    table: &Table,
    predicate: &Predicate,
    file: &DataFile,
    input: &Input,
    budget: Budget,
) -> Result<Rewritten, DeleteError> {
    // It would be lost.
    input.expect_known(table.schema())?;
    let path = layout::segment_path(file.date, Uuid::new_v4());
    let mut output = Sink::new(table, path.clone(), &file.sorted_by, budget)?;
    let (kept, deleted) = match copy(table, predicate, file, input, &mut output).await {
        Ok(sums) => sums,
        Err(error) => {
            output.abort().await;
            return Err(error.into());
        }
    };
    if kept.rows == 0 {
        output.abort().await;
        return Ok(Rewritten { successor: None, deleted: deleted.rows, at: Instant::now() });
    }
    let at = Instant::now();
    let (size, stats) = output.finish().await?;
    let successor = DataFile {
        path,
        size,
        date: file.date,
        modified_ms: lake::table::now_ms(),
        stats,
        ranges: range::union(file.ranges.clone()),
        sorted_by: file.sorted_by.clone(),
    };
    verify(table, predicate, file, &successor, &kept).await?;
    Ok(Rewritten { successor: Some(successor), deleted: deleted.rows, at })
}

/// Rows, and the sum of their hashes.
#[derive(Debug, Clone, Default)]
struct Sum {
    hasher: RowHasher,
    hashes: Vec<u64>,
    rows: u64,
    checksum: u64,
}

impl Sum {
    fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        self.checksum = self.checksum.wrapping_add(self.hasher.sum(batch, &mut self.hashes));
    }

    fn less(mut self, other: &Sum) -> Sum {
        self.rows -= other.rows;
        self.checksum = self.checksum.wrapping_sub(other.checksum);
        self
    }
}

/// Copies what is not meant. Returns what should be there now, and what is left out.
async fn copy(
    table: &Table,
    predicate: &Predicate,
    file: &DataFile,
    input: &Input,
    output: &mut Sink,
) -> Result<(Sum, Sum), MergeError> {
    let mut all = Sum::default();
    let mut left_out = all.clone();
    let mut batches = input.rows_of(Arc::clone(&table.schema().arrow))?;
    while let Some(batch) = batches.next().await? {
        all.add(&batch);
        let meant = predicate.matches(&batch, file.date);
        match meant.count_set_bits() {
            0 => output.write(&batch).await?,
            _ => {
                let stays = BooleanArray::new(!&meant, None);
                left_out.add(&filter_record_batch(&batch, &BooleanArray::new(meant, None))?);
                output.write(&filter_record_batch(&batch, &stays)?).await?;
            }
        }
    }
    Ok((all.less(&left_out), left_out))
}

/// Looks at the new file as a reader would.
async fn verify(
    table: &Table,
    predicate: &Predicate,
    file: &DataFile,
    successor: &DataFile,
    kept: &Sum,
) -> Result<(), DeleteError> {
    let input = Input::of(table, successor).await?;
    let mut found = Sum { rows: 0, checksum: 0, ..kept.clone() };
    let (mut stats, mut meant) = (StatsCollector::new(table.schema()), 0);
    let mut batches = input.rows_of(Arc::clone(&table.schema().arrow))?;
    while let Some(batch) = batches.next().await? {
        found.add(&batch);
        stats.add(&batch);
        meant += predicate.matches(&batch, successor.date).count_set_bits();
    }
    let difference = if (found.rows, input.rows()) != (kept.rows, kept.rows) {
        format!("{} rows, not {}", found.rows, kept.rows)
    } else if found.checksum != kept.checksum {
        "the checksum of its rows".to_owned()
    } else if stats.finish() != successor.stats {
        "its statistics".to_owned()
    } else if meant > 0 {
        format!("{meant} rows that were to be deleted")
    } else {
        return Ok(());
    };
    Err(DeleteError::Different { path: successor.path.clone(), old: file.path.clone(), difference })
}
