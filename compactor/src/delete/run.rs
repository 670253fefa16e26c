//! The deletion as a whole: looks at every file that may hold rows that are meant, and replaces those that do in one
//! commit.
//!
//! Others go on meanwhile. Each attempt looks at the files that came since the one before, and keeps what it knows of the
//! others, so beside appenders it soon has only the latest file to read. A file that a compactor merged away after it was
//! rewritten makes that work void: the rewritten file stays an orphan, and the merged one is looked at.
//!
//! Until the commit the new files are orphans too, which a sweep deletes at some age. A deletion that comes near it gives
//! up: a file must not be committed that may be gone.

use super::predicate::Predicate;
use super::prune;
use super::report::{DeleteError, Deleted, Found, Progress, Settings};
use super::rewrite::{self, Rewritten};
use crate::input::Input;
use crate::members::PROCESS;
use crate::merge::Budget;
use crate::swap::are_stored;
use futures::StreamExt;
use lake::table::{millis, now_ms};
use lake::{Change, DataFile, Keep, Outcome, Table, TableError, TableState};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};
use uuid::Uuid;

/// Attempts at a store that fails, without getting further.
const ATTEMPTS: u32 = 6;

/// How often others may replace files under a deletion before it gives up.
const ROUNDS: u32 = 20;

/// Files that are looked at side by side, as far as the memory allows.
const FILES: usize = 8;

/// Name of the fact in a commit by which a deletion knows its own.
const DELETION: &str = "deletion";

/// What is known of a file.
#[derive(Debug, Clone)]
enum Fate {
    /// None of its rows is meant.
    Clean,
    Holds {
        rows: u64,
    },
    Rewritten(Rewritten),
}

/// Whether rows are only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Count,
    Rewrite,
}

/// A commit whose outcome is not known yet.
#[derive(Debug)]
struct Attempt {
    id: Value,
    deleted: Deleted,
}

/// Deletes the rows of a table that are meant.
#[derive(Debug)]
pub struct Deletion {
    table: Table,
    predicate: Arc<Predicate>,
    settings: Settings,
    began: Instant,
    state: TableState,
    /// By path.
    known: HashMap<String, Fate>,
    /// Rewritten files whose originals others replaced.
    lost: HashSet<String>,
    rounds_lost: u32,
    attempts: Vec<Attempt>,
    /// Those that are no version as far as was known then.
    conflicts: Vec<Attempt>,
    progress: watch::Sender<Progress>,
    /// Failures in a row, and how far it had come at the last of them.
    failures: u32,
    done_then: u64,
}

impl Deletion {
    /// Reads the latest version of the table.
    pub async fn new(table: Table, predicate: Predicate, settings: Settings) -> Result<Deletion, DeleteError> {
        let state = table.load(Keep::Files, &[]).await?;
        Ok(Deletion {
            table,
            predicate: Arc::new(predicate),
            settings,
            began: Instant::now(),
            state,
            known: HashMap::new(),
            lost: HashSet::new(),
            rounds_lost: 0,
            attempts: Vec::new(),
            conflicts: Vec::new(),
            progress: watch::Sender::default(),
            failures: 0,
            done_then: 0,
        })
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether a commit was begun of which is not known what became of it. If not, nothing has happened.
    pub fn is_open(&self) -> bool {
        !self.attempts.is_empty()
    }

    /// Counts the rows that are meant in the latest version. Changes nothing.
    pub async fn find(&mut self) -> Result<Found, DeleteError> {
        loop {
            let found = async {
                self.table.refresh(&mut self.state).await?;
                self.look(Depth::Count).await
            };
            match found.await {
                Ok(()) => return Ok(self.found()),
                Err(error) => self.rest(error).await?,
            }
        }
    }

    /// Deletes the rows that are meant, in one commit or not at all.
    pub async fn run(&mut self) -> Result<Deleted, DeleteError> {
        loop {
            match self.attempt().await {
                Ok(Some(deleted)) => return Ok(deleted),
                Ok(None) => self.failures = 0,
                Err(error) => self.rest(error).await?,
            }
        }
    }

    /// Waits before the next attempt, if there may be one.
    async fn rest(&mut self, error: DeleteError) -> Result<(), DeleteError> {
        let done = self.progress.borrow().done;
        if std::mem::replace(&mut self.done_then, done) != done {
            self.failures = 0;
        }
        self.failures += 1;
        if error.is_retryable() && self.failures < ATTEMPTS {
            tokio::time::sleep(Duration::from_millis(50 << self.failures)).await;
            return Ok(());
        }
        match self.is_open() {
            true => Err(DeleteError::Open { source: Box::new(error) }),
            false => Err(error),
        }
    }

    /// Looks until nothing is unknown, and commits once; `None` if somebody else made that version.
    async fn attempt(&mut self) -> Result<Option<Deleted>, DeleteError> {
        loop {
            self.table.refresh(&mut self.state).await?;
            if let Some(deleted) = self.committed_before().await? {
                return Ok(Some(deleted));
            }
            self.count_lost()?;
            if self.unknown(Depth::Rewrite).is_empty() {
                break;
            }
            self.look(Depth::Rewrite).await?;
        }
        let (change, mut attempt) = self.change();
        if change.removes.is_empty() {
            return Ok(Some(self.told_too_late().await?.unwrap_or(attempt.deleted)));
        }
        if self.is_late() || !self.is_stored().await? {
            return Err(DeleteError::TooLong);
        }
        attempt.deleted.version = self.state.version + 1;
        let deleted = attempt.deleted.clone();
        // Until it is known what became of it, it may have happened.
        self.attempts.push(attempt);
        match self.table.commit(&mut self.state, &change).await? {
            Outcome::Committed => {
                self.committed(&deleted).await;
                Ok(Some(deleted))
            }
            Outcome::Conflict => {
                self.conflicts.extend(self.attempts.pop());
                Ok(None)
            }
        }
    }

    /// An earlier attempt, whose answer was lost, may have made one of the versions since.
    async fn committed_before(&mut self) -> Result<Option<Deleted>, DeleteError> {
        // One of a later version may still arrive; then the next commit finds its place taken.
        while let Some(attempt) = self.attempts.first().filter(|first| first.deleted.version <= self.state.version) {
            let is_committed = self.is_in_log(attempt).await?;
            let attempt = self.attempts.remove(0);
            if is_committed {
                self.committed(&attempt.deleted).await;
                return Ok(Some(attempt.deleted));
            }
        }
        Ok(None)
    }

    /// A commit behind which others soon wrote a checkpoint was taken for a conflict. That no row is left is known
    /// without it; whose work that was, it tells.
    async fn told_too_late(&self) -> Result<Option<Deleted>, DeleteError> {
        for attempt in &self.conflicts {
            if self.is_in_log(attempt).await? {
                return Ok(Some(attempt.deleted.clone()));
            }
        }
        Ok(None)
    }

    async fn is_in_log(&self, attempt: &Attempt) -> Result<bool, DeleteError> {
        let actions = self.table.read_commit(attempt.deleted.version).await?.unwrap_or_default();
        let mut infos = actions.iter().filter_map(|action| action.commit_info.as_ref());
        Ok(infos.any(|info| info.operation_parameters.get(DELETION) == Some(&attempt.id)))
    }

    /// Whether a new file is half as old as a sweep lets it become.
    fn is_late(&self) -> bool {
        // A machine that sleeps stops one of the clocks, and somebody may set the other.
        let by_the_clock = |file: &DataFile| now_ms().saturating_sub(file.modified_ms);
        let is_old = |rewritten: &Rewritten| {
            rewritten.at.elapsed() >= self.settings.keep_orphans / 2
                || rewritten.successor.as_ref().map_or(0, by_the_clock) >= millis(self.settings.keep_orphans) / 2
        };
        self.live().any(|(_, fate)| matches!(fate, Fate::Rewritten(rewritten) if is_old(rewritten)))
    }

    /// Live files of which too little is known.
    fn unknown(&self, depth: Depth) -> Vec<Arc<DataFile>> {
        let is_unknown = |file: &DataFile| match self.known.get(&file.path) {
            None => prune::may_hold(&self.predicate, file),
            Some(Fate::Holds { .. }) => depth == Depth::Rewrite,
            Some(_) => false,
        };
        self.state.files().values().filter(|file| is_unknown(file)).map(Arc::clone).collect()
    }

    /// Looks at these files, side by side. After a failure what is under way is finished, and nothing else begun.
    async fn look(&mut self, depth: Depth) -> Result<(), DeleteError> {
        let files = self.unknown(depth);
        self.progress.send_modify(|progress| progress.files = progress.done + files.len() as u64);
        // With its own columns as they are now: no file has one that its successor lacks.
        let table = self.table.at(&self.state)?;
        let (predicate, budget) = (Arc::clone(&self.predicate), self.settings.budget);
        let memory = Semaphore::new(kib(budget.bytes()) as usize);
        let has_failed = AtomicBool::new(false);
        let (table, predicate, memory) = (&table, predicate.as_ref(), &memory);
        let mut looking = futures::stream::iter(files)
            .take_while(|_| std::future::ready(!has_failed.load(Ordering::Relaxed)))
            .map(|file| async move {
                let fate = look_at(table, predicate, &file, depth, budget, memory).await?;
                Ok::<_, DeleteError>((file, fate))
            })
            .buffer_unordered(FILES);
        let mut failure = None;
        while let Some(looked) = looking.next().await {
            let (file, fate) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    has_failed.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                    continue;
                }
            };
            if let Fate::Rewritten(Rewritten { successor: Some(successor), .. }) = &fate {
                // It was read back.
                self.known.insert(successor.path.clone(), Fate::Clean);
            }
            self.known.insert(file.path.clone(), fate);
            self.progress.send_modify(|progress| progress.done += 1);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Takes note of files that were rewritten in vain.
    fn count_lost(&mut self) -> Result<(), DeleteError> {
        let rewritten = self.known.iter().filter(|(_, fate)| matches!(fate, Fate::Rewritten(_)));
        let gone = rewritten.filter(|(path, _)| !self.state.files().contains_key(*path)).map(|(path, _)| path.clone());
        let before = self.lost.len();
        self.lost.extend(gone);
        if self.lost.len() == before {
            return Ok(());
        }
        self.rounds_lost += 1;
        info!(table = self.table.name(), round = self.rounds_lost, files = self.lost.len() - before, "races lost");
        match self.rounds_lost {
            ..ROUNDS => Ok(()),
            rounds => Err(DeleteError::Outrun { rounds }),
        }
    }

    /// Whether the store still has the oldest of the new files, whatever the clocks say: see [`are_stored`].
    async fn is_stored(&self) -> Result<bool, DeleteError> {
        let successors = self.live().filter_map(|(_, fate)| match fate {
            Fate::Rewritten(Rewritten { successor: Some(successor), at, .. }) => Some((at, successor)),
            _ => None,
        });
        let oldest = successors.min_by_key(|(at, _)| **at).map(|(_, successor)| successor);
        Ok(are_stored(&self.table, oldest).await.map_err(TableError::from)?)
    }

    fn found(&self) -> Found {
        let mut found = Found { version: self.state.version, ..Found::default() };
        for (file, fate) in self.live() {
            let Fate::Holds { rows } = fate else { continue };
            found.rows += rows;
            found.files += 1;
            found.bytes += file.size;
            *found.dates.entry(file.date).or_default() += rows;
        }
        found
    }

    /// What is known of the live files, those that were looked at.
    fn live(&self) -> impl Iterator<Item = (&Arc<DataFile>, &Fate)> {
        self.state.files().values().filter_map(|file| Some((file, self.known.get(&file.path)?)))
    }

    fn change(&self) -> (Change, Attempt) {
        let mut deleted = Deleted { version: self.state.version, ..Deleted::default() };
        deleted.files_lost = self.lost.len() as u64;
        let (mut removes, mut adds) = (Vec::new(), Vec::new());
        for (file, fate) in self.live() {
            let Fate::Rewritten(Rewritten { successor, deleted: rows, .. }) = fate else { continue };
            deleted.rows += rows;
            *deleted.dates.entry(file.date).or_default() += rows;
            deleted.bytes_in += file.size;
            removes.push(DataFile::clone(file));
            if let Some(successor) = successor {
                deleted.bytes_out += successor.size;
                adds.push(successor.clone());
            }
        }
        (deleted.files_in, deleted.files_out) = (removes.len() as u64, adds.len() as u64);
        let id = Value::from(Uuid::new_v4().to_string());
        let facts: [(&str, Value); 9] = [
            ("predicate", self.predicate.written().into()),
            ("filesIn", deleted.files_in.into()),
            ("filesOut", deleted.files_out.into()),
            ("rowsDeleted", deleted.rows.into()),
            ("bytesIn", deleted.bytes_in.into()),
            ("bytesOut", deleted.bytes_out.into()),
            ("millis", (self.began.elapsed().as_millis() as u64).into()),
            ("by", PROCESS.as_str().into()),
            (DELETION, id.clone()),
        ];
        let parameters = facts.map(|(name, value)| (name.to_owned(), value)).into();
        let change = Change { operation: "DELETE", parameters, adds, removes, data_change: true, ..Change::default() };
        (change, Attempt { id, deleted })
    }

    async fn committed(&self, deleted: &Deleted) {
        info!(
            table = self.table.name(),
            version = deleted.version,
            rows = deleted.rows,
            files_in = deleted.files_in,
            files_out = deleted.files_out,
            "rows deleted"
        );
        if let Err(failure) = self.table.checkpoint_if_due(deleted.version).await {
            warn!(table = self.table.name(), error = format!("{:#}", anyhow::Error::from(failure)), "write checkpoint");
        }
    }
}

/// Finds out what becomes of a file. Waits until there is memory for it.
async fn look_at(
    table: &Table,
    predicate: &Predicate,
    file: &DataFile,
    depth: Depth,
    budget: Budget,
    memory: &Semaphore,
) -> Result<Fate, DeleteError> {
    let input = Input::of(table, file).await?;
    let cost = kib(rewrite::cost(&input, file, budget));
    let all = kib(budget.bytes());
    let _taken = memory.acquire_many(cost.min(all)).await.expect("it is never closed");
    let rows = rewrite::count(table, predicate, file, &input).await?;
    match depth {
        _ if rows == 0 => Ok(Fate::Clean),
        Depth::Count => Ok(Fate::Holds { rows }),
        Depth::Rewrite if cost > all => Err(DeleteError::TooLarge { path: file.path.clone() }),
        Depth::Rewrite => rewrite::rewrite(table, predicate, file, &input, budget).await.map(Fate::Rewritten),
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}
