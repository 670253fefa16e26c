//! A topic in memory: where each partition ends, which segments hold it, and which groups read it.

use super::store::{Sealed, SegmentEntry, Store, TopicEntry, batch_key, offset_of, segment_name};
use super::{framing, lock};
use crate::Position;
use fjall::Keyspace;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Instant;

pub(super) struct Topic {
    pub(super) id: usize,
    pub(super) name: String,
    pub(super) partitions: u32,
    /// Next offset of each partition; only ever set by the writer, after the records are durable.
    next: Box<[AtomicI64]>,
    /// Held while the ends that a group has moved are set, so that who asks for all of them finds no group in part.
    publishing: RwLock<()>,
    /// Oldest first, never empty; the last one is written to.
    segments: RwLock<Vec<Arc<Segment>>>,
    pub(super) groups: Mutex<Groups>,
    /// The newest exclusive writer.
    pub(super) exclusive: Mutex<u64>,
    arrivals: Mutex<()>,
    arrived: Condvar,
}

pub(super) struct Segment {
    pub(super) number: u64,
    /// First offset of each partition; they end where the next segment starts.
    pub(super) start: Vec<i64>,
    pub(super) keyspace: Keyspace,
    pub(super) bytes: AtomicU64,
    pub(super) newest_ms: AtomicI64,
}

/// The consumer groups of a topic.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Next offset of each partition, by group.
    pub(super) hints: BTreeMap<String, Vec<i64>>,
    pub(super) connected: BTreeSet<String>,
    /// Groups whose hint is not in the store yet.
    pub(super) unsaved: BTreeSet<String>,
}

impl Groups {
    /// Offsets below which every group is done; `None` while no group is known.
    pub(super) fn committed(&self, partitions: u32) -> Option<Vec<i64>> {
        let without_hint = self.connected.iter().any(|group| !self.hints.contains_key(group));
        if without_hint {
            return Some(vec![0; partitions as usize]);
        }
        let least = |a: Vec<i64>, b: &Vec<i64>| a.iter().zip(b).map(|(a, b)| *a.min(b)).collect();
        let mut hints = self.hints.values();
        let first = hints.next()?.clone();
        Some(hints.fold(first, least))
    }

    pub(super) fn commit(&mut self, group: &str, partitions: u32, next: &[Position]) {
        let offsets = self.hints.entry(group.to_owned()).or_default();
        offsets.resize(partitions as usize, 0);
        for position in next {
            if let Some(offset) = usize::try_from(position.partition).ok().and_then(|p| offsets.get_mut(p)) {
                *offset = position.offset;
            }
        }
        self.unsaved.insert(group.to_owned());
    }
}

impl Topic {
    /// A topic that was just made, with its first segment.
    pub(super) fn create(id: usize, name: &str, entry: &TopicEntry, first: Keyspace) -> Topic {
        let start = vec![0; entry.partitions as usize];
        let segment = Segment::new(0, start.clone(), first, Sealed { bytes: 0, newest_ms: 0 });
        Topic::with_segments(id, name, entry, start, vec![Arc::new(segment)], BTreeMap::new())
    }

    /// A topic as the store holds it.
    pub(super) fn recover(id: usize, name: &str, entry: &TopicEntry, store: &Store) -> fjall::Result<Topic> {
        let mut segments = Vec::new();
        let mut next = vec![0; entry.partitions as usize];
        let entries = store.segments(name)?;
        for (number, segment) in &entries {
            let keyspace = store.segment(name, *number)?;
            let held = match segment.sealed {
                Some(sealed) => sealed,
                None => measure(&keyspace)?,
            };
            next.clone_from(&segment.start);
            segments.push(Arc::new(Segment::new(*number, segment.start.clone(), keyspace, held)));
        }
        match segments.last() {
            Some(last) => find_ends(&last.keyspace, &mut next)?,
            None => {
                let keyspace = store.create_topic(name, entry)?;
                segments.push(Arc::new(Segment::new(0, next.clone(), keyspace, Sealed { bytes: 0, newest_ms: 0 })));
            }
        }
        Ok(Topic::with_segments(id, name, entry, next, segments, store.hints(name)?))
    }

    fn with_segments(
        id: usize,
        name: &str,
        entry: &TopicEntry,
        next: Vec<i64>,
        segments: Vec<Arc<Segment>>,
        mut hints: BTreeMap<String, Vec<i64>>,
    ) -> Topic {
        hints.values_mut().for_each(|offsets| offsets.resize(entry.partitions as usize, 0));
        Topic {
            id,
            name: name.to_owned(),
            partitions: entry.partitions,
            next: next.into_iter().map(AtomicI64::new).collect(),
            publishing: RwLock::new(()),
            segments: RwLock::new(segments),
            groups: Mutex::new(Groups { hints, ..Groups::default() }),
            exclusive: Mutex::new(0),
            arrivals: Mutex::new(()),
            arrived: Condvar::new(),
        }
    }

    /// The next offset of `partition`; `None` if there is no such partition.
    pub(super) fn next(&self, partition: i32) -> Option<i64> {
        let next = self.next.get(usize::try_from(partition).ok()?)?;
        Some(next.load(Ordering::Acquire))
    }

    /// The next offset of every partition, all of one moment: a group is behind all of them or before all.
    pub(super) fn all_next(&self) -> Vec<i64> {
        let _whole = self.publishing.read().unwrap_or_else(PoisonError::into_inner);
        self.next.iter().map(|next| next.load(Ordering::Acquire)).collect()
    }

    /// Makes the records of a group visible to readers, all at once: those of each partition up to its new end.
    pub(super) fn publish(&self, ends: impl Iterator<Item = Position>) {
        let _whole = self.publishing.write().unwrap_or_else(PoisonError::into_inner);
        for end in ends {
            if let Some(slot) = usize::try_from(end.partition).ok().and_then(|p| self.next.get(p)) {
                slot.store(end.offset, Ordering::Release);
            }
        }
    }

    /// Wakes the readers that wait in [`Topic::wait`].
    pub(super) fn wake(&self) {
        drop(lock(&self.arrivals));
        self.arrived.notify_all();
    }

    /// Waits until `ready`, at most until `deadline`; says whether it is.
    pub(super) fn wait(&self, deadline: Instant, mut ready: impl FnMut() -> bool) -> bool {
        let mut guard = lock(&self.arrivals);
        loop {
            if ready() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self.arrived.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The segment that is written to.
    pub(super) fn active(&self) -> Arc<Segment> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&segments[segments.len() - 1])
    }

    /// The segment that holds `offset`, or would; `None` if retention has deleted it.
    pub(super) fn segment_of(&self, partition: i32, offset: i64) -> Option<Arc<Segment>> {
        let p = usize::try_from(partition).ok()?;
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.start.get(p).is_some_and(|start| *start <= offset));
        Some(Arc::clone(&segments[after.checked_sub(1)?]))
    }

    /// The first offset of `partition` that the log still holds.
    pub(super) fn first(&self, partition: i32) -> Option<i64> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments[0].start.get(usize::try_from(partition).ok()?).copied()
    }

    pub(super) fn push(&self, segment: Segment) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(segment));
    }

    /// Takes the `count` oldest segments away from readers; the one that is written to always stays.
    pub(super) fn take_oldest(&self, count: usize) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(segments.len() - 1);
        segments.drain(..count).collect()
    }
}

impl Segment {
    pub(super) fn new(number: u64, start: Vec<i64>, keyspace: Keyspace, held: Sealed) -> Segment {
        let (bytes, newest_ms) = (AtomicU64::new(held.bytes), AtomicI64::new(held.newest_ms));
        Segment { number, start, keyspace, bytes, newest_ms }
    }

    pub(super) fn held(&self) -> Sealed {
        Sealed { bytes: self.bytes.load(Ordering::Acquire), newest_ms: self.newest_ms.load(Ordering::Acquire) }
    }

    /// What `meta` is to say about this segment once nothing more is written to it.
    pub(super) fn sealed(&self) -> SegmentEntry {
        SegmentEntry { start: self.start.clone(), sealed: Some(self.held()) }
    }

    pub(super) fn name(&self, topic: &str) -> String {
        segment_name(topic, self.number)
    }
}

/// Reads what a segment holds; needed only for the one that was written to when the process ended.
fn measure(keyspace: &Keyspace) -> fjall::Result<Sealed> {
    let mut held = Sealed { bytes: 0, newest_ms: 0 };
    for entry in keyspace.iter() {
        let (_, batch) = entry.into_inner()?;
        held.bytes += batch.len() as u64;
        if let Some(head) = framing::read_head(&batch) {
            held.newest_ms = held.newest_ms.max(head.timestamp_ms);
        }
    }
    Ok(held)
}

/// Moves each offset in `next` behind the last batch of its partition.
fn find_ends(keyspace: &Keyspace, next: &mut [i64]) -> fjall::Result<()> {
    for (partition, next) in next.iter_mut().enumerate() {
        let partition = partition as i32;
        let range = batch_key(partition, 0)..=batch_key(partition, i64::MAX);
        let Some(entry) = keyspace.range(range).next_back() else { continue };
        let (key, batch) = entry.into_inner()?;
        let records = framing::read_head(&batch).map_or(0, |head| i64::from(head.records));
        if let Some(base) = offset_of(&key) {
            *next = base + records;
        }
    }
    Ok(())
}
