//! Hands records to the log and enters into the answer what the log says of each.
//!
//! If the log took some events and not others, the answer is 202 with the others listed as `log_unavailable`: they must
//! be sent again, the rest need not. If it took none, the answer is 503. When the log did not say within its time, an
//! event may be stored all the same; sent again with the same id, it is recognised.
//!
//! An append goes on when its request ends early: its bytes stay reserved as long as the log may hold them, and how it
//! ends tells whether the log works.

use crate::answer::{Report, Why};
use crate::breaker::{UnderWay, Verdict};
use crate::clock::Clock;
use crate::detached::Detached;
use crate::metrics::Held;
use crate::pressure::Reservation;
use crate::refusal::Refusal;
use crate::routes::{Gateway, KnownDataset};
use eventlog::{AppendError, Log, NewRecord, Position, WholeError};
use lake::event::{Event, Reason};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Gateway {
    /// Asks the log before a body is read for nothing.
    pub(crate) fn check_log(&self, dataset: &KnownDataset) -> Result<(), Refusal> {
        if let Some(queue) = &dataset.queue {
            return self.check_spill(dataset, queue);
        }
        let (now, outage) = (self.clock.elapsed(), &dataset.outage);
        let goes_on = |error: &dyn fmt::Display, needs_a_human| outage.goes_on(&self.clock, error, needs_a_human);
        let retry_after = match (self.log.health(), self.verdict(dataset, now)) {
            (Err(down), _) => goes_on(&down, !down.is_retryable()),
            (Ok(()), Verdict::Closed | Verdict::Probe) => return Ok(()),
            (Ok(()), Verdict::Slow) => {
                dataset.metrics.held_back(Held::Slow);
                outage.busy()
            }
            (Ok(()), Verdict::Open) => {
                dataset.metrics.held_back(Held::Open);
                let waited = dataset.breaker.facts().waited(now).as_secs_f64();
                goes_on(&format_args!("appends fail or are not answered, the oldest for {waited:.1} s"), false)
            }
        };
        Err(Refusal::LogUnavailable { retry_after, report: None })
    }

    /// What the dataset's own appends tell, or, if there were none lately, those of the others.
    pub(crate) fn verdict(&self, dataset: &KnownDataset, now: Duration) -> Verdict {
        match dataset.breaker.verdict(now, dataset.priority) {
            Verdict::Closed if !dataset.breaker.is_proven(now) && self.hangs(now) => {
                dataset.breaker.verdict_by_others(now)
            }
            verdict => verdict,
        }
    }

    /// Whether the log as a whole seems to hang: some breaker is open, and no append was answered well lately.
    fn hangs(&self, now: Duration) -> bool {
        let breakers = || self.datasets.values().map(|dataset| &dataset.breaker);
        breakers().any(|breaker| breaker.is_open(now)) && !breakers().any(|breaker| breaker.is_proven(now))
    }

    /// One outcome per record, whatever the log does.
    pub(crate) async fn append(
        &self,
        dataset: &KnownDataset,
        records: Vec<NewRecord>,
        held: &Arc<Reservation>,
    ) -> Vec<Result<Position, AppendError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let outcomes = match &dataset.queue {
            None => Detached::new(self.begin(dataset, held).run(records)).await,
            Some(queue) => self.append_or_spill(dataset, queue, records, held).await,
        };
        self.metrics.appended(started.elapsed());
        outcomes
    }

    /// Appends all of the records or none.
    pub(crate) async fn append_whole(
        &self,
        dataset: &KnownDataset,
        records: Vec<NewRecord>,
        held: &Arc<Reservation>,
    ) -> Result<Vec<Position>, AppendError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        if dataset.queue.as_ref().is_some_and(|queue| !self.is_open_road(dataset, queue)) {
            // A queue on disk is drained in pieces, and they would not be seen at once.
            return Err(AppendError::Unavailable("a batch that is stored whole waits in no queue".into()));
        }
        let started = Instant::now();
        let outcome = Detached::new(self.begin(dataset, held).run_whole(records)).await;
        self.metrics.appended(started.elapsed());
        outcome
    }

    pub(crate) fn begin(&self, dataset: &KnownDataset, held: &Arc<Reservation>) -> Append {
        Append {
            log: Arc::clone(&self.log),
            topic: dataset.name.clone(),
            under_way: dataset.breaker.begin(self.clock.elapsed()),
            clock: self.clock.clone(),
            timeout: self.append_timeout,
            held: Arc::clone(held),
        }
    }

    /// Enters what the log said into the report. Returns how long to stay away if it failed.
    pub(crate) fn settle(
        &self,
        dataset: &KnownDataset,
        report: &mut Report,
        events: &[&str],
        indexes: &[usize],
        outcomes: Vec<Result<Position, AppendError>>,
    ) -> Duration {
        let rejected_before = report.rejected.len();
        let mut failure = None;
        for (index, outcome) in indexes.iter().copied().zip(outcomes) {
            let Err(err) = outcome else {
                report.accepted += 1;
                continue;
            };
            // Parsed again, for only here the id is needed: keeping the ids of all events would cost the good case.
            let id = || Event::parse(events[index].as_bytes()).ok()?.id.map(|id| id.into_owned());
            match err {
                AppendError::TooLarge { .. } => {
                    report.reject(index, Why::Invalid(Reason::TooLarge), id, || err.to_string());
                }
                _ => {
                    report.reject(index, Why::LogUnavailable, id, || retry_detail(&err).to_owned());
                    failure = Some(err);
                }
            }
        }
        if report.rejected.len() > rejected_before {
            report.rejected.sort_by_key(|rejection| rejection.index);
        }
        match failure {
            Some(err) => dataset.outage.goes_on(&self.clock, &err, matches!(err, AppendError::Refused(_))),
            None => {
                if report.accepted > 0 {
                    dataset.outage.is_over(&self.clock);
                }
                Duration::ZERO
            }
        }
    }
}

/// One append, with all that it needs to go on by itself.
pub(crate) struct Append {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topic: String,
    pub(crate) under_way: UnderWay,
    pub(crate) clock: Clock,
    pub(crate) timeout: Duration,
    pub(crate) held: Arc<Reservation>,
}

impl Append {
    pub(crate) async fn run(self, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
        let Append { log, topic, under_way, clock, timeout, held } = self;
        let count = records.len();
        let answer = async move { log.append(&topic, records).await };
        // Whatever the log does not mention is not known.
        let mut outcomes = answered(answer, timeout, held).await.unwrap_or_default();
        outcomes.resize(count, Err(AppendError::Unknown(timeout)));
        tell(under_way, &outcomes, clock.elapsed());
        outcomes
    }

    async fn run_whole(self, records: Vec<NewRecord>) -> Result<Vec<Position>, AppendError> {
        let Append { log, topic, under_way, clock, timeout, held } = self;
        let answer = async move { log.append_whole(&topic, records).await };
        let outcome = match answered(answer, timeout, held).await {
            Some(Ok(positions)) => Ok(positions),
            Some(Err(WholeError::Refused(err))) => Err(err),
            Some(Err(WholeError::Unknown { .. } | WholeError::Superseded { .. })) | None => {
                Err(AppendError::Unknown(timeout))
            }
        };
        match &outcome {
            // About this batch, or about transactions: what is not to be whole needs none.
            Err(AppendError::Refused(_)) => under_way.inconclusive(),
            outcome => tell(under_way, std::slice::from_ref(outcome), clock.elapsed()),
        }
        outcome
    }
}

/// The log's answer if it comes in time. What the request holds, it holds until then, in time or not.
async fn answered<T: Send + 'static>(
    answer: impl Future<Output = T> + Send + 'static,
    timeout: Duration,
    held: Arc<Reservation>,
) -> Option<T> {
    let mut answer = Box::pin(answer);
    if let Ok(answered) = tokio::time::timeout(timeout, &mut answer).await {
        return Some(answered);
    }
    tokio::spawn(async move {
        answer.await;
        drop(held);
    });
    None
}

/// Tells the breaker what became of an append.
fn tell<T>(under_way: UnderWay, outcomes: &[Result<T, AppendError>], now: Duration) {
    let is_too_large = |outcome: &Result<_, _>| matches!(outcome, Err(AppendError::TooLarge { .. }));
    match outcomes {
        outcomes if outcomes.iter().any(Result::is_ok) => under_way.succeeded(now),
        outcomes if outcomes.iter().all(is_too_large) => under_way.inconclusive(),
        _ => under_way.failed(now),
    }
}

/// For the device: what to do. The cause names brokers and disks, and is for the operator's log.
fn retry_detail(err: &AppendError) -> &'static str {
    match err {
        AppendError::Unknown(_) => "it is not known whether the event was stored; send it again with the same id",
        _ => "the event was not stored; send it again",
    }
}
