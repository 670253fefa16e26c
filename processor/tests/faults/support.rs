//! A log in memory whose consumers do as they are told, and a reader of all rows of a table.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use eventlog::{
    AppendError, Bounds, Consumer, Headers, Input, Log, LogError, NewRecord, Position, Record, SharedLog, Tail,
};
use futures::future::BoxFuture;
use lake::dataset::{Dataset, DatasetSpec};
use lake::parquet::FileWriter;
use lake::store::put_new;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, TableState, layout, range, schema};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use processor::{Config, Deps, FlushConfig, Progress};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Every consumer of this log is assigned every partition at once, the worst that a broken group could do, unless it
/// [lets them wait](MemoryLog::let_consumers_wait).
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
    /// The control topic, if this is a log that processes share.
    control: Option<Arc<Mutex<Shared>>>,
}

#[derive(Debug, Default)]
struct Shared {
    partitions: Vec<Partition>,
    /// What consumers are told, in the order in which they joined.
    told: Vec<VecDeque<Input>>,
    waiting: bool,
    assigned: Vec<Position>,
    released: Vec<i32>,
    /// Answers of committers that the log is to lose.
    lost_answers: usize,
    lost_announcements: usize,
    /// Consumers that were closed.
    gone: usize,
    hints: BTreeMap<i32, i64>,
    /// What polls and questions for bounds answer.
    failure: Option<fn() -> LogError>,
    failing_polls: usize,
    questions: usize,
}

#[derive(Debug, Default)]
struct Partition {
    first: i64,
    /// With their time-stamps.
    records: Vec<(Bytes, i64)>,
    /// Offsets that nobody is handed: markers of transactions, and what compaction of the topic has removed.
    holes: BTreeSet<i64>,
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
fn record(partition: i32, offset: i64, value: &Bytes, timestamp_ms: i64) -> Record<'_> {
    let value = (!value.is_empty()).then_some(&value[..]);
    Record { partition, offset, timestamp_ms, key: None, value, headers: Headers::from_pairs(&[]) }
}

struct MemoryConsumer {
    shared: Arc<Mutex<Shared>>,
    number: usize,
    assigned: Vec<i32>,
    positions: BTreeMap<i32, i64>,
    paused: BTreeSet<i32>,
}

impl MemoryConsumer {
    fn join(topic: &Arc<Mutex<Shared>>) -> MemoryConsumer {
        let mut shared = topic.lock().unwrap();
        let all = (0..shared.partitions.len() as i32).collect();
        let told = if shared.waiting { VecDeque::new() } else { VecDeque::from([Input::Assigned(all)]) };
        shared.told.push(told);
        MemoryConsumer {
            shared: Arc::clone(topic),
            number: shared.told.len() - 1,
            assigned: Vec::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
        }
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError> {
        let mut shared = self.shared.lock().unwrap();
        if let Some(failure) = shared.failure {
            return Err(failure());
        }
        if shared.failing_polls > 0 {
            shared.failing_polls -= 1;
            return Err(LogError::Unavailable { what: "read a topic", reason: "a passing error".into() });
        }
        if let Some(told) = shared.told[self.number].pop_front() {
            if let Input::Assigned(partitions) = &told {
                self.assigned = partitions.clone();
            }
            return Ok(told);
        }
        let mut count = 0;
        for (partition, position) in &mut self.positions {
            let log = &shared.partitions[*partition as usize];
            if self.paused.contains(partition) {
                continue;
            }
            if *position < log.first {
                return Ok(Input::OutOfRange(*partition));
            }
            let next = (*position..).zip(log.records.iter().skip(*position as usize));
            for (offset, (value, timestamp_ms)) in next.filter(|(offset, _)| !log.holes.contains(offset)).take(100) {
                sink(record(*partition, offset, value, *timestamp_ms));
                *position = offset + 1;
                count += 1;
            }
        }
        drop(shared);
        if count == 0 {
            std::thread::sleep(max_wait.min(Duration::from_millis(2)));
            return Ok(Input::Idle);
        }
        Ok(Input::Records(count))
    }

    fn assign(&mut self, from: &[Position]) -> Result<(), LogError> {
        let mut answered: Vec<i32> = from.iter().map(|position| position.partition).collect();
        answered.sort();
        assert_eq!(answered, self.assigned, "an assignment is answered as a whole");
        self.shared.lock().unwrap().assigned.extend(from);
        self.positions.extend(from.iter().map(|position| (position.partition, position.offset)));
        self.paused.retain(|partition| !answered.contains(partition));
        Ok(())
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.positions.retain(|partition, _| !partitions.contains(partition));
        self.shared.lock().unwrap().released.extend(partitions);
        Ok(())
    }

    fn seek(&mut self, to: Position) -> Result<(), LogError> {
        self.positions.insert(to.partition, to.offset);
        Ok(())
    }

    fn pause(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.paused.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    fn bounds(&mut self, partition: i32, _: Duration) -> Result<Bounds, LogError> {
        let mut shared = self.shared.lock().unwrap();
        shared.questions += 1;
        if let Some(failure) = shared.failure {
            return Err(failure());
        }
        let log = &shared.partitions[partition as usize];
        let end = log.records.len() as i64;
        // As Kafka's: the end of transactions behind the last record count as read, once that is.
        let read = self.positions.get(&partition).filter(|read| (**read..end).all(|at| log.holes.contains(&at)));
        Ok(Bounds { first: log.first, next: read.copied().unwrap_or(end) })
    }

    fn end_offset(&self, partition: i32) -> Option<i64> {
        Some(self.shared.lock().unwrap().partitions[partition as usize].records.len() as i64)
    }

    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError> {
        self.shared.lock().unwrap().hints.extend(next.iter().map(|p| (p.partition, p.offset)));
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        self.shared.lock().unwrap().gone += 1;
        Ok(())
    }
}

/// A processor under way.
pub(crate) struct Running {
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

pub(crate) fn dataset() -> Dataset {
    Dataset::new("events", DatasetSpec::default()).unwrap()
}

/// Settings that flush all the time.
pub(crate) fn config() -> Config {
    Config {
        flush: FlushConfig { every: Duration::from_millis(20), ..FlushConfig::default() },
        drain_timeout: Duration::from_secs(10),
        ..Config::default()
    }
}

pub(crate) fn start(config: Config, log: &MemoryLog, lake: &Lake) -> Running {
    start_with(dataset(), config, log, lake)
}

pub(crate) fn start_with(dataset: Dataset, config: Config, log: &MemoryLog, lake: &Lake) -> Running {
    let (progress, stop) = (Arc::new(Progress::new("events")), CancellationToken::new());
    let deps = Deps { log: Arc::new(log.clone()), lake: lake.clone(), dataset, progress: Arc::clone(&progress) };
    let task = tokio::spawn(processor::run(config, deps, stop.clone()));
    Running { progress, stop, task }
}

/// Waits until `done`, at most for a time that no healthy run needs.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the table has read each partition up to its given offset.
pub(crate) async fn until_committed(lake: &Lake, ends: &[i64]) {
    until("everything is committed", async || {
        let Ok(state) = state(lake, "events").await else { return false };
        (0i32..).zip(ends).all(|(partition, end)| state.txn(&format!("events/{partition}")) == Some(*end))
    })
    .await;
}

pub(crate) async fn state(lake: &Lake, table: &str) -> anyhow::Result<TableState> {
    let apps: Vec<String> = (0..4).map(|partition| format!("events/{partition}")).collect();
    Ok(open(lake, table).await?.load(Keep::Files, &apps).await?)
}

async fn open(lake: &Lake, table: &str) -> anyhow::Result<Table> {
    let schema = if table.ends_with("__dead") { schema::dead() } else { schema::events(&dataset()) };
    Table::open(lake, table, schema).await?.ok_or_else(|| anyhow::anyhow!("no table {table}"))
}

/// Partition and offset of every row of the live files, sorted.
pub(crate) async fn places(lake: &Lake, table: &str) -> Vec<(i32, i64)> {
    let mut places = Vec::new();
    for batch in batches(lake, table).await {
        let partitions = batch.column_by_name("kafka_partition").unwrap().as_primitive::<Int32Type>();
        let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
        places.extend(partitions.values().iter().copied().zip(offsets.values().iter().copied()));
    }
    places.sort();
    places
}

/// Number of rows by id, of the live files.
pub(crate) async fn copies(lake: &Lake) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for batch in batches(lake, "events").await {
        for id in batch.column_by_name("id").unwrap().as_string::<i32>() {
            *copies.entry(id.unwrap().to_owned()).or_default() += 1;
        }
    }
    copies
}

async fn batches(lake: &Lake, table: &str) -> Vec<RecordBatch> {
    let (handle, state) = (open(lake, table).await.unwrap(), state(lake, table).await.unwrap());
    let mut batches = Vec::new();
    for file in state.files().values() {
        let bytes = handle.store().get(&handle.file_path(&file.path)).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let rows = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let of_file: Vec<RecordBatch> = rows.map(Result::unwrap).collect();
        assert_eq!(of_file.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), file.rows());
        batches.extend(of_file);
    }
    batches
}

/// Replaces all files by one, as a compactor would; `sweep` deletes them, as it would hours later.
pub(crate) async fn merge(lake: &Lake, sweep: bool) {
    let (table, mut state) = (open(lake, "events").await.unwrap(), state(lake, "events").await.unwrap());
    let removes: Vec<DataFile> = state.files().values().map(|file| DataFile::clone(file)).collect();
    let mut writer = FileWriter::new(Vec::new(), table.schema(), &[]).unwrap();
    for batch in batches(lake, "events").await {
        writer.write(&batch).unwrap();
    }
    let (bytes, stats) = writer.finish().unwrap();
    let date = removes[0].date;
    let segment = DataFile {
        path: layout::segment_path(date, uuid::Uuid::new_v4()),
        size: bytes.len() as u64,
        date,
        modified_ms: now_ms(),
        stats,
        ranges: range::union(removes.iter().flat_map(|file| file.ranges.clone()).collect()),
        sorted_by: Vec::new(),
    };
    put_new(table.store().as_ref(), &table.file_path(&segment.path), bytes.into()).await.unwrap();
    let paths: Vec<String> = removes.iter().map(|file| file.path.clone()).collect();
    let change = Change { operation: "OPTIMIZE", adds: vec![segment], removes, ..Change::default() };
    assert_eq!(table.commit(&mut state, &change).await.unwrap(), Outcome::Committed);
    for path in paths.iter().filter(|_| sweep) {
        table.store().delete(&table.file_path(path)).await.unwrap();
    }
}

/// Every offset below `end`, of each partition.
pub(crate) fn all_places(ends: &[i64]) -> Vec<(i32, i64)> {
    (0i32..).zip(ends).flat_map(|(partition, end)| (0..*end).map(move |offset| (partition, offset))).collect()
}
