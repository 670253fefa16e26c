//! A processor to start and to wait for, with a log in memory and a table to look into.

mod log;
mod consumer;
mod table;

pub(crate) use log::MemoryLog;
pub(crate) use table::*;

use lake::Lake;
use lake::dataset::{Dataset, DatasetSpec};
use processor::{Config, Deps, FlushConfig, Progress};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
