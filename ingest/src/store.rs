//! Hands records to the log and enters into the answer what the log says of each.
//!
//! If the log took some events and not others, the answer is 202 with the others listed as `log_unavailable`: they must
//! be sent again, the rest need not. If it took none, the answer is 503. When the log did not say within its time, an
//! event may be stored all the same; sent again with the same id, it is recognised.

use crate::answer::{Report, Why};
use crate::refusal::Refusal;
use crate::routes::{Gateway, KnownDataset};
use eventlog::{AppendError, NewRecord, Position};
use lake::event::{Event, Reason};
use std::time::{Duration, Instant};

impl Gateway {
    /// Asks the log before a body is read for nothing.
    pub(crate) fn check_log(&self) -> Result<(), Refusal> {
        self.log.health().map_err(|down| {
            let retry_after = self.outage.goes_on(&self.clock, &down, !down.is_retryable());
            Refusal::LogUnavailable { retry_after, report: None }
        })
    }

    /// One outcome per record, whatever the log does.
    pub(crate) async fn append(
        &self,
        dataset: &KnownDataset,
        records: Vec<NewRecord>,
    ) -> Vec<Result<Position, AppendError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let (count, started) = (records.len(), Instant::now());
        let appended = tokio::time::timeout(self.append_timeout, self.log.append(&dataset.name, records)).await;
        self.metrics.appended(started.elapsed());
        let mut outcomes = appended.unwrap_or_default();
        outcomes.resize(count, Err(AppendError::Unknown(self.append_timeout)));
        outcomes
    }

    /// Enters what the log said into the report. Returns how long to stay away if it failed.
    pub(crate) fn settle(
        &self,
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
            Some(err) => self.outage.goes_on(&self.clock, &err, matches!(err, AppendError::Refused(_))),
            None => {
                if report.accepted > 0 {
                    self.outage.is_over(&self.clock);
                }
                Duration::ZERO
            }
        }
    }
}

/// For the device: what to do. The cause names brokers and disks, and is for the operator's log.
fn retry_detail(err: &AppendError) -> &'static str {
    match err {
        AppendError::Unknown(_) => "it is not known whether the event was stored; send it again with the same id",
        _ => "the event was not stored; send it again",
    }
}
