//! Takes what buffers held to the table: encode, upload, commit. One task a flush; several may be under way, and they
//! reach the committer in the order in which they were taken.

use crate::breaker::Breakers;
use crate::buffer::Taken;
use crate::committer::{Committer, Submission, Verdict};
use crate::encode::{Encoded, Encoding};
use crate::metrics;
use arrow::compute::concat_batches;
use bytes::Bytes;
use lake::store::put_new;
use lake::table::now_ms;
use lake::{DataFile, OffsetRange, Table};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::debug;

/// What flushes share.
#[derive(Debug)]
pub struct Flusher {
    pub encoding: Encoding,
    pub table: Table,
    pub committer: Committer,
    pub breakers: Breakers,
}

/// What a flush did, for the worker to act on.
#[derive(Debug)]
pub struct Flushed {
    pub id: u64,
    pub ranges: Vec<OffsetRange>,
    /// Bytes of rows that are off the memory's account now.
    pub bytes: usize,
    pub rows: u64,
    pub verdict: Verdict,
}

impl Flusher {
    /// Runs one flush to its end. `turn` resolves when the flush before it has handed in its files, and `done` lets the
    /// next one do so; an order among flushes of one processor, so that the table need not hold them back.
    pub async fn run(
        self: Arc<Self>,
        id: u64,
        taken: Vec<Taken>,
        turn: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
    ) -> Flushed {
        let ranges: Vec<OffsetRange> = taken.iter().map(|taken| taken.range).collect();
        let bytes = taken.iter().map(|taken| taken.bytes).sum();
        let rows = taken.iter().map(|taken| taken.rows.len() as u64).sum();
        let verdict = match self.encode_and_upload(taken, &ranges).await {
            Ok(submission) => {
                if let Some(turn) = turn {
                    // An error means that the flush before gave up; the table then refuses this one as well.
                    let _ = turn.await;
                }
                let verdict = self.committer.submit(submission);
                let _ = done.send(());
                verdict.await
            }
            Err(err) => Verdict::Failed(Arc::new(err)),
        };
        Flushed { id, ranges, bytes, rows, verdict }
    }

    async fn encode_and_upload(&self, taken: Vec<Taken>, ranges: &[OffsetRange]) -> anyhow::Result<Submission> {
        let started = Instant::now();
        let encoding = self.encoding.clone();
        let all_ranges = ranges.to_vec();
        let (encoded, dead) = tokio::task::spawn_blocking(move || encode(&encoding, taken, &all_ranges)).await??;
        metrics::encoded(started.elapsed());
        let mut files = Vec::with_capacity(encoded.len());
        for Encoded { file, bytes } in encoded {
            self.upload(&file, bytes).await?;
            files.push(file);
        }
        Ok(Submission { ranges: ranges.to_vec(), files, dead })
    }

    /// Uploads until it works or cannot work. The caller's memory bound is what keeps a store that is down from filling
    /// memory: partitions are paused meanwhile.
    async fn upload(&self, file: &DataFile, bytes: Bytes) -> anyhow::Result<()> {
        let path = self.table.file_path(&file.path);
        let mut attempts = self.breakers.uploads();
        loop {
            attempts.begin().await;
            let started = Instant::now();
            let Err(err) = put_new(self.table.store().as_ref(), &path, bytes.clone()).await else {
                attempts.succeeded();
                metrics::uploaded(file.size, started.elapsed());
                debug!(path = file.path, bytes = file.size, rows = file.rows(), "fragment uploaded");
                return Ok(());
            };
            attempts.failed(anyhow::Error::from(err).context("upload a fragment"))?;
            metrics::upload_retried();
        }
    }
}

type Parts = (Vec<Encoded>, Option<arrow::array::RecordBatch>);

fn encode(encoding: &Encoding, taken: Vec<Taken>, ranges: &[OffsetRange]) -> anyhow::Result<Parts> {
    let (mut rows, mut dead) = (Vec::new(), Vec::new());
    for part in taken {
        if !part.rows.is_empty() {
            rows.push(part.rows.finish());
        }
        if !part.dead.is_empty() {
            dead.push(part.dead.finish()?);
        }
    }
    let dead = match dead.first() {
        Some(first) => Some(concat_batches(&first.schema(), &dead)?),
        None => None,
    };
    let encoded = if rows.is_empty() { Vec::new() } else { encoding.encode(rows, ranges, now_ms())? };
    Ok((encoded, dead))
}
