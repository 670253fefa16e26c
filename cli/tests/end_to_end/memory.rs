//! A processor that finds a backlog catches up within its memory.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::{Filler, Topic};
use crate::support::process::Place;
use crate::support::servers;
use crate::support::table::Table;
use serde_json::json;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// `[memory] processor` of this test.
const BUDGET: u64 = 64 * MIB;
/// What a process takes beside its budget: its code, what librdkafka has fetched ahead, and what the C library's
/// allocator keeps in the arenas of many threads. Measured: 110 to 170 MiB, 200 MiB with 64 partitions and 24 dates; with
/// `MALLOC_ARENA_MAX=2` 85 MiB and more.
const BESIDE: u64 = 224 * MIB;
/// Bytes that each event carries for nothing.
const PADDING: usize = 2_000;

#[test]
fn a_backlog_five_times_the_memory_is_worked_off_within_it() {
    let config = Config { brokers: Some(servers::kafka()), flush_every: "5s", ..Config::new("backlog") };
    let place = Place::new(Config { more: "[memory]\nprocessor = '64MiB'", ..config });
    let size = Size { devices: 10, events_per_device: 16_000, batch: 500, pause: Duration::ZERO };
    let topic = Topic::new(&servers::kafka(), &place.config.dataset);
    let ingest = place.start("ingest");
    let ledger = Fleet::start_padded(ingest.gateway(), size, 0, PADDING).finish();
    println!("the gateway took {} MiB for it", ingest.peak_memory() / MIB);
    ingest.stop();

    let started = Instant::now();
    let processor = place.start("processor");
    topic.wait_until_no_lag();
    let peak = processor.peak_memory();
    let backlog = size.total() * PADDING as u64;
    println!("{} MiB in {:?} with at most {} MiB", backlog / MIB, started.elapsed(), peak / MIB);
    let url = processor.table(&place.config.dataset);
    processor.stop();
    topic.delete();
    Table::new(url).assert_is(&ledger, place.path());
    assert!(peak <= BUDGET + BESIDE, "{} MiB", peak / MIB);
}

/// The most that may lie open at once: every partition has rows of every date, and some rows are as large as they may be.
#[test]
fn sixty_four_partitions_with_twenty_four_dates_and_records_of_a_megabyte_are_worked_off_within_it() {
    const PARTITIONS: u32 = 64;
    const DATES: u64 = 24;
    const EVENTS: u64 = 240_000;
    let config = Config { partitions: PARTITIONS, brokers: Some(servers::kafka()), ..Config::new("wide") };
    let place = Place::new(Config { flush_every: "5s", more: "[memory]\nprocessor = '64MiB'", ..config });
    let topic = Topic::new(&servers::kafka(), &place.config.dataset);
    // Makes the topic.
    place.start("ingest").stop();

    let day_ms = 24 * 3_600_000;
    let first_day = 20_000 * day_ms;
    let padding = "x".repeat(1_000);
    let large = "x".repeat(990_000);
    let filler = Filler::new(&servers::kafka(), &place.config.dataset);
    let mut bytes = 0;
    for n in 0..EVENTS {
        let time = first_day + n % DATES * day_ms + n;
        let note = if n % 2_000 == 0 { &large } else { &padding };
        let event = format!(r#"{{"device_id":"d{}","id":"{n}","time":{time},"data":{{"note":"{note}"}}}}"#, n % 5_000);
        bytes += event.len() as u64;
        filler.send(&format!("d{}", n % 5_000), &event);
    }
    filler.flush();

    let processor = place.start("processor");
    topic.wait_until_no_lag();
    let peak = processor.peak_memory();
    println!("{} MiB with at most {} MiB", bytes / MIB, peak / MIB);
    let url = processor.table(&place.config.dataset);
    processor.stop();
    topic.delete();
    let mut table = Table::new(url);
    let scan = table.scan();
    let found = table.duckdb.row(&format!(
        "SELECT count(*) AS rows, count(DISTINCT id) AS ids, count(DISTINCT date) AS dates,
                count(DISTINCT kafka_partition) AS partitions FROM {scan}"
    ));
    assert_eq!(found, json!({"rows": EVENTS, "ids": EVENTS, "dates": DATES, "partitions": PARTITIONS}));
    assert!(peak <= BUDGET + BESIDE, "{} MiB", peak / MIB);
}
