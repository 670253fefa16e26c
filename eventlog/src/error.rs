//! Every way in which the log can say no.

use std::time::Duration;

/// Why a record was not appended. A record refused with [`AppendError::Unknown`] may still turn up in the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The log is down, stopping, or its queue is full. Nothing was written.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The disk budget is spent by records that the table has not committed yet (local log only). Nothing was written.
    #[error("the log is full: {used} of {budget} bytes hold records that are not in the table yet")]
    Full { used: u64, budget: u64 },
    /// The record is larger than the log takes. It will never be accepted.
    #[error("record of {bytes} bytes is over the log's limit of {limit} bytes")]
    TooLarge { bytes: usize, limit: usize },
    /// Sent, but no acknowledgement within the delivery time-out: it may or may not be in the log.
    #[error("no acknowledgement from the log within {0:?}")]
    Unknown(Duration),
    /// The log refuses for good, for example because of missing rights.
    #[error("the log refused the record: {0}")]
    Refused(String),
}

impl AppendError {
    /// Whether it is about this very record, which is refused however often it comes.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, AppendError::TooLarge { .. } | AppendError::Refused(_))
    }
}

/// Why [`crate::Exclusive::append`] or [`crate::Log::append_whole`] failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WholeError {
    /// Another exclusive writer was opened since. What became of these records, that one can find out.
    #[error("another writer has taken over topic {topic}")]
    Superseded { topic: String },
    /// None of the records is in the log, nor will be.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// All of them or none are in the log. An exclusive writer opened anew finds out; for the others, ids tell when the
    /// records are appended again.
    #[error("the log does not tell whether it has the records: {reason}")]
    Unknown { reason: String },
}

/// Why an operation other than an append failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Worth trying again: broker unreachable, coordinator moving, time-out.
    #[error("{what}: {reason}")]
    Unavailable { what: &'static str, reason: String },
    /// Not worth trying again: wrong credentials, invalid option, damaged or foreign data directory.
    #[error("{what}: {reason}")]
    Fatal { what: &'static str, reason: String },
}

impl LogError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LogError::Unavailable { .. })
    }
}
