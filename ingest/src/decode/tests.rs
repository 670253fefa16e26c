use super::*;
use axum::http::HeaderValue;
use lake::event::Event;
use proptest::prelude::*;

fn form(content_type: &'static str) -> Result<Form, Unsupported> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Form::of(&headers)
}

#[test]
fn content_types_are_understood_with_their_parameters_and_common_aliases() {
    for name in ["application/json", "Application/JSON; charset=utf-8", "application/json;charset=\"UTF-8\"; v=1"] {
        assert_eq!(form(name), Ok(Form::Json), "{name}");
    }
    for name in ["application/x-ndjson", "application/ndjson; charset=utf-8", "application/jsonl"] {
        assert_eq!(form(name), Ok(Form::NdJson), "{name}");
    }
    for name in
        ["text/plain", "", "application/json; charset=utf-16", "application/jsonx", "application/x-www-form-urlencoded"]
    {
        assert_eq!(form(name), Err(Unsupported::ContentType(Some(name.into()))), "{name}");
    }
    assert_eq!(Form::of(&HeaderMap::new()), Err(Unsupported::ContentType(None)));
}

#[test]
fn cloudevents_are_known_by_their_content_type_or_by_a_header() {
    assert_eq!(form("application/cloudevents+json; charset=utf-8"), Ok(Form::CloudEvent));
    assert_eq!(form("Application/CloudEvents-Batch+JSON"), Ok(Form::CloudEventBatch));
    let with_version = |content_type: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.insert("CE-SpecVersion", HeaderValue::from_static("1.0"));
        content_type.map(|name| headers.insert(CONTENT_TYPE, HeaderValue::from_static(name)));
        Form::of(&headers)
    };
    for content_type in [None, Some("application/json"), Some("image/png"), Some("")] {
        assert_eq!(with_version(content_type), Ok(Form::CloudEventBinary), "{content_type:?}");
    }
    assert_eq!(with_version(Some("application/cloudevents+json")), Ok(Form::CloudEvent));
    assert_eq!(with_version(Some("application/cloudevents-batch+json")), Ok(Form::CloudEventBatch));
    for other in ["application/cloudevents+avro", "application/cloudevents-batch+protobuf", "application/cloudevents"] {
        assert_eq!(with_version(Some(other)), Err(Unsupported::ContentType(Some(other.into()))));
    }
}

#[test]
fn lines_may_end_with_crlf_be_blank_or_lack_the_last_newline() {
    let body = b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"a\":2}\n\t{\"a\":3}";
    assert_eq!(frame(Form::NdJson, body, 10).unwrap(), [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
}

#[test]
fn elements_keep_the_bytes_of_the_sender() {
    let body = br#" [ {"n": 1.0e400, "s":"\u00e9"} ,{ } , 17, "x",[[1]]] "#;
    let events = frame(Form::Json, body, 10).unwrap();
    assert_eq!(events, [r#"{"n": 1.0e400, "s":"\u00e9"}"#, "{ }", "17", r#""x""#, "[[1]]"]);
    assert!(body.as_ptr_range().contains(&events[0].as_ptr()), "copied");
}

#[test]
fn bodies_without_events_say_why() {
    for body in ["", " \r\n\t ", "[]", " [ ] "] {
        assert_eq!(frame(Form::Json, body.as_bytes(), 10), Err(Malformed::Empty), "{body:?}");
    }
    assert_eq!(frame(Form::NdJson, b"\n\n", 10), Err(Malformed::Empty));
    assert_eq!(frame(Form::NdJson, b"{}\n\xff", 10), Err(Malformed::Utf8 { at: 3 }));
    for body in ["[", "[{}", "[{},]", "[{}]]", "[{} {}]", "[{\"a\":]"] {
        assert!(matches!(frame(Form::Json, body.as_bytes(), 10), Err(Malformed::Json(_))), "{body}");
    }
}

#[test]
fn stops_at_the_largest_number_of_events() {
    assert_eq!(frame(Form::Json, b"[1,2,3]", 3).unwrap().len(), 3);
    assert_eq!(frame(Form::Json, b"[1,2,3,4]", 3), Err(Malformed::TooManyEvents));
    assert_eq!(frame(Form::NdJson, b"1\n2\n3", 2), Err(Malformed::TooManyEvents));
}

#[test]
fn very_deep_json_neither_overflows_the_stack_nor_hides_its_neighbours() {
    let deep = format!("[{}{},{{}}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let events = frame(Form::Json, deep.as_bytes(), 10).unwrap();
    assert_eq!(events.len(), 2);
    assert!(Event::parse(events[0].as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_input_panics(body in prop::collection::vec(any::<u8>(), 0..300), ndjson: bool) {
        let form = if ndjson { Form::NdJson } else { Form::Json };
        let _ = frame(form, &body, 10);
    }

    #[test]
    fn no_near_json_panics(body in r#"[\[\]{}",:0-9a\\ue\n -]{0,120}"#, ndjson: bool) {
        let form = if ndjson { Form::NdJson } else { Form::Json };
        for event in frame(form, body.as_bytes(), 1000).unwrap_or_default() {
            let _ = Event::parse(event.as_bytes());
        }
    }

    #[test]
    fn an_array_and_the_same_events_as_lines_are_the_same(devices in prop::collection::vec("[^\"\\\\\\x00-\\x1f]{1,8}", 1..20)) {
        let events: Vec<String> = devices.iter().map(|device| format!("{{\"device_id\":\"{device}\"}}")).collect();
        let array = format!("[{}]", events.join(","));
        prop_assert_eq!(frame(Form::Json, array.as_bytes(), 100).unwrap(), events.clone());
        let lines = events.join("\r\n");
        prop_assert_eq!(frame(Form::NdJson, lines.as_bytes(), 100).unwrap(), events);
    }
}
