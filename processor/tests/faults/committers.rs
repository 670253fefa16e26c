//! Processors that share a log commit through the one that they elect, and nothing depends on the election.

use crate::flushes::{Ends, Hand, assert_only_forward, ends};
use crate::support::*;
use lake::testing::{Fault, Op, faulty_lake};
use lake::{Lake, OffsetRange};
use processor::committer::Verdict;
use processor::committer::announcement::{Announcement, ControlRecord};
use std::time::{Duration, Instant};

async fn events(lake: &Lake) -> Ends {
    ends(lake, "events", "events", 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_committers_that_both_think_they_are_elected_commit_every_flush_once() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    store.delay(Op::Put, Duration::from_millis(20));
    let log = MemoryLog::shared_by_processes(0);
    let (a, a_task) = Hand::start(&log, &lake, 4).await;
    let (b, b_task) = Hand::start(&log, &lake, 4).await;
    until("both read announcements", async || log.terms().len() == 2).await;
    let flushing = |hand: Hand, partition: i32| async move {
        for n in 0..6 {
            let range = n * 10..n * 10 + 10;
            hand.committed(&[(partition, range.clone())], &[n * 10 + 3]).await;
            // A zombie's: a copy is done already, and another range does not continue the table.
            hand.committed(&[(partition, range.clone())], &[n * 10 + 3]).await;
            let shifted = hand.flush(&[(partition, range.start + 1..range.end + 2)], &[n * 10 + 3]).await;
            assert!(matches!(shifted, Verdict::Rejected), "{shifted:?}");
        }
    };
    tokio::join!(flushing(a.clone(), 0), flushing(a, 1), flushing(b.clone(), 2), flushing(b, 3));
    a_task.await.unwrap();
    b_task.await.unwrap();
    let dead = |offset: i64| offset % 10 == 3;
    let (dead, alive): (Vec<_>, Vec<_>) = all_places(&[60; 4]).into_iter().partition(|(_, offset)| dead(*offset));
    assert_eq!(places(&lake, "events").await, alive);
    assert_eq!(places(&lake, "events__dead").await, dead);
    assert_eq!(events(&lake).await.events, [Some(60); 4]);
    assert_only_forward(&lake, "events", 4).await;
    assert_only_forward(&lake, "events__dead", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_whose_answer_is_lost_is_found_in_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (hand, _task) = Hand::start(&log, &lake, 4).await;
    hand.committed(&[(0, 0..10)], &[]).await;
    log.lose_answers(usize::MAX);
    let started = Instant::now();
    hand.committed(&[(0, 10..20)], &[12]).await;
    assert!(started.elapsed() > Duration::from_secs(4), "the answer came though it was lost");
    let Ends { version, .. } = events(&lake).await;
    assert_eq!(version, 2, "it is not committed again");
    // What does not continue the table is told apart without an answer, too.
    let zombie = hand.flush(&[(0, 15..25)], &[]).await;
    assert!(matches!(zombie, Verdict::Rejected), "{zombie:?}");
    assert_eq!(places(&lake, "events__dead").await, [(0, 12)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_is_lost_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (hand, _task) = Hand::start(&log, &lake, 4).await;
    hand.committed(&[(0, 0..10)], &[]).await;
    log.lose_announcements(1);
    hand.committed(&[(0, 10..20)], &[]).await;
    assert_eq!(places(&lake, "events").await, all_places(&[20]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_committer_goes_on_where_the_table_says_and_what_was_held_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (first, task) = Hand::start(&log, &lake, 4).await;
    first.committed(&[(0, 0..10)], &[]).await;
    assert_eq!((log.terms(), events(&lake).await.control), (vec![0], Some(1)));
    first.committed(&[(1, 0..1)], &[]).await;
    let held_at = log.control_records() as i64;
    // It starts after the table's end, and what is between comes only with the successor.
    let early = first.clone();
    let early = tokio::spawn(async move { early.flush(&[(1, 5..10)], &[]).await });
    until("it is announced", async || log.control_records() as i64 > held_at).await;
    first.committed(&[(0, 10..20)], &[]).await;
    assert_eq!(events(&lake).await.control, Some(held_at));
    drop(first);
    task.abort();
    early.abort();
    let _ = early.await;
    until("the first is gone", async || log.candidates_gone() == 1).await;

    let (second, _task) = Hand::start(&log, &lake, 4).await;
    until("the second is elected", async || log.terms().len() == 2).await;
    assert_eq!(log.terms()[1], held_at);
    second.committed(&[(1, 1..5)], &[]).await;
    until("what was held is committed", async || events(&lake).await.events[1] == Some(10)).await;
    assert_eq!(places(&lake, "events").await, all_places(&[20, 10]));
    assert_only_forward(&lake, "events", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_understands_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (hand, _task) = Hand::start(&log, &lake, 4).await;
    let submission = processor::committer::Submission {
        ranges: vec![OffsetRange { partition: 0, start: 7, end: 7 }],
        files: Vec::new(),
        dead: Vec::new(),
    };
    let unsound = ControlRecord::Announcement(Announcement::new(uuid::Uuid::new_v4(), submission));
    for garbled in [&b"\xff\xfe"[..], b"", b"{}", b"{\"announcement\":", &unsound.to_bytes().unwrap()] {
        log.push_control(garbled.to_vec());
    }
    hand.committed(&[(0, 0..10)], &[]).await;
    assert!(events(&lake).await.control >= Some(6), "they are not read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_for_good_fails_the_flushes_of_the_committer() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (hand, _task) = Hand::start(&log, &lake, 4).await;
    hand.committed(&[(0, 0..10)], &[]).await;
    // Another writer's commit that is none.
    std::fs::write(directory.path().join("events/_delta_log/00000000000000000002.json"), "garbage").unwrap();
    for range in [10..20, 20..30] {
        let verdict = hand.flush(&[(0, range)], &[]).await;
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_a_second_apart_and_one_after_a_quiet_time_comes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(0);
    let (hand, _task) = Hand::start(&log, &lake, 4).await;
    hand.committed(&[(0, 0..1)], &[]).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let started = Instant::now();
    hand.committed(&[(0, 1..2)], &[]).await;
    let quick = started.elapsed();
    hand.committed(&[(0, 2..3)], &[]).await;
    let paced = started.elapsed();
    assert!(quick < Duration::from_millis(800), "{quick:?}");
    assert!(paced > Duration::from_millis(1_000), "{paced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_that_share_a_log_and_all_think_they_own_everything_double_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(3);
    let twins = [start(config(), &log, &lake), start(config(), &log, &lake)];
    until("both run", async || twins.iter().all(|twin| twin.progress.partitions() == 3)).await;
    for n in 0..10 {
        log.push_events(40);
        log.push(1, "not json");
        store.inject(Op::Put, "_delta_log", if n % 2 == 0 { Fault::Fail } else { Fault::FailAfterSuccess }, 1);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    until_committed(&lake, &[400, 410, 400]).await;
    let started = Instant::now();
    for twin in twins {
        twin.stop().await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "the office keeps nobody from stopping");
    let dead: Vec<(i32, i64)> = (1..=10).map(|n| (1, n * 41 - 1)).collect();
    let mut alive = all_places(&[400, 410, 400]);
    alive.retain(|place| !dead.contains(place));
    assert_eq!(places(&lake, "events").await, alive);
    assert_eq!(places(&lake, "events__dead").await, dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_flush_of_a_processor_that_stops_is_committed_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::shared_by_processes(1);
    let mut config = config();
    config.flush.every = Duration::from_secs(3_600);
    let running = start(config, &log, &lake);
    log.push_events(100);
    until("rows are buffered", async || running.progress.lag() == 100 && running.progress.buffered_bytes() > 0).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[100]));
    assert_eq!(log.candidates_gone(), 1, "the group hears that it has left");
}
