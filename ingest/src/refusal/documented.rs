//! What the documentation says of every refusal, beside what its answer says itself.
//!
//! `match` asks for a text for each new one, and a test for its example; the OpenAPI document and `docs/REFUSALS.md` are
//! made from them.

use super::{Problem, Refusal, Row};
use crate::answer::{Report, Why};
use crate::body::Undecodable;
use crate::config::Limit;
use crate::decode::{Malformed, Unsupported};
use crate::limits::{Exceeded, Policy, Scope, TooMuch, Unit};
use axum::http::{HeaderMap, StatusCode};
use lake::event::Reason;
use std::num::NonZeroU64;
use std::time::Duration;

/// One refusal as documents show it.
pub(crate) struct Documented {
    pub(crate) status: StatusCode,
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// When a device gets it.
    pub(crate) when: &'static str,
    /// What the device should do.
    pub(crate) advice: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: serde_json::Value,
}

/// All of them, in the order in which a request may meet them.
pub(crate) fn documented() -> Vec<Documented> {
    examples().iter().map(Documented::of).collect()
}

impl Documented {
    fn of(refusal: &Refusal) -> Documented {
        let row = refusal.row();
        let Row { status, name, title, .. } = row;
        let (when, advice) = texts(refusal);
        let request_id = Some("019aa2f0-5d3c-7c44-8f0e-3b1d2c4a5e6f".to_owned());
        let problem: Problem<'_> = refusal.problem(row, request_id);
        let body = serde_json::to_value(&problem).expect("strings and numbers always serialize");
        Documented { status, name, title, when, advice, headers: refusal.headers(), body }
    }
}

/// When it comes, and what a device should do.
fn texts(refusal: &Refusal) -> (&'static str, &'static str) {
    use Refusal::*;
    match refusal {
        NoSuchPath => ("The path is none of the gateway's.", "Correct the address."),
        UnknownDataset { .. } => ("The dataset of the path is not configured here.", "Correct the address."),
        WrongMethod => ("Another method than those that `Allow` names.", "Use one of them."),
        Unauthenticated { .. } => (
            "A key or token is asked for, and there is none or no good one; which is not told.",
            "Give the device a good one; until then it sends rarely, once a minute.",
        ),
        TooManyGuesses { .. } => (
            "Too many wrong keys or tokens came from the address; those of this request were not looked at.",
            "Wait for `Retry-After` seconds, then send the same events again.",
        ),
        DatasetNotAllowed { .. } => (
            "The key or token is good, but not for this dataset, or there is no such dataset.",
            "Correct the address, or give the device another key.",
        ),
        DevicesNotAllowed(_) => (
            "The key or token is good, but not for any of the `device_id`s in the body.",
            "Give the device another key; until then it sends rarely, once a minute.",
        ),
        BadQuery => ("A parameter of the query has a value that means nothing.", "Correct the address."),
        BadKey(_) => (
            "`Idempotency-Key` comes twice, or is no string of 1 to 256 visible characters.",
            "Send the events with one good key, or with none.",
        ),
        KeyReused => (
            "The `Idempotency-Key` came before with another body: one of the two would be lost.",
            "Send each body under a key of its own.",
        ),
        KeyInUse { .. } => (
            "The request that has the `Idempotency-Key` is under way for long, or too many wait for its answer.",
            "Wait for `Retry-After` seconds, then send the same body again under the same key.",
        ),
        NotWhole { exceeded: None, .. } => (
            "With `atomic=true`: an event that cannot be stored keeps the others out; `rejected` names it.",
            "Send the batch again without such events, or corrected.",
        ),
        NotWhole { .. } => (
            "With `atomic=true`: a device of the batch is over its limit.",
            "Wait for `Retry-After` seconds, then send the whole batch again.",
        ),
        Unsupported(_) => (
            "`Content-Type` or `Content-Encoding` is missing or names what the gateway does not read.",
            "Send the events in one of the forms that `detail` names.",
        ),
        Undecodable(_) => (
            "The body is not what `Content-Encoding` says: not of that form, cut short, or with something behind its end.",
            "Send the events again, compressed anew or not at all.",
        ),
        Malformed(_) => (
            "The body as a whole cannot be taken apart into events: it is empty, no UTF-8, or no JSON array.",
            "Do not send it again as it is.",
        ),
        Invalid(_) => (
            "Every event of the body is invalid; `rejected` says why, one by one.",
            "Do not send them again as they are.",
        ),
        BodyTooLarge { .. } => ("The body has more bytes than `[ingest] max_body`.", "Send fewer events at once."),
        TooManyEvents { .. } => ("The body has more events than `[ingest] max_events`.", "Send fewer events at once."),
        OverBurst { .. } => (
            "A rate limit never lets so many events or bytes through at once, however long the device waits.",
            "Send at most so much at once as `detail` says.",
        ),
        BodyTooSlow => (
            "The body took longer than `[ingest] body_timeout`, or came more slowly than `[ingest] min_rate`.",
            "Send it again, in smaller requests.",
        ),
        BodyBroken => ("The connection broke within the body, or its framing is not HTTP.", "Send it again."),
        RateLimited { .. } => (
            "A rate limit of the device, its key, its address, the dataset or the gateway is used up.",
            "Wait for `Retry-After` seconds, then send the same events again.",
        ),
        Busy { .. } => (
            "Requests under way hold as many bytes as `[ingest] max_in_flight` allows.",
            "Nothing was stored: wait for `Retry-After` seconds, then send the same events again.",
        ),
        LogUnavailable { .. } => (
            "The log did not take the events, or did not say so in time.",
            "Wait for `Retry-After` seconds, then send the same events again, with the same ids.",
        ),
        Panicked => (
            "A mistake in the gateway; its log has a line with the request's id.",
            "Send the events again, with the same ids, after a while.",
        ),
    }
}

/// One of each.
fn examples() -> Vec<Refusal> {
    use Refusal::*;
    let retry_after = Duration::from_secs(7);
    let rate = Limit::new(10.0, 20).expect("a limit").events.expect("of events");
    let policy = |scope| Policy { scope, unit: Unit::Events };
    let exceeded = Exceeded { policy: policy(Scope::Device), rate, remaining: 0, wait: Duration::from_millis(1_500) };
    let too_much = TooMuch { policy: policy(Scope::Ip), largest: NonZeroU64::MIN.saturating_add(999) };
    vec![
        NoSuchPath,
        UnknownDataset { known: "events, heartbeats".into() },
        WrongMethod,
        Unauthenticated { presented: true },
        TooManyGuesses { retry_after },
        DatasetNotAllowed { allowed: "heartbeats".into() },
        BadQuery,
        Unsupported(self::Unsupported::ContentType(Some("text/plain".into()))),
        BodyTooLarge { max: 8 << 20 },
        BadKey(crate::idempotency::BadKey::Form),
        BodyTooSlow,
        BodyBroken,
        Busy { retry_after },
        KeyReused,
        KeyInUse { retry_after },
        Undecodable(self::Undecodable { coding: "gzip", at: 1_024, problem: "it is cut short".into() }),
        Malformed(self::Malformed::Json("EOF while parsing a list at line 1 column 5".into())),
        TooManyEvents { max: 50_000 },
        OverBurst { too_much, report: None },
        Invalid(report(Why::Invalid(Reason::InvalidTime), "`time` must be RFC 3339, as 2026-01-31T12:00:00Z")),
        DevicesNotAllowed(report(Why::DeviceNotAllowed, "the key is not for this device")),
        NotWhole { report: report(Why::Invalid(Reason::InvalidTime), "too old"), exceeded: None },
        NotWhole { report: report(Why::RateLimited, "the device is over its limit"), exceeded: Some(exceeded) },
        RateLimited {
            exceeded,
            report: Some(report(Why::RateLimited, "the device is over its limit; send the event again in 1.5 s")),
        },
        LogUnavailable {
            retry_after,
            report: Some(report(Why::LogUnavailable, "the event was not stored; send it again")),
        },
        Panicked,
    ]
}

fn report(why: Why, detail: &str) -> Box<Report> {
    let mut report = Report::default();
    report.reject(0, why, || Some("b7c1".into()), || detail.into());
    Box::new(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::mem::discriminant;
    use strum::EnumCount;

    #[test]
    fn every_refusal_has_an_example() {
        let examples = examples();
        let kinds: HashSet<_> = examples.iter().map(discriminant).collect();
        assert_eq!(kinds.len(), Refusal::COUNT, "a variant of Refusal has no example here");
    }

    #[test]
    fn no_two_refusals_have_a_name_in_common() {
        let documented = documented();
        let names: HashSet<_> = documented.iter().map(|refusal| (refusal.status, refusal.name)).collect();
        assert_eq!(names.len(), documented.len());
        for refusal in documented {
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(refusal.name.chars().all(plain), "{}", refusal.name);
            assert!(refusal.status.is_client_error() || refusal.status.is_server_error(), "{}", refusal.name);
        }
    }
}
