//! The queue of one dataset: what waits, how much, since when.

use super::position::{self, PositionFile};
use crate::metrics::SpillMetrics;
use anyhow::Context;
use bytes::Bytes;
use eventlog::local::LocalLog;
use eventlog::{AppendError, Consumer, Input, Log, NewRecord, Position, Record};
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// The only reader of a queue.
const GROUP: &str = "drain";
/// The only partition of a queue.
const PARTITION: i32 = 0;

pub(crate) struct Queue {
    pub(super) dataset: String,
    log: Arc<LocalLog>,
    position: PositionFile,
    /// Records that the log refuses for good.
    aside: PathBuf,
    /// Events that are not in the log yet, those being written included.
    events: AtomicU64,
    bytes: AtomicU64,
    /// When the next to be drained was written, milliseconds since the epoch.
    oldest_ms: AtomicI64,
    /// Told when there is something to drain.
    pub(super) filled: Notify,
    pub(super) metrics: SpillMetrics,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Duration,
}

/// Records that were read one after the other.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Offset of the first.
    pub(super) first: i64,
    pub(super) records: Vec<NewRecord>,
    oldest_ms: i64,
}

impl Queue {
    /// Opens it and counts what waits. Blocks.
    pub(super) fn open(log: Arc<LocalLog>, directory: &Path, dataset: String) -> anyhow::Result<Queue> {
        let position = PositionFile::new(directory, &dataset);
        let queue = Queue {
            aside: directory.join(format!("{dataset}.refused.ndjson")),
            metrics: SpillMetrics::new(&dataset),
            dataset,
            log,
            position,
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            oldest_ms: AtomicI64::new(0),
            filled: Notify::new(),
        };
        if queue.position.load()?.is_none() {
            queue.position.store(0).context("note how far the queue is drained")?;
        }
        let mut reader = queue.reader()?;
        let mut oldest = None;
        loop {
            let chunk = reader.read(Duration::ZERO)?;
            if chunk.records.is_empty() {
                break;
            }
            queue.enter(chunk.records.len() as u64, chunk.records.iter().map(size).sum());
            oldest.get_or_insert(chunk.oldest_ms);
        }
        queue.oldest_ms.store(oldest.unwrap_or(0), Ordering::Relaxed);
        Ok(queue)
    }

    /// Whether anything waits: then what comes must wait behind it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.events.load(Ordering::Acquire) > 0
    }

    pub(crate) fn depth(&self) -> Depth {
        let events = self.events.load(Ordering::Acquire);
        let since = if events == 0 { 0 } else { self.oldest_ms.load(Ordering::Relaxed) };
        let oldest = if since == 0 { 0 } else { now_ms().saturating_sub(since).max(0) as u64 };
        Depth { events, bytes: self.bytes.load(Ordering::Relaxed), oldest: Duration::from_millis(oldest) }
    }

    /// Appends in order. `Ok` means durable on this disk.
    pub(crate) async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
        let sizes: Vec<u64> = records.iter().map(size).collect();
        // Before it is there, so that nothing overtakes it from now on.
        if self.enter(sizes.len() as u64, sizes.iter().sum()) {
            tracing::warn!(dataset = self.dataset, "the log does not take events: they wait in the queue on disk");
        }
        let outcomes = self.log.append(&self.dataset, records).await;
        let refused = outcomes.iter().zip(&sizes).filter(|(outcome, _)| outcome.is_err());
        let (events, bytes) = refused.fold((0, 0), |(events, bytes), (_, size)| (events + 1, bytes + size));
        self.leave(events, bytes);
        self.metrics.spilled(sizes.len() as u64 - events);
        self.filled.notify_one();
        outcomes
    }

    /// A reader from the noted position on.
    pub(super) fn reader(&self) -> anyhow::Result<Reader> {
        let mut consumer = self.log.consumer(&self.dataset, GROUP)?;
        let next = self.position.load()?.unwrap_or(0);
        // The first input of a local consumer is its assignment.
        consumer.poll(Duration::ZERO, &mut |_| {})?;
        consumer.assign(&[Position { partition: PARTITION, offset: next }])?;
        Ok(Reader { consumer, next })
    }

    /// The log has so many of the chunk, from its first on. Durable when this returns.
    pub(super) fn drained(&self, reader: &mut Reader, chunk: &Chunk, count: usize) -> anyhow::Result<()> {
        let next = chunk.first + count as i64;
        self.position.store(next).context("note how far the queue is drained")?;
        reader.consumer.commit_hint(&[Position { partition: PARTITION, offset: next }])?;
        self.leave(count as u64, chunk.records[..count].iter().map(size).sum());
        self.metrics.drained(count as u64);
        Ok(())
    }

    /// Keeps a record that the log refuses for good where people find it.
    pub(super) fn set_aside(&self, record: &NewRecord, error: &AppendError) -> anyhow::Result<()> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let headers: serde_json::Map<_, _> =
            record.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value).into())).collect();
        let line = json!({"refused": error.to_string(), "headers": headers, "event": text(&record.value)});
        position::append_line(&self.aside, &line.to_string())
            .with_context(|| format!("write {}", self.aside.display()))?;
        self.metrics.set_aside();
        tracing::error!(dataset = self.dataset, %error, file = %self.aside.display(),
            "the log refuses an event for good; it is kept in this file and in no table");
        Ok(())
    }

    pub(super) fn note_age(&self, chunk: &Chunk) {
        self.oldest_ms.store(chunk.oldest_ms, Ordering::Relaxed);
    }

    pub(super) fn measure(&self) {
        self.metrics.depth(self.depth());
    }

    /// Says whether these are the first.
    fn enter(&self, events: u64, bytes: u64) -> bool {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let first = self.events.fetch_add(events, Ordering::AcqRel) == 0;
        if first {
            self.oldest_ms.store(now_ms(), Ordering::Relaxed);
        }
        first
    }

    /// Never below nothing: a failing disk may keep what it has reported as not written.
    fn leave(&self, events: u64, bytes: u64) {
        let less = |by: u64| move |now: u64| Some(now.saturating_sub(by));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(bytes));
        let _ = self.events.fetch_update(Ordering::AcqRel, Ordering::Acquire, less(events));
    }
}

/// Reads a queue.
pub(super) struct Reader {
    consumer: Box<dyn Consumer>,
    next: i64,
}

impl Reader {
    /// What comes next; nothing if that does not come in time.
    pub(super) fn read(&mut self, max_wait: Duration) -> anyhow::Result<Chunk> {
        let mut chunk = Chunk { first: self.next, ..Chunk::default() };
        let mut sink = |record: Record<'_>| {
            if chunk.records.is_empty() {
                (chunk.first, chunk.oldest_ms) = (record.offset, record.timestamp_ms);
            }
            chunk.records.push(owned(&record));
        };
        match self.consumer.poll(max_wait, &mut sink)? {
            Input::OutOfRange(_) => anyhow::bail!("the queue does not hold offset {} any more", self.next),
            _ => {
                self.next = chunk.first + chunk.records.len() as i64;
                Ok(chunk)
            }
        }
    }

    /// Reads on from there.
    pub(super) fn seek(&mut self, offset: i64) -> anyhow::Result<()> {
        self.next = offset;
        Ok(self.consumer.seek(Position { partition: PARTITION, offset })?)
    }
}

fn owned(record: &Record<'_>) -> NewRecord {
    let bytes = |bytes: Option<&[u8]>| Bytes::copy_from_slice(bytes.unwrap_or_default());
    let headers = record.headers.iter().map(|(name, value)| (known(name), bytes(value))).collect();
    NewRecord { key: bytes(record.key), value: bytes(record.value), headers }
}

/// Names of headers are known at compile time, here or in the version that has written the queue: so there are few.
fn known(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    match names.get(name) {
        Some(known) => known,
        None => {
            let known: &'static str = Box::leak(name.to_owned().into_boxed_str());
            names.insert(known);
            known
        }
    }
}

fn size(record: &NewRecord) -> u64 {
    record.size() as u64
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
