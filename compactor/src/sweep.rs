//! Takes away what nobody needs any more, each thing when its time is over:
//!
//! ```text
//! dates     rows older than the dataset's retention leave the table       one commit; their files go as removed ones
//! files     that left the table, or never got into it                     deleted (invariant I4)
//! staging   what a killed process left of an upload to a local lake       deleted
//! log       commits that an old checkpoint stands for                     deleted; `lake::cleanup` decides
//! ```
//!
//! What is due is decided by pure functions of what is there and of the time. A clock that is wrong expires no date early
//! and deletes nothing that an upload or a query under way may need: when things were written, and when files left the
//! table, the store says, and nothing goes before its time is over by the clocks of both.

mod report;
mod dates;
mod files;
mod log;

pub(crate) use dates::is_expired;
pub use report::{ExpiredDate, Report, Victim, Waiting, Why};

use crate::metrics;
use crate::view::View;
use files::{Known, decide, is_past, waiting};
use futures::StreamExt;
use lake::store::StoreError;
use lake::table::{millis, now_ms};
use lake::{Table, TableError};
use object_store::ObjectStoreExt;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;
use tracing::warn;

/// How long things stay.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Rows, after the end of their date; `None`: for ever.
    pub dates: Option<Duration>,
    /// Files, after they left the table.
    pub removed: Duration,
    /// Files, after they were written, if they never were in it.
    pub orphans: Duration,
    /// Commits, after a checkpoint that stands for them was written.
    pub log: Duration,
}

/// What to look for, and whether to do anything about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What is found without listing the table.
    Quick,
    /// Orphans and the log as well.
    Full,
    /// As `Full`, but nothing is changed.
    DryRun,
}

/// Looks at the latest version and takes away what is due.
pub async fn sweep(table: &Table, view: &mut View, retention: Retention, mode: Mode) -> Result<Report, TableError> {
    let mut report = Report::default();
    if let Some(keep) = retention.dates {
        dates::expire(table, view, keep, mode, &mut report).await?;
    }
    let stored = if mode == Mode::Quick { Vec::new() } else { files::list(table).await? };
    // After the listing: a file that was listed and is committed since is live in this version.
    view.refresh(table).await?;
    view.learn_removals(table, retention.removed).await?;
    let known = Known { live: view.state.files(), removed: view.state.removed() };
    let mut now_ms = now_ms();
    if mode != Mode::DryRun && known.removed.values().any(|removal| is_past(removal, now_ms, retention.removed)) {
        // A clock that is fast here must not take files from queries that are under way.
        now_ms = now_ms.min(store_now_ms(table).await?);
    }
    report.waiting.extend(waiting(known, &stored, now_ms, retention));
    let bytes: HashMap<&str, u64> = stored.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
    let victim = |(path, why): (String, Why)| Victim { bytes: bytes.get(path.as_str()).copied(), path, why };
    let victims = decide(known, &stored, now_ms, retention).into_iter().map(victim).collect();
    let gone = delete(table, victims, mode, &mut report).await;
    view.state.forget_removed(&gone);
    if mode != Mode::Quick {
        delete_staging(table, now_ms, retention, mode, &mut report).await?;
        log::clean(table, view.state.version, retention.log, mode, &mut report).await?;
    }
    Ok(report)
}

/// The time by the clock of the store: it stamps an object, which no reader of the table looks at.
async fn store_now_ms(table: &Table) -> Result<i64, TableError> {
    let path = table.file_path("_lakehose_clock");
    let failed = |source| StoreError::Object { operation: "store", path: path.to_string(), source };
    table.store().put(&path, "".into()).await.map_err(failed)?;
    let object = table.store().head(&path).await.map_err(failed)?;
    Ok(object.last_modified.timestamp_millis())
}

/// Deletes are under way so many at a time.
const DELETING: usize = 16;

/// Deletes `victims`, in about their order. What cannot be deleted stays due. Answers which of them are gone.
async fn delete(table: &Table, victims: Vec<Victim>, mode: Mode, report: &mut Report) -> Vec<String> {
    if mode == Mode::DryRun {
        report.deleted.extend(victims);
        return Vec::new();
    }
    let mut deletions = futures::stream::iter(victims)
        .map(|victim| async move {
            let result = table.store().delete(&table.file_path(&victim.path)).await;
            (victim, result)
        })
        .buffer_unordered(DELETING);
    let mut gone = Vec::new();
    while let Some((victim, result)) = deletions.next().await {
        match result {
            Ok(()) => {
                metrics::file_deleted(table.name(), victim.why);
                gone.push(victim.path.clone());
                report.deleted.push(victim);
            }
            // Another compactor was faster.
            Err(object_store::Error::NotFound { .. }) => gone.push(victim.path),
            Err(error) => not_deleted(table, &victim, error, report),
        }
    }
    gone
}

fn not_deleted(table: &Table, victim: &Victim, error: impl std::fmt::Display, report: &mut Report) {
    warn!(table = table.name(), path = victim.path, %error, "delete file");
    report.failed += 1;
    report.failure = Some(format!("delete {}: {error}", victim.path));
}

/// An upload that is under way is written to all the time, so one that was not for as long as orphans stay is none.
async fn delete_staging(
    table: &Table,
    now_ms: i64,
    retention: Retention,
    mode: Mode,
    report: &mut Report,
) -> Result<(), TableError> {
    let orphans_ms = millis(retention.orphans);
    let mut young = Vec::new();
    for staging in table.list_staging().await? {
        if now_ms.saturating_sub(staging.modified_ms) <= orphans_ms {
            young.push((staging.bytes, staging.modified_ms.saturating_add(orphans_ms)));
            continue;
        }
        let victim = Victim { why: Why::Unfinished, path: staging.path.clone(), bytes: Some(staging.bytes) };
        match if mode == Mode::DryRun { Ok(()) } else { staging.delete().await } {
            Ok(()) => {
                if mode != Mode::DryRun {
                    metrics::file_deleted(table.name(), victim.why);
                }
                report.deleted.push(victim);
            }
            // Another sweep was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => not_deleted(table, &victim, error, report),
        }
    }
    report.waiting.extend(Waiting::sum(Why::Unfinished, &young));
    Ok(())
}
