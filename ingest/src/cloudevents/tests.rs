use super::*;
use axum::http::{HeaderName, HeaderValue};
use lake::event::Event;
use proptest::prelude::*;
use serde_json::{Value, json};

fn structured(events: &str) -> Native {
    let form = if events.trim_start().starts_with('[') { Form::CloudEventBatch } else { Form::CloudEvent };
    translate(form, &HeaderMap::new(), events.as_bytes(), 100).unwrap().unwrap()
}

fn binary(headers: &[(&str, &str)], body: &[u8]) -> Native {
    let required = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let mut all = HeaderMap::new();
    for (name, value) in required.iter().chain(headers) {
        all.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    translate(Form::CloudEventBinary, &all, body, 100).unwrap().unwrap()
}

/// The only event, which is one for the gateway and the processor too.
fn only(native: &Native) -> Value {
    assert_eq!(native.refused, HashMap::new());
    let [text] = native.events()[..] else { panic!("{native:?}") };
    Event::parse(text.as_bytes()).unwrap();
    serde_json::from_str(text).unwrap()
}

fn refused(native: &Native, index: usize) -> (&'static str, &str) {
    let refused = &native.refused[&index];
    assert_eq!(native.events()[index], "");
    (refused.why.as_str(), &refused.detail)
}

/// With the required attributes in front.
fn event(more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{more}}}"#)
}

#[test]
fn attributes_become_members_and_nothing_is_dropped() {
    let text = event(
        r#","subject":"dev","time":"2026-01-31T12:00:00Z","dataschema":"https://x/y","datacontenttype":"application/json",
           "partitionkey":"k","sequence":7,"sampled":true,"data":{"source":"mine","t":1.50}"#,
    );
    let native = structured(&text);
    assert!(native.events()[0].contains(r#""data":{"source":"mine","t":1.50}"#), "the sender's own bytes");
    assert_eq!(
        only(&native),
        json!({
            "id": "1", "device_id": "dev", "type": "t", "time": "2026-01-31T12:00:00Z",
            "data": {"source": "mine", "t": 1.5},
            "ce_source": "/s", "ce_dataschema": "https://x/y", "ce_datacontenttype": "application/json",
            "ce_partitionkey": "k", "ce_sequence": 7, "ce_sampled": true,
        })
    );
    let parsed = Event::parse(native.events()[0].as_bytes()).unwrap();
    assert_eq!(parsed.others.iter().map(|(name, _)| &**name).collect::<Vec<_>>()[..2], ["ce_source", "ce_dataschema"]);
}

#[test]
fn the_device_is_the_subject_or_else_the_source() {
    assert_eq!(only(&structured(&event(r#","subject":"dev""#)))["device_id"], "dev");
    assert_eq!(only(&structured(&event(r#","subject":null"#)))["device_id"], "/s");
    assert_eq!(only(&binary(&[("ce-subject", "dev")], b""))["device_id"], "dev");
    assert_eq!(only(&binary(&[], b"")), json!({"id": "1", "device_id": "/s", "type": "t", "ce_source": "/s"}));
}

#[test]
fn no_attribute_can_pass_for_a_member_of_the_event() {
    let native = structured(&event(r#","device_id":"evil","data_value":1,"ce_source":"x","subject":"dev""#));
    let found = only(&native);
    assert_eq!((&found["device_id"], &found["ce_device_id"]), (&json!("dev"), &json!("evil")));
    assert_eq!((&found["ce_data_value"], &found["ce_ce_source"]), (&json!(1), &json!("x")));
    let found = only(&binary(&[("ce-device_id", "evil"), ("ce-data", "no")], b"{}"));
    assert_eq!(
        (&found["device_id"], &found["ce_device_id"], &found["ce_data"]),
        (&json!("/s"), &json!("evil"), &json!("no"))
    );

    let taken = structured(&event(r#","data":{"ce_source":1}"#));
    assert!(Event::parse(taken.events()[0].as_bytes()).unwrap_err().detail.contains("`ce_source` is given twice"));
}

#[test]
fn data_that_is_no_object_is_kept_under_another_name() {
    for value in ["21.5", "true", r#""text""#, "[1,2]", r#""{}""#] {
        let found = only(&structured(&event(&format!(r#","data":{value}"#))));
        assert_eq!(found["data_value"].to_string(), value);
        assert!(found.get("data").is_none());
    }
    let found = only(&structured(&event(r#","data_base64":"AAH/""#)));
    assert_eq!((&found["data_base64"], found.get("data")), (&json!("AAH/"), None));
    assert!(only(&structured(&event(r#","data":null,"data_base64":null"#))).get("data").is_none());
}

#[test]
fn what_the_data_of_the_binary_mode_is_its_content_type_alone_decides() {
    let data = |content_type: &str, body: &[u8]| {
        let headers = [("content-type", content_type)];
        let mut found = only(&binary(&headers[..usize::from(!content_type.is_empty())], body));
        let found = found.as_object_mut().unwrap();
        let kept = found.remove("ce_datacontenttype");
        assert_eq!(kept.as_ref().and_then(Value::as_str).unwrap_or_default(), content_type);
        ["data", "data_value", "data_base64"]
            .into_iter()
            .filter_map(|name| Some((name, found.remove(name)?)))
            .collect::<Vec<_>>()
    };
    let object = br#" {"t": 1} "#;
    for json_type in ["application/json", "application/json; charset=utf-8", "APPLICATION/vnd.x+JSON", ""] {
        assert_eq!(data(json_type, object), [("data", json!({"t": 1}))], "{json_type}");
        assert_eq!(data(json_type, b"7"), [("data_value", json!(7))]);
        assert_eq!(data(json_type, b""), []);
        assert_eq!(data(json_type, b" null "), []);
        assert_eq!(refused(&binary(&[("content-type", "text/json")], b"{oops"), 0).0, "invalid_data");
    }
    assert_eq!(data("text/plain", b"7"), [("data_value", json!("7"))]);
    assert_eq!(data("application/atom+xml", b"<x>\"\n</x>"), [("data_value", json!("<x>\"\n</x>"))]);
    assert_eq!(data("text/plain; charset=latin1", b"\xe9"), [("data_base64", json!("6Q=="))]);
    assert_eq!(data("application/octet-stream", b"7"), [("data_base64", json!("Nw=="))]);
}

#[test]
fn values_of_headers_are_unquoted_and_decoded_once() {
    for (value, decoded) in [
        ("plain", "plain"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%2520", "%20"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        (r#""a \"b\" \\ c%20d""#, r#"a "b" \ c d"#),
        ("%22%0A%00", "\"\n\0"),
        (r#"""#, r#"""#),
        ("sénsor", "sénsor"),
    ] {
        assert_eq!(only(&binary(&[("ce-subject", value)], b""))["device_id"], decoded, "{value}");
    }
    let (why, detail) = ("invalid_cloudevent", "the attribute `subject` is not UTF-8");
    assert_eq!(refused(&binary(&[("ce-subject", "%ff")], b""), 0), (why, detail));
}

#[test]
fn what_is_missing_or_wrong_is_named_with_the_id_if_it_has_one() {
    let without = |name: &str| {
        let mut all: Value = serde_json::from_str(&event("")).unwrap();
        all.as_object_mut().unwrap().remove(name);
        all.to_string()
    };
    for name in ["specversion", "id", "source", "type"] {
        let native = structured(&without(name));
        assert_eq!(refused(&native, 0), ("invalid_cloudevent", &*format!("the attribute `{name}` is required")));
        assert_eq!(native.refused[&0].id.as_deref(), (name != "id").then_some("1"));
    }
    for (more, why, detail) in [
        (r#","specversion":"0.3""#, "ambiguous_member", "`specversion`"),
        (r#","subject":7"#, "invalid_cloudevent", "`subject` must be a string"),
        (r#","time":1763800000000"#, "invalid_cloudevent", "`time` must be a string"),
        (r#","subject":"""#, "invalid_cloudevent", "`subject` must not be empty"),
        (r#","id":"2""#, "ambiguous_member", "`id` is given twice"),
        (r#","data":1,"data_base64":"AA==""#, "ambiguous_member", "data_base64"),
        (r#","data":{},"data":{}"#, "ambiguous_member", "only once"),
        (r#","data_base64":"?""#, "invalid_data", "base64"),
        (r#","data_base64":{}"#, "invalid_data", "base64"),
    ] {
        let native = structured(&event(more));
        let (found, found_detail) = refused(&native, 0);
        assert!(found == why && found_detail.contains(detail), "{more}: {found} {found_detail}");
        assert_eq!(native.refused[&0].id.as_deref(), Some("1"));
    }
    let old = event("").replace("1.0", "0.3");
    assert_eq!(
        refused(&structured(&old), 0),
        ("invalid_cloudevent", r#"`specversion` is "0.3"; only "1.0" is understood"#)
    );
    assert_eq!(refused(&binary(&[("ce-id", "2")], b""), 0).0, "ambiguous_member");
    assert_eq!(refused(&structured("7"), 0).0, "not_an_object");
    assert_eq!(refused(&structured("{"), 0).0, "invalid_json");
}

#[test]
fn a_batch_keeps_its_order_and_a_bad_event_does_not_refuse_the_others() {
    let native = structured(&format!("[{}, {{}}, {}, 7]", event(r#","subject":"a""#), event(r#","subject":"b""#)));
    let devices: Vec<String> = native
        .events()
        .iter()
        .map(|text| Event::parse(text.as_bytes()).map_or("-".into(), |event| event.device_id.into_owned()))
        .collect();
    assert_eq!(devices, ["a", "-", "b", "-"]);
    assert_eq!(refused(&native, 1).0, "invalid_cloudevent");
    assert_eq!(refused(&native, 3).0, "not_an_object");
    let places = |rest: Option<&[u32]>| {
        let mut places: Vec<usize> = native.untranslated(rest).into_keys().collect();
        places.sort_unstable();
        places
    };
    assert_eq!((places(None), places(Some(&[0, 3])), places(Some(&[1, 2]))), (vec![1, 3], vec![1], vec![0]));
    assert!(structured(" [ ] ").events().is_empty());
    let batch = |text: &str| translate(Form::CloudEventBatch, &HeaderMap::new(), text.as_bytes(), 1).map(|_| ());
    assert!(matches!(batch(&event("")), Err(Malformed::Json(_))));
    assert!(matches!(batch(""), Err(Malformed::Json(_))));
    assert_eq!(batch("[1,2]"), Err(Malformed::TooManyEvents));
}

#[test]
fn an_event_over_its_limit_is_not_even_translated() {
    let large = "\0".repeat(MAX_EVENT_BYTES + 1);
    let native = binary(&[("content-type", "text/plain")], large.as_bytes());
    assert_eq!(refused(&native, 0).0, "too_large");
    let large = event(&format!(r#","data":{{"x":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES)));
    assert_eq!(refused(&structured(&large), 0).0, "too_large");
}

#[test]
fn an_event_of_nothing_but_extensions_does_not_hold_up_the_others() {
    let many: String = (0..80_000).map(|n| format!(r#","{n:x}":0"#)).collect();
    let begun = std::time::Instant::now();
    let native = structured(&event(&many));
    assert_eq!(Event::parse(native.events()[0].as_bytes()).map(|event| event.others.len()).unwrap_or_default(), 80_001);
    assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
}

proptest! {
    #[test]
    fn both_modes_say_the_same_of_any_text(id in "\\PC{1,30}", subject in "[^\\x00]{1,30}", extension in "\\PC{1,30}", spaces in "[ \t\r\n]{0,3}") {
        let event = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "subject": subject, "ext": extension,
            "datacontenttype": "application/json", "data": {"text": subject, "list": [1, {}]}});
        let pretty = format!("{spaces}{}", serde_json::to_string_pretty(&event).unwrap());
        let found = structured(&pretty);
        let [text] = found.events()[..] else { panic!("{found:?}") };
        let parsed = Event::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(parsed.id.as_deref(), Some(&*id));
        prop_assert_eq!(&*parsed.device_id, &*subject);
        let found = only(&found);
        prop_assert_eq!(&found["data"], &event["data"]);
        prop_assert_eq!(&found["ce_ext"], &event["ext"]);

        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut headers = HeaderMap::new();
        for (name, value) in [("specversion", "1.0"), ("id", &id), ("source", "/s"), ("type", "t"), ("subject", &subject), ("ext", &extension)] {
            let value = if name == "specversion" { value.to_owned() } else { encode(value) };
            headers.insert(HeaderName::try_from(format!("ce-{name}")).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = event["data"].to_string();
        let binary = translate(Form::CloudEventBinary, &headers, body.as_bytes(), 1).unwrap().unwrap();
        prop_assert_eq!(only(&binary), found);
    }

    #[test]
    fn no_input_panics(body in prop::collection::vec(any::<u8>(), 0..200), value in prop::collection::vec(any::<u8>(), 0..30), form in 0..3_usize) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert("ce-subject", value.clone());
            headers.insert("content-type", value);
        }
        let form = [Form::CloudEvent, Form::CloudEventBatch, Form::CloudEventBinary][form];
        if let Ok(Some(native)) = translate(form, &headers, &body, 10) {
            prop_assert_eq!(native.events().len(), native.ranges.len());
        }
    }

    #[test]
    fn no_near_cloudevent_panics(more in r#"[\[\]{}",:0-9a\\un -]{0,60}"#) {
        let native = structured(&event(&more));
        for (index, text) in native.events().into_iter().enumerate() {
            prop_assert_eq!(text.is_empty(), native.refused.contains_key(&index));
        }
    }
}

proptest! {
    #[test]
    fn a_translated_body_is_no_larger_than_room_is_kept_for(
        source in ".{1,300}", subject in prop::option::of(".{1,50}"), value in ".{0,200}",
        names in prop::collection::vec("[a-z]{0,8}", 0..20), count in 1usize..5,
    ) {
        let mut event = json!({"specversion": "1.0", "id": "i", "source": source, "type": "t", "data": value});
        if let Some(subject) = subject {
            event["subject"] = subject.into();
        }
        names.iter().for_each(|name| event[format!("{name}x")] = 1.into());
        let body = json!(vec![event; count]).to_string();
        let native = translate(Form::CloudEventBatch, &HeaderMap::new(), body.as_bytes(), 10).unwrap().unwrap();
        prop_assert!(native.body.len() <= 2 * body.len(), "{} of {}", native.body.len(), body.len());
    }
}

#[test]
fn data_that_escapes_make_too_large_is_refused_and_takes_no_room() {
    let of = |len: usize| binary(&[("content-type", "text/plain")], &vec![1; len]);
    assert!(of(100_000).refused.is_empty());
    let native = of(MAX_EVENT_BYTES / 3);
    assert_eq!((native.body.len(), native.events()), (0, vec![""]));
    let refused = &native.refused[&0];
    assert_eq!((refused.why, refused.id.as_deref()), (Why::Invalid(Reason::TooLarge), Some("1")));
}
