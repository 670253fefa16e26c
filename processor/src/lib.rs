//! The log to fragments: upload first, commit the table, then the consumer group.
//!
//! The life of a record:
//!
//! 1. [`worker`] polls it from the log, on a thread of its own. Where to read from was asked of the table.
//! 2. [`decode`] makes it a row, or a dead letter with its reason; both go to the [`buffer`] of its partition. An event
//!    that the partition's [`window`] has seen before is only counted. What the window knows at the start is read from
//!    the table by [`rebuild`].
//! 3. When the buffers are large or old, [`encode`] sorts the rows and writes one Parquet file per date, and
//!    [`flush`] uploads them.
//! 4. [`committer`] makes the files visible and moves the offsets in one commit of the table, if [`chain`] says that
//!    they continue what the table has (invariants I2 and I3 in `lake`). Processors that share a log elect one of them
//!    to commit for all.
//! 5. Then, and only then, the consumer group hears of it, for lag tools.
//!
//! What goes wrong on the way is a dead letter, is tried again, or ends the process: [`failure`] says which. Retries go
//! through a [`breaker`] of what they need.
//!
//! A crash between any two steps repeats work but neither loses nor doubles a row: the table alone says what is done.

pub mod config;
pub mod failure;
pub mod circuit;
pub mod breaker;
pub mod worker;
pub mod decode;
pub mod dead;
pub mod window;
pub mod rebuild;
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
use encode::Encoders;
use eventlog::Log;
use flush::Flusher;
use lake::dataset::{Dataset, dead_table};
use lake::{Lake, Table, schema};
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
    let Prepared { dataset, flusher, committing } = tokio::select! {
        prepared = prepare(&config, &deps) => prepared?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Deps { log, progress, .. } = deps;
    let consumer = log.consumer(&dataset.name, &group(&dataset.name)).context("join the consumer group")?;
    progress.set_ready();
    // If this future is dropped, the thread must not go on by itself.
    let stop = shutdown.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let worker = worker::Worker::new(config, dataset, consumer, flusher, progress, stop);
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
    /// With the types that the table has: they may be wider than those declared, and then that is what files hold.
    dataset: Dataset,
    flusher: Flusher,
    committing: JoinHandle<()>,
}

/// Prepares until it works or cannot work: a log or a store that is away for a while delays the start.
async fn prepare(config: &Config, Deps { log, lake, dataset, progress }: &Deps) -> anyhow::Result<Prepared> {
    let breakers = progress.breakers();
    let topic =
        || async { log.ensure_topic(&dataset.name, dataset.spec.partitions).await.context("prepare the topic") };
    let partitions = breakers.questions().repeat(topic).await?;
    let tables = || async {
        let events = Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await;
        let dead = Table::open_or_create(lake, &dead_table(&dataset.name), schema::dead()).await;
        anyhow::Ok((events.context("open the table")?, dead.context("open the table of dead letters")?))
    };
    let (events, dead) = breakers.commits().repeat(tables).await?;
    let committer = || Committer::start(Arc::clone(log), events.clone(), dead.clone(), partitions, breakers.clone());
    let (committer, committing) = breakers.commits().repeat(committer).await?;
    let dataset = events.schema().typed(dataset.clone());
    let flusher =
        Flusher::new(&dataset, (events, dead), committer, breakers.clone(), Encoders::new(config.flush.threads)?);
    Ok(Prepared { dataset, flusher, committing })
}
