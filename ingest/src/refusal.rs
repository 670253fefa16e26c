//! Every way to say no, and the one table from there to HTTP.
//!
//! Each answer is `application/problem+json` (RFC 9457): `type` is `urn:lakehose:problem:<name>` with the name from the
//! table below, which programs may rely on; `detail` is for people. When the events of a request were looked at and none
//! was accepted, the members of a 202 (`accepted`, `duplicates`, `rejected`) stand beside them.

mod detail;
mod headers;
mod documented;

pub(crate) use documented::{Documented, documented};

use crate::answer::{Report, Why};
use crate::audit;
use crate::auth::Denied;
use crate::body::Undecodable;
use crate::correlation;
use crate::decode::{Malformed, Unsupported};
use crate::idempotency::BadKey;
use crate::limits::{Exceeded, Over, TooMuch};
use crate::metrics;
use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use headers::whole_seconds;
use lake::event::Reason;
use serde::Serialize;
use std::time::Duration;
use strum::EnumCount;

/// Why a whole request was not accepted.
#[derive(Debug, EnumCount)]
pub(crate) enum Refusal {
    /// Credentials are missing, or not good; which is not told.
    Unauthenticated {
        presented: bool,
    },
    /// Too many wrong credentials came from the address.
    TooManyGuesses {
        retry_after: Duration,
    },
    DatasetNotAllowed {
        allowed: String,
    },
    /// All events are of devices that the credentials are not for.
    DevicesNotAllowed(Box<Report>),
    NoSuchPath,
    UnknownDataset {
        known: String,
    },
    WrongMethod,
    /// A parameter of the query has a value that means nothing.
    BadQuery,
    Unsupported(Unsupported),
    Malformed(Malformed),
    /// It is not compressed as it says.
    Undecodable(Undecodable),
    /// None of the events is valid.
    Invalid(Box<Report>),
    /// Some events keep a batch out that was to be stored whole; if only a limit stands in the way, that passes.
    NotWhole {
        report: Box<Report>,
        exceeded: Option<Exceeded>,
    },
    BodyTooLarge {
        max: u64,
    },
    TooManyEvents {
        max: usize,
    },
    /// More than a rate limit ever lets through at once.
    OverBurst {
        too_much: TooMuch,
        report: Option<Box<Report>>,
    },
    BodyTooSlow,
    BodyBroken,
    BadKey(BadKey),
    /// The key came before, with another body.
    KeyReused,
    /// The request that has the key goes on.
    KeyInUse {
        retry_after: Duration,
    },
    RateLimited {
        exceeded: Exceeded,
        report: Option<Box<Report>>,
    },
    /// The bytes in flight are spent.
    Busy {
        retry_after: Duration,
    },
    LogUnavailable {
        retry_after: Duration,
        report: Option<Box<Report>>,
    },
    Panicked,
}

/// One row of the table.
struct Row {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: String,
}

impl Refusal {
    fn row(&self) -> Row {
        use Refusal::*;
        let row = |status, name, title, detail: String| Row { status, name, title, detail };
        match self {
            Unauthenticated { .. } => row(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A good key or token is needed",
                "send one as `Authorization: Bearer …`, or a key as `X-API-Key: …`".into(),
            ),
            TooManyGuesses { retry_after } => row(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-guesses",
                "Too many wrong keys or tokens came from this address",
                format!("these were not looked at; send the request again in {} s", whole_seconds(*retry_after)),
            ),
            DatasetNotAllowed { allowed } => row(
                StatusCode::FORBIDDEN,
                "dataset-not-allowed",
                "The key or token is not for this dataset",
                format!("the datasets that it may post to are: {allowed}"),
            ),
            DevicesNotAllowed(_) => row(
                StatusCode::FORBIDDEN,
                "device-not-allowed",
                "The key or token is not for any of these devices",
                "no event was accepted; `rejected` lists them".into(),
            ),
            NoSuchPath => row(
                StatusCode::NOT_FOUND,
                "no-such-path",
                "There is nothing here",
                "events are posted to /v1/events/{dataset}".into(),
            ),
            UnknownDataset { known } => row(
                StatusCode::NOT_FOUND,
                "unknown-dataset",
                "There is no such dataset",
                format!("the datasets here are: {known}"),
            ),
            WrongMethod => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong-method",
                "This method is not allowed here",
                "the header Allow names the methods that are".into(),
            ),
            BadQuery => row(
                StatusCode::BAD_REQUEST,
                "bad-query",
                "The query is not understood",
                "`atomic` may be true or false, once".into(),
            ),
            Unsupported(unsupported) => row(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body is of a kind that is not understood",
                detail::unsupported(unsupported),
            ),
            Malformed(malformed) => row(
                StatusCode::BAD_REQUEST,
                "malformed-body",
                "The body is not a sequence of events",
                detail::malformed(malformed),
            ),
            Undecodable(undecodable) => row(
                StatusCode::BAD_REQUEST,
                "undecodable-body",
                "The body is not compressed as it says",
                detail::undecodable(undecodable),
            ),
            Invalid(_) => row(
                StatusCode::BAD_REQUEST,
                "nothing-accepted",
                "No event was accepted",
                "`rejected` says why, event by event".into(),
            ),
            NotWhole { exceeded: None, .. } => row(
                StatusCode::BAD_REQUEST,
                "atomic-batch-refused",
                "No event was stored, because some could not be",
                "`rejected` names the events that keep the batch out and why; send it again without them, or corrected"
                    .into(),
            ),
            NotWhole { exceeded: Some(exceeded), .. } => row(
                StatusCode::TOO_MANY_REQUESTS,
                "atomic-batch-refused",
                "No event was stored, because some come too soon",
                format!(
                    "the limit {} is used up; send the whole batch again in {} s",
                    exceeded.policy.as_str(),
                    whole_seconds(exceeded.wait)
                ),
            ),
            BodyTooLarge { max } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large",
                format!("a body may have {max} bytes, compressed or not; send the events in several requests"),
            ),
            TooManyEvents { max } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-events",
                "There are too many events in one request",
                format!("a request may have {max} events; send them in several requests"),
            ),
            OverBurst { too_much, .. } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "over-burst",
                "There is more in this request than the rate limit ever lets through at once",
                detail::over_burst(too_much),
            ),
            BodyTooSlow => row(
                StatusCode::REQUEST_TIMEOUT,
                "body-too-slow",
                "The body did not arrive in time",
                "send it again, in smaller requests".into(),
            ),
            BodyBroken => row(
                StatusCode::BAD_REQUEST,
                "broken-body",
                "The body could not be read to its end",
                "the connection broke, or the body is not framed as HTTP demands".into(),
            ),
            BadKey(bad) => row(
                StatusCode::BAD_REQUEST,
                "invalid-idempotency-key",
                "This is no idempotency key",
                detail::bad_key(*bad).into(),
            ),
            KeyReused => row(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "This idempotency key came with another body before",
                "nothing was stored; send each body under a key of its own".into(),
            ),
            KeyInUse { retry_after } => row(
                StatusCode::CONFLICT,
                "idempotency-key-in-use",
                "A request of this idempotency key is still under way",
                format!("ask again in {} s, with the same key", whole_seconds(*retry_after)),
            ),
            RateLimited { exceeded, .. } => row(
                StatusCode::TOO_MANY_REQUESTS,
                "rate-limited",
                "Too many events in too short a time",
                format!(
                    "the limit {} is used up; send the events again in {} s",
                    exceeded.policy.as_str(),
                    whole_seconds(exceeded.wait)
                ),
            ),
            Busy { retry_after } => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "The gateway holds as many bytes as it may",
                format!("nothing was stored; send the events again in {} s", whole_seconds(*retry_after)),
            ),
            LogUnavailable { retry_after, .. } => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "log-unavailable",
                "The events could not be stored",
                format!(
                    "it is not known whether they were stored; send them again in {} s, with the same ids",
                    whole_seconds(*retry_after)
                ),
            ),
            Panicked => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal-error",
                "The gateway made a mistake",
                "it is not known whether the events were stored; send them again with the same ids".into(),
            ),
        }
    }

    fn problem(&self, row: Row, request_id: Option<String>) -> Problem<'_> {
        let Row { status, name, title, detail } = row;
        let kind = format!("urn:lakehose:problem:{name}");
        Problem { kind, title, status: status.as_u16(), detail, request_id, report: self.report() }
    }

    pub(crate) fn report(&self) -> Option<&Report> {
        match self {
            Refusal::Invalid(report) | Refusal::DevicesNotAllowed(report) | Refusal::NotWhole { report, .. } => {
                Some(report)
            }
            Refusal::OverBurst { report, .. }
            | Refusal::RateLimited { report, .. }
            | Refusal::LogUnavailable { report, .. } => report.as_deref(),
            _ => None,
        }
    }

    /// What a request came to when none of its events is durable. The reason that asks the device to come back wins over
    /// the one that tells it to give up.
    pub(crate) fn nothing_accepted(report: Report, over: Option<Over>, retry_after: Duration) -> Refusal {
        let unavailable = report.has(Why::LogUnavailable);
        let all_too_large = report.rejected.iter().all(|event| event.reason == Why::Invalid(Reason::TooLarge));
        let report = Box::new(report);
        match over {
            _ if unavailable => Refusal::LogUnavailable { retry_after, report: Some(report) },
            Some(Over::Wait(exceeded)) => Refusal::RateLimited { exceeded, report: Some(report) },
            Some(Over::Never(too_much)) if all_too_large => Refusal::OverBurst { too_much, report: Some(report) },
            _ if report.is_all(Why::DeviceNotAllowed) => Refusal::DevicesNotAllowed(report),
            _ => Refusal::Invalid(report),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        match denied {
            Denied::Unauthenticated { presented } => Refusal::Unauthenticated { presented },
            Denied::Slowed { retry_after } => Refusal::TooManyGuesses { retry_after },
        }
    }
}

impl From<Unsupported> for Refusal {
    fn from(unsupported: Unsupported) -> Refusal {
        Refusal::Unsupported(unsupported)
    }
}

impl From<Over> for Refusal {
    fn from(over: Over) -> Refusal {
        match over {
            Over::Wait(exceeded) => Refusal::RateLimited { exceeded, report: None },
            Over::Never(too_much) => Refusal::OverBurst { too_much, report: None },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let row = self.row();
        let Row { status, name, .. } = row;
        metrics::refused(status, name);
        if let Some(report) = self.report() {
            audit::note(|line| line.report(report));
        }
        // Strings and numbers always serialize; without a body the status still tells the truth.
        let body = serde_json::to_vec(&self.problem(row, correlation::current_id())).unwrap_or_default();
        let content_type = [(CONTENT_TYPE, "application/problem+json")];
        (status, content_type, self.headers(), Extension(audit::Problem(name)), body).into_response()
    }
}

/// The body of a refusal.
#[derive(Serialize)]
pub(crate) struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    report: Option<&'a Report>,
}
