//! A queue on this machine's disk, for events that the log does not take: the section `[spill]`.
//!
//! ```text
//! request --log does not answer, or the queue is not empty--> queue (fsync, then 202) --drain, in order--> log
//! ```
//! Each dataset has a queue of its own (a topic of a [`LocalLog`] with one partition), and how far it is drained is in a
//! file beside it (`position`). As long as events of a dataset wait, new ones go behind them, so a device keeps its order.
//! What is drained and not yet noted when the process dies is sent again with the same ids, by which the processor and
//! the compactor know it ([ADR 9](../../docs/adr/0009-spill-to-disk.md)).

mod position;
mod queue;
mod drain;
mod detour;

pub(crate) use queue::{Depth, Queue};

use crate::routes::Gateway;
use anyhow::{Context, bail};
use bytesize::ByteSize;
use drain::Drain;
use eventlog::Log;
use eventlog::local::{LocalLog, LocalOptions};
use lake::dataset::Dataset;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The section `[spill]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpillConfig {
    /// Bytes of events that may wait on disk, at least 16 MiB; absent: there is no queue.
    pub max_bytes: Option<ByteSize>,
    /// Where the queue is; by default `spill` in the data directory. Each gateway needs its own.
    pub directory: Option<PathBuf>,
}

/// The least that `max_bytes` may be: the queue is deleted in pieces.
const LEAST: ByteSize = ByteSize::mib(16);
/// So many queues are drained at a time, each with a few MiB in memory.
const DRAINED_AT_ONCE: usize = 4;

impl SpillConfig {
    /// Checks what types alone cannot.
    pub fn check(&self) -> Result<(), crate::ConfigError> {
        match self.max_bytes {
            Some(bytes) if bytes < LEAST => {
                Err(crate::ConfigError { field: "max_bytes", problem: "must be at least 16 MiB" })
            }
            _ => Ok(()),
        }
    }
}

/// The queues of a gateway.
pub struct Spill {
    directory: PathBuf,
    log: Arc<LocalLog>,
    queues: BTreeMap<String, Arc<Queue>>,
    /// Whether new events may wait here; if not, what was left is only drained.
    takes: bool,
    stop: CancellationToken,
}

impl Spill {
    /// Opens the queues in `directory`. `None` if spilling is off and nothing was left from when it was on.
    pub async fn open(config: &SpillConfig, directory: PathBuf, datasets: &[Dataset]) -> anyhow::Result<Option<Spill>> {
        let place = directory.join("queue");
        if config.max_bytes.is_none() && !place.exists() {
            return Ok(None);
        }
        let (takes, options) = (config.max_bytes.is_some(), options(config.max_bytes));
        let opened = tokio::task::spawn_blocking(move || LocalLog::open(place, options)).await?;
        let log = opened.context("cannot use the queue on disk (choose another with [spill] directory)")?;
        let mut spill =
            Spill { directory, log: Arc::new(log), queues: BTreeMap::new(), takes, stop: Default::default() };
        spill.open_queues(datasets).await?;
        let waiting: u64 = spill.queues.values().map(|queue| queue.depth().events).sum();
        if waiting > 0 {
            info!(events = waiting, directory = %spill.directory.display(), "events wait on disk for the log");
        }
        if !takes && waiting == 0 {
            spill.log.close().await?;
            return Ok(None);
        }
        Ok(Some(spill))
    }

    async fn open_queues(&mut self, datasets: &[Dataset]) -> anyhow::Result<()> {
        let configured = datasets.iter().map(|dataset| dataset.name.clone());
        let left = position::names(&self.directory)?;
        for name in configured.chain(left) {
            if self.queues.contains_key(&name) {
                continue;
            }
            self.log.ensure_topic(&name, 1).await?;
            let (log, directory, dataset) = (Arc::clone(&self.log), self.directory.clone(), name.clone());
            let opened = tokio::task::spawn_blocking(move || Queue::open(log, &directory, dataset)).await?;
            let queue = opened.with_context(|| format!("read the queue of {name} on disk"))?;
            let is_known = datasets.iter().any(|dataset| dataset.name == name);
            let events = queue.depth().events;
            if !is_known && events > 0 {
                bail!(
                    "{events} events of the dataset {name}, which is not configured, wait in {}: configure it until \
                     they are drained",
                    self.directory.display()
                );
            }
            if is_known {
                self.queues.insert(name, Arc::new(queue));
            }
        }
        Ok(())
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether new events may wait here.
    pub fn takes(&self) -> bool {
        self.takes
    }

    pub(crate) fn queue(&self, dataset: &str) -> Option<Arc<Queue>> {
        self.queues.get(dataset).cloned()
    }

    /// Whether the disk takes more.
    pub(crate) fn has_room(&self) -> bool {
        self.takes && self.log.health().is_ok()
    }

    /// Drains what waits, from now on until [`Spill::close`].
    pub(crate) fn start(&self, gateway: &Gateway) {
        let seats = Arc::new(Semaphore::new(DRAINED_AT_ONCE));
        for (name, queue) in &self.queues {
            let Some(dataset) = gateway.datasets.get(name) else { continue };
            let target = drain::Target {
                log: Arc::clone(&gateway.log),
                breaker: Arc::clone(&dataset.breaker),
                clock: gateway.clock.clone(),
                timeout: gateway.append_timeout,
                held: Arc::new(gateway.budget.reserve()),
            };
            tokio::spawn(Drain::new(Arc::clone(queue), target, Arc::clone(&seats), self.stop.clone()).run());
        }
    }

    /// What waits, for people; `None` if nothing does.
    pub(crate) fn waiting(&self) -> Option<String> {
        let waiting = |(name, queue): (&String, &Arc<Queue>)| {
            let depth = queue.depth();
            let text = || format!("{} events of {name} ({:.0} s old)", depth.events, depth.oldest.as_secs_f64());
            (depth.events > 0).then(text)
        };
        let waiting: Vec<String> = self.queues.iter().filter_map(waiting).collect();
        (!waiting.is_empty()).then(|| format!("{} wait in {}", waiting.join(", "), self.directory.display()))
    }

    pub(crate) fn measure(&self) {
        self.queues.values().for_each(|queue| queue.measure());
    }

    /// Stops draining. What waits stays where it is.
    pub async fn close(&self) {
        self.stop.cancel();
        if let Some(waiting) = self.waiting() {
            info!(waiting, "the next start goes on draining the queue on disk");
        }
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the queue on disk did not close well");
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn options(max_bytes: Option<ByteSize>) -> LocalOptions {
    const MIB: u64 = 1024 * 1024;
    LocalOptions {
        disk_budget: max_bytes.unwrap_or(LEAST).as_u64(),
        // What is drained is not needed any more.
        retain_age: Some(std::time::Duration::ZERO),
        retain_bytes: None,
        queue_bytes: 8 * MIB as usize,
        memtable_bytes: 16 * MIB,
        cache_bytes: 4 * MIB,
        journal_bytes: 64 * MIB,
        ..LocalOptions::default()
    }
}
