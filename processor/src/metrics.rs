//! The processor's series. Call sites name the fact; only this file knows the names.

use crate::circuit::State;
use lake::event::Reason;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

/// Says what every series means; call once, after the recorder is installed.
pub fn describe() {
    describe_counter!("lakehose_processor_events_committed_total", Unit::Count, "Rows made visible in the table");
    describe_counter!("lakehose_processor_fragments_committed_total", Unit::Count, "Files added to the table");
    describe_counter!("lakehose_processor_fragment_bytes_total", Unit::Bytes, "Bytes of fragments stored");
    describe_counter!("lakehose_processor_records_read_total", Unit::Count, "Records read from the log");
    describe_counter!("lakehose_processor_records_dead_total", Unit::Count, "Records that are not events, by reason");
    describe_counter!(
        "lakehose_processor_duplicates_total",
        Unit::Count,
        "Records not written because their event was seen within the deduplication window"
    );
    describe_gauge!(
        "lakehose_processor_dedup_window_seconds",
        Unit::Seconds,
        "How far back repeated events are recognised, in the partition where that is least; less than configured for want of memory"
    );
    describe_counter!(
        "lakehose_processor_dead_letters_committed_total",
        Unit::Count,
        "Rows added to the dead-letter table"
    );
    describe_counter!(
        "lakehose_processor_records_gone_total",
        Unit::Count,
        "Records that the log deleted before they were read: data loss"
    );
    describe_counter!(
        "lakehose_processor_flushes_rejected_total",
        Unit::Count,
        "Flushes that did not continue the table"
    );
    describe_counter!(
        "lakehose_processor_commit_conflicts_total",
        Unit::Count,
        "Commits that another writer forestalled"
    );
    describe_counter!("lakehose_processor_commit_retries_total", Unit::Count, "Commits tried again after an error");
    describe_counter!("lakehose_processor_upload_retries_total", Unit::Count, "Uploads tried again after an error");
    describe_histogram!("lakehose_processor_commit_seconds", Unit::Seconds, "Time of a commit of the table");
    describe_histogram!("lakehose_processor_encode_seconds", Unit::Seconds, "Time to sort and encode a flush");
    describe_histogram!("lakehose_processor_upload_seconds", Unit::Seconds, "Time to store a fragment");
    describe_counter!(
        "lakehose_processor_announcements_total",
        Unit::Count,
        "Flushes announced in the control topic, repeated ones included"
    );
    describe_counter!(
        "lakehose_processor_announcements_repeated_total",
        Unit::Count,
        "Flushes announced again for want of an answer"
    );
    describe_counter!(
        "lakehose_processor_announcements_unreadable_total",
        Unit::Count,
        "Records of the control topic that the committer skipped"
    );
    describe_counter!(
        "lakehose_processor_answers_total",
        Unit::Count,
        "Announcements that this process, as the committer, has answered"
    );
    describe_gauge!(
        "lakehose_processor_announcements_held",
        Unit::Count,
        "Announcements that wait for the next commit, or for one before them"
    );
    describe_gauge!(
        "lakehose_processor_is_committer",
        Unit::Count,
        "1 while this process is elected to commit for all"
    );
    describe_histogram!("lakehose_processor_commit_flushes", Unit::Count, "Flushes that one commit made visible");
    describe_gauge!("lakehose_processor_lag_records", Unit::Count, "Records in the log that are not in the table yet");
    describe_gauge!("lakehose_processor_buffered_bytes", Unit::Bytes, "Rows in memory, buffered or on their way");
    describe_gauge!("lakehose_processor_partitions", Unit::Count, "Partitions that this member reads");
    describe_gauge!(
        "lakehose_processor_breaker_state",
        Unit::Count,
        "By dependency (store, broker, committer): 0 closed, 1 half-open, 2 open"
    );
    describe_counter!(
        "lakehose_processor_breaker_openings_total",
        Unit::Count,
        "Times that a dependency was found to be down"
    );
    describe_gauge!(
        "lakehose_processor_paused",
        Unit::Count,
        "1 while partitions are paused: memory is at its bound, or a breaker is not closed"
    );
}

pub(crate) fn records_read(count: usize) {
    counter!("lakehose_processor_records_read_total").increment(count as u64);
}

pub(crate) fn record_dead(reason: Reason) {
    counter!("lakehose_processor_records_dead_total", "reason" => reason.as_str()).increment(1);
}

pub(crate) fn duplicates(dataset: &str, count: u64) {
    counter!("lakehose_processor_duplicates_total", "dataset" => dataset.to_owned()).increment(count);
}

pub(crate) fn dedup_window(dataset: &str, reach: Duration) {
    gauge!("lakehose_processor_dedup_window_seconds", "dataset" => dataset.to_owned()).set(reach.as_secs_f64());
}

pub(crate) fn records_gone(count: i64) {
    counter!("lakehose_processor_records_gone_total").increment(count.unsigned_abs());
}

pub(crate) fn encoded(elapsed: Duration) {
    histogram!("lakehose_processor_encode_seconds").record(elapsed);
}

pub(crate) fn uploaded(bytes: u64, elapsed: Duration) {
    counter!("lakehose_processor_fragment_bytes_total").increment(bytes);
    histogram!("lakehose_processor_upload_seconds").record(elapsed);
}

pub(crate) fn upload_retried() {
    counter!("lakehose_processor_upload_retries_total").increment(1);
}

pub(crate) fn committed(flushes: usize, files: usize, rows: u64, elapsed: Duration) {
    histogram!("lakehose_processor_commit_flushes").record(flushes as f64);
    counter!("lakehose_processor_fragments_committed_total").increment(files as u64);
    counter!("lakehose_processor_events_committed_total").increment(rows);
    histogram!("lakehose_processor_commit_seconds").record(elapsed);
}

pub(crate) fn commit_conflict() {
    counter!("lakehose_processor_commit_conflicts_total").increment(1);
}

pub(crate) fn commit_retried() {
    counter!("lakehose_processor_commit_retries_total").increment(1);
}

pub(crate) fn flush_rejected() {
    counter!("lakehose_processor_flushes_rejected_total").increment(1);
}

pub(crate) fn dead_letters_committed(count: u64) {
    counter!("lakehose_processor_dead_letters_committed_total").increment(count);
}

pub(crate) fn announced() {
    counter!("lakehose_processor_announcements_total").increment(1);
}

pub(crate) fn announced_again(count: usize) {
    counter!("lakehose_processor_announcements_repeated_total").increment(count as u64);
}

pub(crate) fn announcement_unreadable() {
    counter!("lakehose_processor_announcements_unreadable_total").increment(1);
}

pub(crate) fn answered(count: usize) {
    counter!("lakehose_processor_answers_total").increment(count as u64);
}

pub(crate) fn announcements_held(dataset: &str, count: usize) {
    gauge!("lakehose_processor_announcements_held", "dataset" => dataset.to_owned()).set(count as f64);
}

pub(crate) fn is_committer(dataset: &str, elected: bool) {
    gauge!("lakehose_processor_is_committer", "dataset" => dataset.to_owned()).set(if elected { 1.0 } else { 0.0 });
}

pub(crate) fn breaker_state(dataset: &str, dependency: &'static str, state: State) {
    let value = match state {
        State::Closed => 0.0,
        State::HalfOpen => 1.0,
        State::Open => 2.0,
    };
    gauge!("lakehose_processor_breaker_state", "dataset" => dataset.to_owned(), "dependency" => dependency).set(value);
}

pub(crate) fn breaker_opened(dataset: &str, dependency: &'static str) {
    let dataset = dataset.to_owned();
    counter!("lakehose_processor_breaker_openings_total", "dataset" => dataset, "dependency" => dependency)
        .increment(1);
}

/// What the worker holds now.
pub(crate) fn holding(dataset: &str, lag: i64, buffered_bytes: usize, partitions: usize, paused: bool) {
    let dataset = dataset.to_owned();
    gauge!("lakehose_processor_lag_records", "dataset" => dataset.clone()).set(lag as f64);
    gauge!("lakehose_processor_buffered_bytes", "dataset" => dataset.clone()).set(buffered_bytes as f64);
    gauge!("lakehose_processor_partitions", "dataset" => dataset.clone()).set(partitions as f64);
    gauge!("lakehose_processor_paused", "dataset" => dataset).set(if paused { 1.0 } else { 0.0 });
}
