//! Fragments to segments: fewer, bigger files with the same rows.
//!
//! Four steps, and each may be interrupted anywhere:
//!
//! ```text
//! plan    which small files of a date become one            a decision, by sizes and the time alone
//! merge   read them side by side, write one sorted file     invisible until it is in the table
//! swap    one commit: inputs out, the merged file in        only if all inputs are live (invariant I5)
//! sweep   delete what left the table long enough ago        never what a reader may still need (invariant I4)
//! ```
//!
//! Between merge and swap the new file is read back and compared with its inputs. Whatever goes wrong before the commit
//! leaves an orphan behind, a file that no reader sees and that the sweep deletes a day later. Several compactors may
//! work on one table: they cost each other work, never rows.

pub mod config;
pub mod plan;
pub mod merge;
mod input;
mod checksum;
mod duplicates;
mod runs;
mod cursors;
mod gather;
mod output;
mod upload;
pub mod verify;
pub mod view;
pub mod swap;
pub mod sweep;
pub mod worker;
pub mod metrics;

pub use config::Config;

use bytesize::ByteSize;
use lake::dataset::{Dataset, dead_table};
use lake::{Lake, schema};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use worker::Worker;

/// What a compactor works with.
#[derive(Debug, Clone)]
pub struct Deps {
    pub lake: Lake,
    pub datasets: Vec<Dataset>,
    /// Memory that a merge may take, `[memory] compactor`.
    pub memory: ByteSize,
}

/// After failures a table is left alone for longer and longer, at most this long.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Dead letters have no order of their own; this one costs nothing, for they come in it.
const DEAD_SORT_BY: [&str; 2] = ["kafka_partition", "kafka_offset"];

/// Keeps the tables of all datasets in few files until `shutdown`. Waits for tables that do not exist yet. Ends with an
/// error only over a table that it must not touch.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tables: Vec<Scheduled> = workers(&config, &deps).into_iter().map(Scheduled::new).collect();
    loop {
        for table in &mut tables {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            table.turn(config.every, &shutdown).await?;
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(config.every)).await.is_none() {
            return Ok(());
        }
    }
}

/// One for every table: events and dead letters of each dataset.
pub fn workers(config: &Config, deps: &Deps) -> Vec<Worker> {
    let worker = |name: String, schema, sort_by| {
        Worker::new(deps.lake.clone(), name, schema, sort_by, config.clone(), deps.memory)
    };
    let of_dataset = |dataset: &Dataset| {
        let dead_sort_by = DEAD_SORT_BY.map(str::to_owned).to_vec();
        [
            worker(dataset.name.clone(), schema::events(dataset), dataset.spec.sort_by.clone()),
            worker(dead_table(&dataset.name), schema::dead(), dead_sort_by),
        ]
    };
    deps.datasets.iter().flat_map(of_dataset).collect()
}

/// A worker that is given a rest after failures.
struct Scheduled {
    worker: Worker,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Scheduled {
    fn new(worker: Worker) -> Scheduled {
        Scheduled { worker, failures: 0, rests_until: None }
    }

    async fn turn(&mut self, every: Duration, shutdown: &CancellationToken) -> anyhow::Result<()> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        match shutdown.run_until_cancelled(self.worker.turn(shutdown)).await {
            None => {}
            Some(Ok(turn)) => {
                self.failures = 0;
                debug!(table = self.worker.table(), ?turn, "turn done");
            }
            Some(Err(failure)) if failure.is_retryable() => {
                let rest = every.saturating_mul(1 << self.failures.min(10)).min(LONGEST_BACKOFF);
                self.failures += 1;
                self.rests_until = Some(Instant::now() + rest);
                let error = format!("{:#}", anyhow::Error::from(failure));
                warn!(table = self.worker.table(), error, rest_seconds = rest.as_secs(), "compaction failed");
            }
            Some(Err(failure)) => return Err(failure.into()),
        }
        Ok(())
    }
}
