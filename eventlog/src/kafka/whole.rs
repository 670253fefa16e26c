//! All of an append or none, in Kafka: calls that wait at the same time share a transaction.
//!
//! A transaction takes the brokers several steps, whatever its size, and a producer has one at a time. While one is
//! committed the next calls gather, and go into the next one together: if all of them are in the log or none, so are those
//! of each. A call whose records the brokers refuse would take the others with it, so then each is tried alone.
//!
//! The transactional id belongs to this log alone, so nobody else is shut out. A producer that fails is made anew with the
//! same id, which ends the transaction that the old one left open; while it is open, readers wait at its first record.
//! When a process is killed, nobody does that, and the brokers end it after [`KafkaOptions::transaction_timeout`].

use super::producer::Limits;
use super::transaction::{Failure, Transactions};
use super::{KafkaOptions, describe};
use crate::{AppendError, LogError, NewRecord, Position, WholeError};
use rdkafka::config::ClientConfig;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::warn;

/// A transaction takes no further call at this size.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Where calls wait for their transaction. The producer is made when the first one comes.
pub(super) struct Whole {
    config: ClientConfig,
    limits: Limits,
    /// Room for calls that wait, in bytes.
    room: Arc<Semaphore>,
    queue_bytes: usize,
    thread: Mutex<Option<Running>>,
}

struct Running {
    calls: UnboundedSender<Call>,
    thread: JoinHandle<()>,
}

/// An append that waits for its transaction.
struct Call {
    topic: String,
    records: Vec<NewRecord>,
    bytes: usize,
    answer: oneshot::Sender<Result<Vec<Position>, WholeError>>,
    _room: OwnedSemaphorePermit,
}

impl Whole {
    pub(super) fn new(options: &KafkaOptions, limits: Limits) -> Whole {
        let delivery_timeout = options.delivery_timeout.min(options.transaction_timeout);
        Whole {
            config: options.whole_appends(),
            limits: Limits { delivery_timeout, ..limits },
            room: Arc::new(Semaphore::new(options.producer_queue_bytes.min(Semaphore::MAX_PERMITS))),
            queue_bytes: options.producer_queue_bytes,
            thread: Mutex::default(),
        }
    }

    /// The topic must exist.
    pub(super) async fn append(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, WholeError> {
        let limit = self.limits.max_record_bytes;
        if let Some(record) = records.iter().find(|record| record.size() > limit) {
            return Err(AppendError::TooLarge { bytes: record.size(), limit }.into());
        }
        let closed = || WholeError::Refused(AppendError::Unavailable("the log is closed".into()));
        let bytes = records.iter().map(NewRecord::size).sum();
        let room = u32::try_from(self.queue_bytes.min(bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(room).await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let call = Call { topic: topic.to_owned(), records, bytes, answer, _room: room };
        self.calls()?.send(call).map_err(|_| closed())?;
        answered.await.map_err(|_| WholeError::Unknown { reason: "the producer is gone".into() })?
    }

    /// Where to put calls; the first time starts the thread that takes them, and so does a thread that has panicked.
    fn calls(&self) -> Result<UnboundedSender<Call>, AppendError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room.is_closed() {
            return Err(AppendError::Unavailable("the log is closed".into()));
        }
        if let Some(running) = &*thread
            && !running.calls.is_closed()
        {
            return Ok(running.calls.clone());
        }
        let (calls, waiting) = unbounded_channel();
        let writer = Writer { config: self.config.clone(), limits: self.limits, transactions: None };
        let spawned = std::thread::Builder::new().name("kafka-whole".into()).spawn(move || writer.run(waiting));
        let spawned = spawned.map_err(|err| AppendError::Unavailable(format!("start a thread of the log: {err}")))?;
        *thread = Some(Running { calls: calls.clone(), thread: spawned });
        Ok(calls)
    }

    /// Takes no more calls, and waits for those that it has taken. Blocks.
    pub(super) fn close(&self) {
        self.room.close();
        let running = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { calls, thread }) = running {
            drop(calls);
            let _ = thread.join();
        }
    }
}

/// The thread that has the producer.
struct Writer {
    config: ClientConfig,
    limits: Limits,
    transactions: Option<Transactions>,
}

impl Writer {
    fn run(mut self, mut waiting: UnboundedReceiver<Call>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while bytes < MAX_GROUP_BYTES
                && let Ok(call) = waiting.try_recv()
            {
                bytes += call.bytes;
                group.push(call);
            }
            self.write(group);
        }
    }

    fn write(&mut self, mut group: Vec<Call>) {
        // Who gave up was told that nothing is known; what nobody waits for need not be stored any more.
        group.retain(|call| !call.answer.is_closed());
        if group.is_empty() {
            return;
        }
        match self.commit(&group) {
            Ok(positions) => {
                for (call, positions) in group.into_iter().zip(positions) {
                    let _ = call.answer.send(Ok(positions));
                }
            }
            Err(Failure::Refused(why)) if group.len() > 1 && why.is_final() => {
                group.into_iter().for_each(|call| self.write(vec![call]));
            }
            Err(failure) => {
                let failure = whole(failure);
                group.into_iter().for_each(|call| drop(call.answer.send(Err(failure.clone()))));
            }
        }
    }

    fn commit(&mut self, group: &[Call]) -> Result<Vec<Vec<Position>>, Failure> {
        let transactions = match self.transactions.take() {
            Some(transactions) => transactions,
            None => self.begin()?,
        };
        let calls: Vec<(&str, &[NewRecord])> =
            group.iter().map(|call| (call.topic.as_str(), call.records.as_slice())).collect();
        let appended = transactions.append(&calls);
        match &appended {
            Ok(_) => self.transactions = Some(transactions),
            // Nothing is left open. But librdkafka may forget to send the records of the next transaction, too.
            Err(Failure::Refused(_)) => drop(transactions),
            Err(failure) => {
                warn!(?failure, "the producer of whole appends is made anew");
                drop(transactions);
                // At once, not with the next call: readers wait for the end of what was left open.
                self.transactions = self.begin().ok();
            }
        }
        appended
    }

    fn begin(&self) -> Result<Transactions, Failure> {
        Transactions::begin(&self.config, self.limits).map_err(|err| {
            Failure::Refused(match describe("begin transactions", &err) {
                err @ LogError::Fatal { .. } => AppendError::Refused(err.to_string()),
                err @ LogError::Unavailable { .. } => AppendError::Unavailable(err.to_string()),
            })
        })
    }
}

fn whole(failure: Failure) -> WholeError {
    match failure {
        Failure::Refused(why) => why.into(),
        Failure::Unknown { reason } => WholeError::Unknown { reason },
        // It may have been committed before.
        Failure::Superseded => {
            let reason = "another process has the same [kafka] transactional_id: give each its own".into();
            WholeError::Unknown { reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_panicked_is_not_the_end_of_whole_appends() {
        let options = KafkaOptions::default();
        let (delivery_timeout, max_record_bytes) = (options.delivery_timeout, options.max_record_bytes);
        let whole = Whole::new(&options, Limits { delivery_timeout, max_record_bytes });
        let (calls, waiting) = unbounded_channel();
        let thread = std::thread::spawn(move || drop(waiting));
        while !calls.is_closed() {
            std::thread::yield_now();
        }
        *whole.thread.lock().unwrap() = Some(Running { calls, thread });
        assert!(!whole.calls().unwrap().is_closed());
        whole.close();
        assert!(whole.calls().is_err(), "a log that is closed stays so");
    }
}
