//! Commits dead letters, to their own table and before the events (invariant I6).
//!
//! The two commits are not one, so each table has a `txn` of its own per partition. Normally that of the dead letters is
//! not beyond the start of a range, and the file of the flush is committed as it is. If a process died between the two
//! commits, the range comes again, perhaps with other bounds: then the letters before the `txn` are in the table
//! already, and a new file is made of the others.

use super::deciding::Checkpoints;
use super::{Submission, app_id};
use crate::encode::{Encoded, Encoding};
use crate::metrics;
use anyhow::Context;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use lake::store::{get, put_new};
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, OffsetRange, Outcome, Table, TableError, TableState, parquet};
use std::collections::{BTreeMap, BTreeSet};
use tracing::warn;

pub(super) struct DeadTable {
    dataset: String,
    table: Table,
    state: TableState,
    encoding: Encoding,
}

/// An announced file that cannot be what it was announced as. Its flush is refused, lest it keep all others waiting.
#[derive(Debug, thiserror::Error)]
#[error("read dead letters of {path}")]
pub(super) struct Unusable {
    pub(super) path: String,
    source: anyhow::Error,
}

/// What has to happen with a file of dead letters.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The table has none of its letters.
    All,
    /// The table has some; those before these offsets.
    From(BTreeMap<i32, i64>),
    /// The table has them all.
    Nothing,
}

impl DeadTable {
    pub(super) async fn load(dataset: &str, table: Table, known: &BTreeSet<i32>) -> Result<DeadTable, TableError> {
        let (dataset, encoding) = (dataset.to_owned(), Encoding::of_dead_letters(&table));
        let state = load(&dataset, &table, known).await?;
        Ok(DeadTable { dataset, table, state, encoding })
    }

    /// Learns of more partitions.
    pub(super) async fn reload(&mut self, known: &BTreeSet<i32>) -> Result<(), TableError> {
        self.state = load(&self.dataset, &self.table, known).await?;
        Ok(())
    }

    /// Commits the dead letters of submissions that continue the table of events. After an error it can be repeated:
    /// nothing is added twice.
    pub(super) async fn commit(
        &mut self,
        accepted: &[&Submission],
        checkpoints: &mut Checkpoints,
    ) -> anyhow::Result<()> {
        loop {
            let files = self.missing(accepted).await?;
            if files.is_empty() {
                return Ok(());
            }
            let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
            for range in files.iter().flat_map(|file| &file.ranges) {
                let complete = self.complete(range.partition).unwrap_or(i64::MIN);
                // Of several partitions in a file, some may be complete further on.
                if range.end > complete {
                    let end = ends.entry(range.partition).or_insert(range.end);
                    *end = range.end.max(*end);
                }
            }
            let mut change = Change { operation: "STREAMING UPDATE", data_change: true, ..Change::default() };
            change.txns = ends.into_iter().map(|(p, end)| (app_id(&self.dataset, p), end)).collect();
            change.adds = files;
            match self.table.commit(&mut self.state, &change).await.context("commit dead letters")? {
                Outcome::Conflict => continue,
                Outcome::Committed => {
                    let records: u64 = change.adds.iter().map(DataFile::rows).sum();
                    metrics::dead_letters_committed(records);
                    warn!(records, table = self.table.name(), "dead letters committed");
                    checkpoints.start(&self.table, self.state.version);
                    return Ok(());
                }
            }
        }
    }

    /// Up to which offset the table has all letters of a partition.
    fn complete(&self, partition: i32) -> Option<i64> {
        self.state.txn(&app_id(&self.dataset, partition))
    }

    /// Files of the letters that the table does not have yet.
    async fn missing(&self, accepted: &[&Submission]) -> anyhow::Result<Vec<DataFile>> {
        let mut files = Vec::new();
        for file in accepted.iter().flat_map(|submission| &submission.dead) {
            match missing_part(&file.ranges, |partition| self.complete(partition)) {
                Part::All => files.push(file.clone()),
                Part::From(first) => files.extend(self.rewrite(file, &first).await?),
                Part::Nothing => {}
            }
        }
        Ok(files)
    }

    /// Stores the letters of `file` that lie at or after the given offsets of their partitions.
    async fn rewrite(&self, file: &DataFile, first: &BTreeMap<i32, i64>) -> anyhow::Result<Vec<DataFile>> {
        let store = self.table.store().as_ref();
        let bytes = get(store, &self.table.file_path(&file.path)).await.map_err(TableError::from)?;
        let kept = bytes.context("there is no such file").and_then(|bytes| letters_from(bytes, first));
        let encoded = kept.and_then(|kept| match kept.is_empty() {
            true => Ok(Vec::new()),
            false => self.encoding.encode(kept, &file.ranges, now_ms()),
        });
        let encoded = encoded.map_err(|source| Unusable { path: file.path.clone(), source })?;
        let mut files = Vec::with_capacity(encoded.len());
        for Encoded { file, bytes } in encoded {
            let path = self.table.file_path(&file.path);
            put_new(store, &path, bytes).await.map_err(TableError::from).context("upload dead letters")?;
            files.push(file);
        }
        Ok(files)
    }
}

async fn load(dataset: &str, table: &Table, known: &BTreeSet<i32>) -> Result<TableState, TableError> {
    let app_ids: Vec<String> = known.iter().map(|partition| app_id(dataset, *partition)).collect();
    table.load(Keep::Txns, &app_ids).await
}

/// Compares the ranges of a file with up to where the table has all letters.
fn missing_part(ranges: &[OffsetRange], complete: impl Fn(i32) -> Option<i64>) -> Part {
    let complete: BTreeMap<i32, i64> =
        ranges.iter().filter_map(|range| Some((range.partition, complete(range.partition)?))).collect();
    let has = |range: &OffsetRange| complete.get(&range.partition).copied().unwrap_or(i64::MIN);
    if ranges.iter().all(|range| has(range) <= range.start) {
        Part::All
    } else if ranges.iter().all(|range| has(range) >= range.end) {
        Part::Nothing
    } else {
        Part::From(complete)
    }
}

/// The letters in a file that lie at or after the given offsets of their partitions.
fn letters_from(file: Bytes, first: &BTreeMap<i32, i64>) -> anyhow::Result<Vec<RecordBatch>> {
    let batches = parquet::read_all(file)?;
    let kept = batches.iter().map(|batch| keep_from(batch, first)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(kept.into_iter().filter(|batch| batch.num_rows() > 0).collect())
}

fn keep_from(batch: &RecordBatch, first: &BTreeMap<i32, i64>) -> anyhow::Result<RecordBatch> {
    let column = |name| batch.column_by_name(name).with_context(|| format!("dead letters without {name}"));
    let partitions = column("kafka_partition")?.as_primitive_opt::<Int32Type>().context("no partition")?;
    let offsets = column("kafka_offset")?.as_primitive_opt::<Int64Type>().context("no offset")?;
    let missing = |(partition, offset): (&i32, &i64)| first.get(partition).is_none_or(|first| offset >= first);
    let rows: BooleanArray = partitions.values().iter().zip(offsets.values()).map(|row| Some(missing(row))).collect();
    Ok(filter_record_batch(batch, &rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_reaches_over_what_the_table_has_is_made_anew() {
        let ranges = [OffsetRange { partition: 0, start: 10, end: 20 }, OffsetRange { partition: 1, start: 5, end: 9 }];
        let cases: [(&[(i32, i64)], Part); 6] = [
            (&[], Part::All),
            (&[(0, 10), (1, 2)], Part::All),
            (&[(0, 20), (1, 12)], Part::Nothing),
            (&[(0, 11)], Part::From([(0, 11)].into())),
            (&[(0, 20)], Part::From([(0, 20)].into())),
            (&[(0, 20), (1, 5)], Part::From([(0, 20), (1, 5)].into())),
        ];
        for (complete, part) in cases {
            let complete: BTreeMap<i32, i64> = complete.iter().copied().collect();
            assert_eq!(missing_part(&ranges, |partition| complete.get(&partition).copied()), part, "{complete:?}");
        }
    }
}
