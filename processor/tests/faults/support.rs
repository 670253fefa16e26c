//! A log in memory whose consumers do as they are told, and a reader of all rows of a table.

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use eventlog::{AppendError, Bounds, Consumer, Headers, Input, Log, LogError, NewRecord, Position, Record};
use futures::future::BoxFuture;
use lake::dataset::{Dataset, DatasetSpec};
use lake::{Keep, Lake, Table, TableState, schema};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use processor::{Config, Deps, FlushConfig, Progress};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Every consumer of this log is assigned every partition at once: the worst that a broken group could do.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    partitions: Vec<Partition>,
    /// What consumers are told, in the order in which they joined.
    told: Vec<VecDeque<Input>>,
    released: Vec<i32>,
    hints: BTreeMap<i32, i64>,
}

#[derive(Debug, Default)]
struct Partition {
    first: i64,
    records: Vec<Bytes>,
    /// Offsets that nobody is handed: markers of transactions, and what compaction of the topic has removed.
    holes: BTreeSet<i64>,
}

impl MemoryLog {
    pub(crate) fn new(partitions: usize) -> MemoryLog {
        let log = MemoryLog::default();
        log.shared.lock().unwrap().partitions.resize_with(partitions, Partition::default);
        log
    }

    /// Appends a record as any producer might.
    pub(crate) fn push(&self, partition: usize, value: impl Into<Bytes>) {
        self.shared.lock().unwrap().partitions[partition].records.push(value.into());
    }

    /// Appends `count` events of one device to each partition.
    pub(crate) fn push_events(&self, count: usize) {
        let partitions = self.shared.lock().unwrap().partitions.len();
        for n in 0..count {
            for partition in 0..partitions {
                self.push(
                    partition,
                    format!(r#"{{"device_id":"d{partition}","id":"{partition}-{n}","data":{{"n":{n}}}}}"#),
                );
            }
        }
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

    fn append<'a>(&'a self, _: &'a str, _: Vec<NewRecord>) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        unimplemented!("tests push")
    }

    fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        let mut shared = self.shared.lock().unwrap();
        let all = (0..shared.partitions.len() as i32).collect();
        shared.told.push(VecDeque::from([Input::Assigned(all)]));
        let number = shared.told.len() - 1;
        Ok(Box::new(MemoryConsumer {
            shared: Arc::clone(&self.shared),
            number,
            assigned: Vec::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
        }))
    }

    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn close<'a>(&'a self) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct MemoryConsumer {
    shared: Arc<Mutex<Shared>>,
    number: usize,
    assigned: Vec<i32>,
    positions: BTreeMap<i32, i64>,
    paused: BTreeSet<i32>,
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError> {
        let mut shared = self.shared.lock().unwrap();
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
            for (offset, value) in next.filter(|(offset, _)| !log.holes.contains(offset)).take(100) {
                let value = (!value.is_empty()).then_some(&value[..]);
                let headers = Headers::from_pairs(&[]);
                sink(Record { partition: *partition, offset, timestamp_ms: 1_000, key: None, value, headers });
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
        self.positions.extend(from.iter().map(|position| (position.partition, position.offset)));
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
        let shared = self.shared.lock().unwrap();
        let log = &shared.partitions[partition as usize];
        Ok(Bounds { first: log.first, next: log.records.len() as i64 })
    }

    fn end_offset(&self, partition: i32) -> Option<i64> {
        Some(self.shared.lock().unwrap().partitions[partition as usize].records.len() as i64)
    }

    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError> {
        self.shared.lock().unwrap().hints.extend(next.iter().map(|p| (p.partition, p.offset)));
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
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
    let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
    let deps =
        Deps { log: Arc::new(log.clone()), lake: lake.clone(), dataset: dataset(), progress: Arc::clone(&progress) };
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
    let (handle, state) = (open(lake, table).await.unwrap(), state(lake, table).await.unwrap());
    let mut places = Vec::new();
    for file in state.files().values() {
        let bytes = handle.store().get(&handle.file_path(&file.path)).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let mut rows = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            rows += batch.num_rows() as u64;
            let partitions = batch.column_by_name("kafka_partition").unwrap().as_primitive::<Int32Type>();
            let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
            places.extend(partitions.values().iter().copied().zip(offsets.values().iter().copied()));
        }
        assert_eq!(rows, file.rows());
    }
    places.sort();
    places
}

/// Every offset below `end`, of each partition.
pub(crate) fn all_places(ends: &[i64]) -> Vec<(i32, i64)> {
    (0i32..).zip(ends).flat_map(|(partition, end)| (0..*end).map(move |offset| (partition, offset))).collect()
}
