//! Decides what lies where in the embedded store (fjall), and is the only module that knows it.
//!
//! Each segment of a topic is a keyspace of its own: key = partition, first offset (big-endian), value = one batch.
//! Retention drops whole keyspaces, that is files, so deleting leaves no tombstones and needs no compaction: a record
//! is written twice in its life, to the journal and to one table. The keyspace `meta` says which topics and segments
//! exist; a segment without its entry there was being made or deleted when the process died, and is removed on open.

use super::options::LocalOptions;
use super::repair;
use crate::LogError;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tracing::{info, warn};

const META: &str = "meta";

pub(super) struct Store {
    db: Database,
    meta: Keyspace,
    segment_memtable: u64,
}

/// What `meta` says about a topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TopicEntry {
    pub(super) partitions: u32,
}

/// What `meta` says about a segment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SegmentEntry {
    /// First offset of each partition.
    pub(super) start: Vec<i64>,
    /// Known once no more is written to it.
    pub(super) sealed: Option<Sealed>,
}

/// What a segment holds, so that opening need not read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) bytes: u64,
    pub(super) newest_ms: i64,
}

impl Store {
    pub(super) fn open(dir: &Path, options: &LocalOptions) -> Result<Store, LogError> {
        let fatal = |reason: String| LogError::Fatal { what: "open the local log", reason };
        let named = |err: fjall::Error| match err {
            fjall::Error::Locked => fatal(format!("{} is in use by another process", dir.display())),
            fjall::Error::Io(err) => fatal(format!("{}: {err}", dir.display())),
            err => fatal(format!("{} is damaged or not a log directory: {err:?}", dir.display())),
        };
        std::fs::create_dir_all(dir).map_err(|err| fatal(format!("{}: {err}", dir.display())))?;
        let open = || {
            Database::builder(dir)
                .cache_size(options.cache_bytes)
                .max_journaling_size(options.journal_bytes.max(64 * 1024 * 1024))
                .journal_compression(fjall::CompressionType::None)
                // With two, one of them spins while the other compacts; there is nothing to compact here anyway.
                .worker_threads(1)
                .open()
        };
        let db = repair::open(dir, open).map_err(named)?;
        let meta =
            db.keyspace(META, || KeyspaceCreateOptions::default().max_memtable_size(1024 * 1024)).map_err(named)?;
        Ok(Store { db, meta, segment_memtable: options.memtable_share().saturating_mul(2) })
    }

    pub(super) fn topics(&self) -> fjall::Result<BTreeMap<String, TopicEntry>> {
        self.entries("topic/")
    }

    pub(super) fn segments(&self, topic: &str) -> fjall::Result<BTreeMap<u64, SegmentEntry>> {
        let entries = self.entries::<SegmentEntry>(&format!("segment/{topic}/"))?;
        Ok(entries.into_iter().filter_map(|(number, entry)| Some((number.parse().ok()?, entry))).collect())
    }

    /// Offsets that the groups of a topic have committed.
    pub(super) fn hints(&self, topic: &str) -> fjall::Result<BTreeMap<String, Vec<i64>>> {
        self.entries(&format!("hint/{topic}/"))
    }

    /// Hints may be lost in a crash: an older hint keeps more records, never fewer.
    pub(super) fn put_hint(&self, topic: &str, group: &str, offsets: &[i64]) -> fjall::Result<()> {
        self.meta.insert(format!("hint/{topic}/{group}"), json(&offsets))
    }

    /// Makes a topic with its first segment, durably.
    pub(super) fn create_topic(&self, topic: &str, entry: &TopicEntry) -> fjall::Result<Keyspace> {
        let first = SegmentEntry { start: vec![0; entry.partitions as usize], sealed: None };
        let keyspace = self.segment(topic, 0)?;
        let mut batch = self.batch();
        batch.insert(&self.meta, format!("topic/{topic}"), json(entry));
        batch.insert(&self.meta, segment_key(topic, 0), json(&first));
        batch.commit()?;
        Ok(keyspace)
    }

    /// Makes segment `number` and seals the one before it, durably and at once.
    pub(super) fn next_segment(
        &self,
        topic: &str,
        number: u64,
        start: Vec<i64>,
        before: &SegmentEntry,
    ) -> fjall::Result<Keyspace> {
        let keyspace = self.segment(topic, number)?;
        let mut batch = self.batch();
        batch.insert(&self.meta, segment_key(topic, number), json(&SegmentEntry { start, sealed: None }));
        batch.insert(&self.meta, segment_key(topic, number - 1), json(before));
        batch.commit()?;
        Ok(keyspace)
    }

    /// Deletes a segment; its files go when the last reader lets go of it.
    pub(super) fn delete_segment(&self, topic: &str, number: u64, keyspace: Keyspace) -> fjall::Result<()> {
        let mut batch = self.batch();
        batch.remove(&self.meta, segment_key(topic, number));
        batch.commit()?;
        self.db.delete_keyspace(keyspace)
    }

    /// The keyspace of a segment, made if it is not there.
    pub(super) fn segment(&self, topic: &str, number: u64) -> fjall::Result<Keyspace> {
        self.db.keyspace(&segment_name(topic, number), || {
            let never_merge = fjall::compaction::Leveled::default().with_l0_threshold(18);
            KeyspaceCreateOptions::default()
                .max_memtable_size(self.segment_memtable)
                .compaction_strategy(std::sync::Arc::new(never_merge))
        })
    }

    /// Removes keyspaces that no entry names.
    pub(super) fn remove_orphans(&self, known: &HashSet<String>) -> fjall::Result<()> {
        for name in self.db.list_keyspace_names() {
            let name: &str = &name;
            if name != META && !known.contains(name) {
                info!(name, "removing a segment that was half made or half deleted");
                let keyspace = self.db.keyspace(name, KeyspaceCreateOptions::default)?;
                self.db.delete_keyspace(keyspace)?;
            }
        }
        Ok(())
    }

    /// A batch whose commit returns only after fsync, and which is applied whole or not at all.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.db.batch().durability(Some(PersistMode::SyncData))
    }

    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.db.persist(PersistMode::SyncAll)
    }

    /// Bytes that all files take now.
    pub(super) fn disk_space(&self) -> fjall::Result<u64> {
        self.db.disk_space()
    }

    fn entries<T: DeserializeOwned>(&self, prefix: &str) -> fjall::Result<BTreeMap<String, T>> {
        let mut entries = BTreeMap::new();
        for entry in self.meta.prefix(prefix) {
            let (key, value) = entry.into_inner()?;
            let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            match serde_json::from_slice(&value) {
                Ok(value) => drop(entries.insert(name, value)),
                Err(err) => warn!(prefix, name, %err, "unreadable entry in the local log"),
            }
        }
        Ok(entries)
    }
}

pub(super) fn segment_name(topic: &str, number: u64) -> String {
    format!("{topic}#{number}")
}

/// The key of the batch of `partition` that starts at `offset`.
pub(super) fn batch_key(partition: i32, offset: i64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The first offset that a key names.
pub(super) fn offset_of(key: &Slice) -> Option<i64> {
    Some(i64::from_be_bytes(key.get(4..12)?.try_into().ok()?))
}

fn segment_key(topic: &str, number: u64) -> String {
    format!("segment/{topic}/{number:020}")
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // These types hold numbers and strings only, which always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}
