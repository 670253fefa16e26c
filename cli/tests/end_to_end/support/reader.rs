//! An analyst who counts again and again while everything moves. What one sees must be a state of the log: offsets
//! without gap or overlap, and never fewer events than before.

use super::duckdb::DuckDb;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Counts until it is asked how it went.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What a reader saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub queries: u32,
    /// Queries that saw more than the one before.
    pub grew: u32,
    pub events: u64,
    /// Most offsets that were missing below the last one: copies that a compactor left out, or something wrong.
    pub holes: u64,
}

impl Reader {
    /// Counts in the table at `url`, which must be there.
    pub fn start(url: String) -> Reader {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        Reader { stop, thread: std::thread::spawn(move || count(&url, &until)) }
    }

    /// Stops it, and panics if it ever saw something wrong.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader saw nothing wrong")
    }
}

fn count(url: &str, stop: &AtomicBool) -> Seen {
    let mut duckdb = DuckDb::start();
    let sql = format!(
        "SELECT coalesce(sum(n), 0)::BIGINT AS rows, coalesce(sum(offsets), 0)::BIGINT AS offsets,
                coalesce(sum(events), 0)::BIGINT AS events, coalesce(sum(last + 1 - n), 0)::BIGINT AS holes
         FROM (SELECT count(*) AS n, count(DISTINCT kafka_offset) AS offsets, count(DISTINCT id) AS events,
                      max(kafka_offset) AS last
               FROM delta_scan('{url}') GROUP BY kafka_partition)"
    );
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let row = duckdb.row(&sql);
        let number = |name: &str| row[name].as_u64().unwrap();
        assert_eq!(number("offsets"), number("rows"), "doubles");
        let events = number("events");
        assert!(events >= seen.events, "{events} events after {}", seen.events);
        seen.queries += 1;
        seen.grew += u32::from(events > seen.events);
        seen.events = events;
        seen.holes = seen.holes.max(number("holes"));
    }
    seen
}
