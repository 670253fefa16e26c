//! Rows a CPU second and peak memory of one large merge: `cargo bench --profile release -p compactor --bench merge`.
//!
//! CPU time, not time on the clock, so that a busy machine does not decide. `ROWS`, `FRAGMENTS`, `DEVICES`
//! and `MEMORY_MIB` change the size. `KEEP=<folder>` leaves the fragments there, for another engine to merge the very
//! same files.

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
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const DAY: i64 = 20_000;

fn main() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let size = Size {
        rows: number("ROWS", 2_000_000),
        fragments: number("FRAGMENTS", 100),
        devices: number("DEVICES", 1_000),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(size, ByteSize::mib(number("MEMORY_MIB", 512) as u64)));
}

#[derive(Clone, Copy)]
struct Size {
    rows: i64,
    fragments: i64,
    devices: i64,
}

async fn run(size: Size, memory: ByteSize) {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = std::env::var("KEEP").unwrap_or_else(|_| directory.path().display().to_string());
    let lake = Lake::open(&folder).expect("a lake");
    let spec: DatasetSpec =
        serde_json::from_str(r#"{"columns":{"temp":"double","battery":"long","fw":"string"}}"#).expect("a spec");
    let dataset = Dataset::new("events", spec).expect("a dataset");
    let table = Table::open_or_create(&lake, "events", schema::events(&dataset)).await.expect("a table");
    let mut inputs = Vec::new();
    for fragment in 0..size.fragments {
        inputs.push(Arc::new(write(&table, fragment, size).await));
    }
    let bytes: u64 = inputs.iter().map(|file| file.size).sum();
    let Size { rows, fragments, devices } = size;
    println!(
        "{rows} rows of {devices} devices in {fragments} fragments of together {}, memory {memory}",
        ByteSize(bytes)
    );

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

async fn write(table: &Table, fragment: i64, size: Size) -> DataFile {
    let rows = size.rows / size.fragments;
    let batch = batch(table.schema(), fragment * rows..(fragment + 1) * rows, size);
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

/// Heartbeats: any device at any time, ids that do not compress, some JSON beside the columns.
fn batch(schema: &TableSchema, numbers: Range<i64>, size: Size) -> RecordBatch {
    let rows = numbers.end - numbers.start;
    let number = |row: i64| numbers.start + row;
    let noise = |row: i64| mixed(number(row) as u64);
    let texts = |f: &dyn Fn(i64) -> String| Arc::new(StringArray::from_iter_values((0..rows).map(f))) as ArrayRef;
    let times = |late: i64| {
        // All within one day, however many there are.
        let step = 86_000_000_000 / size.rows.max(8_600_000);
        let of = |row: i64| number(row) * step + (noise(row) % 1_000_000) as i64 + late;
        let times = (0..rows).map(|row| DAY * 86_400_000_000 + of(row));
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")) as ArrayRef
    };
    let column = |name: &str| -> ArrayRef {
        match name {
            "id" => texts(&|row| Uuid::from_u64_pair(noise(row), mixed(noise(row))).to_string()),
            "device_id" => texts(&|row| format!("device-{:05}", noise(row) % size.devices as u64)),
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

/// Numbers without a pattern (SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
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
