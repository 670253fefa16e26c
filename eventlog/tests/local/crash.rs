//! Processes that die: by `kill -9` while appending, and by a disk that takes no more.

use crate::bed::{TOPIC, drain, open, reader, record};
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{AppendError, Log, Position};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DIR: &str = "EVENTLOG_TEST_DIR";
const PARTITIONS: u32 = 4;

/// Small tables and segments, so that a crash meets flushes and rolls.
fn restless() -> LocalOptions {
    LocalOptions { memtable_bytes: 2 << 20, segment_bytes: 4 << 20, ..LocalOptions::default() }
}

#[test]
fn every_acknowledged_record_is_there_once_and_in_order_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..6 {
        let mut child = child("child_appends_until_it_is_killed", dir.path(), None);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || lines.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(700 + 130 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            acknowledged.extend(parse_ack(&line));
        }
        check(dir.path(), &acknowledged);
    }
    assert!(acknowledged.len() > 1_000, "only {} records were acknowledged", acknowledged.len());
}

#[test]
fn after_an_io_error_nothing_is_acknowledged_and_what_was_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    // The journal is made with 64 MiB; the limit strikes soon after that is used up.
    let mut child = child("child_appends_until_the_disk_fails", dir.path(), Some(131_500));
    let lines = BufReader::new(child.stdout.take().unwrap());
    let lines: Vec<String> = lines.lines().map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("DISK FAILED")), "the disk did not fail");
    let acknowledged: HashMap<String, Position> = lines.iter().filter_map(|line| parse_ack(line)).collect();
    assert!(acknowledged.len() > 100);
    check(dir.path(), &acknowledged);
}

/// Starts this test binary again to run one of the functions below.
fn child(name: &str, dir: &Path, file_blocks: Option<u32>) -> std::process::Child {
    let test = std::env::current_exe().unwrap();
    let limit = file_blocks.map_or(String::new(), |blocks| format!("trap '' XFSZ; ulimit -f {blocks};"));
    Command::new("sh")
        .arg("-c")
        .arg(format!(r#"{limit} exec "$0" "crash::{name}" --exact --ignored --nocapture"#))
        .arg(test)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the process that another test kills"]
fn child_appends_until_it_is_killed() {
    let dir = std::env::var(DIR).unwrap();
    let runtime = crate::bed::runtime();
    let log = Arc::new(open(Path::new(&dir), restless(), PARTITIONS));
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let log = Arc::clone(&log);
            runtime.spawn(async move {
                for call in 0u64.. {
                    let count = 1 + (call * 7 + task) % 90;
                    let records = (0..count).map(|n| {
                        let filler = "x".repeat(((call + n) % 300) as usize);
                        // Keys of one writer differ, so that a call touches several partitions.
                        record(&format!("{task}-{}", n % 5), &format!("{started}.{task} {call} {n} {count} {filler}"))
                    });
                    let records: Vec<_> = records.collect();
                    let positions = match task % 2 {
                        0 => {
                            log.append(TOPIC, records.clone()).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap()
                        }
                        _ => log.append_whole(TOPIC, records.clone()).await.unwrap(),
                    };
                    let mut out = std::io::stdout().lock();
                    for (record, at) in records.iter().zip(positions) {
                        let value = std::str::from_utf8(&record.value).unwrap();
                        writeln!(out, "ACK {} {} {}", at.partition, at.offset, value.trim_end_matches(['x', ' ']))
                            .unwrap();
                    }
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
#[ignore = "the process that another test lets run into a file size limit"]
fn child_appends_until_the_disk_fails() {
    let dir = std::env::var(DIR).unwrap();
    let runtime = crate::bed::runtime();
    // No table is written before the journal reaches its limit.
    let options = LocalOptions { memtable_bytes: 1 << 30, segment_bytes: 1 << 30, ..LocalOptions::default() };
    let log = Arc::new(open(Path::new(&dir), options, PARTITIONS));
    let failed = Arc::new(AtomicBool::new(false));
    for call in 0..1_000 {
        let value = format!("1.0 {call} 0 1 {}", "x".repeat(200_000));
        let fate = runtime.block_on(log.append(TOPIC, vec![record("k", &value)])).remove(0);
        match fate {
            Ok(at) => {
                assert!(!failed.load(Ordering::SeqCst), "acknowledged after an error");
                println!("ACK {} {} 1.0 {call} 0 1", at.partition, at.offset);
            }
            Err(AppendError::Unknown(_)) => {
                assert!(!failed.swap(true, Ordering::SeqCst), "said to be unknown twice");
                println!("DISK FAILED at {call}");
            }
            Err(AppendError::Unavailable(reason)) => {
                assert!(failed.load(Ordering::SeqCst), "refused before an error: {reason}");
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed.load(Ordering::SeqCst));
    assert!(log.health().is_err());
    assert!(runtime.block_on(log.close()).is_err());
}

/// `ACK partition offset writer call n count`: the value's head, and where it was acknowledged.
fn parse_ack(line: &str) -> Option<(String, Position)> {
    let mut words = line[line.find("ACK ")? + 4..].splitn(3, ' ');
    let at = Position { partition: words.next()?.parse().ok()?, offset: words.next()?.parse().ok()? };
    let value = words.next()?.to_owned();
    // A line that was cut by the kill may lack its last words.
    (value.split(' ').count() == 4).then_some((value, at))
}

/// Reads the log as a new process would, and compares it with what was acknowledged.
fn check(dir: &Path, acknowledged: &HashMap<String, Position>) {
    let log = LocalLog::open(dir, restless()).unwrap();
    let mut reader = reader(&log, "check", |_| 0);
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut found: HashMap<String, Position> = HashMap::new();
    let mut calls: HashMap<String, (u64, u64)> = HashMap::new();
    let mut last: HashMap<(String, u64), u64> = HashMap::new();
    for (at, value) in drain(reader.as_mut()) {
        assert_eq!(at.offset, *next.entry(at.partition).or_default(), "a gap in partition {}", at.partition);
        *next.entry(at.partition).or_default() += 1;
        let words: Vec<&str> = value.split(' ').collect();
        let (writer, call, n, count) =
            (words[0], words[1], words[2].parse::<u64>().unwrap(), words[3].parse().unwrap());
        assert!(found.insert(words[..4].join(" "), at).is_none(), "twice: {value}");
        calls.entry(format!("{writer} {call}")).or_insert((0, count)).0 += 1;
        let (call, key) = (call.parse::<u64>().unwrap(), (writer.to_owned(), n % 5));
        let order = call * 1_000 + n;
        assert!(last.insert(key, order).is_none_or(|before| before < order), "out of order: {value}");
    }
    for (value, at) in acknowledged {
        assert_eq!(found.get(value), Some(at), "acknowledged but not there: {value}");
    }
    for (call, (there, count)) in calls {
        assert_eq!(there, count, "only a part of call {call} is there");
    }
}
