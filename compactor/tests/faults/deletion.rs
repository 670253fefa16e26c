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
    /// The deletion that met the fault may have failed; the next one makes it true in any case. Every version has all rows,
    /// or all but those that are meant, and none has them again.
    async fn finish_deletion(&self, work: &Work, result: Result<Deleted, DeleteError>, context: &str) {
        self.faults.heal();
        let left = delete(self).await.unwrap_or_else(|error| panic!("{context}: {error:#}")).rows;
        assert!(left == 0 || result.is_err(), "{context}: said to be done, and left {left} rows");
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
        assert!(is_deleted, "{context}: rows are left");
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
    for fault in [Fault::Fail, Fault::FailAfterSuccess, Fault::ExistsAfterSuccess] {
        each_request_of_a_deletion_meets(false, "", fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deletion_that_reads_something_else_than_is_stored_reads_it_again() {
    each_request_of_a_deletion_meets(false, "", Fault::Truncate).await;
    each_request_of_a_deletion_meets(true, "date=", Fault::Truncate).await;
    each_request_of_a_deletion_meets(false, "date=", Fault::Garble).await;
}

#[test]
fn a_deletion_that_is_killed_at_any_request_has_happened_or_not_at_all() {
    let work = runtime().block_on(Work::make(false));
    for request in 0.. {
        let attempt = work.again();
        attempt.faults.inject_after(request, "", Fault::Stall, usize::MAX);
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
