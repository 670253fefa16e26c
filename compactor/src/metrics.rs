//! The series of this role: call sites name a fact, this file knows what is counted.

use crate::merge::Merged;
use crate::plan::{MergeJob, Policy};
use crate::sweep::{ExpiredDate, Why};
use lake::DataFile;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const FILES_REPLACED: &str = "lakehose_compactor_files_replaced_total";
const SEGMENTS: &str = "lakehose_compactor_segments_written_total";
const ROWS: &str = "lakehose_compactor_rows_merged_total";
const ROWS_READ: &str = "lakehose_compactor_rows_read_total";
const BYTES_READ: &str = "lakehose_compactor_bytes_read_total";
const BYTES_WRITTEN: &str = "lakehose_compactor_bytes_written_total";
const DUPLICATES: &str = "lakehose_compactor_duplicates_dropped_total";
const RACES_LOST: &str = "lakehose_compactor_races_lost_total";
const JOBS_FAILED: &str = "lakehose_compactor_jobs_failed_total";
const FILES_DELETED: &str = "lakehose_compactor_files_deleted_total";
const FILES_EXPIRED: &str = "lakehose_compactor_files_expired_total";
const ROWS_EXPIRED: &str = "lakehose_compactor_rows_expired_total";
const FILES_LIVE: &str = "lakehose_compactor_files_live";
const FILES_SMALL: &str = "lakehose_compactor_small_files";
const BYTES_SMALL: &str = "lakehose_compactor_small_files_bytes";
const FILES_WAITING: &str = "lakehose_compactor_waiting_files";
const OLDEST_WAITING: &str = "lakehose_compactor_oldest_waiting_file_seconds";
const WINDOWS_OWNED: &str = "lakehose_compactor_windows_owned";
const COMPACTORS: &str = "lakehose_compactor_compactors_present";
const JOBS_RUNNING: &str = "lakehose_compactor_jobs_running";
const TABLES_FAILING: &str = "lakehose_compactor_tables_failing";
const JOB_SECONDS: &str = "lakehose_compactor_job_seconds";

/// Registers what every series means.
pub fn describe() {
    describe_counter!(FILES_REPLACED, "Files that left the table for merged ones");
    describe_counter!(SEGMENTS, "Merged files that came into the table");
    describe_counter!(ROWS, "Rows of merged files that came into the table");
    describe_counter!(
        ROWS_READ,
        "Rows that merges have taken up so far, whether or not the result comes into the table"
    );
    describe_counter!(BYTES_READ, "Bytes of files that were merged, whether or not the result came into the table");
    describe_counter!(BYTES_WRITTEN, "Bytes of merged files, whether or not they came into the table");
    describe_counter!(DUPLICATES, "Copies of events (same device_id and id) that were left out");
    describe_counter!(RACES_LOST, "Merges whose inputs another compactor replaced first");
    describe_counter!(JOBS_FAILED, "Merges that ended with nothing to commit");
    describe_counter!(FILES_DELETED, "Objects deleted: removed from the table before, never in it, or of its log");
    describe_counter!(
        FILES_EXPIRED,
        "Files that left the table because their date is older than the dataset's retention"
    );
    describe_counter!(ROWS_EXPIRED, "Rows of files that left the table because of their age");
    describe_gauge!(FILES_LIVE, "Files that make up the table, as of the last look at it");
    describe_gauge!(FILES_SMALL, "Files that are smaller than a good one, whether or not a merge is worth it yet");
    describe_gauge!(BYTES_SMALL, "Bytes of those files");
    describe_gauge!(FILES_WAITING, "Files whose merge is worth it and not done, by whichever compactor");
    describe_gauge!(OLDEST_WAITING, "Age of the oldest file whose merge is worth it and not done; 0 if there is none");
    describe_gauge!(WINDOWS_OWNED, "Dates of the table that this compactor works on");
    describe_gauge!(COMPACTORS, "Compactors that share the work, this one included");
    describe_gauge!(JOBS_RUNNING, "Merges under way in this process");
    describe_gauge!(TABLES_FAILING, "Tables that were not compacted at the last try because the store failed");
    describe_histogram!(JOB_SECONDS, "Seconds from the first read of a merge to its commit");
}

pub(crate) fn rows_read(rows: usize) {
    counter!(ROWS_READ).increment(rows as u64);
}

pub(crate) fn file_merged(merged: &Merged) {
    counter!(BYTES_READ).increment(merged.bytes_in());
    counter!(BYTES_WRITTEN).increment(merged.bytes_out());
}

pub(crate) fn files_swapped(table: &str, merged: &Merged, took: Duration) {
    let table = || table.to_owned();
    counter!(FILES_REPLACED, "table" => table()).increment(merged.inputs.len() as u64);
    counter!(SEGMENTS, "table" => table()).increment(merged.files.len() as u64);
    counter!(ROWS, "table" => table()).increment(merged.rows());
    counter!(DUPLICATES, "table" => table()).increment(merged.duplicates);
    histogram!(JOB_SECONDS, "table" => table()).record(took);
}

pub(crate) fn race_lost(table: &str) {
    counter!(RACES_LOST, "table" => table.to_owned()).increment(1);
}

pub(crate) fn job_failed(table: &str) {
    counter!(JOBS_FAILED, "table" => table.to_owned()).increment(1);
}

pub(crate) fn file_deleted(table: &str, why: Why) {
    counter!(FILES_DELETED, "table" => table.to_owned(), "kind" => why.as_str()).increment(1);
}

pub(crate) fn date_expired(table: &str, expired: &ExpiredDate) {
    counter!(FILES_EXPIRED, "table" => table.to_owned()).increment(expired.files as u64);
    counter!(ROWS_EXPIRED, "table" => table.to_owned()).increment(expired.rows);
}

pub(crate) fn files_live(table: &str, files: usize) {
    gauge!(FILES_LIVE, "table" => table.to_owned()).set(files as f64);
}

/// What there is to do on a table, whoever does it.
pub(crate) fn table_planned(table: &str, files: &[Arc<DataFile>], jobs: &[MergeJob], policy: &Policy, now_ms: i64) {
    let table = || table.to_owned();
    let small = files.iter().filter(|file| !policy.is_good(file));
    let (count, bytes) = small.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.size));
    let waiting: HashSet<&str> = jobs.iter().flat_map(|job| &job.inputs).map(|file| file.path.as_str()).collect();
    let oldest_ms = jobs.iter().flat_map(|job| &job.inputs).map(|file| file.modified_ms).min().unwrap_or(now_ms);
    gauge!(FILES_SMALL, "table" => table()).set(count as f64);
    gauge!(BYTES_SMALL, "table" => table()).set(bytes as f64);
    gauge!(FILES_WAITING, "table" => table()).set(waiting.len() as f64);
    gauge!(OLDEST_WAITING, "table" => table()).set((now_ms - oldest_ms).max(0) as f64 / 1e3);
}

pub(crate) fn windows_owned(table: &str, windows: usize) {
    gauge!(WINDOWS_OWNED, "table" => table.to_owned()).set(windows as f64);
}

pub(crate) fn compactors_present(compactors: usize) {
    gauge!(COMPACTORS).set(compactors as f64);
}

pub(crate) fn tables_failing(tables: usize) {
    gauge!(TABLES_FAILING).set(tables as f64);
}

/// Counts a merge as under way until it is dropped.
pub(crate) struct Running;

impl Running {
    pub(crate) fn begin() -> Running {
        gauge!(JOBS_RUNNING).increment(1.0);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!(JOBS_RUNNING).decrement(1.0);
    }
}
