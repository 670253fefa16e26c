//! What a deletion may take, what it finds and does, and why it may fail.

use crate::merge::{Budget, MergeError};
use chrono::NaiveDate;
use lake::TableError;
use std::collections::BTreeMap;
use std::time::Duration;

/// Why rows were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    File(#[from] MergeError),
    #[error("{path} does not fit into the memory of the compactor: raise [memory] compactor")]
    TooLarge { path: String },
    #[error("{path}, written without the rows, differs from {old}: {difference}")]
    Different { path: String, old: String, difference: String },
    #[error(
        "compactors replaced files under the deletion {rounds} times: run it again, or while they are stopped; nothing was \
         deleted"
    )]
    Outrun { rounds: u32 },
    #[error(
        "it took so long that a sweep may delete the new files before they are committed: delete by dates, a part at a time"
    )]
    TooLong,
    #[error("the store failed at the commit, and whether that happened is not known: run it again")]
    Open { source: Box<DeleteError> },
}

impl DeleteError {
    /// Whether the same may succeed at once.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            DeleteError::Table(error) => error.is_retryable(),
            DeleteError::File(error) => error.is_retryable(),
            DeleteError::Open { .. }
            | DeleteError::Outrun { .. }
            | DeleteError::TooLong
            | DeleteError::TooLarge { .. }
            | DeleteError::Different { .. } => false,
        }
    }

    /// Whether rows may have been deleted in spite of the error.
    pub fn is_open(&self) -> bool {
        matches!(self, DeleteError::Open { .. })
    }
}

/// What is there to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The version that was looked at.
    pub version: u64,
    pub rows: u64,
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Rows by date.
    pub dates: BTreeMap<NaiveDate, u64>,
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version of the table that the commit made; if there was nothing to delete, the one that was looked at.
    pub version: u64,
    pub rows: u64,
    /// Rows by date.
    pub dates: BTreeMap<NaiveDate, u64>,
    /// Files that left the table, and bytes of them.
    pub files_in: u64,
    pub bytes_in: u64,
    /// Files that took their place.
    pub files_out: u64,
    pub bytes_out: u64,
    /// Files that were rewritten in vain, because others replaced their originals first.
    pub files_lost: u64,
}

/// How far a deletion has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that may hold rows that are meant, as of now.
    pub files: u64,
    /// Those that were looked at.
    pub done: u64,
}

/// What a deletion may take.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub budget: Budget,
    /// How long sweeps leave files alone that are not in the table.
    pub keep_orphans: Duration,
}
