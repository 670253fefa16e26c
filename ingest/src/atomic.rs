//! Batches that are stored whole or not at all: `?atomic=true`.
//!
//! One event that cannot be stored keeps the others out, whatever the reason: it is invalid, too large for the log, or its
//! device is over its limit. Then only such events are listed. What the rate limits have counted stays counted, as for
//! any request that is refused, so the time to wait is the one in which a limit grants the whole batch anew. A batch
//! with more events of one device than its limit ever lets through at once is told so, for it could never pass.

use crate::answer::{Report, Why};
use crate::batch::{self, Batch};
use crate::limits::{self, Over};
use crate::pressure::Reservation;
use crate::refusal::Refusal;
use crate::routes::{Gateway, KnownDataset};
use axum::extract::Query;
use axum::http::request::Parts;
use eventlog::{AppendError, NewRecord};
use serde::Deserialize;
use std::sync::Arc;

/// What the query of a request may ask for. Parameters that are not known are ignored.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Options {
    /// All events of the request are stored, or none.
    #[serde(default)]
    pub(crate) atomic: bool,
}

impl Options {
    pub(crate) fn of(head: &Parts) -> Result<Options, Refusal> {
        if head.uri.query().is_none() {
            return Ok(Options::default());
        }
        Query::try_from_uri(&head.uri).map(|Query(options)| options).map_err(|_| Refusal::BadQuery)
    }
}

impl Gateway {
    /// Stores all of `batch`, if none of its events is rejected, and if the log takes them all.
    pub(crate) async fn store_whole(
        &self,
        dataset: &KnownDataset,
        request: &limits::Request<'_>,
        events: &[&str],
        batch: Batch,
        held: Reservation,
    ) -> Result<Report, Refusal> {
        let Batch { records, indexes, mut report, over } = batch;
        if !report.rejected.is_empty() {
            dataset.metrics.decided(&report);
            dataset.metrics.refused(Why::NotWhole, records.len());
            return Err(self.not_whole(report, over, request, events));
        }
        let sizes: Vec<usize> = records.iter().map(NewRecord::size).collect();
        let err = match self.append_whole(dataset, records, &Arc::new(held)).await {
            Ok(positions) => {
                let stored = positions.into_iter().map(Ok).collect();
                self.settle(dataset, &mut report, events, &indexes, stored);
                dataset.metrics.decided(&report);
                return Ok(report);
            }
            Err(err) => err,
        };
        let over = |limit: usize| indexes.iter().zip(&sizes).filter(move |(_, size)| **size > limit);
        let bad: Vec<usize> = match &err {
            AppendError::TooLarge { limit, .. } => over(*limit).map(|(index, _)| *index).collect(),
            _ => Vec::new(),
        };
        // A log that does not say which record is too large has refused them all.
        let bad = if bad.is_empty() { indexes } else { bad };
        let retry_after = self.settle(dataset, &mut report, events, &bad, vec![Err(err); bad.len()]);
        dataset.metrics.decided(&report);
        dataset.metrics.refused(Why::NotWhole, sizes.len() - bad.len());
        if report.has(Why::LogUnavailable) {
            return Err(Refusal::LogUnavailable { retry_after, report: Some(Box::new(report)) });
        }
        Err(Refusal::NotWhole { report: Box::new(report), exceeded: None })
    }

    /// What a batch came to of which some events are rejected before the log is asked.
    fn not_whole(
        &self,
        mut report: Report,
        over: Option<Over>,
        request: &limits::Request<'_>,
        events: &[&str],
    ) -> Refusal {
        if !matches!(over, Some(Over::Wait(_))) || !report.is_all(Why::RateLimited) {
            return Refusal::NotWhole { report: Box::new(report), exceeded: None };
        }
        // After this the device with the most events has room for all of them again, and so has every other one.
        let (most, bytes) = batch::most_of_one_device(events);
        let anew = self.limits.device_anew(most, bytes).map(|anew| self.limits.also(request, anew));
        let exceeded = match anew {
            Some(Over::Wait(exceeded)) => exceeded,
            Some(Over::Never(too_much)) => return Refusal::OverBurst { too_much, report: None },
            None => return Refusal::NotWhole { report: Box::new(report), exceeded: None },
        };
        let seconds = exceeded.wait.as_secs_f64();
        for rejection in &mut report.rejected {
            let detail = || format!("the device is over its limit; send the whole batch again in {seconds:.1} s");
            rejection.detail = rejection.detail.as_ref().map(|_| detail());
        }
        Refusal::NotWhole { report: Box::new(report), exceeded: Some(exceeded) }
    }
}
