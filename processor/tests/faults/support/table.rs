//! What a table holds, read without the code that is tested, and what a compactor does to it.

use super::dataset;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use lake::parquet::FileWriter;
use lake::store::put_new;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, TableState, layout, range, schema};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;

pub(crate) async fn state(lake: &Lake, table: &str) -> anyhow::Result<TableState> {
    let apps: Vec<String> = (0..4).map(|partition| format!("events/{partition}")).collect();
    Ok(open(lake, table).await?.load(Keep::Files, &apps).await?)
}

/// A table of any dataset without declared columns, or of its dead letters.
pub(crate) async fn open(lake: &Lake, table: &str) -> anyhow::Result<Table> {
    let schema = if table.ends_with("__dead") { schema::dead() } else { schema::events(&dataset()) };
    Table::open(lake, table, schema).await?.ok_or_else(|| anyhow::anyhow!("no table {table}"))
}

/// Partition and offset of every row of the live files, sorted.
pub(crate) async fn places(lake: &Lake, table: &str) -> Vec<(i32, i64)> {
    let mut places = Vec::new();
    for batch in batches(lake, table).await {
        let partitions = batch.column_by_name("kafka_partition").unwrap().as_primitive::<Int32Type>();
        let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
        places.extend(partitions.values().iter().copied().zip(offsets.values().iter().copied()));
    }
    places.sort();
    places
}

/// Number of rows by id, of the live files.
pub(crate) async fn copies(lake: &Lake) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for batch in batches(lake, "events").await {
        for id in batch.column_by_name("id").unwrap().as_string::<i32>() {
            *copies.entry(id.unwrap().to_owned()).or_default() += 1;
        }
    }
    copies
}

async fn batches(lake: &Lake, table: &str) -> Vec<RecordBatch> {
    let (handle, state) = (open(lake, table).await.unwrap(), state(lake, table).await.unwrap());
    let mut batches = Vec::new();
    for file in state.files().values() {
        let bytes = handle.store().get(&handle.file_path(&file.path)).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
        let rows = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let of_file: Vec<RecordBatch> = rows.map(Result::unwrap).collect();
        assert_eq!(of_file.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), file.rows());
        batches.extend(of_file);
    }
    batches
}

/// Replaces all files by one, as a compactor would; `sweep` deletes them, as it would hours later.
pub(crate) async fn merge(lake: &Lake, sweep: bool) {
    let (table, mut state) = (open(lake, "events").await.unwrap(), state(lake, "events").await.unwrap());
    let removes: Vec<DataFile> = state.files().values().map(|file| DataFile::clone(file)).collect();
    let mut writer = FileWriter::new(Vec::new(), table.schema(), &[]).unwrap();
    for batch in batches(lake, "events").await {
        writer.write(&batch).unwrap();
    }
    let (bytes, stats) = writer.finish().unwrap();
    let date = removes[0].date;
    let segment = DataFile {
        path: layout::segment_path(date, uuid::Uuid::new_v4()),
        size: bytes.len() as u64,
        date,
        modified_ms: now_ms(),
        stats,
        ranges: range::union(removes.iter().flat_map(|file| file.ranges.clone()).collect()),
        sorted_by: Vec::new(),
    };
    put_new(table.store().as_ref(), &table.file_path(&segment.path), bytes.into()).await.unwrap();
    let paths: Vec<String> = removes.iter().map(|file| file.path.clone()).collect();
    let change = Change { operation: "OPTIMIZE", adds: vec![segment], removes, ..Change::default() };
    assert_eq!(table.commit(&mut state, &change).await.unwrap(), Outcome::Committed);
    for path in paths.iter().filter(|_| sweep) {
        table.store().delete(&table.file_path(path)).await.unwrap();
    }
}

/// Every offset below `end`, of each partition.
pub(crate) fn all_places(ends: &[i64]) -> Vec<(i32, i64)> {
    (0i32..).zip(ends).flat_map(|(partition, end)| (0..*end).map(move |offset| (partition, offset))).collect()
}
