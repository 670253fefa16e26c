//! Opening, writing and reading a local log in tests.

use bytes::Bytes;
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{AppendError, Consumer, Input, Log, NewRecord, Position};
use std::path::Path;
use std::time::Duration;

pub(crate) const TOPIC: &str = "events";

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Opens the log with its topic.
pub(crate) fn open(dir: &Path, options: LocalOptions, partitions: u32) -> LocalLog {
    let log = LocalLog::open(dir, options).unwrap();
    runtime().block_on(log.ensure_topic(TOPIC, partitions)).unwrap();
    log
}

pub(crate) fn append(log: &LocalLog, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
    runtime().block_on(log.append(TOPIC, records))
}

pub(crate) fn record(key: &str, value: &str) -> NewRecord {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    NewRecord { key, value, headers: vec![("id", Bytes::from_static(b"1"))] }
}

pub(crate) fn numbered(from: usize, to: usize) -> Vec<NewRecord> {
    (from..to).map(|n| record(&format!("key-{n}"), &format!("value-{n}"))).collect()
}

/// A consumer that reads every partition from where `offset` says.
pub(crate) fn reader(log: &LocalLog, group: &str, offset: impl Fn(i32) -> i64) -> Box<dyn Consumer> {
    let mut consumer = log.consumer(TOPIC, group).unwrap();
    let Input::Assigned(partitions) = consumer.poll(Duration::ZERO, &mut |_| {}).unwrap() else {
        panic!("no assignment");
    };
    let from: Vec<Position> =
        partitions.into_iter().map(|partition| Position { partition, offset: offset(partition) }).collect();
    consumer.assign(&from).unwrap();
    consumer
}

/// Everything from the reader's position to the end.
pub(crate) fn drain(consumer: &mut dyn Consumer) -> Vec<(Position, String)> {
    let mut seen = Vec::new();
    loop {
        let sink = &mut |record: eventlog::Record<'_>| {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            seen.push((Position { partition: record.partition, offset: record.offset }, value));
        };
        match consumer.poll(Duration::ZERO, sink).unwrap() {
            Input::Records(_) => {}
            Input::Idle => return seen,
            input => panic!("{input:?}"),
        }
    }
}
