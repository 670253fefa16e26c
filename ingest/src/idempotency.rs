//! Gives a request that is sent again under its `Idempotency-Key` the answer that it had the first time
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! A device that lost an answer sends the same body under the same key again. A key belongs to who calls, to the dataset
//! and to the options of the query; with another body it is refused, for one of the two would be lost.
//!
//! - While the first request runs, the others wait for it: not for ever, and not any number of them. If it comes to
//!   nothing (the log was down, its task panicked), one of those who wait takes its place.
//! - A request with a key runs to its end even when nobody waits for the answer any more (`accept`): the events are
//!   stored or not, and the device will ask.
//! - What is final is remembered: a 202, and a 400 because no event is valid. A refusal that asks the device to come
//!   back is not, nor is one that it costs nothing to make again.
//! - A 202 with events that must be sent again is *unfinished*. The same request takes up those events and no others, and
//!   is answered for both times together. So a device need not take its body apart, and its events without an id are not
//!   stored twice.
//!
//! All this is in the memory of one process. Across gateways and restarts events are recognised by their ids.

mod key;
mod kept;
mod memory;

pub(crate) use key::{BadKey, Key, Place};

use crate::answer::{Rejection, Report};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::config::Http;
use crate::metrics;
use crate::refusal::Refusal;
use crate::routes::{Gateway, KnownDataset};
use axum::http::request::Parts;
use kept::Kept;
use memory::{Found, Memory};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// Requests that wait for another of the same key, at most. Each holds its body, which counts as in flight.
const WAITING: usize = 1_024;

/// What the gateway knows of keys.
pub(crate) struct Idempotency {
    memory: Memory,
    seats: Semaphore,
    wait: Duration,
}

impl Idempotency {
    pub(crate) fn new(config: &Http) -> Idempotency {
        let bytes = usize::try_from(config.idempotency_memory.as_u64()).unwrap_or(usize::MAX);
        Idempotency {
            memory: Memory::new(config.idempotency_window, bytes),
            seats: Semaphore::new(WAITING),
            wait: config.idempotency_wait,
        }
    }

    pub(crate) fn measure(&self, clock: &Clock) {
        let (entries, bytes) = self.memory.size(clock);
        metrics::idempotency_memory(entries, bytes);
    }

    /// Returns when the request that has the key has ended, whatever became of it.
    async fn wait(&self, mut running: watch::Receiver<()>, deadline: Instant) -> Result<(), TooLong> {
        let _seat = self.seats.try_acquire().map_err(|_| TooLong)?;
        // Nothing is ever sent: the channel closes.
        timeout_at(deadline, running.changed()).await.map(|_closed| ()).map_err(|_| TooLong)
    }
}

/// The request that has the key goes on for too long, or too many wait.
struct TooLong;

impl Gateway {
    /// Runs `take` unless another request of the same key has run or runs. `take` is told which events to take up, when it
    /// is not all of them.
    pub(crate) async fn once(
        &self,
        key: Key,
        take: impl AsyncFnOnce(Option<Vec<u32>>) -> Result<Report, Refusal>,
    ) -> Result<Report, Refusal> {
        let idempotency = &self.idempotency;
        let deadline = Instant::now() + idempotency.wait;
        let (turn, unfinished) = loop {
            match idempotency.memory.begin(key, &self.clock) {
                Found::Nothing(turn) => break (turn, None),
                Found::Unfinished(turn, report) => break (turn, Some(report)),
                Found::Final(kept) => {
                    metrics::idempotency("replayed");
                    return kept.replay();
                }
                Found::OtherBody => {
                    metrics::idempotency("other_body");
                    return Err(Refusal::KeyReused);
                }
                Found::Running(running) => {
                    if let Err(TooLong) = idempotency.wait(running, deadline).await {
                        metrics::idempotency("in_use");
                        return Err(Refusal::KeyInUse { retry_after: self.outage.busy() });
                    }
                }
            }
        };
        let outcome = match unfinished {
            None => {
                metrics::idempotency("first");
                take(None).await
            }
            Some(earlier) => {
                metrics::idempotency("resumed");
                let rest = to_send_again(&earlier);
                together(&earlier, &rest, take(Some(rest.clone())).await)
            }
        };
        if let Some(kept) = Kept::of(&outcome) {
            turn.end(kept, &self.clock);
        }
        outcome
    }

    /// What the head names; nothing when keys are switched off.
    pub(crate) fn place(
        &self,
        head: &Parts,
        caller: &Caller,
        dataset: &KnownDataset,
    ) -> Result<Option<Place>, Refusal> {
        if self.idempotency.memory.window().is_zero() {
            return Ok(None);
        }
        Place::of(head, caller, &dataset.name).map_err(Refusal::BadKey)
    }

    /// Whether the answer is there already, so that it does not matter how the log is.
    pub(crate) fn has_answered(&self, place: &Place) -> bool {
        self.idempotency.memory.has_answered(place, &self.clock)
    }
}

/// The positions of the events that may still be accepted.
fn to_send_again(report: &Report) -> Vec<u32> {
    report.rejected.iter().filter(|rejection| !rejection.reason.is_final()).map(|rejection| rejection.index).collect()
}

/// The answer for all events, of which `rest` were taken up again and came to `outcome`.
fn together(earlier: &Report, rest: &[u32], outcome: Result<Report, Refusal>) -> Result<Report, Refusal> {
    let later = match outcome {
        Ok(later) => later,
        // What was accepted before is still accepted, so this is no refusal of the whole.
        Err(refusal) => refusal.report().cloned().ok_or(refusal)?,
    };
    let in_the_whole = |rejection: Rejection| Rejection { index: rest[rejection.index as usize], ..rejection };
    let mut rejected: Vec<Rejection> = earlier.rejected.iter().filter(|r| r.reason.is_final()).cloned().collect();
    rejected.extend(later.rejected.into_iter().map(in_the_whole));
    rejected.sort_by_key(|rejection| rejection.index);
    Ok(Report {
        accepted: earlier.accepted + later.accepted,
        duplicates: earlier.duplicates + later.duplicates,
        rejected,
        replayed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Why;
    use lake::event::Reason;

    fn report(accepted: usize, rejected: &[(usize, Why)]) -> Report {
        let mut report = Report { accepted, ..Report::default() };
        for (index, why) in rejected {
            report.reject(*index, *why, || None, || "x".into());
        }
        report
    }

    const INVALID: Why = Why::Invalid(Reason::InvalidTime);

    #[test]
    fn the_answer_for_the_rest_is_entered_at_the_places_of_the_whole() {
        let earlier =
            report(2, &[(1, Why::LogUnavailable), (3, INVALID), (4, Why::RateLimited), (5, Why::LogUnavailable)]);
        let rest = to_send_again(&earlier);
        assert_eq!(rest, [1, 4, 5]);
        let both = together(&earlier, &rest, Ok(report(2, &[(1, Why::RateLimited)]))).unwrap();
        let rejected: Vec<_> = both.rejected.iter().map(|r| (r.index, r.reason)).collect();
        assert_eq!((both.accepted, rejected), (4, vec![(3, INVALID), (4, Why::RateLimited)]));
    }

    #[test]
    fn what_was_accepted_stays_accepted_when_the_rest_is_refused() {
        let earlier = report(2, &[(1, Why::LogUnavailable)]);
        let refused = Refusal::Invalid(Box::new(report(0, &[(0, INVALID)])));
        let both = together(&earlier, &[1], Err(refused)).unwrap();
        assert_eq!((both.accepted, both.rejected[0].index, both.rejected[0].reason), (2, 1, INVALID));
        let busy = Refusal::Busy { retry_after: Duration::from_secs(1) };
        assert!(matches!(together(&earlier, &[1], Err(busy)), Err(Refusal::Busy { .. })));
    }
}
