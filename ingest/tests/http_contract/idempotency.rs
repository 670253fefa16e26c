//! Requests that are sent again under the same `Idempotency-Key`.

use crate::support::{Answer, Fault, Gateway, MemoryLog, array, gateway, post};
use axum::body::Body;
use axum::http::Request;
use bytesize::ByteSize;
use eventlog::AppendError;
use ingest::{Config, Limit};
use std::sync::Arc;
use std::time::Duration;

const LINES: &str = "application/x-ndjson";

fn keyed(key: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = post(kind, body.into());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

async fn send(gateway: &Gateway, key: &str, body: impl Into<Body>) -> Answer {
    gateway.send(keyed(key, "application/json", body)).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

fn unavailable() -> AppendError {
    AppendError::Unavailable("a broker is down".into())
}

/// Returns as soon as `count` records are in the log.
async fn stored(log: &MemoryLog, count: usize) {
    for _ in 0..500 {
        if log.values().len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} records in the log, not {count}", log.values().len());
}

#[tokio::test]
async fn the_same_request_is_stored_once_and_answered_equally_for_two_hours() {
    let gateway = gateway(Config::default());
    let body = r#"[{"device_id":"a"},{"device_id":"a","time":"2001-01-01T00:00:00Z"},{"device_id":"b"}]"#;
    let first = send(&gateway, "\"k\"", body).await;
    assert_eq!((first.status.as_u16(), first.accepted(), is_replayed(&first)), (202, 2, false));
    for key in ["\"k\"", "k"] {
        gateway.time.advance(Duration::from_secs(3_599));
        let again = send(&gateway, key, body).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.headers["content-type"], first.headers["content-type"]);
        assert!(is_replayed(&again));
    }
    assert_eq!(gateway.log.values().len(), 2);
    gateway.time.advance(Duration::from_secs(2));
    let later = send(&gateway, "k", body).await;
    assert!(!is_replayed(&later) && gateway.log.values().len() == 4, "{later:?}");
}

#[tokio::test]
async fn no_valid_event_is_an_answer_that_stays() {
    let gateway = gateway(Config::default());
    let first = send(&gateway, "k", r#"{"device_id":7}"#).await;
    let mut again = send(&gateway, "k", r#"{"device_id":7}"#).await;
    // Each request has a name of its own.
    assert_ne!(first.body["request_id"], again.body["request_id"]);
    again.body["request_id"] = first.body["request_id"].clone();
    assert_eq!(first.problem(), (400, "nothing-accepted"));
    assert_eq!((first.problem(), &first.body["rejected"]), (again.problem(), &again.body["rejected"]));
    assert!(!is_replayed(&first) && is_replayed(&again));
}

#[tokio::test]
async fn another_body_or_another_form_of_it_is_422() {
    let gateway = gateway(Config::default());
    let one = r#"{"device_id":"a"}"#;
    assert_eq!(send(&gateway, "k", one).await.status, 202);
    assert_eq!(send(&gateway, "k", r#"{"device_id":"b"}"#).await.problem(), (422, "idempotency-key-reused"));
    assert_eq!(gateway.send(keyed("k", LINES, one)).await.problem(), (422, "idempotency-key-reused"));
    assert_eq!(send(&gateway, "other", r#"{"device_id":"b"}"#).await.status, 202);
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn a_key_of_another_dataset_is_another_key() {
    let gateway = gateway(Config::default());
    assert_eq!(send(&gateway, "k", array("a", 1)).await.status, 202);
    let mut elsewhere = keyed("k", "application/json", array("b", 1));
    *elsewhere.uri_mut() = "/v1/events/heartbeats".parse().unwrap();
    assert_eq!(gateway.send(elsewhere).await.status, 202);
}

#[tokio::test]
async fn what_is_no_key_is_400_and_stores_nothing() {
    let gateway = gateway(Config::default());
    for key in ["", "\"\"", "a, b", "\"a", &"k".repeat(257)] {
        assert_eq!(send(&gateway, key, array("a", 1)).await.problem(), (400, "invalid-idempotency-key"), "{key}");
    }
    let mut two = keyed("a", "application/json", array("a", 1));
    two.headers_mut().append("idempotency-key", "a".parse().unwrap());
    assert_eq!(gateway.send(two).await.problem(), (400, "invalid-idempotency-key"));
    assert!(gateway.log.values().is_empty());
}

#[tokio::test]
async fn a_refusal_that_asks_to_come_back_is_not_remembered() {
    let mut config = Config::default();
    config.limits.global = Some(Limit::new(1.0, 2).unwrap());
    let gateway = gateway(config);
    gateway.log.set(Fault::Append(unavailable()));
    assert_eq!(send(&gateway, "k", array("a", 1)).await.problem(), (503, "log-unavailable"));
    gateway.log.set(Fault::None);
    assert_eq!(send(&gateway, "k", array("a", 1)).await.status, 202);
    assert_eq!(send(&gateway, "l", array("a", 1)).await.problem(), (429, "rate-limited"));
    gateway.time.advance(Duration::from_secs(5));
    assert_eq!(send(&gateway, "l", array("a", 1)).await.status, 202);
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn an_answer_is_given_again_while_the_log_is_down() {
    let gateway = gateway(Config::default());
    assert_eq!(send(&gateway, "k", array("a", 1)).await.status, 202);
    gateway.log.set(Fault::Unhealthy);
    assert_eq!(send(&gateway, "k", array("a", 1)).await.status, 202);
    assert_eq!(send(&gateway, "l", array("a", 1)).await.status, 503);
}

#[tokio::test]
async fn of_a_body_that_was_stored_in_part_only_the_rest_is_taken_up_again() {
    let gateway = gateway(Config::default());
    // Without ids: what is stored twice would be in the table twice.
    let body = "{\"device_id\":\"a\"}\n{\"device_id\":7}\n{\"device_id\":\"bad-1\"}\n{\"device_id\":\"b\"}\n{\"device_id\":\"bad-2\"}";
    gateway.log.set(Fault::Containing("bad", unavailable()));
    let first = gateway.send(keyed("k", LINES, body)).await;
    assert_eq!((first.status.as_u16(), first.accepted()), (202, 2));
    assert_eq!(first.rejected(), [(1, "invalid_device_id"), (2, "log_unavailable"), (4, "log_unavailable")]);

    gateway.log.set(Fault::Containing("bad-2", unavailable()));
    let second = gateway.send(keyed("k", LINES, body)).await;
    assert_eq!((second.status.as_u16(), second.accepted(), is_replayed(&second)), (202, 3, false));
    assert_eq!(second.rejected(), [(1, "invalid_device_id"), (4, "log_unavailable")]);

    gateway.log.set(Fault::Unhealthy);
    assert_eq!(gateway.send(keyed("k", LINES, body)).await.status, 503, "and what is known stays known");

    gateway.log.set(Fault::None);
    for is_again in [false, true] {
        let whole = gateway.send(keyed("k", LINES, body)).await;
        assert_eq!((whole.accepted(), is_replayed(&whole)), (4, is_again));
        assert_eq!(whole.rejected(), [(1, "invalid_device_id")]);
    }
    let devices = ["a", "b", "bad-1", "bad-2"].map(|device| format!("{{\"device_id\":\"{device}\"}}"));
    assert_eq!(gateway.log.values(), devices);
}

#[tokio::test]
async fn what_is_taken_up_again_is_counted_alone() {
    let large = format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(900));
    let body = format!("{large}\n{}", r#"{"device_id":"bad"}"#);
    let mut config = Config::default();
    config.limits.global = Some(Limit::of_bytes(ByteSize(1), ByteSize(1_000)).unwrap());
    let gateway = gateway(config);
    gateway.log.set(Fault::Containing("bad", unavailable()));
    assert_eq!(gateway.send(keyed("k", LINES, body.clone())).await.accepted(), 1);
    gateway.log.set(Fault::None);
    let again = gateway.send(keyed("k", LINES, body)).await;
    assert_eq!((again.status.as_u16(), again.accepted()), (202, 2), "{again:?}");
}

#[tokio::test]
async fn events_over_the_limit_of_their_device_are_the_only_ones_that_come_again() {
    let mut config = Config::default();
    config.limits.per_device = Some(Limit::new(1.0, 2).unwrap());
    let gateway = gateway(config);
    let first = send(&gateway, "k", array("a", 3)).await;
    assert_eq!((first.accepted(), first.rejected()), (2, vec![(2, "rate_limited")]));
    gateway.time.advance(Duration::from_secs(1));
    let second = send(&gateway, "k", array("a", 3)).await;
    assert_eq!((second.accepted(), second.rejected()), (3, vec![]));
    assert_eq!(gateway.log.values().len(), 3);
}

#[tokio::test]
async fn those_that_come_at_the_same_time_wait_for_the_first() {
    let gateway = Arc::new(gateway(Config::default()));
    gateway.log.set(Fault::Slow(Duration::from_millis(200)));
    let answers = futures::future::join_all((0..20).map(|_| send(&gateway, "k", array("a", 3)))).await;
    assert!(answers.iter().all(|answer| answer.status == 202 && answer.accepted() == 3));
    assert_eq!(answers.iter().filter(|answer| is_replayed(answer)).count(), 19);
    assert_eq!(gateway.log.values().len(), 3);
}

#[tokio::test]
async fn who_waits_for_too_long_is_told_when_to_ask_again() {
    let mut config = Config::default();
    config.http.idempotency_wait = Duration::from_millis(50);
    let gateway = gateway(config);
    gateway.log.set(Fault::Stuck);
    let first = tokio::time::timeout(Duration::from_millis(50), send(&gateway, "k", array("a", 1)));
    assert!(first.await.is_err());
    let second = send(&gateway, "k", array("a", 1)).await;
    assert_eq!(second.problem(), (409, "idempotency-key-in-use"));
    assert!(second.retry_after() >= Duration::from_secs(1));
    assert_eq!(send(&gateway, "k", array("b", 1)).await.problem(), (422, "idempotency-key-reused"));
}

#[tokio::test]
async fn a_request_whose_device_is_gone_runs_to_its_end_and_is_remembered() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Slow(Duration::from_millis(100)));
    let gone = tokio::time::timeout(Duration::from_millis(20), send(&gateway, "k", array("a", 2)));
    assert!(gone.await.is_err());
    stored(&gateway.log, 2).await;
    let again = send(&gateway, "k", array("a", 2)).await;
    assert_eq!((again.status.as_u16(), again.accepted(), is_replayed(&again)), (202, 2, true));
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn when_the_first_comes_to_nothing_another_takes_its_place() {
    let gateway = Arc::new(gateway(Config::default()));
    gateway.log.set(Fault::Panicking);
    assert_eq!(send(&gateway, "k", array("a", 1)).await.problem(), (500, "internal-error"));

    gateway.log.set(Fault::SlowPanic(Duration::from_millis(100)));
    let (first, second) = tokio::join!(send(&gateway, "k", array("a", 1)), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        gateway.log.set(Fault::None);
        send(&gateway, "k", array("a", 1)).await
    });
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (500, 202));
    assert_eq!(gateway.log.values().len(), 1);
}

#[tokio::test]
async fn switched_off_the_header_means_nothing() {
    let mut config = Config::default();
    config.http.idempotency_window = Duration::ZERO;
    let gateway = gateway(config);
    for device in ["a", "b"] {
        assert_eq!(send(&gateway, "k", array(device, 1)).await.status, 202);
    }
    assert_eq!(send(&gateway, "", array("a", 1)).await.status, 202);
}
