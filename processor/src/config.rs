//! Settings of the processor.

use bytesize::ByteSize;
use serde::Deserialize;
use std::time::Duration;

/// Everything that a processor can be told.
#[derive(Debug, Clone)]
pub struct Config {
    pub flush: FlushConfig,
    /// Memory for rows, buffered, being encoded, on their way to the store, and for deduplication windows.
    pub memory: ByteSize,
    /// Whether to read the log to its end before stopping: when its producer stopped first, in the same process.
    pub drain_to_end: bool,
    /// How long stopping may take; what is not committed by then is read again at the next start.
    pub drain_timeout: Duration,
    /// How long the last rows of a revoked partition may take; then it is given up, and the table refuses what comes late.
    pub release_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            flush: FlushConfig::default(),
            memory: ByteSize::mib(512),
            drain_to_end: false,
            drain_timeout: Duration::from_secs(25),
            release_within: Duration::from_secs(20),
        }
    }
}

/// When buffered rows become a fragment, whichever comes first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlushConfig {
    /// Age of the oldest row that is not on its way yet, by the wall clock, whether or not new ones arrive.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Size of the rows in memory, over all partitions.
    pub bytes: ByteSize,
    /// Threads that sort and encode the rows of a dataset; by default as many as there are cores.
    pub threads: usize,
}

impl Default for FlushConfig {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        FlushConfig { every: Duration::from_secs(5), bytes: ByteSize::mib(64), threads }
    }
}

/// Rows under way need room beside their columns: reserves of growing vectors, the joined and sorted copies while a
/// file is encoded, and the file itself until the store has it. Measured at 2.2 to 2.8 times the rows.
const OVERHEAD: u64 = 3;

/// Deduplication windows may take one part in so many of the memory; the rest is for rows.
const WINDOWS: u64 = 4;

impl Config {
    /// Bytes that the deduplication windows of all partitions may take together.
    pub fn window_bytes(&self) -> usize {
        (self.memory.as_u64() / WINDOWS) as usize
    }

    fn row_memory(&self) -> u64 {
        self.memory.as_u64() - self.memory.as_u64() / WINDOWS
    }

    /// Bytes of rows, buffered and in flight, at which partitions are paused.
    pub fn pause_above(&self) -> usize {
        (self.row_memory() / OVERHEAD) as usize
    }

    /// Bytes of buffered rows at which they are flushed: what is asked for, or what lets two flushes and the next
    /// buffer fit into memory.
    pub fn flush_above(&self) -> usize {
        (self.flush.bytes.as_u64()).min(self.row_memory() / OVERHEAD / 2) as usize
    }
}
