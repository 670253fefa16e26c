//! Writes merged rows: gathers runs into batches, batches into row groups, and hands their bytes to the upload.

use crate::cursors::{Cursors, Run};
use crate::merge::{Budget, MergeError};
use crate::upload::Upload;
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use bytes::Bytes;
use lake::file::FileStats;
use lake::parquet::FileWriter;
use lake::schema::TableSchema;
use parquet::errors::ParquetError;
use std::time::Duration;
use tracing::debug;

/// Runs of so many rows are written as they are, without gathering.
const WHOLE_RUN: usize = 2_048;

/// A store that does not answer must not keep the program from ending.
const ABORT_FOR: Duration = Duration::from_secs(2);

/// What a row takes, about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes {
    pub(crate) memory: u64,
    pub(crate) stored: u64,
}

pub(crate) struct Output {
    /// Path inside the table.
    path: String,
    writer: FileWriter<Vec<u8>>,
    upload: Upload,
    /// Rows that wait to become a batch: the number of their batch, and of the row in it.
    pending: Vec<(usize, usize)>,
    /// Rows that went to the writer.
    rows: u64,
    row_bytes: RowBytes,
    batch_rows: usize,
    row_group_bytes: usize,
    part_bytes: usize,
}

impl Output {
    pub(crate) fn new(
        path: String,
        upload: Upload,
        schema: &TableSchema,
        sort_by: &[String],
        row_bytes: RowBytes,
        budget: Budget,
    ) -> Result<Output, MergeError> {
        let writer = FileWriter::new(Vec::new(), schema, sort_by);
        let writer = writer.map_err(|source| MergeError::Write { path: path.clone(), source })?;
        Ok(Output {
            path,
            writer,
            upload,
            pending: Vec::new(),
            rows: 0,
            row_bytes,
            batch_rows: ((2 << 20) / row_bytes.memory.max(1)).clamp(64, 8_192) as usize,
            row_group_bytes: budget.row_group(),
            part_bytes: budget.part(),
        })
    }

    /// Appends a run but for the rows in `left_out`, which are in order. They may stay where they are until the batch is
    /// full.
    pub(crate) async fn append(
        &mut self,
        run: Run,
        left_out: &[usize],
        cursors: &mut Cursors,
    ) -> Result<(), MergeError> {
        if run.rows.len() >= WHOLE_RUN && left_out.is_empty() {
            let rows = cursors.batches()[run.batch].slice(run.rows.start, run.rows.len());
            self.flush(cursors).await?;
            return self.write(&rows).await;
        }
        self.add(run, left_out);
        if self.pending.len() < self.batch_rows {
            return Ok(());
        }
        self.flush(cursors).await
    }

    /// The same, without writing anything yet.
    pub(crate) fn add(&mut self, run: Run, left_out: &[usize]) {
        let mut start = run.rows.start;
        for end in left_out.iter().copied().chain([run.rows.end]) {
            self.pending.extend((start..end).map(|row| (run.batch, row)));
            start = end + 1;
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes that the file would have if it ended here, about.
    pub(crate) fn size(&self) -> u64 {
        let waiting = self.writer.buffered_rows() + self.pending.len();
        self.writer.written_bytes() as u64 + waiting as u64 * self.stored_row_bytes()
    }

    /// What a row takes in the file, about: as in the row groups so far, or else as in the inputs.
    pub(crate) fn stored_row_bytes(&self) -> u64 {
        let rows = self.rows - self.writer.buffered_rows() as u64;
        (self.writer.written_bytes() as u64).checked_div(rows).unwrap_or(self.row_bytes.stored)
    }

    async fn flush(&mut self, cursors: &mut Cursors) -> Result<(), MergeError> {
        self.write_pending(cursors).await?;
        cursors.forget_passed();
        Ok(())
    }

    async fn write_pending(&mut self, cursors: &Cursors) -> Result<(), MergeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let batches: Vec<&RecordBatch> = cursors.batches().iter().collect();
        let rows = interleave_record_batch(&batches, &self.pending)?;
        self.pending.clear();
        self.write(&rows).await
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<(), MergeError> {
        self.writer.write(rows).map_err(|source| self.write_failed(source))?;
        self.rows += rows.num_rows() as u64;
        if self.writer.buffered_bytes() >= self.row_group_bytes {
            self.writer.end_row_group().map_err(|source| self.write_failed(source))?;
        }
        if self.writer.sink_mut().len() >= self.part_bytes {
            let bytes = std::mem::take(self.writer.sink_mut());
            self.send(bytes).await?;
        }
        Ok(())
    }

    /// Ends the file. Returns its size and the statistics of its rows. No batch is let go of, for the next file may begin
    /// in the middle of one.
    pub(crate) async fn finish(mut self, cursors: &Cursors) -> Result<(u64, FileStats), MergeError> {
        self.write_pending(cursors).await?;
        let Output { path, writer, mut upload, .. } = self;
        let (bytes, stats) = writer.finish().map_err(|source| MergeError::Write { path: path.clone(), source })?;
        let size = async {
            upload.write(Bytes::from(bytes)).await?;
            upload.finish().await
        };
        let size = size.await.map_err(|source| MergeError::Store { path, source })?;
        Ok((size, stats))
    }

    /// Gives up. Parts that cannot be taken back now are never seen: the file does not exist.
    pub(crate) async fn abort(self) {
        match tokio::time::timeout(ABORT_FOR, self.upload.abort()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(path = self.path, %error, "parts of an upload stay behind"),
            Err(_) => debug!(path = self.path, "parts of an upload stay behind: no answer"),
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), MergeError> {
        self.upload.write(Bytes::from(bytes)).await.map_err(|source| self.store_failed(source))
    }

    fn write_failed(&self, source: ParquetError) -> MergeError {
        MergeError::Write { path: self.path.clone(), source }
    }

    fn store_failed(&self, source: object_store::Error) -> MergeError {
        MergeError::Store { path: self.path.clone(), source }
    }
}
