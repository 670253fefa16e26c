//! What kinds of errors there are, and how one is told.
//!
//! - Of a **record**, permanent: it becomes a dead letter with its reason, and the rest goes on (`decode::Outcome::Dead`).
//! - **Retryable**: the store, the log or the table does not answer now. The same call is made again, later and later,
//!   through the breaker of what it needs (see [`crate::breaker`]).
//! - **Fatal**: no retry cures it (refused credentials, a table that another program changed, a defect of ours). The
//!   process says what to do and ends; offsets stay where they are, so nothing is lost.
//!
//! A single refusal of rights is fatal: a supervisor that starts the process again is the slower retry, and its restarts
//! are seen, while a process that tries for hours with a revoked key looks alive.

use eventlog::LogError;
use lake::TableError;
use lake::store::StoreError;

/// Whether to make the same call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Retryable,
    Fatal,
}

impl Class {
    pub fn of(err: &anyhow::Error) -> Class {
        judge(err).0
    }
}

/// The one table of classes, and what to do about the fatal ones. What is none of the known errors is a defect, which
/// repeating does not cure.
fn judge(err: &anyhow::Error) -> (Class, Option<&'static str>) {
    let class = |is_retryable| if is_retryable { Class::Retryable } else { Class::Fatal };
    let known = err.chain().find_map(|cause| {
        if let Some(err) = cause.downcast_ref::<TableError>() {
            Some((class(err.is_retryable()), err.advice()))
        } else if let Some(err) = cause.downcast_ref::<StoreError>() {
            Some((class(err.is_retryable()), err.advice()))
        } else {
            // What to do about the log is known where its errors are made, and part of their text.
            cause.downcast_ref::<LogError>().map(|err| (class(err.is_retryable()), None))
        }
    });
    known.unwrap_or((Class::Fatal, None))
}

/// Puts what to do in front of the error, if that is known and not said yet.
pub fn with_advice(err: anyhow::Error) -> anyhow::Error {
    match judge(&err).1 {
        Some(advice) => err.context(advice),
        None => err,
    }
}

/// The error and its causes, each once: libraries that put a cause into their own message would have it told twice. Long
/// ones are cut: S3 explains a wrong signature in pages.
pub fn in_one_line(err: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in err.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !causes.iter().any(|told| told.contains(&cause)) {
            causes.push(cause);
        }
    }
    let cut = |mut cause: String| {
        if let Some((end, _)) = cause.char_indices().nth(LONGEST_CAUSE) {
            cause.truncate(end);
            cause.push('…');
        }
        cause
    };
    causes.into_iter().map(cut).collect::<Vec<_>>().join(": ")
}

/// In characters; enough for the address of an object and the code that the store answers.
const LONGEST_CAUSE: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};
    use lake::state::ForeignCommit;
    use std::io;

    fn store(source: object_store::Error) -> anyhow::Error {
        let err = StoreError::Object { operation: "store", path: "events/x.parquet".into(), source };
        anyhow::Error::from(err).context("upload a fragment")
    }

    fn generic(store: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> anyhow::Error {
        self::store(object_store::Error::Generic { store, source: source.into() })
    }

    fn answered(status: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("Error performing PUT http://s3/lake/x in 1ms - Server returned non-2xx status code: {status}").into()
    }

    #[test]
    fn what_may_pass_by_itself_is_retried() {
        let unavailable = LogError::Unavailable { what: "read a topic", reason: "no broker".into() };
        let passing = [
            generic("S3", answered("500 Internal Server Error: <Code>InternalError</Code>")),
            generic("S3", answered("503 Service Unavailable: <Code>SlowDown</Code>")),
            generic("S3", io::Error::from(io::ErrorKind::ConnectionRefused)),
            generic("S3", io::Error::from(io::ErrorKind::TimedOut)),
            generic("LocalFileSystem", io::Error::from(io::ErrorKind::StorageFull)),
            anyhow::Error::from(unavailable).context("poll the log"),
        ];
        for err in passing {
            assert_eq!(Class::of(&err), Class::Retryable, "{err:#}");
            let told = format!("{err:#}");
            assert_eq!(format!("{:#}", with_advice(err)), told);
        }
    }

    #[test]
    fn what_no_retry_cures_is_fatal_and_says_what_to_do() {
        let path = || "events/x.parquet".to_owned();
        let protocol = ForeignCommit::Protocol { version: 3, reader: 3, writer: 7 };
        let fatal = [
            (
                store(object_store::Error::PermissionDenied { path: path(), source: answered("403") }),
                "AWS_SECRET_ACCESS_KEY",
            ),
            (
                store(object_store::Error::Unauthenticated { path: path(), source: answered("401") }),
                "AWS_ACCESS_KEY_ID",
            ),
            (store(object_store::Error::NotFound { path: path(), source: answered("404: NoSuchBucket") }), "--lake"),
            (generic("S3", answered("400 Bad Request: <Code>ExpiredToken</Code>")), "AWS_SESSION_TOKEN"),
            (generic("LocalFileSystem", io::Error::from(io::ErrorKind::PermissionDenied)), "owner"),
            (generic("LocalFileSystem", io::Error::from(io::ErrorKind::ReadOnlyFilesystem)), "mounted"),
            (TableError::from(protocol).into(), "newer lakehose"),
        ];
        for (err, advice) in fatal {
            assert_eq!(Class::of(&err), Class::Fatal, "{err:#}");
            let told = in_one_line(&with_advice(err));
            assert!(told.contains(advice), "{told}");
        }
    }

    #[test]
    fn an_error_that_nobody_knows_is_not_repeated_for_ever() {
        let unknown = anyhow!("no column").context("encode");
        assert_eq!(Class::of(&unknown), Class::Fatal);
        let arrow = Err::<(), _>(io::Error::other("no column")).context("encode").unwrap_err();
        assert_eq!(Class::of(&arrow), Class::Fatal);
    }

    #[test]
    fn a_cause_that_a_message_repeats_is_told_once() {
        let err = anyhow!("refused").context("get x: refused").context("read the\n  table");
        assert_eq!(in_one_line(&err), "read the table: get x: refused");
    }

    #[test]
    fn a_cause_of_pages_is_cut_and_those_it_contains_are_not_told_again() {
        let page = "ü".repeat(2_000);
        let err = anyhow!(page.clone()).context(format!("get x: {page}")).context("read");
        let told = in_one_line(&err);
        assert!(told.starts_with("read: get x: ü") && told.ends_with("ü…"), "{told}");
        assert_eq!(told.chars().count(), "read: ".len() + LONGEST_CAUSE + 1);
    }
}
