//! Takes what buffers held to the table: encode, upload, commit. One task a flush; several may be under way, and they
//! reach the committer in the order in which they were taken.

use crate::breaker::{Attempts, Breakers};
use crate::buffer::Taken;
use crate::committer::{Committer, Submission, Verdict};
use crate::encode::{Encoded, Encoders, Encoding};
use crate::metrics;
use bytes::Bytes;
use lake::dataset::Dataset;
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
    events: Destination,
    dead: Destination,
    committer: Committer,
    breakers: Breakers,
    encoders: Encoders,
}

/// A table, and how rows become its files.
#[derive(Debug)]
struct Destination {
    table: Table,
    encoding: Encoding,
}

/// What a flush did, for the worker to act on.
#[derive(Debug)]
pub struct Flushed {
    pub id: u64,
    pub ranges: Vec<OffsetRange>,
    pub rows: u64,
    pub verdict: Verdict,
}

impl Flusher {
    pub fn new(
        dataset: &Dataset,
        (events, dead): (Table, Table),
        committer: Committer,
        breakers: Breakers,
        encoders: Encoders,
    ) -> Flusher {
        let encoding = Encoding::of_events(&events, &dataset.spec.sort_by);
        let events = Destination { table: events, encoding };
        let encoding = Encoding::of_dead_letters(&dead);
        Flusher { events, dead: Destination { table: dead, encoding }, committer, breakers, encoders }
    }

    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// The table of events.
    pub fn table(&self) -> &Table {
        &self.events.table
    }

    /// Runs one flush to its end. `turn` resolves when the flush before it has handed in its files, and `done` lets the
    /// next one do so; an order among flushes of one processor, so that the table need not hold them back. `uploaded` is
    /// called when the rows have left the memory.
    pub async fn run(
        self: Arc<Self>,
        id: u64,
        taken: Vec<Taken>,
        turn: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
        uploaded: impl FnOnce() + Send,
    ) -> Flushed {
        let ranges: Vec<OffsetRange> = taken.iter().map(|taken| taken.range).collect();
        let rows = taken.iter().map(|taken| taken.rows.len() as u64).sum();
        let verdict = match self.encode_and_upload(taken, &ranges).await {
            Ok(submission) => {
                uploaded();
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
        Flushed { id, ranges, rows, verdict }
    }

    async fn encode_and_upload(&self, taken: Vec<Taken>, ranges: &[OffsetRange]) -> anyhow::Result<Submission> {
        let started = Instant::now();
        let (events, dead) = (self.events.encoding.clone(), self.dead.encoding.clone());
        let (events, dead) = self.encoders.run(move || encode(&events, &dead, taken)).await??;
        metrics::encoded(started.elapsed());
        let (files, dead) =
            (self.events.upload_all(events, &self.breakers).await?, self.dead.upload_all(dead, &self.breakers).await?);
        Ok(Submission { ranges: ranges.to_vec(), files, dead })
    }
}

impl Destination {
    async fn upload_all(&self, encoded: Vec<Encoded>, breakers: &Breakers) -> anyhow::Result<Vec<DataFile>> {
        let mut files = Vec::with_capacity(encoded.len());
        for Encoded { file, bytes } in encoded {
            self.upload(&file, bytes, breakers.uploads()).await?;
            files.push(file);
        }
        Ok(files)
    }

    /// Uploads until it works or cannot work. The caller's memory bound is what keeps a store that is down from filling
    /// memory: partitions are paused meanwhile.
    async fn upload(&self, file: &DataFile, bytes: Bytes, mut attempts: Attempts) -> anyhow::Result<()> {
        let path = self.table.file_path(&file.path);
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

/// Files of events, and of dead letters. The latter name only the ranges that have some: nothing else of the table of
/// dead letters moves.
fn encode(events: &Encoding, dead: &Encoding, taken: Vec<Taken>) -> anyhow::Result<(Vec<Encoded>, Vec<Encoded>)> {
    let ranges: Vec<OffsetRange> = taken.iter().map(|part| part.range).collect();
    let (mut rows, mut letters, mut ranges_of_letters) = (Vec::new(), Vec::new(), Vec::new());
    for part in taken {
        if !part.rows.is_empty() {
            rows.push(part.rows.finish());
        }
        if !part.dead.is_empty() {
            letters.push(part.dead.finish()?);
            ranges_of_letters.push(part.range);
        }
    }
    let files = if rows.is_empty() { Vec::new() } else { events.encode(rows, &ranges, now_ms())? };
    let dead = if letters.is_empty() { Vec::new() } else { dead.encode(letters, &ranges_of_letters, now_ms())? };
    Ok((files, dead))
}
