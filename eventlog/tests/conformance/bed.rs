//! What the tests stand on: a log of either kind, and a reader that keeps what it saw.

use bytes::Bytes;
use eventlog::kafka::{KafkaLog, KafkaOptions};
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{AppendError, Consumer, Input, Log, LogError, NewRecord, Position};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Bed {
    pub(crate) log: Arc<dyn Log>,
    runtime: tokio::runtime::Runtime,
    _dir: Option<tempfile::TempDir>,
}

impl Bed {
    pub(crate) fn local() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let log = LocalLog::open(dir.path(), LocalOptions::default()).unwrap();
        Bed { log: Arc::new(log), runtime: runtime(), _dir: Some(dir) }
    }

    /// `None` if Kafka is left out on purpose.
    pub(crate) fn kafka() -> Option<Bed> {
        let brokers = kafka_brokers()?;
        Some(Bed::kafka_with(KafkaOptions { brokers, ..KafkaOptions::default() }))
    }

    pub(crate) fn kafka_with(options: KafkaOptions) -> Bed {
        let runtime = runtime();
        let log = runtime.block_on(KafkaLog::connect(options)).unwrap();
        Bed { log: Arc::new(log), runtime, _dir: None }
    }

    /// A topic of its own for one test.
    pub(crate) fn topic(&self, partitions: u32) -> String {
        let topic = unique("topic");
        let made = self.runtime.block_on(self.log.ensure_topic(&topic, partitions)).unwrap();
        assert_eq!(made, partitions);
        topic
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn append(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
        self.block_on(self.log.append(topic, records))
    }

    /// Appends records that must be accepted.
    pub(crate) fn accepted(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Position> {
        self.append(topic, records).into_iter().map(|fate| fate.unwrap()).collect()
    }

    /// Joins a group of its own and reads every partition from `offset` on.
    pub(crate) fn reader(&self, topic: &str, offset: i64) -> Reader {
        let mut reader = self.join(topic, &unique("group"));
        reader.accept(|_| offset);
        reader
    }

    pub(crate) fn join(&self, topic: &str, group: &str) -> Reader {
        Reader { consumer: self.log.consumer(topic, group).unwrap() }
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The broker to test with; `None` if Kafka is left out on purpose.
pub(crate) fn kafka_brokers() -> Option<String> {
    match std::env::var("LAKEHOSE_TEST_KAFKA") {
        Ok(brokers) if !brokers.is_empty() => Some(brokers),
        _ if std::env::var("LAKEHOSE_TEST_SKIP_KAFKA").is_ok_and(|skip| skip == "1") => {
            eprintln!("LAKEHOSE_TEST_SKIP_KAFKA=1: not tested with Kafka");
            None
        }
        _ => panic!("name a broker by LAKEHOSE_TEST_KAFKA=host:port, or leave Kafka out by LAKEHOSE_TEST_SKIP_KAFKA=1"),
    }
}

pub(crate) fn unique(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{kind}-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        headers: Vec::new(),
    }
}

/// Records `from..to`, each of its own key.
pub(crate) fn numbered(from: usize, to: usize) -> Vec<NewRecord> {
    (from..to).map(|n| record(&format!("key-{n}"), &format!("value-{n}"))).collect()
}

/// A record that was read, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at: Position,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.value.clone().unwrap()).unwrap()
    }
}

pub(crate) struct Reader {
    pub(crate) consumer: Box<dyn Consumer>,
}

impl Reader {
    /// One poll; what it handed out.
    pub(crate) fn poll(&mut self, wait: Duration) -> (Input, Vec<Seen>) {
        let mut seen = Vec::new();
        let input = self.consumer.poll(wait, &mut |record| {
            seen.push(Seen {
                at: Position { partition: record.partition, offset: record.offset },
                timestamp_ms: record.timestamp_ms,
                key: record.key.unwrap_or_default().to_vec(),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers.iter().map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect(),
            });
        });
        let input = input.unwrap();
        match input {
            Input::Records(count) => assert_eq!(count, seen.len()),
            _ => assert!(seen.is_empty(), "{input:?} with records"),
        }
        (input, seen)
    }

    /// Polls until that fails, and has `answer` do what the input asks for.
    pub(crate) fn fails(&mut self, answer: impl Fn(&mut dyn Consumer, Input)) -> LogError {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_millis(100), &mut |_| {}) {
                Ok(input) => answer(self.consumer.as_mut(), input),
                Err(refusal) => return refusal,
            }
        }
        panic!("polling does not fail");
    }

    /// Waits for an assignment and answers it; returns the partitions.
    pub(crate) fn accept(&mut self, offset: impl Fn(i32) -> i64) -> Vec<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let (Input::Assigned(partitions), _) = self.poll(Duration::from_millis(100)) {
                let from: Vec<Position> =
                    partitions.iter().map(|p| Position { partition: *p, offset: offset(*p) }).collect();
                self.consumer.assign(&from).unwrap();
                return partitions;
            }
        }
        panic!("no assignment came");
    }

    /// Reads until `count` records were seen.
    pub(crate) fn read(&mut self, count: usize) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < deadline, "saw {} of {count} records", all.len());
            let (input, seen) = self.poll(Duration::from_millis(200));
            assert!(matches!(input, Input::Records(_) | Input::Idle), "{input:?}");
            all.extend(seen);
        }
        assert_eq!(all.len(), count, "more records than were written");
        all
    }

    /// Makes sure that nothing comes for a while.
    pub(crate) fn nothing_for(&mut self, wait: Duration) {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            let (input, _) = self.poll(Duration::from_millis(100));
            assert_eq!(input, Input::Idle);
        }
    }
}
