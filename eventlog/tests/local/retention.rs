//! Deletion, the disk budget, and the size of the files.

use crate::bed::{TOPIC, append, drain, open, reader, record, runtime};
use eventlog::local::LocalOptions;
use eventlog::{AppendError, Bounds, Input, Log, NewRecord, Position};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn tight() -> LocalOptions {
    LocalOptions {
        disk_budget: 1 << 20,
        retain_age: None,
        retain_bytes: None,
        retention_every: Duration::from_millis(20),
        ..LocalOptions::default()
    }
}

fn kilobytes(count: usize) -> Vec<NewRecord> {
    (0..count).map(|n| record(&format!("key-{n}"), &"x".repeat(1_000))).collect()
}

#[test]
fn a_spent_budget_refuses_and_takes_records_again_once_the_table_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), tight(), 1);
    let mut written = 0;
    let refusal = loop {
        match append(&log, kilobytes(10)).remove(0) {
            Ok(_) => written += 10,
            Err(refusal) => break refusal,
        }
        assert!(written < 5_000, "never refused");
    };
    assert!(matches!(refusal, AppendError::Full { used, budget } if used > budget), "{refusal}");
    assert!(log.health().is_err());
    let mut reader = reader(&log, "group", |_| 0);
    assert_eq!(drain(reader.as_mut()).len(), written, "records were deleted that no table has");

    reader.commit_hint(&[Position { partition: 0, offset: written as i64 }]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while log.health().is_err() {
        assert!(Instant::now() < deadline, "still full: {:?}", log.usage());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(append(&log, kilobytes(1)).remove(0).unwrap().offset, written as i64);
    assert!(reader.bounds(0, Duration::ZERO).unwrap().first > 0);
    assert_eq!(drain(reader.as_mut()).len(), 1);
}

#[test]
fn nothing_at_or_above_the_hint_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { retain_bytes: Some(0), retain_age: Some(Duration::ZERO), ..tight() };
    let log = open(dir.path(), options, 2);
    let mut reader = reader(&log, "group", |_| 0);
    let mut slow = log.consumer(TOPIC, "slow").unwrap();
    let mut hint = 0;
    for round in 0..60 {
        append(&log, kilobytes(10));
        let bounds = [0, 1].map(|partition| reader.bounds(partition, Duration::ZERO).unwrap());
        hint = round / 3;
        reader.commit_hint(&bounds.map(|_| 0).map(|_| Position { partition: 0, offset: hint })).unwrap();
        reader.commit_hint(&[Position { partition: 1, offset: bounds[1].next }]).unwrap();
        slow.commit_hint(&bounds_as_positions(&bounds)).unwrap();
        std::thread::sleep(Duration::from_millis(25));
        let first = reader.bounds(0, Duration::ZERO).unwrap().first;
        assert!(first <= hint, "deleted up to {first}, the table has {hint}");
    }
    assert!(hint > 0);
    let next = reader.bounds(0, Duration::ZERO).unwrap().next;
    reader.seek(Position { partition: 0, offset: hint }).unwrap();
    reader.pause(&[1]).unwrap();
    assert_eq!(drain(reader.as_mut()).len() as i64, next - hint);
}

fn bounds_as_positions(bounds: &[Bounds]) -> Vec<Position> {
    let position =
        |(partition, bounds): (usize, &Bounds)| Position { partition: partition as i32, offset: bounds.next };
    bounds.iter().enumerate().map(position).collect()
}

#[test]
fn a_deleted_position_is_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { retain_age: Some(Duration::ZERO), ..tight() };
    let log = open(dir.path(), options, 1);
    append(&log, kilobytes(500));
    let mut reader = reader(&log, "group", |_| 0);
    reader.commit_hint(&[Position { partition: 0, offset: 500 }]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while reader.bounds(0, Duration::ZERO).unwrap().first == 0 {
        assert!(Instant::now() < deadline, "nothing was deleted");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(reader.poll(Duration::ZERO, &mut |_| {}).unwrap(), Input::OutOfRange(0));
    assert_eq!(reader.poll(Duration::ZERO, &mut |_| {}).unwrap(), Input::Idle);
    let first = reader.bounds(0, Duration::ZERO).unwrap().first;
    reader.seek(Position { partition: 0, offset: first }).unwrap();
    assert_eq!(drain(reader.as_mut()).len() as i64, 500 - first);
}

#[test]
fn the_files_stay_bounded_while_records_come_and_go() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions {
        disk_budget: 64 * MIB,
        retain_bytes: Some(16 * MIB),
        journal_bytes: 64 * MIB,
        memtable_bytes: 16 * MIB,
        retention_every: Duration::from_millis(100),
        ..LocalOptions::default()
    };
    let log = open(dir.path(), options, 4);
    let runtime = runtime();
    let mut reader = reader(&log, "group", |_| 0);
    let (mut written, mut most, mut refused) = (0u64, 0, 0);
    let records = kilobytes(2_000);
    while written < 700 {
        if runtime.block_on(log.append(TOPIC, records.clone()))[0].is_ok() {
            written += 2;
        } else {
            refused += 1;
        }
        let next: Vec<Position> = (0..4)
            .map(|partition| Position { partition, offset: reader.bounds(partition, Duration::ZERO).unwrap().next })
            .collect();
        reader.commit_hint(&next).unwrap();
        most = most.max(disk_usage(dir.path()));
        if refused > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    println!("wrote {written} MB, {refused} refusals, at most {} MB on disk, {:?}", most / MIB, log.usage());
    assert!(most < (64 + 64 + 64 + 64 + 32) * MIB, "{} MiB on disk", most / MIB);
}

/// What the files really take; the journal is made sparse.
fn disk_usage(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
