//! What programs are told of a refusal in headers: when to come back, and with what.

use super::Refusal;
use crate::answer::REPLAYED;
use crate::body::CODINGS;
use crate::decode::Unsupported;
use crate::limits::{Exceeded, Unit};
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

impl Refusal {
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Refusal::RateLimited { exceeded, .. } | Refusal::NotWhole { exceeded: Some(exceeded), .. } => {
                headers.insert(RETRY_AFTER, whole_seconds(exceeded.wait).into());
                rate_limit_headers(exceeded, &mut headers);
            }
            Refusal::Unauthenticated { presented } => {
                let challenge = match presented {
                    true => "Bearer realm=\"lakehose\", error=\"invalid_token\"",
                    false => "Bearer realm=\"lakehose\"",
                };
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Refusal::TooManyGuesses { retry_after }
            | Refusal::Busy { retry_after }
            | Refusal::LogUnavailable { retry_after, .. }
            | Refusal::KeyInUse { retry_after } => {
                headers.insert(RETRY_AFTER, whole_seconds(*retry_after).into());
            }
            Refusal::Unsupported(Unsupported::ContentEncoding(_)) => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(CODINGS));
            }
            Refusal::Invalid(report) => headers.extend(report.replayed.then_some(REPLAYED)),
            Refusal::BodyTooSlow | Refusal::BodyBroken => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        headers
    }
}

/// `RateLimit-Limit`, `-Remaining` and `-Reset` as clients know them, and the two structured fields that the IETF draft
/// (draft-ietf-httpapi-ratelimit-headers) has put in their place.
fn rate_limit_headers(exceeded: &Exceeded, headers: &mut HeaderMap) {
    let Exceeded { policy, rate, remaining, wait } = exceeded;
    let (name, burst, reset) = (policy.as_str(), rate.burst(), whole_seconds(*wait));
    let window = whole_seconds(rate.refill());
    headers.insert("ratelimit-limit", burst.get().into());
    headers.insert("ratelimit-remaining", (*remaining).into());
    headers.insert("ratelimit-reset", reset.into());
    let mut structured = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let unit = match policy.unit {
        Unit::Events => "",
        Unit::Bytes => ";qu=\"content-bytes\"",
    };
    structured("ratelimit-policy", format!("\"{name}\";q={burst};w={window}{unit}"));
    structured("ratelimit", format!("\"{name}\";r={remaining};t={reset}"));
}

/// Rounded up, for who comes back early is refused again; and at least one.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
