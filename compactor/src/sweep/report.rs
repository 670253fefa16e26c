//! What a sweep did, or would do, and what it left for later.

use chrono::NaiveDate;

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its date is older than the dataset's retention: it leaves the table.
    Expired,
    /// It left the table.
    Removed,
    /// It never was in it.
    Orphan,
    /// It never became a file.
    Unfinished,
    /// A checkpoint stands for it.
    Log,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Expired => "expired",
            Why::Removed => "removed",
            Why::Orphan => "orphan",
            Why::Unfinished => "unfinished",
            Why::Log => "log",
        }
    }
}

/// What one sweep of a table came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Dates that left the table.
    pub expired: Vec<ExpiredDate>,
    /// What was deleted.
    pub deleted: Vec<Victim>,
    /// How many things could not be deleted; they stay due.
    pub failed: usize,
    /// Why the last of them could not.
    pub failure: Option<String>,
    pub waiting: Vec<Waiting>,
}

impl Report {
    /// Files that left the table for their age.
    pub fn files_expired(&self) -> usize {
        self.expired.iter().map(|date| date.files).sum()
    }
}

/// A date whose rows left the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiredDate {
    pub date: NaiveDate,
    pub files: usize,
    pub rows: u64,
    pub bytes: u64,
}

/// Something that is deleted, by its path inside the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    pub why: Why,
    pub path: String,
    /// As far as it is known.
    pub bytes: Option<u64>,
}

/// What stays for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub why: Why,
    pub files: usize,
    pub bytes: u64,
    /// When the first of it is due, milliseconds since the epoch.
    pub first_ms: i64,
    /// When all of it is.
    pub last_ms: i64,
}

impl Waiting {
    /// Of sizes and times; `None` if there is nothing.
    pub(super) fn sum(why: Why, files: &[(u64, i64)]) -> Option<Waiting> {
        let due = files.iter().map(|(_, due_ms)| *due_ms);
        let bytes = files.iter().map(|(bytes, _)| bytes).sum();
        Some(Waiting { why, files: files.len(), bytes, first_ms: due.clone().min()?, last_ms: due.max()? })
    }
}
