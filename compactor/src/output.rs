//! Gathers runs of merged rows into batches, and writes them to a file.

use crate::cursors::{Cursors, Run};
use crate::merge::MergeError;
use crate::sink::Sink;
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use lake::file::FileStats;

/// Runs of so many rows are written as they are, without gathering.
const WHOLE_RUN: usize = 2_048;

/// What a row takes, about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes {
    pub(crate) memory: u64,
    pub(crate) stored: u64,
}

pub(crate) struct Output {
    sink: Sink,
    /// Rows that wait to become a batch: the number of their batch, and of the row in it.
    pending: Vec<(usize, usize)>,
    /// Rows that went to the sink.
    rows: u64,
    row_bytes: RowBytes,
    batch_rows: usize,
}

impl Output {
    pub(crate) fn new(sink: Sink, row_bytes: RowBytes) -> Output {
        let batch_rows = ((2 << 20) / row_bytes.memory.max(1)).clamp(64, 8_192) as usize;
        Output { sink, pending: Vec::new(), rows: 0, row_bytes, batch_rows }
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
        self.sink.path()
    }

    /// Bytes that the file would have if it ended here, about.
    pub(crate) fn size(&self) -> u64 {
        let waiting = self.sink.buffered_rows() + self.pending.len() as u64;
        self.sink.written_bytes() + waiting * self.stored_row_bytes()
    }

    /// What a row takes in the file, about: as in the row groups so far, or else as in the inputs.
    pub(crate) fn stored_row_bytes(&self) -> u64 {
        let rows = self.rows - self.sink.buffered_rows();
        self.sink.written_bytes().checked_div(rows).unwrap_or(self.row_bytes.stored)
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
        self.rows += rows.num_rows() as u64;
        self.sink.write(rows).await
    }

    /// Ends the file. Returns its size and the statistics of its rows. No batch is let go of, for the next file may begin
    /// in the middle of one.
    pub(crate) async fn finish(mut self, cursors: &Cursors) -> Result<(u64, FileStats), MergeError> {
        self.write_pending(cursors).await?;
        self.sink.finish().await
    }

    /// Gives up.
    pub(crate) async fn abort(self) {
        self.sink.abort().await;
    }
}
