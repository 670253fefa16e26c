//! The log to fragments: upload first, commit the table, then the consumer group.
//!
//! The life of a record:
//!
//! 1. [`worker`] polls it from the log, on a thread of its own. Where to read from was asked of the table.
//! 2. [`decode`] makes it a row, or a dead letter with its reason; both go to the [`buffer`] of its partition.
//! 3. When the buffers are large or old, [`encode`] sorts the rows and writes one Parquet file per date, and
//!    [`flush`] uploads them.
//! 4. [`committer`] makes the files visible and moves the offsets in one commit of the table, if [`chain`] says that
//!    they continue what the table has (invariants I2 and I3 in `lake`).
//! 5. Then, and only then, the consumer group hears of it, for lag tools.
//!
//! A crash between any two steps repeats work but neither loses nor doubles a row: the table alone says what is done.

pub mod config;
pub mod worker;
pub mod decode;
pub mod dead;
pub mod buffer;
pub mod encode;
pub mod flush;
pub mod chain;
pub mod committer;
pub mod progress;
pub mod metrics;

pub use committer::Committer;
pub use config::{Config, FlushConfig};
pub use progress::Progress;

use anyhow::Context;
use eventlog::{Log, LogError};
use lake::dataset::{Dataset, dead_table};
use lake::{Lake, Table, TableError, schema};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What a processor works with.
pub struct Deps {
    pub log: Arc<dyn Log>,
    pub lake: Lake,
    pub dataset: Dataset,
    pub progress: Arc<Progress>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").field("lake", &self.lake).field("dataset", &self.dataset.name).finish_non_exhaustive()
    }
}

/// Name of the consumer group of a dataset.
pub fn group(dataset: &str) -> String {
    format!("lakehose-{dataset}")
}

/// How long the committer may go on after its worker has ended.
const LAST_COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// Runs one member of the dataset's consumer group until `shutdown`, then writes out what it holds and leaves. Returns
/// early only with an error that trying again cannot cure.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Prepared { events, committer, committing } = tokio::select! {
        prepared = prepare(&deps) => prepared?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Deps { log, dataset, progress, .. } = deps;
    let consumer = log.consumer(&dataset.name, &group(&dataset.name)).context("join the consumer group")?;
    progress.set_ready();
    // If this future is dropped, the thread must not go on by itself.
    let stop = shutdown.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let worker = worker::Worker::new(config, dataset, consumer, committer, events, progress, stop);
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own: the poll must never wait behind other work, and the consumer must stay on one thread.
    let thread = std::thread::Builder::new().name("processor".into()).spawn(move || worker.run(&runtime))?;
    let done = tokio::task::spawn_blocking(move || thread.join()).await?;
    // Flushes that the worker gave up hold the committer; a store that is away must not keep the process from stopping.
    match tokio::time::timeout(LAST_COMMIT_WITHIN, committing).await {
        Ok(ended) => ended.context("the committer stopped")?,
        Err(_) => warn!("flushes under way were given up; their records are read again at the next start"),
    }
    done.map_err(|panic| anyhow::anyhow!("the processor's thread panicked: {panic:?}"))?
}

/// What a processor needs before it may join the group.
struct Prepared {
    events: Table,
    committer: Committer,
    committing: JoinHandle<()>,
}

/// Prepares until it works or cannot work: a log or a store that is away for a while delays the start.
async fn prepare(deps: &Deps) -> anyhow::Result<Prepared> {
    let mut backoff = flush::Backoff::new();
    loop {
        match try_prepare(deps).await {
            Err(err) if is_retryable(&err) => {
                warn!(error = format!("{err:#}"), "the processor cannot start yet, trying again");
                backoff.wait().await;
            }
            done => return done,
        }
    }
}

async fn try_prepare(Deps { log, lake, dataset, .. }: &Deps) -> anyhow::Result<Prepared> {
    let partitions = log.ensure_topic(&dataset.name, dataset.spec.partitions).await.context("prepare the topic")?;
    let events = Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await.context("open the table")?;
    let dead = Table::open_or_create(lake, &dead_table(&dataset.name), schema::dead())
        .await
        .context("open the table of dead letters")?;
    let (committer, committing) = Committer::start(events.clone(), dead, partitions).await.context("read the table")?;
    Ok(Prepared { events, committer, committing })
}

fn is_retryable(err: &anyhow::Error) -> bool {
    let of_log = err.downcast_ref::<LogError>().map(LogError::is_retryable);
    of_log.or_else(|| err.downcast_ref::<TableError>().map(TableError::is_retryable)).unwrap_or(false)
}
