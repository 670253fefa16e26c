//! The official SDKs post CloudEvents to the gateway as it is; the rows say what became of them.

use crate::support::config::Config;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, servers, wait_for};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

const COLUMNS: &str = "{ temp = 'double', origin = { type = 'string', from = 'ce_source' }, \
                       site = { type = 'string', from = 'ce_site' } }";

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/cloudevents").join(name)
}

/// Posts with an SDK and returns the rows by id.
fn rows_of(mut sdk: Command) -> Vec<Value> {
    let place = Place::new(Config { columns: COLUMNS, ..Config::new("cloudevents") });
    let up = place.start("up");
    let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let output = sdk.args([up.gateway(), time.clone()]).output().unwrap();
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaints}");
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let accepted: Vec<&Value> = answers.iter().map(|answer| &answer["accepted"]).collect();
    assert_eq!(accepted, [1, 1, 1, 1, 1, 3], "{said}");

    let mut table = Table::new(up.table(&place.config.dataset));
    wait_for("eight rows", PATIENCE, || (table.count() == 8).then_some(()));
    let sql = format!(
        "SELECT id, device_id, type, origin, site, temp, data, epoch_ms(time) = epoch_ms(TIMESTAMPTZ '{time}') AS posted_time
         FROM {} ORDER BY id",
        table.scan()
    );
    let rows = table.duckdb.rows(&sql);
    up.stop();
    assert!(rows.iter().all(|row| row["posted_time"] == true && row["type"] == "reading"), "{rows:?}");
    rows
}

/// What is left in `data` of the row with this id, and the columns that SDKs fill.
fn row(rows: &[Value], id: &str) -> (Value, Value) {
    let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id} in {rows:?}"));
    let data = row["data"].as_str().map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
    (json!([row["device_id"], row["origin"], row["site"], row["temp"]]), data)
}

#[test]
fn what_the_python_sdk_posts_becomes_rows() {
    let mut python = Command::new(servers::python());
    python.arg(script("post.py"));
    let rows = rows_of(python);
    let (device, origin) = ("Gerät \"7\" €", "urn:python");
    for (id, columns, data) in [
        (
            "py-structured",
            json!([device, origin, null, 1.5]),
            json!({"source": "mine", "ce_datacontenttype": "application/json"}),
        ),
        (
            "py-binary",
            json!([device, origin, "Köln %", 2.5]),
            json!({"text": "é\n", "ce_datacontenttype": "application/json"}),
        ),
        (
            "py-text",
            json!([device, origin, null, null]),
            json!({"data_value": "warm\n", "ce_datacontenttype": "text/plain"}),
        ),
        (
            "py-bytes",
            json!([origin, origin, null, null]),
            json!({"data_base64": "AP8=", "ce_datacontenttype": "application/octet-stream"}),
        ),
        (
            "py-base64",
            json!([origin, origin, null, null]),
            json!({"data_base64": "AP8=", "ce_datacontenttype": "application/octet-stream"}),
        ),
        ("py-batch-2", json!([device, origin, null, 2.0]), json!({"ce_datacontenttype": "application/json"})),
    ] {
        assert_eq!(row(&rows, id), (columns, data), "{id}");
    }
}

#[test]
fn what_the_javascript_sdk_posts_becomes_rows() {
    let mut node = Command::new("node");
    node.arg(script("post.js")).env("NODE_PATH", servers::node_modules());
    let rows = rows_of(node);
    let (device, origin) = ("Gerät \"7\" €", "urn:javascript");
    let json_type = "application/json; charset=utf-8";
    for (id, columns, data) in [
        ("js-structured", json!([device, origin, null, 1.5]), json!({"source": "mine"})),
        (
            "js-binary",
            json!(["device-7", origin, "here", 2.5]),
            json!({"text": "é\n", "ce_datacontenttype": json_type}),
        ),
        (
            "js-text",
            json!(["device-7", origin, null, null]),
            json!({"data_value": "warm\n", "ce_datacontenttype": "text/plain"}),
        ),
        (
            "js-bytes",
            json!([origin, origin, null, null]),
            json!({"data_base64": "AP8=", "ce_datacontenttype": "application/octet-stream"}),
        ),
        (
            "js-base64",
            json!([origin, origin, null, null]),
            json!({"data_base64": "AP8=", "ce_datacontenttype": "application/octet-stream"}),
        ),
        ("js-batch-2", json!([device, origin, null, 2.0]), Value::Null),
    ] {
        assert_eq!(row(&rows, id), (columns, data), "{id}");
    }
}
