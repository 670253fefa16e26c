//! One writer alone, in Kafka: a transactional producer.
//!
//! Its transactional id is made of the topic. Opening one makes the brokers refuse whatever those before it still send,
//! also what is on its way in some buffer, and ends the transaction that they left open. No time-out and no lease could
//! promise that of a process which only hangs.

use super::producer::Limits;
use super::transaction::{Failure, Transactions};
use super::{KafkaOptions, describe};
use crate::{Bounds, Exclusive, LogError, OwnedRecord, Position, Record, WholeError};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::debug;

const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Reading gives up when nothing has come for so long.
const STALLED_AFTER: Duration = Duration::from_secs(60);

pub(super) struct KafkaExclusive {
    transactions: Transactions,
    /// Sees everything, where those of a reader end before the first transaction that is still open.
    watermarks: BaseConsumer,
    reader: ClientConfig,
    topic: String,
    partitions: i32,
}

impl KafkaExclusive {
    pub(super) fn open(options: &KafkaOptions, limits: Limits, topic: &str) -> Result<KafkaExclusive, LogError> {
        const OPEN: &str = "open a topic for one writer alone";
        let failed = |err: &KafkaError| describe(OPEN, err);
        let mut reader = options.consumer(&format!("lakehose-{topic}-exclusive"));
        reader.set("isolation.level", "read_committed");
        let watermarks = reader.clone().set("isolation.level", "read_uncommitted").create();
        let watermarks: BaseConsumer = watermarks.map_err(|err| failed(&err))?;
        let metadata = watermarks.fetch_metadata(Some(topic), ANSWERS_WITHIN).map_err(|err| failed(&err))?;
        let partitions = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions = partitions.map_or(0, |found| found.partitions().len() as i32);
        if partitions == 0 {
            return Err(LogError::Fatal { what: OPEN, reason: format!("topic {topic} does not exist") });
        }
        let config = options.transactions(&format!("lakehose-{topic}-exclusive"));
        let transactions = Transactions::begin(&config, limits).map_err(|err| failed(&err))?;
        Ok(KafkaExclusive { transactions, watermarks, reader, topic: topic.to_owned(), partitions })
    }
}

impl Exclusive for KafkaExclusive {
    fn bounds(&mut self) -> Result<Vec<Bounds>, LogError> {
        let bounds = |partition| {
            let found = self.watermarks.fetch_watermarks(&self.topic, partition, ANSWERS_WITHIN);
            let (first, next) = found.map_err(|err| describe("ask for the bounds of a partition", &err))?;
            Ok(Bounds { first, next })
        };
        (0..self.partitions).map(bounds).collect()
    }

    fn append(&mut self, records: Vec<OwnedRecord>) -> Result<Vec<Position>, WholeError> {
        let topic = self.topic.as_str();
        let appended = self.transactions.append(&[(topic, records.as_slice())]);
        match appended {
            Ok(positions) => Ok(positions.into_iter().flatten().collect()),
            Err(Failure::Superseded) => Err(WholeError::Superseded { topic: topic.to_owned() }),
            Err(Failure::Refused(why)) => Err(why.into()),
            Err(Failure::Unknown { reason }) => Err(WholeError::Unknown { reason }),
        }
    }

    fn read(&mut self, from: &[Position], sink: &mut dyn FnMut(Record<'_>)) -> Result<(), LogError> {
        const READ: &str = "read a topic";
        let failed = |err: KafkaError| describe(READ, &err);
        let bounds = self.bounds()?;
        let end = |partition: i32| bounds.get(partition as usize).map_or(0, |bounds| bounds.next);
        let unread = from.iter().filter(|position| position.offset < end(position.partition));
        let mut next: BTreeMap<i32, i64> = unread.map(|position| (position.partition, position.offset)).collect();
        if next.is_empty() {
            return Ok(());
        }
        let consumer: BaseConsumer = self.reader.create().map_err(failed)?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &next {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
        }
        consumer.assign(&list).map_err(failed)?;
        let mut moved = Instant::now();
        while next.iter().any(|(partition, next)| *next < end(*partition)) {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    moved = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    next.insert(partition, offset + 1);
                    if offset < end(partition) {
                        sink(Record::of_message(&message));
                    }
                    continue;
                }
                Some(Err(err)) => match err.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        return Err(LogError::Fatal { what: READ, reason: err.to_string() });
                    }
                    _ => debug!(%err, "kafka consumer error"),
                },
                None => {}
            }
            // The ends of transactions take offsets, too, and records that were given up are never handed out.
            for element in consumer.position().map_err(failed)?.elements() {
                if let (Offset::Offset(offset), Some(next)) = (element.offset(), next.get_mut(&element.partition()))
                    && offset > *next
                {
                    (*next, moved) = (offset, Instant::now());
                }
            }
            if moved.elapsed() > STALLED_AFTER {
                let reason = format!(
                    "{} cannot be read to its end: no broker answers, or another producer holds a transaction open",
                    self.topic
                );
                return Err(LogError::Unavailable { what: READ, reason });
            }
        }
        Ok(())
    }
}
