//! A log in memory whose consumers are told what to do, and which fails, forgets and deletes as it is told.

use super::consumer::MemoryConsumer;
use bytes::Bytes;
use eventlog::{AppendError, Consumer, Headers, Input, Log, LogError, NewRecord, Position, Record, SharedLog, Tail};
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every consumer of this log is assigned every partition at once, the worst that a broken group could do, unless it
/// [lets them wait](MemoryLog::let_consumers_wait).
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
    /// The control topic, if this is a log that processes share.
    control: Option<Arc<Mutex<Shared>>>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) partitions: Vec<Partition>,
    /// What consumers are told, in the order in which they joined.
    pub(super) told: Vec<VecDeque<Input>>,
    pub(super) waiting: bool,
    pub(super) assigned: Vec<Position>,
    pub(super) released: Vec<i32>,
    /// Answers of committers that the log is to lose.
    lost_answers: usize,
    lost_announcements: usize,
    /// Consumers that were closed.
    pub(super) gone: usize,
    pub(super) hints: BTreeMap<i32, i64>,
    /// What polls and questions for bounds answer.
    pub(super) failure: Option<fn() -> LogError>,
    pub(super) failing_polls: usize,
    pub(super) questions: usize,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) first: i64,
    /// With their time-stamps.
    pub(super) records: Vec<(Bytes, i64)>,
    /// Offsets that nobody is handed: markers of transactions, and what compaction of the topic has removed.
    pub(super) holes: BTreeSet<i64>,
}

impl MemoryLog {
    pub(crate) fn new(partitions: usize) -> MemoryLog {
        let log = MemoryLog::default();
        log.shared.lock().unwrap().partitions.resize_with(partitions, Partition::default);
        log
    }

    /// A log that processes share: they agree on commits through its control topic.
    pub(crate) fn shared_by_processes(partitions: usize) -> MemoryLog {
        let control = MemoryLog::new(1).shared;
        MemoryLog { control: Some(control), ..MemoryLog::new(partitions) }
    }

    fn control(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.control.as_ref().expect("a log that processes share").lock().unwrap()
    }

    /// Appends a record to the control topic as anybody might.
    pub(crate) fn push_control(&self, value: impl Into<Bytes>) {
        self.control().partitions[0].records.push((value.into(), 1_000));
    }

    /// Where committers began to read the control topic.
    pub(crate) fn terms(&self) -> Vec<i64> {
        self.control().assigned.iter().map(|position| position.offset).collect()
    }

    /// The next `count` answers are acknowledged and nobody sees them.
    pub(crate) fn lose_answers(&self, count: usize) {
        self.control().lost_answers = count;
    }

    /// The next `count` announcements are acknowledged and nobody sees them.
    pub(crate) fn lose_announcements(&self, count: usize) {
        self.control().lost_announcements = count;
    }

    pub(crate) fn control_records(&self) -> usize {
        self.control().partitions[0].records.len()
    }

    /// How many candidates have left the election.
    pub(crate) fn candidates_gone(&self) -> usize {
        self.control().gone
    }

    /// Appends a record as any producer might.
    pub(crate) fn push(&self, partition: usize, value: impl Into<Bytes>) {
        self.push_at(partition, value, 1_000);
    }

    /// The same with a time-stamp, in milliseconds.
    pub(crate) fn push_at(&self, partition: usize, value: impl Into<Bytes>, timestamp_ms: i64) {
        self.shared.lock().unwrap().partitions[partition].records.push((value.into(), timestamp_ms));
    }

    /// Appends `count` events of one device to each partition.
    pub(crate) fn push_events(&self, count: usize) {
        let mut shared = self.shared.lock().unwrap();
        for (number, partition) in shared.partitions.iter_mut().enumerate() {
            for n in partition.records.len()..partition.records.len() + count {
                let event = format!(r#"{{"device_id":"d{number}","id":"{number}-{n}","data":{{"n":{n}}}}}"#);
                partition.records.push((event.into(), 1_000));
            }
        }
    }

    /// Consumers that join from now on are assigned nothing until they are told.
    pub(crate) fn let_consumers_wait(&self) {
        self.shared.lock().unwrap().waiting = true;
    }

    /// Deletes records as retention would.
    pub(crate) fn delete_before(&self, partition: usize, first: i64) {
        self.shared.lock().unwrap().partitions[partition].first = first;
    }

    /// Makes the log keep quiet about some offsets, as Kafka does about markers of transactions and compacted records.
    pub(crate) fn punch(&self, partition: usize, offsets: impl IntoIterator<Item = i64>) {
        self.shared.lock().unwrap().partitions[partition].holes.extend(offsets);
    }

    /// Tells the `consumer`th that joined.
    pub(crate) fn tell(&self, consumer: usize, input: Input) {
        self.shared.lock().unwrap().told[consumer].push_back(input);
    }

    /// Has polls and questions for bounds fail from now on, or no longer.
    pub(crate) fn fail_with(&self, failure: Option<fn() -> LogError>) {
        self.shared.lock().unwrap().failure = failure;
    }

    pub(crate) fn fail_one_poll(&self) {
        self.shared.lock().unwrap().failing_polls = 1;
    }

    /// How often bounds were asked for.
    pub(crate) fn questions(&self) -> usize {
        self.shared.lock().unwrap().questions
    }

    /// The next offset of each partition.
    pub(crate) fn ends(&self) -> Vec<i64> {
        self.shared.lock().unwrap().partitions.iter().map(|partition| partition.records.len() as i64).collect()
    }

    pub(crate) fn released(&self) -> Vec<i32> {
        self.shared.lock().unwrap().released.clone()
    }

    pub(crate) fn hints(&self) -> BTreeMap<i32, i64> {
        self.shared.lock().unwrap().hints.clone()
    }

    pub(crate) fn forget_hints(&self) {
        self.shared.lock().unwrap().hints.clear();
    }
}

impl Log for MemoryLog {
    fn ensure_topic<'a>(&'a self, _: &'a str, _: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        let partitions = self.shared.lock().unwrap().partitions.len() as u32;
        Box::pin(std::future::ready(Ok(partitions)))
    }

    /// Events are pushed; only the control topic is appended to.
    fn append<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        assert!(topic.ends_with("__commits"), "{topic}");
        let mut control = self.control();
        let mut append = |record: NewRecord| {
            let offset = control.partitions[0].records.len() as i64;
            let control = &mut *control;
            let left = match record.value.starts_with(b"{\"answers\"") {
                true => &mut control.lost_answers,
                false => &mut control.lost_announcements,
            };
            match left {
                0 => control.partitions[0].records.push((record.value, 1_000)),
                left => *left -= 1,
            }
            Ok(Position { partition: 0, offset })
        };
        let fates = records.into_iter().map(&mut append).collect();
        Box::pin(std::future::ready(fates))
    }

    fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(MemoryConsumer::join(&self.shared)))
    }

    fn shared(&self) -> Option<&dyn SharedLog> {
        self.control.is_some().then_some(self)
    }

    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn close<'a>(&'a self) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl SharedLog for MemoryLog {
    fn ensure_control_topic<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn candidate(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(MemoryConsumer::join(self.control.as_ref().expect("a control topic"))))
    }

    fn tail(&self, _: &str) -> Result<Box<dyn Tail>, LogError> {
        let control = Arc::clone(self.control.as_ref().expect("a control topic"));
        let next = control.lock().unwrap().partitions[0].records.len();
        Ok(Box::new(MemoryTail { control, next }))
    }
}

struct MemoryTail {
    control: Arc<Mutex<Shared>>,
    next: usize,
}

impl Tail for MemoryTail {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<usize, LogError> {
        let fresh = self.control.lock().unwrap().partitions[0].records[self.next..].to_vec();
        for (value, timestamp_ms) in &fresh {
            sink(record(0, self.next as i64, value, *timestamp_ms));
            self.next += 1;
        }
        if fresh.is_empty() {
            std::thread::sleep(max_wait.min(Duration::from_millis(2)));
        }
        Ok(fresh.len())
    }
}

/// A record of nothing but a value; of an empty one, not even that.
pub(super) fn record(partition: i32, offset: i64, value: &Bytes, timestamp_ms: i64) -> Record<'_> {
    let value = (!value.is_empty()).then_some(&value[..]);
    Record { partition, offset, timestamp_ms, key: None, value, headers: Headers::from_pairs(&[]) }
}
