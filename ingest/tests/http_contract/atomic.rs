//! `?atomic=true`: all events of a request are stored, or none.

use crate::support::{Answer, Fault, Gateway, array, gateway, post};
use axum::body::Body;
use eventlog::AppendError;
use ingest::{Config, Limit};
use serde_json::json;
use std::time::Duration;

const GOOD: &str = r#"[{"device_id":"a","id":"1"},{"device_id":"b","id":"2"},{"device_id":"a","id":"1"}]"#;

async fn ask(gateway: &Gateway, query: &str, body: impl Into<Body>) -> Answer {
    let mut request = post("application/json", body.into());
    *request.uri_mut() = format!("/v1/events/events?{query}").parse().unwrap();
    gateway.send(request).await
}

async fn whole(gateway: &Gateway, body: impl Into<Body>) -> Answer {
    ask(gateway, "atomic=true", body).await
}

fn limited(events_per_second: f64, burst: u32) -> Gateway {
    let mut config = Config::default();
    config.limits.per_device = Some(Limit::new(events_per_second, burst).unwrap());
    gateway(config)
}

#[tokio::test]
async fn a_good_batch_is_stored_and_what_repeats_in_it_is_counted() {
    let gateway = gateway(Config::default());
    let answer = whole(&gateway, GOOD).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body, json!({"accepted": 2, "duplicates": 1, "rejected": []}));
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn one_bad_event_keeps_all_out_and_only_it_is_listed() {
    let gateway = gateway(Config::default());
    let body = r#"[{"device_id":"a"},{"id":"x","device_id":"b","time":"2001-01-01T00:00:00Z"},7,{"device_id":"c"}]"#;
    let answer = whole(&gateway, body).await;
    assert_eq!(answer.problem(), (400, "atomic-batch-refused"));
    assert_eq!((answer.accepted(), answer.rejected()), (0, vec![(1, "invalid_time"), (2, "not_an_object")]));
    assert_eq!(answer.body["rejected"][0]["id"], "x");
    assert!(gateway.log.values().is_empty());
    // The same without being asked for all or none.
    assert_eq!(ask(&gateway, "atomic=false", body).await.accepted(), 2);
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn a_value_that_means_nothing_is_400_and_other_parameters_are_ignored() {
    let gateway = gateway(Config::default());
    for query in ["atomic=yes", "atomic", "atomic=", "atomic=TRUE", "atomic=true&atomic=false", "x=1&atomic=1"] {
        let answer = ask(&gateway, query, GOOD).await;
        assert_eq!(answer.problem(), (400, "bad-query"), "{query}");
        assert!(answer.body["detail"].as_str().unwrap().contains("true or false"), "{answer:?}");
    }
    assert!(gateway.log.values().is_empty());
    for query in ["", "x=1", "x=%ff&atomic=true", "at%6fmic=true&x=2", "&&"] {
        assert_eq!(ask(&gateway, query, GOOD).await.status, 202, "{query}");
    }
}

#[tokio::test]
async fn a_device_over_its_limit_keeps_all_out_and_the_batch_passes_after_the_time_it_says() {
    let gateway = limited(2.0, 4);
    // Of the four that the device may have at once, two are used.
    assert_eq!(gateway.json(array("a", 2)).await.accepted(), 2);
    let body = format!("[{},{}]", &array("b", 2)[1..array("b", 2).len() - 1], &array("a", 4)[1..]);
    let body = body.replace("]]", "]");
    let refused = whole(&gateway, body.clone()).await;
    assert_eq!(refused.problem(), (429, "atomic-batch-refused"));
    assert_eq!((refused.accepted(), refused.rejected()), (0, vec![(4, "rate_limited"), (5, "rate_limited")]));
    assert_eq!(refused.header("ratelimit-limit"), "4");
    assert!(refused.body["rejected"][0]["detail"].as_str().unwrap().contains("whole batch again in 2.0 s"));
    assert_eq!(gateway.log.values().len(), 2);
    gateway.time.advance(refused.retry_after());
    let answer = whole(&gateway, body).await;
    assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 6), "{answer:?}");
}

#[tokio::test]
async fn a_batch_that_no_limit_ever_lets_through_is_413_and_says_the_largest() {
    let gateway = limited(2.0, 3);
    let answer = whole(&gateway, array("a", 4)).await;
    assert_eq!(answer.problem(), (413, "over-burst"));
    assert!(answer.body["detail"].as_str().unwrap().contains("at most 3 events"), "{answer:?}");
    assert!(gateway.log.values().is_empty());
    // What is invalid will not get better by waiting, nor in smaller batches.
    let mixed = format!("[7,{}", &array("a", 4)[1..]);
    assert_eq!(whole(&gateway, mixed).await.problem(), (400, "atomic-batch-refused"));
}

#[tokio::test]
async fn an_event_that_the_log_finds_too_large_keeps_all_out() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Containing("large", AppendError::TooLarge { bytes: 300, limit: 200 }));
    let large = format!(r#"[{{"device_id":"a"}},{{"device_id":"b","data":{{"large":"{}"}}}}]"#, "x".repeat(300));
    let answer = whole(&gateway, large).await;
    assert_eq!(answer.problem(), (400, "atomic-batch-refused"));
    assert_eq!((answer.accepted(), answer.rejected()), (0, vec![(1, "too_large")]));
    assert!(gateway.log.values().is_empty());
}

#[tokio::test]
async fn a_log_that_is_down_or_says_nothing_is_503_and_tells_what_is_known() {
    let gateway = gateway(Config::default());
    for (fault, known) in [
        (AppendError::Unavailable("broker 10.0.0.7:9092 is down".into()), "was not stored"),
        (AppendError::Unknown(Duration::from_secs(1)), "it is not known"),
    ] {
        gateway.log.set(Fault::Append(fault));
        let answer = whole(&gateway, GOOD).await;
        assert_eq!(answer.problem(), (503, "log-unavailable"));
        assert_eq!(answer.rejected(), [(0, "log_unavailable"), (1, "log_unavailable")]);
        assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains(known), "{answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains("with the same ids"), "{answer:?}");
        assert!(answer.retry_after() >= Duration::from_secs(1));
        assert!(!answer.body.to_string().contains("10.0.0.7"), "{answer:?}");
    }
    gateway.log.set(Fault::None);
    assert_eq!(whole(&gateway, GOOD).await.accepted(), 2);
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_503_in_the_end_and_nothing_is_claimed() {
    let mut config = Config::default();
    config.http.append_timeout = Duration::from_millis(50);
    let gateway = gateway(config);
    gateway.log.set(Fault::Stuck);
    let answer = whole(&gateway, GOOD).await;
    assert_eq!(answer.problem(), (503, "log-unavailable"));
    assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains("it is not known"), "{answer:?}");
}

#[tokio::test]
async fn a_log_that_refuses_to_store_whole_is_asked_for_everything_else_as_before() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Append(AppendError::Refused("no right to transactions".into())));
    for _ in 0..10 {
        let answer = whole(&gateway, GOOD).await;
        assert_eq!((answer.problem(), answer.accepted()), ((503, "log-unavailable"), 0));
    }
    gateway.log.set(Fault::None);
    assert_eq!(gateway.json(array("a", 1)).await.status, 202);
}
