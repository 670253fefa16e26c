//! `POST /v1/events/{dataset}`, from top to bottom: cheap questions, body, events, limits, log, answer.
//!
//! A 202 is made in one place, after the log has reported (invariant I1). If the log took some events and not others,
//! the answer is 202 with the others listed as `log_unavailable`: they must be sent again, the rest need not. If it took
//! none, the answer is 503. When the log did not say within its time, an event may be stored all the same; sent again
//! with the same id, it is recognised.

use crate::answer::{Report, Why};
use crate::batch::{self, Batch};
use crate::body::{Stopped, Upload};
use crate::decode::{self, Form, Malformed};
use crate::limits::Over;
use crate::refusal::Refusal;
use crate::routes::{EVENT_BYTES, Gateway, KnownDataset};
use crate::trace_context::traceparent;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use eventlog::{AppendError, NewRecord, Position};
use lake::event::{Event, Reason};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) async fn events(
    State(gateway): State<Arc<Gateway>>,
    dataset: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let mut upload = Upload::new(body);
    let dataset = dataset.ok().and_then(|Path(name)| gateway.datasets.get(&name));
    let outcome = match dataset {
        Some(dataset) => gateway.accept(dataset, &head, &mut upload).await,
        None => Err(Refusal::UnknownDataset { known: gateway.known_datasets().join(", ") }),
    };
    upload.discard();
    match outcome {
        Ok(report) => {
            gateway.metrics.accepted();
            report.into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Gateway {
    async fn accept(&self, dataset: &KnownDataset, head: &Parts, upload: &mut Upload) -> Result<Report, Refusal> {
        let form = Form::of(&head.headers)?;
        if claimed_length(head).is_some_and(|length| length > self.max_body as u64) {
            return Err(self.refuse_body(Stopped::TooLarge));
        }
        if let Err(down) = self.log.health() {
            let retry_after = self.outage.goes_on(&self.clock, &down, !down.is_retryable());
            return Err(Refusal::LogUnavailable { retry_after, report: None });
        }

        let mut held = self.budget.reserve();
        let body = upload.read(self.max_body, self.body_timeout, &mut held).await;
        let body = body.map_err(|stopped| self.refuse_body(stopped))?;
        self.metrics.body_read(body.len());

        let events = decode::frame(form, &body, self.max_events).map_err(|malformed| self.refuse_form(malformed))?;
        held.grow(events.len() * EVENT_BYTES).map_err(|spent| self.refuse_body(spent.into()))?;
        self.check_rate(dataset, peer(head), events.len())?;

        let rules = batch::Rules {
            limits: &self.limits,
            now: self.clock.micros(),
            max_age: dataset.max_age,
            max_ahead: dataset.max_ahead,
            traceparent: traceparent(&head.headers),
        };
        let Batch { records, indexes, mut report, held_back } = batch::sort_out(&body, &events, &rules);

        let outcomes = self.append(dataset, records).await;
        let retry_after = self.settle(&mut report, &events, &indexes, outcomes);
        dataset.metrics.decided(&report);
        if report.accepted == 0 {
            return Err(Refusal::nothing_accepted(report, held_back, retry_after));
        }
        Ok(report)
    }

    fn check_rate(&self, dataset: &KnownDataset, ip: IpAddr, events: usize) -> Result<(), Refusal> {
        let Some(count) = u32::try_from(events).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        self.limits.request(ip, count).map_err(|over| {
            if let Over::Wait(_) = over {
                dataset.metrics.refused(Why::RateLimited, events);
            }
            over.into()
        })
    }

    /// One outcome per record, whatever the log does.
    async fn append(&self, dataset: &KnownDataset, records: Vec<NewRecord>) -> Vec<Result<Position, AppendError>> {
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
    fn settle(
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

    fn refuse_body(&self, stopped: Stopped) -> Refusal {
        match stopped {
            Stopped::TooLarge => Refusal::BodyTooLarge { max: self.max_body as u64 },
            Stopped::Busy => Refusal::Busy { retry_after: self.outage.busy() },
            Stopped::Slow => Refusal::BodyTooSlow,
            Stopped::Broken => Refusal::BodyBroken,
        }
    }

    fn refuse_form(&self, malformed: Malformed) -> Refusal {
        match malformed {
            Malformed::TooManyEvents => Refusal::TooManyEvents { max: self.max_events },
            malformed => Refusal::Malformed(malformed),
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

fn claimed_length(head: &Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Who is at the other end of the connection. Without a socket (in a test of the routes) everybody is the same.
fn peer(head: &Parts) -> IpAddr {
    match head.extensions.get::<ConnectInfo<SocketAddr>>() {
        Some(ConnectInfo(peer)) => peer.ip(),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
