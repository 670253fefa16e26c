//! A producer that knows Kafka and nothing of Lakehose.

use super::PATIENCE;
use super::kafka::client;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A record as it was produced.
#[derive(Debug, Clone, Default)]
pub struct Produced {
    /// What the test calls it.
    pub name: &'static str,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Option<Vec<u8>>)>,
}

/// Where records landed: by partition and offset.
pub type Landed = BTreeMap<(i32, i64), Produced>;

/// Produces to one topic.
pub struct Foreign {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
}

#[derive(Default)]
struct Deliveries {
    landed: Arc<Mutex<Landed>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Produced>;

    fn delivery(&self, result: &DeliveryResult<'_>, produced: Box<Produced>) {
        let message = match result {
            Ok(message) => message,
            // What is let go of because a test has failed already is not its cause, and would end all other tests, too.
            Err(_) if std::thread::panicking() => return,
            Err((err, _)) => panic!("{}: {err}", produced.name),
        };
        self.landed.lock().unwrap().insert((message.partition(), message.offset()), *produced);
    }
}

impl Foreign {
    pub fn new(brokers: &str, topic: &str) -> Foreign {
        let mut config = client(brokers);
        config.set("message.max.bytes", "9000000").set("enable.idempotence", "true").set("linger.ms", "5");
        config.set("queue.buffering.max.messages", "1000000").set("queue.buffering.max.kbytes", "1000000");
        Foreign { producer: config.create_with_context(Deliveries::default()).unwrap(), topic: topic.to_owned() }
    }

    pub fn send(&self, produced: Produced) {
        let Produced { key, value, headers, .. } = produced.clone();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }));
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(produced)).headers(headers);
        record.key = key.as_deref();
        record.payload = value.as_deref();
        self.producer.send(record).map_err(|(err, _)| err).unwrap();
    }

    /// Waits until the broker has all, and tells where.
    pub fn landed(&self) -> Landed {
        self.producer.flush(PATIENCE).unwrap();
        self.producer.context().landed.lock().unwrap().clone()
    }
}
