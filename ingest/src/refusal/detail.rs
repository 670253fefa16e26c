//! What people are told of a refusal that has several causes.

use crate::body::{CODINGS, Undecodable};
use crate::decode::{ACCEPTED, BINARY, Malformed, Unsupported};
use crate::idempotency::BadKey;
use crate::limits::{TooMuch, Unit};

pub(super) fn unsupported(unsupported: &Unsupported) -> String {
    match unsupported {
        Unsupported::ContentType(None) => {
            format!("say what the body is with Content-Type: one of {ACCEPTED}, in UTF-8; or {BINARY} for a CloudEvent")
        }
        Unsupported::ContentType(Some(found)) => {
            format!(
                "`{found}` is not understood; Content-Type may be one of {ACCEPTED}, in UTF-8, or any with {BINARY}"
            )
        }
        Unsupported::ContentEncoding(found) => {
            format!("`{found}` is not understood; Content-Encoding may be one of {CODINGS}, and only one")
        }
    }
}

pub(super) fn undecodable(undecodable: &Undecodable) -> String {
    let Undecodable { coding, at, problem } = undecodable;
    format!("the body is not {coding} as HTTP has it, about {at} bytes from its start: {problem}")
}

pub(super) fn bad_key(bad: BadKey) -> &'static str {
    match bad {
        BadKey::Several => "a request may have one Idempotency-Key",
        BadKey::Form => "an Idempotency-Key is a string in double quotes, of 1 to 256 visible characters",
    }
}

pub(super) fn malformed(malformed: &Malformed) -> String {
    match malformed {
        Malformed::Empty => "there is no event in the body".into(),
        Malformed::Utf8 { at } => format!("the body is not UTF-8 from byte {at} on"),
        Malformed::Json(problem) => format!("the body is not JSON: {problem}"),
        Malformed::TooManyEvents => "there are too many events in the body".into(),
    }
}

pub(super) fn over_burst(too_much: &TooMuch) -> String {
    let TooMuch { policy, largest } = too_much;
    let unit = match policy.unit {
        Unit::Events => "events",
        Unit::Bytes => "bytes",
    };
    format!("the limit {} lets at most {largest} {unit} through at once; send less in one request", policy.as_str())
}
