//! The table's side of committing: decides about submissions against one version of the table, and commits on exactly
//! that version.
//!
//! Knows nothing of where submissions come from; each carries an `origin`, to which its verdict goes. Announced ones
//! also carry their offset in the control topic: the commit moves the committer's own position there, over all that was
//! read, except that what is held stays to be read again.

use super::dead_letters::{DeadTable, Unusable};
use super::{Submission, Verdict, app_id, commits_app_id, load_txns};
use crate::breaker::Breakers;
use crate::chain::{Decision, decide};
use crate::metrics;
use anyhow::Context;
use lake::table::{COMMIT_WITHIN, millis, now_ms};
use lake::{Change, DataFile, OffsetRange, Outcome, Table, TableError, TableState};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// A flush that starts after the table's end waits so long for what lies between.
const HOLD_FOR: Duration = Duration::from_secs(5);

/// Submissions, and the tables that they are measured by. An interrupted call loses nothing: it is repeated on what the
/// tables then are.
pub(super) struct Deciding<O> {
    dataset: String,
    /// Partitions that the states were asked for: of others they know nothing.
    known: BTreeSet<i32>,
    events: Table,
    events_state: TableState,
    dead: DeadTable,
    breakers: Breakers,
    held: Vec<Pending<O>>,
    decided: Vec<(O, Verdict)>,
    /// The next offset to read of the control topic.
    read_up_to: Option<i64>,
    checkpoints: Checkpoints,
}

struct Pending<O> {
    submission: Submission,
    origin: O,
    announced_at: Option<i64>,
    since: Instant,
}

impl<O> Deciding<O> {
    pub(super) async fn load(
        events: Table,
        dead: Table,
        partitions: u32,
        breakers: Breakers,
    ) -> Result<Deciding<O>, TableError> {
        let known: BTreeSet<i32> = (0..partitions as i32).collect();
        let events_state = load_txns(&events, &known).await?;
        let dead = DeadTable::load(events.name(), dead, &known).await?;
        Ok(Deciding {
            dataset: events.name().to_owned(),
            known,
            events,
            events_state,
            dead,
            breakers,
            held: Vec::new(),
            decided: Vec::new(),
            read_up_to: None,
            checkpoints: Checkpoints::default(),
        })
    }

    /// Where the table says to read on in the control topic.
    pub(super) fn position(&self) -> Option<i64> {
        self.events_state.txn(&commits_app_id(&self.dataset))
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn hold(&mut self, submission: Submission, origin: O) {
        self.held.push(Pending { submission, origin, announced_at: None, since: Instant::now() });
    }

    /// Takes what was announced at `offset` of the control topic.
    pub(super) fn hold_announced(&mut self, submission: Submission, origin: O, offset: i64) {
        self.held.push(Pending { submission, origin, announced_at: Some(offset), since: Instant::now() });
    }

    /// Notes that everything before `offset` of the control topic was read.
    pub(super) fn has_read_up_to(&mut self, offset: i64) {
        self.read_up_to = Some(offset);
    }

    /// Waits for what goes on beside the commits.
    pub(super) async fn finish(self) {
        self.checkpoints.finish().await;
    }

    /// Commits what can be, keeps what must wait, and returns what is decided.
    pub(super) async fn commit_held(&mut self) -> Vec<(O, Verdict)> {
        let (mut attempts, mut repeated) = (self.breakers.commits(), false);
        loop {
            attempts.begin().await;
            let Err(err) = self.try_commit(repeated).await else {
                attempts.succeeded();
                break;
            };
            if let Err(err) = attempts.failed(err) {
                let err = Arc::new(err);
                let failed = self.held.drain(..).map(|pending| (pending.origin, Verdict::Failed(Arc::clone(&err))));
                self.decided.extend(failed);
                break;
            }
            metrics::commit_retried();
            repeated = true;
        }
        std::mem::take(&mut self.decided)
    }

    /// One attempt: decide against the state, write dead letters, commit, note the verdicts. A repeated one reads first
    /// what became of the one before.
    async fn try_commit(&mut self, repeated: bool) -> anyhow::Result<()> {
        self.reject_stale();
        self.look_up_new_partitions().await.context("read the table")?;
        if repeated || self.held.iter().any(Pending::is_overdue) {
            // Another committer may have committed what they wait for.
            self.events.refresh(&mut self.events_state).await.context("read the table")?;
        }
        loop {
            let txns = self.next_offsets();
            let ranges: Vec<&[OffsetRange]> = self.held.iter().map(|p| p.submission.ranges.as_slice()).collect();
            let decisions = decide(&txns, &ranges);
            let accepted = accepted(&self.held, &decisions);
            if !accepted.is_empty() {
                let started = Instant::now();
                if let Err(err) = self.dead.commit(&accepted, &mut self.checkpoints).await {
                    self.reject_unusable(err.downcast::<Unusable>()?);
                    continue;
                }
                let change = self.change(&accepted, &decisions);
                let flushes = accepted.len();
                match self.events.commit(&mut self.events_state, &change).await.context("commit fragments")? {
                    Outcome::Conflict => {
                        metrics::commit_conflict();
                        continue;
                    }
                    Outcome::Committed => self.committed(&change, flushes, started),
                }
            }
            self.settle(decisions);
            return Ok(());
        }
    }

    fn reject_stale(&mut self) {
        let oldest = now_ms() - millis(COMMIT_WITHIN);
        let is_stale = |pending: &mut Pending<O>| {
            let Submission { files, dead, .. } = &pending.submission;
            files.iter().chain(dead).any(|file| file.modified_ms < oldest)
        };
        for pending in self.held.extract_if(.., is_stale) {
            metrics::flush_rejected();
            warn!(files = pending.submission.files.len(), "flush rejected: its files waited too long for their commit");
            self.decided.push((pending.origin, Verdict::Rejected));
        }
    }

    fn reject_unusable(&mut self, file: Unusable) {
        let names = |pending: &mut Pending<O>| pending.submission.dead.iter().any(|dead| dead.path == file.path);
        let rejected: Vec<Pending<O>> = self.held.extract_if(.., names).collect();
        metrics::flush_rejected();
        warn!(error = format!("{:#}", anyhow::Error::from(file)), "flush rejected: its dead letters cannot be read");
        self.decided.extend(rejected.into_iter().map(|pending| (pending.origin, Verdict::Rejected)));
    }

    /// A state knows only partitions that it was asked for, and those committed since; and topics may grow.
    async fn look_up_new_partitions(&mut self) -> Result<(), TableError> {
        let partitions = self.held.iter().flat_map(|pending| &pending.submission.ranges).map(|range| range.partition);
        let wanted: BTreeSet<i32> = self.known.iter().copied().chain(partitions).collect();
        if wanted.len() > self.known.len() {
            self.events_state = load_txns(&self.events, &wanted).await?;
            self.dead.reload(&wanted).await?;
            self.known = wanted;
        }
        Ok(())
    }

    fn next_offsets(&self) -> HashMap<i32, i64> {
        let partitions = self.held.iter().flat_map(|pending| &pending.submission.ranges).map(|range| range.partition);
        let next = |partition| Some((partition, self.events_state.txn(&app_id(&self.dataset, partition))?));
        partitions.filter_map(next).collect()
    }

    fn change(&self, accepted: &[&Submission], decisions: &[Decision]) -> Change {
        let mut ends: HashMap<i32, i64> = HashMap::new();
        for range in accepted.iter().flat_map(|submission| &submission.ranges) {
            let end = ends.entry(range.partition).or_insert(range.end);
            *end = range.end.max(*end);
        }
        let mut txns: Vec<(String, i64)> =
            ends.into_iter().map(|(partition, end)| (app_id(&self.dataset, partition), end)).collect();
        txns.sort();
        txns.extend(self.next_position(decisions).map(|offset| (commits_app_id(&self.dataset), offset)));
        let adds: Vec<DataFile> = accepted.iter().flat_map(|submission| submission.files.clone()).collect();
        Change { operation: "STREAMING UPDATE", adds, txns, data_change: true, ..Change::default() }
    }

    /// Where to read on in the control topic once these decisions are committed; `None` if that is no progress.
    fn next_position(&self, decisions: &[Decision]) -> Option<i64> {
        let held = self.held.iter().zip(decisions).filter(|(_, decision)| **decision == Decision::Hold);
        let first_held = held.filter_map(|(pending, _)| pending.announced_at).min();
        let next = self.read_up_to?.min(first_held.unwrap_or(i64::MAX));
        // Another committer may be further.
        self.position().is_none_or(|position| next > position).then_some(next)
    }

    fn committed(&mut self, change: &Change, flushes: usize, started: Instant) {
        let (version, files) = (self.events_state.version, change.adds.len());
        let rows: u64 = change.adds.iter().map(DataFile::rows).sum();
        metrics::committed(flushes, files, rows, started.elapsed());
        debug!(version, flushes, files, rows, txns = change.txns.len(), "fragments committed");
        self.checkpoints.start(&self.events, version);
    }

    fn settle(&mut self, decisions: Vec<Decision>) {
        for (pending, decision) in std::mem::take(&mut self.held).into_iter().zip(decisions) {
            let verdict = match decision {
                Decision::Accept | Decision::Done => Verdict::Committed,
                Decision::Hold if !pending.is_overdue() => {
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
            self.decided.push((pending.origin, verdict));
        }
    }
}

impl<O> Pending<O> {
    fn is_overdue(&self) -> bool {
        self.since.elapsed() >= HOLD_FOR
    }
}

fn accepted<'a, O>(held: &'a [Pending<O>], decisions: &[Decision]) -> Vec<&'a Submission> {
    let accepted = held.iter().zip(decisions).filter(|(_, decision)| **decision == Decision::Accept);
    accepted.map(|(pending, _)| &pending.submission).collect()
}

/// Checkpoints under way, off the path of commits: one of a large table takes seconds, and readers can do without for so
/// long.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    tasks: Vec<JoinHandle<()>>,
}

impl Checkpoints {
    /// Writes one if `version`, which was just committed here, asks for it.
    pub(super) fn start(&mut self, table: &Table, version: u64) {
        let table = table.clone();
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(tokio::spawn(async move {
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

    async fn finish(self) {
        for task in self.tasks {
            let _ = task.await;
        }
    }
}
