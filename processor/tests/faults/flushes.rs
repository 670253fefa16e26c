//! Flushes by hand: of chosen ranges, through everything that a flush of a processor goes through.

use crate::support::{dataset, open};
use eventlog::{Headers, Log, Record};
use lake::batch::RowPlan;
use lake::dataset::{Dataset, dead_table};
use lake::{Keep, Lake, Table, TableState, schema};
use processor::breaker::Breakers;
use processor::buffer::PartitionBuffer;
use processor::committer::{app_id, commits_app_id};
use processor::encode::Encoders;
use processor::flush::{Flushed, Flusher};
use processor::{Committer, committer::Verdict};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a processor is made of, without the worker that reads the log. Clones flush through the same committer.
#[derive(Clone)]
pub(crate) struct Hand {
    flusher: Arc<Flusher>,
    plan: Arc<RowPlan>,
}

impl Hand {
    /// Starts a committer on the dataset `events`, and returns its task as well.
    pub(crate) async fn start(log: &(impl Log + Clone), lake: &Lake, partitions: u32) -> (Hand, JoinHandle<()>) {
        Hand::of(Arc::new(log.clone()), lake, &dataset(), partitions).await
    }

    pub(crate) async fn of(
        log: Arc<dyn Log>,
        lake: &Lake,
        dataset: &Dataset,
        partitions: u32,
    ) -> (Hand, JoinHandle<()>) {
        let events = Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await.unwrap();
        let dead = Table::open_or_create(lake, &dead_table(&dataset.name), schema::dead()).await.unwrap();
        let breakers = Breakers::new(&dataset.name);
        let (committer, task) =
            Committer::start(log, events.clone(), dead.clone(), partitions, breakers.clone()).await.unwrap();
        let flusher = Arc::new(Flusher::new(dataset, (events, dead), committer, breakers, Encoders::new(2).unwrap()));
        (Hand { flusher, plan: Arc::new(RowPlan::new(dataset)) }, task)
    }

    pub(crate) fn committer(&self) -> &Committer {
        self.flusher.committer()
    }

    /// Flushes ranges of which the given offsets, in every partition, hold no events.
    pub(crate) async fn flush(&self, ranges: &[(i32, Range<i64>)], dead: &[i64]) -> Verdict {
        let taken = ranges.iter().map(|(partition, offsets)| {
            let mut buffer = PartitionBuffer::new(Arc::clone(&self.plan), *partition, offsets.start);
            for offset in offsets.clone() {
                let event = format!(r#"{{"device_id":"d{partition}","data":{{"n":{offset}}}}}"#);
                let value = if dead.contains(&offset) { b"not json" } else { event.as_bytes() };
                let (key, headers) = (None, Headers::from_pairs(&[]));
                let record =
                    Record { partition: *partition, offset, timestamp_ms: 1_000, key, value: Some(value), headers };
                buffer.push("events", &record, &mut String::new(), Instant::now(), |_, _, _| false);
            }
            buffer.take().expect("a range that is not empty")
        });
        let (done, _turn) = oneshot::channel();
        let Flushed { verdict, .. } = Arc::clone(&self.flusher).run(0, taken.collect(), None, done, || {}).await;
        verdict
    }

    /// The same, which must succeed.
    pub(crate) async fn committed(&self, ranges: &[(i32, Range<i64>)], dead: &[i64]) {
        let verdict = self.flush(ranges, dead).await;
        assert!(matches!(verdict, Verdict::Committed), "{ranges:?}: {verdict:?}");
    }
}

/// The next offset to read of each partition, and of the control topic.
pub(crate) struct Ends {
    pub(crate) version: u64,
    pub(crate) events: Vec<Option<i64>>,
    pub(crate) control: Option<i64>,
}

pub(crate) async fn ends(lake: &Lake, dataset: &str, table: &str, partitions: i32) -> Ends {
    let (app_ids, control) = (apps(dataset, partitions), commits_app_id(dataset));
    let state = load(lake, table, &app_ids.iter().chain([&control]).cloned().collect::<Vec<_>>()).await;
    let events = app_ids.iter().map(|app_id| state.txn(app_id)).collect();
    Ends { version: state.version, events, control: state.txn(&control) }
}

/// Goes through every commit and makes sure that no application's version ever moved backwards.
pub(crate) async fn assert_only_forward(lake: &Lake, dataset: &str, partitions: i32) {
    let table = open(lake, dataset).await.unwrap();
    let mut state = std::collections::HashMap::new();
    let last = ends(lake, dataset, dataset, partitions).await.version;
    for version in 1..=last {
        let actions = table.read_commit(version).await.unwrap().expect("every version has its commit");
        for txn in actions.into_iter().filter_map(|action| action.txn) {
            let before = state.insert(txn.app_id.clone(), txn.version);
            assert!(before.is_none_or(|before| before < txn.version), "{} at {version}: {before:?}", txn.app_id);
        }
    }
}

fn apps(dataset: &str, partitions: i32) -> Vec<String> {
    (0..partitions).map(|partition| app_id(dataset, partition)).collect()
}

async fn load(lake: &Lake, table: &str, app_ids: &[String]) -> TableState {
    open(lake, table).await.unwrap().load(Keep::Txns, app_ids).await.unwrap()
}
