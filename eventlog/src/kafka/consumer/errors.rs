//! Tells the errors that librdkafka repairs itself from those that the caller has to hear of.
//!
//! The latter are few: no broker is left, or something is wrong that somebody has to put right. A topic that was deleted
//! is among them, for librdkafka would wait for it without end.

use super::{ANSWERS_WITHIN, KafkaConsumer};
use crate::LogError;
use crate::kafka::{advice, describe};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::debug;

const READ: &str = "read a topic";

impl KafkaConsumer {
    /// What an error of librdkafka means for the caller; most of them it repairs itself.
    pub(super) fn note(&mut self, err: &KafkaError) -> Result<(), LogError> {
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
    pub(super) fn unknown(&self, what: &'static str, err: &KafkaError) -> LogError {
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

pub(super) fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(code, E::UnknownTopicOrPartition | E::UnknownTopic | E::UnknownPartition)
}

pub(super) fn fatal(reason: String) -> LogError {
    LogError::Fatal { what: READ, reason }
}
