//! One table's turn: plan, merge, verify and swap every job, then sweep.
//!
//! A job that fails never stops the others. If its files are at fault they are set aside until the next start, so that
//! one damaged file does not keep its date from being merged; they stay in the table, and readers see the same error.

use crate::config::Config;
use crate::merge::{Budget, MergeError, Merged, Settings};
use crate::plan::{self, MergeJob};
use crate::swap::{Swapped, swap};
use crate::view::View;
use crate::{merge, metrics, sweep, verify};
use bytesize::ByteSize;
use lake::schema::TableSchema;
use lake::table::now_ms;
use lake::{Lake, Table, TableError};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Orphans are looked for this often: it takes a listing of the whole table.
const LIST_EVERY: Duration = Duration::from_secs(3600);

/// Works on one table.
#[derive(Debug)]
pub struct Worker {
    lake: Lake,
    name: String,
    schema: TableSchema,
    config: Config,
    budget: ByteSize,
    settings: Settings,
    /// None until the table exists.
    known: Option<(Table, View)>,
    set_aside: HashSet<String>,
    listed_at: Option<Instant>,
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
    /// Files deleted.
    pub deleted: usize,
}

impl Worker {
    pub fn new(
        lake: Lake,
        name: String,
        schema: TableSchema,
        sort_by: Vec<String>,
        config: Config,
        memory: ByteSize,
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
            known: None,
            set_aside: HashSet::new(),
            listed_at: None,
        }
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

    async fn open(&mut self) -> Result<Option<(Table, View)>, TableError> {
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
        let mut turn = Turn::default();
        let files: Vec<_> =
            view.state.files().values().filter(|file| !self.set_aside.contains(&file.path)).map(Arc::clone).collect();
        for job in plan::plan(&files, now_ms(), &self.config.policy(self.budget, &self.settings.sort_by)) {
            if shutdown.is_cancelled() {
                return Ok(turn);
            }
            view.refresh(table).await?;
            if !job.inputs.iter().all(|input| view.state.files().contains_key(&input.path)) {
                // Another compactor is working on this date too.
                continue;
            }
            // The columns of the very version at which the inputs are live: no input has one that the output lacks.
            let table = &table.at(&view.state)?;
            let started = Instant::now();
            match self.run_job(table, &job, shutdown).await {
                Ok(merged) => match swap(table, view, &merged).await? {
                    Swapped::Committed => {
                        turn.merges += 1;
                        self.committed(table, view, &merged, started.elapsed()).await;
                    }
                    Swapped::Lost => {
                        turn.lost += 1;
                        metrics::race_lost(&self.name);
                        info!(table = self.name, date = %job.date, files = merged.paths(), "race lost");
                    }
                },
                Err(MergeError::Stopped) => return Ok(turn),
                Err(failure) => {
                    turn.failed += 1;
                    self.job_failed(&job, failure);
                }
            }
        }
        turn.deleted = self.sweep(table, view).await?;
        Ok(turn)
    }

    /// Merges on a thread of its own, for a merge computes for seconds and others wait for this one.
    async fn run_job(&self, table: &Table, job: &MergeJob, shutdown: &CancellationToken) -> Result<Merged, MergeError> {
        let cancel = shutdown.child_token();
        // If this future is dropped, the thread ends soon after.
        let _stop = cancel.clone().drop_guard();
        let (table, job, settings) = (table.clone(), job.clone(), self.settings.clone());
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
            warn!(table = self.name, error = format!("{:#}", anyhow::Error::from(failure)), "write checkpoint");
        }
    }

    fn job_failed(&mut self, job: &MergeJob, failure: MergeError) {
        metrics::job_failed(&self.name);
        let is_retryable = failure.is_retryable();
        match &failure {
            MergeError::Unsorted { path } => {
                self.settings.distrusted.insert(path.clone());
            }
            MergeError::Read { path, .. } | MergeError::Column { path, .. } | MergeError::Unknown { path, .. }
                if !is_retryable =>
            {
                self.set_aside.insert(path.clone());
            }
            _ if !is_retryable => self.set_aside.extend(job.inputs.iter().map(|input| input.path.clone())),
            _ => {}
        }
        let error = format!("{:#}", anyhow::Error::from(failure));
        if is_retryable {
            warn!(table = self.name, date = %job.date, error, "merge failed, will be tried again");
        } else {
            error!(table = self.name, date = %job.date, error, "merge failed, its files stay as they are");
        }
    }

    async fn sweep(&mut self, table: &Table, view: &mut View) -> Result<usize, TableError> {
        let list = self.listed_at.is_none_or(|at| at.elapsed() >= LIST_EVERY);
        let deleted = sweep::sweep(table, view, self.config.retention(), list).await?;
        if list {
            self.listed_at = Some(Instant::now());
        }
        if deleted > 0 {
            info!(table = self.name, files = deleted, "files deleted");
        }
        Ok(deleted)
    }
}
