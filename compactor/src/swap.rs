//! Puts merged files in the place of their inputs, in one commit.
//!
//! The commit is made only on a version at which every input is live (invariant I5). If somebody else makes the next
//! version first, as appenders do all the time, the new version is looked at and decided anew. Inputs that are gone mean
//! that another compactor was faster: the merged files stay behind as orphans, and nothing is wrong.

use crate::members::PROCESS;
use crate::merge::Merged;
use crate::view::View;
use futures::future::try_join_all;
use lake::store::StoreError;
use lake::table::{COMMIT_WITHIN, millis, now_ms};
use lake::{Change, DataFile, Outcome, Table, TableError, TableState};
use object_store::ObjectStoreExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What became of merged files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// They are in the table, and their inputs are not.
    Committed,
    /// An input left the table before, or they are too old to be relied upon, or gone.
    Lost,
}

/// Attempts at a store that fails.
const ATTEMPTS: u32 = 6;

/// Swaps the inputs for the merged files. An error leaves open which of them is in the table; never both, never neither.
pub async fn swap(table: &Table, view: &mut View, merged: &Merged) -> Result<Swapped, TableError> {
    let change = change(merged);
    let mut failures = 0;
    loop {
        match attempt(table, view, merged, &change).await {
            Ok(Some(swapped)) => return Ok(swapped),
            Ok(None) => {}
            Err(error) if error.is_retryable() && failures + 1 < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(50 << failures)).await;
                failures += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One look and one commit; `None` if it has to be decided anew.
async fn attempt(
    table: &Table,
    view: &mut View,
    merged: &Merged,
    change: &Change,
) -> Result<Option<Swapped>, TableError> {
    view.refresh(table).await?;
    match decide(&view.state, &merged.inputs, &merged.files) {
        Decision::AlreadyThere => Ok(Some(Swapped::Committed)),
        Decision::InputsGone => Ok(Some(Swapped::Lost)),
        Decision::Commit if is_stale(&merged.files, now_ms()) => Ok(Some(Swapped::Lost)),
        Decision::Commit if !are_stored(table, &merged.files).await? => Ok(Some(Swapped::Lost)),
        Decision::Commit => match table.commit(&mut view.state, change).await? {
            Outcome::Committed => Ok(Some(Swapped::Committed)),
            Outcome::Conflict => Ok(None),
        },
    }
}

/// This process may have slept since it wrote them: a sweep may have taken them for orphans meanwhile.
fn is_stale(outputs: &[DataFile], now_ms: i64) -> bool {
    outputs.iter().any(|output| now_ms.saturating_sub(output.modified_ms) > millis(COMMIT_WITHIN))
}

/// Whether the store still has the files. No clock need tell how long this process slept, and a version must not name what
/// is gone. Who sleeps between this and the commit finds its place taken: an orphan is deleted only when the table has
/// files that are a day younger.
pub(crate) async fn are_stored(table: &Table, files: impl IntoIterator<Item = &DataFile>) -> Result<bool, StoreError> {
    let look = files.into_iter().map(|file| async {
        let path = table.file_path(&file.path);
        match table.store().head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Object { operation: "read", path: path.to_string(), source }),
        }
    });
    Ok(try_join_all(look).await?.into_iter().all(|is_stored| is_stored))
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Commit,
    /// An earlier attempt, whose answer was lost, has done it.
    AlreadyThere,
    InputsGone,
}

fn decide(state: &TableState, inputs: &[Arc<DataFile>], outputs: &[DataFile]) -> Decision {
    // All came in one commit. Some may have been merged on since, before the answer was asked for again.
    if outputs.iter().any(|output| state.files().contains_key(&output.path)) {
        return Decision::AlreadyThere;
    }
    let all_live = inputs.iter().all(|input| state.files().contains_key(&input.path));
    if all_live { Decision::Commit } else { Decision::InputsGone }
}

fn change(merged: &Merged) -> Change {
    let facts: [(&str, Value); 9] = [
        ("date", merged.date.to_string().into()),
        ("filesIn", merged.inputs.len().into()),
        ("filesOut", merged.files.len().into()),
        ("rows", merged.rows().into()),
        ("duplicates", merged.duplicates.into()),
        ("bytesIn", merged.bytes_in().into()),
        ("bytesOut", merged.bytes_out().into()),
        ("millis", (merged.began.elapsed().as_millis() as u64).into()),
        ("by", PROCESS.as_str().into()),
    ];
    Change {
        operation: "OPTIMIZE",
        parameters: facts.map(|(name, value)| (name.to_owned(), value)).into(),
        adds: merged.files.clone(),
        removes: merged.inputs.iter().map(|file| DataFile::clone(file)).collect(),
        data_change: false,
        ..Change::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_waited_for_half_a_day_are_not_committed() {
        let file = |modified_ms| DataFile {
            path: "date=2026-11-22/a.parquet".to_owned(),
            size: 1,
            date: "2026-11-22".parse().unwrap(),
            modified_ms,
            stats: Default::default(),
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        };
        let now_ms = millis(2 * COMMIT_WITHIN);
        let oldest_ms = millis(COMMIT_WITHIN);
        assert!(!is_stale(&[], now_ms));
        assert!(!is_stale(&[file(oldest_ms), file(now_ms)], now_ms));
        assert!(is_stale(&[file(now_ms), file(oldest_ms - 1)], now_ms));
    }
}
