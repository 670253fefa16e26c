//! What became of every event of a request, as the device is told.
//!
//! A device must know of each event whether to send it again, so every rejected event is listed, by its index. Only the
//! first [`DETAILED`] carry `id` and `detail`, to bound the size of the answer to a body of nothing but mistakes.

use crate::decode::shorten;
use crate::openapi::reason;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lake::event::{Invalid, Reason};
use serde::{Serialize, Serializer};
use strum::{EnumCount, VariantArray};
use utoipa::ToSchema;

/// Rejections that carry `id` and `detail`.
pub(crate) const DETAILED: usize = 1_000;

/// Tells that an answer is an earlier one.
pub(crate) const REPLAYED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));

/// The body of a 202, and part of the refusal when nothing was accepted.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Report {
    /// Events that are durable in the log.
    pub(crate) accepted: usize,
    /// Events that repeat the `device_id` and `id` of an earlier one in the same request; not stored again.
    pub(crate) duplicates: usize,
    pub(crate) rejected: Vec<Rejection>,
    /// It is the answer to an earlier request of the same idempotency key.
    #[serde(skip)]
    pub(crate) replayed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Rejection {
    /// Position in the array, or among the lines that are not blank.
    pub(crate) index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(serialize_with = "name")]
    #[schema(schema_with = reason)]
    pub(crate) reason: Why,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Why one event was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount)]
pub(crate) enum Why {
    /// It will never be accepted as it is.
    Invalid(Reason),
    /// It is not what CloudEvents demands.
    InvalidCloudEvent,
    /// The key or token it came with is not for its device.
    DeviceNotAllowed,
    /// Its device is over its limit: send it again later.
    RateLimited,
    /// Others of its batch could not be stored, and the batch was to be stored whole. Never listed, only counted.
    NotWhole,
    /// The log did not take it, or did not say so: send it again.
    LogUnavailable,
}

impl Why {
    /// All that an answer may list. A record without a value is never posted.
    pub(crate) fn listed() -> Vec<Why> {
        let invalid =
            Reason::VARIANTS.iter().filter(|reason| **reason != Reason::Empty).map(|reason| Why::Invalid(*reason));
        invalid.chain([Why::InvalidCloudEvent, Why::DeviceNotAllowed, Why::RateLimited, Why::LogUnavailable]).collect()
    }

    /// Whether it would be the same if the event came again.
    pub(crate) fn is_final(self) -> bool {
        match self {
            Why::Invalid(_) | Why::InvalidCloudEvent | Why::DeviceNotAllowed => true,
            Why::RateLimited | Why::NotWhole | Why::LogUnavailable => false,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Why::Invalid(reason) => reason.as_str(),
            Why::InvalidCloudEvent => "invalid_cloudevent",
            Why::DeviceNotAllowed => "device_not_allowed",
            Why::RateLimited => "rate_limited",
            Why::NotWhole => "not_whole",
            Why::LogUnavailable => "log_unavailable",
        }
    }
}

fn name<S: Serializer>(why: &Why, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(why.as_str())
}

impl Report {
    /// Lists an event as rejected. `id` and `detail` are asked for only while they are listed.
    pub(crate) fn reject(
        &mut self,
        index: usize,
        reason: Why,
        id: impl FnOnce() -> Option<String>,
        detail: impl FnOnce() -> String,
    ) {
        let detailed = self.rejected.len() < DETAILED;
        let (id, detail) = if detailed { (id(), Some(detail())) } else { (None, None) };
        self.rejected.push(Rejection { index: index as u32, id, reason, detail });
    }

    /// Lists an event as invalid.
    pub(crate) fn invalid(&mut self, index: usize, invalid: &Invalid, id: Option<&str>) {
        let Invalid { reason, detail } = invalid;
        self.reject(index, Why::Invalid(*reason), || id.map(str::to_owned), || shorten(detail));
    }

    /// Whether events were rejected, and all of them for this reason.
    pub(crate) fn is_all(&self, why: Why) -> bool {
        !self.rejected.is_empty() && self.rejected.iter().all(|rejection| rejection.reason == why)
    }

    /// Whether any event was rejected for this reason.
    pub(crate) fn has(&self, why: Why) -> bool {
        self.rejected.iter().any(|rejection| rejection.reason == why)
    }
}

impl IntoResponse for Report {
    fn into_response(self) -> Response {
        // Strings and numbers always serialize; an empty body would still not claim that events were refused.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        response.headers_mut().extend(self.replayed.then_some(REPLAYED));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_documented_json() {
        let mut report = Report { accepted: 2, ..Report::default() };
        let invalid = Invalid { reason: Reason::InvalidTime, detail: "too old".into() };
        report.invalid(1, &invalid, Some("a"));
        report.reject(2, Why::RateLimited, || None, || "wait".into());
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"accepted":2,"duplicates":0,"rejected":[{"index":1,"id":"a","reason":"invalid_time","detail":"too old"},{"index":2,"reason":"rate_limited","detail":"wait"}]}"#
        );
    }

    #[test]
    fn every_rejection_is_listed_and_only_the_first_are_explained() {
        let mut report = Report::default();
        for index in 0..DETAILED + 5 {
            report.reject(index, Why::LogUnavailable, || Some("id".into()), || "x".into());
        }
        assert_eq!(report.rejected.len(), DETAILED + 5);
        assert!(report.rejected[DETAILED - 1].detail.is_some());
        assert_eq!((&report.rejected[DETAILED].detail, &report.rejected[DETAILED].id), (&None, &None));
    }

    #[test]
    fn a_strangers_text_cannot_make_the_detail_long() {
        let mut report = Report::default();
        let invalid = Invalid { reason: Reason::AmbiguousMember, detail: "é".repeat(100_000) };
        report.invalid(0, &invalid, None);
        assert!(report.rejected[0].detail.as_ref().unwrap().len() < 1_000);
    }
}
