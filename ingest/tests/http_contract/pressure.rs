//! A log that is slow or hangs: requests are told so at once, and served again as soon as it answers.

use crate::support::{Answer, Fault, Gateway, array, gateway, gateway_of, post};
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use bytesize::ByteSize;
use eventlog::AppendError;
use ingest::Config;
use lake::dataset::{Dataset, DatasetSpec, Priority};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A request that goes on beside the test.
fn begin(gateway: &Gateway, request: Request<Body>) -> JoinHandle<u16> {
    let router = gateway.router.clone();
    tokio::spawn(async move { tower::ServiceExt::oneshot(router, request).await.unwrap().status().as_u16() })
}

fn event() -> Request<Body> {
    post("application/json", array("a", 1).into())
}

/// An event for another dataset.
fn to(dataset: &str) -> Request<Body> {
    let mut request = event();
    *request.uri_mut() = format!("/v1/events/{dataset}").parse().unwrap();
    request
}

/// Until so many appends wait for the log.
async fn waiting(gateway: &Gateway, appends: usize) {
    while gateway.log.under_way.load(Ordering::Relaxed) != appends {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A request whose body never comes: whoever answers it has not read it.
async fn answered_unread(gateway: &Gateway, dataset: &str) -> Answer {
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let mut request = post("application/json", body);
    *request.uri_mut() = format!("/v1/events/{dataset}").parse().unwrap();
    gateway.send(request).await
}

#[tokio::test]
async fn a_log_that_hangs_is_503_before_the_body_is_read_and_what_was_waiting_is_stored_when_it_wakes_up() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Frozen);
    let waits: Vec<_> = (0..10).map(|_| begin(&gateway, event())).collect();
    waiting(&gateway, 10).await;
    gateway.time.advance(Duration::from_secs(2));
    for _ in 0..20 {
        let answer = answered_unread(&gateway, "events").await;
        assert_eq!(answer.problem(), (503, "log-unavailable"));
        assert!(answer.retry_after() >= Duration::from_secs(1));
    }
    waiting(&gateway, 10).await;

    gateway.log.set(Fault::None);
    for wait in waits {
        assert_eq!(wait.await.unwrap(), 202);
    }
    assert_eq!(gateway.send(event()).await.status, 202, "at once, and without a restart");
    assert_eq!(gateway.log.values().len(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_of_a_log_that_hangs_are_answered_without_waiting_for_it() {
    const CLIENTS: usize = 200;
    const REQUESTS: usize = 20;
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Frozen);
    let wait = begin(&gateway, event());
    waiting(&gateway, 1).await;
    gateway.time.advance(Duration::from_secs(3));
    let client = |router: axum::Router| async move {
        let mut took = Vec::new();
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            let response = tower::ServiceExt::oneshot(router.clone(), event()).await.unwrap();
            took.push(begun.elapsed());
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
        }
        took
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(gateway.router.clone()))).collect();
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.unwrap());
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 1000];
    println!("{} refusals: p50 {:?}, p99 {:?}, p99.9 {:?}", took.len(), at(500), at(990), at(999));
    assert!(at(990) < Duration::from_secs(1), "{:?}", at(990));
    assert_eq!(gateway.log.under_way.load(Ordering::Relaxed), 1, "nobody waits for the log");
    gateway.log.set(Fault::None);
    assert_eq!(wait.await.unwrap(), 202);
}

#[tokio::test]
async fn as_the_log_gets_slower_datasets_of_low_priority_are_refused_first() {
    let dataset = |name, priority| Dataset::new(name, DatasetSpec { priority, ..DatasetSpec::default() }).unwrap();
    let classes = [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];
    let gateway = gateway_of(Config::default(), classes.map(|(name, priority)| dataset(name, priority)).to_vec());
    gateway.log.set(Fault::Frozen);
    let waits: Vec<_> = classes.iter().map(|(name, _)| begin(&gateway, to(name))).collect();
    waiting(&gateway, 3).await;
    for (millis, refused) in [(900, vec![]), (200, vec!["low"]), (500, vec!["low", "normal"])] {
        gateway.time.advance(Duration::from_millis(millis));
        for (name, _) in classes {
            let answer = tokio::time::timeout(Duration::from_millis(50), answered_unread(&gateway, name)).await;
            assert_eq!(answer.is_ok(), refused.contains(&name), "{name} {millis} ms later");
        }
    }
    gateway.log.set(Fault::None);
    for wait in waits {
        assert_eq!(wait.await.unwrap(), 202);
    }
}

#[tokio::test]
async fn a_topic_that_hangs_by_itself_leaves_the_others_alone() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::FrozenTopic("events"));
    let wait = begin(&gateway, event());
    waiting(&gateway, 1).await;
    gateway.time.advance(Duration::from_secs(3));
    assert_eq!(gateway.send(event()).await.problem(), (503, "log-unavailable"));
    for _ in 0..3 {
        assert_eq!(gateway.send(to("heartbeats")).await.status, 202);
    }
    assert_eq!(gateway.send(event()).await.status, 503);
    gateway.log.set(Fault::None);
    assert_eq!(wait.await.unwrap(), 202);
}

#[tokio::test]
async fn a_dataset_that_was_quiet_learns_from_the_others_that_the_log_hangs() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Frozen);
    let wait = begin(&gateway, event());
    waiting(&gateway, 1).await;
    gateway.time.advance(Duration::from_secs(3));
    let probe = begin(&gateway, to("heartbeats"));
    waiting(&gateway, 2).await;
    assert_eq!(answered_unread(&gateway, "heartbeats").await.problem(), (503, "log-unavailable"));
    gateway.log.set(Fault::None);
    assert_eq!((wait.await.unwrap(), probe.await.unwrap()), (202, 202));
    assert_eq!(gateway.send(to("heartbeats")).await.status, 202);
}

#[tokio::test]
async fn a_log_that_fails_again_and_again_is_asked_by_one_request_at_a_time() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Append(AppendError::Refused("no rights".into())));
    let answers = async |count: usize| {
        let mut read = 0;
        for _ in 0..count {
            let answer = gateway.send(event()).await;
            assert_eq!(answer.problem(), (503, "log-unavailable"));
            read += usize::from(answer.body["rejected"].is_array());
        }
        read
    };
    assert_eq!(answers(5).await, 5);
    assert_eq!(answers(50).await, 1, "one finds out, the others are spared their bodies");
    gateway.time.advance(Duration::from_millis(500));
    assert_eq!(answers(50).await, 1);
    gateway.log.set(Fault::None);
    gateway.time.advance(Duration::from_millis(500));
    assert_eq!(gateway.send(event()).await.status, 202);
    assert_eq!(gateway.send(event()).await.status, 202);
}

#[tokio::test]
async fn bytes_stay_reserved_while_the_log_may_hold_them_though_the_client_is_gone() {
    let mut config = Config::default();
    config.http.max_body = ByteSize::kib(50);
    config.http.max_in_flight = ByteSize::kib(100);
    config.http.append_timeout = Duration::from_millis(50);
    let gateway = gateway(config);
    gateway.log.set(Fault::Frozen);
    let big = || {
        let event = format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(45_000));
        post("application/json", event.into())
    };
    let gone = begin(&gateway, big());
    waiting(&gateway, 1).await;
    gone.abort();
    let timed_out = begin(&gateway, big());
    assert_eq!(timed_out.await.unwrap(), 503);
    assert_eq!(gateway.log.under_way.load(Ordering::Relaxed), 2);
    assert_eq!(gateway.send(big()).await.problem(), (503, "busy"));
    gateway.log.set(Fault::None);
    waiting(&gateway, 0).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(gateway.send(big()).await.status, 202);
    assert_eq!(gateway.log.values().len(), 3, "what was begun was finished");
}
