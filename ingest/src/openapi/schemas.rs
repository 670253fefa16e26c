//! What an event looks like, and the sets of names that answers choose from.
//!
//! Events are read by `lake::event`, which knows no schema; its bounds are taken from there, and tests hold what is said
//! here against it.

use crate::answer::{Report, Why};
use crate::refusal::{Problem, documented};
use lake::event::MAX_NAME_BYTES;
use serde_json::{Value, json};
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// The first and the last instant that a time may name, in milliseconds since 1970: the years 1 and 9999.
const FIRST_MILLIS: i64 = -62_135_596_800_000;
const LAST_MILLIS: i64 = 253_402_300_799_999;

/// One event.
pub(super) fn event() -> Value {
    let name = |null: bool, description: &str| {
        let kind = if null { json!(["string", "null"]) } else { json!("string") };
        let description = format!("{description} At most {MAX_NAME_BYTES} bytes of UTF-8.");
        json!({"type": kind, "minLength": 1, "maxLength": MAX_NAME_BYTES, "description": description})
    };
    json!({
        "type": "object",
        "description": "Members that are not named here count as members of `data`, and must not repeat one of it.",
        "required": ["device_id"],
        "properties": {
            "id": name(true, "The same id of the same device is stored once. Without one the gateway makes one up, and \
                              an event that is sent again is stored again."),
            "device_id": name(false, "Events of one device keep their order."),
            "type": {"type": ["string", "null"], "description": "What kind of event it is."},
            "time": {
                "description": "RFC 3339, or milliseconds since 1970; when it was received if absent. Must lie within \
                                the dataset's `max_age` and `max_ahead` of now.",
                "oneOf": [
                    {"type": "string", "format": "date-time"},
                    {"type": "number", "minimum": FIRST_MILLIS, "maximum": LAST_MILLIS},
                    {"type": "null"},
                ],
            },
            "data": {"type": ["object", "null"], "description": "Anything; members that are columns become columns."},
        },
    })
}

/// One event as CloudEvents has it.
pub(super) fn cloud_event() -> Value {
    let text = |description: &str| json!({"type": "string", "minLength": 1, "description": description});
    // The last characters before padding have bits that must be zero.
    let base64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?$";
    json!({
        "type": "object",
        "description": "CloudEvents 1.0. Further attributes become members whose names begin with `ce_`.",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES},
            "source": text("The device, if there is no `subject`: at most 128 bytes then."),
            "type": text("What kind of event it is."),
            "subject": {
                "type": ["string", "null"], "minLength": 1, "maxLength": MAX_NAME_BYTES, "description": "The device.",
            },
            "time": {"type": ["string", "null"], "format": "date-time"},
            "data": {"description": "What is no object becomes the member `data_value`."},
            "data_base64": {"type": ["string", "null"], "pattern": base64, "description": "Instead of `data`."},
        },
    })
}

/// Several.
pub(super) fn events() -> Value {
    json!({"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Event"}})
}

/// Every reason that an event may be rejected for.
pub(crate) fn reason() -> RefOr<Schema> {
    let names = Why::listed().into_iter().map(Why::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

impl PartialSchema for Problem<'_> {
    /// Of its members only those of a report depend on the refusal.
    fn schema() -> RefOr<Schema> {
        let mut names: Vec<&str> = documented().iter().map(|refusal| refusal.name).collect();
        names.sort_unstable();
        names.dedup();
        let types = names.into_iter().map(|name| format!("urn:lakehose:problem:{name}"));
        let text =
            |description: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(description)).build();
        let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(types));
        let status = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(400)).maximum(Some(599));
        let mut problem = ObjectBuilder::new()
            .property("type", kind.description(Some("What programs may rely on.")))
            .property("title", text("The kind of problem, for people."))
            .property("status", status)
            .property("detail", text("This very problem, for people."))
            .property("request_id", text("The answer's `X-Request-Id`."));
        for name in ["type", "title", "status", "detail", "request_id"] {
            problem = problem.required(name);
        }
        if let RefOr::T(Schema::Object(report)) = Report::schema() {
            for (name, schema) in report.properties {
                problem = problem.property(name, schema);
            }
        }
        problem.into()
    }
}
