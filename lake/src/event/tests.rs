use super::*;
use proptest::prelude::*;

fn reason(json: &str) -> Reason {
    Event::parse(json.as_bytes()).expect_err("must be refused").reason
}

#[test]
fn reads_every_member_of_the_contract() {
    let json =
        r#"{"id":"a-1","device_id":"d1","type":"t","time":"2026-11-22T10:00:00.123456789+01:00","data":{"x":1}}"#;
    let event = Event::parse(json.as_bytes()).unwrap();
    assert_eq!(event.id.as_deref(), Some("a-1"));
    assert_eq!(event.device_id, "d1");
    assert_eq!(event.kind.as_deref(), Some("t"));
    assert_eq!(format_time(event.time.unwrap()), "2026-11-22T09:00:00.123456Z");
    assert_eq!(event.data.unwrap().get(), r#"{"x":1}"#);
}

#[test]
fn reads_epoch_milliseconds_and_defaults() {
    let event = Event::parse(br#"{"device_id":"d","time":1763800000123}"#).unwrap();
    assert_eq!(event.time, Some(1_763_800_000_123_000));
    let event = Event::parse(br#"{"device_id":"d","id":null,"type":null,"time":null,"data":null}"#).unwrap();
    assert!(event.id.is_none() && event.kind.is_none() && event.time.is_none() && event.data.is_none());
}

#[test]
fn names_the_reason_of_every_refusal() {
    assert_eq!(reason("{"), Reason::InvalidJson);
    assert_eq!(reason(""), Reason::InvalidJson);
    assert_eq!(reason(r#"{"device_id":"d"} x"#), Reason::InvalidJson);
    assert_eq!(reason("[1]"), Reason::NotAnObject);
    assert_eq!(reason("null"), Reason::NotAnObject);
    assert_eq!(reason("{}"), Reason::MissingDeviceId);
    assert_eq!(reason(r#"{"device_id":null}"#), Reason::MissingDeviceId);
    assert_eq!(reason(r#"{"device_id":7}"#), Reason::InvalidDeviceId);
    assert_eq!(reason(r#"{"device_id":""}"#), Reason::InvalidDeviceId);
    assert_eq!(reason(&format!(r#"{{"device_id":"{}"}}"#, "é".repeat(65))), Reason::InvalidDeviceId);
    assert_eq!(reason(r#"{"device_id":"d","id":1}"#), Reason::InvalidId);
    assert_eq!(reason(r#"{"device_id":"d","type":[]}"#), Reason::InvalidType);
    assert_eq!(reason(r#"{"device_id":"d","time":"yesterday"}"#), Reason::InvalidTime);
    assert_eq!(reason(r#"{"device_id":"d","time":99999999999999999}"#), Reason::InvalidTime);
    assert_eq!(reason(r#"{"device_id":"d","time":true}"#), Reason::InvalidTime);
    assert_eq!(reason(r#"{"device_id":"d","data":[1]}"#), Reason::InvalidData);
    assert_eq!(reason(r#"{"device_id":"d","device_id":"e"}"#), Reason::AmbiguousMember);
    assert_eq!(reason(r#"{"device_id":"d","x":1,"data":{"x":2}}"#), Reason::AmbiguousMember);
    let large = format!(r#"{{"device_id":"d","data":{{"x":"{}"}}}}"#, "a".repeat(MAX_EVENT_BYTES));
    assert_eq!(reason(&large), Reason::TooLarge);
}

#[test]
fn keeps_members_that_the_contract_does_not_name() {
    let event = Event::parse(br#"{"device_id":"d","temp":21.5,"data":{"a":"\u00e9","b":[1, 2]}}"#).unwrap();
    let mut seen = Vec::new();
    event.members(|name, value| seen.push(format!("{name}={}", value.get())));
    assert_eq!(seen, [r#"a="\u00e9""#, "b=[1, 2]", "temp=21.5"]);
}

#[test]
fn checks_time_against_the_window_inclusively() {
    let event = Event { time: Some(1_000), ..Event::default() };
    assert!(event.check_time(1_000, 0, 0).is_ok());
    assert!(event.check_time(1_500, 500, 0).is_ok());
    assert!(event.check_time(500, 0, 500).is_ok());
    assert_eq!(event.check_time(1_501, 500, 0).unwrap_err().reason, Reason::InvalidTime);
    assert_eq!(event.check_time(499, 0, 500).unwrap_err().reason, Reason::InvalidTime);
}

#[test]
fn deep_nesting_is_refused_or_carried_but_never_fatal() {
    let deep = format!(r#"{{"device_id":"d","data":{{"x":{}1{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let _ = Event::parse(deep.as_bytes());
    let deep = format!(r#"{{"device_id":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(Event::parse(deep.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::parse(&bytes);
    }

    #[test]
    fn no_json_like_input_panics(text in r#"\{("(id|device_id|type|time|data)":("[a-z\\u0-9]*"|-?[0-9.e]{1,20}|null|\{\}|\[\]),?){0,6}\}?"#) {
        let _ = Event::parse(text.as_bytes());
    }

    #[test]
    fn times_survive_a_round_trip(micros in MIN_TIME..=MAX_TIME) {
        prop_assert_eq!(parse_time(&format_time(micros)), Some(micros));
    }

    #[test]
    fn plain_values_are_read_as_a_parser_reads_them(
        json in r#"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?|"([ a-zé]|\\n|\\u00e9){0,6}"|true|false|null|\[1\]|\{\}"#,
    ) {
        let raw: &RawValue = serde_json::from_str(&json).unwrap();
        let (plain, parsed) = (Value::of(raw), serde_json::from_str::<Value<'_>>(&json).ok());
        let close = |a: f64, b: f64| a == b || (a - b).abs() <= a.abs() * 1e-15;
        match (&plain, &parsed) {
            // A parser may be off by the last bit; the fast path is exact.
            (Some(Value::Float(a)), Some(Value::Float(b))) => prop_assert!(close(*a, *b), "{a} {b}"),
            _ => prop_assert_eq!(plain, parsed),
        }
    }
}
