//! Rows a CPU second and peak memory of one large merge: `cargo bench --profile release -p compactor --bench merge`.
//!
//! CPU time, not time on the clock, so that a busy machine does not decide. `ROWS` and `FRAGMENTS` change the size.

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::take_record_batch;
use bytesize::ByteSize;
use compactor::merge::{Budget, Settings, merge};
use compactor::plan::MergeJob;
use compactor::verify::verify;
use lake::dataset::{Dataset, DatasetSpec};
use lake::parquet::FileWriter;
use lake::schema::{self, TableSchema};
use lake::{DataFile, Lake, OffsetRange, Table, layout, sort, store};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const DAY: i64 = 20_000;
const DEVICES: i64 = 1_000;

fn main() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rows, fragments) = (number("ROWS", 2_000_000), number("FRAGMENTS", 100));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(rows, fragments, ByteSize::mib(number("MEMORY_MIB", 512) as u64)));
}

async fn run(rows: i64, fragments: i64, memory: ByteSize) {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = Lake::open(&directory.path().display().to_string()).expect("a lake");
    let spec: DatasetSpec =
        serde_json::from_str(r#"{"columns":{"temp":"double","battery":"long","fw":"string"}}"#).expect("a spec");
    let dataset = Dataset::new("events", spec).expect("a dataset");
    let table = Table::open_or_create(&lake, "events", schema::events(&dataset)).await.expect("a table");
    let mut inputs = Vec::new();
    for fragment in 0..fragments {
        inputs.push(Arc::new(write(&table, fragment, rows / fragments).await));
    }
    let bytes: u64 = inputs.iter().map(|file| file.size).sum();
    println!("{rows} rows in {fragments} fragments of together {}, memory {memory}", ByteSize(bytes));

    let settings = Settings {
        sort_by: dataset.spec.sort_by.clone(),
        budget: Budget::new(memory),
        segment_bytes: 128 << 20,
        distrusted: HashSet::new(),
    };
    let (mut merged_rows, mut merge_cpu, mut verify_cpu) = (0, 0.0, 0.0);
    let (before, started) = (memory_now(), Instant::now());
    reset_peak();
    while inputs.len() >= 2 {
        let job = MergeJob { date: layout::date_from_days(DAY as i32), inputs: inputs.clone() };
        let cpu = cpu_seconds();
        let merged = merge(&table, &job, &settings, &CancellationToken::new()).await.expect("a merge");
        let after = cpu_seconds();
        verify(&table, &merged).await.expect("the same rows");
        merge_cpu += after - cpu;
        verify_cpu += cpu_seconds() - after;
        merged_rows += merged.rows_in;
        let (files, size) = (merged.files.len(), ByteSize(merged.bytes_out()));
        println!("  {} files -> {files} of {size}, {} rows", merged.inputs.len(), merged.rows_in);
        inputs.drain(..merged.inputs.len());
    }
    let cpu = merge_cpu + verify_cpu;
    println!(
        "{:.0} rows/s of CPU ({:.0} ns a row: merge {:.0}, verify {:.0}), {:.1} MB/s in; {:.1} s on the clock; peak {} MiB \
         over {} MiB before",
        merged_rows as f64 / cpu,
        cpu * 1e9 / merged_rows as f64,
        merge_cpu * 1e9 / merged_rows as f64,
        verify_cpu * 1e9 / merged_rows as f64,
        bytes as f64 / cpu / 1e6,
        started.elapsed().as_secs_f64(),
        status("VmHWM:").saturating_sub(before) >> 10,
        before >> 10,
    );
}

async fn write(table: &Table, fragment: i64, rows: i64) -> DataFile {
    let batch = batch(table.schema(), fragment, rows);
    let sort_by = vec!["device_id".to_owned(), "time".to_owned()];
    let (date, order) = sort::by_date(&batch, "time", &sort::order(&sort_by)).expect("an order").remove(0);
    let batch = take_record_batch(&batch, &order).expect("rows");
    let mut writer = FileWriter::new(Vec::new(), table.schema(), &sort_by).expect("a writer");
    writer.write(&batch).expect("rows are written");
    let (bytes, stats) = writer.finish().expect("a file");
    let ranges = vec![OffsetRange { partition: 0, start: fragment * rows, end: (fragment + 1) * rows }];
    let path = layout::fragment_path("events", date, &ranges, Uuid::new_v4());
    let size = bytes.len() as u64;
    store::put_new(table.store().as_ref(), &table.file_path(&path), bytes.into()).await.expect("an upload");
    DataFile { path, size, date, modified_ms: 0, stats, ranges, sorted_by: sort_by }
}

/// Heartbeats: every device in turn, ids that do not compress, some JSON beside the columns.
fn batch(schema: &TableSchema, fragment: i64, rows: i64) -> RecordBatch {
    let number = |row: i64| fragment * rows + row;
    let noise = |row: i64| (number(row) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let texts = |f: &dyn Fn(i64) -> String| Arc::new(StringArray::from_iter_values((0..rows).map(f))) as ArrayRef;
    let times = |late: i64| {
        let times = (0..rows).map(|row| DAY * 86_400_000_000 + number(row) * 10_000 + noise(row) as i64 % 1_000 + late);
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")) as ArrayRef
    };
    let column = |name: &str| -> ArrayRef {
        match name {
            "id" => texts(&|row| Uuid::from_u64_pair(noise(row), noise(row).rotate_left(32) ^ 77).to_string()),
            "device_id" => texts(&|row| format!("device-{:05}", noise(row) % DEVICES as u64)),
            "type" => texts(&|_| "heartbeat".to_owned()),
            "time" => times(2_000),
            "received_at" => times(150_000),
            "temp" => Arc::new(Float64Array::from_iter_values((0..rows).map(|row| (noise(row) >> 54) as f64 / 16.0))),
            "battery" => Arc::new(Int64Array::from_iter_values((0..rows).map(|row| (noise(row) >> 40) as i64 % 100))),
            "fw" => texts(&|row| format!("1.{}.0", noise(row) % 7)),
            "data" => texts(&|row| {
                let noise = noise(row);
                format!(
                    r#"{{"signal":-{},"uptime":{},"net":{{"ssid":"guest","ip":"10.0.{}.{}"}}}}"#,
                    noise % 90,
                    noise >> 44,
                    noise % 7,
                    noise % 251
                )
            }),
            "kafka_partition" => Arc::new(Int32Array::from_iter_values((0..rows).map(|_| 0))),
            _ => Arc::new(Int64Array::from_iter_values((0..rows).map(number))),
        }
    };
    let columns = schema.arrow.fields().iter().map(|field| column(field.name())).collect();
    RecordBatch::try_new(Arc::clone(&schema.arrow), columns).expect("columns of the table")
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn memory_now() -> u64 {
    status("VmRSS:")
}

/// The peak of what came before does not count.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// KiB, as Linux counts.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
