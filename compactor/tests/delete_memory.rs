//! A deletion stays within its memory, whatever the size of a file. Alone in its binary, for others would be counted too.

mod support;

use bytesize::ByteSize;
use compactor::Config;
use compactor::delete::{Deletion, Settings};
use compactor::merge::Budget;
use lake::parquet::FileWriter;
use lake::{DataFile, Keep, Lake, OffsetRange, Table, layout, store};
use support::*;
use uuid::Uuid;

const ROWS: i64 = 120_000;
/// Of the id, which does not compress.
const ID_BYTES: usize = 2_000;

/// A file of 240 MB of rows, of which a tenth are of each device.
async fn large_file(table: &Table) -> DataFile {
    let mut writer = FileWriter::new(Vec::new(), table.schema(), &[]).unwrap();
    let mut seed: u64 = 1;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let noise: String = (0..8 << 20).map(|_| char::from(b' ' + (random() % 94) as u8)).collect();
    let mut id = || noise[random() % (noise.len() - ID_BYTES)..][..ID_BYTES].to_owned();
    for first in (0..ROWS).step_by(1_000) {
        let row = |offset| Row { id: id(), ..Row::new(&format!("d{}", offset % 10), offset, 0, offset) };
        let rows: Vec<Row> = (first..first + 1_000).map(row).collect();
        writer.write(&batch(table.schema(), &rows)).unwrap();
        if writer.buffered_bytes() > 8 << 20 {
            writer.end_row_group().unwrap();
        }
    }
    let (bytes, stats) = writer.finish().unwrap();
    let ranges = vec![OffsetRange { partition: 0, start: 0, end: ROWS }];
    let date = layout::date_from_days(DAY as i32);
    let path = layout::fragment_path(table.name(), date, &ranges, Uuid::new_v4());
    let size = bytes.len() as u64;
    store::put_new(table.store().as_ref(), &table.file_path(&path), bytes.into()).await.unwrap();
    DataFile { path, size, date, modified_ms: 0, stats, ranges, sorted_by: Vec::new() }
}

/// Bytes, as Linux counts.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_file_larger_than_the_memory_is_rewritten_within_it() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &dataset(true, &["device_id", "time"])).await;
    let file = large_file(&table).await;
    assert!(file.size > 180 << 20, "{} bytes", file.size);
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    append(&table, &mut state, vec![file]).await;

    let budget = ByteSize::mib(64);
    // What came before does not count.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let clause = "device_id = 'd3'".parse().unwrap();
    let settings = Settings { budget: Budget::new(budget), keep_orphans: Config::default().keep_orphans };
    let mut deletion = Deletion::new(table.clone(), clause, settings).await.unwrap();
    let deleted = deletion.run().await.unwrap();
    let peak = memory("VmHWM:").saturating_sub(before);
    assert_eq!((deleted.rows, deleted.files_in, deleted.files_out), (ROWS as u64 / 10, 1, 1));
    println!("peak {} over {} before, budget {budget}", ByteSize(peak), ByteSize(before));
    // The allocator keeps some of what was freed.
    assert!(peak < budget.as_u64() + (32 << 20), "{} of {budget}", ByteSize(peak));
}
