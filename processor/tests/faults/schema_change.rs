//! Processors of an older and a newer configuration on one table, one after the other and at once.

use crate::support::*;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use lake::dataset::{Dataset, DatasetSpec};
use lake::testing::faulty_lake;
use lake::{Keep, Lake, Table, schema};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::BTreeMap;

fn declaring(columns: &str) -> Dataset {
    let spec: DatasetSpec = serde_json::from_str(&format!("{{\"columns\":{columns}}}")).unwrap();
    Dataset::new("events", spec).unwrap()
}

fn old() -> Dataset {
    declaring(r#"{"n":"int"}"#)
}

fn new() -> Dataset {
    declaring(r#"{"x":"string","n":"long"}"#)
}

const BEYOND_INT: i64 = 3_000_000_000;

/// Events whose `n` and `x` follow from their offset.
fn push(log: &MemoryLog, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        let data = format!(r#"{{"n":{},"x":"x{offset}"}}"#, n_of(offset));
        log.push(0, format!(r#"{{"device_id":"d","id":"{offset}","data":{data}}}"#));
    }
}

fn n_of(offset: i64) -> i64 {
    if offset % 2 == 0 { offset } else { BEYOND_INT + offset }
}

/// How often rows of the live files have `n` and `x` in their columns: by offset, each value in exactly one place.
async fn check_rows(lake: &Lake) -> BTreeMap<i64, (bool, bool)> {
    let table = Table::open(lake, "events", schema::events(&new())).await.unwrap().unwrap();
    let state = table.load(Keep::Files, &[]).await.unwrap();
    let mut rows = BTreeMap::new();
    for file in state.files().values() {
        let bytes = table.store().get(&table.file_path(&file.path)).await.unwrap().bytes().await.unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            check_batch(&batch.unwrap(), &mut rows);
        }
    }
    rows
}

fn check_batch(batch: &RecordBatch, rows: &mut BTreeMap<i64, (bool, bool)>) {
    let column = |name: &str| batch.column_by_name(name);
    let n = column("n").map(|n| cast(n, &DataType::Int64).unwrap());
    for row in 0..batch.num_rows() {
        let offset = column("kafka_offset").unwrap().as_primitive::<Int64Type>().value(row);
        let data = column("data").unwrap().as_string::<i32>();
        let data: Value = if data.is_null(row) { Value::Null } else { data.value(row).parse().unwrap() };
        let n = n.as_ref().filter(|n| n.is_valid(row)).map(|n| n.as_primitive::<Int64Type>().value(row));
        let x = column("x").filter(|x| x.is_valid(row)).map(|x| x.as_string::<i32>().value(row));
        assert_eq!(n.or(data["n"].as_i64()), Some(n_of(offset)), "{offset}");
        assert_eq!(x.or(data["x"].as_str()), Some(format!("x{offset}").as_str()), "{offset}");
        assert!(n.is_none() || data["n"].is_null(), "n of {offset} is there twice");
        assert!(x.is_none() || data["x"].is_null(), "x of {offset} is there twice");
        let before = rows.insert(offset, (n.is_some(), x.is_some()));
        assert!(before.is_none(), "{offset} is there twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_processor_goes_on_after_a_new_one_has_changed_the_columns() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let first = start_with(old(), config(), &log, &lake);
    push(&log, 0..20);
    until_committed(&lake, &[20]).await;

    // Comes, changes the columns and goes, as in a rolling update that is taken back.
    let second = start_with(new(), config(), &log, &lake);
    until("the new processor runs", async || second.progress.is_ready()).await;
    second.stop().await.unwrap();
    push(&log, 20..40);
    until_committed(&lake, &[40]).await;
    first.stop().await.unwrap();
    let rows = check_rows(&lake).await;
    assert!((0..40).all(|offset| rows[&offset] == (offset % 2 == 0, false)), "{rows:?}");

    // Started anew, the old configuration writes `n` as the table has it now; it still knows nothing of `x`.
    let third = start_with(old(), config(), &log, &lake);
    push(&log, 40..60);
    until_committed(&lake, &[60]).await;
    third.stop().await.unwrap();
    let fourth = start_with(new(), config(), &log, &lake);
    push(&log, 60..80);
    until_committed(&lake, &[80]).await;
    fourth.stop().await.unwrap();
    let rows = check_rows(&lake).await;
    assert!((40..60).all(|offset| rows[&offset] == (true, false)), "{rows:?}");
    assert!((60..80).all(|offset| rows[&offset] == (true, true)), "{rows:?}");
    assert_eq!(rows.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_processors_that_both_own_every_partition_lose_and_double_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let others = declaring(r#"{"n":"int","y":{"type":"boolean","stats":true}}"#);
    let mut running = vec![start_with(old(), config(), &log, &lake)];
    let mut end = 0;
    for round in 0..30 {
        // The table changes under those that run.
        match round {
            5 => running.push(start_with(new(), config(), &log, &lake)),
            6 => running.push(start_with(others.clone(), config(), &log, &lake)),
            _ => {}
        }
        push(&log, end..end + 20);
        end += 20;
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    until_committed(&lake, &[end]).await;
    for processor in running {
        processor.stop().await.unwrap();
    }
    assert_eq!(check_rows(&lake).await.len() as i64, end);
    let table = Table::open(&lake, "events", schema::events(&old())).await.unwrap().unwrap();
    let own = table.at(&table.load(Keep::Txns, &[]).await.unwrap()).unwrap();
    let declared = &own.schema().arrow.fields()[own.schema().declared.clone()];
    let mut names: Vec<&str> = declared.iter().map(|field| field.name().as_str()).collect();
    names.sort();
    assert_eq!(names, ["n", "x", "y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_whose_columns_contradict_the_table_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(1);
    let first = start_with(old(), config(), &log, &lake);
    push(&log, 0..20);
    until_committed(&lake, &[20]).await;
    let refused = start_with(declaring(r#"{"n":"string"}"#), config(), &log, &lake).task.await.unwrap();
    let refusal = format!("{:#}", refused.unwrap_err());
    assert!(refusal.contains("its column `n` is int, and string is declared"), "{refusal}");
    push(&log, 20..40);
    until_committed(&lake, &[40]).await;
    first.stop().await.unwrap();
}
