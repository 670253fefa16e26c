//! `POST /v1/events/{dataset}`, from top to bottom: who it is, cheap questions, body, events, limits, log, answer.
//!
//! A 202 is made in one place, after the log has reported (invariant I1; see `store`).

use crate::answer::{Report, Why};
use crate::atomic::Options;
use crate::audit;
use crate::batch::{self, Batch};
use crate::body::{Coding, Read, Stopped, Upload};
use crate::caller::Caller;
use crate::cloudevents;
use crate::correlation;
use crate::decode::{self, Form, Malformed};
use crate::idempotency::Place;
use crate::limits::{self, Over};
use crate::pressure::Reservation;
use crate::refusal::Refusal;
use crate::routes::{EVENT_BYTES, Gateway, KnownDataset};
use crate::trace_context::TraceContext;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::panic::resume_unwind;
use std::sync::Arc;
use tracing::debug;

pub(crate) async fn events(
    State(gateway): State<Arc<Gateway>>,
    dataset: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let dataset = dataset.ok().map(|Path(name)| name);
    if !Place::is_named(request.headers()) {
        return answer(&gateway, dataset, request).await;
    }
    // A device that names its request will ask again what became of it, so it goes on when the device is gone.
    let keyed = gateway.keyed.clone();
    let to_its_end = keyed.spawn(correlation::carried(async move { answer(&gateway, dataset, request).await }));
    to_its_end.await.unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
}

async fn answer(gateway: &Gateway, dataset: Option<String>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut upload = Upload::new(body);
    let outcome = gateway.accept(dataset.as_deref(), &head, &mut upload).await;
    upload.discard();
    match outcome {
        Ok(report) => {
            gateway.metrics.accepted();
            audit::note(|line| line.report(&report));
            report.into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What is known of a request before its body is read.
struct Posting<'a> {
    dataset: &'a KnownDataset,
    caller: Caller,
    options: Options,
    form: Form,
    head: &'a Parts,
}

impl Gateway {
    async fn accept(&self, dataset: Option<&str>, head: &Parts, upload: &mut Upload) -> Result<Report, Refusal> {
        let caller = self.caller(head)?;
        audit::note(|line| line.caller(&caller));
        let dataset = self.dataset(dataset, &caller.scope)?;
        audit::note(|line| line.dataset(&dataset.name));
        let options = Options::of(head)?;
        let form = Form::of(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        if claimed_length(head).is_some_and(|length| length > self.body_bounds.max as u64) {
            return Err(self.refuse_body(dataset, Stopped::TooLarge));
        }
        let place = self.place(head, &caller, dataset)?;
        if !place.is_some_and(|place| self.has_answered(&place)) {
            self.check_log(dataset)?;
        }

        let mut held = self.budget.reserve_below(dataset.max_in_flight);
        let read = upload.read(coding, &self.body_bounds, &mut held).await;
        let Read { body, received } = read.map_err(|stopped| self.refuse_body(dataset, stopped))?;
        self.metrics.body_read(received, body.len());
        audit::note(|line| line.body(body.len()));

        let posting = Posting { dataset, caller, options, form, head };
        match place.map(|place| place.with_body(head, form, &body)) {
            None => self.take(&posting, &body, held, None).await,
            Some(key) => self.once(key, async |rest| self.take(&posting, &body, held, rest).await).await,
        }
    }

    /// A body that is here: cut, counted against the limits, measured event by event, stored. Of a body that was here
    /// before, the `rest`.
    async fn take(
        &self,
        posting: &Posting<'_>,
        body: &Bytes,
        mut held: Reservation,
        rest: Option<Vec<u32>>,
    ) -> Result<Report, Refusal> {
        let Posting { dataset, caller, options, form, head } = posting;
        let refuse = |malformed| self.refuse_form(malformed);
        let native = cloudevents::translate(*form, &head.headers, body, self.max_events).map_err(refuse)?;
        let mut bytes = body.len();
        let (body, mut events) = match &native {
            None => (body, decode::frame(*form, body, self.max_events).map_err(refuse)?),
            Some(native) => (&native.body, native.events()),
        };
        if let Some(rest) = &rest {
            events = rest.iter().map(|index| events[*index as usize]).collect();
            // The others have been counted.
            bytes = events.iter().map(|event| event.len()).sum();
        }
        audit::note(|line| line.events(events.len()));
        if events.is_empty() {
            return Ok(Report::default());
        }
        let translated = native.as_ref().map_or(0, |native| native.body.len());
        held.grow(translated + events.len() * EVENT_BYTES).map_err(|spent| self.refuse_body(dataset, spent.into()))?;
        let request = dataset.request(caller, events.len(), bytes);
        self.check_rate(dataset, &request)?;

        let rules = batch::Rules {
            limits: &self.limits,
            devices: &caller.scope.devices,
            now: self.clock.micros(),
            max_age: dataset.max_age,
            max_ahead: dataset.max_ahead,
            trace: head.extensions.get().map(TraceContext::headers).unwrap_or_default(),
            untranslated: native.as_ref().map(|native| native.untranslated(rest.as_deref())).unwrap_or_default(),
        };
        let batch = batch::sort_out(body, &events, &rules);
        if batch.report.has(Why::DeviceNotAllowed) {
            debug!(ip = %caller.ip, key = caller.name.as_deref(), dataset = dataset.name, "device is not the caller's");
        }
        if options.atomic {
            return self.store_whole(dataset, &request, &events, batch, held).await;
        }
        let Batch { records, indexes, mut report, over } = batch;

        let held = Arc::new(held);
        let outcomes = self.append(dataset, records, &held).await;
        let retry_after = self.settle(dataset, &mut report, &events, &indexes, outcomes);
        dataset.metrics.decided(&report);
        if report.accepted == 0 {
            let over = over.map(|over| self.limits.also(&request, over));
            return Err(Refusal::nothing_accepted(report, over, retry_after));
        }
        Ok(report)
    }

    fn check_rate(&self, dataset: &KnownDataset, request: &limits::Request<'_>) -> Result<(), Refusal> {
        self.limits.request(request).map_err(|over| {
            if let Over::Wait(_) = over {
                dataset.metrics.refused(Why::RateLimited, request.events);
            }
            over.into()
        })
    }

    fn refuse_body(&self, dataset: &KnownDataset, stopped: Stopped) -> Refusal {
        match stopped {
            Stopped::TooLarge => Refusal::BodyTooLarge { max: self.body_bounds.max as u64 },
            Stopped::Busy => {
                dataset.metrics.busy(dataset.priority);
                Refusal::Busy { retry_after: self.outage.busy() }
            }
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
