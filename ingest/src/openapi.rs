//! The gateway's own description of what it answers: OpenAPI 3.1.
//!
//! Schemas of answers are made from the types that make the answers, refusals from their table, so the description cannot
//! say anything else than the gateway does. It holds no secret and names no dataset: who may not post may read it too.

mod posting;
mod schemas;

pub(crate) use schemas::reason;

use crate::answer::Report;
use crate::refusal::{Documented, Problem};
use crate::routes::Index;
use serde_json::{Value, json};
use utoipa::{PartialSchema, ToSchema};

/// The whole document.
pub fn openapi() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Lakehose",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Takes events from devices. A 2xx means that every accepted event is durable in the log; \
                            refusals are problem details (RFC 9457) whose `type` programs may rely on.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/events/{dataset}": {"post": posting::operation()},
            "/": {"get": index()},
            "/openapi.json": {"get": page("openapi", "This document", json!({"type": "object"}))},
        },
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key, or a JSON Web Token."},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "certificate": {"type": "mutualTLS", "description": "A client certificate, where `[tls]` asks for one."},
            },
        },
    })
}

/// What `$ref` refers to.
fn components() -> Value {
    let mut components = json!({
        "Event": schemas::event(),
        "Events": schemas::events(),
        "CloudEvent": schemas::cloud_event(),
        "Problem": Problem::schema(),
        "Index": Index::schema(),
        "Report": Report::schema(),
    });
    let mut parts = Vec::new();
    Report::schemas(&mut parts);
    for (name, schema) in parts {
        components[name] = json!(schema);
    }
    components
}

/// `GET /`: who shows a key gets an answer to it.
fn index() -> Value {
    let mut page = page("index", "What is served here", json!({"$ref": "#/components/schemas/Index"}));
    let of_keys = |refusal: &Documented| matches!(refusal.name, "unauthenticated" | "too-many-guesses");
    for (status, refused) in posting::refusals(of_keys) {
        page["responses"][status] = refused;
    }
    page["security"] = security();
    page
}

/// None is needed where the gateway asks for none.
fn security() -> Value {
    json!([{}, {"bearer": []}, {"key": []}, {"certificate": []}])
}

/// What is always there to be read.
fn page(id: &str, summary: &str, schema: Value) -> Value {
    json!({
        "operationId": id,
        "summary": summary,
        "responses": {
            "200": {
                "description": summary,
                "headers": {"X-Request-Id": header("X-Request-Id")},
                "content": {"application/json": {"schema": schema}},
            },
        },
    })
}

/// A header of an answer.
fn header(name: &str) -> Value {
    let (kind, description) = match name.to_ascii_lowercase().as_str() {
        "x-request-id" => ("string", "The request's own id, or the one that it was given; log lines have it too."),
        "retry-after" => ("integer", "Seconds after which the same events may be sent again."),
        "ratelimit-limit" => ("integer", "Events that the limit lets through at once."),
        "ratelimit-remaining" => ("integer", "Events that it would let through now."),
        "ratelimit-reset" => ("integer", "Seconds after which the refused events would pass."),
        "ratelimit-policy" => ("string", "The limit, as draft-ietf-httpapi-ratelimit-headers has it."),
        "ratelimit" => ("string", "What is left of it, likewise."),
        "www-authenticate" => ("string", "How to show who posts."),
        "idempotency-replayed" => ("string", "`true`: an earlier answer of the same `Idempotency-Key`."),
        "accept-encoding" => ("string", "Content codings that are understood."),
        "allow" => ("string", "The methods that are allowed here."),
        "connection" => ("string", "`close`: what is left of the body is not read."),
        _ => ("string", ""),
    };
    json!({"schema": {"type": kind}, "description": description})
}

#[cfg(test)]
mod tests;
