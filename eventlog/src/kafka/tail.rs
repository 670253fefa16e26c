//! Reads the end of a control topic, as a member of no group.

use super::context::Quiet;
use super::describe;
use crate::{LogError, MAX_BYTES_PER_POLL, MAX_RECORDS_PER_POLL, Record, Tail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;
use tracing::debug;

/// How long a broker may take to say where the topic ends.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct KafkaTail {
    consumer: BaseConsumer<Quiet>,
}

impl KafkaTail {
    pub(super) fn open(config: &ClientConfig, topic: &str) -> Result<KafkaTail, LogError> {
        let failed = |err: KafkaError| describe("read the end of a topic", &err);
        let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(failed)?;
        // Asked for now: librdkafka would look for the end later, and records that come until then would be missed.
        let (_, next) = consumer.fetch_watermarks(topic, 0, ANSWERS_WITHIN).map_err(failed)?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, 0, Offset::Offset(next)).map_err(failed)?;
        consumer.assign(&list).map_err(failed)?;
        Ok(KafkaTail { consumer })
    }
}

impl Tail for KafkaTail {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<usize, LogError> {
        let (mut records, mut bytes, mut wait) = (0, 0, max_wait);
        while records < MAX_RECORDS_PER_POLL && bytes < MAX_BYTES_PER_POLL {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    (records, wait) = (records + 1, Duration::ZERO);
                    bytes += message.key_len() + message.payload_len();
                    sink(Record::of_message(&message));
                }
                Some(Err(err)) => {
                    check(&err)?;
                    return Ok(records);
                }
                None => return Ok(records),
            }
        }
        Ok(records)
    }
}

/// Lets errors pass that librdkafka repairs itself.
fn check(err: &KafkaError) -> Result<(), LogError> {
    let final_code = matches!(
        err.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::Fatal
        )
    );
    if final_code || matches!(err, KafkaError::MessageConsumptionFatal(_)) {
        return Err(describe("read the end of a topic", err));
    }
    debug!(%err, "kafka tail error");
    Ok(())
}
