//! Who is refused first when there is not room for all.

use crate::support::{Answer, Gateway, array, gateway_of, post};
use axum::body::Body;
use bytes::Bytes;
use bytesize::ByteSize;
use futures::{StreamExt, stream};
use ingest::{Config, Limit};
use lake::dataset::{Dataset, DatasetSpec, Priority};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::io::Write;
use std::time::Duration;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// A dataset of each class, by its name.
fn gateway(config: Config) -> Gateway {
    let dataset = |priority: Priority| {
        Dataset::new(priority.as_str(), DatasetSpec { priority, ..DatasetSpec::default() }).unwrap()
    };
    gateway_of(config, [Priority::Low, Priority::Normal, Priority::High].map(dataset).to_vec())
}

async fn send(gateway: &Gateway, class: &str, body: String) -> Answer {
    let mut request = post("application/json", body.into());
    *request.uri_mut() = format!("/v1/events/{class}").parse().unwrap();
    gateway.send(request).await
}

fn small() -> Config {
    let mut config = Config::default();
    config.http.max_body = ByteSize::kib(20);
    config.http.max_events = 10;
    config.http.max_in_flight = ByteSize::kib(100);
    config
}

/// A body that holds so many KiB of the bytes in flight.
fn body(kib: usize) -> String {
    format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat((kib << 10) - 600))
}

/// A request of which so many KiB have come, and no more come until it is given up.
async fn hold(gateway: &Gateway, class: &str, kib: usize) -> JoinHandle<()> {
    let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; kib << 10]))]);
    let mut request = post("application/json", Body::from_stream(begun.chain(stream::pending())));
    *request.uri_mut() = format!("/v1/events/{class}").parse().unwrap();
    let router = gateway.router.clone();
    let held = tokio::spawn(async move { drop(router.oneshot(request).await) });
    // There is one thread, which now takes up the other task.
    tokio::task::yield_now().await;
    assert!(!held.is_finished(), "{class} was refused");
    held
}

#[tokio::test]
async fn under_pressure_low_is_refused_first_and_high_last() {
    let gateway = gateway(small());
    let asked = async |class: &str, kib| send(&gateway, class, body(kib)).await.problem().0;
    let mut held = vec![hold(&gateway, "low", 20).await, hold(&gateway, "low", 20).await];
    assert_eq!((asked("low", 11).await, asked("low", 9).await), (503, 202), "of a hundred low may fill 50");
    assert_eq!((asked("normal", 11).await, asked("high", 11).await), (202, 202));

    held.extend([hold(&gateway, "normal", 20).await, hold(&gateway, "normal", 15).await]);
    assert_eq!((asked("normal", 6).await, asked("normal", 4).await), (503, 202), "normal may fill 80");
    assert_eq!((asked("low", 1).await, asked("high", 20).await), (503, 202));

    held.push(hold(&gateway, "high", 20).await);
    let answer = send(&gateway, "high", body(6)).await;
    assert_eq!(answer.problem(), (503, "busy"));
    assert!(answer.retry_after() >= Duration::from_secs(1));

    for held in held {
        held.abort();
        assert!(held.await.unwrap_err().is_cancelled());
    }
    assert_eq!(asked("low", 20).await, 202, "all is given back");
}

#[tokio::test]
async fn an_idle_gateway_takes_the_largest_request_of_every_class() {
    let mut config = small();
    config.http.max_body = ByteSize::kib(50);
    config.http.max_events = 100;
    let gateway = gateway(config);
    for class in ["low", "normal", "high"] {
        let small = format!(",{}", r#"{"device_id":"a"}"#).repeat(99);
        let large = |len| format!(r#"[{{"device_id":"a","data":{{"x":"{}"}}}}{small}]"#, "x".repeat(len));
        let body = large((50 << 10) - large(0).len());
        assert_eq!(send(&gateway, class, body).await.accepted(), 100, "{class}");
    }
}

#[tokio::test]
async fn an_idle_gateway_takes_what_must_be_translated_or_has_a_large_window_too() {
    let mut config = small();
    config.http.max_body = ByteSize::kib(50);
    config.http.max_events = 100;
    let gateway = gateway(config);
    let event = |text: &str| format!(r#"{{"specversion":"1.0","id":"{text}","source":"a","type":"t"}}"#);
    let batch = |len: usize| {
        let filled = event("1").replace(r#""t"}"#, &format!(r#""t","data":"{}"}}"#, "x".repeat(len)));
        let others: Vec<String> = (0..99).map(|id| event(&format!("e{id}"))).collect();
        format!("[{filled},{}]", others.join(","))
    };
    let largest = batch((50 << 10) - batch(0).len());
    let packed = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(23).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(largest.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for class in ["low", "normal", "high"] {
        for (coding, body) in [("identity", largest.as_bytes()), ("zstd", &packed)] {
            let mut request = post("application/cloudevents-batch+json", Body::from(body.to_vec()));
            *request.uri_mut() = format!("/v1/events/{class}").parse().unwrap();
            request.headers_mut().insert("content-encoding", coding.parse().unwrap());
            assert_eq!(gateway.send(request).await.accepted(), 100, "{class}, {coding}");
        }
    }
}

#[tokio::test]
async fn the_global_limit_keeps_a_part_for_higher_classes() {
    let mut config = Config::default();
    config.limits.global = Limit::new(1.0, 10).ok();
    let gateway = gateway(config);
    assert_eq!(send(&gateway, "low", array("a", 5)).await.status, 202);
    let answer = send(&gateway, "low", array("a", 2)).await;
    assert_eq!((answer.problem(), answer.retry_after()), ((429, "rate-limited"), Duration::from_secs(2)));
    assert_eq!(answer.header("ratelimit"), r#""global";r=0;t=2"#);
    assert_eq!(send(&gateway, "normal", array("a", 3)).await.status, 202);
    assert_eq!(send(&gateway, "normal", array("a", 1)).await.status, 429);
    assert_eq!(send(&gateway, "high", array("a", 2)).await.status, 202);
    assert_eq!(send(&gateway, "high", array("a", 1)).await.status, 429);
}

#[test]
fn refusals_are_counted_by_dataset_and_class() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let gateway = gateway(small());
            let _held = [hold(&gateway, "high", 20).await, hold(&gateway, "high", 20).await];
            assert_eq!(send(&gateway, "low", body(20)).await.problem(), (503, "busy"));
        });
    });
    let page = recorder.handle().render();
    let line = r#"lakehose_ingest_requests_busy_total{dataset="low",priority="low"} 1"#;
    assert!(page.contains(line), "{line} in\n{page}");
}
