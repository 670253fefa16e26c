//! What devices are told that post more than the limits allow.

use crate::support::{Answer, Gateway, array, gateway, post};
use axum::extract::ConnectInfo;
use bytesize::ByteSize;
use ingest::{Config, Limit, ProxyHeader};
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

fn limit(events_per_second: f64, burst: u32) -> Option<Limit> {
    Some(Limit::new(events_per_second, burst).unwrap())
}

#[tokio::test]
async fn over_the_address_limit_is_429_and_passes_after_the_time_it_says() {
    let mut config = Config::default();
    config.limits.per_ip = limit(10.0, 20);
    let gateway = gateway(config);
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 15)).await.status, 202);
    let answer = gateway.json_from("10.0.0.1", array("a", 18)).await;
    assert_eq!(answer.problem(), (429, "rate-limited"));
    assert_eq!(answer.retry_after(), Duration::from_secs(2), "13 events at 10/s, in whole seconds");
    assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("20", "5"));
    assert_eq!(answer.header("ratelimit-reset"), "2");
    assert_eq!(answer.header("ratelimit-policy"), r#""per_ip";q=20;w=2"#);
    assert_eq!(answer.header("ratelimit"), r#""per_ip";r=5;t=2"#);

    assert_eq!(gateway.json_from("10.0.0.2", array("a", 18)).await.status, 202, "another address");
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 5)).await.status, 202, "what remains");
    gateway.time.advance(Duration::from_millis(1_790));
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 18)).await.status, 429);
    gateway.time.advance(Duration::from_millis(10));
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 18)).await.status, 202);
}

#[tokio::test]
async fn a_network_of_ipv6_addresses_counts_as_one() {
    let mut config = Config::default();
    config.limits.per_ip = limit(1.0, 1);
    let gateway = gateway(config);
    assert_eq!(gateway.json_from("2001:db8:1:2::1", array("a", 1)).await.status, 202);
    assert_eq!(gateway.json_from("2001:db8:1:2:ffff::9", array("a", 1)).await.status, 429);
    assert_eq!(gateway.json_from("2001:db8:1:3::1", array("a", 1)).await.status, 202);
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 1)).await.status, 202);
    assert_eq!(gateway.json_from("::ffff:10.0.0.1", array("a", 1)).await.status, 429);
}

#[tokio::test]
async fn the_global_limit_is_shared_by_all() {
    let mut config = Config::default();
    config.limits.global = limit(1.0, 10);
    let gateway = gateway(config);
    assert_eq!(gateway.json_from("10.0.0.1", array("a", 10)).await.status, 202);
    let answer = gateway.json_from("10.0.0.2", array("b", 3)).await;
    assert_eq!((answer.problem(), answer.retry_after()), ((429, "rate-limited"), Duration::from_secs(3)));
    gateway.time.advance(answer.retry_after());
    assert_eq!(gateway.json_from("10.0.0.2", array("b", 3)).await.status, 202);
    assert_eq!(gateway.log.values().len(), 13);
}

#[tokio::test]
async fn a_batch_that_can_never_pass_is_413_says_the_largest_and_uses_up_nothing() {
    let mut config = Config::default();
    config.limits.per_ip = limit(1.0, 10);
    config.limits.global = limit(1.0, 8);
    let gateway = gateway(config);
    for _ in 0..3 {
        let answer = gateway.json(array("a", 9)).await;
        assert_eq!(answer.problem(), (413, "over-burst"));
        assert!(answer.body["detail"].as_str().unwrap().contains("at most 8 events"), "{answer:?}");
    }
    assert_eq!(gateway.json(array("a", 8)).await.status, 202);
}

#[tokio::test]
async fn events_of_a_device_over_its_limit_are_rejected_and_those_of_others_accepted() {
    let mut config = Config::default();
    config.limits.per_device = limit(2.0, 3);
    let gateway = gateway(config);
    let lines = ["a", "a", "a", "a", "b", "a"].map(|device| format!(r#"{{"device_id":"{device}","id":""}}"#));
    let lines: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| line.replace(r#""id":"""#, &format!(r#""id":"{index}""#)))
        .collect();
    let answer = gateway.post("application/x-ndjson", lines.join("\n")).await;
    assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 4));
    assert_eq!(answer.rejected(), [(3, "rate_limited"), (5, "rate_limited")]);
    assert_eq!(answer.body["rejected"][1]["id"], "5");
    let details: Vec<&str> =
        answer.body["rejected"].as_array().unwrap().iter().map(|r| r["detail"].as_str().unwrap()).collect();
    assert!(details[0].contains("in 0.5 s") && details[1].contains("in 1.0 s"), "{details:?}");
}

#[tokio::test]
async fn when_all_devices_are_over_their_limit_it_is_429_and_passes_after_the_time_it_says() {
    let mut config = Config::default();
    config.limits.per_device = limit(2.0, 6);
    let gateway = gateway(config);
    assert_eq!(gateway.json(array("a", 6)).await.accepted(), 6);
    let answer = gateway.json(array("a", 5)).await;
    assert_eq!(answer.problem(), (429, "rate-limited"));
    assert_eq!(answer.retry_after(), Duration::from_secs(3), "5 events at 2/s");
    assert_eq!(answer.header("ratelimit"), r#""per_device";r=0;t=3"#);
    assert_eq!(answer.rejected().len(), 5);
    gateway.time.advance(answer.retry_after());
    assert_eq!(gateway.json(array("a", 5)).await.accepted(), 5);
}

#[tokio::test]
async fn a_batch_of_one_device_beyond_its_burst_gets_through_in_order_part_by_part() {
    let mut config = Config::default();
    config.limits.per_device = limit(10.0, 4);
    let gateway = gateway(config);
    let mut waiting: Vec<u64> = (0..10).collect();
    while !waiting.is_empty() {
        let lines: Vec<String> = waiting.iter().map(|n| format!(r#"{{"device_id":"a","data":{{"n":{n}}}}}"#)).collect();
        let answer = gateway.post("application/x-ndjson", lines.join("\n")).await;
        waiting = answer.rejected().iter().map(|(index, _)| waiting[*index as usize]).collect();
        gateway.time.advance(Duration::from_secs(1));
    }
    let order: Vec<String> = (0..10).map(|n| format!(r#"{{"device_id":"a","data":{{"n":{n}}}}}"#)).collect();
    assert_eq!(gateway.log.values(), order);
}

fn bytes(bytes_per_second: u64, burst_bytes: u64) -> Option<Limit> {
    Some(Limit::of_bytes(ByteSize(bytes_per_second), ByteSize(burst_bytes)).unwrap())
}

/// An event of exactly so many bytes.
fn event(device: &str, bytes: usize) -> String {
    let frame = format!(r#"{{"device_id":"{device}","data":{{"x":""}}}}"#);
    frame.replace(r#""x":"""#, &format!(r#""x":"{}""#, "x".repeat(bytes - frame.len())))
}

async fn send_to(gateway: &Gateway, dataset: &str, body: String) -> Answer {
    let mut request = post("application/json", body.into());
    *request.uri_mut() = format!("/v1/events/{dataset}").parse().unwrap();
    gateway.send(request).await
}

async fn send_through(gateway: &Gateway, peer: &str, header: (&'static str, &str), body: String) -> Answer {
    let mut request = post("application/json", body.into());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
    request.headers_mut().insert(header.0, header.1.parse().unwrap());
    gateway.send(request).await
}

#[tokio::test]
async fn bytes_are_limited_beside_events_and_the_answer_names_them() {
    let mut config = Config::default();
    let limit = Limit::new(1_000.0, 1_000).unwrap().and_bytes(ByteSize(100), ByteSize(1_000)).unwrap();
    config.limits.per_ip = Some(limit);
    let gateway = gateway(config);
    assert_eq!(gateway.json(event("a", 700)).await.status, 202);
    let answer = gateway.json(event("a", 650)).await;
    assert_eq!((answer.problem(), answer.retry_after()), ((429, "rate-limited"), Duration::from_secs(4)));
    assert!(answer.body["detail"].as_str().unwrap().contains("per_ip_bytes"), "{answer:?}");
    assert_eq!(answer.header("ratelimit-policy"), r#""per_ip_bytes";q=1000;w=10;qu="content-bytes""#);
    assert_eq!(answer.header("ratelimit"), r#""per_ip_bytes";r=300;t=4"#);
    assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("1000", "300"));
    gateway.time.advance(answer.retry_after());
    assert_eq!(gateway.json(event("a", 650)).await.status, 202);
}

#[tokio::test]
async fn a_body_larger_than_a_burst_is_413_and_says_the_largest() {
    let mut config = Config::default();
    config.limits.global = bytes(1, 1_000);
    let gateway = gateway(config);
    let answer = gateway.json(event("a", 1_001)).await;
    assert_eq!(answer.problem(), (413, "over-burst"));
    assert!(answer.body["detail"].as_str().unwrap().contains("global_bytes lets at most 1000 bytes"), "{answer:?}");
    assert_eq!(gateway.json(event("a", 1_000)).await.status, 202);
}

#[tokio::test]
async fn bytes_are_those_that_were_sent_whatever_becomes_of_them() {
    let mut config = Config::default();
    config.limits.global = bytes(100, 3_000_000);
    let gateway = gateway(config);
    // Larger than an event may be: nothing of it is left when it is translated.
    let event = format!(r#"{{"specversion":"1.0","data":"{}"}}"#, "x".repeat(2_000_000));
    let answers = [(); 2].map(|()| gateway.post("application/cloudevents+json", event.clone()));
    let [first, second] = answers;
    assert_eq!(first.await.rejected(), [(0, "too_large")]);
    assert_eq!(second.await.problem(), (429, "rate-limited"));
}

#[tokio::test]
async fn datasets_are_limited_one_by_one() {
    let mut config = Config::default();
    config.limits.per_dataset = limit(1.0, 10);
    config.limits.datasets.insert("heartbeats".into(), limit(1.0, 3).unwrap());
    let gateway = gateway(config);
    assert_eq!(gateway.json(array("a", 10)).await.status, 202);
    let answer = gateway.json(array("a", 1)).await;
    assert_eq!((answer.problem(), answer.header("ratelimit")), ((429, "rate-limited"), r#""per_dataset";r=0;t=1"#));
    assert_eq!(send_to(&gateway, "heartbeats", array("a", 4)).await.problem(), (413, "over-burst"));
    assert_eq!(send_to(&gateway, "heartbeats", array("a", 3)).await.status, 202);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart_and_nobody_else_is_believed() {
    for (header, name, word) in
        [(ProxyHeader::XForwardedFor, "x-forwarded-for", ""), (ProxyHeader::Forwarded, "forwarded", "for=")]
    {
        let mut config = Config::default();
        config.limits.per_ip = limit(1.0, 1);
        config.http.trusted_proxies = serde_json::from_str(r#"["10.0.0.0/8"]"#).unwrap();
        config.http.proxy_header = header;
        let gateway = gateway(config);
        let send = async |peer, client: &str| {
            let client = format!("{word}{client}");
            send_through(&gateway, peer, (name, &client), array("a", 1)).await.status.as_u16()
        };
        assert_eq!((send("10.0.0.1", "1.1.1.1").await, send("10.0.0.2", "2.2.2.2").await), (202, 202));
        assert_eq!(send("10.0.0.2", "1.1.1.1").await, 429, "the same client through another proxy");
        let invented = format!("9.9.9.9, {word}1.1.1.1");
        assert_eq!(send("10.0.0.1", &invented).await, 429, "what stands on the left is the client's own");
        assert_eq!((send("8.8.8.8", "3.3.3.3").await, send("8.8.8.8", "4.4.4.4").await), (202, 429));
    }
}

#[tokio::test]
async fn an_event_larger_than_its_device_may_ever_send_is_refused_for_good_and_alone() {
    let mut config = Config::default();
    config.limits.per_device = bytes(10, 100);
    let gateway = gateway(config);
    let answer = gateway.json(format!("[{},{},{}]", event("a", 60), event("a", 101), event("a", 40))).await;
    assert_eq!((answer.status.as_u16(), answer.rejected()), (202, vec![(1, "too_large")]));
    assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains("100 bytes"), "{answer:?}");

    // Also when the device has nothing left, so that nobody is told to wait for it.
    let answer = gateway.json(format!("[{},{}]", event("a", 50), event("a", 101))).await;
    assert_eq!(answer.rejected(), [(0, "rate_limited"), (1, "too_large")]);
    assert_eq!(
        (answer.problem(), answer.header("ratelimit")),
        ((429, "rate-limited"), r#""per_device_bytes";r=0;t=5"#)
    );

    let answer = gateway.json(event("a", 101)).await;
    assert_eq!((answer.problem(), answer.rejected()), ((413, "over-burst"), vec![(0, "too_large")]));
    assert!(answer.body["detail"].as_str().unwrap().contains("per_device_bytes lets at most 100 bytes"), "{answer:?}");
}

#[tokio::test]
async fn the_bytes_of_a_device_that_wait_are_added_up() {
    let mut config = Config::default();
    config.limits.per_device = bytes(10, 200);
    let gateway = gateway(config);
    assert_eq!(gateway.json(event("a", 200)).await.status, 202);
    let batch = format!("[{},{},{}]", event("a", 50), event("a", 60), event("a", 80));
    let answer = gateway.json(batch.clone()).await;
    assert_eq!((answer.problem(), answer.retry_after()), ((429, "rate-limited"), Duration::from_secs(19)));
    gateway.time.advance(answer.retry_after());
    assert_eq!(gateway.json(batch).await.accepted(), 3);
}

#[tokio::test]
async fn what_device_limits_refuse_waits_for_the_other_limits_too() {
    let mut config = Config::default();
    config.limits.per_device = limit(10.0, 5);
    config.limits.global = limit(1.0, 10);
    let gateway = gateway(config);
    assert_eq!(gateway.json(array("a", 5)).await.status, 202);
    let answer = gateway.json(array("a", 5)).await;
    assert_eq!((answer.problem(), answer.header("ratelimit")), ((429, "rate-limited"), r#""global";r=0;t=5"#));
    gateway.time.advance(answer.retry_after());
    assert_eq!(gateway.json(array("a", 5)).await.accepted(), 5);
}

#[test]
fn refused_events_are_counted_by_limit() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let mut config = Config::default();
            config.limits.per_device = limit(1.0, 4);
            config.limits.global = Limit::new(1.0, 12).unwrap().and_bytes(ByteSize(1), ByteSize(400)).ok();
            let gateway = gateway(config);
            assert_eq!(gateway.json(array("a", 6)).await.accepted(), 4);
            assert_eq!(gateway.json(array("b", 7)).await.status, 429);
            assert_eq!(gateway.json(event("b", 399)).await.status, 429);
        });
    });
    let page = recorder.handle().render();
    for line in [
        r#"lakehose_ingest_limited_total{limit="per_device"} 2"#,
        r#"lakehose_ingest_limited_total{limit="global"} 7"#,
        r#"lakehose_ingest_limited_total{limit="global_bytes"} 1"#,
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
}

fn any_limit() -> impl Strategy<Value = Option<Limit>> {
    let events = (0.5f64..50.0, 1u32..30).prop_map(|(rate, burst)| Limit::new(rate, burst).unwrap());
    let bytes = (10u64..5_000, 30u64..2_000).prop_map(|(rate, burst)| bytes(rate, burst).unwrap());
    prop::option::of(prop_oneof![events, bytes])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever limits are set: who waits as long as he is told gets something through, and 413 is for ever.
    #[test]
    fn who_comes_back_when_told_gets_through(
        (per_device, per_ip, per_dataset, global) in (any_limit(), any_limit(), any_limit(), any_limit()),
        requests in prop::collection::vec((prop::sample::select(vec!["a", "b"]), 1usize..25, 0u64..3_000), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = Config::default();
        (config.limits.per_device, config.limits.per_ip) = (per_device, per_ip);
        (config.limits.per_dataset, config.limits.global) = (per_dataset, global);
        let gateway = gateway(config);
        for (device, count, pause) in requests {
            gateway.time.advance(Duration::from_millis(pause));
            let answer = runtime.block_on(gateway.json(array(device, count)));
            let expected = match answer.status.as_u16() {
                429 => {
                    gateway.time.advance(answer.retry_after());
                    202
                }
                413 => {
                    gateway.time.advance(Duration::from_secs(30 * 24 * 3600));
                    413
                }
                status => {
                    prop_assert_eq!(status, 202, "{:?}", answer);
                    continue;
                }
            };
            let again = runtime.block_on(gateway.json(array(device, count)));
            prop_assert_eq!(again.status.as_u16(), expected, "{:?} after {:?}", again, answer);
        }
    }
}
