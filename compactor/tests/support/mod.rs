//! Small tables with real files, and a reader that sees what an analyst sees.
// Every test binary uses a part of it.
#![allow(dead_code)]

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use lake::dataset::{Dataset, DatasetSpec};
use lake::parquet::FileWriter;
use lake::schema::{self, TableSchema};
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Lake, OffsetRange, Outcome, Table, TableState, layout, sort, store};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(crate) const DAY: i64 = 20_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// A row, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub(crate) struct Row {
    pub(crate) device: String,
    pub(crate) id: String,
    /// Microseconds since the start of the day.
    pub(crate) time: i64,
    pub(crate) temp: Option<f64>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Row {
    pub(crate) fn new(device: &str, time: i64, partition: i32, offset: i64) -> Row {
        let id = format!("{partition}/{offset}");
        Row { device: device.into(), id, time, temp: Some(offset as f64), partition, offset }
    }
}

/// The dataset `events`, with one declared column or none.
pub(crate) fn dataset(columns: bool, sort_by: &[&str]) -> Dataset {
    let columns = if columns { r#"{"temp":"double"}"# } else { "{}" };
    let mut spec: DatasetSpec = serde_json::from_str(&format!(r#"{{"columns":{columns}}}"#)).unwrap();
    spec.sort_by = sort_by.iter().map(|name| name.to_string()).collect();
    Dataset::new("events", spec).unwrap()
}

pub(crate) async fn table(lake: &Lake, dataset: &Dataset) -> Table {
    Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await.unwrap()
}

pub(crate) fn batch(schema: &TableSchema, rows: &[Row]) -> RecordBatch {
    let texts = |f: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(f))) as ArrayRef;
    let times = || {
        let times = rows.iter().map(|row| DAY * DAY_MICROS + row.time);
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")) as ArrayRef
    };
    let column = |name: &str| match name {
        "id" => texts(|row| &row.id),
        "device_id" => texts(|row| &row.device),
        "time" | "received_at" => times(),
        "temp" => Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.temp))),
        "kafka_partition" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
        "kafka_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
        _ => arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, rows.len()),
    };
    let columns = schema.arrow.fields().iter().map(|field| column(field.name())).collect();
    RecordBatch::try_new(Arc::clone(&schema.arrow), columns).unwrap()
}

/// Writes a fragment as a processor does. `sort_by` none: in the order given, and the file says nothing of its order.
pub(crate) async fn write_fragment(
    table: &Table,
    schema: &TableSchema,
    rows: &[Row],
    sort_by: Option<&[String]>,
) -> DataFile {
    let mut rows_batch = batch(schema, rows);
    if let Some(sort_by) = sort_by {
        let dates = sort::by_date(&rows_batch, "time", &sort::order(sort_by)).unwrap();
        assert_eq!(dates.len(), 1);
        rows_batch = take_record_batch(&rows_batch, &dates[0].1).unwrap();
    }
    let sorted_by = sort_by.unwrap_or_default().to_vec();
    let mut writer = FileWriter::new(Vec::new(), schema, &sorted_by).unwrap();
    writer.write(&rows_batch).unwrap();
    let (bytes, stats) = writer.finish().unwrap();
    let ranges: Vec<OffsetRange> = lake::range::union(
        rows.iter()
            .map(|row| OffsetRange { partition: row.partition, start: row.offset, end: row.offset + 1 })
            .collect(),
    );
    let date = layout::date_from_days(DAY as i32);
    let file = DataFile {
        path: layout::fragment_path(table.name(), date, &ranges, Uuid::new_v4()),
        size: bytes.len() as u64,
        date,
        modified_ms: now_ms(),
        stats,
        ranges,
        sorted_by,
    };
    store::put_new(table.store().as_ref(), &table.file_path(&file.path), bytes.into()).await.unwrap();
    file
}

/// Commits fragments, whatever else happens to the table.
pub(crate) async fn append(table: &Table, state: &mut TableState, files: Vec<DataFile>) {
    let change = Change { operation: "STREAMING UPDATE", adds: files, data_change: true, ..Change::default() };
    loop {
        match table.commit(state, &change).await {
            Ok(Outcome::Committed) => return,
            Ok(Outcome::Conflict) => {}
            Err(error) => panic!("append: {error:#}"),
        }
    }
}

/// All rows of a version, in no order.
pub(crate) async fn read(table: &Table, version: Option<u64>) -> Vec<Row> {
    let state = table.load_version(version, Keep::Files, &[]).await.unwrap();
    let mut rows = Vec::new();
    for file in state.files().values() {
        rows.extend(read_file(table, file).await);
    }
    rows
}

/// All rows of a file, in its order.
pub(crate) async fn read_file(table: &Table, file: &DataFile) -> Vec<Row> {
    let bytes = store::get(table.store().as_ref(), &table.file_path(&file.path)).await.unwrap();
    rows_of(bytes.unwrap_or_else(|| panic!("{} is live and does not exist", file.path)))
}

pub(crate) fn rows_of(bytes: Bytes) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let batch = concat_batches(&schema, &batches).unwrap();
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let temp = batch.column_by_name("temp").map(|column| column.as_primitive::<arrow::datatypes::Float64Type>());
    let row = |row: usize| Row {
        device: column("device_id").as_string::<i32>().value(row).into(),
        id: column("id").as_string::<i32>().value(row).into(),
        time: column("time").as_primitive::<TimestampMicrosecondType>().value(row) - DAY * DAY_MICROS,
        temp: temp.and_then(|temp| arrow::array::Array::is_valid(temp, row).then(|| temp.value(row))),
        partition: column("kafka_partition").as_primitive::<Int32Type>().value(row),
        offset: column("kafka_offset").as_primitive::<Int64Type>().value(row),
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Rows per (partition, offset): every event once, however files hold them.
pub(crate) fn counts(rows: &[Row]) -> BTreeMap<(i32, i64), usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry((row.partition, row.offset)).or_default() += 1;
    }
    counts
}

/// Waits until something has happened, however slow the machine is.
pub(crate) async fn until(mut has_happened: impl AsyncFnMut() -> bool) {
    while !has_happened().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
