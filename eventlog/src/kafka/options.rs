//! What can be chosen about Kafka, and how it becomes librdkafka's configuration.
//!
//! The promises of this crate rest on a few of these settings (`acks=all`, idempotence, no automatic commits). They are
//! set first, so whoever passes another value by [`KafkaOptions::options`] does it knowingly. TLS verification is
//! librdkafka's default, which is on; nothing here switches it off.

use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Options of [`super::KafkaLog`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Any option of librdkafka, applied last and to every client; for example `security.protocol` and `sasl.*`.
    ///
    /// With `group.protocol=consumer` (KIP-848) this librdkafka lets another member have a partition before
    /// [`crate::Consumer::release`] is answered: correct by the table's fence alone, at the price of repeated work.
    pub options: BTreeMap<String, String>,
    /// Static membership: a name that stays the same when this process restarts, so that a restart is no rebalance.
    pub group_instance_id: Option<String>,
    /// What appends that are whole or not at all are signed with; unlike any other process's. With a name that stays the
    /// same a restart ends the transaction that was left open. `None` = a new one for each [`super::KafkaLog`].
    pub transactional_id: Option<String>,
    /// After this long the brokers end a transaction whose producer was killed; readers wait for that.
    pub transaction_timeout: Duration,
    /// After this long without an acknowledgement a record's fate is answered as unknown.
    pub delivery_timeout: Duration,
    /// How long a broker may take to answer before [`super::KafkaLog::connect`] gives up.
    pub connect_timeout: Duration,
    /// Do without a broker at the start: [`super::KafkaLog::connect`] then succeeds with a log that is down until one answers.
    pub may_be_down: bool,
    /// Memory for records on their way to the brokers.
    pub producer_queue_bytes: usize,
    /// Memory for records fetched ahead of a consumer.
    pub consumer_queue_bytes: usize,
    /// Largest record. Topics that this log makes take records of this size.
    pub max_record_bytes: usize,
    /// Copies of each partition of a topic that this log makes; `None` = the brokers' default.
    pub replication: Option<u16>,
}

impl Default for KafkaOptions {
    fn default() -> KafkaOptions {
        const MIB: usize = 1024 * 1024;
        KafkaOptions {
            brokers: "127.0.0.1:9092".into(),
            options: BTreeMap::new(),
            group_instance_id: None,
            transactional_id: None,
            transaction_timeout: Duration::from_secs(15),
            delivery_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            may_be_down: false,
            producer_queue_bytes: 128 * MIB,
            consumer_queue_bytes: 64 * MIB,
            max_record_bytes: 16 * MIB,
            replication: None,
        }
    }
}

impl KafkaOptions {
    /// Room that Kafka's own framing of a record may take.
    const FRAMING: usize = 64 * 1024;
    /// Bytes that a broker may send at once, as they are compressed.
    const SMALLEST_ANSWER: usize = 512 * 1024;
    const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

    /// How long to wait for a first answer: who can do without one does not wait long.
    pub(super) fn patience(&self) -> Duration {
        const NOT_LONG: Duration = Duration::from_secs(3);
        if self.may_be_down { self.connect_timeout.min(NOT_LONG) } else { self.connect_timeout }
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("message.timeout.ms", self.delivery_timeout.as_millis().to_string())
            .set("queue.buffering.max.kbytes", kib(self.producer_queue_bytes))
            .set("queue.buffering.max.messages", "1000000");
        self.with_own_options(config)
    }

    /// A producer whose records count once their transaction is committed, and which shuts out those of the same `id`.
    pub(super) fn transactions(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        config.set("transactional.id", id);
        config
    }

    /// The producer of appends that are whole or not at all.
    pub(super) fn whole_appends(&self) -> ClientConfig {
        let made = || format!("lakehose-atomic-{}", Uuid::new_v4());
        let mut config = self.transactions(&self.transactional_id.clone().unwrap_or_else(made));
        let timeout = self.transaction_timeout.as_millis();
        // What a transaction holds is handed over at once; waiting for more brings nothing.
        for (name, value) in [("transaction.timeout.ms", timeout.to_string()), ("linger.ms", "0".to_owned())] {
            if !self.options.contains_key(name) {
                config.set(name, value);
            }
        }
        // librdkafka refuses a transaction that may end before its records are given up.
        let timeout = millis(&config, "transaction.timeout.ms").unwrap_or(timeout);
        at_most(&mut config, "message.timeout.ms", timeout);
        at_most(&mut config, "socket.timeout.ms", timeout.saturating_sub(100));
        config
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let answer = (self.consumer_queue_bytes / 8).clamp(Self::SMALLEST_ANSWER, Self::LARGEST_ANSWER);
        let mut config = self.common();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Where to start is told with every assignment; an offset that is gone is the caller's decision.
            .set("auto.offset.reset", "error")
            // What a transaction took back was never written; exclusive writers count on it.
            .set("isolation.level", "read_committed")
            .set("max.poll.interval.ms", "300000")
            .set("queued.max.messages.kbytes", kib(self.consumer_queue_bytes))
            // With the queue full, librdkafka would look again only after a second, when it has long run empty.
            .set("fetch.queue.backoff.ms", "20")
            // What one answer brings is unpacked at once, to several times its size, whatever the queue has room for. A
            // larger record comes alone. librdkafka wants an answer to be at least as large as it thinks records are.
            .set("message.max.bytes", answer.to_string())
            .set("fetch.max.bytes", answer.to_string())
            .set("fetch.message.max.bytes", answer.to_string())
            .set("statistics.interval.ms", "2000");
        // KIP-848 brings its own assignor, and librdkafka refuses both at once.
        if self.options.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
            config.set("partition.assignment.strategy", "cooperative-sticky");
        }
        if let Some(id) = &self.group_instance_id {
            config.set("group.instance.id", id);
        }
        self.with_own_options(config)
    }

    /// A consumer that stands for election.
    pub(super) fn candidate(&self, group: &str) -> ClientConfig {
        let mut config = self.small().consumer(group);
        // A static member would keep the office for a while after it has left.
        config.remove("group.instance.id");
        // Nothing happens while the elected one is dead and not missed yet. Six seconds are the least that brokers
        // allow by default; with KIP-848 the brokers decide.
        if config.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
            for (name, value) in [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "1000")] {
                if !self.options.contains_key(name) {
                    config.set(name, value);
                }
            }
        }
        config
    }

    /// A consumer that belongs to no group: librdkafka wants a name all the same, and joins only who subscribes.
    pub(super) fn tail(&self) -> ClientConfig {
        let mut config = self.small().consumer("lakehose-tail");
        config.remove("group.instance.id");
        config.set("auto.offset.reset", "latest");
        config
    }

    /// For topics of few and small records.
    fn small(&self) -> KafkaOptions {
        KafkaOptions { consumer_queue_bytes: self.consumer_queue_bytes.min(4 * 1024 * 1024), ..self.clone() }
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "lakehose")
            .set("allow.auto.create.topics", "false")
            .set("message.max.bytes", (self.max_record_bytes + Self::FRAMING).to_string())
            .set("socket.keepalive.enable", "true")
            // A broker that is back is to be used at once, not after librdkafka's ten seconds.
            .set("reconnect.backoff.max.ms", "1000");
        config
    }

    fn with_own_options(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.options {
            config.set(name, value);
        }
        config
    }
}

fn millis(config: &ClientConfig, name: &str) -> Option<u128> {
    config.get(name)?.parse().ok()
}

fn at_most(config: &mut ClientConfig, name: &str, most: u128) {
    if millis(config, name).is_some_and(|value| value > most) {
        config.set(name, most.to_string());
    }
}

fn kib(bytes: usize) -> String {
    (bytes / 1024).max(1).to_string()
}
