//! Offsets and clocks: the first one, none at all, holes, and rows that nothing follows.

use crate::support::*;
use lake::file::FileStats;
use lake::table::{COMMIT_WITHIN, now_ms};
use lake::testing::faulty_lake;
use lake::{DataFile, OffsetRange, Table, schema};
use processor::breaker::Breakers;
use processor::committer::Submission;
use processor::{Committer, Config};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn offset_0_empty_partitions_and_holes_lose_and_repeat_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(3);
    // Partition 0 is empty, 1 has the very first offset alone, 2 begins, goes on and ends with holes.
    log.push(1, r#"{"device_id":"d"}"#);
    (0..12).for_each(|_| log.push(2, r#"{"device_id":"d"}"#));
    log.punch(2, [0, 1, 5, 6, 11]);
    for _ in 0..2 {
        let running = start(config(), &log, &lake);
        until("everything is committed", async || {
            let state = state(&lake, "events").await;
            state.is_ok_and(|state| (state.txn("events/1"), state.txn("events/2")) == (Some(1), Some(11)))
        })
        .await;
        running.stop().await.unwrap();
        let state = state(&lake, "events").await.unwrap();
        assert_eq!(state.txn("events/0"), None);
    }
    let holes = [0, 1, 5, 6, 11];
    let mut expected = vec![(1, 0)];
    expected.extend((0..12).filter(|offset| !holes.contains(offset)).map(|offset| (2, offset)));
    assert_eq!(places(&lake, "events").await, expected);

    // What comes after the last hole continues the chain, and the empty partition begins at 0.
    (0..3).for_each(|partition| log.push(partition, r#"{"device_id":"d"}"#));
    let running = start(config(), &log, &lake);
    until_committed(&lake, &[1, 2, 13]).await;
    running.stop().await.unwrap();
    expected.extend([(0, 0), (1, 1), (2, 12)]);
    expected.sort();
    assert_eq!(places(&lake, "events").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_rows_are_written_out_by_the_clock_when_nothing_follows() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let mut config = config();
    config.flush.every = Duration::from_millis(700);
    let running = start(config, &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    let pushed = Instant::now();
    log.push_events(3);
    until_committed(&lake, &[3; 2]).await;
    assert!(pushed.elapsed() >= Duration::from_millis(700), "{:?}", pushed.elapsed());
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[3; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_sweep_may_have_deleted_are_not_committed() {
    let bed = Bed::new().await;
    bed.expect(0, 1, ago(Duration::from_secs(3_600)), "Committed").await;
    bed.expect(1, 2, ago(COMMIT_WITHIN + Duration::from_secs(1)), "Rejected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_between_upload_and_commit_breaks_no_chain() {
    let bed = Bed::new().await;
    let day = Duration::from_secs(24 * 3_600);
    // Set back by a day after the upload: the file is from the future.
    bed.expect(0, 10, now_ms() + day.as_millis() as i64, "Committed").await;
    // Set forward by a day: the flush comes again, with a new file, from where the table is.
    bed.expect(10, 20, ago(day), "Rejected").await;
    assert_eq!(bed.committer.positions(vec![0]).await.unwrap(), [Some(10)]);
    bed.expect(10, 20, now_ms(), "Committed").await;
}

fn ago(age: Duration) -> i64 {
    now_ms() - age.as_millis() as i64
}

/// A committer to hand files in to, of whatever time.
struct Bed {
    committer: Committer,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Bed {
        let directory = tempfile::tempdir().unwrap();
        let (lake, _) = faulty_lake(directory.path()).unwrap();
        let events = Table::open_or_create(&lake, "events", schema::events(&dataset())).await.unwrap();
        let dead = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
        let (committer, _) =
            Committer::start(Arc::new(MemoryLog::new(1)), events, dead, 1, Breakers::new("events")).await.unwrap();
        Bed { committer, _directory: directory }
    }

    /// Hands in the offsets `[start, end)` in a file of that time.
    async fn expect(&self, start: i64, end: i64, modified_ms: i64, verdict: &str) {
        let file = DataFile {
            path: format!("date=2026-11-22/{end}-{modified_ms}.parquet"),
            size: 1,
            date: "2026-11-22".parse().unwrap(),
            modified_ms,
            stats: FileStats::default(),
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        };
        let ranges = vec![OffsetRange { partition: 0, start, end }];
        let answer = self.committer.submit(Submission { ranges, files: vec![file], dead: Vec::new() }).await;
        assert_eq!(format!("{answer:?}"), verdict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_reads_the_log_to_its_end_and_asks_once_where_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(Config { drain_to_end: true, ..config() }, &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    let asked = log.questions();
    log.push_events(10_000);
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[10_000; 2]));
    assert!(log.questions() <= asked + 2, "{} questions", log.questions() - asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_a_record_where_a_transaction_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(Config { drain_to_end: true, ..config() }, &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    // Before its records are read, nobody knows that the last offset is none.
    log.punch(0, [9_999]);
    log.push_events(10_000);
    let stopped = Instant::now();
    running.stop().await.unwrap();
    assert!(stopped.elapsed() < config().drain_timeout, "{:?}", stopped.elapsed());
    let mut expected = all_places(&[10_000; 2]);
    assert_eq!(expected.remove(9_999), (0, 9_999));
    assert_eq!(places(&lake, "events").await, expected);
}
