//! What a processor has done so far, for status lines and readiness; one per dataset.

use crate::breaker::Breakers;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Counters that only this processor writes. Reading them together gives no consistent picture, nor need it.
#[derive(Debug)]
pub struct Progress {
    breakers: Breakers,
    committed_rows: AtomicU64,
    duplicates: AtomicU64,
    dedup_reach_ms: AtomicU64,
    lag: AtomicI64,
    partitions: AtomicU64,
    buffered_bytes: AtomicU64,
    paused: AtomicBool,
    ready: AtomicBool,
}

impl Progress {
    pub fn new(dataset: &str) -> Progress {
        Progress {
            breakers: Breakers::new(dataset),
            committed_rows: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            dedup_reach_ms: AtomicU64::default(),
            lag: AtomicI64::default(),
            partitions: AtomicU64::default(),
            buffered_bytes: AtomicU64::default(),
            paused: AtomicBool::default(),
            ready: AtomicBool::default(),
        }
    }

    /// The breakers of what this processor needs.
    pub fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// Rows that this process made visible.
    pub fn committed_rows(&self) -> u64 {
        self.committed_rows.load(Ordering::Relaxed)
    }

    /// Records that were not written because their event was seen before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// How far back repeated events are recognised, in the partition where that is least.
    pub fn dedup_reach(&self) -> Duration {
        Duration::from_millis(self.dedup_reach_ms.load(Ordering::Relaxed))
    }

    /// Records of this member's partitions that are in the log and not yet in the table.
    pub fn lag(&self) -> i64 {
        self.lag.load(Ordering::Relaxed)
    }

    /// Partitions that this member reads.
    pub fn partitions(&self) -> u64 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Bytes of rows, buffered or on their way to the table.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes.load(Ordering::Relaxed)
    }

    /// Whether partitions are paused: memory is at its bound, or something is down.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether the tables were read and the group was joined.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_committed(&self, rows: u64) {
        self.committed_rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn add_duplicates(&self, count: u64) {
        self.duplicates.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set_dedup_reach(&self, reach: Duration) {
        self.dedup_reach_ms.store(reach.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, lag: i64, partitions: usize, buffered_bytes: usize) {
        self.lag.store(lag, Ordering::Relaxed);
        self.partitions.store(partitions as u64, Ordering::Relaxed);
        self.buffered_bytes.store(buffered_bytes as u64, Ordering::Relaxed);
    }
}
