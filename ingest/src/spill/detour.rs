//! Which way the events of a request go: to the log, or to the queue on disk.
//!
//! Past the queue only while nothing waits in it and the log is well. If the log then has not answered within
//! `breaker_after`, or has failed, the events go to the queue as well, and the device has its answer: the copies that may
//! come of it have the same ids.

use super::Queue;
use crate::breaker::Verdict;
use crate::detached::Detached;
use crate::pressure::Reservation;
use crate::refusal::Refusal;
use crate::routes::{Gateway, KnownDataset};
use eventlog::{AppendError, NewRecord, Position};
use std::sync::Arc;

type Outcomes = Vec<Result<Position, AppendError>>;

impl Gateway {
    /// What [`Gateway::check_log`] asks when there is a queue.
    pub(crate) fn check_spill(&self, dataset: &KnownDataset, queue: &Queue) -> Result<(), Refusal> {
        let has_room = self.spill.as_ref().is_some_and(|spill| spill.has_room());
        if has_room || self.is_open_road(dataset, queue) {
            return Ok(());
        }
        let reason = "the queue on disk is full, or switched off and not drained yet";
        let retry_after = dataset.outage.goes_on(&self.clock, &reason, false);
        Err(Refusal::LogUnavailable { retry_after, report: None })
    }

    /// One outcome per record; `Ok` means durable in the log, or in the queue on this machine's disk.
    pub(crate) async fn append_or_spill(
        &self,
        dataset: &KnownDataset,
        queue: &Arc<Queue>,
        records: Vec<NewRecord>,
        held: &Arc<Reservation>,
    ) -> Outcomes {
        if !self.is_open_road(dataset, queue) {
            return self.spill(queue, records, held).await;
        }
        let direct = Detached::new(self.begin(dataset, held).run(records.clone()));
        let direct = tokio::time::timeout(self.breaker_after, direct).await;
        let unknown = || Err(AppendError::Unknown(self.breaker_after));
        let mut outcomes = direct.unwrap_or_else(|_| vec![unknown(); records.len()]);
        let (places, failed): (Vec<usize>, Vec<NewRecord>) =
            records.into_iter().enumerate().filter(|(place, _)| is_worth_keeping(&outcomes[*place])).unzip();
        let kept = self.spill(queue, failed, held).await;
        for (place, kept) in places.into_iter().zip(kept) {
            // If neither has it, what the log said stands: it may turn up there.
            if kept.is_ok() {
                outcomes[place] = kept;
            }
        }
        outcomes
    }

    async fn spill(&self, queue: &Arc<Queue>, records: Vec<NewRecord>, held: &Arc<Reservation>) -> Outcomes {
        if records.is_empty() {
            return Vec::new();
        }
        if !self.spill.as_ref().is_some_and(|spill| spill.has_room()) {
            let full = AppendError::Unavailable("the queue on disk is full, or switched off".into());
            return vec![Err(full); records.len()];
        }
        let (queue, held) = (Arc::clone(queue), Arc::clone(held));
        // It must be told what became of it even if the client leaves.
        Detached::new(async move {
            let outcomes = queue.append(records).await;
            drop(held);
            outcomes
        })
        .await
    }

    /// Whether events may pass the queue. Who finds out whether the log is back waits no longer than others.
    pub(crate) fn is_open_road(&self, dataset: &KnownDataset, queue: &Queue) -> bool {
        let verdict = || self.verdict(dataset, self.clock.elapsed());
        !queue.is_waiting() && self.log.health().is_ok() && matches!(verdict(), Verdict::Closed | Verdict::Probe)
    }
}

/// Whether a later attempt may succeed. What the log refuses for good would block the queue.
fn is_worth_keeping(outcome: &Result<Position, AppendError>) -> bool {
    use AppendError::{Full, Unavailable, Unknown};
    matches!(outcome, Err(Unavailable(_) | Unknown(_) | Full { .. }))
}
