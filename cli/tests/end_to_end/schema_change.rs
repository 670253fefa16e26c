//! Columns are added, widened, taken back and contradicted between one start and the next.

use crate::support::config::Config;
use crate::support::process::{Lakehose, Place};
use crate::support::table::Table;
use crate::support::{PATIENCE, http, wait_for};
use serde_json::{Value, json};

const FIRST: &str = "{ n = { type = 'int', stats = true }, temp = 'float' }";
const LATER: &str =
    "{ mode = { type = 'string', stats = true }, n = { type = 'long', stats = true }, temp = 'double' }";
/// An older file comes back: without the new column, with the narrow type.
const BACK: &str = "{ n = 'int', temp = 'float' }";
const CONFLICTING: &str = "{ n = 'string', temp = 'double', brand_new = 'int' }";
/// What the refusal advises.
const RENAMED: &str = "{ n_text = { type = 'string', from = 'n' }, temp = 'double' }";

const BEYOND_INT: i64 = 3_000_000_000;

fn post(up: &Lakehose, events: &[Value]) {
    let events: Vec<Value> = events.iter().map(|data| json!({"device_id": "d", "data": data})).collect();
    let answer = http::post(&up.gateway(), "application/json", Value::from(events).to_string()).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// Starts with these columns, posts, waits for the rows, and stops.
fn run(place: &mut Place, columns: &'static str, events: &[Value], table: &mut Option<Table>, total: u64) {
    place.reconfigure(Config { columns, ..place.config.clone() });
    let up = place.start("up");
    let table = table.get_or_insert_with(|| Table::new(up.table(&place.config.dataset)));
    post(&up, events);
    wait_for("the rows", PATIENCE, || (table.count() == total).then_some(()));
    up.stop();
}

/// What an analyst sees, and what filters find: it must not depend on which files hold the rows.
fn assert_rows(table: &mut Table) {
    let scan = table.scan();
    let rows = table.duckdb.rows(&format!("SELECT n, temp, mode, data FROM {scan} ORDER BY received_at, temp"));
    let expected = [
        json!({"n": 1, "temp": 1.0, "mode": null, "data": r#"{"mode":"early"}"#}),
        json!({"n": null, "temp": 2.0, "mode": null, "data": r#"{"n":3000000000}"#}),
        json!({"n": BEYOND_INT, "temp": 3.0, "mode": "late", "data": null}),
        json!({"n": 1, "temp": 4.0, "mode": null, "data": null}),
        json!({"n": BEYOND_INT, "temp": 5.0, "mode": null, "data": r#"{"mode":"back"}"#}),
        json!({"n": null, "temp": 6.0, "mode": null, "data": r#"{"n":7}"#}),
    ];
    assert_eq!(rows, expected);
    for (filter, count) in [
        ("n = 1", 2),
        ("n >= 1", 4),
        ("n > 2147483647", 2),
        ("n < 2147483647", 2),
        ("n IN (1, 3000000000)", 4),
        ("n IS NULL", 2),
        ("temp > 2.5", 4),
        ("temp = 2", 1),
        ("mode IS NULL", 5),
        ("mode = 'late' AND n > 1", 1),
        ("mode IS NULL AND n = 1", 2),
    ] {
        let sql = format!("SELECT count(*) FROM {scan} WHERE {filter} AND date >= current_date - 1");
        assert_eq!(table.duckdb.number(&sql), count, "{filter}");
    }
    let columns = table.duckdb.rows(&format!("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {scan})"));
    let columns: Vec<&str> = columns.iter().map(|row| row["column_name"].as_str().unwrap()).collect();
    assert_eq!(columns[4..10], ["received_at", "n", "temp", "mode", "n_text", "data"]);
}

#[test]
fn columns_change_between_starts_and_every_row_stays_what_it_was() {
    let config = Config { compact_every: "1h", partitions: 1, ..Config::new("columns") };
    let mut place = Place::new(config);
    let mut table = None;
    let early = [json!({"n": 1, "temp": 1, "mode": "early"}), json!({"n": BEYOND_INT, "temp": 2})];
    run(&mut place, FIRST, &early, &mut table, 2);

    place.reconfigure(Config { columns: LATER, ..place.config.clone() });
    let (code, said) = place.run(&["check"]);
    let change = "mode string added, n widened to long, temp widened to double, mode with statistics";
    assert!(code == Some(0) && said.contains(change), "{said}");
    run(
        &mut place,
        LATER,
        &[json!({"n": BEYOND_INT, "temp": 3, "mode": "late"}), json!({"n": 1, "temp": 4})],
        &mut table,
        4,
    );
    let (code, said) = place.run(&["check"]);
    assert!(code == Some(0) && !said.contains("changes"), "{said}");
    run(&mut place, BACK, &[json!({"n": BEYOND_INT, "temp": 5, "mode": "back"})], &mut table, 5);

    place.reconfigure(Config { columns: CONFLICTING, ..place.config.clone() });
    for args in [&["check"][..], &["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]] {
        let (code, said) = place.run(args);
        let line = said.lines().find(|line| line.contains("`n`")).unwrap_or_else(|| panic!("{said}"));
        assert_ne!(code, Some(0));
        for words in [&place.config.dataset, "is long, and string is declared", "another name"] {
            assert!(line.contains(words), "`{words}` is not in: {line}");
        }
    }
    run(&mut place, RENAMED, &[json!({"n": 7, "temp": 6})], &mut table, 6);
    let mut table = table.unwrap();
    assert_rows(&mut table);
    // Neither the check nor the refused start has changed anything.
    assert!(table.duckdb.ask(&format!("SELECT brand_new FROM {}", table.scan())).is_err());

    // A compactor that knows the first columns only.
    place.reconfigure(Config { columns: FIRST, compact_every: "1s", cold_after: "1s", ..place.config.clone() });
    let compactor = place.start("compactor");
    let replaced = || compactor.metric("lakehose_compactor_files_replaced_total") >= 4.0;
    wait_for("the files are merged", PATIENCE, || replaced().then_some(()));
    assert_rows(&mut table);
    compactor.stop();
    let (_, files) = place.run(&["files", &place.config.dataset, "--json"]);
    assert_eq!(files.lines().count(), 1, "{files}");
}
