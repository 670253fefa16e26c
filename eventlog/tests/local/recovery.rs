//! What a second process finds, and what it is refused.

use crate::bed::{TOPIC, append, drain, numbered, open, reader, record, runtime};
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{Bounds, Log, LogError, Position};
use std::time::Duration;

#[test]
fn offsets_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let log = open(dir.path(), LocalOptions::default(), 3);
        let before: i64 = (0..3).map(|p| reader(&log, "count", |_| 0).bounds(p, Duration::ZERO).unwrap().next).sum();
        assert_eq!(before, round * 100);
        let fates = append(&log, numbered(round as usize * 100, round as usize * 100 + 100));
        assert!(fates.iter().all(Result::is_ok));
        if round % 2 == 0 {
            runtime().block_on(log.close()).unwrap();
        }
    }
    let log = open(dir.path(), LocalOptions::default(), 3);
    assert_eq!(drain(reader(&log, "all", |_| 0).as_mut()).len(), 400);
}

#[test]
fn offsets_go_on_after_everything_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions {
        retain_age: Some(Duration::ZERO),
        retention_every: Duration::from_millis(20),
        ..LocalOptions::default()
    };
    {
        let log = open(dir.path(), options.clone(), 1);
        append(&log, numbered(0, 50));
        let mut reader = reader(&log, "group", |_| 0);
        assert_eq!(drain(reader.as_mut()).len(), 50);
        reader.commit_hint(&[Position { partition: 0, offset: 50 }]).unwrap();
        let empty = Bounds { first: 50, next: 50 };
        for _ in 0..500 {
            if reader.bounds(0, Duration::ZERO).unwrap() == empty {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(reader.bounds(0, Duration::ZERO).unwrap(), empty);
        assert_eq!(log.usage().live_bytes, 0);
    }
    let log = open(dir.path(), options, 1);
    let at = append(&log, numbered(50, 51)).remove(0).unwrap();
    assert_eq!(at.offset, 50);
}

#[test]
fn hints_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = open(dir.path(), LocalOptions::default(), 1);
        append(&log, numbered(0, 10));
        reader(&log, "group", |_| 0).commit_hint(&[Position { partition: 0, offset: 4 }]).unwrap();
        runtime().block_on(log.close()).unwrap();
    }
    // Everything is too old, but the hint of the group that is not here now keeps what it has not committed.
    let options = LocalOptions {
        retain_age: Some(Duration::ZERO),
        retention_every: Duration::from_millis(20),
        ..LocalOptions::default()
    };
    let log = open(dir.path(), options, 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(drain(reader(&log, "other", |_| 0).as_mut()).len(), 10);
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _log = open(dir.path(), LocalOptions::default(), 1);
    let Err(LogError::Fatal { reason, .. }) = LocalLog::open(dir.path(), LocalOptions::default()) else {
        panic!("opened twice");
    };
    assert!(reason.contains(dir.path().to_str().unwrap()) && reason.contains("in use"), "{reason}");
}

#[test]
fn a_path_that_is_no_directory_is_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(LogError::Fatal { reason, .. }) = LocalLog::open(file.path(), LocalOptions::default()) else {
        panic!("opened a file");
    };
    assert!(reason.contains(file.path().to_str().unwrap()), "{reason}");
}

#[test]
fn a_second_reader_of_a_group_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), LocalOptions::default(), 1);
    let first = log.consumer(TOPIC, "group").unwrap();
    assert!(matches!(log.consumer(TOPIC, "group"), Err(LogError::Fatal { .. })));
    log.consumer(TOPIC, "another group").unwrap();
    drop(first);
    log.consumer(TOPIC, "group").unwrap();
}

#[test]
fn a_short_queue_makes_callers_wait_and_refuses_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { queue_bytes: 1_000, ..LocalOptions::default() };
    let log = open(dir.path(), options, 2);
    let runtime = runtime();
    let calls = (0..200).map(|n| log.append(TOPIC, numbered(n * 30, n * 30 + 30)));
    let fates = runtime.block_on(futures::future::join_all(calls));
    assert!(fates.iter().flatten().all(Result::is_ok));
    assert_eq!(drain(reader(&log, "group", |_| 0).as_mut()).len(), 6_000);
}

/// A log with three calls of 100 records in its journal, each with a mark; returns that journal.
fn three_calls(dir: &std::path::Path) -> std::path::PathBuf {
    let log = open(dir, LocalOptions::default(), 1);
    for mark in ["first", "second", "third"] {
        let mut records = numbered(0, 100);
        records[50] = record("k", &format!("mark of the {mark} call"));
        assert!(append(&log, records).iter().all(Result::is_ok));
    }
    drop(log);
    let journals = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn zero_out(journal: &std::path::Path, mark: &str) {
    let mut bytes = std::fs::read(journal).unwrap();
    let at = bytes.windows(mark.len()).position(|window| window == mark.as_bytes()).unwrap();
    bytes[at..at + mark.len()].fill(0);
    std::fs::write(journal, bytes).unwrap();
}

#[test]
fn a_group_that_was_torn_by_a_power_failure_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let journal = three_calls(dir.path());
    zero_out(&journal, "mark of the third call");
    let log = open(dir.path(), LocalOptions::default(), 1);
    assert_eq!(drain(reader(&log, "group", |_| 0).as_mut()).len(), 200);
    assert_eq!(append(&log, numbered(0, 1)).remove(0).unwrap().offset, 200);
    assert!(journal.with_extension("torn").exists());
}

#[test]
fn damage_before_the_last_group_is_an_error_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let journal = three_calls(dir.path());
    zero_out(&journal, "mark of the second call");
    let damaged = std::fs::read(&journal).unwrap();
    let Err(LogError::Fatal { reason, .. }) = LocalLog::open(dir.path(), LocalOptions::default()) else {
        panic!("opened a damaged log");
    };
    assert!(reason.contains("damaged"), "{reason}");
    assert!(std::fs::read(&journal).unwrap() == damaged, "the journal was changed");
}
