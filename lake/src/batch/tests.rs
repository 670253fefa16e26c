use super::*;
use crate::dataset::DatasetSpec;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

fn rows(columns: &str, events: &[&str]) -> RecordBatch {
    let spec: DatasetSpec = serde_json::from_str(&format!("{{\"columns\":{columns}}}")).unwrap();
    let plan = Arc::new(RowPlan::new(&Dataset::new("d", spec).unwrap()));
    let mut rows = EventColumns::new(plan);
    for (offset, json) in events.iter().enumerate() {
        let event = Event::parse(json.as_bytes()).unwrap();
        rows.push(&event, RowMeta { partition: 3, offset: offset as i64, received_at: 1_000, id: "given" });
    }
    assert_eq!(rows.len(), events.len());
    rows.finish()
}

fn data(batch: &RecordBatch, row: usize) -> Option<String> {
    let column = batch.column_by_name("data").unwrap().as_string::<i32>().clone();
    (!column.is_null(row)).then(|| column.value(row).to_owned())
}

#[test]
fn absent_members_get_what_the_record_knows() {
    let batch = rows("{}", &[r#"{"device_id":"d"}"#, r#"{"device_id":"d","id":"own","time":5,"type":"t"}"#]);
    let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
    let time = batch.column_by_name("time").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
    assert_eq!((text("id").value(0), text("id").value(1)), ("given", "own"));
    assert_eq!((time.value(0), time.value(1)), (1_000, 5_000));
    assert!(text("type").is_null(0));
    assert_eq!(text("type").value(1), "t");
}

#[test]
fn undeclared_data_is_kept_to_the_letter() {
    let batch = rows("{}", &[r#"{"device_id":"d","data":{"b": [1, 2],"a":"x"}}"#, r#"{"device_id":"d","data":{ }}"#]);
    assert_eq!(data(&batch, 0).unwrap(), r#"{"b": [1, 2],"a":"x"}"#);
    assert_eq!(data(&batch, 1), None);
}

#[test]
fn columns_take_their_members_and_leave_the_rest() {
    let columns = r#"{"temp":"double","battery":"long","fw":{"type":"string","from":"firmware.version"}}"#;
    let batch = rows(
        columns,
        &[
            r#"{"device_id":"d","data":{"temp":21,"x":1,"firmware":{"version":"1.2","build":7},"battery":90.0}}"#,
            r#"{"device_id":"d","data":{"temp":21.5,"firmware":{"version":"1.3"}}}"#,
            r#"{"device_id":"d","battery":5}"#,
        ],
    );
    let temp = batch.column_by_name("temp").unwrap().as_primitive::<Float64Type>().clone();
    let battery = batch.column_by_name("battery").unwrap().as_primitive::<Int64Type>().clone();
    let fw = batch.column_by_name("fw").unwrap().as_string::<i32>().clone();
    assert_eq!((temp.value(0), temp.value(1), temp.is_null(2)), (21.0, 21.5, true));
    assert_eq!((battery.value(0), battery.is_null(1), battery.value(2)), (90, true, 5));
    assert_eq!((fw.value(0), fw.value(1)), ("1.2", "1.3"));
    assert_eq!(data(&batch, 0).unwrap(), r#"{"x":1,"firmware":{"build":7}}"#);
    assert_eq!(data(&batch, 1), None);
    assert_eq!(data(&batch, 2), None);
}

#[test]
fn a_value_that_does_not_fit_stays_in_data() {
    for (kind, value) in [
        ("double", r#""hot""#),
        ("double", "12345678901234567890"),
        ("long", "1.5"),
        ("long", "9223372036854775808"),
        ("int", "3000000000"),
        ("float", "1e300"),
        ("boolean", "1"),
        ("string", "5"),
        ("string", "[1]"),
        ("timestamp", r#""soon""#),
        ("timestamp", "true"),
    ] {
        let event = format!(r#"{{"device_id":"d","data":{{"v":{value}}}}}"#);
        let batch = rows(&format!(r#"{{"v":"{kind}"}}"#), &[&event]);
        if (kind, value) == ("double", "12345678901234567890") {
            // Beyond 64 bits JSON itself only has doubles.
            assert!(!batch.column_by_name("v").unwrap().is_null(0));
            continue;
        }
        assert!(batch.column_by_name("v").unwrap().is_null(0), "{kind} {value}");
        assert_eq!(data(&batch, 0).unwrap(), format!(r#"{{"v":{value}}}"#));
    }
}

#[test]
fn a_repeated_member_stays_in_data_and_null_is_taken() {
    let batch = rows(
        r#"{"v":"long"}"#,
        &[r#"{"device_id":"d","data":{"v":1,"v":2}}"#, r#"{"device_id":"d","data":{"v":null}}"#],
    );
    assert_eq!(data(&batch, 0).unwrap(), r#"{"v":2}"#);
    assert_eq!(data(&batch, 1), None);
    assert!(batch.column_by_name("v").unwrap().is_null(1));
}

proptest! {
    /// Whatever the data, columns and `data` together hold all of it.
    #[test]
    fn nothing_of_data_is_lost(members in proptest::collection::btree_map("[a-e]", "[1-9][0-9]{0,3}|\"[x-z]{0,3}\"|true|\\[1\\]|\\{\"a\":1\\}", 0..5)) {
        let object = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect::<Vec<_>>().join(",");
        let event = format!(r#"{{"device_id":"d","data":{{{object}}}}}"#);
        let batch = rows(r#"{"a":"long","b":"string","n":{"type":"long","from":"c.a"}}"#, &[&event]);
        let left: serde_json::Map<String, serde_json::Value> =
            data(&batch, 0).map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
        for (name, value) in &members {
            let column = match name.as_str() { "c" => "n", other => other };
            let taken = batch.column_by_name(column).is_some_and(|c| !c.is_null(0));
            let value: serde_json::Value = serde_json::from_str(value).unwrap();
            prop_assert!(taken != (left.get(name) == Some(&value)), "{name}");
        }
    }
}
