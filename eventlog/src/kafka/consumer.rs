//! Reads a topic of Kafka as a member of a group.
//!
//! What librdkafka has to say besides records comes out of `poll` as well: rebalances, which wait for the caller's answer
//! ([`answers`]), positions that the log does not hold ([`positions`]), and errors ([`errors`]). What is read next of each
//! partition is noted here too, for fetching has to be started anew from it now and then.

mod answers;
mod positions;
mod errors;

use super::describe;
use super::rebalance::{self, Event, Rebalances};
use crate::{Bounds, Consumer, Input, LogError, MAX_BYTES_PER_POLL, MAX_RECORDS_PER_POLL, Position, Record};
use errors::{fatal, is_unknown};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use tracing::debug;

/// How long a seek, or the look for a lost position, may wait for librdkafka or a broker.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct KafkaConsumer {
    consumer: BaseConsumer<Rebalances>,
    topic: String,
    /// The partitions that are ours, and what is read next of each.
    assigned: BTreeMap<i32, Reading>,
    /// The rebalance that waits for the caller's answer.
    unanswered: Option<Unanswered>,
    /// What to tell the caller next, once that has its answer.
    to_tell: VecDeque<Event>,
    /// librdkafka said that some position is out of range, but not of which partition.
    position_lost: bool,
    /// Partitions that librdkafka holds paused; it does so even after they were given up.
    held: BTreeSet<i32>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    next: i64,
    paused: bool,
    /// librdkafka has stopped fetching here: the position was not in the log.
    stopped: bool,
    /// Sought while a rebalance was unanswered; librdkafka is told after the answer.
    moved: bool,
}

enum Unanswered {
    Assigned(BTreeSet<i32>),
    Revoked { all: Vec<i32>, kept: BTreeSet<i32> },
}

impl KafkaConsumer {
    pub(super) fn join(config: &ClientConfig, topic: &str) -> Result<KafkaConsumer, LogError> {
        const JOIN: &str = "join a consumer group";
        let consumer: BaseConsumer<Rebalances> =
            config.create_with_context(Rebalances::new(topic)).map_err(|err| describe(JOIN, &err))?;
        consumer.subscribe(&[topic]).map_err(|err| describe(JOIN, &err))?;
        Ok(KafkaConsumer {
            consumer,
            topic: topic.to_owned(),
            assigned: BTreeMap::new(),
            unanswered: None,
            to_tell: VecDeque::new(),
            position_lost: false,
            held: BTreeSet::new(),
        })
    }

    fn list(&self, positions: &[Position]) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for position in positions {
            list.add_partition_offset(&self.topic, position.partition, Offset::Offset(position.offset))
                .map_err(|err| fatal(format!("partition {} offset {}: {err}", position.partition, position.offset)))?;
        }
        Ok(list)
    }

    fn unpause(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.held.retain(|partition| !partitions.contains(partition));
        self.consumer.resume(&self.partitions(partitions)).map_err(|err| describe("resume partitions", &err))
    }

    fn partitions(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    fn reading(&mut self, partition: i32) -> Result<&mut Reading, LogError> {
        let topic = &self.topic;
        self.assigned
            .get_mut(&partition)
            .ok_or_else(|| fatal(format!("partition {partition} of {topic} is not assigned")))
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError> {
        let deadline = Instant::now() + max_wait;
        let (mut records, mut bytes) = (0, 0);
        loop {
            if records > 0 {
                let full = records >= MAX_RECORDS_PER_POLL || bytes >= MAX_BYTES_PER_POLL;
                if full || self.consumer.context().has_events() {
                    return Ok(Input::Records(records));
                }
            } else if let Some(input) = self.rebalanced() {
                return Ok(input);
            } else if let Some(partition) = self.out_of_range()? {
                return Ok(Input::OutOfRange(partition));
            }
            let left = if records > 0 { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    let Some(reading) = self.assigned.get_mut(&message.partition()) else { continue };
                    reading.next = message.offset() + 1;
                    records += 1;
                    bytes += message.key_len() + message.payload_len();
                    sink(Record::of_message(&message));
                }
                Some(Err(err)) => self.note(&err)?,
                None if records > 0 => return Ok(Input::Records(records)),
                None => {
                    let quiet = !self.consumer.context().has_events() && !self.position_lost;
                    if quiet && Instant::now() >= deadline {
                        return Ok(Input::Idle);
                    }
                }
            }
        }
    }

    fn assign(&mut self, from: &[Position]) -> Result<(), LogError> {
        let Some(Unanswered::Assigned(wanted)) = &self.unanswered else {
            return Err(fatal("assign without an assignment to answer".into()));
        };
        let given: BTreeSet<i32> = from.iter().map(|position| position.partition).collect();
        if given != *wanted {
            return Err(fatal(format!("assigned {wanted:?}, answered with {given:?}")));
        }
        let held: Vec<i32> = self.held.intersection(&given).copied().collect();
        if !held.is_empty() {
            self.unpause(&held)?;
        }
        rebalance::take(&self.consumer, &self.list(from)?).map_err(|err| describe("assign partitions", &err))?;
        self.unanswered = None;
        for position in from {
            let reading = Reading { next: position.offset, paused: false, stopped: false, moved: false };
            self.assigned.insert(position.partition, reading);
        }
        self.catch_up_seeks()
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        let Some(Unanswered::Revoked { all, kept }) = &mut self.unanswered else {
            return Err(fatal("release without a revocation to answer".into()));
        };
        kept.retain(|partition| !partitions.contains(partition));
        if !kept.is_empty() {
            return Ok(());
        }
        // librdkafka takes one answer for the whole revocation.
        let all = std::mem::take(all);
        self.unanswered = None;
        self.assigned.retain(|partition, _| !all.contains(partition));
        let list = self.partitions(&all);
        rebalance::give(&self.consumer, &list).map_err(|err| describe("release partitions", &err))?;
        self.catch_up_seeks()
    }

    fn seek(&mut self, to: Position) -> Result<(), LogError> {
        let waiting = self.unanswered.is_some();
        let reading = self.reading(to.partition)?;
        reading.next = to.offset;
        if waiting {
            reading.moved = true;
            return Ok(());
        }
        if !reading.stopped {
            let offset = Offset::Offset(to.offset);
            match self.consumer.seek(&self.topic, to.partition, offset, ANSWERS_WITHIN) {
                Ok(()) => return Ok(()),
                // Fetching has not begun yet, or has stopped.
                Err(err) => debug!(%err, partition = to.partition, "seek by assigning anew"),
            }
        }
        self.restart(to.partition)
    }

    fn pause(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        partitions.iter().try_for_each(|partition| self.reading(*partition).map(|reading| reading.paused = true))?;
        self.held.extend(partitions);
        self.consumer.pause(&self.partitions(partitions)).map_err(|err| describe("pause partitions", &err))
    }

    fn resume(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        partitions.iter().try_for_each(|partition| self.reading(*partition).map(|reading| reading.paused = false))?;
        self.unpause(partitions)
    }

    fn bounds(&mut self, partition: i32, timeout: Duration) -> Result<Bounds, LogError> {
        const BOUNDS: &str = "ask for the bounds of a partition";
        match self.consumer.fetch_watermarks(&self.topic, partition, timeout) {
            Ok((first, next)) => Ok(Bounds { first, next: self.without_markers(partition, next) }),
            Err(err) if err.rdkafka_error_code().is_some_and(is_unknown) => Err(self.unknown(BOUNDS, &err)),
            Err(err) => Err(describe(BOUNDS, &err)),
        }
    }

    fn end_offset(&self, partition: i32) -> Option<i64> {
        let read = self.assigned.get(&partition).map(|reading| reading.next);
        let end = self.consumer.context().end(partition)?;
        Some(self.without_markers(partition, read.map_or(end, |read| end.max(read))))
    }

    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError> {
        if next.is_empty() {
            return Ok(());
        }
        let skipped = |position: &Position| Position { offset: self.with_markers(position), ..*position };
        let list = self.list(&next.iter().map(skipped).collect::<Vec<_>>())?;
        if let Err(err) = self.consumer.commit(&list, CommitMode::Async) {
            debug!(%err, "group offsets not committed");
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}
