//! A record: one event in the log.

use crate::local::framing;
use bytes::Bytes;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A record to append. Owned, for it outlives the request until the log has it; the `Bytes` may share one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Decides the partition, so that one device keeps its order.
    pub key: Bytes,
    pub value: Bytes,
    /// Few and small; names are known at compile time.
    pub headers: Vec<(&'static str, Bytes)>,
}

impl NewRecord {
    /// Bytes that the record carries, framing left aside.
    pub fn size(&self) -> usize {
        Append::size(self)
    }
}

/// A record of any producer, owned: what a [`Record`] lends, without its place. The local log knows no null: it keeps an
/// absent key or value as an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl OwnedRecord {
    /// Bytes that the record carries, framing left aside.
    pub fn size(&self) -> usize {
        Append::size(self)
    }
}

/// What appending asks of a record.
pub(crate) trait Append {
    fn key(&self) -> Option<&[u8]>;
    fn value(&self) -> Option<&[u8]>;
    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)>;

    /// Bytes that the record carries, framing left aside.
    fn size(&self) -> usize {
        let bytes = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len);
        let headers: usize = self.headers().map(|(name, value)| name.len() + bytes(value)).sum();
        bytes(self.key()) + bytes(self.value()) + headers
    }
}

impl Append for NewRecord {
    fn key(&self) -> Option<&[u8]> {
        Some(&self.key)
    }

    fn value(&self) -> Option<&[u8]> {
        Some(&self.value)
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| (*name, Some(value.as_ref())))
    }
}

impl Append for OwnedRecord {
    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }
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

impl<'a> Record<'a> {
    /// A message that librdkafka holds.
    pub(crate) fn of_message(message: &'a BorrowedMessage<'_>) -> Record<'a> {
        Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key(),
            value: message.payload(),
            headers: Headers::from_kafka(message.headers()),
        }
    }
}

/// The headers of a record: names with optional values, in the order in which they were written. Names may repeat.
#[derive(Clone, Copy)]
pub struct Headers<'a>(Repr<'a>);

#[derive(Clone, Copy)]
enum Repr<'a> {
    Pairs(&'a [(&'a str, Option<&'a [u8]>)]),
    Kafka(&'a BorrowedHeaders),
    Framed(&'a [u8]),
}

impl<'a> Headers<'a> {
    /// Headers from memory.
    pub fn from_pairs(pairs: &'a [(&'a str, Option<&'a [u8]>)]) -> Headers<'a> {
        Headers(Repr::Pairs(pairs))
    }

    /// Headers of a message that librdkafka holds; `None` is a message without headers.
    fn from_kafka(headers: Option<&'a BorrowedHeaders>) -> Headers<'a> {
        Headers(headers.map_or(Repr::Pairs(&[]), Repr::Kafka))
    }

    /// Headers as the local log stores them.
    pub(crate) fn from_framed(bytes: &'a [u8]) -> Headers<'a> {
        Headers(Repr::Framed(bytes))
    }

    /// The last value under `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(n, _)| *n == name).last().and_then(|(_, value)| value)
    }

    /// All headers.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        Iter { headers: self.0, next: 0 }
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

struct Iter<'a> {
    headers: Repr<'a>,
    /// Index of the next header, or its place in the bytes.
    next: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.headers {
            Repr::Pairs(pairs) => {
                let pair = pairs.get(self.next).copied();
                self.next += 1;
                pair
            }
            Repr::Kafka(headers) => loop {
                if self.next >= headers.count() {
                    return None;
                }
                let index = self.next;
                self.next += 1;
                // rdkafka unwraps the name as UTF-8, but Kafka lets any producer write any bytes there. Such a header
                // has no name that anybody here asks for: it is left out.
                if let Ok(Some(header)) = catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
                    return Some((header.key, header.value));
                }
            },
            Repr::Framed(bytes) => {
                let (header, next) = framing::read_header(bytes, self.next)?;
                self.next = next;
                Some(header)
            }
        }
    }
}

/// The partition of a key: Kafka's own default for keyed records (murmur2), so that records of one device stay in order
/// whichever producer wrote them.
pub fn partition_for(key: &[u8], partitions: u32) -> i32 {
    let positive = murmur2(key) & 0x7fff_ffff;
    // A topic has at least one partition; the remainder is below 2^31.
    (positive % partitions.max(1)) as i32
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let mut h = SEED ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn every_partition_is_within_the_topic() {
        for n in 0..1_000u32 {
            let partition = partition_for(&n.to_be_bytes(), 7);
            assert!((0..7).contains(&partition));
        }
        assert_eq!(partition_for(b"x", 0), 0);
    }

    #[test]
    fn the_last_of_repeated_headers_wins() {
        let pairs = [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b"2"[..]))];
        let headers = Headers::from_pairs(&pairs);
        assert_eq!(headers.get("a"), Some(&b"2"[..]));
        assert_eq!(headers.get("b"), None);
        assert_eq!(headers.iter().count(), 3);
    }
}
