//! One request is found again in its answer, in every log line, in its records and in the audit line.

use crate::support::{self, Answer, Fault, Gateway, array, gateway, guarded, post};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use ingest::Config;
use ingest::auth::{Secret, Settings};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The log lines of this thread from here on, as JSON; each test has a thread of its own.
struct Lines;

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn of_this_thread() -> Lines {
        // One for all tests: with one for each, what a test on another thread does decides which lines are written.
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let json = tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO);
            json.with_writer(|| Writer).try_init().unwrap();
        });
        WRITTEN.take();
        Lines
    }

    fn text(&self) -> String {
        WRITTEN.with_borrow(|written| String::from_utf8(written.clone()).unwrap())
    }

    fn read(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the audit lines say.
    fn audit(&self) -> Vec<Value> {
        let lines = self.read().into_iter().filter(|line| line["target"] == "audit");
        lines.map(|line| line["fields"].clone()).collect()
    }
}

fn named(request_id: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = post("application/json", body.into());
    request.headers_mut().insert("x-request-id", request_id.parse().unwrap());
    request
}

fn audited() -> Gateway {
    let mut config = Config::default();
    config.http.audit = true;
    gateway(config)
}

#[tokio::test]
async fn the_answer_has_the_requests_own_id() {
    let gateway = gateway(Config::default());
    let answer = gateway.send(named("order-66", array("a", 1))).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (202, "order-66"));
    let refused = gateway.send(named("order-67", "{")).await;
    assert_eq!((refused.status.as_u16(), refused.header("x-request-id")), (400, "order-67"));
    assert_eq!(refused.body["request_id"], "order-67");
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own_if_the_request_has_none() {
    let gateway = gateway(Config::default());
    let request = |method: Method, path: &str| Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let mut answers: Vec<Answer> = Vec::new();
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/nowhere"),
        (Method::PUT, "/v1/events/events"),
        (Method::POST, "/v1/events/nothing"),
        (Method::POST, "/v1/events/events"),
    ] {
        answers.push(gateway.send(request(method, path)).await);
    }
    gateway.log.set(Fault::Panicking);
    answers.push(gateway.json(array("a", 1)).await);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 404, 405, 404, 415, 500]);
    let mut ids: Vec<&str> = answers.iter().map(|answer| answer.header("x-request-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), answers.len());
}

#[tokio::test]
async fn an_id_that_could_forge_a_log_line_is_replaced() {
    let gateway = gateway(Config::default());
    for id in ["a b", "a\"b", "", &"x".repeat(129)] {
        let answer = gateway.send(named(id, array("a", 1))).await;
        assert_eq!(answer.header("x-request-id").len(), 36, "{id}");
    }
}

#[tokio::test]
async fn records_continue_the_trace_under_the_gateways_own_span() {
    let gateway = gateway(Config::default());
    let mut request = post("application/json", Body::from(array("a", 2)));
    request.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    request.headers_mut().insert("tracestate", "rojo=1".parse().unwrap());
    assert_eq!(gateway.send(request).await.status, 202);
    let records = gateway.log.records.lock().unwrap();
    let traces: Vec<String> = records
        .iter()
        .map(|(_, record)| {
            let names: Vec<&str> = record.headers.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, ["id", "received_at", "traceparent", "tracestate"]);
            assert_eq!(record.headers[3].1, "rojo=1");
            String::from_utf8(record.headers[2].1.to_vec()).unwrap()
        })
        .collect();
    assert_eq!(traces[0], traces[1], "one request is one span");
    assert!(traces[0].starts_with(&format!("00-{TRACE}-")) && traces[0].ends_with("-01"), "{traces:?}");
    assert_ne!(traces[0], PARENT);
}

#[tokio::test]
async fn a_request_without_a_valid_trace_is_given_none() {
    let gateway = gateway(Config::default());
    for broken in [None, Some("00-0-0-zz")] {
        let mut request = post("application/json", Body::from(array("a", 1)));
        if let Some(broken) = broken {
            request.headers_mut().insert("traceparent", broken.parse().unwrap());
        }
        request.headers_mut().insert("tracestate", "rojo=1".parse().unwrap());
        assert_eq!(gateway.send(request).await.status, 202);
        assert_eq!(gateway.log.last().1.headers.len(), 2, "id and received_at");
    }
}

#[tokio::test]
async fn every_line_written_meanwhile_names_request_trace_and_span() {
    let gateway = audited();
    let lines = Lines::of_this_thread();
    gateway.log.set(Fault::Panicking);
    let mut request = named("order-66", array("a", 1));
    request.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    assert_eq!(gateway.send(request).await.status, 500);
    gateway.log.set(Fault::Unhealthy);
    assert_eq!(gateway.send(named("order-67", array("a", 1))).await.status, 503);

    let lines = lines.read();
    let messages: Vec<&str> = lines.iter().map(|line| line["fields"]["message"].as_str().unwrap()).collect();
    assert_eq!(messages.len(), 4, "{lines:?}");
    assert!(messages.contains(&"request handler panicked"), "{messages:?}");
    for line in &lines[..2] {
        assert_eq!((&line["span"]["request_id"], &line["span"]["trace_id"]), (&json!("order-66"), &json!(TRACE)));
        let span = line["span"]["span_id"].as_str().unwrap();
        assert!(span.len() == 16 && span != "00f067aa0ba902b7", "{line}");
    }
    assert!(lines[2..].iter().all(|line| line["span"]["request_id"] == "order-67"), "{lines:?}");
}

#[tokio::test]
async fn the_audit_line_says_who_where_how_many_and_what_came_of_it() {
    let gateway = audited();
    let lines = Lines::of_this_thread();
    let body = r#"[{"device_id":"a","id":"1"},{"device_id":"a","id":"1"},{},{"device_id":"secret-9"}]"#;
    let mut request = named("order-66", body);
    request.headers_mut().insert("authorization", "Bearer secret-8".parse().unwrap());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 9], 4711))));
    assert_eq!(gateway.send(request).await.status, 202);

    let mut audit = lines.audit();
    assert_eq!(audit.len(), 1);
    assert!(audit[0]["seconds"].as_f64().unwrap() < 60.0);
    audit[0].as_object_mut().unwrap().remove("seconds");
    let expected = json!({
        "message": "request", "ip": "10.0.0.9", "dataset": "events", "bytes": body.len(), "events": 4, "accepted": 2,
        "duplicates": 1, "rejected": 1, "status": 202, "outcome": "ok",
    });
    assert_eq!(audit[0], expected);
    assert!(!lines.text().contains("secret"), "{}", lines.text());
}

#[tokio::test]
async fn the_audit_line_names_the_key_and_never_shows_it() {
    let secret = Secret::from_entropy([1; 6], [1; 32]);
    let keys = format!("[[keys]]\nid = '{}'\nname = 'fleet-7'\nsha256 = '{}'\n", secret.id(), secret.hash());
    let mut config = Config::default();
    config.http.audit = true;
    let gateway = guarded(config, &Settings { keys_text: Some(keys), ..Settings::default() });
    let lines = Lines::of_this_thread();
    for key in [secret.reveal(), &secret.reveal().replace("lh_", "lh_0")] {
        let mut request = named("order-66", array("a", 1));
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        gateway.send(request).await;
    }
    let told: Vec<Value> = lines.audit().iter().map(|line| json!([line["caller"], line["outcome"]])).collect();
    assert_eq!(told, [json!(["fleet-7", "ok"]), json!([null, "unauthenticated"])]);
    let shown = secret.reveal().rsplit('_').next().unwrap();
    assert!(!lines.text().contains(shown), "{}", lines.text());
}

#[tokio::test]
async fn the_audit_line_has_the_address_of_the_client_though_nobody_knows_who_it_is() {
    let mut config = Config::default();
    config.http.audit = true;
    config.http.trusted_proxies = serde_json::from_str(r#"["10.0.0.0/8"]"#).unwrap();
    let secret = Secret::from_entropy([1; 6], [1; 32]);
    let keys = format!("[[keys]]\nid = '{}'\nname = 'fleet-7'\nsha256 = '{}'\n", secret.id(), secret.hash());
    let gateway = guarded(config, &Settings { keys_text: Some(keys), ..Settings::default() });
    let lines = Lines::of_this_thread();
    for (path, peer) in [("/v1/events/events", [10, 0, 0, 9]), ("/nowhere", [10, 0, 0, 9]), ("/nowhere", [8, 8, 8, 8])]
    {
        let mut request = named("order-66", array("a", 1));
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((peer, 4711))));
        gateway.send(request).await;
    }
    let told: Vec<Value> = lines.audit().iter().map(|line| json!([line["ip"], line["status"]])).collect();
    assert_eq!(told, [json!(["192.0.2.7", 401]), json!(["192.0.2.7", 404]), json!(["8.8.8.8", 404])]);
}

#[tokio::test]
async fn a_request_that_outlives_its_client_has_one_audit_line_all_the_same() {
    let gateway = audited();
    let lines = Lines::of_this_thread();
    gateway.log.set(Fault::Slow(Duration::from_millis(100)));
    let mut request = named("order-66", array("a", 3));
    request.headers_mut().insert("idempotency-key", "\"k\"".parse().unwrap());
    let handled = tower::ServiceExt::oneshot(gateway.router.clone(), request);
    assert!(tokio::time::timeout(Duration::from_millis(20), handled).await.is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let audit = lines.audit();
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!((&audit[0]["outcome"], &audit[0]["accepted"]), (&json!("cut-off"), &json!(3)));
    assert_eq!(lines.read()[0]["span"]["request_id"], "order-66");
}

#[tokio::test]
async fn refusals_have_an_audit_line_too() {
    let gateway = audited();
    let lines = Lines::of_this_thread();
    gateway.json("[{},{}]").await;
    gateway.json("[").await;
    gateway.post("text/plain", "").await;
    gateway.send(Request::get("/nowhere?key=secret").body(Body::empty()).unwrap()).await;
    gateway.log.set(Fault::Panicking);
    gateway.json(array("a", 3)).await;

    let audit = lines.audit();
    let told: Vec<Value> = audit
        .iter()
        .map(|line| json!([line["status"], line["outcome"], line["dataset"], line["events"], line["rejected"]]))
        .collect();
    let expected = [
        json!([400, "nothing-accepted", "events", 2, 2]),
        json!([400, "malformed-body", "events", null, 0]),
        json!([415, "unsupported-media-type", "events", null, 0]),
        json!([404, "no-such-path", null, null, 0]),
        json!([500, "internal-error", "events", 3, 0]),
    ];
    assert_eq!(told, expected);
    assert!(!lines.text().contains("secret"));
}

#[tokio::test]
async fn a_request_whose_client_goes_away_has_an_audit_line() {
    let gateway = audited();
    let lines = Lines::of_this_thread();
    gateway.log.set(Fault::Stuck);
    let handled = tower::ServiceExt::oneshot(gateway.router.clone(), named("order-66", array("a", 3)));
    assert!(tokio::time::timeout(Duration::from_millis(20), handled).await.is_err());
    let audit = lines.audit();
    assert_eq!((&audit[0]["outcome"], &audit[0]["events"]), (&json!("cut-off"), &json!(3)));
    assert_eq!(lines.read()[0]["span"]["request_id"], "order-66");
}

#[tokio::test]
async fn without_the_setting_there_is_no_audit_line() {
    let gateway = support::gateway(Config::default());
    let lines = Lines::of_this_thread();
    assert_eq!(gateway.json(array("a", 1)).await.status, 202);
    assert_eq!(lines.read(), Vec::<Value>::new());
}
