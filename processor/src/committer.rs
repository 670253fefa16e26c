//! Makes flushes visible: many in one commit, each only if it continues what the table has.
//!
//! Whoever commits is checked against exactly the version that it commits on (see `lake::table`), so any number of
//! committers may work on one table at once: the slower one decides anew. That alone keeps rows from being lost or
//! doubled; but many writers of one table keep each other waiting, so there should be one:
//!
//! - If this process has the log to itself, the one is a task that is fed by a [`channel`] and commits at once.
//! - If processes share the log, each writes what it has uploaded as an [`announcement`] to the dataset's control topic
//!   and waits for the answer in the same topic ([`waiting`]). Their candidates elect one of them through the consumer
//!   group of that topic ([`elected`]), and that one commits what all have announced, about once a second.
//!
//! Both ways are the same from where it counts: [`deciding`] takes submissions, commits those that continue the table,
//! with their [`dead_letters`] first, and says what became of each.

pub mod announcement;
mod waiting;
mod elected;
mod channel;
mod deciding;
mod dead_letters;

use crate::breaker::Breakers;
use anyhow::Context;
use deciding::Deciding;
use eventlog::Log;
use lake::{DataFile, Keep, OffsetRange, Table, TableState};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The files of a flush, uploaded, and what else has to become true with them.
#[derive(Debug, Clone)]
pub struct Submission {
    /// At most one range a partition, none empty.
    pub ranges: Vec<OffsetRange>,
    pub files: Vec<DataFile>,
    /// Files of the dead-letter table, one a date. Their ranges are those of `ranges` that have dead letters.
    pub dead: Vec<DataFile>,
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Its offsets are in the table.
    Committed,
    /// It does not continue the table. Drop what is buffered and resume from the table.
    Rejected,
    /// The table cannot be written, and trying again does not help.
    Failed(Arc<anyhow::Error>),
}

/// Submissions that wait for the committer; more make their senders wait.
const QUEUE: usize = 64;

type Request = (Submission, oneshot::Sender<Verdict>);

/// Takes submissions. Cheap to clone; its tasks end when all are gone.
#[derive(Debug, Clone)]
pub struct Committer {
    requests: mpsc::Sender<Request>,
    events: Table,
    breakers: Breakers,
}

/// Application id under which a partition's next offset is kept.
pub fn app_id(dataset: &str, partition: i32) -> String {
    format!("{dataset}/{partition}")
}

/// Application id under which the committer's next offset in the control topic is kept.
pub fn commits_app_id(dataset: &str) -> String {
    format!("{dataset}/commits")
}

/// Topic through which the processors of a dataset agree on commits.
pub fn control_topic(dataset: &str) -> String {
    format!("{dataset}__commits")
}

/// Consumer group that elects the committer of a dataset.
pub fn control_group(dataset: &str) -> String {
    format!("lakehose-{dataset}-committer")
}

impl Committer {
    /// Starts what hands submissions to the tables. The task ends when all committers are dropped and all submissions
    /// answered.
    pub async fn start(
        log: Arc<dyn Log>,
        events: Table,
        dead: Table,
        partitions: u32,
        breakers: Breakers,
    ) -> anyhow::Result<(Committer, JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let committer = Committer { requests, events: events.clone(), breakers: breakers.clone() };
        let task = match log.shared() {
            None => {
                let deciding = Deciding::load(events, dead, partitions, breakers).await.context("read the table")?;
                tokio::spawn(channel::run(deciding, queue))
            }
            Some(_) => {
                waiting::start(log, (events, dead), partitions, breakers, queue).await.context("join the committers")?
            }
        };
        Ok((committer, task))
    }

    /// Hands in a flush. It has its place in the order when this returns; the verdict comes when the future resolves.
    pub fn submit(&self, submission: Submission) -> impl Future<Output = Verdict> + Send + use<> {
        let (answer, verdict) = oneshot::channel();
        let sent = self.requests.try_send((submission, answer));
        let requests = self.requests.clone();
        async move {
            match sent {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(request)) => {
                    let _ = requests.send(request).await;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
            verdict.await.unwrap_or_else(|_| Verdict::Failed(Arc::new(anyhow::anyhow!("the committer has stopped"))))
        }
    }

    /// Where the table says to read on, per partition; `None` for one that it does not know. Reads the table until it
    /// answers: without it nobody knows where to read on, and nobody else's word is taken for it.
    pub async fn positions(&self, partitions: Vec<i32>) -> anyhow::Result<Vec<Option<i64>>> {
        let read = || async { load_txns(&self.events, &partitions).await.context("read the table") };
        let state = self.breakers.commits().repeat(read).await?;
        Ok(partitions.iter().map(|partition| state.txn(&app_id(self.events.name(), *partition))).collect())
    }
}

/// Reads where the table ends in `partitions`, and in the control topic.
async fn load_txns<'a>(
    events: &Table,
    partitions: impl IntoIterator<Item = &'a i32>,
) -> Result<TableState, lake::TableError> {
    let dataset = events.name();
    let mut app_ids: Vec<String> = partitions.into_iter().map(|partition| app_id(dataset, *partition)).collect();
    app_ids.push(commits_app_id(dataset));
    events.load(Keep::Txns, &app_ids).await
}
