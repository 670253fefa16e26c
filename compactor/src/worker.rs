//! One table's turn: plan, merge, verify and swap what is this compactor's to do, then sweep.
//!
//! Merges run side by side, each in a seat that all tables of the process share; swaps are made here, one after the other,
//! so merges of one process never race each other. What is worth merging is decided anew as the table changes.
//!
//! A job that fails never stops the others. If its files are at fault they are set aside until the next start, so that
//! one damaged file does not keep its date from being merged; they stay in the table, and readers see the same error.

use crate::condition::{Condition, in_one_line};
use crate::config::Config;
use crate::merge::{Budget, MergeError, Merged, Settings};
use crate::plan::{self, MergeJob};
use crate::queue::Queue;
use crate::share::{Share, Work};
use crate::swap::{Swapped, swap};
use crate::sweep::{self, Mode, Report};
use crate::view::View;
use crate::{merge, metrics, verify};
use bytesize::ByteSize;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lake::schema::TableSchema;
use lake::table::now_ms;
use lake::{DataFile, Lake, Table, TableError};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Orphans are looked for this often: it takes a listing of the whole table.
const LIST_EVERY: Duration = Duration::from_secs(3600);

/// A turn that has more to do begins no merges after this time: the table is swept, and the next turn goes on.
const LONGEST_TURN: Duration = Duration::from_secs(600);

/// After so many merges in a row that the store has failed, the rest is left to the next turn.
const PATIENCE: usize = 3;

/// Works on one table.
#[derive(Debug)]
pub struct Worker {
    lake: Lake,
    name: String,
    schema: TableSchema,
    config: Config,
    /// Of one merge.
    budget: ByteSize,
    settings: Settings,
    shared: Shared,
    /// None until the table exists.
    known: Option<(Table, View)>,
    set_aside: HashSet<String>,
    listed_at: Option<Instant>,
    /// How long rows stay after the end of their date; `None`: for ever.
    keep: Option<Duration>,
    merges: bool,
}

/// What the workers of a process have in common.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Of merges under way. Whoever waits longest gets the next, so tables take turns.
    pub(crate) seats: Arc<Semaphore>,
    pub(crate) share: watch::Receiver<Share>,
    pub(crate) condition: Condition,
}

/// What a turn did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Merges that came into the table.
    pub merges: usize,
    /// Merges that another compactor made superfluous.
    pub lost: usize,
    /// Merges that failed.
    pub failed: usize,
    /// Those of them that may succeed in the next turn.
    pub to_retry: usize,
    /// Files that left the table for their age.
    pub expired: usize,
    /// Files deleted.
    pub deleted: usize,
    /// More is worth merging than there was time for.
    pub unfinished: bool,
}

/// A merge that was begun, until it can be swapped.
type UnderWay = BoxFuture<'static, Ended>;

/// A merge that has ended.
pub(crate) struct Ended {
    pub(crate) job: MergeJob,
    began: Instant,
    result: Result<Merged, MergeError>,
}

/// What has become of a merge.
#[derive(Debug)]
pub(crate) enum Settled {
    Committed(Box<Merged>),
    Lost,
    Stopped,
    Failed { is_retryable: bool },
}

impl Worker {
    /// `memory` is that of one merge.
    pub(crate) fn new(
        lake: Lake,
        name: String,
        schema: TableSchema,
        sort_by: Vec<String>,
        config: Config,
        memory: ByteSize,
        shared: Shared,
    ) -> Worker {
        let settings = Settings {
            sort_by,
            budget: Budget::new(memory),
            segment_bytes: config.segment_bytes(),
            distrusted: HashSet::new(),
        };
        Worker {
            lake,
            name,
            schema,
            config,
            budget: memory,
            settings,
            shared,
            known: None,
            set_aside: HashSet::new(),
            listed_at: None,
            keep: None,
            merges: true,
        }
    }

    /// The same, for a table whose rows are kept for so long.
    pub fn keeping(self, keep: Option<Duration>) -> Worker {
        Worker { keep, ..self }
    }

    /// The same, for a table whose files mean something one by one.
    pub fn without_merges(self) -> Worker {
        Worker { merges: false, ..self }
    }

    pub fn table(&self) -> &str {
        &self.name
    }

    /// Does what there is to do now. Does nothing while there is no table.
    pub async fn turn(&mut self, shutdown: &CancellationToken) -> Result<Turn, TableError> {
        let Some((table, mut view)) = self.open().await? else { return Ok(Turn::default()) };
        let turn = self.work(&table, &mut view, shutdown).await;
        metrics::files_live(&self.name, view.state.files().len());
        self.known = Some((table, view));
        turn
    }

    /// The table as it is now; `None` if there is none.
    pub(crate) async fn open(&mut self) -> Result<Option<(Table, View)>, TableError> {
        if let Some((table, mut view)) = self.known.take() {
            view.refresh(&table).await?;
            return Ok(Some((table, view)));
        }
        let Some(table) = Table::open(&self.lake, &self.name, self.schema.clone()).await? else { return Ok(None) };
        let view = View::load(&table).await?;
        // Which columns there are the table says, before every merge; here it only must be of the right kind.
        table.merged(&view.state)?;
        Ok(Some((table, view)))
    }

    async fn work(&mut self, table: &Table, view: &mut View, shutdown: &CancellationToken) -> Result<Turn, TableError> {
        let (mut turn, mut queue) = (Turn::default(), Queue::default());
        let mut under_way: FuturesUnordered<UnderWay> = FuturesUnordered::new();
        let mut failed_in_a_row = 0;
        let (started, mut looked_at) = (Instant::now(), None::<Instant>);
        loop {
            let goes_on = !shutdown.is_cancelled() && failed_in_a_row < PATIENCE && started.elapsed() < LONGEST_TURN;
            if goes_on && (queue.is_empty() || looked_at.is_none_or(|at| at.elapsed() >= self.config.every)) {
                looked_at = Some(Instant::now());
                self.look(view, &mut queue);
            }
            let has_next = goes_on && !queue.is_empty();
            if !has_next && under_way.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(ended) = under_way.next() => {
                    let date = ended.job.date;
                    queue.ended(date);
                    match self.settle(table, view, ended).await? {
                        Settled::Committed(_) => (turn.merges, failed_in_a_row) = (turn.merges + 1, 0),
                        Settled::Lost => (turn.lost, failed_in_a_row) = (turn.lost + 1, 0),
                        Settled::Stopped => {}
                        Settled::Failed { is_retryable } => {
                            turn.failed += 1;
                            turn.to_retry += usize::from(is_retryable);
                            failed_in_a_row = if is_retryable { failed_in_a_row + 1 } else { 0 };
                            queue.rest(date);
                        }
                    }
                }
                seat = Arc::clone(&self.shared.seats).acquire_owned(), if has_next => {
                    view.refresh(table).await?;
                    if let Some(job) = queue.next() {
                        match is_live(&job, view) {
                            true => under_way.push(self.begin(table.at(&view.state)?, job, seat.ok(), shutdown)),
                            // Another compactor is working on this date too.
                            false => queue.ended(job.date),
                        }
                    }
                }
            }
        }
        turn.unfinished = !queue.is_empty() && failed_in_a_row < PATIENCE;
        if !shutdown.is_cancelled() && failed_in_a_row < PATIENCE && self.has(Work::Sweep { table: &self.name }) {
            let report = self.sweep(table, view).await?;
            (turn.expired, turn.deleted) = (report.files_expired(), report.deleted.len());
        }
        Ok(turn)
    }

    /// Plans the table, tells of the plan, and takes of it what is this compactor's.
    fn look(&self, view: &View, queue: &mut Queue) {
        let jobs = self.plan(view, |_| true);
        let share = self.shared.share.borrow().clone();
        let is_mine = |date| share.has(Work::Merge { table: &self.name, date });
        let dates: BTreeSet<_> = view.state.files().values().map(|file| file.date).collect();
        metrics::windows_owned(&self.name, dates.into_iter().filter(|date| is_mine(*date)).count());
        queue.fill(jobs.into_iter().filter(|job| is_mine(job.date)));
    }

    /// What is worth merging of the `wanted` files, whosever it is.
    pub(crate) fn plan(&self, view: &View, wanted: impl Fn(&DataFile) -> bool) -> Vec<MergeJob> {
        let (policy, now_ms) = (self.config.policy(self.budget, &self.settings.sort_by), now_ms());
        // What is about to leave the table is not worth a merge.
        let is_expired = |file: &DataFile| self.keep.is_some_and(|keep| sweep::is_expired(file.date, now_ms, keep));
        let is_usable = |file: &DataFile| self.merges && !self.set_aside.contains(&file.path) && !is_expired(file);
        let files = view.state.files().values().filter(|file| is_usable(file) && wanted(file));
        let files: Vec<_> = files.map(Arc::clone).collect();
        let jobs = plan::plan(&files, now_ms, &policy);
        metrics::table_planned(&self.name, &files, &jobs, &policy, now_ms);
        jobs
    }

    fn has(&self, work: Work<'_>) -> bool {
        self.shared.share.borrow().has(work)
    }

    /// Begins a merge, in the columns of the very version at which its inputs are live: no input has one that the output
    /// lacks. It ends soon after it is dropped, or after `shutdown`.
    pub(crate) fn begin(
        &self,
        table: Table,
        job: MergeJob,
        seat: Option<OwnedSemaphorePermit>,
        shutdown: &CancellationToken,
    ) -> UnderWay {
        let (settings, cancel) = (self.settings.clone(), shutdown.child_token());
        async move {
            let (began, _running, _seat) = (Instant::now(), metrics::Running::begin(), seat);
            let _stop = cancel.clone().drop_guard();
            let result = merge_and_verify(table, job.clone(), settings, cancel).await;
            Ended { job, began, result }
        }
        .boxed()
    }

    /// Swaps what a merge has made, or says why it has not.
    pub(crate) async fn settle(&mut self, table: &Table, view: &mut View, ended: Ended) -> Result<Settled, TableError> {
        let Ended { job, began, result } = ended;
        match result {
            Ok(merged) => match swap(table, view, &merged).await? {
                Swapped::Committed => {
                    self.shared.condition.succeeded(&self.name);
                    self.committed(table, view, &merged, began.elapsed()).await;
                    Ok(Settled::Committed(Box::new(merged)))
                }
                Swapped::Lost => {
                    metrics::race_lost(&self.name);
                    info!(table = self.name, date = %job.date, files = merged.paths(), "race lost");
                    Ok(Settled::Lost)
                }
            },
            Err(MergeError::Stopped) => Ok(Settled::Stopped),
            Err(failure) => {
                let is_retryable = failure.is_retryable();
                self.job_failed(&job, failure);
                Ok(Settled::Failed { is_retryable })
            }
        }
    }

    async fn committed(&self, table: &Table, view: &View, merged: &Merged, took: Duration) {
        metrics::files_swapped(&self.name, merged, took);
        info!(
            table = self.name,
            date = %merged.date,
            inputs = merged.inputs.len(),
            outputs = merged.files.len(),
            rows = merged.rows(),
            duplicates = merged.duplicates,
            bytes = merged.bytes_out(),
            millis = took.as_millis() as u64,
            "files merged"
        );
        if let Err(failure) = table.checkpoint_if_due(view.state.version).await {
            warn!(table = self.name, error = in_one_line(failure), "write checkpoint");
        }
    }

    fn job_failed(&mut self, job: &MergeJob, failure: MergeError) {
        metrics::job_failed(&self.name);
        if failure.is_retryable() {
            let error = format!("merge of {}: {}", job.date, in_one_line(failure));
            self.shared.condition.failed(&self.name, error);
            return;
        }
        match &failure {
            MergeError::Unsorted { path } => {
                self.settings.distrusted.insert(path.clone());
            }
            MergeError::Read { path, .. } | MergeError::Column { path, .. } | MergeError::Unknown { path, .. } => {
                self.set_aside.insert(path.clone());
            }
            _ => self.set_aside.extend(job.inputs.iter().map(|input| input.path.clone())),
        }
        let error = in_one_line(failure);
        error!(table = self.name, date = %job.date, error, "merge failed, its files stay as they are");
    }

    async fn sweep(&mut self, table: &Table, view: &mut View) -> Result<Report, TableError> {
        let list = self.listed_at.is_none_or(|at| at.elapsed() >= LIST_EVERY);
        let mode = if list { Mode::Full } else { Mode::Quick };
        let report = sweep::sweep(table, view, self.config.retention(self.keep), mode).await?;
        if list {
            self.listed_at = Some(Instant::now());
        }
        if !report.deleted.is_empty() {
            info!(table = self.name, files = report.deleted.len(), "files deleted");
        }
        Ok(report)
    }

    /// Sweeps and does nothing else; `None` if there is no such table.
    pub async fn sweep_alone(&mut self, mode: Mode) -> Result<Option<Report>, TableError> {
        let Some((table, mut view)) = self.open().await? else { return Ok(None) };
        sweep::sweep(&table, &mut view, self.config.retention(self.keep), mode).await.map(Some)
    }
}

pub(crate) fn is_live(job: &MergeJob, view: &View) -> bool {
    job.inputs.iter().all(|input| view.state.files().contains_key(&input.path))
}

/// Merges on a thread of its own, for a merge computes for seconds and others wait for this one.
async fn merge_and_verify(
    table: Table,
    job: MergeJob,
    settings: Settings,
    cancel: CancellationToken,
) -> Result<Merged, MergeError> {
    let runtime = Handle::current();
    let work = move || {
        runtime.block_on(async {
            let merged = merge::merge(&table, &job, &settings, &cancel).await?;
            metrics::file_merged(&merged);
            let verified = cancel.run_until_cancelled(verify::verify(&table, &merged)).await;
            verified.ok_or(MergeError::Stopped).flatten().map(|()| merged)
        })
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| {
        Err(MergeError::Temporary(std::io::Error::other(format!("the merge ended early: {failure}"))))
    })
}
