//! Writes the same rows in one of the many ways that Parquet allows.

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

/// How a file is written.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    /// Columns that it lacks.
    lacking: HashSet<&'static str>,
    /// Columns with types that hold less than the table's.
    is_narrow: bool,
    texts: DataType,
    times: DataType,
    is_reversed: bool,
    /// Whether it has a column of the date, too, as some writers do.
    has_date: bool,
    row_group: usize,
    page: usize,
    has_dictionaries: bool,
    compression: Compression,
    version: WriterVersion,
    statistics: EnabledStatistics,
    texts_apart: bool,
}

pub(super) fn writing() -> impl Strategy<Value = Writing> {
    const MAY_LACK: [&str; 13] =
        ["id", "device_id", "type", "received_at", "i", "l", "f", "d", "b", "s", "t", "data", "kafka_partition"];
    let lacking = proptest::sample::subsequence(MAY_LACK.to_vec(), 0..=4).prop_map(HashSet::from_iter);
    let key = || Box::new(DataType::Int32);
    let texts = proptest::sample::select(vec![
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Dictionary(key(), Box::new(DataType::Utf8)),
        DataType::Binary,
    ]);
    let times = proptest::sample::select(vec![
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())),
        DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
    ]);
    let compression =
        proptest::sample::select(vec![Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW]);
    let version = proptest::sample::select(vec![WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0]);
    let statistics =
        proptest::sample::select(vec![EnabledStatistics::None, EnabledStatistics::Chunk, EnabledStatistics::Page]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (lacking, texts, times, 1..50usize, 1..50usize, compression, version, statistics, flags).prop_map(
        |(lacking, texts, times, row_group, page, compression, version, statistics, flags)| {
            let (is_narrow, is_reversed, has_date, has_dictionaries, texts_apart) = flags;
            Writing {
                lacking,
                is_narrow,
                texts,
                times,
                is_reversed,
                has_date,
                row_group,
                page,
                has_dictionaries,
                compression,
                version,
                statistics,
                texts_apart,
            }
        },
    )
}

impl Writing {
    pub(super) fn lacks(&self, column: &str) -> bool {
        self.lacking.contains(column)
    }

    /// A value that the file can hold, in the place of one that it may not.
    pub(super) fn fit(&self, column: &str, text: String) -> String {
        let is_coarse = matches!(self.times, DataType::Timestamp(TimeUnit::Millisecond, _));
        match (column, text.as_str()) {
            ("l", "9007199254740993" | "-9223372036854775808") if self.is_narrow => "7".to_owned(),
            ("d", "1e300") if self.is_narrow => "1.5".to_owned(),
            (_, "1969-12-31T23:59:59.999999Z") if is_coarse => "1969-12-31T23:59:59.999Z".to_owned(),
            _ => text,
        }
    }

    fn physical(&self, kind: &DataType) -> DataType {
        match kind {
            DataType::Utf8 => self.texts.clone(),
            DataType::Timestamp(_, _) => self.times.clone(),
            DataType::Int64 if self.is_narrow => DataType::Int32,
            DataType::Float64 if self.is_narrow => DataType::Float32,
            other => other.clone(),
        }
    }

    pub(super) fn write(&self, rows: &RecordBatch) -> Bytes {
        let kept = rows.schema_ref().fields().iter().zip(rows.columns()).filter(|(field, _)| !self.lacks(field.name()));
        let mut columns: Vec<_> = kept
            .map(|(field, column)| {
                // Offsets are longer than any narrow number.
                let is_fixed = field.name() == "kafka_offset";
                let kind = if is_fixed { field.data_type().clone() } else { self.physical(field.data_type()) };
                (Field::new(field.name(), kind.clone(), true), cast(column, &kind).unwrap())
            })
            .collect();
        if self.has_date {
            let dates = arrow::array::Date32Array::from(vec![super::DAY; rows.num_rows()]);
            columns.push((Field::new("date", DataType::Date32, false), Arc::new(dates)));
        }
        if self.is_reversed {
            columns.reverse();
        }
        let (fields, columns): (Vec<Field>, Vec<_>) = columns.into_iter().unzip();
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(self.properties())).unwrap();
        writer.write(&rows).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn properties(&self) -> WriterProperties {
        let mut properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(self.row_group))
            .set_data_page_row_count_limit(self.page)
            .set_write_batch_size(self.page)
            .set_dictionary_enabled(self.has_dictionaries)
            .set_compression(self.compression)
            .set_writer_version(self.version)
            .set_statistics_enabled(self.statistics);
        if self.texts_apart && self.texts != DataType::Binary {
            properties = properties
                .set_column_dictionary_enabled("data".into(), false)
                .set_column_encoding("data".into(), Encoding::DELTA_BYTE_ARRAY);
        }
        properties.build()
    }
}
