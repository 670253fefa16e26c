//! Reads dead letters, file by file: in memory are a row group as it is stored, and a batch of rows.
//!
//! Letters come by date, then by file in the order of their first `received_at`, then as the file has them, which is by
//! `received_at`. Files overlap only where several processors or a compactor wrote a date, so the newest come last but
//! for neighbours.

use super::Version;
use super::filter::Filter;
use super::letter::Letter;
use super::replayed::Replayed;
use anyhow::Context;
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use lake::reader::FileReader;
use lake::{DataFile, Table};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of rows that one batch holds, about; one row may be larger.
const BATCH_BYTES: u64 = 1 << 20;

/// The letters that are meant, one by one.
pub struct Letters<'a> {
    table: &'a Table,
    filter: Filter,
    replayed: &'a Replayed,
    left: u64,
    files: VecDeque<Arc<DataFile>>,
    open: Option<Batches>,
    batch: Option<(RecordBatch, usize)>,
}

impl<'a> Letters<'a> {
    pub fn new(dead: &'a Version, filter: Filter, replayed: &'a Replayed, limit: u64) -> Letters<'a> {
        let mut files: Vec<_> = dead.state.files().values().filter(|file| filter.may_be_in(file)).cloned().collect();
        let first = |file: &DataFile| file.stats.min.get("received_at").and_then(|v| v.as_str().map(str::to_owned));
        files.sort_by_cached_key(|file| (file.date, first(file), file.path.clone()));
        Letters { table: &dead.table, filter, replayed, left: limit, files: files.into(), open: None, batch: None }
    }

    /// The next letter, and whether it was replayed.
    pub async fn next(&mut self) -> anyhow::Result<Option<(Letter, bool)>> {
        while self.left > 0 {
            let Some((batch, row)) = &mut self.batch else {
                match self.next_batch().await? {
                    Some(batch) => self.batch = Some((batch, 0)),
                    None => return Ok(None),
                }
                continue;
            };
            if *row == batch.num_rows() {
                self.batch = None;
                continue;
            }
            let letter = Letter::of_row(batch, *row)?;
            *row += 1;
            let is_replayed = self.replayed.contains(letter.place);
            if self.filter.takes(&letter, is_replayed) {
                self.left -= 1;
                return Ok(Some((letter, is_replayed)));
            }
        }
        Ok(None)
    }

    async fn next_batch(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(batch) = open.next().await?
            {
                return Ok(Some(batch));
            }
            let Some(file) = self.files.pop_front() else { return Ok(None) };
            self.open = Some(Batches::open(self.table, &file, None).await?);
        }
    }
}

/// The rows of one file.
pub struct Batches {
    path: String,
    rows: ParquetRecordBatchStream<FileReader>,
}

impl Batches {
    /// Opens a file; `columns` are those wanted, if not all of them.
    pub async fn open(table: &Table, file: &DataFile, columns: Option<&[&str]>) -> anyhow::Result<Batches> {
        let unreadable = || format!("cannot read {}", file.path);
        let location = table.file_path(&file.path);
        let reader = FileReader::open(Arc::clone(table.store()), location, file.size).await.with_context(unreadable)?;
        let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await.with_context(unreadable)?;
        let groups = builder.metadata().row_groups();
        let (bytes, rows) = groups.iter().fold((0, 0), |(bytes, rows), group| {
            (bytes + group.total_byte_size().unsigned_abs(), rows + group.num_rows().unsigned_abs())
        });
        let row_bytes = (bytes / rows.max(1)).max(1);
        if let Some(columns) = columns {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        let rows = builder.with_batch_size((BATCH_BYTES / row_bytes).clamp(1, 8_192) as usize).build();
        Ok(Batches { path: file.path.clone(), rows: rows.with_context(unreadable)? })
    }

    /// The next rows; `None` at the end of the file.
    pub async fn next(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        self.rows.try_next().await.with_context(|| format!("cannot read {}", self.path))
    }
}
