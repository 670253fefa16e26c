//! Dead letters as a tool: found, exported, corrected and replayed, each exactly once, whatever crashes.

use crate::support::config::Config;
use crate::support::dead::DeadLetters;
use crate::support::duckdb::DuckDb;
use crate::support::foreign::{Foreign, Produced};
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use crate::support::table::Table;
use crate::support::{PATIENCE, servers, wait_for};
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{Log, OwnedRecord};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn on_kafka(name: &str) -> Place {
    let brokers = Some(servers::kafka());
    Place::new(Config { brokers, partitions: 3, flush_every: "200ms", ..Config::new(name) })
}

/// A record that lacks its end, and would be an event with it.
fn cut_off(number: usize) -> Produced {
    let value = Some(format!(r#"{{"id": "n-{number}", "device_id": "d{}""#, number % 7).into_bytes());
    let headers = vec![("h", Some(b"1".to_vec())), ("h", None), ("bytes", Some(b"\xff\x00".to_vec()))];
    Produced { name: "cut off", key: (!number.is_multiple_of(5)).then(|| b"k\xff".to_vec()), value, headers }
}

fn mend(line: &mut Value) {
    let mended = format!("{}}}", line["payload"].as_str().unwrap());
    line["payload"] = mended.into();
}

/// So many dead letters, and a file with their corrections.
struct Corrected {
    place: Place,
    processor: Lakehose,
    dead: DeadLetters,
    letters: Table,
    corrected: String,
}

impl Corrected {
    fn of(name: &str, count: usize) -> Corrected {
        let place = on_kafka(name);
        let processor = place.start("processor");
        let dead = DeadLetters::of(&place);
        let foreign = Foreign::new(&servers::kafka(), &place.config.dataset);
        (0..count).for_each(|number| foreign.send(cut_off(number)));
        foreign.landed();
        let mut letters = Table::new(dead.table(&processor));
        wait_for("dead letters", PATIENCE, || (letters.count() == count as u64).then_some(()));
        let corrected = place.path().join("corrected.ndjson");
        dead.correct(&[], &corrected, mend);
        let corrected = corrected.to_str().unwrap().to_owned();
        Corrected { place, processor, dead, letters, corrected }
    }
}

/// Rows of the events `n-…`: how many, and of how many of them.
fn rows(events: &mut Table) -> (i64, i64) {
    let scan = events.scan();
    let row = events
        .duckdb
        .row(&format!("SELECT count(*) AS n, count(DISTINCT id) AS events FROM {scan} WHERE id LIKE 'n-%'"));
    (row["n"].as_i64().unwrap(), row["events"].as_i64().unwrap())
}

#[test]
fn letters_are_listed_shown_exported_corrected_and_replayed_once() {
    let place = on_kafka("dead-tool");
    let processor = place.start("processor");
    let dead = DeadLetters::of(&place);
    let (events, letters) = (processor.table(&place.config.dataset), dead.table(&processor));
    let foreign = Foreign::new(&servers::kafka(), &place.config.dataset);
    (0..40).for_each(|number| foreign.send(cut_off(number)));
    foreign.landed();
    std::thread::sleep(Duration::from_millis(10));
    for value in [Some(b"\xfe\x00\xff".to_vec()), Some(b"{}".to_vec()), None] {
        foreign.send(Produced { name: "hopeless", value, ..Produced::default() });
    }
    let landed = foreign.landed();
    let mut letters = Table::new(letters);
    wait_for("dead letters", PATIENCE, || (letters.count() == 43).then_some(()));

    let all = dead.lines(&["ls", "--json"]);
    assert_eq!(all.len(), 43);
    assert!(all.iter().all(|line| line["replayed"] == false), "{all:?}");
    assert!(all.is_sorted_by_key(|line| line["received_at"].as_str().unwrap().to_owned()), "the newest last");
    assert_eq!(dead.lines(&["ls", "--json", "--reason", "invalid_json"]).len(), 41);
    assert_eq!(dead.lines(&["ls", "--json", "--reason", "empty", "--reason", "missing_device_id"]).len(), 2);
    assert_eq!(dead.lines(&["ls", "--json", "--limit", "7"]), all[..7]);
    assert_eq!(dead.lines(&["ls", "--json", "--since", "1h", "--until", "2999-01-01"]).len(), 43);
    assert!(dead.lines(&["ls", "--json", "--until", "2h"]).is_empty());
    let of = |partition: i32| landed.keys().filter(|(p, _)| *p == partition).count();
    assert_eq!(dead.lines(&["ls", "--json", "--partition", "0", "--partition", "2"]).len(), of(0) + of(2));
    let first = landed.keys().filter(|(_, offset)| *offset < 2).count();
    assert_eq!(dead.lines(&["ls", "--json", "--offset", "0..2"]).len(), first);
    let summary = dead.lines(&["ls", "--json", "--summary"]);
    assert_eq!(summary.iter().map(|line| line["letters"].as_u64().unwrap()).sum::<u64>(), 43);

    let (&(partition, offset), _) = landed.iter().find(|(_, record)| record.value == cut_off(1).value).unwrap();
    let at = format!("{partition}/{offset}");
    let shown = dead.run(&["show", &at]).ok();
    for fact in [r#""id": "n-1""#, "k\\xff", "bytes = \\xff\\x00", "invalid_json", "replayed     no"] {
        assert!(shown.contains(fact), "`{fact}` is not in:\n{shown}");
    }

    // Exported to the byte, in both formats.
    let exported = dead.lines(&["export"]);
    let value = |line: &Value| dead.bytes(line, "payload");
    let found: BTreeMap<(i32, i64), _> = exported.iter().map(|line| (dead.place(line), value(line))).collect();
    assert_eq!(found, landed.iter().map(|(place, record)| (*place, record.value.clone())).collect());
    let csv = place.path().join("letters.csv");
    dead.run(&["export", "--format", "csv", "--output", csv.to_str().unwrap()]).ok();
    let counted = DuckDb::start().row(&format!(
        "SELECT count(*) AS n, sum(payload_bytes)::BIGINT AS bytes FROM read_csv('{}', header = true, all_varchar = false)",
        csv.display()
    ));
    let bytes: usize = landed.values().filter_map(|record| record.value.as_ref().map(Vec::len)).sum();
    assert_eq!(counted, json!({"n": 43, "bytes": bytes}));

    // Corrected, tried, replayed, and not once more.
    let corrected = place.path().join("corrected.ndjson");
    dead.correct(&["--reason", "invalid_json", "--limit", "40"], &corrected, mend);
    let input = ["replay", "--input", corrected.to_str().unwrap()];
    let tried = dead.run(&[&input[..], &["--dry-run"]].concat()).ok();
    assert!(tried.contains("nothing was replayed") && tried.contains("40 of them corrected"), "{tried}");
    let told = dead.run(&input).ok();
    assert!(told.contains("40 dead letters replayed, 40 of them corrected"), "{told}");
    let told = dead.run(&input).ok();
    assert!(told.contains("0 dead letters replayed, 40 replayed before"), "{told}");
    let mut events = Table::new(events);
    wait_for("rows of the corrected", PATIENCE, || (rows(&mut events) == (40, 40)).then_some(()));
    assert_eq!(dead.lines(&["ls", "--json", "--pending"]).len(), 3);
    assert_eq!(dead.lines(&["ls", "--json", "--replayed"]).len(), 40);
    assert!(dead.run(&["show", &at]).ok().contains(", corrected"));

    // What is replayed as it was is dead again, at another place; what has no payload is left out.
    let told = dead.run(&["replay"]).ok();
    assert!(told.contains("2 dead letters replayed, 40 replayed before, 1 left out"), "{told}");
    wait_for("dead again", PATIENCE, || (letters.count() == 45).then_some(()));
    let again = dead.lines(&["export", "--pending", "--reason", "missing_device_id"]);
    let header = again[0]["headers"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(header[0], "lakehose-replay-of");
    assert!(header[1].as_str().unwrap().split('/').count() == 3, "{header}");

    // An analyst joins the tables.
    let (letters_scan, events_scan) = (letters.scan(), events.scan());
    let joined = letters.duckdb.number(&format!(
        "SELECT count(*) FROM {letters_scan} d
         JOIN delta_scan('{}') r USING (kafka_partition, kafka_offset)
         JOIN {events_scan} e ON (e.kafka_partition, e.kafka_offset) = (r.replayed_partition, r.replayed_offset)
         WHERE r.corrected",
        dead.replays(&processor)
    ));
    assert_eq!(joined, 40);

    // Ends of transactions are not taken for records that are still to come, neither by lag tools nor at the end.
    Topic::new(&servers::kafka(), &place.config.dataset).wait_until_no_lag();
    processor.stop();
}

#[test]
fn a_replay_that_is_killed_again_and_again_replays_each_letter_once() {
    const LETTERS: usize = 20_000;
    let Corrected { place, processor, dead, mut letters, corrected } = Corrected::of("dead-kill", LETTERS);
    let input = ["replay", "--input", &corrected];

    // At any moment; as soon as a batch is in the topic, which is before it is settled; and as soon as the table of
    // replays has changed, which is before a batch is in the topic.
    let topic = Topic::new(&servers::kafka(), &place.config.dataset);
    let (mut killed, mut finished) = (0, Vec::new());
    for round in 0..30 {
        let (ends, began) = (topic.ends(), Instant::now());
        let latest = Duration::from_millis(rand::random_range(100..1_500));
        let commits = dead.commits();
        let told = dead.kill_when(&input, || match round % 3 {
            0 => began.elapsed() > latest,
            1 => topic.ends() != ends,
            _ => dead.commits() != commits,
        });
        finished.extend(told.finished());
        killed += i32::from(told.was_killed);
        if !told.was_killed {
            break;
        }
    }
    let told = dead.kill_when(&input, || false);
    assert!(!told.was_killed, "it ends when it is left alone");
    finished.extend(told.finished());
    println!("{killed} killed; batches finished later, with the records that were there: {finished:?}");
    assert!(!finished.is_empty(), "no batch was ever cut in two");
    let mut events = Table::new(processor.table(&place.config.dataset));
    wait_for("all rows", PATIENCE, || (rows(&mut events).1 == LETTERS as i64).then_some(()));
    assert_eq!(rows(&mut events), (LETTERS as i64, LETTERS as i64), "{killed} replays were killed");
    assert!(dead.lines(&["ls", "--json", "--pending"]).is_empty());
    assert_eq!(letters.count(), LETTERS as u64, "nothing became a dead letter once more");
    processor.stop();
    assert_eq!(rows(&mut events), (LETTERS as i64, LETTERS as i64));
}

#[test]
fn two_replays_at_once_double_nothing() {
    const LETTERS: usize = 4_000;
    let Corrected { place, processor, dead, corrected, .. } = Corrected::of("dead-twice", LETTERS);
    let input = ["replay", "--input", &corrected];

    let running: Vec<_> = (0..3)
        .map(|n| {
            std::thread::sleep(Duration::from_millis(n * 150));
            dead.start(&input)
        })
        .collect();
    let ended: Vec<_> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for output in &ended {
        let complaint = String::from_utf8_lossy(&output.stderr);
        println!("{} {complaint}", output.status);
        let is_clear = complaint.contains("another replay") || complaint.contains("others replay");
        assert!(output.status.success() || is_clear, "{complaint}");
    }
    assert!(ended.iter().any(|output| output.status.success()), "one of them goes on to the end");
    dead.run(&input).ok();
    let mut events = Table::new(processor.table(&place.config.dataset));
    wait_for("all rows", PATIENCE, || (rows(&mut events).1 == LETTERS as i64).then_some(()));
    processor.stop();
    assert_eq!(rows(&mut events), (LETTERS as i64, LETTERS as i64));
}

#[test]
fn a_replay_that_hung_while_another_went_on_doubles_nothing() {
    const LETTERS: usize = 15_000;
    let Corrected { place, processor, dead, corrected, .. } = Corrected::of("dead-hang", LETTERS);
    let input = ["replay", "--input", &corrected];

    for round in 0..4 {
        let commits = dead.commits();
        let mut hung = dead.start(&input);
        // A batch is begun, maybe on its way, maybe appended.
        wait_for("a batch", PATIENCE, || (dead.commits() != commits).then_some(()));
        std::thread::sleep(Duration::from_millis(rand::random_range(0..20)));
        let pid = Pid::from_child(&hung);
        kill_process(pid, Signal::STOP).unwrap();
        dead.run(&[&input[..], &["--limit", "200"]].concat()).ok();
        kill_process(pid, Signal::CONT).unwrap();
        let status = hung.wait().unwrap();
        println!("round {round}: the one that hung ended with {status}");
    }
    dead.run(&input).ok();
    let mut events = Table::new(processor.table(&place.config.dataset));
    wait_for("all rows", PATIENCE, || (rows(&mut events).1 == LETTERS as i64).then_some(()));
    processor.stop();
    assert_eq!(rows(&mut events), (LETTERS as i64, LETTERS as i64));
}

#[test]
fn the_embedded_log_takes_replays_while_nothing_runs() {
    let place = Place::new(Config { flush_every: "200ms", ..Config::new("dead-local") });
    let dataset = place.config.dataset.clone();
    place.start("up").stop();
    let log = LocalLog::open(place.path().join("lakehose-data/log"), LocalOptions::default()).unwrap();
    let records = (0..1_500).map(|number| {
        let Produced { key, value, .. } = cut_off(number);
        OwnedRecord { key: key.map(Into::into), value: value.map(Into::into), headers: vec![("n".into(), None)] }
    });
    log.exclusive(&dataset).unwrap().append(records.collect()).unwrap();
    drop(log);
    let up = place.start("up");
    let dead = DeadLetters::of(&place);
    let mut letters = Table::new(dead.table(&up));
    wait_for("dead letters", PATIENCE, || (letters.count() == 1_500).then_some(()));
    let corrected = place.path().join("corrected.ndjson");
    dead.correct(&[], &corrected, mend);
    let input = ["replay", "--input", corrected.to_str().unwrap()];

    // The running process has the log to itself.
    let complaint = dead.run(&input).complaint();
    assert!(complaint.contains("stop the running `lakehose up`") && complaint.contains("--brokers"), "{complaint}");
    up.stop();
    for wait in [20, 60, 110, 170] {
        let began = Instant::now();
        dead.kill_when(&input, || began.elapsed() > Duration::from_millis(wait));
    }
    dead.run(&input).ok();
    let told = dead.run(&input).ok();
    assert!(told.contains("0 dead letters replayed, 1500 replayed before"), "{told}");
    let up = place.start("up");
    let mut events = Table::new(up.table(&dataset));
    wait_for("all rows", PATIENCE, || (rows(&mut events).1 == 1_500).then_some(()));
    up.stop();
    assert_eq!(rows(&mut events), (1_500, 1_500));
    assert_eq!(letters.count(), 1_500);
}

#[test]
fn what_cannot_be_replayed_is_told_before_anything_is_sent() {
    let place = on_kafka("dead-wrong");
    let processor = place.start("processor");
    let dead = DeadLetters::of(&place);
    assert!(dead.run(&["ls"]).ok().contains("no dead letters"));
    let foreign = Foreign::new(&servers::kafka(), &place.config.dataset);
    (0..10).for_each(|number| foreign.send(cut_off(number)));
    foreign.landed();
    let mut letters = Table::new(dead.table(&processor));
    wait_for("dead letters", PATIENCE, || (letters.count() == 10).then_some(()));
    let ends = Topic::new(&servers::kafka(), &place.config.dataset).ends();

    let file = place.path().join("corrected.ndjson");
    let line = |offset: i64| format!("{}\n", json!({"kafka_partition": 0, "kafka_offset": offset, "payload": "{}"}));
    dead.correct(&[], &file, mend);
    let good = std::fs::read_to_string(&file).unwrap();
    for (text, says) in [
        (format!("{good}{}", line(77)), ["line 11 ", "0/77", "no dead letter"]),
        (format!("{good}{good}"), ["line 11 ", "again", "line 1"]),
        (format!("{good}nonsense\n"), ["line 11 ", "corrected.ndjson", "expected"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let complaint = dead.run(&["replay", "--input", file.to_str().unwrap()]).complaint();
        says.iter().for_each(|word| assert!(complaint.contains(word), "`{word}` is not in: {complaint}"));
    }
    let complaint = dead.run(&["replay", "--open-batch-is", "sent"]).complaint();
    assert!(complaint.contains("no batch is under way"), "{complaint}");
    assert_eq!(Topic::new(&servers::kafka(), &place.config.dataset).ends(), ends);
    processor.stop();
}
