//! TLS: who is let in, which protocol is spoken, and certificates that change while connections are open.

mod authority;

use super::support::array;
use super::{SOON, Server, answer, closes, head, request, serve};
use authority::{Authority, Place, client, connect};
use bytes::Bytes;
use ingest::{ClientAuth, Config};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Counts for all tests of this binary, so a test may only expect more than before.
static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());

fn counted(series: &str) -> f64 {
    let page = METRICS.render();
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    line.unwrap_or(0.0)
}

fn failures(reason: &str) -> f64 {
    counted(&format!("lakehose_ingest_tls_failures_total{{reason=\"{reason}\"}}"))
}

/// Waits until something is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < SOON, "never {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server whose certificate is of `authority`, before anything is changed about its settings.
async fn encrypted(place: &Place, authority: &Authority, change: impl FnOnce(&mut Config)) -> Server {
    LazyLock::force(&METRICS);
    place.put("cert", &authority.issue("gateway"));
    let mut config = Config { tls: place.section(), ..Config::default() };
    change(&mut config);
    let server = serve(config).await;
    // Its certificate has been read once it talks of it.
    let mut greeted = server.connect().await;
    greeted.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    answer(&mut greeted).await;
    server
}

#[tokio::test]
async fn http2_is_spoken_where_both_know_it_and_else_http1() {
    let (place, authority) = (Place::new(), Authority::new());
    let server = encrypted(&place, &authority, |_| {}).await;

    let stream = connect(&server, &client(&authority, None, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client_h2, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let post = axum::http::Request::post("https://x/v1/events/events").header("content-type", "application/json");
    let mut ready = client_h2.ready().await.unwrap();
    let (response, mut body) = ready.send_request(post.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from(array("a", 3)), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 202);

    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = connect(&server, &client(&authority, None, protocols)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), protocols.first().map(|name| name.as_bytes()));
        for _ in 0..2 {
            stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
            assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));
        }
    }
    assert_eq!(server.log.values().len(), 3 + 4);
}

#[tokio::test]
async fn new_files_serve_new_connections_and_an_open_one_goes_on() {
    let (place, old, new) = (Place::new(), Authority::new(), Authority::new());
    let server = encrypted(&place, &old, |_| {}).await;
    let mut open = connect(&server, &client(&old, None, &[])).await.unwrap();

    place.put("cert", &new.issue("gateway"));
    eventually("served with the new certificate", async || connect(&server, &client(&new, None, &[])).await.is_ok())
        .await;
    assert!(connect(&server, &client(&old, None, &[])).await.is_err(), "still served with the old one");
    open.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(answer(&mut open).await.0.starts_with("HTTP/1.1 202"));
    assert!(counted("lakehose_ingest_tls_reloads_total{outcome=\"ok\"}") >= 1.0);
    let expires = counted("lakehose_ingest_tls_certificate_expires_timestamp_seconds");
    assert_eq!(expires, authority::EXPIRES as f64);
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_and_are_counted() {
    let (place, authority) = (Place::new(), Authority::new());
    let server = encrypted(&place, &authority, |_| {}).await;
    let (pair, other) = (authority.issue("gateway"), authority.issue("gateway"));
    for (what, cert, key) in [
        ("a pair", &pair.cert[..], &other.key[..]),
        ("no certificate", "oops", &pair.key),
        ("no key", &pair.cert, "oops"),
    ] {
        let before = counted("lakehose_ingest_tls_reloads_total{outcome=\"failed\"}");
        std::fs::write(place.path("cert.pem"), cert).unwrap();
        std::fs::write(place.path("cert.key"), key).unwrap();
        eventually(what, async || counted("lakehose_ingest_tls_reloads_total{outcome=\"failed\"}") > before).await;
        connect(&server, &client(&authority, None, &[])).await.unwrap();
    }
    std::fs::remove_file(place.path("cert.pem")).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    connect(&server, &client(&authority, None, &[])).await.unwrap();
}

#[tokio::test]
async fn only_clients_of_the_authority_are_let_in() {
    let (place, authority, stranger) = (Place::new(), Authority::new(), Authority::new());
    place.put_authority("clients", &authority);
    let server = encrypted(&place, &authority, |config| config.tls.client_ca = Some(place.path("clients.pem"))).await;

    let member = authority.issue("sensor-1");
    let mut stream = connect(&server, &client(&authority, Some(&member), &[])).await.unwrap();
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));

    let forged = stranger.issue("sensor-1");
    for (pair, reason) in [(None, "no_client_certificate"), (Some(&forged), "bad_client_certificate")] {
        let before = failures(reason);
        assert!(!is_served(&server, &client(&authority, pair, &[])).await, "{reason}");
        eventually(reason, async || failures(reason) > before).await;
    }
    assert_eq!(server.log.values().len(), 1);
}

#[tokio::test]
async fn where_certificates_are_optional_one_may_come_without_but_not_with_a_wrong_one() {
    let (place, authority, stranger) = (Place::new(), Authority::new(), Authority::new());
    place.put_authority("clients", &authority);
    let server = encrypted(&place, &authority, |config| {
        config.tls.client_ca = Some(place.path("clients.pem"));
        config.tls.client_auth = Some(ClientAuth::Optional);
    })
    .await;
    assert!(is_served(&server, &client(&authority, None, &[])).await);
    assert!(is_served(&server, &client(&authority, Some(&authority.issue("sensor-1")), &[])).await);
    assert!(!is_served(&server, &client(&authority, Some(&stranger.issue("sensor-1")), &[])).await);
}

#[tokio::test]
async fn a_new_authority_of_clients_holds_for_sessions_of_the_old_one_too() {
    let (place, authority, next) = (Place::new(), Authority::new(), Authority::new());
    place.put_authority("clients", &authority);
    let server = encrypted(&place, &authority, |config| config.tls.client_ca = Some(place.path("clients.pem"))).await;
    // One configuration, so it remembers the sessions.
    let (old, new) = (authority.issue("sensor-1"), next.issue("sensor-1"));
    let (old, new) = (client(&authority, Some(&old), &[]), client(&authority, Some(&new), &[]));
    assert!(is_served(&server, &old).await);
    place.put_authority("clients", &next);
    eventually("served by the new authority", async || is_served(&server, &new).await).await;
    assert!(!is_served(&server, &old).await);
}

/// With TLS 1.3 a client hears only after its handshake that it was not let in.
async fn is_served(server: &Server, client: &authority::Client) -> bool {
    let Ok(mut stream) = connect(server, client).await else { return false };
    let mut answer = [0; 12];
    let _ = stream.write_all(request(&array("a", 1)).as_bytes()).await;
    stream.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 202"
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_tls_and_other_noise_is_cut_off() {
    let (place, authority) = (Place::new(), Authority::new());
    let server = encrypted(&place, &authority, |_| {}).await;
    let before = failures("not_tls");
    let mut plain = server.connect().await;
    plain.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    let (head, body) = answer(&mut plain).await;
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("https://"), "{head} {body}");
    assert!(closes(&mut plain, SOON).await);

    let mut noise = server.connect().await;
    noise.write_all(&[0; 100]).await.unwrap();
    assert!(closes(&mut noise, SOON).await);
    eventually("counted", async || failures("not_tls") >= before + 2.0).await;
    assert!(server.log.values().is_empty());
}

#[tokio::test]
async fn a_handshake_must_end_within_the_time_of_a_head_and_holds_up_nobody() {
    let (place, authority) = (Place::new(), Authority::new());
    let server = encrypted(&place, &authority, |config| config.http.header_timeout = Duration::from_millis(400)).await;
    let before = failures("timeout");
    let (mut silent, mut slow) = (server.connect().await, server.connect().await);
    // The beginning of a ClientHello, and no more of it.
    slow.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await.unwrap();
    let mut mute = connect(&server, &client(&authority, None, &[])).await.unwrap();
    assert!(is_served(&server, &client(&authority, None, &[])).await);
    for stream in [&mut silent, &mut slow] {
        assert!(closes(stream, SOON).await);
    }
    eventually("counted", async || failures("timeout") >= before + 2.0).await;
    let _ = mute.write_all(head("").as_bytes()).await;
    let ended = tokio::time::timeout(SOON, mute.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a handshake alone does not keep a connection");
}

#[tokio::test]
async fn shutdown_answers_what_is_encrypted_too_and_waits_for_no_handshake() {
    let (place, authority) = (Place::new(), Authority::new());
    let server = encrypted(&place, &authority, |_| {}).await;
    server.log.set(super::support::Fault::Slow(Duration::from_millis(300)));
    let mut busy = connect(&server, &client(&authority, None, &[])).await.unwrap();
    let mut half = server.connect().await;
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    busy.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    let (head, _) = answer(&mut busy).await;
    assert!(head.starts_with("HTTP/1.1 202") && head.contains("connection: close"), "{head}");
    assert!(closes(&mut half, Duration::from_secs(2)).await);
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn files_that_are_missing_or_wrong_are_named_at_the_start() {
    let (place, authority) = (Place::new(), Authority::new());
    let config = Config { tls: place.section(), ..Config::default() };
    let problem = async || format!("{:#}", serve(config.clone()).await.task.await.unwrap().unwrap_err());
    let cert = place.path("cert.pem").display().to_string();
    assert!(problem().await.starts_with(&format!("[tls]: cannot read {cert}: No such file")), "{}", problem().await);
    place.put("cert", &authority.issue("gateway"));
    std::fs::write(place.path("cert.key"), authority.issue("other").key).unwrap();
    assert!(problem().await.contains("do not make a pair"), "{}", problem().await);
}
