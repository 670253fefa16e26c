//! Reads the deduplication windows of partitions from the table, before the first record of them is read.
//!
//! A window must know the rows that are in the table and no others: a key of a row that was never committed would make
//! the record, when it is read again, look repeated, and it would be lost. So whenever a partition starts or starts
//! again, its window is made anew from rows below the position at which reading starts.
//!
//! The latest rows stand in the files of the latest commits, which are followed backwards until a commit has nothing
//! young enough. That reads fragments, small files, also of rows that were merged since: merged files stay for as long as
//! a window may reach. A partition that has not moved for longer than the window, or whose fragments are gone after all,
//! is read from the files that are live.
//!
//! No record is passed until the windows are there: what the store refuses is asked for again. Memory is bounded by the
//! limits of the windows and by the bytes of files under way.

use crate::breaker::Breakers;
use crate::committer::app_id;
use crate::decode::is_made_id;
use crate::window::{Secret, Window};
use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};
use lake::actions::Action;
use lake::reader::FileReader;
use lake::store::StoreError;
use lake::table::now_ms;
use lake::{DataFile, Keep, Table, range};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Commits that are read at a time.
const COMMITS: usize = 32;
/// Files that are read at a time, and how many bytes they may have together; one larger file is read by itself.
const FILES: usize = 8;
const FILE_KIB: u32 = 32 << 10;
/// Gateways' clocks and the order of records may be off by so much.
const SLACK: Duration = Duration::from_secs(60);
/// What a window needs of a row, in the order of the table's columns.
const COLUMNS: [&str; 5] = ["id", "device_id", "received_at", "kafka_partition", "kafka_offset"];

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

/// What became of reading a file.
#[derive(Debug)]
enum Read {
    /// When the latest row of each partition was received.
    Rows(BTreeMap<i32, i64>),
    Gone,
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
        let read = || async {
            self.try_windows(positions, limit).await.context("read the deduplication window from the table")
        };
        self.breakers.commits().repeat(read).await
    }

    async fn try_windows(
        &self,
        positions: &[(i32, Option<i64>)],
        limit: usize,
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
            // Not older than the positions: they were asked for before.
            let version = self.table.load(Keep::Txns, &[]).await?.version;
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

    /// Reads what the commits up to `version` added, the latest first.
    async fn follow_commits(&self, parts: &Mutex<Parts>, version: u64) -> anyhow::Result<()> {
        // Version 0 only creates the table.
        let commits = (1..=version).rev().map(|version| self.table.read_commit(version));
        let mut commits = futures::stream::iter(commits).buffered(COMMITS).chunks(COMMITS);
        let mut oldest_ms = None;
        while let Some(chunk) = commits.next().await {
            let mut files = Vec::new();
            let mut at_ms = i64::MAX;
            for actions in chunk {
                let Some(actions) = actions? else {
                    // Somebody cleaned up the log.
                    settle(parts, Search::Unseen, Search::Live);
                    settle(parts, Search::Following, Search::Live);
                    break;
                };
                at_ms = committed_at(&actions).min(at_ms);
                if at_ms < *oldest_ms.get_or_insert(at_ms.saturating_sub(self.reach().as_millis() as i64)) {
                    settle(parts, Search::Unseen, Search::Live);
                }
                self.see(&actions, parts);
                files.push((committed_at(&actions).saturating_mul(1_000), added(&actions, parts)?));
            }
            self.read_commits(parts, files).await?;
            let is_idle = oldest_ms.is_some_and(|oldest_ms| at_ms < oldest_ms);
            self.finish_older(parts, at_ms.saturating_mul(1_000), is_idle);
            if searched(parts, Search::Unseen).is_empty() && searched(parts, Search::Following).is_empty() {
                return Ok(());
            }
        }
        settle(parts, Search::Unseen, Search::Done);
        settle(parts, Search::Following, Search::Done);
        Ok(())
    }

    /// Notes of which partitions the offsets moved.
    fn see(&self, actions: &[Action], parts: &Mutex<Parts>) {
        let moved: Vec<&str> = actions.iter().filter_map(|action| Some(action.txn.as_ref()?.app_id.as_str())).collect();
        let mut parts = lock(parts);
        for (partition, part) in parts.iter_mut().filter(|(_, part)| part.search == Search::Unseen) {
            if moved.contains(&app_id(self.table.name(), *partition).as_str()) {
                part.search = Search::Following;
            }
        }
    }

    /// Ends the search for partitions of which everything committed before `at` is too old: a row is received before it
    /// is committed.
    fn finish_older(&self, parts: &Mutex<Parts>, at: i64, is_idle: bool) {
        for part in lock(parts).values_mut().filter(|part| part.search == Search::Following) {
            if at < self.long_before(&part.window) {
                part.search = Search::Done;
            } else if is_idle && part.window.newest().is_none() {
                // Its offsets moved, but over dead letters or gaps.
                part.search = Search::Live;
            }
        }
    }

    /// Reads the files of some commits, and finds out for which partitions that was enough.
    ///
    /// One commit of old rows says little of those before it: a dead letter that is replayed keeps the time at which it was
    /// received. In a backlog, on the other hand, all are of old rows, and commits as far back as those would be many.
    async fn read_commits(&self, parts: &Mutex<Parts>, commits: Vec<(i64, Vec<DataFile>)>) -> anyhow::Result<()> {
        let not_before = {
            let parts = lock(parts);
            let following = parts.values().filter(|part| part.search == Search::Following);
            following.map(|part| self.long_before(&part.window)).min().unwrap_or(i64::MIN)
        };
        let at: Vec<i64> = commits.iter().map(|(at, _)| *at).collect();
        let files = commits.into_iter().enumerate();
        let files = files.flat_map(|(n, (_, files))| files.into_iter().map(move |file| (n, file)));
        let mut read = futures::stream::iter(files)
            .map(|(n, file)| async move { anyhow::Ok((n, self.read(&file, parts, not_before).await?, file)) })
            .buffered(FILES);
        let mut latest: BTreeMap<(usize, i32), i64> = BTreeMap::new();
        while let Some((commit, rows, file)) = read.try_next().await? {
            let mut parts = lock(parts);
            for range in &file.ranges {
                let Some(part) = parts.get_mut(&range.partition) else { continue };
                match &rows {
                    Read::Gone => part.search = Search::Live,
                    Read::Rows(rows) => {
                        let row = rows.get(&range.partition).copied();
                        let latest = latest.entry((commit, range.partition)).or_insert(i64::MIN);
                        *latest = row.unwrap_or(i64::MIN).max(*latest);
                    }
                }
            }
        }
        for ((commit, partition), latest) in latest {
            let mut parts = lock(parts);
            let part = parts.get_mut(&partition).filter(|part| part.search == Search::Following);
            let Some(part) = part else { continue };
            let is_old = latest < self.long_before(&part.window);
            part.old_from = is_old.then(|| part.old_from.unwrap_or(at[commit]));
            let old_for = part.old_from.map_or(0, |from| from.saturating_sub(at[commit]));
            if part.window.is_cut() || old_for >= self.reach().as_micros() as i64 {
                part.search = Search::Done;
            }
        }
        Ok(())
    }

    /// Reads live files for the partitions that still need them: first those with the latest offsets, from which it
    /// follows how old the others may be.
    async fn read_live(&self, parts: &Mutex<Parts>, version: u64) -> anyhow::Result<()> {
        let wanted = searched(parts, Search::Live);
        if wanted.is_empty() {
            return Ok(());
        }
        let of_wanted = wanted.clone();
        let is_wanted = move |file: &DataFile| !reaches(file, &of_wanted).is_empty();
        let mut files = self.table.find_files(version, is_wanted).await?;
        files.sort_by_key(|file| std::cmp::Reverse(file.modified_ms));
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, end) in files.iter().flat_map(|file| reaches(file, &wanted)) {
            let last = last.entry(partition).or_insert(end);
            *last = end.max(*last);
        }
        let has_last = |file: &DataFile| reaches(file, &wanted).iter().any(|(partition, end)| last[partition] == *end);
        let (first, others): (Vec<DataFile>, Vec<DataFile>) = files.into_iter().partition(has_last);
        self.read_all(parts, first).await?;
        let is_young = |file: &DataFile| {
            let parts = lock(parts);
            let needs = |window: &Window| !window.is_cut() && file.modified_ms * 1_000 >= self.long_before(window);
            reaches(file, &wanted).iter().any(|(partition, _)| needs(&parts[partition].window))
        };
        // What was read tells which of the next are young.
        let mut others = others.into_iter();
        loop {
            let next: Vec<DataFile> = others.by_ref().filter(is_young).take(FILES).collect();
            if next.is_empty() {
                return Ok(());
            }
            self.read_all(parts, next).await?;
        }
    }

    async fn read_all(&self, parts: &Mutex<Parts>, files: Vec<DataFile>) -> anyhow::Result<()> {
        let live = lock(parts).values().filter(|part| part.search == Search::Live).map(|p| p.window.horizon()).min();
        let not_before = live.unwrap_or(i64::MIN);
        let mut read = futures::stream::iter(files)
            .map(|file| async move { anyhow::Ok((self.read(&file, parts, not_before).await?, file)) })
            .buffered(FILES);
        while let Some((read, file)) = read.try_next().await? {
            if matches!(read, Read::Gone) {
                // Merged away since the version was read; the next version has what replaced it.
                return Err(not_now(&file, "it is no longer live").into());
            }
        }
        Ok(())
    }

    /// Puts the keys of a file into the windows. Row groups of which no row was received at or after `not_before` may be
    /// left out.
    async fn read(&self, file: &DataFile, parts: &Mutex<Parts>, not_before: i64) -> anyhow::Result<Read> {
        let kib = u32::try_from(file.size / 1024 + 1).unwrap_or(u32::MAX).min(FILE_KIB);
        let _under_way = self.reading.acquire_many(kib).await?;
        match self.read_rows(file, parts, not_before).await {
            Ok(latest) => Ok(Read::Rows(latest)),
            Err(err) => match store_error(&err) {
                Some(object_store::Error::NotFound { .. }) => Ok(Read::Gone),
                Some(_) => Err(unanswered(file, err).into()),
                None => {
                    let (path, error) = (&file.path, format!("{:#}", anyhow::Error::from(err)));
                    warn!(path, error, "file cannot be read; events repeated from it will be written again");
                    Ok(Read::Rows(BTreeMap::new()))
                }
            },
        }
    }

    async fn read_rows(
        &self,
        file: &DataFile,
        parts: &Mutex<Parts>,
        not_before: i64,
    ) -> Result<BTreeMap<i32, i64>, ParquetError> {
        let path = self.table.file_path(&file.path);
        let reader = FileReader::open(Arc::clone(self.table.store()), path, file.size).await?;
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
        let is_young = |group: &RowGroupMetaData| latest_of(group).is_none_or(|latest| latest >= not_before);
        let groups = builder.metadata().row_groups().iter().enumerate().filter(|(_, group)| is_young(group));
        let groups = groups.map(|(index, _)| index).collect();
        let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        let mut rows = builder.with_projection(columns).with_row_groups(groups).build()?;
        let mut latest = BTreeMap::new();
        while let Some(batch) = rows.try_next().await? {
            remember(&batch, &mut lock(parts), &mut latest)?;
        }
        Ok(latest)
    }

    fn reach(&self) -> Duration {
        self.span + SLACK
    }

    /// The time before which rows are too old for a window, and no younger ones can come after them.
    fn long_before(&self, window: &Window) -> i64 {
        window.newest().map_or(i64::MIN, |newest| newest - self.reach().as_micros() as i64)
    }
}

/// Puts rows into the windows of their partitions.
fn remember(batch: &RecordBatch, parts: &mut Parts, latest: &mut BTreeMap<i32, i64>) -> Result<(), ParquetError> {
    let missing = |name: &str| ParquetError::General(format!("no column {name}"));
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| missing(name));
    let [id, device_id, received_at, partition, offset] = COLUMNS.map(column);
    let id = id?.as_string_opt::<i32>().ok_or_else(|| missing("id"))?;
    let device_id = device_id?.as_string_opt::<i32>().ok_or_else(|| missing("device_id"))?;
    let received_at =
        received_at?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| missing("received_at"))?;
    let partition = partition?.as_primitive_opt::<Int32Type>().ok_or_else(|| missing("kafka_partition"))?;
    let offset = offset?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing("kafka_offset"))?;
    // As for records: a clock that is ahead must not push everything else out.
    let now = now_ms() * 1_000;
    for row in 0..batch.num_rows() {
        let Some(part) = parts.get_mut(&partition.value(row)) else { continue };
        if offset.value(row) >= part.below || id.is_null(row) || device_id.is_null(row) {
            continue;
        }
        let at = received_at.value(row).min(now);
        let latest = latest.entry(partition.value(row)).or_insert(at);
        *latest = at.max(*latest);
        if !is_made_id(id.value(row), partition.value(row), offset.value(row)) {
            part.window.remember(device_id.value(row), id.value(row), at);
        }
    }
    Ok(())
}

/// The files of a commit with new rows of partitions that are looked for in commits. Segments hold no new rows.
fn added(actions: &[Action], parts: &Mutex<Parts>) -> anyhow::Result<Vec<DataFile>> {
    let wanted = |below: &BTreeMap<i32, i64>, file: &DataFile| !reaches(file, below).is_empty();
    let mut below = searched(parts, Search::Unseen);
    below.append(&mut searched(parts, Search::Following));
    let adds = actions.iter().filter_map(|action| action.add.as_ref()).filter(|add| add.data_change);
    let files = adds.map(|add| add.to_file().map_err(anyhow::Error::msg)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| wanted(&below, file)).collect())
}

/// Milliseconds since the epoch.
fn committed_at(actions: &[Action]) -> i64 {
    actions.iter().find_map(|action| action.commit_info.as_ref()).map_or(i64::MAX, |info| info.timestamp)
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

/// When the latest row of a row group was received, if the file says so.
fn latest_of(group: &RowGroupMetaData) -> Option<i64> {
    let column = group.columns().iter().find(|column| column.column_path().string() == "received_at")?;
    match column.statistics()? {
        Statistics::Int64(statistics) => statistics.max_opt().copied(),
        _ => None,
    }
}

/// An error of a file that may be read later.
fn not_now(file: &DataFile, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    let source = object_store::Error::Generic { store: "lake", source: source.into() };
    StoreError::Object { operation: "read", path: file.path.clone(), source }
}

/// What the store says of a file that it does not hand out, as it says it: a refusal of rights is no outage.
fn unanswered(file: &DataFile, error: ParquetError) -> StoreError {
    let ParquetError::External(source) = error else { return not_now(file, error) };
    match source.downcast() {
        Ok(source) => StoreError::Object { operation: "read", path: file.path.clone(), source: *source },
        Err(source) => not_now(file, source),
    }
}

fn store_error(error: &ParquetError) -> Option<&object_store::Error> {
    let ParquetError::External(source) = error else { return None };
    let mut source: &(dyn std::error::Error + 'static) = source.as_ref();
    loop {
        if let Some(found) = source.downcast_ref::<object_store::Error>() {
            return Some(found);
        }
        source = source.source()?;
    }
}
