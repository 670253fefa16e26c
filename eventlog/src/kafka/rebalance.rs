//! Turns librdkafka's rebalance callback into data, and defers its effect until the caller answers.
//!
//! librdkafka waits for the answer (`assign`, or its incremental form) as long as it takes, within
//! `max.poll.interval.ms`, and hands out no records meanwhile; so the callback only notes what happened. Three cases are
//! answered at once: partitions that are already lost, and steps of a rebalance that move no partition, where there is
//! nothing to wait for; and a consumer that is closing, which would wait for an answer that never comes.

use super::context;
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Lost(Vec<i32>),
}

/// The context of a consumer.
pub(super) struct Rebalances {
    topic: String,
    events: Mutex<VecDeque<Event>>,
    closing: AtomicBool,
    /// Next offset to be written of each partition, from librdkafka's statistics.
    ends: Mutex<BTreeMap<i32, i64>>,
}

impl Rebalances {
    pub(super) fn new(topic: &str) -> Rebalances {
        let (events, ends) = (Mutex::default(), Mutex::default());
        Rebalances { topic: topic.to_owned(), events, closing: AtomicBool::new(false), ends }
    }

    pub(super) fn next_event(&self) -> Option<Event> {
        lock(&self.events).pop_front()
    }

    pub(super) fn has_events(&self) -> bool {
        !lock(&self.events).is_empty()
    }

    /// From now on rebalances are answered at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn end(&self, partition: i32) -> Option<i64> {
        lock(&self.ends).get(&partition).copied()
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka consumer error");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let mut ends = lock(&self.ends);
        for (partition, seen) in &topic.partitions {
            // Partition -1 and negative offsets stand for "not known".
            if let (Ok(partition @ 0..), 0..) = (partition.parse::<i32>(), seen.hi_offset) {
                ends.insert(partition, seen.hi_offset);
            }
        }
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let numbers: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let lost = !assigned && consumer.assignment_lost();
        debug!(?numbers, assigned, lost, "rebalance");
        if self.closing.load(Ordering::Acquire) || lost || numbers.is_empty() {
            let answered = if assigned { take(consumer, partitions) } else { give(consumer, partitions) };
            if let Err(err) = answered {
                warn!(%err, "rebalance not answered");
            }
        }
        if numbers.is_empty() {
            return;
        }
        let event = match (assigned, lost) {
            (true, _) => Event::Assigned(numbers),
            (false, true) => Event::Lost(numbers),
            (false, false) => Event::Revoked(numbers),
        };
        lock(&self.events).push_back(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(err) = result {
            // A hint: the next one repairs it.
            debug!(%err, "group offsets not committed");
        }
    }
}

/// Accepts an assignment, in the way of the group's protocol.
pub(super) fn take(consumer: &BaseConsumer<Rebalances>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(partitions),
    }
}

/// Gives partitions up, in the way of the group's protocol (an eager one always gives up all). Those that were never
/// taken are left out: librdkafka would refuse the whole answer, and wait for another for ever.
pub(super) fn give(consumer: &BaseConsumer<Rebalances>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    if !matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
        return consumer.unassign();
    }
    let taken = consumer.assignment()?;
    let mut given = TopicPartitionList::new();
    for element in partitions.elements() {
        if taken.find_partition(element.topic(), element.partition()).is_some() {
            given.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&given)
}

/// The little that is read of librdkafka's statistics.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    hi_offset: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
