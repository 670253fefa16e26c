//! `lakehose bench encode`: what the settings of Parquet cost and save, each changed by itself, on the same sorted rows.

use super::args;
use super::figures::{Figures, thread_cpu};
use super::made::{self, Events};
use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::compute::take_record_batch;
use bytes::Bytes;
use chrono::Utc;
use lake::batch::{EventColumns, RowMeta, RowPlan};
use lake::dataset::{Dataset, DatasetSpec};
use lake::event::Event;
use lake::parquet::{ROW_GROUP_ROWS, writer_properties};
use lake::sort;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use std::sync::Arc;
use std::time::Duration;

/// A setting that differs from what files are written with.
type Changed = (&'static str, fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder);

const SETTINGS: [Changed; 10] = [
    ("as files are written", |as_it_is| as_it_is),
    ("zstd 1", |to| to.set_compression(zstd(1))),
    ("zstd 6", |to| to.set_compression(zstd(6))),
    ("zstd 9", |to| to.set_compression(zstd(9))),
    ("LZ4", |to| to.set_compression(Compression::LZ4_RAW)),
    ("Snappy", |to| to.set_compression(Compression::SNAPPY)),
    ("not compressed", |to| to.set_compression(Compression::UNCOMPRESSED)),
    ("dictionary for id and data", |to| {
        let to = to.set_column_dictionary_enabled(path("id"), true);
        to.set_column_dictionary_enabled(path("data"), true)
    }),
    ("times and offsets plain", |to| {
        let plain = |to: WriterPropertiesBuilder, name| to.set_column_encoding(path(name), Encoding::PLAIN);
        ["time", "received_at", "kafka_offset"].into_iter().fold(to, plain)
    }),
    ("no Bloom filter", |to| to.set_column_bloom_filter_enabled(path("id"), false)),
];

/// Encodes the same rows with every setting, reads the file back, and prints what that took.
pub async fn run(args: &args::Encode, as_json: bool) -> anyhow::Result<()> {
    let columns = made::columns();
    let mut figures =
        Figures::new(format!("Parquet settings, {} events, {} columns declared", args.events, columns.len()));
    let count = args.events;
    let taken = tokio::task::spawn_blocking(move || {
        let dataset = Dataset::new("bench", DatasetSpec { columns, ..DatasetSpec::default() })?;
        let rows = Rows::make(&dataset, count)?;
        SETTINGS.into_iter().map(|(name, change)| Ok((name, rows.encode(change)?))).collect::<anyhow::Result<Vec<_>>>()
    });
    for (name, took) in taken.await?? {
        figures.add_cost(format!("{name}: encode"), took.encode, count);
        figures.add_cost(format!("{name}: read back"), took.read, count);
        figures.add(format!("{name}: size"), took.bytes as f64 / count as f64, "bytes/event");
    }
    figures.print(as_json);
    Ok(())
}

struct Took {
    encode: Duration,
    read: Duration,
    bytes: usize,
}

/// Rows in the order of a file, cut into row groups.
struct Rows {
    groups: Vec<RecordBatch>,
    properties: WriterProperties,
}

impl Rows {
    fn make(dataset: &Dataset, count: u64) -> anyhow::Result<Rows> {
        let plan = Arc::new(RowPlan::new(dataset));
        let mut rows = EventColumns::new(Arc::clone(&plan));
        let now = Utc::now();
        for (offset, made) in Events::from(now).take(count as usize).enumerate() {
            let event = Event::parse(made.json.as_bytes()).context("decode an event")?;
            let received_at = now.timestamp_micros() + offset as i64;
            rows.push(&event, RowMeta { partition: 0, offset: offset as i64, received_at, id: &made.id });
        }
        let order = sort::order(&dataset.spec.sort_by);
        let batch = rows.finish();
        let mut groups = Vec::new();
        for (_, indices) in sort::by_date(&batch, "time", &order)? {
            for start in (0..indices.len()).step_by(ROW_GROUP_ROWS) {
                let indices = indices.slice(start, ROW_GROUP_ROWS.min(indices.len() - start));
                groups.push(take_record_batch(&batch, &indices)?);
            }
        }
        Ok(Rows { groups, properties: writer_properties(&plan.schema, &order) })
    }

    fn encode(&self, change: fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder) -> anyhow::Result<Took> {
        let properties = change(self.properties.clone().into_builder()).build();
        let schema = self.groups.first().context("no rows")?.schema();
        let began = thread_cpu();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        for group in &self.groups {
            writer.write(group)?;
        }
        let file = Bytes::from(writer.into_inner()?);
        let encode = thread_cpu() - began;
        let began = thread_cpu();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file.clone())?.with_batch_size(8_192).build()?;
        let read: usize = batches.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<usize, _>>()?;
        anyhow::ensure!(read == self.groups.iter().map(RecordBatch::num_rows).sum::<usize>(), "{read} rows were read");
        Ok(Took { encode, read: thread_cpu() - began, bytes: file.len() })
    }
}

fn path(name: &str) -> ColumnPath {
    ColumnPath::new(vec![name.to_owned()])
}

fn zstd(level: i32) -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default())
}
