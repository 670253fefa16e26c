//! Decides when an append is durable.
//!
//! One thread takes the appends that are waiting, writes them as one group with one fsync, and only then answers them
//! all (invariant I1). While the disk is busy with a group the next one gathers, so the group grows with the load and
//! nobody waits for a timer.
//!
//! After an I/O error nothing is known about the disk: the group is answered as unknown, and every later append is
//! refused until the process starts again and reads what really is there.

use super::framing::{self, BatchHead};
use super::store::batch_key;
use super::topic::{Segment, Topic};
use super::{Shared, now_ms};
use crate::{AppendError, Position};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::error;

/// A group takes no further append at this size.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// A stored value takes no further records at this size, so that a reader's step is small.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

pub(super) enum Command {
    Append(Append),
    /// Begin a new segment, so that retention can delete the one that is written to.
    Roll(Arc<Topic>),
    Stop,
}

/// The records of one append call, framed, by partition.
pub(super) struct Append {
    pub(super) topic: Arc<Topic>,
    pub(super) parts: Vec<Part>,
    /// Room in the queue, given back once the append is answered.
    pub(super) room: OwnedSemaphorePermit,
    /// First offset of each part.
    pub(super) answer: oneshot::Sender<Result<Vec<i64>, AppendError>>,
}

pub(super) struct Part {
    pub(super) partition: i32,
    pub(super) records: u32,
    pub(super) frames: Vec<u8>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    /// What is being gathered, by topic and partition; kept for its buffers.
    building: BTreeMap<(usize, i32), Building>,
    /// Bytes written to each topic since its memtable was last turned into a table.
    unflushed: BTreeMap<usize, u64>,
}

/// The batch that is being built for one partition.
#[derive(Default)]
struct Building {
    first: i64,
    records: u32,
    batch: Vec<u8>,
}

/// What a group has become.
struct Committed {
    /// The first offset of each part of each append.
    answers: Vec<Vec<i64>>,
    /// Bytes by topic.
    written: BTreeMap<usize, u64>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: UnboundedReceiver<Command>) -> Writer {
        Writer { shared, commands, building: BTreeMap::new(), unflushed: BTreeMap::new() }
    }

    pub(super) fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            let Some(first) = self.commands.blocking_recv() else { break };
            let mut group = Vec::new();
            let mut rolls = Vec::new();
            let mut bytes = 0;
            let mut command = Some(first);
            while let Some(next) = command {
                match next {
                    Command::Append(append) => {
                        bytes += append.parts.iter().map(|part| part.frames.len()).sum::<usize>();
                        group.push(append);
                    }
                    Command::Roll(topic) => rolls.push(topic),
                    Command::Stop => stopping = true,
                }
                let full = stopping || bytes >= MAX_GROUP_BYTES;
                command = if full { None } else { self.commands.try_recv().ok() };
            }
            self.write(group);
            rolls.into_iter().for_each(|topic| self.roll(&topic));
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Append(append) = command {
                let _ = append.answer.send(Err(AppendError::Unavailable("the log is closed".into())));
            }
        }
    }

    /// Writes a group with one fsync and answers it.
    fn write(&mut self, group: Vec<Append>) {
        if group.is_empty() {
            return;
        }
        if let Some(reason) = self.shared.broken.get() {
            for append in group {
                let _ = append.answer.send(Err(AppendError::Unavailable(reason.clone())));
            }
            return;
        }
        let started = Instant::now();
        let topics: BTreeMap<usize, Arc<Topic>> =
            group.iter().map(|append| (append.topic.id, Arc::clone(&append.topic))).collect();
        let Committed { answers, written } = match self.commit(&group, &topics) {
            Ok(done) => done,
            Err(err) => {
                error!(%err, "the disk failed; the log takes no more records until it is opened again");
                self.shared.fail(format!("the disk failed: {err}"));
                let unknown = AppendError::Unknown(started.elapsed());
                group.into_iter().for_each(|append| drop(append.answer.send(Err(unknown.clone()))));
                return;
            }
        };
        for (id, bytes) in written {
            *self.unflushed.entry(id).or_default() += bytes;
            self.shared.live_bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        for topic in topics.values() {
            topic.wake();
        }
        for (append, bases) in group.into_iter().zip(answers) {
            // Before the answer: the bytes count as stored now, and must not count as waiting too when the next append asks.
            drop(append.room);
            let _ = append.answer.send(Ok(bases));
        }
        self.tidy(topics);
    }

    /// Builds one batch of the whole group, commits it, and makes it visible.
    fn commit(&mut self, group: &[Append], topics: &BTreeMap<usize, Arc<Topic>>) -> fjall::Result<Committed> {
        let timestamp_ms = now_ms();
        let segments: BTreeMap<usize, Arc<Segment>> = topics.iter().map(|(id, topic)| (*id, topic.active())).collect();
        let mut batch = self.shared.store.batch();
        let mut written: BTreeMap<usize, u64> = BTreeMap::new();
        let mut store = |id: usize, partition: i32, building: &mut Building| {
            framing::finish_batch(&mut building.batch, BatchHead { records: building.records, timestamp_ms });
            let key = batch_key(partition, building.first);
            batch.insert(&segments[&id].keyspace, key, building.batch.as_slice());
            *written.entry(id).or_default() += building.batch.len() as u64;
            building.first += i64::from(building.records);
            building.records = 0;
            framing::start_batch(&mut building.batch);
        };

        let mut answers = Vec::with_capacity(group.len());
        for append in group {
            let mut bases = Vec::with_capacity(append.parts.len());
            for part in &append.parts {
                let building = self.building.entry((append.topic.id, part.partition)).or_default();
                if building.batch.is_empty() {
                    building.first = append.topic.next(part.partition).unwrap_or(0);
                    framing::start_batch(&mut building.batch);
                }
                if building.records > 0 && building.batch.len() + part.frames.len() > MAX_BATCH_BYTES {
                    store(append.topic.id, part.partition, building);
                }
                bases.push(building.first + i64::from(building.records));
                building.batch.extend_from_slice(&part.frames);
                building.records += part.records;
            }
            answers.push(bases);
        }
        for ((id, partition), building) in &mut self.building {
            if building.records > 0 {
                store(*id, *partition, building);
            }
        }

        let committed = batch.commit();
        if committed.is_ok() {
            for (id, topic) in topics {
                let parts = self.building.range((*id, 0)..=(*id, i32::MAX));
                let moved = parts.filter(|(_, building)| !building.batch.is_empty());
                topic.publish(moved.map(|((_, p), building)| Position { partition: *p, offset: building.first }));
            }
        }
        for building in self.building.values_mut().filter(|building| !building.batch.is_empty()) {
            building.batch.clear();
            if building.batch.capacity() > 2 * MAX_BATCH_BYTES {
                building.batch = Vec::new();
            }
        }
        committed?;
        for (id, bytes) in &written {
            segments[id].bytes.fetch_add(*bytes, Ordering::AcqRel);
            segments[id].newest_ms.store(timestamp_ms, Ordering::Release);
        }
        Ok(Committed { answers, written })
    }

    /// Ends segments that are large enough, and turns memtables into tables before they take too much memory.
    fn tidy(&mut self, topics: BTreeMap<usize, Arc<Topic>>) {
        let limit = self.shared.options.segment_size();
        for topic in topics.values() {
            if topic.active().bytes.load(Ordering::Acquire) >= limit {
                self.roll(topic);
            }
        }
        if self.unflushed.values().sum::<u64>() < self.shared.options.memtable_share() {
            return;
        }
        let Some(largest) = self.unflushed.iter().max_by_key(|(_, bytes)| **bytes).map(|(id, _)| *id) else { return };
        self.unflushed.remove(&largest);
        let topic = topics.get(&largest).cloned().or_else(|| self.shared.topic_by_id(largest));
        if let Some(topic) = topic {
            self.flush(&topic.active());
        }
    }

    /// Begins a new segment of `topic`, unless the present one is empty.
    fn roll(&mut self, topic: &Topic) {
        let old = topic.active();
        if old.held().bytes == 0 || self.shared.broken.get().is_some() {
            return;
        }
        let (number, start) = (old.number + 1, topic.all_next());
        match self.shared.store.next_segment(&topic.name, number, start.clone(), &old.sealed()) {
            Ok(keyspace) => {
                let empty = super::store::Sealed { bytes: 0, newest_ms: 0 };
                topic.push(Segment::new(number, start, keyspace, empty));
                self.unflushed.remove(&topic.id);
                self.flush(&old);
            }
            Err(err) => {
                error!(topic = topic.name, %err, "no new segment; the log takes no more records");
                self.shared.fail(format!("begin a segment: {err}"));
            }
        }
    }

    /// Asks the store to write the memtable of a segment to a table, in the background.
    fn flush(&self, segment: &Segment) {
        if let Err(err) = segment.keyspace.rotate_memtable() {
            error!(%err, "the store does not flush; the log takes no more records");
            self.shared.fail(format!("flush: {err}"));
        }
    }
}
