//! A newcomer's first minutes: `lakehose up`, a few posts, a query, Ctrl-C, and up again.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, http, wait_for};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn what_was_posted_is_in_duckdb_seconds_later() {
    let place = Place::new(Config { flush_every: "1s", ..Config::new("first") });
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    let mut table = Table::new(up.table(&place.config.dataset));
    assert_eq!(table.count(), 0);

    let object = r#"{"device_id": "sensor-1", "data": {"temp": 21.5}}"#;
    let array = r#"[{"device_id": "sensor-1", "data": {"temp": 22}}, {"device_id": "sensor-2", "id": "x"}, {}]"#;
    let lines = "{\"device_id\": \"sensor-2\", \"type\": \"boot\"}\n{\"device_id\": \"sensor-3\"}\n";
    let posted = Instant::now();
    for (content_type, body, accepted, rejected) in [
        ("application/json", object, 1, json!([])),
        ("application/json", array, 2, json!([[2, "missing_device_id"]])),
        ("application/x-ndjson", lines, 2, json!([])),
    ] {
        let answer = http::post(&up.gateway(), content_type, body).unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        let report = answer.json();
        let reasons = report["rejected"].as_array().unwrap().iter().map(|r| json!([r["index"], r["reason"]]));
        assert_eq!((&report["accepted"], reasons.collect()), (&json!(accepted), rejected), "{report}");
    }
    wait_for("five rows", Duration::from_secs(15), || (table.count() == 5).then_some(()));
    println!("visible after {:?} with a flush every second", posted.elapsed());

    let sql = format!("SELECT id, device_id, type, temp, data, date = current_date AS today FROM {} ", table.scan());
    let rows = table.duckdb.rows(&format!("{sql} WHERE device_id <= 'sensor-2' ORDER BY device_id, kafka_offset"));
    assert_eq!(rows[0]["temp"], 21.5);
    assert!(rows[0]["id"].as_str().unwrap().len() == 36, "an id was given: {rows:?}");
    assert_eq!(rows[2]["id"], "x");
    assert_eq!((&rows[3]["type"], &rows[3]["data"]), (&json!("boot"), &json!(null)));
    assert!(rows.iter().all(|row| row["today"] == true), "{rows:?}");
    up.stop();
}

#[test]
fn a_stop_leaves_nothing_behind_and_the_next_start_goes_on() {
    // Longer than the test: only the stop can have written the rows.
    let place = Place::new(Config { flush_every: "1h", ..Config::new("restart") });
    let size = Size { devices: 6, events_per_device: 500, batch: 50, pause: Duration::ZERO };

    let first = place.start("up");
    let url = first.table(&place.config.dataset);
    let mut ledger = Fleet::start(first.gateway(), size, 0).finish();
    first.stop();
    let mut table = Table::new(url);
    table.assert_is(&ledger, place.path());

    let second = place.start("up");
    ledger.add(Fleet::start(second.gateway(), size, size.devices).finish());
    second.stop();
    table.assert_is(&ledger, place.path());
    assert_eq!((table.count(), ledger.retried()), (2 * size.total(), 0));
}
