//! A durable log on this machine, over fjall.
//!
//! ```text
//! append() --frames, by partition--> queue (bounded) --> writer: one fsync per group --> answers
//!                                                          |
//! poll() <--borrowed from the stored batch-- segments <----+      retention: deletes what the table has
//! ```
//! A topic is a chain of segments; a segment holds batches, each the records that one group commit wrote to one
//! partition. One process owns the directory.

pub(crate) mod framing;
mod options;
mod repair;
mod store;
mod topic;
mod writer;
mod retention;
mod whole;
mod consumer;
mod exclusive;

pub use options::LocalOptions;

use crate::record::Append as AppendRecord;
use crate::{AppendError, Consumer, Exclusive, Log, LogError, NewRecord, Position, WholeError, partition_for};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use store::{Store, TopicEntry};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, mpsc, oneshot};
use topic::Topic;
use writer::{Append, Command, Part, Writer};

/// The embedded log of one directory.
pub struct LocalLog {
    shared: Arc<Shared>,
    commands: UnboundedSender<Command>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How full the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of records that the log holds.
    pub live_bytes: u64,
    /// Bytes over which appends are refused.
    pub disk_budget: u64,
    /// Bytes that the files take, journal included.
    pub disk_bytes: u64,
}

/// What the log, its threads and its readers share.
struct Shared {
    dir: PathBuf,
    options: LocalOptions,
    store: Store,
    topics: RwLock<HashMap<String, Arc<Topic>>>,
    /// One topic is made at a time.
    making_topic: Mutex<()>,
    live_bytes: AtomicU64,
    /// Room for appends that wait for the disk, in bytes.
    queue: Arc<Semaphore>,
    /// Why no more records are taken; set once, by the first I/O error.
    broken: OnceLock<String>,
    closed: AtomicBool,
    retention_due: Mutex<bool>,
    retention_wake: Condvar,
}

impl LocalLog {
    /// Opens the log in `dir`, which is made if it does not exist. One process at a time may have it open.
    pub fn open(dir: impl AsRef<Path>, options: LocalOptions) -> Result<LocalLog, LogError> {
        let dir = dir.as_ref();
        let fatal = |err: fjall::Error| LogError::Fatal {
            what: "open the local log",
            reason: format!("{}: {err:?}", dir.display()),
        };
        let store = Store::open(dir, &options)?;
        let mut topics = HashMap::new();
        let mut known = HashSet::new();
        let mut live_bytes = 0;
        for (id, (name, entry)) in store.topics().map_err(fatal)?.into_iter().enumerate() {
            let topic = Topic::recover(id, &name, &entry, &store).map_err(fatal)?;
            for segment in topic.segments() {
                live_bytes += segment.held().bytes;
                known.insert(segment.name(&name));
                segment.keyspace.rotate_memtable().map_err(fatal)?;
            }
            topics.insert(name, Arc::new(topic));
        }
        store.remove_orphans(&known).map_err(fatal)?;

        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            store,
            topics: RwLock::new(topics),
            making_topic: Mutex::new(()),
            live_bytes: AtomicU64::new(live_bytes),
            queue: Arc::new(Semaphore::new(options.queue_bytes)),
            options,
            broken: OnceLock::new(),
            closed: AtomicBool::new(false),
            retention_due: Mutex::new(true),
            retention_wake: Condvar::new(),
        });
        let (commands, received) = mpsc::unbounded_channel();
        let writer = Writer::new(Arc::clone(&shared), received);
        let (of_retention, commands_of_retention) = (Arc::clone(&shared), commands.clone());
        let threads = vec![
            spawn("log-writer", move || writer.run())?,
            spawn("log-retention", move || retention::run(&of_retention, &commands_of_retention))?,
        ];
        Ok(LocalLog { shared, commands, threads: Mutex::new(threads) })
    }

    /// How full the log is.
    pub fn usage(&self) -> Usage {
        Usage {
            live_bytes: self.shared.live_bytes.load(Ordering::Acquire),
            disk_budget: self.shared.options.disk_budget,
            disk_bytes: self.shared.store.disk_space().unwrap_or(0),
        }
    }

    /// Tells the threads to finish, and refuses appends from now on.
    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.queue.close();
        let _ = self.commands.send(Command::Stop);
        self.shared.wake_retention();
        std::mem::take(&mut *lock(&self.threads))
    }
}

/// Appends records to a topic; answers each of them.
async fn append_all<R: AppendRecord>(
    shared: &Shared,
    commands: &UnboundedSender<Command>,
    topic: &str,
    records: Vec<R>,
) -> Vec<Result<Position, AppendError>> {
    let count = records.len();
    let refuse = |err: AppendError| vec![Err(err); count];
    if let Err(err) = shared.takes_records() {
        return refuse(err);
    }
    let Some(topic) = shared.topic(topic) else {
        return refuse(AppendError::Refused(format!("topic {topic} does not exist")));
    };
    let bytes: usize = records.iter().map(framing::framed_len).sum();
    let room = u32::try_from(bytes.min(shared.options.queue_bytes)).unwrap_or(u32::MAX);
    let Ok(room) = Arc::clone(&shared.queue).acquire_many_owned(room).await else {
        return refuse(AppendError::Unavailable("the log is closed".into()));
    };
    let (parts, places) = frame(&topic, &records, bytes, shared.options.max_record_bytes);
    drop(records);
    let (answer, answered) = oneshot::channel();
    let partitions: Vec<i32> = parts.iter().map(|part| part.partition).collect();
    if parts.is_empty() {
        let _ = answer.send(Ok(Vec::new()));
    } else {
        let _ = commands.send(Command::Append(Append { topic, parts, room, answer }));
    }
    let bases = match answered.await {
        Ok(Ok(bases)) => bases,
        Ok(Err(err)) => return refuse(err),
        Err(_) => return refuse(AppendError::Unavailable("the log is closed".into())),
    };
    let position = |place: Place| Position {
        partition: partitions[place.part],
        offset: bases[place.part] + i64::from(place.index),
    };
    places.into_iter().map(|place| place.map(position)).collect()
}

/// Where a record of an append went: the index of its part, and its place in it.
#[derive(Clone, Copy)]
struct Place {
    part: usize,
    index: u32,
}

/// Whether a record can be framed.
fn fits(record: &impl AppendRecord, limit: usize) -> bool {
    record.size() <= limit && record.headers().all(|(name, _)| name.len() <= usize::from(u16::MAX))
}

/// Frames records by partition, in order; a record that is too large is left out and refused.
fn frame<R: AppendRecord>(
    topic: &Topic,
    records: &[R],
    bytes: usize,
    limit: usize,
) -> (Vec<Part>, Vec<Result<Place, AppendError>>) {
    let mut parts: Vec<Part> = Vec::new();
    let mut part_of = vec![usize::MAX; topic.partitions as usize];
    // Keys spread evenly, more or less: mostly no part has to grow.
    let spread = records.len().clamp(1, topic.partitions as usize);
    let expected = if spread == 1 { bytes } else { bytes / spread * 5 / 4 };
    let mut places = Vec::with_capacity(records.len());
    for record in records {
        let bytes = record.size();
        if !fits(record, limit) {
            places.push(Err(AppendError::TooLarge { bytes, limit }));
            continue;
        }
        let partition = partition_for(record.key().unwrap_or_default(), topic.partitions);
        let part = &mut part_of[partition as usize];
        if *part == usize::MAX {
            *part = parts.len();
            parts.push(Part { partition, records: 0, frames: Vec::with_capacity(expected.min(bytes)) });
        }
        let place = Place { part: *part, index: parts[*part].records };
        parts[*part].records += 1;
        framing::write_record(&mut parts[*part].frames, record);
        places.push(Ok(place));
    }
    (parts, places)
}

impl Log for LocalLog {
    fn ensure_topic<'a>(&'a self, topic: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        let (shared, name) = (Arc::clone(&self.shared), topic.to_owned());
        let fatal = |reason: String| LogError::Fatal { what: "create a topic", reason };
        async move {
            let made = tokio::task::spawn_blocking(move || shared.ensure_topic(&name, partitions)).await;
            made.map_err(|err| fatal(err.to_string()))?.map_err(fatal)
        }
        .boxed()
    }

    fn append<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        append_all(&self.shared, &self.commands, topic, records).boxed()
    }

    fn append_whole<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Result<Vec<Position>, WholeError>> {
        whole::append(&self.shared, &self.commands, topic, records).boxed()
    }

    fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>, LogError> {
        let Some(topic) = self.shared.topic(topic) else {
            let reason = format!("topic {topic} does not exist");
            return Err(LogError::Fatal { what: "read the local log", reason });
        };
        let consumer = consumer::LocalConsumer::join(Arc::clone(&self.shared), topic, group)?;
        Ok(Box::new(consumer))
    }

    fn exclusive(&self, topic: &str) -> Result<Box<dyn Exclusive>, LogError> {
        let Some(topic) = self.shared.topic(topic) else {
            let reason = format!("topic {topic} does not exist");
            return Err(LogError::Fatal { what: "open a topic for one writer alone", reason });
        };
        Ok(Box::new(exclusive::LocalExclusive::open(Arc::clone(&self.shared), self.commands.clone(), topic)))
    }

    fn health(&self) -> Result<(), LogError> {
        let unavailable = |err: AppendError| LogError::Unavailable { what: "local log", reason: err.to_string() };
        self.shared.takes_records().map_err(unavailable)
    }

    fn close<'a>(&'a self) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            let (threads, shared) = (self.stop(), Arc::clone(&self.shared));
            let fatal = |reason: String| LogError::Fatal { what: "close the local log", reason };
            let finished = tokio::task::spawn_blocking(move || {
                threads.into_iter().for_each(|thread| drop(thread.join()));
                match shared.broken.get() {
                    Some(reason) => Err(reason.clone()),
                    None => shared.store.sync().map_err(|err| err.to_string()),
                }
            });
            finished.await.map_err(|err| fatal(err.to_string()))?.map_err(fatal)
        }
        .boxed()
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.stop().into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn topic_by_id(&self, id: usize) -> Option<Arc<Topic>> {
        self.topics().into_iter().find(|topic| topic.id == id)
    }

    fn ensure_topic(&self, name: &str, partitions: u32) -> Result<u32, String> {
        if !is_topic_name(name) {
            return Err(format!("{name:?} is not a topic name: 1 to 200 of a-z, A-Z, 0-9, '.', '_', '-'"));
        }
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            return Err(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}"));
        }
        let _one_at_a_time = lock(&self.making_topic);
        if let Some(topic) = self.topic(name) {
            return Ok(topic.partitions);
        }
        let entry = TopicEntry { partitions };
        let first = self.store.create_topic(name, &entry).map_err(|err| format!("{}: {err}", self.dir.display()))?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = Topic::create(topics.len(), name, &entry, first);
        topics.insert(name.to_owned(), Arc::new(topic));
        Ok(partitions)
    }

    /// Whether an append has a chance now.
    fn takes_records(&self) -> Result<(), AppendError> {
        if let Some(reason) = self.broken.get() {
            return Err(AppendError::Unavailable(reason.clone()));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Unavailable("the log is closed".into()));
        }
        let waiting = self.options.queue_bytes.saturating_sub(self.queue.available_permits()) as u64;
        let (used, budget) = (self.live_bytes.load(Ordering::Acquire) + waiting, self.options.disk_budget);
        if used > budget {
            self.wake_retention();
            return Err(AppendError::Full { used, budget });
        }
        Ok(())
    }

    /// Above this, records that the table has are deleted however young they are.
    fn comfortable_bytes(&self) -> u64 {
        self.options.disk_budget - self.options.disk_budget / 4
    }

    /// Refuses everything from now on. The first reason is kept.
    fn fail(&self, reason: String) {
        let _ = self.broken.set(reason);
    }

    fn wake_retention(&self) {
        *lock(&self.retention_due) = true;
        self.retention_wake.notify_all();
    }
}

const MAX_PARTITIONS: u32 = 1_024;

/// Kafka's rule, a little shorter so that segment names fit.
fn is_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=200).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(-1, |since| since.as_millis() as i64)
}

/// A panic elsewhere leaves these values whole: every change to them is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LogError> {
    let failed = |err: std::io::Error| LogError::Fatal { what: "start a thread of the log", reason: err.to_string() };
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed)
}
