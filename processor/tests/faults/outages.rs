//! What a processor needs is away for a while, or for good.

use crate::support::*;
use eventlog::LogError;
use lake::testing::{Fault, FaultyStore, Op, faulty_lake};
use lake::{Table, schema};
use processor::Committer;
use processor::breaker::Breakers;
use std::sync::Arc;
use std::time::Duration;

const OPS: [Op; 3] = [Op::Put, Op::Get, Op::List];

fn calls(store: &FaultyStore) -> usize {
    OPS.into_iter().map(|op| store.calls(op)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_down_it_is_left_alone_and_memory_stays_flat() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(3);
    let running = start(config(), &log, &lake);
    log.push_events(100);
    until_committed(&lake, &[100; 3]).await;
    assert!(running.progress.breakers().trouble().is_none() && !running.progress.is_paused());

    OPS.into_iter().for_each(|op| store.inject(op, "", Fault::Fail, usize::MAX));
    log.push_events(100);
    until("the breaker is open", async || running.progress.breakers().trouble().is_some()).await;
    let trouble = running.progress.breakers().trouble().unwrap();
    assert!(trouble.starts_with("store: ") && trouble.contains("injected: Put"), "{trouble}");
    until("partitions are paused", async || running.progress.is_paused()).await;
    // Longer than the worker takes to tell its figures.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (calls_before, held) = (calls(&store), running.progress.buffered_bytes());
    log.push_events(20_000);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(running.progress.buffered_bytes(), held, "nothing is taken in");
        assert!(running.progress.is_paused());
    }
    // Waits of at least 0.5, 1, 2 s; without the breaker two flushes make some 20 calls in 5 s.
    let made = calls(&store) - calls_before;
    assert!((1..=4).contains(&made), "{made} calls in 5 s");
    assert!(!running.task.is_finished());

    store.heal();
    until_committed(&lake, &[20_200; 3]).await;
    until("it reads on", async || !running.progress.is_paused()).await;
    until("the breakers are closed", async || running.progress.breakers().trouble().is_none()).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[20_200; 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_fail_while_uploads_work_open_a_breaker_too() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    store.inject(Op::Put, "events/_delta_log", Fault::Fail, usize::MAX);
    log.push_events(100);
    let trouble = || running.progress.breakers().trouble().unwrap_or_default();
    until("the breaker is open", async || trouble().contains("committer: ")).await;
    until("partitions are paused", async || running.progress.is_paused()).await;
    store.heal();
    until_committed(&lake, &[100; 2]).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[100; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_end_the_processor_with_what_to_check_and_offsets_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    log.push_events(50);
    for (path, end) in [("date=", 50), ("events/_delta_log", 100)] {
        let running = start(config(), &log, &lake);
        until_committed(&lake, &[end; 2]).await;
        store.inject(Op::Put, path, Fault::Deny, 1);
        log.push_events(50);
        let ended = tokio::time::timeout(Duration::from_secs(10), running.task).await.expect("it ends").unwrap();
        let error = format!("{:#}", ended.unwrap_err());
        assert!(error.contains("AWS_SECRET_ACCESS_KEY") && error.contains("s3:PutObject"), "{error}");
        let state = state(&lake, "events").await.unwrap();
        assert_eq!((state.txn("events/0"), state.txn("events/1")), (Some(end), Some(end)), "{path}");
    }
    let next = start(config(), &log, &lake);
    until_committed(&lake, &[150; 2]).await;
    next.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[150; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_may_not_be_read_for_the_window_are_not_asked_for_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    log.push_events(50);
    let first = start(config(), &log, &lake);
    until_committed(&lake, &[50]).await;
    first.stop().await.unwrap();
    store.inject(Op::Get, "date=", Fault::Deny, usize::MAX);
    let second = start(config(), &log, &lake);
    let ended = tokio::time::timeout(Duration::from_secs(10), second.task).await.expect("it ends").unwrap();
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("AWS_SECRET_ACCESS_KEY") && error.contains("s3:GetObject"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_may_not_be_read_is_not_asked_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let events = Table::open_or_create(&lake, "events", schema::events(&dataset())).await.unwrap();
    let dead = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
    let (committer, _) =
        Committer::start(Arc::new(MemoryLog::new(1)), events, dead, 1, Breakers::new("events")).await.unwrap();
    store.inject(Op::Get, "events/_delta_log", Fault::Fail, 1);
    assert_eq!(committer.positions(vec![0]).await.unwrap(), [None]);
    store.inject(Op::Get, "events/_delta_log", Fault::Deny, 1);
    let error = format!("{:#}", committer.positions(vec![0]).await.unwrap_err());
    assert!(error.contains("s3:GetObject"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    store.inject(Op::Put, "", Fault::Full, 6);
    log.push_events(50);
    until_committed(&lake, &[50; 2]).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[50; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_it_is_asked_seldom_and_reading_goes_on_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    log.push_events(50);
    until_committed(&lake, &[50; 2]).await;
    log.fail_with(Some(|| LogError::Unavailable { what: "read a topic", reason: "no broker answers".into() }));
    let trouble = || running.progress.breakers().trouble().unwrap_or_default();
    until("the breaker is open", async || trouble().starts_with("broker: open")).await;
    assert!(trouble().ends_with("read a topic: no broker answers"), "{}", trouble());
    let before = log.questions();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = log.questions() - before;
    assert!((1..=4).contains(&asked), "{asked} questions in 3 s");
    log.push_events(50);
    log.fail_with(None);
    until_committed(&lake, &[100; 2]).await;
    assert_eq!(trouble(), "");
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[100; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failed_poll_of_a_log_that_answers_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 1).await;
    log.fail_one_poll();
    log.push_events(50);
    until_committed(&lake, &[50]).await;
    assert_eq!(running.progress.breakers().trouble(), None);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_refuses_for_good_ends_the_processor() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 1).await;
    log.fail_with(Some(|| LogError::Fatal { what: "read a topic", reason: "topic events was deleted".into() }));
    let ended = tokio::time::timeout(Duration::from_secs(10), running.task).await.expect("it ends").unwrap();
    assert!(format!("{:#}", ended.unwrap_err()).contains("topic events was deleted"));
}
