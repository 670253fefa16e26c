//! What an operator does by hand: merge now, look at files and at history; and compactors that know of each other.

use crate::support::config::Config;
use crate::support::process::{Lakehose, Place};
use crate::support::table::Table;
use crate::support::{PATIENCE, http, servers, unique, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Posts one event at a time until so many files are in the table.
fn make_files(place: &Place, up: &Lakehose, files: usize) -> u64 {
    let mut posted = 0;
    wait_for("files in the table", PATIENCE, || {
        let body = format!(r#"{{"device_id": "sensor-{posted}", "data": {{"seq": {posted}}}}}"#);
        assert_eq!(http::post(&up.gateway(), "application/json", body).unwrap().status, 202);
        posted += 1;
        (lines(place, &["files", &place.config.dataset, "--json"]).len() >= files).then_some(())
    });
    posted
}

/// What a command that must succeed prints, as JSON line by line.
fn lines(place: &Place, args: &[&str]) -> Vec<Value> {
    let (code, said) = place.run(&[args, &["--log", "warn"]].concat());
    assert_eq!(code, Some(0), "{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"))).collect()
}

#[track_caller]
fn says(place: &Place, args: &[&str], words: &[&str]) -> String {
    let (code, said) = place.run(args);
    assert_eq!(code, Some(0), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    said
}

#[test]
fn a_table_is_merged_on_request_and_its_history_tells() {
    let place = Place::new(Config { flush_every: "100ms", compact_every: "1h", ..Config::new("tools") });
    let dataset = place.config.dataset.as_str();
    let up = place.start("up");
    let mut table = Table::new(up.table(dataset));
    let rows = make_files(&place, &up, 6);
    up.stop();
    let before = lines(&place, &["files", dataset, "--json"]);
    let version = lines(&place, &["history", dataset, "--limit", "1", "--json"])[0]["version"].as_u64().unwrap();

    let plan = lines(&place, &["compact", dataset, "--dry-run", "--json"]);
    let planned: u64 = plan.iter().map(|job| job["files"].as_u64().unwrap()).sum();
    assert_eq!((planned, plan[0]["rows"].as_u64().unwrap() > 1), (before.len() as u64, true), "{plan:?}");
    says(&place, &["compact", dataset, "--dry-run"], &["date", "dry run", "total"]);
    says(&place, &["compact", dataset, "--date", "2001-02-03"], &["nothing was merged"]);
    assert_eq!(lines(&place, &["files", dataset, "--json"]), before, "nothing was changed yet");

    let done = &lines(&place, &["compact", dataset, "--json"])[0];
    let number = |name: &str| done[name].as_u64().unwrap();
    assert_eq!((number("files_before"), number("files_after")), (before.len() as u64, number("files_out")), "{done}");
    assert_eq!((number("rows"), number("failed"), number("duplicates")), (rows, 0, 0), "{done}");
    assert_eq!(table.count(), rows);
    says(&place, &["compact", dataset], &["nothing was merged"]);
    says(&place, &["compact", &format!("{dataset}__dead")], &["nothing was merged, files 0"]);

    let (_, listed) = place.run(&["files", dataset, "--json", "--log", "warn"]);
    let list = place.path().join("files.ndjson");
    std::fs::write(&list, listed).unwrap();
    let read = "read_parquet(getvariable('files'), hive_partitioning = true, union_by_name = true)";
    table.duckdb.rows(&format!("SET VARIABLE files = (SELECT list(url) FROM read_json('{}'))", list.display()));
    let sql = format!("SELECT count(*) FROM {read} WHERE date >= DATE '2020-01-01'");
    assert_eq!(table.duckdb.number(&sql) as u64, rows, "as QUERYING.md has it");

    let files = lines(&place, &["files", dataset, "--json"]);
    assert!(files.iter().all(|file| file["kind"] == "segment" && file["sort_column"] == "device_id"), "{files:?}");
    assert!(files[0]["min"].as_str().unwrap() <= files[0]["max"].as_str().unwrap(), "{files:?}");
    says(&place, &["files", dataset], &["total", &format!("files: {}", files.len()), "device_id \"sensor-"]);

    let history = lines(&place, &["history", dataset, "--json", "--limit", "1000"]);
    let merges: Vec<&Value> = history.iter().filter(|entry| entry["operation"] == "merge").collect();
    assert_eq!(merges.len() as u64, number("merges"));
    let facts = &merges[0]["parameters"];
    assert!(facts["millis"].is_u64() && facts["by"].as_str().unwrap().contains('/') && facts["bytesIn"].is_u64());
    let versions: Vec<u64> = history.iter().map(|entry| entry["version"].as_u64().unwrap()).collect();
    assert!(versions.iter().rev().copied().eq(0..=version + number("merges")), "{versions:?}");
    let said = says(&place, &["history", dataset, "--limit", "1000"], &["merge", "append", "create", "lakehose/"]);
    assert_eq!(said.lines().count(), history.len() + 1);
}

#[test]
fn a_merge_on_request_that_is_told_to_end_says_what_it_has_done() {
    let place = Place::new(Config { flush_every: "100ms", compact_every: "1h", ..Config::new("told") });
    let up = place.start("up");
    make_files(&place, &up, 2);
    up.stop();
    // Whoever reads a pipe that nobody writes to waits for ever.
    let files = lines(&place, &["files", &place.config.dataset, "--json"]);
    let path = files[0]["url"].as_str().unwrap().strip_prefix("file://").unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());

    let mut compact = Command::new(env!("CARGO_BIN_EXE_lakehose"));
    compact.args(["compact", &place.config.dataset]).current_dir(place.path()).env_clear();
    let compact = compact.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("it listens to signals", PATIENCE, || catches(&compact, Signal::TERM).then_some(()));
    kill_process(Pid::from_child(&compact), Signal::TERM).unwrap();
    let output = compact.wait_with_output().unwrap();
    let [said, complaint] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert_eq!(
        (output.status.code(), said.contains("nothing was merged, files ")),
        (Some(1), true),
        "{said}{complaint}"
    );
    assert!(complaint.contains("lakehose: interrupted; what was merged stays"), "{complaint}");
}

fn catches(process: &Child, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn compactors_know_of_each_other_and_miss_one_that_is_killed() {
    know_of_each_other(None);
}

#[test]
fn compactors_of_a_bucket_know_of_each_other_and_miss_one_that_is_killed() {
    know_of_each_other(Some(servers::s3_lake(&unique("crew"))));
}

fn know_of_each_other(lake: Option<String>) {
    let place = Place::new(Config { lake, ..Config::new("crew") });
    let present = |compactor: &Lakehose| compactor.metric("lakehose_compactor_compactors_present");
    let (first, second) = (place.start("compactor"), place.start("compactor"));
    wait_for("both know of both", PATIENCE, || (present(&first) == 2.0 && present(&second) == 2.0).then_some(()));
    assert!(first.is_ready() && first.reason("compactor").is_none());
    second.kill();
    wait_for("the other is missed", PATIENCE, || (present(&first) == 1.0).then_some(()));
    let third = place.start("compactor");
    wait_for("both know of both", PATIENCE, || (present(&first) == 2.0 && present(&third) == 2.0).then_some(()));
    third.stop();
    wait_for("one that stops says goodbye", Duration::from_secs(20), || (present(&first) == 1.0).then_some(()));
    first.stop();
}
