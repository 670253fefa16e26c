//! Brings what waits on disk to the log, in order.
//!
//! A chunk counts as far as the log has it without a gap. Then the position is noted, durably; what is behind it is sent
//! again until the log has it. A record that the log refuses though it takes others is asked about alone, and set aside
//! if it is refused again: it would block the queue for ever. If all are refused, that is about the topic (rights), and
//! the queue waits for a human.

use super::queue::{Chunk, Queue, Reader};
use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::pressure::Reservation;
use crate::store::Append;
use eventlog::{AppendError, Log, NewRecord, Position};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Where it goes.
pub(super) struct Target {
    pub(super) log: Arc<dyn Log>,
    /// Learns from the drain that the log is back.
    pub(super) breaker: Arc<Breaker>,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
    pub(super) held: Arc<Reservation>,
}

/// The drain of one queue.
pub(super) struct Drain {
    queue: Arc<Queue>,
    target: Target,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
    reader: Option<Reader>,
    /// Since when the log has refused everything, or not answered.
    stuck: bool,
}

/// What one step has come to.
enum Step {
    Moved,
    /// Nothing is there to be read yet.
    Empty,
    Stuck,
}

/// Between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Drain {
    pub(super) fn new(queue: Arc<Queue>, target: Target, seats: Arc<Semaphore>, stop: CancellationToken) -> Drain {
        Drain { queue, target, seats, stop, reader: None, stuck: false }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut pause = PAUSES.0;
        while !stop.is_cancelled() {
            let step = tokio::select! {
                step = self.step() => step,
                () = stop.cancelled() => return,
            };
            let wait = match step {
                Step::Moved => {
                    pause = PAUSES.0;
                    continue;
                }
                Step::Empty => PAUSES.1,
                Step::Stuck => {
                    pause = (pause * 2).min(PAUSES.1);
                    pause
                }
            };
            let filled = async {
                match step {
                    Step::Empty => self.queue.filled.notified().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = filled => {}
            }
        }
    }

    async fn step(&mut self) -> Step {
        if !self.queue.is_waiting() {
            return Step::Empty;
        }
        // The semaphore is never closed.
        let _seat = Arc::clone(&self.seats).acquire_owned().await;
        match self.move_chunk().await {
            Ok(step) => step,
            Err(err) => {
                error!(dataset = self.queue.dataset, error = format!("{err:#}"), "cannot drain the queue on disk");
                self.reader = None;
                Step::Stuck
            }
        }
    }

    /// Reads a chunk, appends it, notes how far it came.
    async fn move_chunk(&mut self) -> anyhow::Result<Step> {
        let chunk = self.with_reader(|_, reader| reader.read(Duration::ZERO)).await?;
        if chunk.records.is_empty() {
            return Ok(Step::Empty);
        }
        self.queue.note_age(&chunk);
        let outcomes = self.append(chunk.records.clone()).await;
        let done = self.count_done(&chunk, &outcomes).await?;
        let whole = done == chunk.records.len();
        self.with_reader(move |queue, reader| {
            if done > 0 {
                queue.drained(reader, &chunk, done)?;
            }
            if whole { Ok(()) } else { reader.seek(chunk.first + done as i64) }
        })
        .await?;
        if done > 0 {
            self.stuck = false;
        }
        if !self.queue.is_waiting() {
            info!(dataset = self.queue.dataset, "the queue on disk is drained");
        }
        Ok(if done > 0 { Step::Moved } else { Step::Stuck })
    }

    /// How many records of the chunk, from its first on, need not be sent again.
    async fn count_done(&mut self, chunk: &Chunk, outcomes: &[Result<Position, AppendError>]) -> anyhow::Result<usize> {
        let takes_others = outcomes.iter().any(Result::is_ok);
        for (place, (record, outcome)) in chunk.records.iter().zip(outcomes).enumerate() {
            let fate = match outcome {
                Err(AppendError::Refused(_)) if takes_others => self.append_alone(record).await,
                outcome => outcome.clone(),
            };
            match fate {
                Ok(_) => {}
                Err(error @ AppendError::TooLarge { .. }) => self.set_aside(record.clone(), error).await?,
                Err(error @ AppendError::Refused(_)) if takes_others => self.set_aside(record.clone(), error).await?,
                Err(error) => {
                    self.is_stuck(&error);
                    return Ok(place);
                }
            }
        }
        Ok(chunk.records.len())
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
        let Target { log, breaker, clock, timeout, held } = &self.target;
        let append = Append {
            log: Arc::clone(log),
            topic: self.queue.dataset.clone(),
            under_way: breaker.begin(clock.elapsed()),
            clock: clock.clone(),
            timeout: *timeout,
            held: Arc::clone(held),
        };
        append.run(records).await
    }

    async fn append_alone(&mut self, record: &NewRecord) -> Result<Position, AppendError> {
        let unknown = Err(AppendError::Unknown(self.target.timeout));
        self.append(vec![record.clone()]).await.into_iter().next().unwrap_or(unknown)
    }

    async fn set_aside(&mut self, record: NewRecord, error: AppendError) -> anyhow::Result<()> {
        self.with_reader(move |queue, _| queue.set_aside(&record, &error)).await
    }

    /// Says so once, until something has moved.
    fn is_stuck(&mut self, error: &AppendError) {
        let dataset = &self.queue.dataset;
        if !std::mem::replace(&mut self.stuck, true) {
            match error {
                AppendError::Refused(_) => error!(dataset, %error, "the log refuses what waits in the queue on disk"),
                _ => warn!(dataset, %error, "the log does not take what waits in the queue on disk"),
            }
        }
    }

    /// Runs what blocks on a thread for that.
    async fn with_reader<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Queue, &mut Reader) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (queue, reader) = (Arc::clone(&self.queue), self.reader.take());
        let (reader, outcome) = tokio::task::spawn_blocking(move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => queue.reader()?,
            };
            let outcome = work(&queue, &mut reader);
            anyhow::Ok((reader, outcome))
        })
        .await??;
        self.reader = Some(reader);
        outcome
    }
}
