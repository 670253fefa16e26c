//! `POST /v1/events/{dataset}`: what may be sent, and every answer with an example.

use super::{header, security};
use crate::answer::Report;
use crate::body::CODINGS;
use crate::decode::BINARY;
use crate::refusal::{Documented, documented};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(super) fn operation() -> Value {
    json!({
        "operationId": "postEvents",
        "summary": "Post events",
        "description": "Events are answered for one by one: what is invalid is listed in `rejected`, the rest is accepted. \
                        If nothing was accepted the answer is a refusal. A device sends again, with the same ids, what \
                        was refused with 408, 429, 500 or 503, what is listed as `rate_limited` or `log_unavailable`, and \
                        what was not answered.",
        "security": security(),
        "parameters": parameters(),
        "requestBody": body(),
        "responses": responses(),
    })
}

fn parameters() -> Value {
    let optional = |name: &str, description: &str| json!({"name": name, "in": "header", "required": false, "description": description, "schema": {"type": "string"}});
    json!([
        {
            "name": "dataset", "in": "path", "required": true, "schema": {"type": "string"},
            "description": "A configured dataset.",
        },
        {
            "name": "atomic", "in": "query", "required": false, "schema": {"type": "boolean", "default": false},
            "description": "All events of the request are stored, or none.",
        },
        optional(
            "Idempotency-Key",
            "A request that is sent again under its key gets the answer that it had the first time. A string in double \
             quotes, of 1 to 256 visible characters; without quotes it is understood too.",
        ),
        optional("X-Request-Id", "An id of 1 to 128 visible ASCII characters without quotes and backslashes is taken \
            over into the answer and into log lines; instead of any other the request is given one."),
        optional("traceparent", "W3C Trace Context: a valid one is continued into the records."),
        optional("tracestate", "Goes with `traceparent`."),
    ])
}

fn body() -> Value {
    let one = json!({
        "id": "b7c1", "device_id": "sensor-1", "type": "reading", "time": "2026-01-31T12:00:00Z", "data": {"temp": 21.5},
    });
    let cloud_event = json!({
        "specversion": "1.0", "id": "b7c1", "source": "sensor-1", "type": "reading", "data": {"temp": 21.5},
    });
    json!({
        "required": true,
        "description": format!(
            "`Content-Encoding` may be one of {CODINGS}. With the header `{BINARY}` the body is the data of a CloudEvent \
             in binary mode, of any content type, and its attributes are headers."
        ),
        "content": {
            "application/cloudevents+json": {
                "schema": {"$ref": "#/components/schemas/CloudEvent"},
                "examples": {"one": {"summary": "One CloudEvent", "value": cloud_event}},
            },
            "application/cloudevents-batch+json": {
                "schema": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/CloudEvent"}},
                "examples": {"several": {"summary": "CloudEvents", "value": [cloud_event]}},
            },
            "application/json": {
                "schema": {
                    "oneOf": [{"$ref": "#/components/schemas/Event"}, {"$ref": "#/components/schemas/Events"}],
                },
                "examples": {
                    "one": {"summary": "One event", "value": one},
                    "several": {"summary": "Several", "value": [one, {"device_id": "sensor-2"}]},
                },
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "An `Event` in each line; blank lines do not count."},
                "examples": {
                    "lines": {"summary": "Two events", "value": format!("{one}\n{{\"device_id\":\"sensor-2\"}}\n")},
                },
            },
        },
    })
}

fn responses() -> Value {
    let mut responses = Map::new();
    responses.insert("202".into(), accepted());
    responses.extend(refusals(|_| true));
    responses.into()
}

/// Those that are asked for, by status.
pub(super) fn refusals(which: impl Fn(&Documented) -> bool) -> impl Iterator<Item = (String, Value)> {
    let mut by_status: BTreeMap<u16, Vec<Documented>> = BTreeMap::new();
    for refusal in documented().into_iter().filter(which) {
        by_status.entry(refusal.status.as_u16()).or_default().push(refusal);
    }
    by_status.into_iter().map(|(status, refusals)| (status.to_string(), refused(&refusals)))
}

fn accepted() -> Value {
    let some = Report { accepted: 2, ..Report::default() };
    json!({
        "description": "What is accepted is durable in the log. The rest is listed.",
        "headers": {
            "X-Request-Id": header("X-Request-Id"),
            "Idempotency-Replayed": header("Idempotency-Replayed"),
        },
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Report"},
                "examples": {"accepted": {"summary": "All accepted", "value": some}},
            },
        },
    })
}

/// All refusals of one status.
fn refused(refusals: &[Documented]) -> Value {
    let description: Vec<String> =
        refusals.iter().map(|refusal| format!("- `{}`: {}", refusal.name, refusal.when)).collect();
    let mut headers = Map::new();
    let names = refusals.iter().flat_map(|refusal| refusal.headers.keys());
    for name in names.map(|name| name.as_str()).chain(["x-request-id"]) {
        headers.insert(canonical(name), header(name));
    }
    if refusals.iter().any(|refusal| refusal.status == 405) {
        headers.insert("Allow".into(), header("Allow"));
    }
    let examples: Map<String, Value> = refusals
        .iter()
        .map(|Documented { name, title, when, advice, body, .. }| {
            let description = format!("{when} {advice}");
            let example = json!({
                "summary": title, "description": description, "value": body, "x-when": when, "x-advice": advice,
            });
            (String::from(*name), example)
        })
        .collect();
    json!({
        "description": description.join("\n"),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": examples,
            },
        },
    })
}

/// `retry-after` as people write it.
fn canonical(name: &str) -> String {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    let name = name.split('-').map(capital).collect::<Vec<_>>().join("-");
    name.replace("Ratelimit", "RateLimit")
}
