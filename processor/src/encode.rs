//! Buffered rows to Parquet: one file per date, sorted. Pure but for the clock in the files' names.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use chrono::NaiveDate;
use lake::parquet::{FileWriter, ROW_GROUP_ROWS};
use lake::schema::TableSchema;
use lake::{DataFile, OffsetRange, Table, layout, sort};
use uuid::Uuid;

/// A file that waits to be uploaded.
#[derive(Debug)]
pub struct Encoded {
    pub file: DataFile,
    pub bytes: Bytes,
}

/// How the rows of a table become files.
#[derive(Debug, Clone)]
pub struct Encoding {
    /// Name of the table.
    pub table: String,
    pub schema: TableSchema,
    /// Column whose UTC date is the file's.
    pub time: &'static str,
    /// Full order of the rows; see [`sort::order`].
    pub order: Vec<String>,
}

impl Encoding {
    /// For a table of events with rows in the order of `sort_by`.
    pub fn of_events(table: &Table, sort_by: &[String]) -> Encoding {
        Encoding::new(table, "time", sort_by)
    }

    /// For a table of dead letters.
    pub fn of_dead_letters(table: &Table) -> Encoding {
        Encoding::new(table, "received_at", &["received_at".to_owned()])
    }

    fn new(table: &Table, time: &'static str, sort_by: &[String]) -> Encoding {
        let (name, schema) = (table.name().to_owned(), table.schema().clone());
        Encoding { table: name, schema, time, order: sort::order(sort_by) }
    }

    /// Encodes rows that came from `ranges`, as many files as they have dates.
    pub fn encode(&self, rows: Vec<RecordBatch>, ranges: &[OffsetRange], now_ms: i64) -> anyhow::Result<Vec<Encoded>> {
        let batch = concat_batches(&self.schema.arrow, &rows)?;
        // The parts are as large as the whole.
        drop(rows);
        let dates = sort::by_date(&batch, self.time, &self.order)?;
        dates.into_iter().map(|(date, rows)| self.encode_date(&batch, date, &rows, ranges, now_ms)).collect()
    }

    fn encode_date(
        &self,
        batch: &RecordBatch,
        date: NaiveDate,
        rows: &UInt32Array,
        ranges: &[OffsetRange],
        now_ms: i64,
    ) -> anyhow::Result<Encoded> {
        let mut writer = FileWriter::new(Vec::new(), &self.schema, &self.order)?;
        for start in (0..rows.len()).step_by(ROW_GROUP_ROWS) {
            let rows = rows.slice(start, ROW_GROUP_ROWS.min(rows.len() - start));
            writer.write(&take_record_batch(batch, &rows)?)?;
        }
        let (bytes, stats) = writer.finish()?;
        let file = DataFile {
            path: layout::fragment_path(&self.table, date, ranges, Uuid::new_v4()),
            size: bytes.len() as u64,
            date,
            modified_ms: now_ms,
            stats,
            ranges: ranges.to_vec(),
            sorted_by: self.order.clone(),
        };
        Ok(Encoded { file, bytes: bytes.into() })
    }
}
