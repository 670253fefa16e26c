//! Fragments to segments: fewer, bigger files with the same rows.
//!
//! Four steps, and each may be interrupted anywhere:
//!
//! ```text
//! plan    which files of a date are merged                  a decision, by sizes, sort ranges and the time alone
//! merge   read them side by side, write sorted files        invisible until they are in the table
//! swap    one commit: inputs out, the merged files in       only if all inputs are live (invariant I5)
//! sweep   take away what nobody needs any more              never what a reader may still need (invariant I4)
//! ```
//!
//! Between merge and swap the new files are read back and compared with the inputs. Whatever goes wrong before the commit
//! leaves orphans behind, files that no reader sees and that the sweep deletes a day later. Several compactors split
//! the dates of tables among them ([`share`]); where they do not agree they cost each other work, never rows.
//!
//! Beside these, and never by itself, [`delete`] takes rows out of a table on request.

pub mod config;
pub mod plan;
pub mod merge;
mod fetched;
mod input;
mod checksum;
mod duplicates;
mod runs;
mod tournament;
mod cursors;
mod outputs;
mod output;
mod sink;
mod upload;
pub mod verify;
pub mod view;
pub mod swap;
pub mod sweep;
pub mod delete;
pub mod share;
pub mod condition;
mod members;
mod queue;
pub mod worker;
pub mod request;
pub mod metrics;

pub use condition::Condition;
pub use config::Config;

use bytesize::ByteSize;
use futures::future::try_join_all;
use lake::dataset::{Dataset, dead_replays_table, dead_table};
use lake::{Lake, schema};
use members::Members;
use share::Share;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;
use worker::{Shared, Worker};

/// What a compactor works with.
#[derive(Debug, Clone)]
pub struct Deps {
    pub lake: Lake,
    pub datasets: Vec<Dataset>,
    /// Memory that merges may take together, `[memory] compactor`.
    pub memory: ByteSize,
}

/// Dead letters have no order of their own; this one costs nothing, for they come in it.
const DEAD_SORT_BY: [&str; 2] = ["kafka_partition", "kafka_offset"];

/// Keeps the tables of all datasets in few files until `shutdown`. Waits for tables that do not exist yet. Ends with an
/// error only over a table that it must not touch.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    run_observed(config, deps, Condition::default(), shutdown).await
}

/// The same; `condition` says how it gets on.
pub async fn run_observed(
    config: Config,
    deps: Deps,
    condition: Condition,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (mut members, share) = Members::new(deps.lake.clone(), config.every, condition.clone());
    let shared = shared(&config, &deps, share, condition.clone());
    let tables = workers_sharing(&config, &deps, &shared);
    let work = async {
        members.join().await;
        let tables = tables.into_iter().map(|worker| keep_up(worker, config.every, &condition, &shutdown));
        tokio::select! {
            ended = try_join_all(tables) => ended.map(|_| ()),
            () = members.keep_up() => Ok(()),
        }
    };
    let ended = shutdown.run_until_cancelled(work).await.unwrap_or(Ok(()));
    members.leave().await;
    ended
}

/// One for every table: of each dataset events, dead letters and the marks of those that were replayed. Dead letters are
/// kept as long as events. Their marks stay, and each file of them means something: a batch under way is known by its.
/// They work as if no other compactor was there.
pub fn workers(config: &Config, deps: &Deps) -> Vec<Worker> {
    let alone = watch::channel(Share::new(Uuid::new_v4(), [])).1;
    workers_sharing(config, deps, &shared(config, deps, alone, Condition::default()))
}

fn shared(config: &Config, deps: &Deps, share: watch::Receiver<Share>, condition: Condition) -> Shared {
    Shared { seats: Arc::new(Semaphore::new(config.jobs(deps.memory))), share, condition }
}

fn workers_sharing(config: &Config, deps: &Deps, shared: &Shared) -> Vec<Worker> {
    let memory = ByteSize(deps.memory.as_u64() / config.jobs(deps.memory) as u64);
    let worker = |name: String, schema, sort_by| {
        Worker::new(deps.lake.clone(), name, schema, sort_by, config.clone(), memory, shared.clone())
    };
    let of_dataset = |dataset: &Dataset| {
        let dead_sort_by = DEAD_SORT_BY.map(str::to_owned).to_vec();
        let keep = dataset.spec.retention;
        [
            worker(dataset.name.clone(), schema::events(dataset), dataset.spec.sort_by.clone()).keeping(keep),
            worker(dead_table(&dataset.name), schema::dead(), dead_sort_by).keeping(keep),
            worker(dead_replays_table(&dataset.name), schema::dead_replays(), Vec::new()).without_merges(),
        ]
    };
    deps.datasets.iter().flat_map(of_dataset).collect()
}

/// Turn after turn on one table. After failures it rests for longer and longer, but not beyond the return of the store.
async fn keep_up(
    mut worker: Worker,
    every: Duration,
    condition: &Condition,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut returns = condition.returns();
    let mut failures = 0;
    loop {
        returns.mark_unchanged();
        let failed = match worker.turn(shutdown).await {
            Ok(turn) => {
                debug!(table = worker.table(), ?turn, "turn done");
                if turn.unfinished {
                    continue;
                }
                turn.to_retry > 0
            }
            Err(failure) if failure.is_retryable() => {
                condition.failed(worker.table(), condition::in_one_line(failure));
                true
            }
            Err(failure) => return Err(failure.into()),
        };
        if failed {
            failures += 1;
            // Ends early only if the store was away in the meantime and is back.
            let _ = tokio::time::timeout(condition::rest(every, failures), returns.changed()).await;
        } else {
            failures = 0;
            condition.succeeded(worker.table());
            tokio::time::sleep(every).await;
        }
    }
}
