//! A producer whose records count once their transaction is committed: all of them, or none.
//!
//! Making one with the transactional id of an earlier one ends the transaction which that left open, and makes the
//! brokers refuse whatever it still sends. Readers see the records of a transaction when it is committed.

use super::context::Health;
use super::producer::{self, Limits, Producer, Reports};
use crate::record::Append;
use crate::{AppendError, Position};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;

/// How long the brokers may take for a step of a transaction.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Why a transaction was not committed.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Another producer of the same id was made since.
    Superseded,
    /// Nobody will see any of the records.
    Refused(AppendError),
    /// It is committed or not; the brokers did not say.
    Unknown { reason: String },
}

pub(super) struct Transactions {
    producer: Producer,
}

impl Transactions {
    /// Fails with an error that can be tried again if the brokers do not settle what was before in time.
    pub(super) fn begin(config: &ClientConfig, limits: Limits) -> Result<Transactions, KafkaError> {
        let reports = Reports { health: Arc::new(Health::default()), limits, tells: false };
        let producer: Producer = config.create_with_context(reports)?;
        retry(|| producer.init_transactions(ANSWERS_WITHIN))?;
        Ok(Transactions { producer })
    }

    /// Appends the records of several calls, each with its topic, in one transaction.
    pub(super) fn append<R: Append>(&self, calls: &[(&str, &[R])]) -> Result<Vec<Vec<Position>>, Failure> {
        self.producer.begin_transaction().map_err(|err| in_doubt(&err))?;
        let limits = self.producer.context().limits;
        let send = |(topic, records): &(&str, &[R])| producer::send(&self.producer, topic, records, limits);
        let sent: Vec<_> = calls.iter().map(send).collect();
        let mut positions = Vec::with_capacity(calls.len());
        let mut refused: Option<AppendError> = None;
        for answer in sent {
            // It resolves within the delivery time-out, for every record then has a report.
            let fates = futures::executor::block_on(answer);
            let fates = fates.map_err(|err| Failure::Unknown { reason: err.to_string() })?;
            let mut places = Vec::with_capacity(fates.len());
            for fate in fates {
                match fate {
                    Ok(place) => places.push(place),
                    // With one record refused librdkafka sends the others no more: theirs is not the reason.
                    Err(why) if why.is_final() || refused.is_none() => refused = Some(why),
                    Err(_) => {}
                }
            }
            positions.push(places);
        }
        if let Some(why) = refused {
            return Err(self.give_up(why));
        }
        match retry(|| self.producer.commit_transaction(ANSWERS_WITHIN)) {
            Ok(()) => Ok(positions),
            Err(KafkaError::Transaction(err)) if err.txn_requires_abort() => {
                Err(self.give_up(AppendError::Unavailable(err.string())))
            }
            Err(err) => Err(in_doubt(&err)),
        }
    }

    /// Takes back what was sent, and tells why it was not to be.
    fn give_up(&self, why: AppendError) -> Failure {
        match retry(|| self.producer.abort_transaction(ANSWERS_WITHIN)) {
            Ok(()) => Failure::Refused(match why {
                // The broker may have stored it, but nobody will see it.
                AppendError::Unknown(_) => AppendError::Unavailable(why.to_string()),
                why => why,
            }),
            Err(err) => in_doubt(&err),
        }
    }
}

fn in_doubt(err: &KafkaError) -> Failure {
    match err.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch) => {
            Failure::Superseded
        }
        _ => Failure::Unknown { reason: err.to_string() },
    }
}

/// Repeats a step of a transaction that the brokers may do when asked again.
fn retry(mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        match step() {
            Err(KafkaError::Transaction(err)) if err.is_retriable() && Instant::now() < deadline => {
                debug!(%err, "step of a transaction is tried again");
                std::thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
}
