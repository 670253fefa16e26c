//! HTTP/1.1 from those who mean it harm: what cannot be told apart, what never ends, what is too much.

use super::support::array;
use super::{SOON, Server, answer, head, request, serve, serves};
use ingest::Config;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Sends bytes as they are, and answers everything that comes until the other end closes or has nothing to say.
async fn say(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = server.connect().await;
    // The other end may close before all of it is sent.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

/// The status of each answer in `said`.
fn statuses(said: &str) -> Vec<&str> {
    said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_any_other() {
    let mut config = Config::default();
    config.http.header_timeout = Duration::from_millis(300);
    let server = serve(config).await;
    let (mut stream, begun) = (server.connect().await, Instant::now());
    let slowly = async {
        for byte in head("x-noise: ").bytes().chain(std::iter::repeat(b'x')) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, slowly).await.expect("cut off, however busy it is");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    serves(&server).await;
}

#[tokio::test]
async fn a_second_head_that_comes_byte_by_byte_has_the_idle_time() {
    let mut config = Config::default();
    config.http.idle_timeout = Duration::from_millis(300);
    let server = serve(config).await;
    let mut stream = server.connect().await;
    stream.write_all(request(&array("a", 1)).as_bytes()).await.unwrap();
    answer(&mut stream).await;
    let slowly = async {
        while stream.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, slowly).await.expect("cut off");
}

#[tokio::test]
async fn hundreds_of_slow_heads_hold_up_nobody() {
    let server = serve(Config::default()).await;
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..400 {
        let mut stream = server.connect().await;
        stream.write_all(b"POST /v1/ev").await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    serves(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn too_many_and_too_long_headers_are_431_and_too_long_a_path_is_414() {
    let server = serve(Config::default()).await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(70 * 1024));
    for headers in [many, long] {
        assert_eq!(statuses(&say(&server, format!("{}\r\n", head(&headers))).await), ["431"]);
    }
    let path = format!("POST /v1/events/{} HTTP/1.1\r\nhost: x\r\n\r\n", "e".repeat(66_000));
    let said = say(&server, path).await;
    assert!(["414", "431"].contains(&statuses(&said)[0]), "{said}");
    serves(&server).await;
}

#[tokio::test]
async fn a_request_whose_end_two_servers_could_see_differently_is_never_taken() {
    let server = serve(Config::default()).await;
    let event = array("a", 1);
    let hidden = request(&array("hidden", 1));
    let chunk = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
    let both = format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", event.len());
    for (what, bytes) in [
        ("two lengths", format!("{}\r\n{event}", head("content-length: 5\r\ncontent-length: 19\r\n"))),
        ("a list of lengths", format!("{}\r\n{event}", head("content-length: 5, 19\r\n"))),
        ("a signed length", format!("{}\r\n{event}", head("content-length: +19\r\n"))),
        ("a length in hexadecimal", format!("{}\r\n{event}", head("content-length: 0x13\r\n"))),
        ("a length beyond all numbers", format!("{}\r\n{event}", head("content-length: 18446744073709551617\r\n"))),
        ("a length with a space before the colon", format!("{}\r\n{event}", head("content-length : 19\r\n"))),
        ("a header on two lines", format!("{}\r\n{event}", head("content-length: 19\r\n x: y\r\n"))),
        ("chunked that is not last", format!("{}\r\n{chunk}", head("transfer-encoding: chunked, identity\r\n"))),
        ("an unknown coding", format!("{}\r\n{chunk}", head("transfer-encoding: xchunked\r\n"))),
        ("chunked in HTTP/1.0", format!("{}\r\n{chunk}", head("transfer-encoding: chunked\r\n").replace("1.1", "1.0"))),
        (
            "a chunk size that is none",
            format!("{}\r\nzz\r\n{event}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n")),
        ),
        ("a negative chunk", format!("{}\r\n-1\r\n{event}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n"))),
        (
            "a chunk beyond all numbers",
            format!("{}\r\nfffffffffffffffff\r\n{event}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n")),
        ),
        (
            "a chunk longer than it says",
            format!("{}\r\n1\r\n{event}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n")),
        ),
        ("a NUL in a header", format!("{}\r\n{event}", head("x: a\0b\r\ncontent-length: 19\r\n"))),
        ("a carriage return in a header", format!("{}\r\n{event}", head("x: a\rb\r\ncontent-length: 19\r\n"))),
        ("HTTP/1.2", format!("{}\r\n{event}", head("content-length: 19\r\n").replace("1.1", "1.2"))),
    ] {
        let said = say(&server, format!("{bytes}{hidden}")).await;
        assert!(statuses(&said).iter().all(|status| *status == "400" || *status == "505"), "{what}: {said}");
        assert!(server.log.values().is_empty(), "{what}: {:?}", server.log.values());
    }
    // As RFC 9112 has it: chunked wins, and nothing more is read of this connection.
    let said = say(&server, format!("{}\r\n{chunk}{hidden}", head(&both))).await;
    assert!(!server.log.values().iter().any(|value| value.contains("hidden")), "{said}");
    serves(&server).await;
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let server = serve(Config::default()).await;
    let requests: String = (0..50).map(|n| request(&array(&format!("d{n}"), 1))).collect();
    let said = say(&server, requests).await;
    assert_eq!(statuses(&said), ["202"; 50]);
    let expected: Vec<String> = (0..50).map(|n| format!(r#"{{"device_id":"d{n}"}}"#)).collect();
    assert_eq!(server.log.values(), expected);
}

#[tokio::test]
async fn a_path_names_a_dataset_or_nothing() {
    let server = serve(Config::default()).await;
    let body = array("a", 1);
    for path in [
        "/v1/events/../events",
        "/v1/events/..",
        "/v1/events/%2e%2e",
        "/v1/events/%2e%2e%2fevents",
        "/v1/events/events%00",
        "/v1/events/%00",
        "/v1/events//events",
        "//v1/events/events",
        "/v1/events/events/",
        "/v1/events/events/../events",
        "/v1/events/%ff%fe",
        "/v1/events/%c0%ae%c0%ae",
        "/v1/events/%",
        "/v1/events/%zz",
        "/v1/events/events;x",
        "/v1/events/EVENTS",
        "/v1/events/events__dead",
        "/v1/events/%252e",
        "/V1/events/events",
        "\\v1\\events\\events",
        &format!("/v1/events/{}", "e".repeat(10_000)),
    ] {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}");
        let said = say(&server, format!("{head}\r\n\r\n{body}")).await;
        assert!(["404", "400"].contains(&statuses(&said)[0]), "{path}: {said}");
        assert!(server.log.values().is_empty(), "{path}");
    }
    // The same name written otherwise is the same dataset.
    let head = head(&format!("content-length: {}\r\n", body.len())).replace("events/events", "events/%65vents");
    assert_eq!(statuses(&say(&server, format!("{head}\r\n{body}")).await), ["202"]);
}

#[tokio::test]
async fn noise_is_no_request() {
    let server = serve(Config::default()).await;
    let methods = ["CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", "TRACE / HTTP/1.1\r\nhost: x\r\n\r\n"];
    for bytes in methods.map(str::as_bytes).iter().chain(&[
        &[0xff; 300][..],
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ]) {
        let said = say(&server, bytes).await;
        assert!(statuses(&said).iter().all(|status| status.starts_with('4') || *status == "505"), "{said}");
    }
    serves(&server).await;
}

#[tokio::test]
async fn an_upgrade_that_is_asked_for_is_not_made() {
    let server = serve(Config::default()).await;
    let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";
    let body = array("a", 1);
    let said =
        say(&server, format!("{}{upgrade}\r\n{body}", head(&format!("content-length: {}\r\n", body.len())))).await;
    assert_eq!(statuses(&said), ["202"]);
}

#[tokio::test]
async fn who_does_not_read_the_answers_is_cut_off() {
    let mut config = Config::default();
    config.http.header_timeout = Duration::from_millis(500);
    config.http.idle_timeout = Duration::from_millis(500);
    let server = serve(config).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    // The answer lists each of the events, and is many times as long. Once answers are not taken, nor are requests.
    let requests = request(&format!("[{}7]", "7,".repeat(900))).repeat(10);
    let flood = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), flood).await.expect("cut off");
    serves(&server).await;
}
