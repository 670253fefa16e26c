//! Decides which files are merged with which.
//!
//! Every merge costs a write of all its bytes, so a row must not be rewritten often: as often as there are levels between
//! its fragment and a segment, and once more for the sake of overlap. A file of half a segment or more is good and is not
//! merged for its size any more.
//!
//! ```text
//! a date that is written to    lift      when a reader meets too many small files, most of them become few
//! a cold date                  gather    what small files are left over, but not a large one for crumbs
//!                              cut       good files that span most of the date become files side by side
//! ```
//!
//! A date is cold when nobody writes to it any more; small and good files each have a say in their own merges alone, so a
//! trickle of late rows does not keep a date from being cut, and never makes good files be written again.
//!
//! A job is bounded: by files, rows and bytes, and by what its inputs take in memory when they are read side by side.
//! The plan depends on the files, the time and the policy alone, not on the order in which files are named.

mod small;
mod overlap;

use chrono::NaiveDate;
use lake::DataFile;
use lake::parquet::ROW_GROUP_ROWS;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What to aim for.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Size of a segment.
    pub target_bytes: u64,
    /// A date that is written to has at most so many small files.
    pub small_files: usize,
    /// Fewest files of a merge while a date is written to.
    pub min_files: usize,
    /// Most files of a merge.
    pub max_files: usize,
    /// Most rows of a merge.
    pub max_rows: u64,
    /// Most bytes of a merge.
    pub max_bytes: u64,
    /// Most memory that the inputs of a merge take together.
    pub max_memory: u64,
    /// A date not written to for so long is cold.
    pub cold_after: Duration,
    /// The first column of the order of rows. If files have no statistics of it, sizes alone decide.
    pub column: String,
}

/// Files of one date that shall become fewer, or lie side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeJob {
    pub date: NaiveDate,
    /// Two at least. If memory does not allow all, the first of them are merged.
    pub inputs: Vec<Arc<DataFile>>,
}

/// A group of files that may become a job.
type Group = Vec<Arc<DataFile>>;

/// Memory that an open input takes, a guess; the merge counts again when it knows the footers. Of a small file it is small
/// batches of rows, and as much again as so many thirds of its size for a page of each column. A large one has pages of
/// full size and dictionaries, and a row group where it is written. If that were guessed too low, a merge would take fewer
/// files than were planned, could not make them narrow, and they would be planned again and again; and as high as it is,
/// a date of some gigabytes is cut into 6 layers and not left in 18, which jobs of more files write as narrow ones.
const MEMORY_OF_BATCHES: u64 = 384 << 10;
const THIRDS_IN_PAGES: u64 = 2;
const MEMORY: u64 = 16 << 20;
const MEMORY_OF_PAGES: u64 = 10 << 20;
/// Merges write row groups of an eighth of their memory at most, of which inputs have half.
const ROW_GROUPS: u64 = 4;

/// The merges that are worth it at `now_ms` (milliseconds since the epoch), oldest date first.
pub fn plan(files: &[Arc<DataFile>], now_ms: i64, policy: &Policy) -> Vec<MergeJob> {
    let mut dates: BTreeMap<NaiveDate, Group> = BTreeMap::new();
    for file in files {
        dates.entry(file.date).or_default().push(Arc::clone(file));
    }
    dates.into_iter().flat_map(|(date, files)| plan_date(date, files, now_ms, policy)).collect()
}

fn plan_date(date: NaiveDate, files: Group, now_ms: i64, policy: &Policy) -> Vec<MergeJob> {
    let (good, mut small): (Group, Group) = files.into_iter().partition(|file| policy.is_good(file));
    small.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    let is_cold = |files: &[Arc<DataFile>]| {
        let last_write = files.iter().map(|file| file.modified_ms).max().unwrap_or_default();
        now_ms.saturating_sub(last_write) >= lake::table::millis(policy.cold_after)
    };
    let cuts = if is_cold(&good) { overlap::cut(&good, policy) } else { Vec::new() };
    let merges = if is_cold(&small) { small::gather(small, policy) } else { small::lift(small, policy) };
    merges.into_iter().chain(cuts).map(|inputs| MergeJob { date, inputs }).collect()
}

/// Whether a merge of good files of so many bytes together makes them narrow.
pub(crate) fn is_worth_a_cut(bytes: u64, segment_bytes: u64) -> bool {
    bytes >= overlap::SEGMENTS.saturating_mul(segment_bytes)
}

impl Policy {
    /// Large enough not to be merged for its size.
    pub fn is_good(&self, file: &DataFile) -> bool {
        file.size >= self.target_bytes / 2 || file.rows() >= self.max_rows / 2
    }

    /// Memory that the file takes when it is read, about.
    fn memory(&self, file: &DataFile) -> u64 {
        let row_group = file.size.checked_div(file.rows()).unwrap_or_default().saturating_mul(ROW_GROUP_ROWS as u64);
        let large = MEMORY.max(row_group.min(self.max_memory / ROW_GROUPS) + MEMORY_OF_PAGES);
        (file.size.saturating_mul(THIRDS_IN_PAGES) / 3 + MEMORY_OF_BATCHES).min(large)
    }

    /// Cuts files into groups as large as one merge may be, and keeps those that are worth it.
    fn groups(&self, files: Group, is_worth_it: impl Fn(&[Arc<DataFile>]) -> bool) -> Vec<Group> {
        let (mut groups, mut group) = (Vec::new(), Group::new());
        let (mut bytes, mut rows, mut memory) = (0, 0, 0);
        for file in files {
            let of_file = self.memory(&file);
            (bytes, rows, memory) = (bytes + file.size, rows + file.rows(), memory + of_file);
            let is_full = group.len() >= self.max_files
                || bytes > self.max_bytes
                || rows > self.max_rows
                || memory > self.max_memory;
            if is_full {
                groups.push(std::mem::take(&mut group));
                (bytes, rows, memory) = (file.size, file.rows(), of_file);
            }
            group.push(file);
        }
        groups.push(group);
        groups.retain(|group| group.len() >= 2 && is_worth_it(group));
        groups
    }
}

fn bytes(files: &[Arc<DataFile>]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

#[cfg(test)]
mod tests;
