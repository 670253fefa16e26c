//! What can be chosen about the local log.

use std::time::Duration;

/// Options of [`super::LocalLog`]. The defaults run on a laptop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOptions {
    /// Records that the table has are deleted once they are older than this; `None` keeps them until another limit.
    pub retain_age: Option<Duration>,
    /// Records that the table has are deleted, oldest first, as far as the topic keeps this many bytes; `None` = no limit.
    pub retain_bytes: Option<u64>,
    /// Bytes of records that the log may hold in all. Over it, records that the table has are deleted whatever the two
    /// limits above say, and appends are refused while that does not help. The files take up to
    /// [`LocalOptions::journal_bytes`] and 64 MiB more.
    pub disk_budget: u64,
    /// Records are deleted a segment at a time; a segment of a topic ends at this size.
    pub segment_bytes: u64,
    /// Bytes of appends that may wait for the disk; further appends wait their turn.
    pub queue_bytes: usize,
    /// Largest record: key, value and headers.
    pub max_record_bytes: usize,
    /// Memory for written records that are not yet in a table file, all topics together.
    pub memtable_bytes: u64,
    /// Memory for blocks of table files that were read.
    pub cache_bytes: u64,
    /// Size of the journal at which tables are written so that it can be cut; at least 64 MiB.
    pub journal_bytes: u64,
    /// How often retention is looked after.
    pub retention_every: Duration,
}

impl Default for LocalOptions {
    fn default() -> LocalOptions {
        const MIB: u64 = 1024 * 1024;
        LocalOptions {
            retain_age: Some(Duration::from_secs(24 * 3600)),
            retain_bytes: Some(1024 * MIB),
            disk_budget: 8 * 1024 * MIB,
            segment_bytes: 128 * MIB,
            queue_bytes: 32 * MIB as usize,
            max_record_bytes: 16 * MIB as usize,
            memtable_bytes: 48 * MIB,
            cache_bytes: 16 * MIB,
            journal_bytes: 128 * MIB,
            retention_every: Duration::from_secs(5),
        }
    }
}

impl LocalOptions {
    /// Memory of what is being written; as much again several times over may be on its way into table files.
    pub(super) fn memtable_share(&self) -> u64 {
        (self.memtable_bytes / 4).max(256 * 1024)
    }

    /// The size at which segments really end: a budget must span several, or nothing could be deleted before it is spent.
    pub(super) fn segment_size(&self) -> u64 {
        self.segment_bytes.min(self.disk_budget / 8).min(self.memtable_share() * 16).max(1)
    }
}
