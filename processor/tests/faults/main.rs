//! What can go wrong between the log and the table, and that no row is lost or doubled by it.

mod support;
mod flushes;
mod dead_letters;
mod duplicates;
mod outages;
mod schema_change;
mod committers;
mod many_processors;
mod offsets;
mod stores;
mod zombies;

use eventlog::Input;
use lake::testing::{Fault, Op, faulty_lake};
use processor::Config;
use std::time::Duration;
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_in_the_table_once_and_the_group_hears_of_it_after_the_commit() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(3);
    log.push_events(500);
    let running = start(config(), &log, &lake);
    until_committed(&lake, &[500; 3]).await;
    log.push_events(10);
    until_committed(&lake, &[510; 3]).await;
    // The processor hears of its commit a moment after everybody else can see it.
    until("the processor has counted them", async || running.progress.committed_rows() == 1_530).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[510; 3]));
    assert_eq!(log.hints(), [(0, 510), (1, 510), (2, 510)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_hears_of_a_commit_whose_processor_died_before_it_could_tell() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    log.push_events(30);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[30; 2]).await;
    first.stop().await.unwrap();
    log.forget_hints();
    let second = start(config(), &log, &lake);
    until("the group hears of it", async || log.hints() == [(0, 30), (1, 30)].into()).await;
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_before_or_after_storing_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    let mut end = 0;
    for (part, fault) in [
        ("date=", Fault::Fail),
        ("date=", Fault::FailAfterSuccess),
        ("events/_delta_log", Fault::Fail),
        ("events/_delta_log", Fault::FailAfterSuccess),
    ] {
        for faults in 1..=3 {
            store.inject(Op::Put, part, fault, faults);
            log.push_events(50);
            end += 50;
            until_committed(&lake, &[end; 2]).await;
        }
    }
    // The answer of the commit is lost, and for a while the table cannot be read either.
    store.inject(Op::Put, "events/_delta_log", Fault::FailAfterSuccess, 1);
    store.inject(Op::Get, "events/_delta_log", Fault::Fail, 3);
    log.push_events(50);
    end += 50;
    until("the faults are used up", async || {
        state(&lake, "events").await.is_ok_and(|state| state.txn("events/0") == Some(end))
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[end; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processors_that_both_own_every_partition_double_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(3);
    let twins = [start(config(), &log, &lake), start(config(), &log, &lake)];
    for _ in 0..20 {
        log.push_events(40);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    until_committed(&lake, &[800; 3]).await;
    for twin in twins {
        twin.stop().await.unwrap();
    }
    assert_eq!(places(&lake, "events").await, all_places(&[800; 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_dies_before_its_commit_leaves_the_work_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    log.push_events(100);
    log.push(0, "not json");
    log.push(1, "");
    // Uploads and dead letters get through, the commit that moves the offsets never does.
    let first = start(Config { drain_timeout: Duration::from_millis(100), ..config() }, &log, &lake);
    until("the processor runs", async || first.progress.is_ready()).await;
    store.inject(Op::Put, "events/_delta_log", Fault::Stall, usize::MAX);
    log.push_events(100);
    log.push(0, "not json either");
    until("dead letters are committed", async || {
        state(&lake, "events__dead").await.is_ok_and(|state| state.txn("events/0").is_some())
    })
    .await;
    first.task.abort();
    store.heal();

    let second = start(config(), &log, &lake);
    until_committed(&lake, &[202, 201]).await;
    second.stop().await.unwrap();
    let mut expected = all_places(&[202, 201]);
    let dead = [(0, 100), (0, 201), (1, 100)];
    expected.retain(|place| !dead.contains(place));
    assert_eq!(places(&lake, "events").await, expected);
    assert_eq!(places(&lake, "events__dead").await, dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_retention_deleted_leave_a_gap_and_not_a_halt() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    log.push_events(10);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[10]).await;
    first.stop().await.unwrap();
    log.push_events(20);
    log.delete_before(0, 25);
    let second = start(config(), &log, &lake);
    until_committed(&lake, &[30]).await;
    second.stop().await.unwrap();
    let expected: Vec<(i32, i64)> = (0..10).chain(25..30).map(|offset| (0, offset)).collect();
    assert_eq!(places(&lake, "events").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_ahead_of_the_log_stops_the_processor() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    log.push_events(10);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[10]).await;
    first.stop().await.unwrap();
    let another = MemoryLog::new(1);
    another.push_events(5);
    let error = start(config(), &another, &lake).task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("offset 10 of partition 0, but the log ends at 5"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_partition_is_written_out_before_it_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let mut config = config();
    config.flush.every = Duration::from_secs(3_600);
    let running = start(config, &log, &lake);
    log.push_events(50);
    until("rows are buffered", async || running.progress.buffered_bytes() > 0 && running.progress.lag() == 100).await;
    store.delay(Op::Put, Duration::from_millis(100));
    log.tell(0, Input::Revoked(vec![1]));
    until("the partition is released", async || !log.released().is_empty()).await;
    let state = state(&lake, "events").await.unwrap();
    assert_eq!((state.txn("events/1"), state.txn("events/0")), (Some(50), None), "only what was revoked is flushed");
    assert_eq!(log.released(), [1]);
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[50; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_its_bound_while_the_store_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let mut config = config();
    config.memory = bytesize::ByteSize::mib(3);
    let bound = config.pause_above() as u64;
    let running = start(config, &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    // Errors would open a breaker before memory is full.
    store.inject(Op::Put, "date=", Fault::Delay(Duration::from_secs(10)), usize::MAX);
    log.push_events(20_000);
    until("memory is full", async || running.progress.is_paused()).await;
    let mut highest = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        highest = highest.max(running.progress.buffered_bytes());
    }
    assert_eq!(running.progress.breakers().trouble(), None);
    // A poll hands out a hundred records a partition before the worker looks again.
    assert!(highest >= bound && highest < bound + 64 * 1024, "held {highest} of {bound}");
    store.heal();
    until_committed(&lake, &[20_000; 2]).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[20_000; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_does_not_keep_the_processor_from_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let running = start(Config { drain_timeout: Duration::from_millis(200), ..config() }, &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 1).await;
    store.inject(Op::Put, "date=", Fault::Fail, usize::MAX);
    log.push_events(100);
    until("rows are under way", async || running.progress.buffered_bytes() > 0).await;
    tokio::time::timeout(Duration::from_secs(15), running.stop()).await.expect("it stops").unwrap();
    store.heal();

    let next = start(config(), &log, &lake);
    until_committed(&lake, &[100]).await;
    next.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[100]));
}
