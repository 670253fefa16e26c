//! How files are written: one place for every setting, for fragments and segments alike.
//!
//! The settings were measured with DuckDB as the reader: row groups of its own size, zstd 3 (9 costs three times the
//! time for 6 % of the bytes), dictionaries off where every value differs, a Bloom filter on `id` alone.
//!
//! Unique texts are most of a file and of the work. Their lengths lie apart from their bytes (DELTA_LENGTH_BYTE_ARRAY),
//! so that zstd sees nothing but text; their pages have no minimum and maximum, by which nothing could be skipped; and ids
//! lie in small pages and are compressed at level 1, for among random digits zstd looks long for short repetitions that
//! save nothing: at level 3 ids take twice the time and a little more room.
//! Together this halves the time that `id` and `data` take to write, and a third of what they take to read.

use crate::file::FileStats;
use crate::schema::TableSchema;
use crate::stats::StatsCollector;
use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use std::io::Write;
use std::sync::Arc;

/// Rows of a row group: DuckDB's own unit, by which it prunes and works in parallel.
pub const ROW_GROUP_ROWS: usize = 122_880;

/// Bytes of a page, about. A merge has a page of every column of every input in memory; readers do not mind small ones.
pub const PAGE_BYTES: usize = 128 << 10;

/// What files say of who wrote them, before the version.
pub const WRITER: &str = "lakehose ";

/// Texts of which nearly every one differs, so that a dictionary or bounds only cost.
const UNIQUE: [&str; 3] = ["id", "data", "payload"];

/// Bytes of a page of ids, about.
const ID_PAGE_BYTES: usize = 32 << 10;

/// Whole numbers that grow slowly: differences are small.
const DELTA_PACKED: [&str; 3] = ["time", "received_at", "kafka_offset"];

/// The settings for a table of this schema whose rows are sorted by `sorted_by`.
pub fn writer_properties(schema: &TableSchema, sorted_by: &[String]) -> WriterProperties {
    let path = |name: &str| ColumnPath::new(vec![name.to_owned()]);
    let index = |name: &str| schema.arrow.index_of(name).ok();
    let sorting = sorted_by.iter().map_while(|name| index(name)).map(|column| SortingColumn {
        column_idx: column as i32,
        descending: false,
        nulls_first: true,
    });
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(format!("{WRITER}{}", env!("CARGO_PKG_VERSION")))
        .set_compression(zstd(3))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_sorting_columns(Some(sorting.collect()));
    for name in UNIQUE {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_encoding(path(name), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    for name in DELTA_PACKED {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    if index("id").is_some() {
        properties = properties
            // DuckDB does not ask the Bloom filter of a row group without a minimum and a maximum.
            .set_column_statistics_enabled(path("id"), EnabledStatistics::Chunk)
            .set_column_data_page_size_limit(path("id"), ID_PAGE_BYTES)
            .set_column_compression(path("id"), zstd(1))
            .set_column_bloom_filter_enabled(path("id"), true)
            .set_column_bloom_filter_max_ndv(path("id"), ROW_GROUP_ROWS as u64);
    }
    properties.build()
}

fn zstd(level: i32) -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(level).expect("a level of zstd"))
}

/// All rows of a small file.
pub fn read_all(file: Bytes) -> Result<Vec<RecordBatch>, ParquetError> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    Ok(batches.collect::<Result<_, _>>()?)
}

/// Writes one file and keeps its statistics.
#[derive(Debug)]
pub struct FileWriter<W: Write + Send> {
    writer: ArrowWriter<W>,
    stats: StatsCollector,
}

impl<W: Write + Send> FileWriter<W> {
    pub fn new(sink: W, schema: &TableSchema, sorted_by: &[String]) -> Result<Self, ParquetError> {
        let properties = writer_properties(schema, sorted_by);
        let writer = ArrowWriter::try_new(sink, Arc::clone(&schema.arrow), Some(properties))?;
        Ok(FileWriter { writer, stats: StatsCollector::new(schema) })
    }

    /// Appends rows, which must already be in the file's order.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.stats.add(batch);
        self.writer.write(batch)
    }

    /// Ends the row group early: rows may be so large that a whole group would not fit in memory.
    pub fn end_row_group(&mut self) -> Result<(), ParquetError> {
        self.writer.flush()
    }

    /// Bytes that wait in memory for the end of a row group.
    pub fn buffered_bytes(&self) -> usize {
        self.writer.memory_size()
    }

    /// Rows that wait in memory for the end of a row group.
    pub fn buffered_rows(&self) -> usize {
        self.writer.in_progress_rows()
    }

    /// Bytes that went to the sink.
    pub fn written_bytes(&self) -> usize {
        self.writer.bytes_written()
    }

    /// What the file goes to; for sinks that are drained while the file grows.
    pub fn sink_mut(&mut self) -> &mut W {
        self.writer.inner_mut()
    }

    /// Writes the footer; returns the sink and the statistics of all rows.
    pub fn finish(self) -> Result<(W, FileStats), ParquetError> {
        Ok((self.writer.into_inner()?, self.stats.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;

    #[test]
    fn ids_have_a_bloom_filter_and_the_bounds_without_which_readers_do_not_ask_it() {
        let fields = ["id", "data"].map(|name| Field::new(name, DataType::Utf8, true));
        let schema = TableSchema { arrow: Arc::new(Schema::new(fields.to_vec())), declared: 0..0, stats: Vec::new() };
        let texts = Arc::new(StringArray::from_iter_values((0..50_000).map(|n| format!("{n:036}"))));
        let rows = RecordBatch::try_new(Arc::clone(&schema.arrow), vec![Arc::clone(&texts) as _, texts]).unwrap();
        let mut writer = FileWriter::new(Vec::new(), &schema, &[]).unwrap();
        writer.write(&rows).unwrap();
        let file = Bytes::from(writer.finish().unwrap().0);
        let reader = SerializedFileReader::new(file.clone()).unwrap();
        let [id, data] = reader.metadata().row_group(0).columns() else { panic!("two columns") };
        assert!(
            id.bloom_filter_offset().is_some()
                && id.statistics().is_some_and(|bounds| bounds.max_bytes_opt().is_some())
        );
        assert!(data.bloom_filter_offset().is_none() && data.statistics().is_none());
        for column in [id, data] {
            assert!(column.encodings().any(|encoding| encoding == Encoding::DELTA_LENGTH_BYTE_ARRAY));
            assert!(column.dictionary_page_offset().is_none());
        }
        assert_eq!(read_all(file).unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 50_000);
    }
}
