//! Puts the keys of a file's rows into the windows.
//!
//! Only the columns that a window needs are read, and only of row groups that may have rows young enough. What the store
//! refuses is an error, to be tried again; a file that is no Parquet is passed over with a warning, because it would stay
//! so and hold up the partition for good.

use super::{FILE_KIB, Parts, Rebuilder, lock};
use crate::decode::is_made_id;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use lake::DataFile;
use lake::reader::FileReader;
use lake::store::StoreError;
use lake::table::now_ms;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tracing::warn;

/// What a window needs of a row, in the order of the table's columns.
const COLUMNS: [&str; 5] = ["id", "device_id", "received_at", "kafka_partition", "kafka_offset"];

/// What became of reading a file.
#[derive(Debug)]
pub(super) enum Read {
    /// When the latest row of each partition was received.
    Rows(BTreeMap<i32, i64>),
    Gone,
}

impl Rebuilder {
    /// Puts the keys of a file into the windows. Row groups of which no row was received at or after `not_before` may be
    /// left out.
    pub(super) async fn read(&self, file: &DataFile, parts: &Mutex<Parts>, not_before: i64) -> anyhow::Result<Read> {
        let kib = u32::try_from(file.size / 1024 + 1).unwrap_or(u32::MAX).min(FILE_KIB);
        let _under_way = self.reading.acquire_many(kib).await?;
        match self.read_rows(file, parts, not_before).await {
            Ok(latest) => Ok(Read::Rows(latest)),
            Err(err) => match store_error(&err) {
                Some(object_store::Error::NotFound { .. }) => Ok(Read::Gone),
                Some(_) => Err(unanswered(file, err).into()),
                None => {
                    let (path, error) = (&file.path, format!("{:#}", anyhow::Error::from(err)));
                    warn!(path, error, "file cannot be read; events repeated from it will be written again");
                    Ok(Read::Rows(BTreeMap::new()))
                }
            },
        }
    }

    async fn read_rows(
        &self,
        file: &DataFile,
        parts: &Mutex<Parts>,
        not_before: i64,
    ) -> Result<BTreeMap<i32, i64>, ParquetError> {
        let path = self.table.file_path(&file.path);
        let reader = FileReader::open(Arc::clone(self.table.store()), path, file.size).await?;
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
        let is_young = |group: &RowGroupMetaData| latest_of(group).is_none_or(|latest| latest >= not_before);
        let groups = builder.metadata().row_groups().iter().enumerate().filter(|(_, group)| is_young(group));
        let groups = groups.map(|(index, _)| index).collect();
        let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        let mut rows = builder.with_projection(columns).with_row_groups(groups).build()?;
        let mut latest = BTreeMap::new();
        while let Some(batch) = rows.try_next().await? {
            remember(&batch, &mut lock(parts), &mut latest)?;
        }
        Ok(latest)
    }
}

/// Puts rows into the windows of their partitions.
fn remember(batch: &RecordBatch, parts: &mut Parts, latest: &mut BTreeMap<i32, i64>) -> Result<(), ParquetError> {
    let missing = |name: &str| ParquetError::General(format!("no column {name}"));
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| missing(name));
    let [id, device_id, received_at, partition, offset] = COLUMNS.map(column);
    let id = id?.as_string_opt::<i32>().ok_or_else(|| missing("id"))?;
    let device_id = device_id?.as_string_opt::<i32>().ok_or_else(|| missing("device_id"))?;
    let received_at =
        received_at?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| missing("received_at"))?;
    let partition = partition?.as_primitive_opt::<Int32Type>().ok_or_else(|| missing("kafka_partition"))?;
    let offset = offset?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing("kafka_offset"))?;
    // As for records: a clock that is ahead must not push everything else out.
    let now = now_ms() * 1_000;
    for row in 0..batch.num_rows() {
        let Some(part) = parts.get_mut(&partition.value(row)) else { continue };
        if offset.value(row) >= part.below || id.is_null(row) || device_id.is_null(row) {
            continue;
        }
        let at = received_at.value(row).min(now);
        let latest = latest.entry(partition.value(row)).or_insert(at);
        *latest = at.max(*latest);
        if !is_made_id(id.value(row), partition.value(row), offset.value(row)) {
            part.window.remember(device_id.value(row), id.value(row), at);
        }
    }
    Ok(())
}

/// When the latest row of a row group was received, if the file says so.
fn latest_of(group: &RowGroupMetaData) -> Option<i64> {
    let column = group.columns().iter().find(|column| column.column_path().string() == "received_at")?;
    match column.statistics()? {
        Statistics::Int64(statistics) => statistics.max_opt().copied(),
        _ => None,
    }
}

/// An error of a file that may be read later.
pub(super) fn not_now(file: &DataFile, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    let source = object_store::Error::Generic { store: "lake", source: source.into() };
    StoreError::Object { operation: "read", path: file.path.clone(), source }
}

/// What the store says of a file that it does not hand out, as it says it: a refusal of rights is no outage.
fn unanswered(file: &DataFile, error: ParquetError) -> StoreError {
    let ParquetError::External(source) = error else { return not_now(file, error) };
    match source.downcast() {
        Ok(source) => StoreError::Object { operation: "read", path: file.path.clone(), source: *source },
        Err(source) => not_now(file, source),
    }
}

fn store_error(error: &ParquetError) -> Option<&object_store::Error> {
    let ParquetError::External(source) = error else { return None };
    let mut source: &(dyn std::error::Error + 'static) = source.as_ref();
    loop {
        if let Some(found) = source.downcast_ref::<object_store::Error>() {
            return Some(found);
        }
        source = source.source()?;
    }
}
