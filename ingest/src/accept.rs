//! `POST /v1/events/{dataset}`, from top to bottom: cheap questions, body, events, limits, log, answer.
//!
//! A 202 is made in one place, after the log has reported (invariant I1; see `store`).

use crate::answer::{Report, Why};
use crate::batch::{self, Batch};
use crate::body::{Coding, Read, Stopped, Upload};
use crate::caller::Caller;
use crate::cloudevents;
use crate::decode::{self, Form, Malformed};
use crate::limits::Over;
use crate::pressure::Reservation;
use crate::refusal::Refusal;
use crate::routes::{EVENT_BYTES, Gateway, KnownDataset};
use crate::trace_context::traceparent;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::num::NonZeroU32;
use std::sync::Arc;

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

/// What is known of a request before its body is read.
struct Posting<'a> {
    dataset: &'a KnownDataset,
    caller: Caller,
    form: Form,
    head: &'a Parts,
}

impl Gateway {
    async fn accept(&self, dataset: &KnownDataset, head: &Parts, upload: &mut Upload) -> Result<Report, Refusal> {
        let caller = Caller::of(head);
        let form = Form::of(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        if claimed_length(head).is_some_and(|length| length > self.body_bounds.max as u64) {
            return Err(self.refuse_body(Stopped::TooLarge));
        }
        self.check_log()?;

        let mut held = self.budget.reserve();
        let read = upload.read(coding, &self.body_bounds, &mut held).await;
        let Read { body, received } = read.map_err(|stopped| self.refuse_body(stopped))?;
        self.metrics.body_read(received, body.len());

        self.take(&Posting { dataset, caller, form, head }, &body, held).await
    }

    /// A body that is here: cut, counted against the limits, measured event by event, stored.
    async fn take(&self, posting: &Posting<'_>, body: &Bytes, mut held: Reservation) -> Result<Report, Refusal> {
        let Posting { dataset, caller, form, head } = posting;
        let refuse = |malformed| self.refuse_form(malformed);
        let native = cloudevents::translate(*form, &head.headers, body, self.max_events).map_err(refuse)?;
        let (body, events) = match &native {
            None => (body, decode::frame(*form, body, self.max_events).map_err(refuse)?),
            Some(native) => (&native.body, native.events()),
        };
        if events.is_empty() {
            return Ok(Report::default());
        }
        held.grow(native.as_ref().map_or(0, |native| native.body.len()))
            .map_err(|spent| self.refuse_body(spent.into()))?;
        held.grow(events.len() * EVENT_BYTES).map_err(|spent| self.refuse_body(spent.into()))?;
        self.check_rate(dataset, caller, events.len())?;

        let rules = batch::Rules {
            limits: &self.limits,
            now: self.clock.micros(),
            max_age: dataset.max_age,
            max_ahead: dataset.max_ahead,
            traceparent: traceparent(&head.headers),
            untranslated: native.as_ref().map(|native| &native.untranslated),
        };
        let Batch { records, indexes, mut report, held_back } = batch::sort_out(body, &events, &rules);

        let outcomes = self.append(dataset, records).await;
        let retry_after = self.settle(&mut report, &events, &indexes, outcomes);
        dataset.metrics.decided(&report);
        if report.accepted == 0 {
            return Err(Refusal::nothing_accepted(report, held_back, retry_after));
        }
        Ok(report)
    }

    fn check_rate(&self, dataset: &KnownDataset, caller: &Caller, events: usize) -> Result<(), Refusal> {
        let Some(count) = u32::try_from(events).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        self.limits.request(caller.ip, count).map_err(|over| {
            if let Over::Wait(_) = over {
                dataset.metrics.refused(Why::RateLimited, events);
            }
            over.into()
        })
    }

    fn refuse_body(&self, stopped: Stopped) -> Refusal {
        match stopped {
            Stopped::TooLarge => Refusal::BodyTooLarge { max: self.body_bounds.max as u64 },
            Stopped::Busy => Refusal::Busy { retry_after: self.outage.busy() },
            Stopped::Slow => Refusal::BodyTooSlow,
            Stopped::Broken => Refusal::BodyBroken,
            Stopped::Undecodable(undecodable) => Refusal::Undecodable(undecodable),
        }
    }

    fn refuse_form(&self, malformed: Malformed) -> Refusal {
        match malformed {
            Malformed::TooManyEvents => Refusal::TooManyEvents { max: self.max_events },
            malformed => Refusal::Malformed(malformed),
        }
    }
}

fn claimed_length(head: &Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
