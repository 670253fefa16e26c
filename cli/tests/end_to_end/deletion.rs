//! Rows deleted on request while everything runs: gone for DuckDB, and no other is.

use crate::support::config::Config;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, http, wait_for};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const DEVICES: usize = 10;
const EVENTS: usize = 30;

/// Events with ids of their own, so that a second time is known.
fn events_of(device: usize) -> String {
    let event = |number| json!({"device_id": format!("d{device}"), "id": format!("{device}-{number}")});
    Value::from((0..EVENTS).map(event).collect::<Vec<_>>()).to_string()
}

#[track_caller]
fn post(gateway: &str, body: String) {
    let answer = http::post(gateway, "application/json", body).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

fn count(table: &mut Table, condition: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {} WHERE {condition}", table.scan());
    table.duckdb.number(&sql) as u64
}

#[test]
fn rows_of_a_device_are_gone_while_events_come_in_and_files_are_merged() {
    let config = Config { flush_every: "200ms", compact_every: "300ms", cold_after: "0s", ..Config::new("erased") };
    let place = Place::new(config);
    let dataset = place.config.dataset.clone();
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    let mut table = Table::new(up.table(&dataset));
    (0..DEVICES).for_each(|device| post(&up.gateway(), events_of(device)));
    wait_for("all rows", PATIENCE, || (table.count() == (DEVICES * EVENTS) as u64).then_some(()));

    let (stop, others) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = others.fetch_add(1, Ordering::Relaxed);
                post(&up.gateway(), json!({"device_id": "other", "id": format!("{number}")}).to_string());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let delete = |clause: &str, more: &[&str]| {
            let args = [&["delete", dataset.as_str(), "--where", clause], more].concat();
            place.run(&args)
        };
        let (code, said) = delete("device_id = 'd3'", &["--dry-run"]);
        assert!(code == Some(0) && said.contains("dry run, nothing was deleted; it would be 30 rows"), "{said}");
        let (code, said) = delete("device_id = 'd3'", &[]);
        assert!(code == Some(1) && said.contains("--yes"), "{said}");
        assert_eq!(count(&mut table, "device_id = 'd3'"), EVENTS as u64);

        let (code, said) = delete("device_id = 'd3'", &["--yes", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        let report: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!((&report["rows"], &report["dataset"]), (&json!(EVENTS), &json!(dataset)), "{report}");
        assert!(report["files_stay_until"].is_string() && report["files_in"].as_u64() >= Some(1), "{report}");
        assert_eq!(count(&mut table, "device_id = 'd3'"), 0);
        let version = report["version"].as_u64().unwrap();
        let at = |version: u64| {
            let scan = table.scan().replace(')', &format!(", version => {version})"));
            format!("SELECT count(*) FROM {scan} WHERE device_id = 'd3'")
        };
        let before_and_after = [at(version - 1), at(version)].map(|sql| table.duckdb.number(&sql));
        assert_eq!(before_and_after, [EVENTS as i64, 0]);

        let (code, said) = delete("id IN ('4-0', '4-1') AND device_id = 'd4' AND date >= '2026-01-01'", &["--yes"]);
        assert!(code == Some(0) && said.contains("2 rows deleted") && said.contains("stay until"), "{said}");
        let (code, said) = delete("device_id = 'd3'", &["--yes"]);
        assert!(code == Some(0) && said.contains("nothing to delete"), "{said}");
        std::fs::write(place.path().join("ids.sql"), "id IN (\n  '5-0',\n  'o''brien'\n)\n").unwrap();
        let (code, said) = place.run(&["delete", &dataset, "--where-file", "ids.sql", "--yes"]);
        assert!(code == Some(0) && said.contains("1 row deleted") && said.contains(": 1 file ("), "{said}");
        let (_, said) = place.run(&["history", &dataset, "--limit", "1000"]);
        let told = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(told(&["  delete  ", "rows deleted 30", "predicate: device_id = 'd3'", "by "]), "{said}");
        assert!(told(&["  delete  ", "rows deleted 1", "'o''brien'"]), "{said}");
        let merged = || up.metric("lakehose_compactor_rows_merged_total");
        wait_for("files are merged, too", PATIENCE, || (merged() > 0.0).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    let others = others.into_inner();
    let stays = (DEVICES - 1) * EVENTS - 3;
    wait_for("the other events", PATIENCE, || (count(&mut table, "device_id = 'other'") == others).then_some(()));
    assert_eq!((table.count(), count(&mut table, "device_id = 'd3'")), (stays as u64 + others, 0));
    let merged = up.metric("lakehose_compactor_rows_merged_total");
    assert!(up.metric("lakehose_compactor_rows_read_total") >= merged);

    // Sent again within the window they are known, to a processor that was started since as well: it reads its window from
    // what the table was, whatever was deleted of it.
    post(&up.gateway(), events_of(3));
    post(&up.gateway(), json!({"device_id": "d3", "id": "new"}).to_string());
    wait_for("the new event", PATIENCE, || (count(&mut table, "id = 'new'") == 1).then_some(()));
    assert_eq!(count(&mut table, "device_id = 'd3'"), 1);
    up.stop();
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    for device in 3..5 {
        post(&up.gateway(), events_of(device));
        post(&up.gateway(), json!({"device_id": format!("d{device}"), "id": "newer"}).to_string());
    }
    wait_for("the newer events", PATIENCE, || (count(&mut table, "id = 'newer'") == 2).then_some(()));
    assert_eq!(count(&mut table, "device_id = 'd3'"), 2);
    assert_eq!(count(&mut table, "device_id = 'd4'"), EVENTS as u64 - 2 + 1);
    up.stop();
}
