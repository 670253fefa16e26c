//! An event that comes again is written once, whatever went wrong in between, and no event is taken for another.

use crate::support::*;
use eventlog::Input;
use lake::testing::{Fault, FaultyStore, Op, faulty_lake};
use lake::{Lake, OffsetRange, Table, schema};
use processor::breaker::Breakers;
use processor::committer::{Submission, Verdict};
use processor::{Committer, Config};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The window of a dataset by default.
const WINDOW_MS: i64 = 600_000;

fn place() -> (TempDir, Lake, FaultyStore) {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    (directory, lake, store)
}

fn event(id: &str) -> String {
    format!(r#"{{"device_id":"d","id":"{id}"}}"#)
}

/// Offsets of the rows of partition 0.
async fn offsets(lake: &Lake) -> Vec<i64> {
    places(lake, "events")
        .await
        .into_iter()
        .filter(|(partition, _)| *partition == 0)
        .map(|(_, offset)| offset)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_written_once_in_a_flush_over_flushes_and_over_a_restart() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    for id in ["a", "b", "a"] {
        log.push(0, event(id));
    }
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[3]).await;
    log.push(0, event("b"));
    until_committed(&lake, &[4]).await;
    assert_eq!(first.progress.duplicates(), 2);
    first.stop().await.unwrap();

    for id in ["a", "c", "b", "c"] {
        log.push(0, event(id));
    }
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[8]).await;
    assert_eq!(second.progress.duplicates(), 3);
    second.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [0, 1, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_an_id_and_dead_letters_are_never_duplicates() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    for _ in 0..2 {
        log.push(0, r#"{"device_id":"d"}"#);
        log.push(0, r#"{"device_id":7,"id":"a"}"#);
        log.push(0, r#"{"device_id":"other","id":"a"}"#);
    }
    let running = start(config(), &log, &lake);
    until_committed(&lake, &[6]).await;
    running.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [0, 2, 3]);
    assert_eq!(places(&lake, "events__dead").await, [(0, 1), (0, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_window_is_written_also_after_a_restart() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    log.push_at(0, event("a"), 0);
    log.push_at(0, event("a"), WINDOW_MS);
    log.push_at(0, event("a"), WINDOW_MS + 1);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[3]).await;
    first.stop().await.unwrap();
    log.push_at(0, event("a"), 2 * WINDOW_MS + 1);
    log.push_at(0, event("a"), 2 * WINDOW_MS + 2);
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[5]).await;
    second.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [0, 2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_does_not_push_everything_else_out() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    let now = lake::table::now_ms();
    log.push_at(0, event("a"), now - 1_000);
    log.push_at(0, event("of the year 9999"), 253_402_300_000_000);
    log.push_at(0, event("a"), now - 1_000);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[3]).await;
    first.stop().await.unwrap();
    log.push_at(0, event("a"), now - 1_000);
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[4]).await;
    second.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_takes_its_window_along() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(2);
    log.push_events(50);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[50; 2]).await;
    log.let_consumers_wait();
    let second = start(config(), &log, &lake);
    until("the second runs", async || second.progress.is_ready()).await;

    log.tell(0, Input::Revoked(vec![1]));
    until("the partition is released", async || log.released() == [1]).await;
    log.tell(1, Input::Assigned(vec![1]));
    log.push(1, r#"{"device_id":"d1","id":"1-7"}"#);
    log.push(1, r#"{"device_id":"d1","id":"new"}"#);
    until_committed(&lake, &[50, 52]).await;
    assert_eq!((first.progress.duplicates(), second.progress.duplicates()), (0, 1));

    // And back, without a word of good-bye.
    log.tell(1, Input::Lost(vec![1]));
    until("the partition is lost", async || second.progress.partitions() == 0).await;
    log.tell(0, Input::Assigned(vec![1]));
    log.push(1, r#"{"device_id":"d1","id":"new"}"#);
    log.push(1, r#"{"device_id":"d1","id":"1-8"}"#);
    log.push(0, r#"{"device_id":"d0","id":"0-9"}"#);
    until_committed(&lake, &[51, 54]).await;
    assert_eq!(first.progress.duplicates(), 3);
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    let mut expected = all_places(&[50, 50]);
    expected.push((1, 51));
    assert_eq!(places(&lake, "events").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processors_that_both_own_every_partition_write_every_event_once() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(2);
    let twins = [start(config(), &log, &lake), start(config(), &log, &lake)];
    for round in 0..20 {
        for n in 0..40 {
            // Half of them came in the round before.
            let event = format!(r#"{{"device_id":"d{}","id":"{}"}}"#, n % 2, round * 20 + n);
            log.push(n % 2, event);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    until_committed(&lake, &[400; 2]).await;
    for twin in twins {
        twin.stop().await.unwrap();
    }
    let copies = copies(&lake).await;
    assert_eq!(copies.len(), 420);
    assert!(copies.values().all(|copies| *copies == 1), "{copies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_rejected_flush_are_not_taken_for_seen() {
    let (_directory, lake, store) = place();
    let log = MemoryLog::new(1);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 1).await;
    store.inject(Op::Put, "date=", Fault::Fail, usize::MAX);
    for id in ["a", "b", "c", "b"] {
        log.push(0, event(id));
    }
    until("rows are under way", async || running.progress.duplicates() == 1).await;
    // Somebody else commits the first record while the upload is being tried.
    let events = Table::open_or_create(&lake, "events", schema::events(&dataset())).await.unwrap();
    let dead = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
    let (committer, task) =
        Committer::start(Arc::new(log.clone()), events, dead, 1, Breakers::new("events")).await.unwrap();
    let first = OffsetRange { partition: 0, start: 0, end: 1 };
    let verdict = committer.submit(Submission { ranges: vec![first], files: Vec::new(), dead: Vec::new() }).await;
    assert!(matches!(verdict, Verdict::Committed), "{verdict:?}");
    drop(committer);
    task.await.unwrap();
    store.heal();

    until_committed(&lake, &[4]).await;
    log.push(0, event("c"));
    // The other one wrote no row of it, so it is not lost now.
    log.push(0, event("a"));
    until_committed(&lake, &[6]).await;
    running.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [1, 2, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_read_from_fragments_and_from_what_replaced_them() {
    for sweep in [false, true] {
        let (_directory, lake, _) = place();
        let log = MemoryLog::new(2);
        for _ in 0..3 {
            log.push_events(20);
            let running = start(config(), &log, &lake);
            let end = log.ends()[0];
            until_committed(&lake, &[end; 2]).await;
            running.stop().await.unwrap();
        }
        merge(&lake, sweep).await;
        for n in [0, 25, 59] {
            log.push(0, format!(r#"{{"device_id":"d0","id":"0-{n}"}}"#));
            log.push(1, format!(r#"{{"device_id":"d1","id":"1-{n}"}}"#));
        }
        let running = start(config(), &log, &lake);
        until_committed(&lake, &[63; 2]).await;
        running.stop().await.unwrap();
        assert_eq!(places(&lake, "events").await, all_places(&[60; 2]), "swept: {sweep}");
    }
}

/// Partition 1 was committed last a day before partition 0, by the clock of the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_did_not_move_for_long_has_its_window_all_the_same() {
    let (directory, lake, _) = place();
    let log = MemoryLog::new(2);
    log.push(1, r#"{"device_id":"d1","id":"x"}"#);
    let first = start(config(), &log, &lake);
    until("it is committed", async || state(&lake, "events").await.is_ok_and(|state| state.txn("events/1") == Some(1)))
        .await;
    first.stop().await.unwrap();
    let commit = directory.path().join("events/_delta_log/00000000000000000001.json");
    let text = std::fs::read_to_string(&commit).unwrap();
    let at = text.split_once("\"timestamp\":").unwrap().1.split(',').next().unwrap();
    let day_before = at.parse::<i64>().unwrap() - 86_400_000;
    std::fs::write(&commit, text.replacen(at, &day_before.to_string(), 1)).unwrap();
    for n in 0..40 {
        log.push(0, event(&n.to_string()));
    }
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[40, 1]).await;
    second.stop().await.unwrap();

    log.push(1, r#"{"device_id":"d1","id":"x"}"#);
    log.push(0, event("39"));
    let third = start(config(), &log, &lake);
    until_committed(&lake, &[41, 2]).await;
    third.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[40, 1]));
}

/// A dead letter that is replayed keeps the time at which it was received first.
#[tokio::test(flavor = "multi_thread")]
async fn rows_received_long_ago_do_not_end_the_search_for_younger_ones_before_them() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    let now = lake::table::now_ms();
    let first = start(config(), &log, &lake);
    // So many commits that they are not all looked at together.
    for n in 0..50 {
        let at = if n == 40 { now - 20 * WINDOW_MS } else { now - 1_000 + n };
        log.push_at(0, event(&n.to_string()), at);
        until_committed(&lake, &[n + 1]).await;
    }
    first.stop().await.unwrap();
    for n in [0, 49] {
        log.push_at(0, event(&n.to_string()), now);
    }
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[52]).await;
    second.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, Vec::from_iter(0..50));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_passed_while_the_window_cannot_be_read() {
    let (_directory, lake, store) = place();
    let log = MemoryLog::new(1);
    log.push_events(30);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[30]).await;
    first.stop().await.unwrap();

    store.inject(Op::Get, "date=", Fault::Fail, usize::MAX);
    log.push(0, r#"{"device_id":"d0","id":"0-3"}"#);
    log.push(0, r#"{"device_id":"d0","id":"new"}"#);
    let second = start(config(), &log, &lake);
    let reads = store.calls(Op::Get);
    until("it tried again", async || store.calls(Op::Get) > reads + 20).await;
    assert_eq!(state(&lake, "events").await.unwrap().txn("events/0"), Some(30));
    assert_eq!((second.progress.partitions(), second.progress.buffered_bytes()), (0, 0));
    store.heal();
    until_committed(&lake, &[32]).await;
    second.stop().await.unwrap();
    let expected: Vec<i64> = (0..30).chain([31]).collect();
    assert_eq!(offsets(&lake).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_for_assignments_that_were_taken_back_are_not_read() {
    let (_directory, lake, store) = place();
    let log = MemoryLog::new(1);
    let first = start(config(), &log, &lake);
    for n in 0..20 {
        log.push(0, event(&n.to_string()));
        until_committed(&lake, &[n + 1]).await;
    }
    first.stop().await.unwrap();

    store.inject(Op::Get, "date=", Fault::Fail, usize::MAX);
    let second = start(config(), &log, &lake);
    let ready = async || second.progress.is_ready();
    until("the processor runs", ready).await;
    for _ in 0..20 {
        log.tell(1, Input::Lost(vec![0]));
        log.tell(1, Input::Assigned(vec![0]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.heal();
    // Counts what is read of files.
    store.inject(Op::Get, "date=", Fault::Delay(Duration::ZERO), usize::MAX);
    let reads = store.injected();
    log.push(0, event("7"));
    until_committed(&lake, &[21]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reads = store.injected() - reads;
    second.stop().await.unwrap();
    assert!(reads <= 2 * 20, "{reads} reads");
    assert_eq!(offsets(&lake).await, Vec::from_iter(0..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_memory_bound_the_window_is_shorter_and_nothing_is_lost() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    let config = Config { memory: bytesize::ByteSize::mib(2), ..config() };
    const COUNT: i64 = 40_000;
    for n in 0..COUNT {
        log.push_at(0, event(&n.to_string()), n);
    }
    let first = start(config.clone(), &log, &lake);
    until_committed(&lake, &[COUNT]).await;
    let reach_ms = |running: &Running| running.progress.dedup_reach().as_millis() as i64;
    until("the window is shorter", async || (1..COUNT).contains(&reach_ms(&first))).await;
    let shorter = reach_ms(&first);
    assert!(shorter > COUNT / 4, "{shorter} ms");
    first.stop().await.unwrap();
    assert_eq!(offsets(&lake).await.len() as i64, COUNT);

    // Made anew from the table it is as short: the youngest are known, the oldest are not.
    for n in [COUNT - 1, COUNT - 1_000, 0] {
        log.push_at(0, event(&n.to_string()), COUNT);
    }
    let second = start(config, &log, &lake);
    until_committed(&lake, &[COUNT + 3]).await;
    until("the window is shorter", async || (1..COUNT).contains(&reach_ms(&second))).await;
    assert_eq!(second.progress.duplicates(), 2);
    second.stop().await.unwrap();
    assert_eq!(copies(&lake).await["0"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_without_a_window_writes_everything() {
    let (_directory, lake, _) = place();
    let log = MemoryLog::new(1);
    let mut dataset = dataset();
    dataset.spec.dedup_window = Duration::ZERO;
    (0..3).for_each(|_| log.push(0, event("a")));
    let running = start_with(dataset, config(), &log, &lake);
    until_committed(&lake, &[3]).await;
    running.stop().await.unwrap();
    assert_eq!(offsets(&lake).await, [0, 1, 2]);
}
