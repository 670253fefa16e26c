//! A file while it is written: its rows become row groups, and their bytes go to the store part by part.

use crate::merge::{Budget, MergeError};
use crate::upload::Upload;
use arrow::array::RecordBatch;
use bytes::Bytes;
use lake::Table;
use lake::file::FileStats;
use lake::parquet::FileWriter;
use parquet::errors::ParquetError;
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;

/// A store that does not answer must not keep the program from ending.
const ABORT_FOR: Duration = Duration::from_secs(2);

pub(crate) struct Sink {
    /// Path inside the table.
    path: String,
    writer: FileWriter<Vec<u8>>,
    upload: Upload,
    row_group_bytes: usize,
    part_bytes: usize,
}

impl Sink {
    /// A file in the table's columns.
    pub(crate) fn new(table: &Table, path: String, sorted_by: &[String], budget: Budget) -> Result<Sink, MergeError> {
        let writer = FileWriter::new(Vec::new(), table.schema(), sorted_by);
        let writer = writer.map_err(|source| MergeError::Write { path: path.clone(), source })?;
        let upload = Upload::new(Arc::clone(table.store()), table.file_path(&path), budget.part());
        Ok(Sink { path, writer, upload, row_group_bytes: budget.row_group(), part_bytes: budget.part() })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of the row groups so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.writer.written_bytes() as u64
    }

    /// Rows that are in none of them yet.
    pub(crate) fn buffered_rows(&self) -> u64 {
        self.writer.buffered_rows() as u64
    }

    pub(crate) async fn write(&mut self, rows: &RecordBatch) -> Result<(), MergeError> {
        let failed = |source: ParquetError| MergeError::Write { path: self.path.clone(), source };
        self.writer.write(rows).map_err(failed)?;
        if self.writer.buffered_bytes() >= self.row_group_bytes {
            self.writer.end_row_group().map_err(failed)?;
        }
        if self.writer.sink_mut().len() >= self.part_bytes {
            let bytes = std::mem::take(self.writer.sink_mut());
            let stored = self.upload.write(Bytes::from(bytes)).await;
            stored.map_err(|source| MergeError::Store { path: self.path.clone(), source })?;
        }
        Ok(())
    }

    /// Ends the file. Returns its size and the statistics of its rows.
    pub(crate) async fn finish(self) -> Result<(u64, FileStats), MergeError> {
        let Sink { path, writer, mut upload, .. } = self;
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
}
