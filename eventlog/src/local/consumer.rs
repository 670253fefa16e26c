//! Reads a topic of the local log.
//!
//! There is one process and one reader per group, so the first poll assigns every partition and nothing is revoked.
//! Each partition has a cursor that keeps the stored batch it is in: records are borrowed from it, and the store is
//! asked only when a batch is used up.

use super::framing::{self, BATCH_HEAD};
use super::store::{batch_key, offset_of};
use super::topic::{Segment, Topic};
use super::{Shared, lock};
use crate::{Bounds, Consumer, Input, LogError, MAX_BYTES_PER_POLL, MAX_RECORDS_PER_POLL, Position, Record};
use fjall::Slice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) struct LocalConsumer {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    group: String,
    announced: bool,
    cursors: BTreeMap<i32, Cursor>,
    /// The partition that the last poll read first; the next one starts behind it.
    last_first: i32,
}

/// Where one partition is read.
struct Cursor {
    next: i64,
    paused: bool,
    /// The position was reported as out of range: nothing is read before a seek.
    lost: bool,
    batch: Option<Open>,
}

/// A stored batch that is being read.
struct Open {
    batch: Slice,
    /// Where the record with the offset `next` starts.
    at: usize,
    end: i64,
    timestamp_ms: i64,
}

/// What one poll may still hand out.
struct Quota {
    records: usize,
    bytes: usize,
}

impl Quota {
    fn is_spent(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }
}

impl LocalConsumer {
    pub(super) fn join(shared: Arc<Shared>, topic: Arc<Topic>, group: &str) -> Result<LocalConsumer, LogError> {
        if !lock(&topic.groups).connected.insert(group.to_owned()) {
            let reason = format!("group {group} already reads topic {} in this process", topic.name);
            return Err(fatal(reason));
        }
        let (group, last_first) = (group.to_owned(), i32::MAX);
        Ok(LocalConsumer { shared, topic, group, announced: false, cursors: BTreeMap::new(), last_first })
    }

    fn cursor(&mut self, partition: i32) -> Result<&mut Cursor, LogError> {
        let name = &self.topic.name;
        self.cursors
            .get_mut(&partition)
            .ok_or_else(|| fatal(format!("partition {partition} of {name} is not assigned")))
    }

    /// A partition whose position is not in the log; said once, then it waits for a seek.
    fn out_of_range(&mut self) -> Option<i32> {
        for (partition, cursor) in &mut self.cursors {
            let first = self.topic.first(*partition).unwrap_or(0);
            let next = self.topic.next(*partition).unwrap_or(0);
            if !cursor.lost && cursor.batch.is_none() && !(first..=next).contains(&cursor.next) {
                cursor.lost = true;
                return Some(*partition);
            }
        }
        None
    }

    /// Hands out what is there, each partition its share, then whoever has more.
    fn read(&mut self, sink: &mut dyn FnMut(Record<'_>)) -> Result<usize, LogError> {
        // Of one moment: who reads up to these ends has seen no append in part.
        let ends = self.topic.all_next();
        let ready = |(partition, cursor): (&i32, &Cursor)| {
            let end = Position { partition: *partition, offset: ends.get(*partition as usize).copied()? };
            cursor.is_ready(end.offset).then_some(end)
        };
        let mut ready: Vec<Position> = self.cursors.iter().filter_map(ready).collect();
        if ready.is_empty() {
            return Ok(0);
        }
        let start = ready.partition_point(|end| end.partition <= self.last_first) % ready.len();
        ready.rotate_left(start);
        self.last_first = ready[0].partition;

        let mut left = Quota { records: MAX_RECORDS_PER_POLL, bytes: MAX_BYTES_PER_POLL };
        let share = Quota { records: left.records.div_ceil(ready.len()), bytes: left.bytes.div_ceil(ready.len()) };
        for pass in [Some(share), None] {
            for end in &ready {
                let cursor = match self.cursors.get_mut(&end.partition) {
                    Some(cursor) if !left.is_spent() => cursor,
                    _ => continue,
                };
                let quota = match &pass {
                    Some(share) => {
                        Quota { records: share.records.min(left.records), bytes: share.bytes.min(left.bytes) }
                    }
                    None => Quota { ..left },
                };
                let (records, bytes) = cursor.read(&self.topic, *end, quota, sink)?;
                left.records -= records;
                left.bytes = left.bytes.saturating_sub(bytes);
            }
        }
        Ok(MAX_RECORDS_PER_POLL - left.records)
    }
}

impl Cursor {
    fn at(position: Position) -> Cursor {
        Cursor { next: position.offset, paused: false, lost: false, batch: None }
    }

    fn is_ready(&self, end: i64) -> bool {
        !self.paused && !self.lost && self.next < end
    }

    /// Hands out records until `quota` is spent or `end` is reached; returns how many, and their bytes.
    fn read(
        &mut self,
        topic: &Topic,
        Position { partition, offset: end }: Position,
        quota: Quota,
        sink: &mut dyn FnMut(Record<'_>),
    ) -> Result<(usize, usize), LogError> {
        let damaged = |offset: i64| fatal(format!("{}: damaged at partition {partition} offset {offset}", topic.name));
        let (mut records, mut bytes) = (0, 0);
        while records < quota.records && bytes < quota.bytes && self.is_ready(end) {
            if self.batch.is_none() {
                // Retention may have passed by since the last look; the next poll says so.
                let Some(segment) = topic.segment_of(partition, self.next) else { break };
                self.batch = Some(open(&segment, partition, self.next)?.ok_or_else(|| damaged(self.next))?);
            }
            let Some(open) = &mut self.batch else { break };
            while self.next < open.end && records < quota.records && bytes < quota.bytes {
                let (framed, next) = framing::read_record(&open.batch, open.at).ok_or_else(|| damaged(self.next))?;
                bytes += framed.payload();
                records += 1;
                sink(Record {
                    partition,
                    offset: self.next,
                    timestamp_ms: open.timestamp_ms,
                    key: Some(framed.key),
                    value: Some(framed.value),
                    headers: framed.headers,
                });
                open.at = next;
                self.next += 1;
            }
            if self.next >= open.end {
                self.batch = None;
            }
        }
        Ok((records, bytes))
    }
}

/// The batch that holds `offset`, skipped forward to it; `None` if the store does not hold what it should.
fn open(segment: &Segment, partition: i32, offset: i64) -> Result<Option<Open>, LogError> {
    let unreadable = |err| fatal(format!("read partition {partition} at {offset}: {err}"));
    // Offsets are dense, so going on after a batch finds the next one by its very key.
    let key = batch_key(partition, offset);
    let (base, batch) = match segment.keyspace.get(key).map_err(unreadable)? {
        Some(batch) => (offset, batch),
        None => {
            let before = segment.keyspace.range(batch_key(partition, 0)..key).next_back();
            let Some(entry) = before else { return Ok(None) };
            let (key, batch) = entry.into_inner().map_err(unreadable)?;
            let Some(base) = offset_of(&key) else { return Ok(None) };
            (base, batch)
        }
    };
    let Some(head) = framing::read_head(&batch) else { return Ok(None) };
    let end = base + i64::from(head.records);
    if !(base..end).contains(&offset) {
        return Ok(None);
    }
    let mut at = BATCH_HEAD;
    for _ in base..offset {
        let Some((_, next)) = framing::read_record(&batch, at) else { return Ok(None) };
        at = next;
    }
    Ok(Some(Open { batch, at, end, timestamp_ms: head.timestamp_ms }))
}

impl Consumer for LocalConsumer {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError> {
        if !self.announced {
            self.announced = true;
            return Ok(Input::Assigned((0..self.topic.partitions as i32).collect()));
        }
        let deadline = Instant::now() + max_wait;
        loop {
            if let Some(partition) = self.out_of_range() {
                return Ok(Input::OutOfRange(partition));
            }
            let records = self.read(sink)?;
            if records > 0 {
                return Ok(Input::Records(records));
            }
            let (topic, cursors) = (&self.topic, &self.cursors);
            let ready = || cursors.iter().any(|(p, cursor)| topic.next(*p).is_some_and(|end| cursor.is_ready(end)));
            if !topic.wait(deadline, ready) {
                return Ok(Input::Idle);
            }
        }
    }

    fn assign(&mut self, from: &[Position]) -> Result<(), LogError> {
        if let Some(unknown) = from.iter().find(|position| self.topic.next(position.partition).is_none()) {
            return Err(fatal(format!("topic {} has no partition {}", self.topic.name, unknown.partition)));
        }
        self.cursors.extend(from.iter().map(|position| (position.partition, Cursor::at(*position))));
        Ok(())
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.cursors.retain(|partition, _| !partitions.contains(partition));
        Ok(())
    }

    fn seek(&mut self, to: Position) -> Result<(), LogError> {
        let cursor = self.cursor(to.partition)?;
        *cursor = Cursor { paused: cursor.paused, ..Cursor::at(to) };
        Ok(())
    }

    fn pause(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        partitions.iter().try_for_each(|partition| self.cursor(*partition).map(|cursor| cursor.paused = true))
    }

    fn resume(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        partitions.iter().try_for_each(|partition| self.cursor(*partition).map(|cursor| cursor.paused = false))
    }

    fn bounds(&mut self, partition: i32, _timeout: Duration) -> Result<Bounds, LogError> {
        let bounds = self.topic.first(partition).zip(self.topic.next(partition));
        let (first, next) =
            bounds.ok_or_else(|| fatal(format!("topic {} has no partition {partition}", self.topic.name)))?;
        Ok(Bounds { first, next })
    }

    fn end_offset(&self, partition: i32) -> Option<i64> {
        self.topic.next(partition)
    }

    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError> {
        lock(&self.topic.groups).commit(&self.group, self.topic.partitions, next);
        if self.shared.live_bytes.load(Ordering::Acquire) > self.shared.comfortable_bytes() {
            self.shared.wake_retention();
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

impl Drop for LocalConsumer {
    fn drop(&mut self) {
        lock(&self.topic.groups).connected.remove(&self.group);
    }
}

fn fatal(reason: String) -> LogError {
    LogError::Fatal { what: "read the local log", reason }
}
