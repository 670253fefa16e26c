//! Processors that act on partitions which others have by now, and rebalances that the store makes long.

use crate::support::*;
use eventlog::Input;
use lake::OffsetRange;
use lake::testing::{Fault, Op, faulty_lake};
use processor::Config;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_refused_and_resumes_where_the_table_is() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    // Holds what it reads for a while, as if it had been stopped.
    let mut slow = config();
    slow.flush.every = Duration::from_millis(1_500);
    let zombie = start(slow, &log, &lake);
    until("it owns the partition", async || zombie.progress.partitions() == 1).await;
    log.push_events(30);
    let other = start(config(), &log, &lake);
    until_committed(&lake, &[30]).await;
    other.stop().await.unwrap();
    log.push_events(20);
    // Its flush of all 50 begins before the table's end.
    until_committed(&lake, &[50]).await;
    zombie.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[50]));
    let state = state(&lake, "events").await.unwrap();
    let again = OffsetRange { partition: 0, start: 30, end: 50 };
    assert!(state.files().values().any(|file| file.ranges == [again]), "the rest came in a flush of its own");
    let stored = std::fs::read_dir(directory.path().join("events")).unwrap().filter_map(Result::ok);
    let dates = stored.filter(|entry| entry.file_name().to_string_lossy().starts_with("date="));
    let files: usize = dates.map(|date| std::fs::read_dir(date.path()).unwrap().count()).sum();
    assert!(files > state.files().len(), "the refused file is an orphan");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_stay_keep_their_rows_buffered_through_a_rebalance() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(3);
    let mut config = config();
    config.flush.every = Duration::from_secs(3_600);
    let running = start(config, &log, &lake);
    log.push_events(50);
    until("rows are buffered", async || running.progress.buffered_bytes() > 0 && running.progress.lag() == 150).await;
    let three = running.progress.buffered_bytes();
    log.tell(0, Input::Revoked(vec![1]));
    until("the partition is released", async || log.released() == [1]).await;
    until("its rows are written out", async || running.progress.partitions() == 2).await;
    let two = running.progress.buffered_bytes();
    assert!(two > three / 2 && two < three, "{two} of {three} bytes are still buffered");
    // They go on where they were: one flush each, of everything since the start.
    log.push_events(10);
    until("the new rows are read", async || running.progress.lag() == 120).await;
    running.stop().await.unwrap();
    let state = state(&lake, "events").await.unwrap();
    let kept = [0, 2].map(|partition| OffsetRange { partition, start: 0, end: 60 });
    assert!(state.files().values().any(|file| file.ranges == kept), "{:?}", state.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_held_beyond_the_release_deadline_is_given_up_and_the_table_fences() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let (others_lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let mut config = Config { release_within: Duration::from_millis(300), ..config() };
    config.flush.every = Duration::from_secs(3_600);
    let running = start(config, &log, &lake);
    log.push_events(50);
    until("rows are buffered", async || running.progress.buffered_bytes() > 0 && running.progress.lag() == 100).await;
    store.inject(Op::Put, "date=", Fault::Delay(Duration::from_secs(2)), 1);
    log.tell(0, Input::Revoked(vec![1]));
    until("the partition is given up", async || log.released() == [1]).await;
    assert_eq!(state(&lake, "events").await.unwrap().txn("events/1"), None, "the store still has to answer");
    // The next owner reads the same records while the old flush is on its way.
    let other = start(crate::support::config(), &log, &others_lake);
    log.push_events(10);
    until_committed(&lake, &[60; 2]).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    running.stop().await.unwrap();
    other.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[60; 2]));
}
