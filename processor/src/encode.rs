//! Buffered rows to Parquet: one file per date, sorted, on as many threads as are configured. Pure but for the random
//! part of the files' names.

use anyhow::Context;
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use chrono::NaiveDate;
use lake::parquet::{FileWriter, ROW_GROUP_ROWS};
use lake::schema::TableSchema;
use lake::{DataFile, OffsetRange, Table, layout, sort};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::error;
use uuid::Uuid;

/// The threads that encode, shared by all flushes of a processor. Few and lasting: the C library's allocator keeps what it
/// freed by thread, so work that wanders over many threads takes many times the memory.
#[derive(Debug, Clone)]
pub struct Encoders(Arc<ThreadPool>);

impl Encoders {
    pub fn new(threads: usize) -> anyhow::Result<Encoders> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("encoder-{index}"));
        // Who waits for the work hears of it.
        let pool = pool.panic_handler(|_| error!("an encoder panicked"));
        Ok(Encoders(Arc::new(pool.build().context("start the encoders")?)))
    }

    /// Does the work on these threads; what it cuts into parts is spread over all of them.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (done, result) = oneshot::channel();
        self.0.spawn(move || {
            // Nobody waits if the flush was given up.
            let _ = done.send(work());
        });
        result.await.context("an encoder panicked")
    }
}

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
        dates.into_par_iter().map(|(date, rows)| self.encode_date(&batch, date, &rows, ranges, now_ms)).collect()
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
