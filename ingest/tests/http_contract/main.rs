//! What devices can rely on: every answer of the gateway, over its routes and a log in memory.

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod cloudevents;
mod compressed;
mod limits;
mod priorities;
mod idempotency;
mod atomic;
mod pressure;
mod spill;
mod correlation;
mod description;
mod hostile;
mod fuzz;

use axum::body::Body;
use axum::http::{Method, Request};
use bytes::Bytes;
use bytesize::ByteSize;
use eventlog::AppendError;
use ingest::Config;
use serde_json::json;
use std::time::Duration;
use support::{Fault, NOW, array, chunked, event_of, gateway, post};

fn unavailable() -> AppendError {
    AppendError::Unavailable("broker 10.0.0.7:9092 is down".into())
}

mod bodies {
    use super::*;

    #[tokio::test]
    async fn one_object_is_one_event() {
        let gateway = gateway(Config::default());
        let answer = gateway.json(r#" {"device_id":"a","data":{"t":1}} "#).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.body, json!({"accepted": 1, "duplicates": 0, "rejected": []}));
        assert_eq!(gateway.log.values(), [r#"{"device_id":"a","data":{"t":1}}"#]);
    }

    #[tokio::test]
    async fn a_bad_event_does_not_refuse_the_others() {
        let gateway = gateway(Config::default());
        let answer = gateway
            .json(r#"[{"device_id":"a"},{"id":"x","device_id":"b","time":"2001-01-01T00:00:00Z"},7,{"device_id":"c"}]"#)
            .await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.accepted(), 2);
        assert_eq!(answer.rejected(), [(1, "invalid_time"), (2, "not_an_object")]);
        assert_eq!(answer.body["rejected"][0]["id"], "x");
        assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains("2001-01-01"));
        assert_eq!(gateway.log.values(), [r#"{"device_id":"a"}"#, r#"{"device_id":"c"}"#]);
    }

    #[tokio::test]
    async fn lines_are_counted_without_blank_ones_and_need_no_last_newline() {
        let gateway = gateway(Config::default());
        let body = "{\"device_id\":\"a\"}\r\n\r\n{oops}\r\n   \n{\"device_id\":\"b\"}";
        for content_type in ["application/x-ndjson", "application/ndjson", "application/jsonl; charset=utf-8"] {
            let answer = gateway.post(content_type, body).await;
            assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 2));
            assert_eq!(answer.rejected(), [(1, "invalid_json")]);
        }
    }

    #[tokio::test]
    async fn a_record_carries_the_devices_bytes_and_what_only_the_gateway_knows() {
        let gateway = gateway(Config::default());
        let event =
            "{ \"device_id\" : \"s\\u00e9nsor-\u{1f321}\",\"id\":\"e-1\", \"n\": 1.000000000000000000000000001 }";
        assert_eq!(gateway.json(format!("[{event}]")).await.status, 202);

        let (topic, record) = gateway.log.last();
        assert_eq!(topic, "events");
        assert_eq!(record.value, event);
        assert_eq!(record.key, "s\u{e9}nsor-\u{1f321}");
        assert_eq!(record.headers, [("id", Bytes::from("e-1")), ("received_at", NOW.to_string().into())]);
    }

    #[tokio::test]
    async fn an_event_without_id_is_given_a_new_one_of_version_7() {
        let gateway = gateway(Config::default());
        gateway.json(array("a", 2)).await;
        let ids: Vec<String> = gateway
            .log
            .records
            .lock()
            .unwrap()
            .iter()
            .map(|(_, record)| String::from_utf8(record.headers[0].1.to_vec()).unwrap())
            .collect();
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'7'), "{ids:?}");
    }

    #[tokio::test]
    async fn the_same_id_of_the_same_device_is_stored_once_per_request() {
        let gateway = gateway(Config::default());
        let answer = gateway
            .json(
                r#"[{"device_id":"a","id":"1"},{"device_id":"a","id":"1"},{"device_id":"b","id":"1"},{"device_id":"a"},
                    {"device_id":"a"}]"#,
            )
            .await;
        assert_eq!(answer.body, json!({"accepted": 4, "duplicates": 1, "rejected": []}));
        assert_eq!(gateway.log.values().len(), 4);
    }

    #[tokio::test]
    async fn unicode_huge_numbers_and_deep_data_are_kept_as_they_are() {
        let gateway = gateway(Config::default());
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let body = format!(
            r#"[{{"device_id":"\u0000\ud83d\ude00","data":{{"n":1e999,"m":{}}}}},{{"device_id":"é","data":{{"x":{deep}}}}}]"#,
            "9".repeat(5_000)
        );
        let answer = gateway.json(body).await;
        assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 2), "{answer:?}");
        assert!(gateway.log.values()[0].contains("1e999"));
    }

    #[tokio::test]
    async fn absurdly_deep_json_is_answered_and_not_crashed_on() {
        let gateway = gateway(Config::default());
        let deep = format!(r#"{{"device_id":{}1{}}}"#, "[".repeat(400_000), "]".repeat(400_000));
        assert_eq!(gateway.json(deep.clone()).await.status, 400);
        let answer = gateway.json(format!(r#"[{deep},{{"device_id":"a"}}]"#)).await;
        assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 1));
    }
}

mod refusals {
    use super::*;

    #[tokio::test]
    async fn nothing_accepted_is_400_with_the_reasons() {
        let gateway = gateway(Config::default());
        let answer = gateway.json(r#"[{"device_id":""},{"data":{}}]"#).await;
        assert_eq!(answer.problem(), (400, "nothing-accepted"));
        assert_eq!((answer.accepted(), answer.body["duplicates"].as_u64()), (0, Some(0)));
        assert_eq!(answer.rejected(), [(0, "invalid_device_id"), (1, "missing_device_id")]);
        assert_eq!(gateway.json("{").await.rejected(), [(0, "invalid_json")]);
    }

    #[tokio::test]
    async fn a_body_that_is_no_sequence_of_events_is_400() {
        let gateway = gateway(Config::default());
        for body in ["", "  ", "[]", "[{},", "[{\"device_id\":\"a\"}] x"] {
            assert_eq!(gateway.json(body).await.problem(), (400, "malformed-body"), "{body}");
        }
        for content_type in ["application/json", "application/x-ndjson"] {
            let answer = gateway.post(content_type, &b"{\"device_id\":\"\xff\"}"[..]).await;
            assert_eq!(answer.problem(), (400, "malformed-body"));
            assert!(answer.body["detail"].as_str().unwrap().contains("byte 14"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_unknown_dataset_is_404_and_names_the_known_ones() {
        let gateway = gateway(Config::default());
        for path in ["/v1/events/event", "/v1/events/events__dead", "/v1/events/%ff", "/v1/events/..%2Fevents"] {
            let mut request = post("application/json", Body::from(array("a", 1)));
            *request.uri_mut() = path.parse().unwrap();
            let answer = gateway.send(request).await;
            assert_eq!(answer.problem(), (404, "unknown-dataset"), "{path}");
            assert!(answer.body["detail"].as_str().unwrap().contains("events, heartbeats"));
        }
    }

    #[tokio::test]
    async fn an_unknown_path_is_404() {
        let gateway = gateway(Config::default());
        for path in ["/v1", "/v1/events/", "/v1/events", "/v1/events/events/", "/v1/events/a/b", "/metrics"] {
            let request = Request::post(path).body(Body::empty()).unwrap();
            assert_eq!(gateway.send(request).await.problem(), (404, "no-such-path"), "{path}");
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_405_and_names_the_right_one() {
        let gateway = gateway(Config::default());
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let request = Request::builder().method(method).uri("/v1/events/events").body(Body::empty()).unwrap();
            let answer = gateway.send(request).await;
            assert_eq!(answer.problem(), (405, "wrong-method"));
            assert_eq!(answer.header("allow"), "POST");
        }
    }

    #[tokio::test]
    async fn another_content_type_is_415_and_names_the_accepted_ones() {
        let gateway = gateway(Config::default());
        let mut untyped = post("x", Body::from(array("a", 1)));
        untyped.headers_mut().remove("content-type");
        let answers = [
            gateway.send(untyped).await,
            gateway.post("text/plain", array("a", 1)).await,
            gateway.post("application/json; charset=latin1", array("a", 1)).await,
        ];
        for answer in answers {
            assert_eq!(answer.problem(), (415, "unsupported-media-type"));
            let detail = answer.body["detail"].as_str().unwrap();
            for known in ["application/json", "application/x-ndjson", "application/cloudevents-batch+json"] {
                assert!(detail.contains(known), "{detail}");
            }
        }
    }

    #[tokio::test]
    async fn a_coding_that_is_not_understood_is_415_and_names_those_that_are() {
        let gateway = gateway(Config::default());
        for coding in ["deflate", "br", "gzip, gzip", "zstd,gzip"] {
            let mut request = post("application/json", Body::from(array("a", 1)));
            request.headers_mut().insert("content-encoding", coding.parse().unwrap());
            let answer = gateway.send(request).await;
            assert_eq!(answer.problem(), (415, "unsupported-media-type"));
            assert_eq!(answer.header("accept-encoding"), "gzip, zstd, identity");
            assert!(answer.body["detail"].as_str().unwrap().contains(coding), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_413_whatever_its_length_claims() {
        let mut config = Config::default();
        config.http.max_body = ByteSize(1_000);
        let gateway = gateway(config);
        let largest = event_of(1_000);
        assert_eq!(gateway.json(largest.clone()).await.status, 202);
        assert_eq!(gateway.json(largest.clone() + " ").await.problem(), (413, "body-too-large"));
        let pieces = |body: String| body.into_bytes().chunks(100).map(Bytes::copy_from_slice).collect();
        assert_eq!(gateway.json(chunked(pieces(largest.clone()))).await.status, 202);
        assert_eq!(gateway.json(chunked(pieces(largest.clone() + " "))).await.problem(), (413, "body-too-large"));
        for claimed in ["5", "999"] {
            let mut lying = post("application/json", chunked(pieces(largest.clone() + " ")));
            lying.headers_mut().insert("content-length", claimed.parse().unwrap());
            assert_eq!(gateway.send(lying).await.problem(), (413, "body-too-large"), "{claimed}");
        }
        assert_eq!(gateway.log.values().len(), 2);
    }

    #[tokio::test]
    async fn too_many_events_are_413_and_never_listed_one_by_one() {
        let gateway = gateway(Config::default());
        let answer = gateway.json(format!("[{}{{}}]", "{},".repeat(2_700_000))).await;
        assert_eq!(answer.problem(), (413, "too-many-events"));
        assert!(answer.body["detail"].as_str().unwrap().contains("50000"));
    }

    #[tokio::test]
    async fn every_rejected_event_is_listed_and_the_first_thousand_are_explained() {
        let gateway = gateway(Config::default());
        let answer = gateway.post("application/jsonl", "{}\n".repeat(3_000)).await;
        assert_eq!(answer.problem(), (400, "nothing-accepted"));
        let rejected = answer.body["rejected"].as_array().unwrap();
        assert_eq!(rejected.len(), 3_000);
        assert!(rejected[999]["detail"].is_string());
        assert_eq!(rejected[1_000], json!({"index": 1_000, "reason": "missing_device_id"}));
    }

    #[tokio::test]
    async fn an_event_over_its_own_limit_is_rejected_alone() {
        let gateway = gateway(Config::default());
        let big = format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(lake::event::MAX_EVENT_BYTES));
        let answer = gateway.json(format!(r#"[{big},{{"device_id":"b"}}]"#)).await;
        assert_eq!((answer.status.as_u16(), answer.rejected()), (202, vec![(0, "too_large")]));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_400() {
        let gateway = gateway(Config::default());
        let pieces = [Ok(Bytes::from("[")), Err(std::io::Error::other("reset"))];
        let answer = gateway.json(Body::from_stream(futures::stream::iter(pieces))).await;
        assert_eq!(answer.problem(), (400, "broken-body"));
    }

    #[tokio::test]
    async fn a_body_that_takes_too_long_is_408() {
        let mut config = Config::default();
        config.http.body_timeout = Duration::from_millis(20);
        let gateway = gateway(config);
        let answer = gateway.json(Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())).await;
        assert_eq!(answer.problem(), (408, "body-too-slow"));
        assert_eq!(answer.header("connection"), "close");
    }
}

mod log_failures {
    use super::*;

    #[tokio::test]
    async fn never_2xx_when_the_log_takes_nothing() {
        let gateway = gateway(Config::default());
        let failures = [
            unavailable(),
            AppendError::Full { used: 10, budget: 10 },
            AppendError::Unknown(Duration::from_secs(30)),
            AppendError::Refused("no rights".into()),
        ];
        for failure in failures {
            gateway.log.set(Fault::Append(failure));
            let answer = gateway.json(array("a", 3)).await;
            assert_eq!(answer.problem(), (503, "log-unavailable"));
            assert_eq!(answer.rejected(), [0, 1, 2].map(|index| (index, "log_unavailable")));
            assert!(answer.retry_after() >= Duration::from_secs(1));
            assert!(!answer.body.to_string().contains("10.0.0.7"), "the inside shows: {answer:?}");
        }
        gateway.log.set(Fault::None);
        assert_eq!(gateway.json(array("a", 3)).await.status, 202);
    }

    #[tokio::test]
    async fn when_the_log_takes_a_part_the_rest_is_listed_to_be_sent_again() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Containing("bad", AppendError::Unknown(Duration::from_secs(30))));
        let answer = gateway
            .json(r#"[{"device_id":"bad","id":"7"},{"device_id":"a"},{"x":1},{"device_id":"bad"},{"device_id":"c"}]"#)
            .await;
        assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 2));
        assert_eq!(answer.rejected(), [(0, "log_unavailable"), (2, "missing_device_id"), (3, "log_unavailable")]);
        assert_eq!(answer.body["rejected"][0]["id"], "7");
        assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains("same id"));
        assert_eq!(gateway.log.values(), [r#"{"device_id":"a"}"#, r#"{"device_id":"c"}"#]);
    }

    #[tokio::test]
    async fn a_record_too_large_for_the_log_is_not_to_be_sent_again() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Append(AppendError::TooLarge { bytes: 10, limit: 5 }));
        let answer = gateway.json(array("a", 1)).await;
        assert_eq!(answer.problem(), (400, "nothing-accepted"));
        assert_eq!(answer.rejected(), [(0, "too_large")]);
    }

    #[tokio::test]
    async fn an_unhealthy_log_is_503_before_the_body_is_read() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Unhealthy);
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let answer = gateway.json(endless).await;
        assert_eq!(answer.problem(), (503, "log-unavailable"));
        assert!(answer.retry_after() >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn the_longer_the_log_is_down_the_later_devices_are_asked_to_come_back() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Unhealthy);
        let first = gateway.json(array("a", 1)).await.retry_after();
        gateway.time.advance(Duration::from_secs(20));
        let later = gateway.json(array("a", 1)).await.retry_after();
        assert!(first < Duration::from_secs(3) && later >= Duration::from_secs(20), "{first:?} {later:?}");
    }

    #[tokio::test]
    async fn a_log_that_does_not_answer_is_503_in_the_end() {
        let mut config = Config::default();
        config.http.append_timeout = Duration::from_millis(20);
        let gateway = gateway(config);
        gateway.log.set(Fault::Stuck);
        assert_eq!(gateway.json(array("a", 1)).await.problem(), (503, "log-unavailable"));
    }

    #[tokio::test]
    async fn events_that_the_log_does_not_mention_are_not_accepted() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Forgetful);
        let answer = gateway.json(array("a", 3)).await;
        assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 1));
        assert_eq!(answer.rejected(), [(1, "log_unavailable"), (2, "log_unavailable")]);
    }

    #[tokio::test]
    async fn a_panic_is_500_and_the_next_request_is_served() {
        let gateway = gateway(Config::default());
        gateway.log.set(Fault::Panicking);
        assert_eq!(gateway.json(array("a", 1)).await.problem(), (500, "internal-error"));
        gateway.log.set(Fault::None);
        assert_eq!(gateway.json(array("a", 1)).await.status, 202);
    }
}

mod bytes_in_flight {
    use super::*;

    #[tokio::test]
    async fn a_request_beyond_the_budget_is_503_at_once_and_passes_when_others_are_done() {
        let mut config = Config::default();
        config.http.max_body = ByteSize::kib(50);
        config.http.max_in_flight = ByteSize::kib(100);
        let gateway = gateway(config);
        gateway.log.set(Fault::Slow(Duration::from_millis(200)));
        let big = || format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(45_000));

        let router = gateway.router.clone();
        let slow = |body: String| tower::ServiceExt::oneshot(router.clone(), post("application/json", body.into()));
        let (first, second, third) = tokio::join!(slow(big()), slow(big()), gateway.json(big()));
        assert_eq!((first.unwrap().status().as_u16(), second.unwrap().status().as_u16()), (202, 202));
        assert_eq!(third.problem(), (503, "busy"));
        assert!(third.retry_after() >= Duration::from_secs(1));
        assert_eq!(gateway.json(big()).await.status, 202);
    }

    #[tokio::test]
    async fn an_idle_gateway_never_answers_busy() {
        let mut config = Config::default();
        config.http.max_body = ByteSize::kib(50);
        config.http.max_in_flight = ByteSize::kib(100);
        let gateway = gateway(config);
        for count in [1, 50, 99, 100, 101, 1_000, 2_800] {
            let answer = gateway.json(array("a", count)).await;
            assert!(matches!(answer.problem(), (202, _) | (413, "too-many-events")), "{count}: {answer:?}");
        }
    }
}

mod metrics {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn every_fate_is_counted_under_its_documented_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let several = r#"[{"device_id":"a","id":"1"},{"device_id":"a","id":"1"},{},{},7]"#.to_owned();
        let sent = [several, array("a", 3), array("a", 2)];
        let packed = compressed::compress("gzip", sent[1].as_bytes());
        ::metrics::with_local_recorder(&recorder, || {
            ingest::metrics::describe();
            runtime.block_on(async {
                let gateway = gateway(Config::default());
                assert_eq!(gateway.json(sent[0].clone()).await.status, 202);
                assert_eq!(compressed::send(&gateway, "gzip", packed.clone()).await.accepted(), 3);
                gateway.log.set(Fault::Append(unavailable()));
                assert_eq!(gateway.json(sent[2].clone()).await.status, 503);
                assert_eq!(gateway.post("text/plain", "").await.status, 415);
            });
        });
        let page = handle.render();
        for line in [
            r#"lakehose_ingest_events_accepted_total{dataset="events"} 4"#,
            r#"lakehose_ingest_events_duplicate_total{dataset="events"} 1"#,
            r#"lakehose_ingest_events_refused_total{dataset="events",reason="missing_device_id"} 2"#,
            r#"lakehose_ingest_events_refused_total{dataset="events",reason="not_an_object"} 1"#,
            r#"lakehose_ingest_events_refused_total{dataset="events",reason="log_unavailable"} 2"#,
            r#"lakehose_ingest_requests_total{status="202"} 2"#,
            r#"lakehose_ingest_requests_total{status="503"} 1"#,
            r#"lakehose_ingest_requests_refused_total{problem="unsupported-media-type"} 1"#,
            "lakehose_ingest_append_seconds_count 3",
            &format!("lakehose_ingest_body_received_bytes_total {}", sent[0].len() + packed.len() + sent[2].len()),
            &format!("lakehose_ingest_body_bytes_total {}", sent.iter().map(String::len).sum::<usize>()),
            "# HELP lakehose_ingest_events_accepted_total Events that are durable",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }
}

#[tokio::test]
async fn the_root_says_where_to_post() {
    let gateway = gateway(Config::default());
    let answer = gateway.send(Request::get("/").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["post_events"], "/v1/events/{dataset}");
    assert_eq!(answer.body["datasets"], json!(["events", "heartbeats"]));
}
