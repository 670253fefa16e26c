//! Reads the deduplication windows of partitions from the table, before the first record of them is read.
//!
//! A window must know the rows that are in the table and no others: a key of a row that was never committed would make
//! the record, when it is read again, look repeated, and it would be lost. So whenever a partition starts or starts
//! again, its window is made anew from rows below the position at which reading starts.
//!
//! The latest rows stand in the files of the latest [`commits`], which are followed backwards until a commit has nothing
//! young enough. That reads fragments, small files, also of rows that were merged since: merged files stay for as long as
//! a window may reach. A partition that has not moved for longer than the window, or whose fragments are gone after all,
//! is read from the files that are [`live`].
//!
//! No record is passed until the windows are there: what the store refuses is asked for again. Memory is bounded by the
//! limits of the windows and by the bytes of files under way.

mod commits;
mod live;
mod rows;

use crate::breaker::Breakers;
use crate::window::{Secret, Window};
use anyhow::Context;
use lake::{DataFile, Keep, Table, range};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::info;

/// Files that are read at a time, and how many bytes they may have together; one larger file is read by itself.
const FILES: usize = 8;
const FILE_KIB: u32 = 32 << 10;
/// Gateways' clocks and the order of records may be off by so much.
const SLACK: Duration = Duration::from_secs(60);

/// Makes windows from what is in the table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rebuilder {
    table: Table,
    span: Duration,
    breakers: Breakers,
    secret: Secret,
    reading: Arc<Semaphore>,
}

/// Windows that are being made, by partition.
type Parts = BTreeMap<i32, Part>;

#[derive(Debug)]
struct Part {
    /// Rows from this offset on are read from the log.
    below: i64,
    window: Window,
    search: Search,
    /// Since which commit, backwards, none had a row that is young enough; by its time, microseconds since the epoch.
    old_from: Option<i64>,
}

/// How far the search for a partition's rows has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// No commit of it was seen yet.
    Unseen,
    /// Earlier commits may have more.
    Following,
    /// In the live files, not in those of the commits.
    Live,
    Done,
}

impl Rebuilder {
    /// `span` is the dataset's `dedup_window`.
    pub fn new(table: Table, span: Duration, breakers: Breakers) -> Rebuilder {
        let reading = Arc::new(Semaphore::new(FILE_KIB as usize));
        Rebuilder { table, span, breakers, secret: Secret::random(), reading }
    }

    /// The windows of partitions that are read on from `positions`, each of at most `limit` bytes. Tries until the store
    /// answers, or until it says what no retry cures.
    pub async fn windows(
        &self,
        positions: &[(i32, Option<i64>)],
        limit: usize,
    ) -> anyhow::Result<BTreeMap<i32, Window>> {
        let version = || async { Ok(self.table.load(Keep::Txns, &[]).await.context("read the table")?.version) };
        let mut attempts = self.breakers.commits();
        loop {
            // The breakers let one call through to find out whether the store is back: this short one, for all others
            // would have to wait while files are read. Not older than the positions, which were asked for before.
            let version = self.breakers.commits().repeat(version).await?;
            match self.try_windows(positions, limit, version).await {
                Ok(windows) => return Ok(windows),
                Err(err) => attempts.failed(err.context("read the deduplication window from the table"))?,
            }
            attempts.rest().await;
        }
    }

    async fn try_windows(
        &self,
        positions: &[(i32, Option<i64>)],
        limit: usize,
        version: u64,
    ) -> anyhow::Result<BTreeMap<i32, Window>> {
        let started = Instant::now();
        let part = |(partition, position): &(i32, Option<i64>)| {
            let window = Window::new(self.span, limit, self.secret);
            // A partition that the table does not know has no rows.
            let search = if position.is_some() { Search::Unseen } else { Search::Done };
            (*partition, Part { below: position.unwrap_or_default(), window, search, old_from: None })
        };
        let parts: Mutex<Parts> = Mutex::new(positions.iter().map(part).collect());
        if !searched(&parts, Search::Unseen).is_empty() {
            self.follow_commits(&parts, version).await?;
            self.read_live(&parts, version).await?;
        }
        let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let windows: BTreeMap<i32, Window> =
            parts.into_iter().map(|(partition, part)| (partition, part.window)).collect();
        let keys: usize = windows.values().map(Window::len).sum();
        let took = started.elapsed();
        info!(partitions = windows.len(), keys, ?took, "deduplication windows read from the table");
        Ok(windows)
    }

    fn reach(&self) -> Duration {
        self.span + SLACK
    }

    /// The time before which rows are too old for a window, and no younger ones can come after them.
    fn long_before(&self, window: &Window) -> i64 {
        window.newest().map_or(i64::MIN, |newest| newest - self.reach().as_micros() as i64)
    }
}

/// Up to where a file may have rows of partitions below their given offsets.
fn reaches(file: &DataFile, below: &BTreeMap<i32, i64>) -> Vec<(i32, i64)> {
    let ranges = range::union(file.ranges.clone()).into_iter().rev();
    let mut seen = BTreeSet::new();
    let reach = |range: lake::OffsetRange| {
        let below = *below.get(&range.partition)?;
        (range.start < below && seen.insert(range.partition)).then_some((range.partition, range.end.min(below)))
    };
    ranges.filter_map(reach).collect()
}

/// The partitions of which the search is at that point, and their positions.
fn searched(parts: &Mutex<Parts>, search: Search) -> BTreeMap<i32, i64> {
    let parts = lock(parts);
    let at_that_point = parts.iter().filter(|(_, part)| part.search == search);
    at_that_point.map(|(partition, part)| (*partition, part.below)).collect()
}

fn settle(parts: &Mutex<Parts>, from: Search, to: Search) {
    for part in lock(parts).values_mut().filter(|part| part.search == from) {
        part.search = to;
    }
}

fn lock(parts: &Mutex<Parts>) -> std::sync::MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}
