//! Makes flushes visible: many in one commit, each only if it continues what the table has.
//!
//! One task a process, fed by a channel. Several processes may each run one on the same table: what they decide is
//! checked against exactly the version they commit on, so the slower one decides anew (see `lake::table`).
//!
//! Dead letters are committed to their own table first, with a `txn` of its own, and only those at or after it: if the
//! process dies between the two commits, the range comes again and adds nothing (invariant I6).

use crate::breaker::Breakers;
use crate::chain::{Decision, decide};
use crate::encode::Encoding;
use crate::metrics;
use anyhow::Context;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};
use lake::store::put_new;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, OffsetRange, Outcome, Table, TableError, TableState, sort};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// The files of a flush, uploaded, and what else has to become true with them.
#[derive(Debug)]
pub struct Submission {
    /// At most one range a partition, none empty.
    pub ranges: Vec<OffsetRange>,
    pub files: Vec<DataFile>,
    /// Rows for the dead-letter table.
    pub dead: Option<RecordBatch>,
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

/// A flush that starts after the table's end waits so long for what lies between.
const HOLD_FOR: Duration = Duration::from_secs(5);

/// Files that waited longer for their commit are not committed any more: the compactor deletes files that are in no
/// table after 24 h, and a commit must never name a file that may be gone.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(12 * 3600);

/// Submissions that wait for the committer; more make their senders wait.
const QUEUE: usize = 64;

/// Hands submissions to the committer's task. Cheap to clone; the task ends when all are gone.
#[derive(Debug, Clone)]
pub struct Committer {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Commit(Submission, oneshot::Sender<Verdict>),
    Positions(Vec<i32>, oneshot::Sender<anyhow::Result<Vec<Option<i64>>>>),
}

/// Application id under which a partition's next offset is kept.
pub fn app_id(dataset: &str, partition: i32) -> String {
    format!("{dataset}/{partition}")
}

impl Committer {
    /// Reads the tables and starts the task, which ends with an error only if the tables cannot be written for good.
    pub async fn start(
        events: Table,
        dead: Table,
        partitions: u32,
        breakers: Breakers,
    ) -> Result<(Committer, JoinHandle<()>), TableError> {
        let dataset = events.name().to_owned();
        let app_ids: Vec<String> = (0..partitions as i32).map(|partition| app_id(&dataset, partition)).collect();
        let events_state = events.load(Keep::Txns, &app_ids).await?;
        let dead_state = dead.load(Keep::Txns, &app_ids).await?;
        let dead_encoding = Encoding {
            table: dead.name().to_owned(),
            schema: dead.schema().clone(),
            time: "received_at",
            order: sort::order(&["received_at".to_owned()]),
        };
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = Task {
            dataset,
            partitions: partitions as i32,
            events,
            events_state,
            dead,
            dead_state,
            dead_encoding,
            breakers,
            held: Vec::new(),
            checkpoints: Vec::new(),
        };
        Ok((Committer { requests }, tokio::spawn(task.run(queue))))
    }

    /// Hands in a flush. It has its place in the order when this returns; the verdict comes when the future resolves.
    pub fn submit(&self, submission: Submission) -> impl Future<Output = Verdict> + Send + use<> {
        let (answer, verdict) = oneshot::channel();
        let sent = self.requests.try_send(Request::Commit(submission, answer));
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

    /// Where the table says to read on, per partition; `None` for one that it does not know.
    pub async fn positions(&self, partitions: Vec<i32>) -> anyhow::Result<Vec<Option<i64>>> {
        let (answer, positions) = oneshot::channel();
        let stopped = "the committer has stopped";
        self.requests.send(Request::Positions(partitions, answer)).await.ok().context(stopped)?;
        positions.await.context(stopped)?
    }
}

struct Task {
    dataset: String,
    /// Partitions whose application versions were looked up.
    partitions: i32,
    events: Table,
    events_state: TableState,
    dead: Table,
    dead_state: TableState,
    dead_encoding: Encoding,
    breakers: Breakers,
    held: Vec<Pending>,
    checkpoints: Vec<JoinHandle<()>>,
}

struct Pending {
    submission: Submission,
    answer: oneshot::Sender<Verdict>,
    since: Instant,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let request = if self.held.is_empty() {
                queue.recv().await
            } else {
                match tokio::time::timeout(Duration::from_millis(200), queue.recv()).await {
                    Ok(request) => request,
                    Err(_) => {
                        self.commit_held().await;
                        continue;
                    }
                }
            };
            let Some(request) = request else { break };
            self.take(request).await;
            // Whatever came in meanwhile shares the commit.
            while let Ok(request) = queue.try_recv() {
                self.take(request).await;
            }
            if !self.held.is_empty() {
                self.commit_held().await;
            }
        }
        for checkpoint in self.checkpoints {
            let _ = checkpoint.await;
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Commit(submission, answer) => {
                self.held.push(Pending { submission, answer, since: Instant::now() });
            }
            Request::Positions(partitions, answer) => {
                let _ = answer.send(self.positions(&partitions).await);
            }
        }
    }

    /// Reads the table until it answers: without it nobody knows where to read on.
    async fn positions(&mut self, partitions: &[i32]) -> anyhow::Result<Vec<Option<i64>>> {
        let mut attempts = self.breakers.commits();
        loop {
            attempts.begin().await;
            let known = partitions.iter().all(|partition| *partition < self.partitions);
            let read =
                if known { self.events.refresh(&mut self.events_state).await } else { self.reload(partitions).await };
            let Err(err) = read else { break };
            attempts.failed(anyhow::Error::from(err).context("read the table"))?;
        }
        attempts.succeeded();
        let position = |partition: &i32| self.events_state.txn(&app_id(&self.dataset, *partition));
        Ok(partitions.iter().map(position).collect())
    }

    async fn reload(&mut self, partitions: &[i32]) -> Result<(), TableError> {
        let count = partitions.iter().copied().max().unwrap_or_default().max(self.partitions - 1) + 1;
        let app_ids: Vec<String> = (0..count).map(|partition| app_id(&self.dataset, partition)).collect();
        self.events_state = self.events.load(Keep::Txns, &app_ids).await?;
        self.dead_state = self.dead.load(Keep::Txns, &app_ids).await?;
        self.partitions = count;
        Ok(())
    }

    /// Commits what can be, answers what is decided, keeps what must wait.
    async fn commit_held(&mut self) {
        let (mut attempts, mut repeated) = (self.breakers.commits(), false);
        loop {
            attempts.begin().await;
            let Err(err) = self.try_commit(repeated).await else { return attempts.succeeded() };
            if let Err(err) = attempts.failed(err) {
                return self.give_up(Arc::new(err));
            }
            metrics::commit_retried();
            repeated = true;
        }
    }

    fn give_up(&mut self, err: Arc<anyhow::Error>) {
        for pending in self.held.drain(..) {
            let _ = pending.answer.send(Verdict::Failed(Arc::clone(&err)));
        }
    }

    /// One attempt: decide against the state, write dead letters, commit, answer. A repeated one reads first what became
    /// of the one before.
    async fn try_commit(&mut self, repeated: bool) -> anyhow::Result<()> {
        if repeated {
            self.events.refresh(&mut self.events_state).await.context("read the table")?;
        }
        self.reject_stale();
        loop {
            let txns = self.next_offsets();
            let ranges: Vec<&[OffsetRange]> = self.held.iter().map(|p| p.submission.ranges.as_slice()).collect();
            let decisions = decide(&txns, &ranges);
            if decisions.contains(&Decision::Accept) {
                let started = Instant::now();
                self.commit_dead(&decisions).await?;
                let change = self.change(&decisions);
                match self.events.commit(&mut self.events_state, &change).await.context("commit fragments")? {
                    Outcome::Conflict => {
                        metrics::commit_conflict();
                        continue;
                    }
                    Outcome::Committed => self.committed(&change, started),
                }
            }
            self.answer(decisions);
            return Ok(());
        }
    }

    fn reject_stale(&mut self) {
        let oldest = now_ms() - COMMIT_WITHIN.as_millis() as i64;
        let is_stale = |pending: &Pending| pending.submission.files.iter().any(|file| file.modified_ms < oldest);
        let (stale, fresh): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut self.held).into_iter().partition(is_stale);
        self.held = fresh;
        for pending in stale {
            metrics::flush_rejected();
            warn!(files = pending.submission.files.len(), "flush rejected: its files waited too long for their commit");
            let _ = pending.answer.send(Verdict::Rejected);
        }
    }

    fn next_offsets(&self) -> HashMap<i32, i64> {
        let partitions = self.held.iter().flat_map(|pending| &pending.submission.ranges).map(|range| range.partition);
        let next = |partition| Some((partition, self.events_state.txn(&app_id(&self.dataset, partition))?));
        partitions.filter_map(next).collect()
    }

    fn accepted<'a>(&'a self, decisions: &'a [Decision]) -> impl Iterator<Item = &'a Submission> {
        let accepted = self.held.iter().zip(decisions).filter(|(_, decision)| **decision == Decision::Accept);
        accepted.map(|(pending, _)| &pending.submission)
    }

    fn change(&self, decisions: &[Decision]) -> Change {
        let ranges = self.accepted(decisions).flat_map(|submission| &submission.ranges);
        let mut ends: HashMap<i32, i64> = HashMap::new();
        for range in ranges {
            let end = ends.entry(range.partition).or_insert(range.end);
            *end = range.end.max(*end);
        }
        let mut txns: Vec<(String, i64)> =
            ends.into_iter().map(|(partition, end)| (app_id(&self.dataset, partition), end)).collect();
        txns.sort();
        let adds: Vec<DataFile> = self.accepted(decisions).flat_map(|submission| submission.files.clone()).collect();
        Change { operation: "STREAMING UPDATE", adds, txns, data_change: true, ..Change::default() }
    }

    fn committed(&mut self, change: &Change, started: Instant) {
        let (version, files) = (self.events_state.version, change.adds.len());
        let rows: u64 = change.adds.iter().map(DataFile::rows).sum();
        metrics::committed(files, rows, started.elapsed());
        debug!(version, files, rows, partitions = change.txns.len(), "fragments committed");
        let table = self.events.clone();
        self.checkpoint(table, version);
    }

    /// Off the path of commits: a checkpoint of a large table takes seconds, and readers can do without for so long.
    fn checkpoint(&mut self, table: Table, version: u64) {
        self.checkpoints.retain(|task| !task.is_finished());
        self.checkpoints.push(tokio::spawn(async move {
            match table.checkpoint_if_due(version).await {
                Ok(true) => info!(table = table.name(), version, "checkpoint written"),
                Ok(false) => {}
                Err(err) => {
                    let error = format!("{:#}", anyhow::Error::from(err));
                    warn!(table = table.name(), version, error, "checkpoint failed; readers are slower until the next")
                }
            }
        }));
    }

    fn answer(&mut self, decisions: Vec<Decision>) {
        for (pending, decision) in std::mem::take(&mut self.held).into_iter().zip(decisions) {
            let verdict = match decision {
                Decision::Accept | Decision::Done => Verdict::Committed,
                Decision::Hold if pending.since.elapsed() < HOLD_FOR => {
                    self.held.push(pending);
                    continue;
                }
                Decision::Reject | Decision::Hold => {
                    let ranges = lake::range::format_ranges(&pending.submission.ranges);
                    metrics::flush_rejected();
                    warn!(ranges, ?decision, "flush rejected: it does not continue the table");
                    Verdict::Rejected
                }
            };
            let _ = pending.answer.send(verdict);
        }
    }

    /// Commits the dead letters of accepted flushes. After an error it can be repeated: nothing is added twice.
    async fn commit_dead(&mut self, decisions: &[Decision]) -> anyhow::Result<()> {
        loop {
            let (batches, ranges) = self.missing_dead(decisions)?;
            let Some(first) = batches.first() else { return Ok(()) };
            let rows = concat_batches(&first.schema(), &batches)?;
            let count = rows.num_rows();
            let encoded = self.dead_encoding.encode(vec![rows], &ranges, now_ms())?;
            let mut change = Change { operation: "STREAMING UPDATE", data_change: true, ..Change::default() };
            change.txns = ranges.iter().map(|r| (app_id(&self.dataset, r.partition), r.end)).collect();
            for file in encoded {
                let path = self.dead.file_path(&file.file.path);
                put_new(self.dead.store().as_ref(), &path, file.bytes)
                    .await
                    .map_err(TableError::from)
                    .context("upload dead letters")?;
                change.adds.push(file.file);
            }
            match self.dead.commit(&mut self.dead_state, &change).await.context("commit dead letters")? {
                Outcome::Conflict => continue,
                Outcome::Committed => {
                    metrics::dead_letters_committed(count);
                    warn!(records = count, table = self.dead.name(), "dead letters committed");
                    let (table, version) = (self.dead.clone(), self.dead_state.version);
                    self.checkpoint(table, version);
                    return Ok(());
                }
            }
        }
    }

    /// Dead letters of accepted flushes that their table does not have, and the ranges for which it has all then.
    fn missing_dead(&self, decisions: &[Decision]) -> anyhow::Result<(Vec<RecordBatch>, Vec<OffsetRange>)> {
        let mut batches = Vec::new();
        let mut ranges: HashMap<i32, OffsetRange> = HashMap::new();
        for submission in self.accepted(decisions) {
            let Some(dead) = &submission.dead else { continue };
            let partitions =
                dead.column_by_name("kafka_partition").context("no partition")?.as_primitive::<Int32Type>();
            let offsets = dead.column_by_name("kafka_offset").context("no offset")?.as_primitive::<Int64Type>();
            let complete = |partition| self.dead_state.txn(&app_id(&self.dataset, partition)).unwrap_or(i64::MIN);
            let missing: BooleanArray =
                (0..dead.num_rows()).map(|row| Some(offsets.value(row) >= complete(partitions.value(row)))).collect();
            if missing.true_count() == 0 {
                continue;
            }
            for range in &submission.ranges {
                if partitions.values().contains(&range.partition) {
                    let joined = ranges.entry(range.partition).or_insert(*range);
                    joined.start = joined.start.min(range.start);
                    joined.end = joined.end.max(range.end);
                }
            }
            batches.push(filter_record_batch(dead, &missing)?);
        }
        // Held flushes never get here, so everything before a range's start is in the table, dead or alive.
        let mut ranges: Vec<OffsetRange> = ranges.into_values().collect();
        ranges.retain(|range| {
            let complete = self.dead_state.txn(&app_id(&self.dataset, range.partition));
            complete.is_none_or(|complete| range.end > complete)
        });
        ranges.sort();
        Ok((batches, ranges))
    }
}
