//! Records of producers that know nothing of Lakehose: each is in the table or in the table of dead letters, once, unless
//! it repeats an event, and nothing blocks its partition.

use crate::support::config::Config;
use crate::support::foreign::{Foreign, Produced};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::servers;
use crate::support::table::Table;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What must become of a record.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Row,
    /// A row in each partition: it comes again and again with the same id.
    Once,
    Dead(&'static str),
}
use Fate::{Dead, Once, Row};

/// One record of every kind, with what must become of it.
fn kinds() -> Vec<(Produced, Fate)> {
    let produced = |name, value: &[u8]| Produced { name, value: Some(value.to_vec()), ..Produced::default() };
    let text = |name, value: &str| produced(name, value.as_bytes());
    let headers = vec![("h", Some(b"1".to_vec())), ("h", None), ("bytes", Some(b"\xff\x00".to_vec()))];
    vec![
        (text("valid, without key and headers", r#"{"device_id": "f", "data": {"seq": 5}}"#), Row),
        (text("old", r#"{"device_id": "f", "time": "2001-02-03T04:05:06Z"}"#), Row),
        (text("misfit", r#"{"device_id": "f", "data": {"seq": "five", "temp": {"a": 1}}}"#), Row),
        (text("its own id", r#"{"device_id": "f", "id": "mine", "extra": [1]}"#), Once),
        (produced("not text", b"\xfe\xff\x00"), Dead("invalid_json")),
        (text("not JSON", "temp=5"), Dead("invalid_json")),
        (text("cut off", r#"{"device_id": "f", "data": {"se"#), Dead("invalid_json")),
        (text("no object", "[1, 2]"), Dead("not_an_object")),
        (text("no device", r#"{"data": {"seq": 5}}"#), Dead("missing_device_id")),
        (text("device of the wrong type", r#"{"device_id": 5}"#), Dead("invalid_device_id")),
        (text("time that is none", r#"{"device_id": "f", "time": "yesterday"}"#), Dead("invalid_time")),
        (text("data that is no object", r#"{"device_id": "f", "data": 5}"#), Dead("invalid_data")),
        (Produced { name: "tombstone", key: Some(b"f".to_vec()), ..Produced::default() }, Dead("empty")),
        (
            Produced { key: Some(b"\x00\xff".to_vec()), headers, ..text("with key and headers", "{}") },
            Dead("missing_device_id"),
        ),
    ]
}

/// An event that would be valid if it were not so long.
fn five_megabytes() -> Produced {
    let value = format!(r#"{{"device_id": "f", "data": {{"blob": "{}"}}}}"#, "x".repeat(5_000_000));
    Produced { name: "5 MB", value: Some(value.into_bytes()), ..Produced::default() }
}

const ROUNDS: usize = 300;

#[test]
fn every_record_of_a_foreign_producer_is_a_row_or_a_dead_letter_once() {
    let brokers = servers::kafka();
    let lake = Config { brokers: Some(brokers.clone()), partitions: 2, flush_every: "200ms", ..Config::new("foreign") };
    let place = Place::new(lake);
    let dataset = place.config.dataset.clone();
    let mut processor = place.start("processor");
    let (events, dead) = (processor.table(&dataset), format!("{}__dead", processor.table(&dataset)));
    let foreign = Foreign::new(&brokers, &dataset);
    let mut fates = BTreeMap::from([("5 MB", Dead("too_large"))]);
    for round in 0..ROUNDS {
        for (record, fate) in kinds() {
            fates.insert(record.name, fate);
            foreign.send(record);
        }
        if round % 100 == 50 {
            foreign.send(five_megabytes());
            // Between what is committed and what is not, and between dead letters and the offsets that follow them.
            foreign.landed();
            std::thread::sleep(std::time::Duration::from_millis(130 + round as u64));
            processor.kill();
            processor = place.start("processor");
        }
    }
    let landed = foreign.landed();
    Topic::new(&brokers, &dataset).wait_until_no_lag();
    processor.stop();

    let mut rows = Table::new(events);
    let mut dead = Table::new(dead);
    let mut expected_rows = Vec::new();
    let mut expected_dead = Vec::new();
    let mut once = BTreeSet::new();
    for (&(partition, offset), record) in &landed {
        match fates[record.name] {
            Once if !once.insert((partition, record.name)) => {}
            Row | Once => expected_rows.push(json!([partition, offset])),
            Dead(reason) => {
                let payload = record.value.as_deref().map(hex);
                expected_dead.push(json!([
                    partition,
                    offset,
                    reason,
                    dataset,
                    record.key.as_deref().map(hex),
                    payload
                ]));
            }
        }
    }
    let scan = rows.scan();
    let places = rows.duckdb.rows(&format!("SELECT [kafka_partition, kafka_offset] AS p FROM {scan} ORDER BY p"));
    let places: Vec<Value> = places.iter().map(|row| row["p"].clone()).collect();
    assert_eq!(places, expected_rows);
    let scan = dead.scan();
    let letters = dead.duckdb.rows(&format!(
        "SELECT kafka_partition, kafka_offset, reason, topic, lower(hex(key)) AS key, lower(hex(payload)) AS payload
         FROM {scan} ORDER BY kafka_partition, kafka_offset"
    ));
    assert_eq!(letters.len(), expected_dead.len());
    for (letter, expected) in letters.iter().zip(&expected_dead) {
        let names = ["kafka_partition", "kafka_offset", "reason", "topic", "key", "payload"];
        let letter = Value::from(names.map(|name| letter[name].clone()).to_vec());
        assert!(letter == *expected, "{:.300}\nis not\n{:.300}", letter.to_string(), expected.to_string());
    }
    assert_details(&mut rows, &mut dead);
}

/// What the records looked like, by one of each kind.
fn assert_details(rows: &mut Table, dead: &mut Table) {
    let scan = rows.scan();
    let mut kind = |holds: &str| {
        rows.duckdb.row(&format!(
            "SELECT DISTINCT id IS NOT NULL AS id, seq, temp, data, date, date = received_at::DATE AS today
             FROM {scan} WHERE {holds}"
        ))
    };
    let day = "2001-02-03";
    let old = kind(&format!("date = '{day}'"));
    assert_eq!((&old["date"], &old["id"]), (&json!(day), &json!(true)));
    let misfit = kind("data LIKE '%five%'");
    assert_eq!((&misfit["seq"], &misfit["temp"]), (&Value::Null, &Value::Null));
    let kept: Value = serde_json::from_str(misfit["data"].as_str().unwrap()).unwrap();
    assert_eq!(kept, json!({"seq": "five", "temp": {"a": 1}}));
    let own = kind("id = 'mine'");
    assert_eq!(serde_json::from_str::<Value>(own["data"].as_str().unwrap()).unwrap(), json!({"extra": [1]}));
    let plain = kind("seq = 5");
    assert_eq!((&plain["data"], &plain["today"]), (&Value::Null, &json!(true)));

    let scan = dead.scan();
    let letter = dead.duckdb.row(&format!(
        "SELECT DISTINCT headers, date = received_at::DATE AS today FROM {scan} WHERE headers LIKE '%bytes%'"
    ));
    let headers: Value = serde_json::from_str(letter["headers"].as_str().unwrap()).unwrap();
    assert_eq!(headers, json!([["h", "1"], ["h", null], ["bytes", {"base64": "/wA="}]]));
    assert_eq!(letter["today"], true);
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
