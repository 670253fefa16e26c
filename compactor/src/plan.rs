//! Decides which files are merged with which.
//!
//! Every merge costs a write of all its bytes, so a row must not be rewritten often. A file of half a segment or more is
//! good and left alone. Below that there are tiers, each 32 times the one below, and a merge takes all files
//! below the top of a tier only if together they reach above it: so every merge lifts its rows by a tier at least, and no
//! row is written more often than there are tiers above the size of its fragment.
//!
//! A date that nobody writes to any more would keep what does not reach the next tier for ever. Once it is cold, the
//! rest is merged as well, except for a file so much larger than the others that it would be rewritten for crumbs.
//!
//! The plan depends on the files, the time and the policy alone, not on the order in which files are named.

use chrono::NaiveDate;
use lake::DataFile;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What to aim for.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Size of a segment.
    pub target_bytes: u64,
    /// Fewest files of a merge while a date is written to.
    pub min_files: usize,
    /// Most files of a merge.
    pub max_files: usize,
    /// Most rows of a merge.
    pub max_rows: u64,
    /// A date not written to for so long is cold.
    pub cold_after: Duration,
}

/// Files of one date that shall become one.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeJob {
    pub date: NaiveDate,
    /// Smallest first, two at least.
    pub inputs: Vec<Arc<DataFile>>,
}

/// A tier's top over the one below it.
const GROWTH: u64 = 32;

/// Tiers below a good file; files of the lowest have no lower bound.
const TIERS: u32 = 3;

/// On a cold date, a file larger than so many times all smaller ones together is not rewritten for them.
const CRUMBS: u64 = 4;

/// The merges that are worth it at `now_ms` (milliseconds since the epoch), oldest date first.
pub fn plan(files: &[Arc<DataFile>], now_ms: i64, policy: &Policy) -> Vec<MergeJob> {
    let mut dates: BTreeMap<NaiveDate, Vec<Arc<DataFile>>> = BTreeMap::new();
    for file in files {
        dates.entry(file.date).or_default().push(Arc::clone(file));
    }
    dates.into_iter().flat_map(|(date, files)| plan_date(date, files, now_ms, policy)).collect()
}

fn plan_date(date: NaiveDate, mut files: Vec<Arc<DataFile>>, now_ms: i64, policy: &Policy) -> Vec<MergeJob> {
    let last_write = files.iter().map(|file| file.modified_ms).max().unwrap_or_default();
    let is_cold = now_ms.saturating_sub(last_write) >= policy.cold_after.as_millis() as i64;
    files.retain(|file| !policy.is_good(file));
    files.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));

    let min_files = if is_cold { 2 } else { policy.min_files };
    let mut groups = Vec::new();
    for top in (0..TIERS).map(|tier| policy.good_bytes() / GROWTH.pow(tier)) {
        let above = files.split_off(files.partition_point(|file| file.size < top));
        if files.len() >= min_files && bytes(&files) >= top {
            let is_lifted = |group: &[Arc<DataFile>]| group.len() >= min_files && bytes(group) >= top;
            files = policy.cut(files, is_lifted, &mut groups);
        }
        files.extend(above);
    }
    if is_cold {
        let smaller = |files: &[Arc<DataFile>]| bytes(files) - files.last().map_or(0, |file| file.size);
        while files.last().is_some_and(|largest| largest.size > CRUMBS * smaller(&files)) {
            files.pop();
        }
        policy.cut(files, |group| group.len() >= 2, &mut groups);
    }
    groups.into_iter().map(|inputs| MergeJob { date, inputs }).collect()
}

impl Policy {
    /// Large enough to be left alone.
    pub fn is_good(&self, file: &DataFile) -> bool {
        file.size >= self.good_bytes() || file.rows() >= self.max_rows / 2
    }

    fn good_bytes(&self) -> u64 {
        self.target_bytes / 2
    }

    /// Cuts files into groups as large as one merge may be. The last group is often smaller than the others, and is
    /// returned if it is not worth a merge.
    fn cut(
        &self,
        files: Vec<Arc<DataFile>>,
        is_worth_it: impl Fn(&[Arc<DataFile>]) -> bool,
        groups: &mut Vec<Vec<Arc<DataFile>>>,
    ) -> Vec<Arc<DataFile>> {
        let mut group: Vec<Arc<DataFile>> = Vec::new();
        for file in files {
            let is_full = group.len() >= self.max_files
                || bytes(&group) >= self.target_bytes
                || rows(&group) + file.rows() > self.max_rows;
            if is_full && group.len() >= 2 {
                groups.push(std::mem::take(&mut group));
            }
            group.push(file);
        }
        if is_worth_it(&group) {
            groups.push(std::mem::take(&mut group));
        }
        group
    }
}

fn bytes(files: &[Arc<DataFile>]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

fn rows(files: &[Arc<DataFile>]) -> u64 {
    files.iter().map(|file| file.rows()).sum()
}

#[cfg(test)]
mod tests;
