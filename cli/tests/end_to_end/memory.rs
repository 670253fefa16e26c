//! A processor that finds a backlog catches up within its memory.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::servers;
use crate::support::table::Table;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// `[memory] processor` of this test.
const BUDGET: u64 = 64 * MIB;
/// What a process takes beside its budget: its code, what librdkafka has fetched ahead, and what the C library's
/// allocator keeps in the arenas of many threads. Measured: 170 MiB; with `MALLOC_ARENA_MAX=2` 85 MiB.
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
