//! Bodies from those who mean it harm. The framing of requests is the business of `connections`.

use crate::support::{array, gateway};
use axum::body::Body;
use ingest::Config;

#[tokio::test]
async fn an_event_that_two_readers_could_read_differently_is_refused() {
    let gateway = gateway(Config::default());
    let answer = gateway
        .json(
            r#"[{"device_id":"a","device_id":"b"},{"device_id":"a","id":"1","\u0069d":"2"},
                {"device_id":"a","data":{},"d\u0061ta":{"x":1}},{"device_id":"a","time":1,"time":2}]"#,
        )
        .await;
    assert_eq!(answer.rejected(), [0, 1, 2, 3].map(|index| (index, "ambiguous_member")));
    assert!(gateway.log.values().is_empty());
}

#[tokio::test]
async fn bytes_that_are_no_utf8_refuse_the_body_and_say_where_they_are() {
    let gateway = gateway(Config::default());
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        for content_type in ["application/json", "application/x-ndjson"] {
            let body = [&br#"{"device_id":"a"#[..], bytes, br#""}"#].concat();
            let answer = gateway.post(content_type, Body::from(body)).await;
            assert_eq!(answer.problem(), (400, "malformed-body"), "{bytes:?}");
            assert!(answer.body["detail"].as_str().unwrap().contains("byte 15"), "{answer:?}");
        }
    }
    let utf16: Vec<u8> = array("a", 1).encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(gateway.json(utf16).await.status, 400);
    assert!(gateway.log.values().is_empty());
}

#[tokio::test]
async fn a_nul_is_refused_where_json_forbids_it_and_kept_where_it_is_escaped() {
    let gateway = gateway(Config::default());
    for body in ["\0", "[{\"device_id\":\"a\"}]\0", "\0[{\"device_id\":\"a\"}]", "{\"device_id\":\"a\0\"}"] {
        assert_eq!(gateway.json(body).await.status, 400, "{body:?}");
    }
    let escaped = r#"{"device_id":"a\u0000b"}"#;
    assert_eq!(gateway.json(escaped).await.accepted(), 1);
    assert_eq!(gateway.log.last().1.key, "a\0b");
}

#[tokio::test]
async fn one_byte_order_mark_is_skipped_in_front_and_no_other() {
    let gateway = gateway(Config::default());
    let event = r#"{"device_id":"a"}"#;
    assert_eq!(gateway.json(format!("\u{feff}{event}")).await.accepted(), 1);
    assert_eq!(gateway.json(format!("\u{feff}\u{feff}{event}")).await.status, 400);
    assert_eq!(gateway.json(format!("{event}\u{feff}")).await.status, 400);
    let answer = gateway.post("application/x-ndjson", format!("{event}\n\u{feff}{event}")).await;
    assert_eq!((answer.accepted(), answer.rejected()), (1, vec![(1, "invalid_json")]));
}

#[tokio::test]
async fn numbers_beyond_all_bounds_are_no_time_and_no_id_but_may_be_data() {
    let gateway = gateway(Config::default());
    let long = "9".repeat(100_000);
    for time in ["1e999", "-1e999", "1e-999999999999", "9223372036854775808", "-9223372036854775809", "0.1e400", &long]
    {
        let answer = gateway.json(format!(r#"{{"device_id":"a","time":{time}}}"#)).await;
        // Beyond what a number of JSON can be read as, it is not even that.
        assert!(["invalid_time", "invalid_json"].contains(&answer.rejected()[0].1), "{time} {answer:?}");
        assert_eq!(answer.status, 400);
    }
    for number in ["1e999", "-0", "1E+9999999999", &long] {
        assert_eq!(gateway.json(format!(r#"{{"device_id":"a","data":{{"n":{number}}}}}"#)).await.accepted(), 1);
    }
    for number in ["01", "+1", ".5", "1.", "0x10", "NaN", "Infinity", "1e"] {
        let answer = gateway.json(format!(r#"{{"device_id":"a","data":{{"n":{number}}}}}"#)).await;
        assert_eq!(answer.rejected(), [(0, "invalid_json")], "{number}");
    }
}
