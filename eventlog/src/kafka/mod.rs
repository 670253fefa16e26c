//! Kafka through librdkafka.
//!
//! A producer and an administration client for the whole log, a client of its own for each consumer. Records are
//! borrowed from librdkafka's buffers while the caller's sink runs.

mod options;
mod context;
mod topics;
mod producer;
mod rebalance;
mod consumer;
mod tail;
mod transaction;
mod whole;
mod exclusive;

pub use options::KafkaOptions;

use crate::{AppendError, Consumer, Exclusive, Log, LogError, NewRecord, Position, SharedLog, Tail, WholeError};
use context::{Health, Quiet, Trouble};
use futures::FutureExt;
use futures::future::BoxFuture;
use producer::{Limits, Producer, Reports};
use rdkafka::admin::AdminClient;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;
use topics::{Topics, Wanted};
use tracing::{error, warn};
use whole::Whole;

/// How often a broker that is down is asked whether it is back.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long a delivery report may come after the delivery time-out, which librdkafka looks at once a second.
const LATE_REPORTS: Duration = Duration::from_secs(2);

/// A Kafka cluster.
pub struct KafkaLog {
    options: KafkaOptions,
    limits: Limits,
    producer: Arc<RwLock<Arc<Producer>>>,
    admin: AdminClient<Quiet>,
    topics: Topics,
    health: Arc<Health>,
    whole: Arc<Whole>,
    closed: AtomicBool,
}

impl KafkaLog {
    /// Connects, and fails within [`KafkaOptions::connect_timeout`] if no broker answers.
    pub async fn connect(options: KafkaOptions) -> Result<KafkaLog, LogError> {
        let connected = tokio::task::spawn_blocking(move || KafkaLog::connect_now(options)).await;
        connected.map_err(|err| LogError::Fatal { what: "connect to Kafka", reason: err.to_string() })?
    }

    fn connect_now(options: KafkaOptions) -> Result<KafkaLog, LogError> {
        const CONNECT: &str = "connect to Kafka";
        let health = Arc::new(Health::default());
        let limits = Limits { delivery_timeout: options.delivery_timeout, max_record_bytes: options.max_record_bytes };
        let producer = new_producer(&options, limits, &health).map_err(|err| describe(CONNECT, &err))?;
        // Any topic will do, even one that does not exist: what counts is that a broker answers.
        let answered = producer.client().fetch_metadata(None, options.patience()).map_err(|err| {
            let hint = health.check().err().map_or(String::new(), |trouble| format!(" ({})", trouble.reason()));
            let reason = format!("no answer from {}: {err}{hint}", options.brokers);
            match describe(CONNECT, &err) {
                LogError::Fatal { what, .. } => LogError::Fatal { what, reason },
                LogError::Unavailable { what, .. } => LogError::Unavailable { what, reason },
            }
        });
        match answered {
            Ok(_) => health.up(),
            Err(LogError::Unavailable { reason, .. }) if options.may_be_down => {
                warn!(reason, "no broker answers yet");
                health.down(reason);
            }
            Err(err) => return Err(err),
        }
        let mut admin = options.producer();
        // Only a producer may be idempotent, and an administration client is a producer that produces nothing.
        admin.set("enable.idempotence", "false");
        let admin = admin.create_with_context(Quiet).map_err(|err| describe(CONNECT, &err))?;
        let producer = Arc::new(RwLock::new(Arc::new(producer)));
        watch(&options, limits, &health, &producer)?;
        let whole = Arc::new(Whole::new(&options, limits));
        let (topics, closed) = (Topics::default(), AtomicBool::new(false));
        Ok(KafkaLog { options, limits, producer, admin, topics, health, whole, closed })
    }

    fn producer(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The producer, if an append to `topic` has a chance now.
    async fn producer_for(&self, topic: &str) -> Result<Arc<Producer>, AppendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Unavailable("the log is closed".into()));
        }
        self.health.check().map_err(|trouble| AppendError::Unavailable(trouble.reason().to_owned()))?;
        let producer = self.producer();
        match self.topics.partitions(&producer, topic).await {
            Ok(Some(_)) => Ok(producer),
            Ok(None) => Err(AppendError::Refused(format!("topic {topic} does not exist"))),
            Err(err) => Err(AppendError::Unavailable(err.to_string())),
        }
    }

    async fn append_all(&self, topic: &str, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
        let count = records.len();
        let refuse = |err: AppendError| vec![Err(err); count];
        if records.is_empty() {
            return Vec::new();
        }
        let producer = match self.producer_for(topic).await {
            Ok(producer) => producer,
            Err(err) => return refuse(err),
        };
        let answer = producer::send(&producer, topic, &records, self.limits);
        drop(records);
        // librdkafka may take longer than its own time-out to give a record up that was on its way when the broker
        // went; and it forgets records only when the client ends.
        let within = self.limits.delivery_timeout + LATE_REPORTS;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(fates)) => fates,
            Ok(Err(_)) | Err(_) => refuse(AppendError::Unknown(self.limits.delivery_timeout)),
        }
    }
}

impl Log for KafkaLog {
    fn ensure_topic<'a>(&'a self, topic: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        async move {
            let (replication, max_record_bytes) = (self.options.replication, self.options.max_record_bytes);
            let wanted = Wanted { name: topic, partitions, replication, max_record_bytes, retain: None };
            self.topics.ensure(&self.producer(), &self.admin, &wanted).await
        }
        .boxed()
    }

    fn append<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        self.append_all(topic, records).boxed()
    }

    fn append_whole<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Result<Vec<Position>, WholeError>> {
        async move {
            if records.is_empty() {
                return Ok(Vec::new());
            }
            self.producer_for(topic).await?;
            self.whole.append(topic, records).await
        }
        .boxed()
    }

    fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(consumer::KafkaConsumer::join(&self.options.consumer(group), topic)?))
    }

    fn shared(&self) -> Option<&dyn SharedLog> {
        Some(self)
    }

    fn exclusive(&self, topic: &str) -> Result<Box<dyn Exclusive>, LogError> {
        Ok(Box::new(exclusive::KafkaExclusive::open(&self.options, self.limits, topic)?))
    }

    fn health(&self) -> Result<(), LogError> {
        const WHAT: &str = "Kafka";
        if self.closed.load(Ordering::Acquire) {
            return Err(LogError::Unavailable { what: WHAT, reason: "the log is closed".into() });
        }
        let unavailable = |trouble: Trouble| LogError::Unavailable { what: WHAT, reason: trouble.reason().to_owned() };
        self.health.check().map_err(unavailable)
    }

    fn close<'a>(&'a self) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            self.closed.store(true, Ordering::Release);
            self.health.close();
            let (producer, within) = (self.producer(), self.options.delivery_timeout);
            let whole = Arc::clone(&self.whole);
            let flush = move || {
                whole.close();
                producer.flush(within)
            };
            let flushed = tokio::task::spawn_blocking(flush).await;
            let failed = |reason: String| LogError::Unavailable { what: "flush the producer", reason };
            flushed.map_err(|err| failed(err.to_string()))?.map_err(|err| failed(err.to_string()))
        }
        .boxed()
    }
}

impl SharedLog for KafkaLog {
    fn ensure_control_topic<'a>(&'a self, topic: &'a str, retain: Duration) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            let (replication, max_record_bytes) = (self.options.replication, self.options.max_record_bytes);
            let wanted = Wanted { name: topic, partitions: 1, replication, max_record_bytes, retain: Some(retain) };
            match self.topics.ensure(&self.producer(), &self.admin, &wanted).await? {
                1 => Ok(()),
                found => {
                    let reason =
                        format!("topic {topic} has {found} partitions, but processes agree through exactly one");
                    Err(LogError::Fatal { what: "create a control topic", reason })
                }
            }
        }
        .boxed()
    }

    fn candidate(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(consumer::KafkaConsumer::join(&self.options.candidate(group), topic)?))
    }

    fn tail(&self, topic: &str) -> Result<Box<dyn Tail>, LogError> {
        Ok(Box::new(tail::KafkaTail::open(&self.options.tail(), topic)?))
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.health.close();
    }
}

fn new_producer(options: &KafkaOptions, limits: Limits, health: &Arc<Health>) -> Result<Producer, KafkaError> {
    let reports = Reports { health: Arc::clone(health), limits, tells: true };
    options.producer().create_with_context(reports)
}

/// Starts the thread that notices when brokers are back, and replaces a producer that has given up.
///
/// librdkafka says when the last broker goes, but not when the first one returns, and it does not connect to a broker
/// that nobody uses: without asking, a gateway that is taken out of service would never be ready again.
fn watch(
    options: &KafkaOptions,
    limits: Limits,
    health: &Arc<Health>,
    producer: &Arc<RwLock<Arc<Producer>>>,
) -> Result<(), LogError> {
    let (options, health) = (options.clone(), Arc::clone(health));
    let producer: Weak<RwLock<Arc<Producer>>> = Arc::downgrade(producer);
    let run = move || {
        while let Some(trouble) = health.wait_for_trouble(ASK_AGAIN) {
            let Some(slot) = producer.upgrade() else { return };
            let current = Arc::clone(&slot.read().unwrap_or_else(PoisonError::into_inner));
            match trouble {
                Trouble::Down(reason) => match current.client().fetch_metadata(None, Duration::from_secs(3)) {
                    Ok(_) => health.up(),
                    Err(err) => warn!(reason, %err, "no broker answers"),
                },
                Trouble::Fatal(reason) => match new_producer(&options, limits, &health) {
                    Ok(fresh) => {
                        error!(reason, "the producer gave up its guarantees and is replaced");
                        *slot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                        health.renewed();
                    }
                    Err(err) => error!(reason, %err, "the producer gave up its guarantees and cannot be replaced"),
                },
            }
        }
    };
    let spawned = std::thread::Builder::new().name("kafka-health".into()).spawn(run);
    spawned.map(drop).map_err(|err| LogError::Fatal { what: "start a thread of the log", reason: err.to_string() })
}

/// Sorts librdkafka's errors into those worth trying again and the others, which say what to do.
fn describe(what: &'static str, err: &KafkaError) -> LogError {
    use KafkaError as E;
    let is_final =
        matches!(err, E::ClientConfig(..) | E::ClientCreation(_) | E::Nul(_) | E::MessageConsumptionFatal(_));
    match err.rdkafka_error_code().and_then(advice) {
        Some(advice) => LogError::Fatal { what, reason: format!("{err}; {advice}") },
        None if is_final => LogError::Fatal { what, reason: err.to_string() },
        None => LogError::Unavailable { what, reason: err.to_string() },
    }
}

/// What to do about an error that no retry cures; `None` for the others.
fn advice(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as E;
    Some(match code {
        E::Authentication | E::SaslAuthenticationFailed => {
            "check security.protocol and the sasl.* options under [kafka] options, and the user at the brokers"
        }
        E::TopicAuthorizationFailed => "allow this user to describe, read and write the topic",
        E::GroupAuthorizationFailed => "allow this user to read the consumer group, lakehose-<dataset>",
        E::TransactionalIdAuthorizationFailed => {
            "allow this user to write and describe transactional ids that begin with lakehose-, or the one of [kafka] \
             transactional_id"
        }
        E::ClusterAuthorizationFailed => "allow this user IdempotentWrite on the cluster, or make the topic by hand",
        E::FencedInstanceId => "another process has the same [kafka] group_instance_id: give each its own",
        E::InvalidTopic => "give the dataset a name that can be one of a topic",
        E::Fatal => "start the process again; the log lines before have the cause",
        _ => return None,
    })
}
