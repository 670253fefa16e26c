//! A file that is read for a merge: its footer first, then its rows in small batches, in the table's columns.

use crate::fetched::Fetched;
use crate::merge::MergeError;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use futures::StreamExt;
use lake::reader::FileReader;
use lake::schema::{PARTITION_COLUMN, TableSchema};
use lake::{DataFile, Table, evolution};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::basic::Type;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use std::sync::Arc;

/// Bytes of rows that one batch holds, about: as many if memory allows, and no fewer than the least. Smaller ones cost
/// more time, but not as much as a merge of fewer files, whose rows have to be merged again.
const BATCH_BYTES: u64 = 512 << 10;
const LEAST_BATCH_BYTES: u64 = 128 << 10;

/// Batches of an input that are in memory at a time: the one being merged, its keys, and the one before, to which the
/// merged rows may still point.
const BATCHES: u64 = 3;

/// Bytes of a page of another writer, and of any dictionary, when it is decompressed.
const PAGE_BYTES: u64 = 1 << 20;

/// Pages are ended after so many values, or a multiple: that many may be in one beyond its size.
const PAGE_VALUES: u64 = 1_024;

/// An open file. Nothing of its rows is in memory, unless it is small and read from the store.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Path inside the table.
    pub(crate) path: String,
    source: Source,
    metadata: ArrowReaderMetadata,
    batch_bytes: u64,
}

/// Where its bytes come from.
#[derive(Debug, Clone)]
enum Source {
    /// A row group is asked for at a time.
    Store(FileReader),
    /// A page is read at a time.
    Here(Fetched),
}

impl Input {
    /// Reads the footer of a file of the table, and leaves the rest of it where it is.
    pub(crate) async fn of(table: &Table, file: &DataFile) -> Result<Input, MergeError> {
        Input::open(Arc::clone(table.store()), table.file_path(&file.path), &file.path, file.size).await
    }

    /// Reads the footer.
    pub(crate) async fn open(
        store: Arc<dyn ObjectStore>,
        location: Path,
        path: &str,
        size: u64,
    ) -> Result<Input, MergeError> {
        let failed = |source| MergeError::Read { path: path.to_owned(), source };
        let mut reader = FileReader::open(store, location, size).await.map_err(failed)?;
        let metadata = reader.get_metadata(None).await.map_err(failed)?;
        Input::new(path, Source::Store(reader), metadata)
    }

    /// Fetches a file of the table, to be read along with many others.
    pub(crate) async fn fetch(table: &Table, file: &DataFile) -> Result<Input, MergeError> {
        let fetched = Fetched::get(table.store().as_ref(), &table.file_path(&file.path), file.size).await;
        let fetched = fetched.map_err(|source| MergeError::Read { path: file.path.clone(), source })?;
        Input::here(&file.path, fetched)
    }

    /// Reads the footer of a file of this machine.
    pub(crate) fn here(path: &str, fetched: Fetched) -> Result<Input, MergeError> {
        // Where pages begin spares asking for their headers.
        let reader = ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = reader.parse_and_finish(&fetched);
        let metadata = metadata.map_err(|source| MergeError::Read { path: path.to_owned(), source })?;
        Input::new(path, Source::Here(fetched), Arc::new(metadata))
    }

    fn new(path: &str, source: Source, metadata: Arc<ParquetMetaData>) -> Result<Input, MergeError> {
        let load = || {
            let stored = ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new())?;
            let columns = in_memory(&in_microseconds(&stored));
            ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(columns))
        };
        let metadata = load().map_err(|source| MergeError::Read { path: path.to_owned(), source })?;
        Ok(Input { path: path.to_owned(), source, metadata, batch_bytes: BATCH_BYTES })
    }

    /// A column that the table does not have would be lost in a merge.
    pub(crate) fn expect_known(&self, schema: &TableSchema) -> Result<(), MergeError> {
        let is_known = |name: &str| schema.has(name) || name == PARTITION_COLUMN;
        let unknown = self.metadata.schema().fields().iter().find(|field| !is_known(field.name()));
        match unknown {
            Some(field) => Err(MergeError::Unknown { path: self.path.clone(), column: field.name().clone() }),
            None => Ok(()),
        }
    }

    /// A file with other rows than were committed must not be taken for what was committed. Another writer may not have
    /// said how many there are.
    pub(crate) fn expect_rows(&self, committed: u64) -> Result<(), MergeError> {
        let rows = self.rows();
        if rows == committed || committed == 0 {
            return Ok(());
        }
        let source = ParquetError::General(format!("it holds {rows} rows, and {committed} were committed"));
        Err(MergeError::Read { path: self.path.clone(), source })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }

    /// Bytes of its rows in memory, about.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.row_groups().iter().map(row_bytes).sum()
    }

    /// Memory that reading it takes at least: a page of each column and small batches, and a row group as it is stored if it
    /// comes from the store.
    pub(crate) fn cost(&self) -> u64 {
        self.open_cost() + self.batch_cost(LEAST_BATCH_BYTES)
    }

    fn open_cost(&self) -> u64 {
        let page_bytes = if self.is_ours() { lake::parquet::PAGE_BYTES as u64 } else { PAGE_BYTES };
        let page = |column: &ColumnChunkMetaData| {
            let bytes = column.uncompressed_size().unsigned_abs();
            let values = PAGE_VALUES * bytes / column.num_values().unsigned_abs().max(1);
            let dictionary = if column.dictionary_page_offset().is_some() { PAGE_BYTES } else { 0 };
            bytes.min(page_bytes + values + dictionary)
        };
        let stored = |column: &ColumnChunkMetaData| column.compressed_size().unsigned_abs();
        // A small file is in memory whole, and nothing of it twice.
        let (held, by_groups) = match &self.source {
            Source::Here(_) => (0, false),
            Source::Store(reader) => (reader.held(), reader.held() == 0),
        };
        let of_group = |group: &RowGroupMetaData| {
            let fetched: u64 = if by_groups { group.columns().iter().map(stored).sum() } else { 0 };
            fetched + group.columns().iter().map(page).sum::<u64>()
        };
        held + self.row_groups().iter().map(of_group).max().unwrap_or_default()
    }

    fn batch_cost(&self, batch_bytes: u64) -> u64 {
        BATCHES * self.row_groups().iter().map(row_bytes).max().unwrap_or_default().min(batch_bytes)
    }

    fn is_ours(&self) -> bool {
        let writer = self.metadata.metadata().file_metadata().created_by();
        writer.is_some_and(|writer| writer.starts_with(lake::parquet::WRITER))
    }

    /// Starts reading, from the first row. `columns` are those wanted, which the file may lack; they come [`in_memory`].
    pub(crate) fn rows_of(&self, columns: SchemaRef) -> Result<Batches, MergeError> {
        self.rows_in(None, columns)
    }

    /// The same, of some of its row groups, in their order; `None`: of all.
    pub(crate) fn rows_in(&self, groups: Option<Vec<usize>>, columns: SchemaRef) -> Result<Batches, MergeError> {
        let failed = |source| MergeError::Read { path: self.path.clone(), source };
        let columns = in_memory(&columns);
        let names = columns.fields().iter().map(|field| field.name().as_str());
        let mask = ProjectionMask::columns(self.metadata.parquet_schema(), names);
        let row_bytes = self.row_bytes() / self.rows().max(1);
        let batch_rows = (self.batch_bytes / row_bytes.max(1)).clamp(16, 8_192) as usize;
        let groups = groups.unwrap_or_else(|| (0..self.row_groups().len()).collect());
        let metadata = self.metadata.clone();
        let rows = match &self.source {
            Source::Store(reader) => {
                let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), metadata);
                let builder = builder.with_row_groups(groups).with_projection(mask).with_batch_size(batch_rows);
                Rows::Store(Box::new(builder.build().map_err(failed)?))
            }
            Source::Here(file) => {
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata);
                let builder = builder.with_row_groups(groups).with_projection(mask).with_batch_size(batch_rows);
                Rows::Here(builder.build().map_err(failed)?)
            }
        };
        Ok(Batches { path: self.path.clone(), columns, rows })
    }

    pub(crate) fn row_groups(&self) -> &[RowGroupMetaData] {
        self.metadata.metadata().row_groups()
    }

    /// The Bloom filter of a column of a row group, if it has one.
    pub(crate) async fn bloom_filter(&self, group: usize, column: usize) -> Result<Option<Sbbf>, MergeError> {
        let metadata = self.metadata.clone();
        let filter = match &self.source {
            Source::Store(reader) => {
                let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader.clone(), metadata);
                builder.get_row_group_column_bloom_filter(group, column).await
            }
            Source::Here(file) => ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata)
                .get_row_group_column_bloom_filter(group, column),
        };
        filter.map_err(|source| MergeError::Read { path: self.path.clone(), source })
    }
}

/// The same columns, with texts and bytes as views: a row then names the place of its text in a page that was read, which
/// is copied only when it is written.
pub(crate) fn in_memory(columns: &SchemaRef) -> SchemaRef {
    let as_view = |field: &FieldRef| {
        let kind = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            _ => return Arc::clone(field),
        };
        Arc::new(field.as_ref().clone().with_data_type(kind))
    };
    Arc::new(Schema::new(columns.fields().iter().map(as_view).collect::<Vec<_>>()))
}

/// Times of 96 bits would be read as nanoseconds of 64, and those before 1677 or after 2262 as others.
fn in_microseconds(stored: &ArrowReaderMetadata) -> SchemaRef {
    let columns = stored.parquet_schema().columns();
    let is_long = |name: &str| columns.iter().any(|c| c.physical_type() == Type::INT96 && c.name() == name);
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let field = |field: &FieldRef| match is_long(field.name()) {
        true => Arc::new(field.as_ref().clone().with_data_type(micros.clone())),
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(stored.schema().fields().iter().map(field).collect::<Vec<_>>()))
}

/// Makes the batches of inputs that are read side by side as large as `memory` allows.
pub(crate) fn share_memory(inputs: &mut [Input], memory: u64) {
    let spare = memory.saturating_sub(inputs.iter().map(Input::open_cost).sum());
    let batch_bytes = spare / (BATCHES * inputs.len().max(1) as u64);
    for input in inputs {
        input.batch_bytes = batch_bytes.clamp(LEAST_BATCH_BYTES, BATCH_BYTES);
    }
}

/// Bytes of a row group's rows in memory: texts as long as they are, whatever a dictionary made of them.
fn row_bytes(group: &RowGroupMetaData) -> u64 {
    let of_column = |column: &ColumnChunkMetaData| match column.column_type() {
        Type::BYTE_ARRAY => {
            let text = column.unencoded_byte_array_data_bytes().unwrap_or(column.uncompressed_size());
            text.unsigned_abs() + 4 * column.num_values().unsigned_abs()
        }
        _ => 8 * column.num_values().unsigned_abs(),
    };
    group.columns().iter().map(of_column).sum()
}

/// The rows of a file, batch by batch.
pub(crate) struct Batches {
    path: String,
    columns: SchemaRef,
    rows: Rows,
}

enum Rows {
    Store(Box<ParquetRecordBatchStream<FileReader>>),
    Here(ParquetRecordBatchReader),
}

impl Batches {
    /// The next rows, never none of them; `None` at the end of the file.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, MergeError> {
        // A file that is here never waits, so nothing else would let its reader be stopped.
        tokio::task::coop::consume_budget().await;
        loop {
            let batch = match &mut self.rows {
                Rows::Store(stream) => stream.next().await.transpose(),
                Rows::Here(reader) => reader.next().transpose().map_err(ParquetError::from),
            };
            match batch.map_err(|source| MergeError::Read { path: self.path.clone(), source })? {
                None => return Ok(None),
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => return self.conform(batch).map(Some),
            }
        }
    }

    /// The batch in the wanted columns: what the file lacks is null, for it is older than the column.
    fn conform(&self, batch: RecordBatch) -> Result<RecordBatch, MergeError> {
        if batch.schema_ref().fields() == self.columns.fields() {
            return Ok(batch);
        }
        let convert = |field: &FieldRef| -> Result<ArrayRef, MergeError> {
            match batch.column_by_name(field.name()) {
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => widen(column, field.data_type()).map_err(|source| MergeError::Column {
                    path: self.path.clone(),
                    column: field.name().clone(),
                    source,
                }),
            }
        };
        let arrays = self.columns.fields().iter().map(convert).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.columns), arrays, &options)?)
    }
}

/// The same values in another type. Never a null, or a number nearby, in place of a value that does not fit.
fn widen(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = column.data_type();
    if from.is_numeric() && kind.is_numeric() && !evolution::holds(kind, from) {
        return Err(ArrowError::CastError(format!("{from} does not fit into {kind}")));
    }
    cast_with_options(column, kind, &CastOptions { safe: false, ..CastOptions::default() })
}
