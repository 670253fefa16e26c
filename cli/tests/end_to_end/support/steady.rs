//! A producer at a steady rate, straight to Kafka: what a test says of speed must not depend on a gateway.

use super::kafka::client;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Events that are produced until it is told to stop: numbered from 0, of a thousand devices in turn.
pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Produced>,
}

/// What was produced.
#[derive(Debug, Clone, Copy)]
pub struct Produced {
    pub events: u64,
    pub per_second: f64,
}

#[derive(Default)]
struct Landed(AtomicU64);

impl ClientContext for Landed {}

impl ProducerContext for Landed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((err, _)) = result {
            panic!("a record did not land: {err}");
        }
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Between two bursts.
const BURST_EVERY: Duration = Duration::from_millis(10);

impl Steady {
    pub fn start(brokers: &str, topic: &str, per_second: u64) -> Steady {
        let mut config = client(brokers);
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("compression.type", "lz4");
        config.set("queue.buffering.max.messages", "1000000");
        let producer = config.create_with_context(Landed::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (until, topic) = (Arc::clone(&stop), topic.to_owned());
        Steady { stop, thread: std::thread::spawn(move || produce(&producer, &topic, per_second, &until)) }
    }

    pub fn stop(self) -> Produced {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every record landed")
    }
}

fn produce(producer: &ThreadedProducer<Landed>, topic: &str, per_second: u64, stop: &AtomicBool) -> Produced {
    let (started, mut events) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * per_second as f64) as u64;
        while events < due {
            send(producer, topic, events);
            events += 1;
        }
        std::thread::sleep(BURST_EVERY);
    }
    let per_second = events as f64 / started.elapsed().as_secs_f64();
    producer.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(producer.context().0.load(Ordering::Relaxed), events);
    Produced { events, per_second }
}

fn send(producer: &ThreadedProducer<Landed>, topic: &str, number: u64) {
    let device = format!("device-{:03}", number % 1_000);
    let value = format!(
        r#"{{"id":"{number}","device_id":"{device}","type":"reading","data":{{"seq":{number},"temp":{},"os":{{"fw":"1.{}"}},"note":"as long as what devices usually post, more or less"}}}}"#,
        number as f64 / 4.0,
        number % 5
    );
    loop {
        match producer.send(BaseRecord::to(topic).key(&device).payload(&value)) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => std::thread::sleep(BURST_EVERY),
            Err((err, _)) => panic!("{err}"),
        }
    }
}
