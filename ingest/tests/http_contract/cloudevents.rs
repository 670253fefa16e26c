//! CloudEvents 1.0 in its three modes, and how it compares to the gateway's own form.

use crate::support::{self, Answer, Fault, Gateway, gateway};
use axum::body::Body;
use eventlog::AppendError;
use ingest::Config;
use serde_json::{Value, json};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";

fn event(id: &str, device: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "urn:plant", "type": "reading", "subject": device,
        "time": "2026-01-31T12:00:00Z", "data": {"t": 1},
    })
}

fn stored(gateway: &Gateway) -> Vec<Value> {
    gateway.log.values().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

async fn binary(gateway: &Gateway, headers: &[(&'static str, &str)], body: &'static str) -> Answer {
    let mut request = support::post("application/json", Body::from(body));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    gateway.send(request).await
}

#[tokio::test]
async fn an_event_is_the_same_in_all_three_modes() {
    let gateway = gateway(Config::default());
    let one = event("1", "dev \"ü\"");
    assert_eq!(gateway.post(STRUCTURED, serde_json::to_string_pretty(&one).unwrap()).await.accepted(), 1);
    assert_eq!(gateway.post(BATCHED, json!([one, event("2", "other")]).to_string()).await.accepted(), 2);
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "urn:plant"),
        ("ce-type", "reading"),
        ("ce-subject", "dev%20%22%C3%BC%22"),
        ("ce-time", "2026-01-31T12:00:00Z"),
    ];
    assert_eq!(binary(&gateway, &headers, r#"{"t":1}"#).await.accepted(), 1);

    let found = stored(&gateway);
    let expected = json!({
        "id": "1", "device_id": "dev \"ü\"", "type": "reading", "time": "2026-01-31T12:00:00Z", "data": {"t": 1},
        "ce_source": "urn:plant",
    });
    assert_eq!((&found[0], &found[1], found[2]["device_id"].as_str()), (&expected, &expected, Some("other")));
    let mut with_type = expected.clone();
    with_type["ce_datacontenttype"] = "application/json".into();
    assert_eq!(found[3], with_type);

    let (_, record) = gateway.log.last();
    assert_eq!((&record.key[..], &record.headers[0].1[..]), ("dev \"ü\"".as_bytes(), &b"1"[..]));
}

#[tokio::test]
async fn what_is_no_cloudevent_is_rejected_by_its_place_in_the_batch() {
    let gateway = gateway(Config::default());
    let mut no_type = event("3", "c");
    no_type.as_object_mut().unwrap().remove("type");
    let old = json!({"specversion": "0.3", "id": "4", "source": "s", "type": "t"});
    let mut long = event("5", "e");
    long["subject"] = "x".repeat(129).into();
    let mut late = event("6", "f");
    late["time"] = "2001-01-01T00:00:00Z".into();
    let batch = json!([event("1", "a"), 7, no_type, old, long, late, event("1", "a"), event("7", "g")]);
    let answer = gateway.post(BATCHED, batch.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.accepted(), answer.body["duplicates"].as_u64()), (202, 2, Some(1)));
    assert_eq!(
        answer.rejected(),
        [
            (1, "not_an_object"),
            (2, "invalid_cloudevent"),
            (3, "invalid_cloudevent"),
            (4, "invalid_device_id"),
            (5, "invalid_time")
        ]
    );
    let rejected = &answer.body["rejected"];
    assert_eq!((&rejected[1]["id"], &rejected[1]["detail"]), (&json!("3"), &json!("the attribute `type` is required")));
    assert!(rejected[2]["detail"].as_str().unwrap().contains("specversion"));
    assert_eq!(stored(&gateway).iter().map(|event| event["id"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "7"]);
}

#[tokio::test]
async fn without_any_valid_event_it_is_400_and_an_empty_batch_is_nothing_wrong() {
    let gateway = gateway(Config::default());
    assert_eq!(gateway.post(STRUCTURED, "{}").await.rejected(), [(0, "invalid_cloudevent")]);
    assert_eq!(gateway.post(STRUCTURED, "[]").await.rejected(), [(0, "not_an_object")]);
    assert_eq!(gateway.post(STRUCTURED, "").await.problem(), (400, "malformed-body"));
    assert_eq!(gateway.post(BATCHED, event("1", "a").to_string()).await.problem(), (400, "malformed-body"));
    let answer = binary(&gateway, &[("ce-specversion", "1.0"), ("ce-id", "9")], "{}").await;
    assert_eq!(answer.problem(), (400, "nothing-accepted"));
    assert_eq!(answer.body["rejected"][0]["id"], "9");
    assert!(answer.body["rejected"][0]["detail"].as_str().unwrap().contains("`source`"));

    let answer = gateway.post(BATCHED, "[]").await;
    assert_eq!((answer.status.as_u16(), answer.body), (202, json!({"accepted": 0, "duplicates": 0, "rejected": []})));
}

#[tokio::test]
async fn a_structured_content_type_wins_over_the_headers_of_binary_mode() {
    let gateway = gateway(Config::default());
    let mut request = support::post(STRUCTURED, Body::from(event("1", "a").to_string()));
    request.headers_mut().insert("ce-specversion", "1.0".parse().unwrap());
    request.headers_mut().insert("ce-id", "2".parse().unwrap());
    assert_eq!(gateway.send(request).await.accepted(), 1);
    assert_eq!(stored(&gateway)[0]["id"], "1");

    let mut request = support::post("application/cloudevents+avro", Body::from("x"));
    request.headers_mut().insert("ce-specversion", "1.0".parse().unwrap());
    assert_eq!(gateway.send(request).await.problem(), (415, "unsupported-media-type"));
}

#[tokio::test]
async fn an_event_that_the_log_does_not_take_is_named_by_its_id_and_its_place() {
    let gateway = gateway(Config::default());
    gateway.log.set(Fault::Containing("\"bad\"", AppendError::Unavailable("down".into())));
    let batch = json!([event("1", "a"), {}, event("2", "bad"), event("3", "c")]);
    let answer = gateway.post(BATCHED, batch.to_string()).await;
    assert_eq!(answer.rejected(), [(1, "invalid_cloudevent"), (2, "log_unavailable")]);
    assert_eq!(answer.body["rejected"][1]["id"], "2");
}
