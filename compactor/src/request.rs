//! Merges that somebody asked for: what is worth it now, as if nobody wrote to the dates any more.
//!
//! Files that come into the table meanwhile are left to the compactors: on a busy table there would never be an end.
//! Compactors may be at work at the same time; whoever is second to merge a file has lost a race and plans anew.

use crate::plan::MergeJob;
use crate::view::View;
use crate::worker::{Settled, Worker, is_live};
use crate::{Config, Deps, workers};
use chrono::NaiveDate;
use lake::{DataFile, Table, TableError};
use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One table, or one date of it.
#[derive(Debug)]
pub struct Request {
    worker: Worker,
    table: Table,
    view: View,
    date: Option<NaiveDate>,
    /// Files that were there at the start, or came of merges since.
    chosen: HashSet<String>,
    /// Dates of which a merge has failed.
    given_up: HashSet<NaiveDate>,
}

/// What has become of one merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Merged(Sum),
    /// Another compactor was faster.
    Lost,
    /// The log says why. The date is left as it is.
    Failed,
    Stopped,
}

/// What merges came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    pub merges: u64,
    pub files_in: u64,
    pub files_out: u64,
    /// Of the merged files.
    pub rows: u64,
    pub duplicates: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.merges += other.merges;
        self.files_in += other.files_in;
        self.files_out += other.files_out;
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

impl Request {
    /// `name` is the table of a dataset of `deps`, or of its dead letters; `None` if there is no such table.
    pub async fn open(
        config: &Config,
        deps: &Deps,
        name: &str,
        date: Option<NaiveDate>,
    ) -> Result<Option<Request>, TableError> {
        let config = Config { cold_after: Duration::ZERO, jobs: Some(1), ..config.clone() };
        let worker = workers(&config, deps).into_iter().find(|worker| worker.table() == name);
        let Some(mut worker) = worker else { return Ok(None) };
        let Some((table, view)) = worker.open().await? else { return Ok(None) };
        let mut request = Request { worker, table, view, date, chosen: HashSet::new(), given_up: HashSet::new() };
        request.chosen = request.live().map(|file| file.path.clone()).collect();
        Ok(Some(request))
    }

    /// How many files are in the table, or of the date, as far as it is known.
    pub fn files(&self) -> u64 {
        self.live().count() as u64
    }

    fn live(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.view.state.files().values().filter(|file| self.date.is_none_or(|date| date == file.date))
    }

    /// What is worth merging as far as the table is known.
    pub fn plan(&self) -> Vec<MergeJob> {
        self.worker.plan(&self.view, |file| self.chosen.contains(&file.path) && !self.given_up.contains(&file.date))
    }

    /// Merges. What else is worth it has to be asked again afterwards.
    pub async fn merge(&mut self, job: MergeJob, shutdown: &CancellationToken) -> Result<Step, TableError> {
        self.view.refresh(&self.table).await?;
        if !is_live(&job, &self.view) {
            return Ok(Step::Lost);
        }
        let date = job.date;
        let ended = self.worker.begin(self.table.at(&self.view.state)?, job, None, shutdown).await;
        Ok(match self.worker.settle(&self.table, &mut self.view, ended).await? {
            Settled::Committed(merged) => {
                self.chosen.extend(merged.files.iter().map(|file| file.path.clone()));
                Step::Merged(Sum {
                    merges: 1,
                    files_in: merged.inputs.len() as u64,
                    files_out: merged.files.len() as u64,
                    rows: merged.rows(),
                    duplicates: merged.duplicates,
                    bytes_in: merged.bytes_in(),
                    bytes_out: merged.bytes_out(),
                })
            }
            Settled::Lost => Step::Lost,
            Settled::Stopped => Step::Stopped,
            Settled::Failed { .. } => {
                self.given_up.insert(date);
                Step::Failed
            }
        })
    }
}
