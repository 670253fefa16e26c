use super::*;
use crate::answer::Why;
use crate::decode::ACCEPTED;
use lake::event::{Event, MAX_NAME_BYTES, Reason};
use std::collections::BTreeSet;
use strum::{EnumCount, VariantArray};

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn the_document_is_openapi_3_1() {
    let document = openapi();
    let parsed: utoipa::openapi::OpenApi = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(parsed.paths.paths.len(), 3);
}

#[test]
fn what_is_referred_to_is_there() {
    let document = openapi();
    let text = document.to_string();
    let references: BTreeSet<&str> =
        text.split("\"#/components/schemas/").skip(1).map(|rest| &rest[..rest.find('"').unwrap()]).collect();
    assert!(references.len() > 4);
    for name in references {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[test]
fn every_refusal_has_an_example_that_is_of_the_schema() {
    let document = openapi();
    let schema = &document["components"]["schemas"]["Problem"];
    let required = strings(&schema["required"]);
    let types = strings(&schema["properties"]["type"]["enum"]);
    let mut shown = BTreeSet::new();
    for (status, response) in document["paths"]["/v1/events/{dataset}"]["post"]["responses"].as_object().unwrap() {
        let Some(content) = response["content"].get("application/problem+json") else { continue };
        for (name, example) in content["examples"].as_object().unwrap() {
            let body = example["value"].as_object().unwrap();
            assert_eq!(body["status"].to_string(), *status, "{name}");
            assert!(required.iter().all(|member| body.contains_key(*member)), "{name}");
            assert!(body.keys().all(|member| schema["properties"].get(member).is_some()), "{name}");
            shown.insert(body["type"].as_str().unwrap());
        }
    }
    assert_eq!(shown, types);
}

#[test]
fn every_header_of_an_answer_is_explained() {
    let document = openapi();
    for (status, response) in document["paths"]["/v1/events/{dataset}"]["post"]["responses"].as_object().unwrap() {
        for (name, header) in response["headers"].as_object().unwrap() {
            assert_ne!(header["description"], "", "{name} of {status}");
        }
    }
}

#[test]
fn the_reasons_are_those_of_the_code() {
    let document = openapi();
    let listed = strings(&document["components"]["schemas"]["Rejection"]["properties"]["reason"]["enum"]);
    // All of `Why` but `NotWhole`, which is only counted, and in the place of `Invalid` the reasons of `lake`; no request
    // is a record without a value.
    assert_eq!(listed.len(), Why::COUNT - 2 + Reason::VARIANTS.len() - 1);
    assert!(listed.contains("invalid_time") && listed.contains("log_unavailable") && !listed.contains("empty"));
}

#[test]
fn every_content_type_that_is_understood_is_described() {
    let document = openapi();
    let content = &document["paths"]["/v1/events/{dataset}"]["post"]["requestBody"]["content"];
    let described: BTreeSet<&str> = content.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, ACCEPTED.split(", ").collect());
}

/// What the schema says of the members of an event is what `lake::event` does.
#[test]
fn the_bounds_of_an_event_are_those_of_the_code() {
    let accepts = |event: Value| Event::parse(event.to_string().as_bytes()).is_ok();
    let properties = schemas::event()["properties"].clone();
    let time = &properties["time"]["oneOf"][1];
    let (first, last) = (time["minimum"].as_i64().unwrap(), time["maximum"].as_i64().unwrap());
    for (millis, within) in [(first, true), (last, true), (first - 1, false), (last + 1, false)] {
        assert_eq!(accepts(json!({"device_id": "a", "time": millis})), within, "{millis}");
    }
    for member in ["id", "device_id"] {
        assert_eq!(properties[member]["maxLength"], MAX_NAME_BYTES);
        for (length, within) in [(0, false), (1, true), (MAX_NAME_BYTES, true), (MAX_NAME_BYTES + 1, false)] {
            let mut event = json!({"device_id": "a"});
            event[member] = "x".repeat(length).into();
            assert_eq!(accepts(event), within, "{member} of {length}");
        }
    }
    for (member, null) in [("id", true), ("device_id", false), ("type", true), ("time", true), ("data", true)] {
        let mut event = json!({"device_id": "a"});
        event[member] = Value::Null;
        assert_eq!(accepts(event), null, "{member}");
        let said = properties[member].to_string().contains("\"null\"");
        assert_eq!(said, null, "{member}");
    }
}
