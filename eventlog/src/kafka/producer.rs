//! Appends to Kafka: one answer per call, from librdkafka's delivery reports.
//!
//! Every record carries a ticket to its place in the call's answer; the last report completes it. Once a record cannot
//! be handed to librdkafka, the rest of the call is refused too: a later record of the same key must not overtake it.

use super::context::{self, Health};
use crate::record::Append;
use crate::{AppendError, Position};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

type Answer = Vec<Result<Position, AppendError>>;

pub(super) type Producer = ThreadedProducer<Reports, NoCustomPartitioner>;

/// Receives the delivery reports.
pub(super) struct Reports {
    pub(super) health: Arc<Health>,
    pub(super) limits: Limits,
    /// Whether librdkafka tells of errors itself; of those of a transaction the caller hears in any case.
    pub(super) tells: bool,
}

/// What error messages tell about the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) delivery_timeout: Duration,
    pub(super) max_record_bytes: usize,
}

/// A record's place in the answer of its call.
pub(super) struct Ticket {
    call: Arc<Call>,
    index: usize,
}

/// One append call that is under way.
struct Call {
    state: Mutex<CallState>,
}

struct CallState {
    answer: Answer,
    missing: usize,
    done: Option<oneshot::Sender<Answer>>,
}

impl Call {
    fn settle(&self, index: usize, fate: Result<Position, AppendError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answer[index] = fate;
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let answer = std::mem::take(&mut state.answer);
        if let Some(done) = state.done.take() {
            // Nobody waits any more if the caller gave up; the records are in the log all the same.
            let _ = done.send(answer);
        }
    }
}

/// Hands `records` to librdkafka; the receiver gets the answer once every fate is known.
pub(super) fn send<R: Append>(
    producer: &Producer,
    topic: &str,
    records: &[R],
    limits: Limits,
) -> oneshot::Receiver<Answer> {
    let (done, receiver) = oneshot::channel();
    let never = AppendError::Unknown(limits.delivery_timeout);
    let state = CallState { answer: vec![Err(never); records.len()], missing: records.len(), done: Some(done) };
    let call = Arc::new(Call { state: Mutex::new(state) });
    let mut refused: Option<AppendError> = None;
    for (index, record) in records.iter().enumerate() {
        if let Some(reason) = &refused {
            call.settle(index, Err(reason.clone()));
            continue;
        }
        let bytes = record.size();
        if bytes > limits.max_record_bytes {
            call.settle(index, Err(AppendError::TooLarge { bytes, limit: limits.max_record_bytes }));
            continue;
        }
        let ticket = Box::new(Ticket { call: Arc::clone(&call), index });
        let mut message = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, ticket);
        (message.key, message.payload, message.headers) = (record.key(), record.value(), headers(record));
        if let Err((err, message)) = producer.send(message) {
            let reason = refusal(&err, bytes, limits);
            message.delivery_opaque.call.settle(index, Err(reason.clone()));
            if !matches!(reason, AppendError::TooLarge { .. }) {
                refused = Some(reason);
            }
        }
    }
    receiver
}

fn headers(record: &impl Append) -> Option<OwnedHeaders> {
    let insert =
        |headers: Option<OwnedHeaders>, (key, value)| Some(headers.unwrap_or_default().insert(Header { key, value }));
    record.headers().fold(None, insert)
}

/// What an error of librdkafka means for a record that it did not take at all.
fn refusal(err: &KafkaError, bytes: usize, limits: Limits) -> AppendError {
    match err.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => AppendError::Unavailable("the producer's queue is full".into()),
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => too_large(bytes, limits),
        Some(code) if is_final(code) => AppendError::Refused(code.to_string()),
        Some(code) => AppendError::Unavailable(code.to_string()),
        None => AppendError::Refused(err.to_string()),
    }
}

/// What a failed delivery means: whether the broker stored the record is often not known.
fn undelivered(err: &KafkaError, bytes: usize, limits: Limits) -> AppendError {
    match err.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => too_large(bytes, limits),
        Some(RDKafkaErrorCode::PurgeQueue) => AppendError::Unavailable("it was taken back before it was sent".into()),
        Some(code) if is_final(code) => AppendError::Refused(code.to_string()),
        _ => AppendError::Unknown(limits.delivery_timeout),
    }
}

fn too_large(bytes: usize, limits: Limits) -> AppendError {
    AppendError::TooLarge { bytes, limit: limits.max_record_bytes }
}

/// Whether the broker or librdkafka has said no, so that the record is certainly not in the log.
fn is_final(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedForMessageFormat
    )
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match self.tells {
            true => context::log(level, facility, line),
            false => tracing::debug!(facility, line, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.note(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let fate = match result {
            Ok(message) => Ok(Position { partition: message.partition(), offset: message.offset() }),
            Err((err, message)) => {
                let bytes = message.payload_len() + message.key_len();
                Err(undelivered(err, bytes, self.limits))
            }
        };
        ticket.call.settle(ticket.index, fate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { delivery_timeout: Duration::from_secs(30), max_record_bytes: 100 };

    fn code(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::MessageProduction(code)
    }

    #[test]
    fn a_record_that_may_be_stored_is_never_called_refused() {
        for lost in [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::RequestTimedOut,
            RDKafkaErrorCode::NotEnoughReplicasAfterAppend,
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::BrokerTransportFailure,
        ] {
            assert!(matches!(undelivered(&code(lost), 10, LIMITS), AppendError::Unknown(_)), "{lost}");
        }
    }

    #[test]
    fn a_full_queue_is_worth_trying_again_and_a_missing_right_is_not() {
        let full = refusal(&code(RDKafkaErrorCode::QueueFull), 10, LIMITS);
        assert!(matches!(full, AppendError::Unavailable(_)));
        let denied = undelivered(&code(RDKafkaErrorCode::TopicAuthorizationFailed), 10, LIMITS);
        assert!(matches!(denied, AppendError::Refused(_)));
        let large = undelivered(&code(RDKafkaErrorCode::MessageSizeTooLarge), 101, LIMITS);
        assert!(matches!(large, AppendError::TooLarge { bytes: 101, limit: 100 }));
    }
}
