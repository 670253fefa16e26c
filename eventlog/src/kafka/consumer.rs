//! Reads a topic of Kafka as a member of a group.

use super::rebalance::{self, Event, Rebalances};
use super::{advice, describe};
use crate::{Bounds, Consumer, Headers, Input, LogError, MAX_BYTES_PER_POLL, MAX_RECORDS_PER_POLL, Position, Record};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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

    /// A rebalance that has happened, as input.
    fn rebalanced(&mut self) -> Option<Input> {
        let waiting = if self.unanswered.is_none() { self.to_tell.pop_front() } else { None };
        let event = waiting.or_else(|| self.consumer.context().next_event())?;
        if let Some(overtaken) = self.unanswered.take() {
            return Some(self.overtake(overtaken, event));
        }
        Some(match event {
            Event::Assigned(partitions) => {
                self.unanswered = Some(Unanswered::Assigned(partitions.iter().copied().collect()));
                Input::Assigned(partitions)
            }
            Event::Revoked(partitions) => {
                let kept = partitions.iter().copied().collect();
                self.unanswered = Some(Unanswered::Revoked { all: partitions.clone(), kept });
                Input::Revoked(partitions)
            }
            Event::Lost(partitions) => {
                self.assigned.retain(|partition, _| !partitions.contains(partition));
                Input::Lost(partitions)
            }
        })
    }

    /// librdkafka waits for an answer, except when the topic has got more partitions or the session is lost: then it goes
    /// on without, as if the answer had been given. What was unanswered is made up for, and the caller told that it is
    /// void.
    fn overtake(&mut self, overtaken: Unanswered, by: Event) -> Input {
        let (void, next) = match (overtaken, by) {
            // The others own them by now.
            (Unanswered::Revoked { all, .. }, by) => {
                if let Err(err) = rebalance::give(&self.consumer, &self.partitions(&all)) {
                    debug!(%err, "overtaken revocation not answered");
                }
                self.assigned.retain(|partition, _| !all.contains(partition));
                (all, vec![by])
            }
            // The group takes them for ours, so they have to be taken after all.
            (Unanswered::Assigned(before), Event::Assigned(more)) => {
                let all = before.iter().copied().chain(more).collect();
                (Vec::from_iter(before), vec![Event::Assigned(all)])
            }
            (Unanswered::Assigned(before), Event::Revoked(gone)) => {
                let (gone, still): (BTreeSet<i32>, Vec<i32>) =
                    (gone.iter().copied().collect(), before.iter().copied().filter(|p| !gone.contains(p)).collect());
                let held: Vec<i32> = gone.difference(&before).copied().collect();
                (Vec::from_iter(before), vec![Event::Revoked(held), Event::Assigned(still)])
            }
            (Unanswered::Assigned(before), Event::Lost(gone)) => {
                let held = gone.into_iter().filter(|partition| !before.contains(partition)).collect();
                (Vec::from_iter(before), vec![Event::Lost(held)])
            }
        };
        for event in next.into_iter().rev() {
            match &event {
                Event::Revoked(none) if none.is_empty() => {
                    if let Err(err) = rebalance::give(&self.consumer, &self.partitions(&[])) {
                        debug!(%err, "revocation of what was never taken not answered");
                    }
                }
                Event::Assigned(none) | Event::Lost(none) if none.is_empty() => {}
                _ => self.to_tell.push_front(event),
            }
        }
        Input::Lost(void)
    }

    /// Finds a partition whose position the brokers do not hold.
    fn out_of_range(&mut self) -> Result<Option<i32>, LogError> {
        if !self.position_lost || self.unanswered.is_some() {
            return Ok(None);
        }
        let running: Vec<(i32, i64)> = self
            .assigned
            .iter()
            .filter(|(_, reading)| !reading.stopped)
            .map(|(p, reading)| (*p, reading.next))
            .collect();
        for (partition, next) in &running {
            let bounds = self.bounds(*partition, ANSWERS_WITHIN)?;
            if !(bounds.first..=bounds.next).contains(next) {
                if let Some(reading) = self.assigned.get_mut(partition) {
                    reading.stopped = true;
                }
                return Ok(Some(*partition));
            }
        }
        // All were told, or the log has grown up to the position meanwhile: then fetching has to be started again.
        self.position_lost = false;
        for (partition, _) in running {
            self.restart(partition)?;
        }
        Ok(None)
    }

    /// Starts fetching anew at the position that is noted.
    fn restart(&mut self, partition: i32) -> Result<(), LogError> {
        const SEEK: &str = "seek";
        let Some(reading) = self.assigned.get_mut(&partition) else { return Ok(()) };
        (reading.stopped, reading.moved) = (false, false);
        let cooperative =
            matches!(self.consumer.rebalance_protocol(), rdkafka::consumer::RebalanceProtocol::Cooperative);
        let again: Vec<Position> = self.positions().filter(|p| !cooperative || p.partition == partition).collect();
        let list = self.list(&again)?;
        if cooperative {
            self.consumer.incremental_unassign(&list).map_err(|err| describe(SEEK, &err))?;
        }
        rebalance::take(&self.consumer, &list).map_err(|err| describe(SEEK, &err))?;
        let paused = self.assigned.iter().filter(|(_, reading)| reading.paused).map(|(partition, _)| *partition);
        let paused: Vec<i32> = paused.filter(|p| !cooperative || *p == partition).collect();
        if paused.is_empty() { Ok(()) } else { self.pause(&paused) }
    }

    fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.assigned.iter().map(|(partition, reading)| Position { partition: *partition, offset: reading.next })
    }

    /// Tells librdkafka of the seeks that had to wait for a rebalance.
    fn catch_up_seeks(&mut self) -> Result<(), LogError> {
        let moved: Vec<i32> =
            self.assigned.iter().filter(|(_, reading)| reading.moved).map(|(partition, _)| *partition).collect();
        moved.into_iter().try_for_each(|partition| self.restart(partition))
    }

    /// Where librdkafka reads on. Behind the last record that was handed out it may have skipped the end of a
    /// transaction, which takes an offset of the partition and is no record.
    fn passed(&self, partition: i32) -> Option<i64> {
        let position = self.consumer.position().ok()?.find_partition(&self.topic, partition)?.offset();
        match position {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// The end of a partition, where there is nothing but ends of transactions between the last record and it.
    fn without_markers(&self, partition: i32, end: i64) -> i64 {
        match self.assigned.get(&partition) {
            Some(reading) if reading.next < end && self.passed(partition).is_some_and(|passed| passed >= end) => {
                reading.next
            }
            _ => end,
        }
    }

    /// What lag tools are told: they would take the end of a transaction for a record that is never read.
    fn with_markers(&self, position: &Position) -> i64 {
        match self.assigned.get(&position.partition) {
            Some(reading) if reading.next == position.offset => {
                self.passed(position.partition).unwrap_or_default().max(position.offset)
            }
            _ => position.offset,
        }
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

    /// What an error of librdkafka means for the caller; most of them it repairs itself.
    fn note(&mut self, err: &KafkaError) -> Result<(), LogError> {
        if matches!(err, KafkaError::MessageConsumptionFatal(_)) {
            return Err(describe(READ, err));
        }
        match err.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.position_lost = true;
                Ok(())
            }
            Some(code) if is_unknown(code) => Err(self.unknown(READ, err)),
            Some(RDKafkaErrorCode::AllBrokersDown) => Err(describe(READ, err)),
            Some(code) if advice(code).is_some() => Err(describe(READ, err)),
            _ => {
                debug!(%err, "kafka consumer error");
                Ok(())
            }
        }
    }

    /// A broker does not know the topic: it may be learning of it, or the topic is gone for good. All topics are asked for,
    /// because asking for one by name may make some brokers create it.
    fn unknown(&self, what: &'static str, err: &KafkaError) -> LogError {
        let metadata = match self.consumer.fetch_metadata(None, ANSWERS_WITHIN) {
            Ok(metadata) => metadata,
            Err(err) => return describe("look up a topic", &err),
        };
        match metadata.topics().iter().any(|topic| topic.name() == self.topic && topic.error().is_none()) {
            true => describe(what, err),
            false => fatal(format!(
                "topic {} does not exist any more: somebody deleted it, and offsets of a new one start over; give the \
                 dataset another name, or choose another --lake (the table keeps what it has)",
                self.topic
            )),
        }
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
                    sink(Record {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key(),
                        value: message.payload(),
                        headers: Headers::from_kafka(message.headers()),
                    });
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

impl Drop for KafkaConsumer {
    /// Leaving waits for librdkafka, which waits for the answer to a rebalance: give it one.
    fn drop(&mut self) {
        self.consumer.context().close();
        let answered = match self.unanswered.take() {
            Some(Unanswered::Assigned(partitions)) => {
                let partitions: Vec<i32> = partitions.into_iter().collect();
                let list = self.partitions(&partitions);
                rebalance::take(&self.consumer, &list)
            }
            Some(Unanswered::Revoked { all, .. }) => rebalance::give(&self.consumer, &self.partitions(&all)),
            None => Ok(()),
        };
        // Events that the caller was not told of yet wait for an answer as well.
        while let Some(event) = self.to_tell.pop_front().or_else(|| self.consumer.context().next_event()) {
            let _ = match event {
                Event::Assigned(partitions) => rebalance::take(&self.consumer, &self.partitions(&partitions)),
                Event::Revoked(partitions) => rebalance::give(&self.consumer, &self.partitions(&partitions)),
                Event::Lost(_) => Ok(()),
            };
        }
        if let Err(err) = answered {
            debug!(%err, "rebalance not answered on leaving");
        }
    }
}

const READ: &str = "read a topic";

fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(code, E::UnknownTopicOrPartition | E::UnknownTopic | E::UnknownPartition)
}

fn fatal(reason: String) -> LogError {
    LogError::Fatal { what: READ, reason }
}
