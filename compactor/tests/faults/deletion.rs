//! A deletion of the rows of a device: it has happened or not at all, whichever request fails.

use super::*;
use compactor::delete::{DeleteError, Deleted, Deletion, Settings};
use compactor::merge::Budget;

const CLAUSE: &str = "device_id = 'd3'";

async fn delete(attempt: &Attempt) -> Result<Deleted, DeleteError> {
    // The kernel looks into the directory by itself when a table is opened: faults are for what comes after.
    let table = Table::open(&attempt.lake, "events", schema::events(&events())).await?.unwrap();
    let settings = Settings { budget: Budget::new(ByteSize::mib(64)), keep_orphans: config().keep_orphans.max(DAY) };
    Deletion::new(table, CLAUSE.parse().unwrap(), settings).await?.run().await
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Attempt {
    /// Every version has all rows, or all but those that are meant, and none has them again.
    async fn check_deleted(&self, work: &Work, is_done: bool, context: &str) {
        let table = self.table().await;
        let latest = table.load(Keep::Txns, &[]).await.unwrap().version;
        let stays: Vec<Row> = work.before.iter().filter(|row| row.device != "d3").cloned().collect();
        let mut is_deleted = false;
        for version in BASE..=latest {
            let rows = by_offset(read(&table, Some(version)).await);
            is_deleted |= rows == stays;
            let expected = if is_deleted { &stays } else { &work.before };
            assert!(rows == *expected, "{context}: version {version} has {} rows, not {}", rows.len(), expected.len());
        }
        assert!(is_deleted || !is_done, "{context}: said to be done, and is not");
    }

    /// The deletion that met the fault may have failed; the next one makes it true in any case.
    async fn finish_deletion(&self, work: &Work, result: Result<Deleted, DeleteError>, context: &str) {
        self.check_deleted(work, result.is_ok(), context).await;
        self.faults.heal();
        delete(self).await.unwrap_or_else(|error| panic!("{context}: {error:#}"));
        self.check_deleted(work, true, context).await;
    }
}

async fn each_request_of_a_deletion_meets(large: bool, path_part: &str, fault: Fault) {
    let work = Work::make(large).await;
    for request in 0.. {
        let attempt = work.again();
        attempt.faults.inject_after(request, path_part, fault, 1);
        let context = format!("{fault:?} of request {request}");
        let result = delete(&attempt).await;
        let was_clean = attempt.faults.injected() == 0;
        attempt.finish_deletion(&work, result, &context).await;
        if was_clean {
            assert!(request > 10, "{request}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deletion_whose_request_fails_has_happened_or_not_at_all() {
    for fault in [Fault::Fail, Fault::FailAfterSuccess, Fault::ExistsAfterSuccess, Fault::Truncate] {
        for (large, path_part) in ALL {
            each_request_of_a_deletion_meets(large, path_part, fault).await;
        }
    }
    for large in [false, true] {
        each_request_of_a_deletion_meets(large, "date=", Fault::Garble).await;
    }
}

#[test]
fn a_deletion_that_is_killed_at_any_request_has_happened_or_not_at_all() {
    for (large, path_part) in ALL {
        let work = runtime().block_on(Work::make(large));
        for request in 0.. {
            let attempt = work.again();
            attempt.faults.inject_after(request, path_part, Fault::Stall, usize::MAX);
            let killed = runtime();
            let result = killed.block_on(async {
                tokio::select! {
                    () = attempt.met() => None,
                    result = delete(&attempt) => Some(result),
                }
            });
            killed.shutdown_background();
            attempt.faults.heal();
            attempt.faults.cut_off();
            let was_done = result.is_some();
            let result = result.unwrap_or(Err(DeleteError::TooLong));
            let context = format!("killed at request {request}");
            runtime().block_on(attempt.finish_deletion(&work, result, &context));
            if was_done {
                break;
            }
        }
    }
}
