//! What holds on a real socket: keep-alive, HTTP/2, TLS, slow senders, early refusals, and the drain at shutdown.

#![allow(unreachable_pub, reason = "a test exports nothing: `pub` tells what a module offers the others")]

#[path = "../support/mod.rs"]
mod support;

mod forms;
mod tls;
mod hostile;
mod hostile_h2;

use bytes::Bytes;
use bytesize::ByteSize;
use eventlog::Log;
use ingest::{Config, Deps};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Fault, MemoryLog, array, datasets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that is not cut off.
const SOON: Duration = Duration::from_secs(5);

struct Server {
    address: SocketAddr,
    log: Arc<MemoryLog>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn serve(config: Config) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(MemoryLog::default());
    let deps = Deps::new(Arc::clone(&log) as Arc<dyn Log>, datasets());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(ingest::serve(listener, config, deps, shutdown.clone()));
    Server { address, log, shutdown, task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

fn request(body: &str) -> String {
    format!("{}\r\n{body}", head(&format!("content-length: {}\r\n", body.len())))
}

fn head(more: &str) -> String {
    format!("POST /v1/events/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}")
}

/// One answer: its head and its body.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if body.len() >= length.parse().unwrap() {
                return (head.to_owned(), body.to_owned());
            }
        }
        let read = stream.read_buf(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "connection closed after {:?}", String::from_utf8_lossy(&bytes));
    }
}

/// The server goes on for everybody else.
async fn serves(server: &Server) {
    let mut stream = server.connect().await;
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));
}

/// Whether the other end closes within the time.
async fn closes(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> bool {
    let read = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(within, read).await.is_ok()
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let server = serve(Config::default()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(request(&array("a", 2)).as_bytes()).await.unwrap();
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 202"), "{head}");
        assert!(body.contains(r#""accepted":2"#), "{body}");
    }
    assert_eq!(server.log.values().len(), 6);
}

#[tokio::test]
async fn a_chunked_body_needs_no_length() {
    let server = serve(Config::default()).await;
    let mut stream = server.connect().await;
    let head = format!("{}\r\n", head("transfer-encoding: chunked\r\n"));
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in [r#"{"device"#, r#"_id":"a"}"#, ""] {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
    }
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));
    assert_eq!(server.log.values(), [r#"{"device_id":"a"}"#]);
}

#[tokio::test]
async fn a_sender_that_is_still_sending_sees_the_refusal_and_may_go_on() {
    let mut config = Config::default();
    config.http.max_body = ByteSize::kib(64);
    let server = serve(config).await;
    let mut stream = server.connect().await;
    // Far more than the buffers of the sockets hold, and nobody reads while it is being sent.
    let body = " ".repeat(8 * 1024 * 1024);
    stream.write_all(request(&body).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 413"));
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn a_sender_that_closes_its_half_after_the_body_gets_its_answer() {
    let server = serve(Config::default()).await;
    server.log.set(Fault::Slow(Duration::from_millis(100)));
    let mut stream = server.connect().await;
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn a_body_shorter_than_its_length_claims_is_never_accepted() {
    let server = serve(Config::default()).await;
    let mut stream = server.connect().await;
    let short = format!("{}\r\n{}", head("content-length: 500\r\n"), array("a", 1));
    stream.write_all(short.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest).await;
    assert!(!rest.starts_with("HTTP/1.1 2"), "{rest}");
    assert!(server.log.values().is_empty());
}

#[tokio::test]
async fn http2_without_tls_carries_many_requests_at_once() {
    let server = serve(Config::default()).await;
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..20 {
        let request = axum::http::Request::post("http://x/v1/events/events").header("content-type", "application/json");
        let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(array("a", 3)), true).unwrap();
        answers.push(response);
        client = client.ready().await.unwrap();
    }
    for response in answers {
        assert_eq!(response.await.unwrap().status(), 202);
    }
    assert_eq!(server.log.values().len(), 60);
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_cut_off() {
    let mut config = Config::default();
    config.http.header_timeout = Duration::from_millis(100);
    config.http.idle_timeout = Duration::from_millis(300);
    let server = serve(config).await;
    let (mut silent, mut slow) = (server.connect().await, server.connect().await);
    slow.write_all(b"POST /v1/ev").await.unwrap();
    assert!(closes(&mut silent, Duration::from_secs(2)).await);
    assert!(closes(&mut slow, Duration::from_secs(2)).await);

    let mut idle = server.connect().await;
    idle.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    answer(&mut idle).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    idle.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(answer(&mut idle).await.0.starts_with("HTTP/1.1 202"), "only the first head has the shorter time");
    assert!(closes(&mut idle, Duration::from_secs(2)).await);
}

#[tokio::test]
async fn who_sends_a_body_too_slowly_is_told_so_and_cut_off() {
    let mut config = Config::default();
    config.http.body_timeout = Duration::from_millis(100);
    let server = serve(config).await;
    let mut stream = server.connect().await;
    stream.write_all(format!("{}\r\n[", head("content-length: 1000\r\n")).as_bytes()).await.unwrap();
    let (head, body) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 408") && head.contains("connection: close"), "{head}");
    assert!(body.contains("body-too-slow"));
    assert!(closes(&mut stream, Duration::from_secs(2)).await);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_until_one_closes() {
    let mut config = Config::default();
    config.http.max_connections = 1;
    let server = serve(config).await;
    let mut first = server.connect().await;
    first.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    answer(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    assert!(!closes(&mut second, Duration::from_millis(100)).await);
    assert_eq!(server.log.values().len(), 1);
    drop(first);
    assert!(answer(&mut second).await.0.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn a_header_flood_is_refused_and_does_not_stop_the_others() {
    let server = serve(Config::default()).await;
    let mut flood = server.connect().await;
    let headers: String = (0..5_000).map(|n| format!("x-{n}: {}\r\n", "y".repeat(100))).collect();
    // The other end may close before all of it is sent.
    let _ = flood.write_all(head(&headers).as_bytes()).await;
    assert!(closes(&mut flood, Duration::from_secs(2)).await);
    serves(&server).await;
}

#[tokio::test]
async fn shutdown_answers_what_is_under_way_and_closes_what_is_idle() {
    let server = serve(Config::default()).await;
    server.log.set(Fault::Slow(Duration::from_millis(300)));
    let (mut busy, mut idle) = (server.connect().await, server.connect().await);
    busy.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();

    let (head, _) = answer(&mut busy).await;
    assert!(head.starts_with("HTTP/1.1 202") && head.contains("connection: close"), "{head}");
    assert!(closes(&mut idle, Duration::from_secs(2)).await);
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "still listens");
}

#[tokio::test]
async fn shutdown_waits_for_a_request_with_a_key_though_its_client_is_gone() {
    let server = serve(Config::default()).await;
    server.log.set(Fault::Frozen);
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let post = axum::http::Request::post("http://x/v1/events/events").header("content-type", "application/json");
    let post = post.header("idempotency-key", "k").body(()).unwrap();
    let (_response, mut body) = client.ready().await.unwrap().send_request(post, false).unwrap();
    body.send_data(Bytes::from(array("a", 1)), true).unwrap();
    while server.log.under_way.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connection.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!server.task.is_finished());
    server.log.set(Fault::None);
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap().unwrap();
    assert_eq!(server.log.values().len(), 1);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let mut config = Config::default();
    config.http.drain_timeout = Duration::from_millis(200);
    let server = serve(config).await;
    server.log.set(Fault::Stuck);
    let mut stream = server.connect().await;
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = Instant::now();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(closes(&mut stream, Duration::from_secs(1)).await, "cut off without an answer");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_start() {
    let mut config = Config::default();
    config.http.max_events = 0;
    let server = serve(config).await;
    let err = server.task.await.unwrap().unwrap_err();
    assert_eq!(format!("{err:#}"), "check the settings of the gateway: `max_events` must be at least 1");
}
