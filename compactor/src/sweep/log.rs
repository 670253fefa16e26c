//! Cleans up the log of a table, after seeing to it that there is a checkpoint to clean up behind.

use super::{Mode, Report, Victim, Waiting, Why, delete};
use lake::cleanup::{self, LogObject};
use lake::table::{CHECKPOINT_EVERY, now_ms};
use lake::{Table, TableError, layout};
use std::time::Duration;
use tracing::{info, warn};

/// Whoever makes a version that asks for a checkpoint writes it. After so many more commits he is taken for dead.
const OVERDUE: u64 = CHECKPOINT_EVERY / 10;

pub(super) async fn clean(
    table: &Table,
    version: u64,
    keep: Duration,
    mode: Mode,
    report: &mut Report,
) -> Result<(), TableError> {
    let objects = table.list_log().await?;
    if is_checkpoint_overdue(&objects, version) && mode != Mode::DryRun {
        match table.checkpoint(version).await {
            Ok(()) => info!(table = table.name(), version, "overdue checkpoint written"),
            Err(failure) => note(report, table, "write checkpoint", failure),
        }
    }
    // After the listing: a checkpoint that is older than the name is in it.
    let named = table.named_checkpoint().await?;
    let cleanup = cleanup::decide(&objects, named, now_ms(), keep);
    report.waiting.extend(cleanup.waiting.map(|next| Waiting {
        why: Why::Log,
        files: next.objects,
        bytes: next.bytes,
        first_ms: next.until_ms,
        last_ms: next.until_ms,
    }));
    let Some(base) = cleanup.base else { return Ok(()) };
    // Nothing that a checkpoint stands for is needed, if it can be read.
    if let Err(failure) = table.prove_readable(base).await {
        note(report, table, "read the checkpoint to clean up behind", failure);
        return Ok(());
    }
    let victim = |object: LogObject| Victim {
        why: Why::Log,
        path: format!("{}/{}", layout::LOG, object.name),
        bytes: Some(object.bytes),
    };
    delete(table, cleanup.victims.into_iter().map(victim).collect(), mode, report).await;
    Ok(())
}

fn is_checkpoint_overdue(objects: &[LogObject], version: u64) -> bool {
    version >= cleanup::latest_checkpoint(objects).unwrap_or(0) + CHECKPOINT_EVERY + OVERDUE
}

/// The log stays as it is: that must not keep files from being merged.
fn note(report: &mut Report, table: &Table, what: &str, failure: TableError) {
    let error = format!("{:#}", anyhow::Error::from(failure));
    warn!(table = table.name(), error, "{what}");
    report.failed += 1;
    report.failure = Some(format!("{what}: {error}"));
}
