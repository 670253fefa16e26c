//! Who may post what: keys, tokens, and those who have neither.

use crate::support::{Answer, Gateway, NOW, array, gateway, guarded, post};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ingest::auth::{Secret, Settings};
use ingest::{ClientCertificate, Config, Limit};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

fn secret(n: u8) -> Secret {
    Secret::from_entropy([n; 6], [n; 32])
}

/// Keys by number: 1 may everything, 2 one dataset and site, 3 expires after a minute, 4 is revoked.
fn keys() -> Settings {
    let scopes = [
        "",
        "datasets = ['heartbeats']\ndevice_prefix = 'site-1/'",
        "expires = '2026-01-31T12:01:00Z'",
        "revoked = '2026-01-30T12:00:00Z'",
    ];
    let text = scopes.iter().zip(1..).map(|(scope, n)| {
        format!("[[keys]]\nid = '{}'\nname = 'k{n}'\nsha256 = '{}'\n{scope}\n", secret(n).id(), secret(n).hash())
    });
    Settings { keys_text: Some(text.collect()), ..Settings::default() }
}

fn to(dataset: &str, key: Option<&str>, body: &str) -> Request<Body> {
    let mut request = post("application/json", Body::from(body.to_owned()));
    *request.uri_mut() = format!("/v1/events/{dataset}").parse().unwrap();
    if let Some(key) = key {
        request.headers_mut().insert("authorization", HeaderValue::try_from(format!("Bearer {key}")).unwrap());
    }
    request
}

fn from(ip: &str, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(ip.parse().unwrap(), 1)));
    request
}

async fn with_key(gateway: &Gateway, dataset: &str, n: u8, body: &str) -> Answer {
    gateway.send(to(dataset, Some(secret(n).reveal()), body)).await
}

/// The body, but for the name of the request.
fn without_id(mut answer: Answer) -> Value {
    answer.body.as_object_mut().unwrap().remove("request_id");
    answer.body
}

#[tokio::test]
async fn a_key_is_good_in_either_header() {
    let gateway = guarded(Config::default(), &keys());
    assert_eq!(with_key(&gateway, "events", 1, &array("a", 1)).await.status, 202);
    let mut request = to("events", None, &array("a", 1));
    request.headers_mut().insert("x-api-key", secret(1).reveal().parse().unwrap());
    assert_eq!(gateway.send(request).await.status, 202);
    assert_eq!(gateway.log.values().len(), 2);
}

#[tokio::test]
async fn whoever_has_no_good_key_gets_the_same_401_whatever_is_wrong() {
    let gateway = guarded(Config::default(), &keys());
    let missing = gateway.send(to("events", None, &array("a", 1))).await;
    assert_eq!(missing.problem(), (401, "unauthenticated"));
    assert_eq!(missing.header("www-authenticate"), r#"Bearer realm="lakehose""#);

    let half = format!("lh_{}_{}", secret(1).id(), "A".repeat(43));
    let (unknown, revoked) = (secret(9).reveal().to_owned(), secret(4).reveal().to_owned());
    gateway.time.advance(Duration::from_secs(60));
    let expired = secret(3).reveal().to_owned();
    let mut answers = Vec::new();
    for key in [half, unknown, revoked, expired, "eyJ.e30.x".to_owned()] {
        for dataset in ["events", "unheard-of"] {
            let answer = gateway.send(to(dataset, Some(&key), "no json")).await;
            assert_eq!(answer.problem(), (401, "unauthenticated"));
            assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="lakehose", error="invalid_token""#);
            answers.push(without_id(answer));
        }
    }
    assert!(answers.iter().all(|body| *body == answers[0]), "{answers:?}");
    assert_eq!(without_id(missing), answers[0]);
    assert!(!answers[0].to_string().contains("heartbeats"), "strangers are not told which datasets there are");
    assert!(gateway.log.values().is_empty());
}

#[tokio::test]
async fn a_key_is_good_until_it_expires() {
    let gateway = guarded(Config::default(), &keys());
    gateway.time.advance(Duration::from_millis(59_999));
    assert_eq!(with_key(&gateway, "events", 3, &array("a", 1)).await.status, 202);
    gateway.time.advance(Duration::from_millis(1));
    assert_eq!(with_key(&gateway, "events", 3, &array("a", 1)).await.status, 401);
}

#[tokio::test]
async fn a_dataset_that_the_key_is_not_for_is_403_and_one_that_is_not_there_is_404() {
    let gateway = guarded(Config::default(), &keys());
    let forbidden = with_key(&gateway, "events", 2, &array("site-1/a", 1)).await;
    assert_eq!(forbidden.problem(), (403, "dataset-not-allowed"));
    let unknown = with_key(&gateway, "unheard-of", 2, &array("site-1/a", 1)).await;
    assert_eq!(unknown.problem(), (404, "unknown-dataset"));
    for answer in [forbidden, unknown] {
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("heartbeats") && !detail.contains("events"), "{detail}");
    }
    assert_eq!(with_key(&gateway, "unheard-of", 1, "[]").await.problem(), (404, "unknown-dataset"));
    assert_eq!(with_key(&gateway, "heartbeats", 2, &array("site-1/a", 1)).await.status, 202);
}

#[tokio::test]
async fn an_event_of_a_device_that_the_key_is_not_for_is_rejected_alone() {
    let gateway = guarded(Config::default(), &keys());
    let body = r#"[{"device_id":"site-1/a"},{"id":"x","device_id":"site-2/a"},{"device_id":"site-10/a"},{}]"#;
    let answer = with_key(&gateway, "heartbeats", 2, body).await;
    assert_eq!((answer.status.as_u16(), answer.accepted()), (202, 1));
    let rejected = [(1, "device_not_allowed"), (2, "device_not_allowed"), (3, "missing_device_id")];
    assert_eq!((answer.rejected(), &answer.body["rejected"][0]["id"]), (rejected.to_vec(), &json!("x")));
    assert_eq!(gateway.log.values(), [r#"{"device_id":"site-1/a"}"#]);

    let none = with_key(&gateway, "heartbeats", 2, &array("site-2/a", 2)).await;
    assert_eq!(none.problem(), (403, "device-not-allowed"));
    assert_eq!(none.rejected(), [(0, "device_not_allowed"), (1, "device_not_allowed")]);
    let mixed = with_key(&gateway, "heartbeats", 2, r#"[{"device_id":"site-2/a"},{}]"#).await;
    assert_eq!(mixed.problem(), (400, "nothing-accepted"));
}

#[tokio::test]
async fn the_root_names_the_datasets_only_to_who_may_post_to_them() {
    let gateway = guarded(Config::default(), &keys());
    let root = |key: Option<Secret>| {
        let request = Request::get("/");
        let request = key.iter().fold(request, |request, key| request.header("x-api-key", key.reveal()));
        gateway.send(request.body(Body::empty()).unwrap())
    };
    let stranger = root(None).await;
    assert_eq!((stranger.status.as_u16(), stranger.body.get("datasets")), (200, None));
    assert_eq!(root(Some(secret(1))).await.body["datasets"], json!(["events", "heartbeats"]));
    assert_eq!(root(Some(secret(2))).await.body["datasets"], json!(["heartbeats"]));
    assert_eq!(root(Some(secret(9))).await.status, 401);
}

#[tokio::test]
async fn a_guesser_is_slowed_before_a_guess_is_looked_at_and_those_beside_him_are_not() {
    let gateway = guarded(Config::default(), &keys());
    let send = |ip, n: u8| gateway.send(from(ip, to("events", Some(secret(n).reveal()), r#"{"device_id":"a"}"#)));
    assert_eq!(send("203.0.113.7", 1).await.status, 202);
    for guess in 0..10 {
        assert_eq!(send("203.0.113.7", 100 + guess).await.status, 401, "{guess}");
    }
    let slowed = send("203.0.113.7", 120).await;
    assert_eq!(slowed.problem(), (429, "too-many-guesses"));
    assert_eq!(slowed.retry_after(), Duration::from_secs(1));
    assert_eq!(send("203.0.113.7", 3).await.status, 429, "a good key that was never seen here is not looked at either");
    assert_eq!(send("203.0.113.7", 1).await.status, 202, "one that was, is");
    assert_eq!(send("203.0.113.8", 3).await.status, 202, "another address is not disturbed");
    gateway.time.advance(Duration::from_secs(1));
    assert_eq!(send("203.0.113.7", 3).await.status, 202, "after Retry-After it is looked at");
    assert_eq!(gateway.log.values().len(), 4);
}

#[tokio::test]
async fn who_sends_no_key_or_one_that_was_good_once_is_no_guesser() {
    let gateway = guarded(Config::default(), &keys());
    for _ in 0..50 {
        assert_eq!(gateway.send(to("events", None, &array("a", 1))).await.status, 401);
        assert_eq!(with_key(&gateway, "events", 4, &array("a", 1)).await.status, 401);
    }
    assert_eq!(with_key(&gateway, "events", 1, &array("a", 1)).await.status, 202);
}

/// The file of a JWKS, and the key that signs for it.
fn issuer(folder: &Path) -> (PathBuf, EncodingKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": x}]});
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, set.to_string()).unwrap();
    (jwks, EncodingKey::from_ed_der(pair.serialized_der()))
}

#[tokio::test]
async fn a_token_posts_for_the_device_that_it_names_and_for_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (jwks, private) = issuer(folder.path());
    let gateway = guarded(Config::default(), &Settings { jwks: Some(jwks), ..keys() });
    let header = Header { kid: Some("1".into()), ..Header::new(Algorithm::EdDSA) };
    let token = encode(&header, &json!({"sub": "sensor-1", "exp": NOW / 1_000_000 + 60}), &private).unwrap();

    let body = r#"[{"device_id":"sensor-1"},{"device_id":"sensor-10"}]"#;
    let answer = gateway.send(to("events", Some(&token), body)).await;
    assert_eq!((answer.accepted(), answer.rejected()), (1, vec![(1, "device_not_allowed")]));
    assert_eq!(gateway.send(to("events", Some(&token), &array("sensor-2", 1))).await.status, 403);
    assert_eq!(with_key(&gateway, "events", 1, &array("sensor-2", 1)).await.status, 202, "keys are good beside tokens");
    gateway.time.advance(Duration::from_secs(91));
    assert_eq!(gateway.send(to("events", Some(&token), &array("sensor-1", 1))).await.status, 401);
}

proptest! {
    #[test]
    fn no_credentials_that_can_be_sent_let_anybody_in_or_break_anything(
        scheme in "(Bearer |bearer  |Basic |)",
        text in prop_oneof![
            "lh_[0-9a-f]{0,14}_?[A-Za-z0-9_-]{0,50}",
            "[A-Za-z0-9_=-]{0,40}[.][A-Za-z0-9_=-]{0,40}[.][A-Za-z0-9_=-]{0,40}",
            "[ -~]{0,300}",
        ],
        name in prop_oneof![Just("authorization"), Just("x-api-key")],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let mut request = to("events", None, r#"{"device_id":"a"}"#);
            request.headers_mut().insert(name, HeaderValue::try_from(format!("{scheme}{text}")).unwrap());
            GATEWAY.send(request).await
        });
        prop_assert!([401, 429].contains(&answer.status.as_u16()), "{:?}", answer);
        prop_assert!(GATEWAY.log.values().is_empty());
        GATEWAY.time.advance(Duration::from_millis(700));
    }
}

/// With keys and tokens, for requests that are not to come in.
static GATEWAY: LazyLock<Gateway> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (jwks, _) = issuer(folder.path());
    guarded(Config::default(), &Settings { jwks: Some(jwks), ..keys() })
});

#[test]
fn failures_are_counted_by_reason() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let gateway = guarded(Config::default(), &keys());
            gateway.send(to("events", None, "")).await;
            for n in [4, 4, 9] {
                with_key(&gateway, "events", n, "").await;
            }
        });
    });
    let page = handle.render();
    for line in [
        r#"lakehose_ingest_authentication_failures_total{reason="missing"} 1"#,
        r#"lakehose_ingest_authentication_failures_total{reason="revoked"} 2"#,
        r#"lakehose_ingest_authentication_failures_total{reason="unknown_key"} 1"#,
        r#"lakehose_ingest_requests_refused_total{problem="unauthenticated"} 4"#,
        r#"lakehose_ingest_credentials_stale{file="keys"} 0"#,
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
}

#[tokio::test]
async fn a_client_certificate_does_not_replace_a_key_and_its_name_gives_way_to_the_keys() {
    let certificate = || ClientCertificate { name: "sensor-1".into() };
    let mut config = Config::default();
    config.limits.per_key = Some(Limit::new(1.0, 1).unwrap());
    let guarded = guarded(config.clone(), &keys());
    let shown = |key: Option<&str>| {
        let mut request = to("events", key, &array("a", 1));
        request.extensions_mut().insert(certificate());
        request
    };
    assert_eq!(guarded.send(shown(None)).await.problem(), (401, "unauthenticated"));
    assert_eq!(guarded.send(shown(Some("lh_010101010101_no"))).await.problem(), (401, "unauthenticated"));
    assert_eq!(guarded.send(shown(Some(secret(1).reveal()))).await.status, 202);
    assert_eq!(with_key(&guarded, "events", 1, &array("a", 1)).await.status, 429, "who posts is the key");

    let open = gateway(config);
    assert_eq!(open.send(shown(None)).await.status, 202);
    assert_eq!(open.send(shown(None)).await.status, 429, "without [auth] it is the certificate");
    assert_eq!(open.send(to("events", None, &array("a", 1))).await.status, 202);
}
