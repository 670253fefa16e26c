//! The series of this role: call sites name a fact, this file knows what is counted.

use crate::merge::Merged;
use crate::sweep::{ExpiredDate, Why};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

const FILES_REPLACED: &str = "lakehose_compactor_files_replaced_total";
const SEGMENTS: &str = "lakehose_compactor_segments_written_total";
const ROWS: &str = "lakehose_compactor_rows_merged_total";
const BYTES_READ: &str = "lakehose_compactor_bytes_read_total";
const BYTES_WRITTEN: &str = "lakehose_compactor_bytes_written_total";
const DUPLICATES: &str = "lakehose_compactor_duplicates_dropped_total";
const RACES_LOST: &str = "lakehose_compactor_races_lost_total";
const JOBS_FAILED: &str = "lakehose_compactor_jobs_failed_total";
const FILES_DELETED: &str = "lakehose_compactor_files_deleted_total";
const FILES_EXPIRED: &str = "lakehose_compactor_files_expired_total";
const ROWS_EXPIRED: &str = "lakehose_compactor_rows_expired_total";
const FILES_LIVE: &str = "lakehose_compactor_files_live";
const JOB_SECONDS: &str = "lakehose_compactor_job_seconds";

/// Registers what every series means.
pub fn describe() {
    describe_counter!(FILES_REPLACED, "Files that left the table for a merged one");
    describe_counter!(SEGMENTS, "Merged files that came into the table");
    describe_counter!(ROWS, "Rows of merged files that came into the table");
    describe_counter!(BYTES_READ, "Bytes of files that were merged, whether or not the result came into the table");
    describe_counter!(BYTES_WRITTEN, "Bytes of merged files, whether or not they came into the table");
    describe_counter!(DUPLICATES, "Copies of events (same device_id and id) that were left out");
    describe_counter!(RACES_LOST, "Merges whose inputs another compactor replaced first");
    describe_counter!(JOBS_FAILED, "Merges that ended without a file to commit");
    describe_counter!(FILES_DELETED, "Objects deleted: removed from the table before, never in it, or of its log");
    describe_counter!(
        FILES_EXPIRED,
        "Files that left the table because their date is older than the dataset's retention"
    );
    describe_counter!(ROWS_EXPIRED, "Rows of files that left the table because of their age");
    describe_gauge!(FILES_LIVE, "Files that make up the table, as of the last look at it");
    describe_histogram!(JOB_SECONDS, "Seconds from the first read of a merge to its commit");
}

pub(crate) fn file_merged(merged: &Merged) {
    counter!(BYTES_READ).increment(merged.bytes_in());
    counter!(BYTES_WRITTEN).increment(merged.file.size);
}

pub(crate) fn files_swapped(table: &str, merged: &Merged, took: Duration) {
    let table = || table.to_owned();
    counter!(FILES_REPLACED, "table" => table()).increment(merged.inputs.len() as u64);
    counter!(SEGMENTS, "table" => table()).increment(1);
    counter!(ROWS, "table" => table()).increment(merged.file.rows());
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
