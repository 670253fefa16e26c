//! Kafka as other programs see it: producers that know nothing of Lakehose, and lag tools.

use super::{PATIENCE, wait_for};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// A view on one topic, and on the consumer group of its dataset.
pub struct Topic {
    name: String,
    brokers: String,
    consumer: BaseConsumer,
}

impl Topic {
    pub fn new(brokers: &str, name: &str) -> Topic {
        let mut config = client(brokers);
        config.set("group.id", format!("lakehose-{name}"));
        Topic { name: name.to_owned(), brokers: brokers.to_owned(), consumer: config.create().unwrap() }
    }

    /// The next offset of each partition.
    pub fn ends(&self) -> Vec<i64> {
        let metadata = self.consumer.fetch_metadata(Some(&self.name), ANSWERS_WITHIN).unwrap();
        let partitions = metadata.topics()[0].partitions().len() as i32;
        // A partition that was just added may have no leader yet.
        let ask = |partition| self.consumer.fetch_watermarks(&self.name, partition, ANSWERS_WITHIN).ok();
        let end = |partition| wait_for("the bounds of a partition", PATIENCE, || ask(partition)).1;
        (0..partitions).map(end).collect()
    }

    /// The offsets of the consumer group; 0 where it has none.
    pub fn committed(&self) -> Vec<i64> {
        let mut list = TopicPartitionList::new();
        let partitions = self.ends().len() as i32;
        list.add_partition_range(&self.name, 0, partitions - 1);
        let committed = self.consumer.committed_offsets(list, ANSWERS_WITHIN).unwrap();
        let offset = |partition| match committed.find_partition(&self.name, partition).unwrap().offset() {
            Offset::Offset(offset) => offset,
            _ => 0,
        };
        (0..partitions).map(offset).collect()
    }

    /// Waits until the group has committed all there is.
    #[track_caller]
    pub fn wait_until_no_lag(&self) {
        wait_for(&format!("no lag in {}", self.name), PATIENCE, || (self.committed() == self.ends()).then_some(()));
    }

    /// Removes it, where it would take much room on a broker that others use too.
    pub fn delete(&self) {
        let admin = self.admin();
        super::http::RUNTIME.block_on(admin.delete_topics(&[&self.name], &AdminOptions::new())).unwrap();
    }

    /// Gives it more partitions: `count` in all.
    pub fn widen(&self, count: usize) -> Result<(), String> {
        let (admin, wanted) = (self.admin(), [NewPartitions::new(&self.name, count)]);
        let options = AdminOptions::new().request_timeout(Some(ANSWERS_WITHIN));
        let widened = super::http::RUNTIME.block_on(admin.create_partitions(&wanted, &options));
        let result = widened.map_err(|err| err.to_string())?.remove(0);
        result.map(drop).map_err(|(name, code)| format!("{name}: {code}"))
    }

    /// Deletes the records before `first`, as retention does.
    pub fn delete_before(&self, partition: i32, first: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(first)).unwrap();
        super::http::RUNTIME.block_on(self.admin().delete_records(&list, &AdminOptions::new())).unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        client(&self.brokers).create().unwrap()
    }
}

/// Produces many records quickly, by key, and remembers none of them.
pub struct Filler {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl Filler {
    pub fn new(brokers: &str, topic: &str) -> Filler {
        let mut config = client(brokers);
        config.set("enable.idempotence", "true").set("linger.ms", "20").set("message.max.bytes", "2000000");
        config.set("compression.type", "lz4").set("partitioner", "murmur2_random");
        Filler { producer: config.create().unwrap(), topic: topic.to_owned() }
    }

    /// Waits while the queue to the broker is full.
    pub fn send(&self, key: &str, value: &str) {
        let mut record = BaseRecord::to(&self.topic).key(key).payload(value);
        while let Err((err, rejected)) = self.producer.send(record) {
            assert_eq!(err.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{err}");
            std::thread::sleep(Duration::from_millis(5));
            record = rejected;
        }
    }

    /// Waits until the broker has all.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }
}

/// What every client is told.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}
