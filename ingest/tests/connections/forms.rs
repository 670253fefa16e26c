//! Every form of body on a real socket, over both versions of HTTP; and senders who claim much and send little.

use crate::support::array;
use crate::{Server, answer, closes, head, serve};
use axum::http::{Request, Version};
use bytes::Bytes;
use bytesize::ByteSize;
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::SendRequest;
use ingest::Config;
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Headers, and a body of two events.
type Form = (Vec<(&'static str, &'static str)>, Vec<u8>);

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// All there are, each with as many events as it says.
fn forms() -> Vec<(u64, Form)> {
    let cloudevent = r#"{"specversion":"1.0","id":"1","source":"a","type":"t"}"#;
    let binary = vec![
        ("content-type", "text/plain"),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "a"),
        ("ce-type", "t"),
    ];
    let packed = |coding| vec![("content-type", "application/json"), ("content-encoding", coding)];
    vec![
        (2, (vec![("content-type", "application/json")], array("a", 2).into())),
        (2, (vec![("content-type", "application/x-ndjson")], b"{\"device_id\":\"a\"}\n{\"device_id\":\"b\"}".to_vec())),
        (1, (vec![("content-type", "application/cloudevents+json")], cloudevent.into())),
        (1, (vec![("content-type", "application/cloudevents-batch+json")], format!("[{cloudevent}]").into())),
        (1, (binary, b"some text".to_vec())),
        (2, (packed("gzip"), gzip(&array("a", 2)))),
        (2, (packed("zstd"), zstd::encode_all(array("a", 2).as_bytes(), 0).unwrap())),
    ]
}

async fn http2(server: &Server) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(connection);
    client
}

fn post(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post("http://x/v1/events/events").version(Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn every_form_is_taken_over_http1_whole_and_in_chunks_of_any_size() {
    let server = serve(Config::default()).await;
    let mut stream = server.connect().await;
    let mut expected = 0;
    for (events, (headers, body)) in forms() {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let line = "POST /v1/events/events HTTP/1.1\r\nhost: x\r\n";
        let whole = format!("{line}{headers}content-length: {}\r\n\r\n", body.len());
        stream.write_all(&[whole.as_bytes(), &body].concat()).await.unwrap();
        let (status, report) = answer(&mut stream).await;
        assert!(status.starts_with("HTTP/1.1 202") && report.contains(&format!(r#""accepted":{events}"#)), "{report}");

        for size in [1, 7, 1_000] {
            let start = format!("{line}{headers}transfer-encoding: chunked\r\n\r\n");
            stream.write_all(start.as_bytes()).await.unwrap();
            for piece in body.chunks(size).chain([&b""[..]]) {
                let piece = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&piece).await.unwrap();
            }
            assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 202"), "{headers} in pieces of {size}");
        }
        expected += 4 * events as usize;
    }
    assert_eq!(server.log.values().len(), expected);
}

#[tokio::test]
async fn every_form_is_taken_over_http2() {
    let server = serve(Config::default()).await;
    let mut client = http2(&server).await;
    let mut expected = 0;
    for (events, (headers, body)) in forms() {
        for size in [3, 1_000] {
            client = client.ready().await.unwrap();
            let (response, mut sender) = client.send_request(post(&headers), false).unwrap();
            for piece in body.chunks(size) {
                sender.send_data(Bytes::copy_from_slice(piece), false).unwrap();
            }
            sender.send_data(Bytes::new(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 202, "{headers:?}");
            expected += events as usize;
        }
    }
    assert_eq!(server.log.values().len(), expected);
}

#[tokio::test]
async fn what_is_claimed_and_not_sent_takes_no_memory() {
    let mut config = Config::default();
    config.http.max_in_flight = ByteSize::mib(17);
    let server = serve(config).await;
    let mut claiming: Vec<TcpStream> = Vec::new();
    for number in 0..200 {
        let mut stream = server.connect().await;
        let claim = match number % 3 {
            0 => head("content-length: 8388608\r\n\r\n["),
            1 => head("content-encoding: gzip\r\ncontent-length: 8388608\r\n\r\n"),
            _ => head("transfer-encoding: chunked\r\n\r\n800000\r\n["),
        };
        stream.write_all(claim.as_bytes()).await.unwrap();
        claiming.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // All bytes in flight but a few are there for who sends something: the largest body of all.
    let event = |len: usize| format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(len));
    let lines = format!("[{}]", vec![event(838_820); 10].join(",\n"));
    assert!(lines.len() > 8_380_000 && lines.len() <= 8 * 1024 * 1024, "{}", lines.len());
    let mut stream = server.connect().await;
    let length = format!("content-length: {}\r\n\r\n", lines.len());
    stream.write_all(head(&length).as_bytes()).await.unwrap();
    stream.write_all(lines.as_bytes()).await.unwrap();
    let (status, report) = answer(&mut stream).await;
    assert!(status.starts_with("HTTP/1.1 202") && report.contains(r#""accepted":10"#), "{status}{report}");
}

#[tokio::test]
async fn who_dribbles_is_cut_off_long_before_the_time_for_the_whole_body() {
    let mut config = Config::default();
    config.http.min_rate = ByteSize::kib(10);
    config.http.min_rate_window = Duration::from_millis(300);
    let server = serve(config).await;
    let begun = Instant::now();
    let mut stream = server.connect().await;
    stream.write_all(head("content-length: 1000000\r\n\r\n").as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    // A byte in every tenth of a second is enough for a time-out between two of them.
    let dribble = tokio::spawn(async move {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut text = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("connection: close"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    tokio::time::timeout(Duration::from_secs(5), dribble).await.unwrap().unwrap();
}

#[tokio::test]
async fn over_http2_only_the_stream_that_dribbles_is_ended() {
    let mut config = Config::default();
    config.http.min_rate_window = Duration::from_millis(200);
    let server = serve(config).await;
    let mut client = http2(&server).await.ready().await.unwrap();
    let json = [("content-type", "application/json")];
    let (response, mut dribbling) = client.send_request(post(&json), false).unwrap();
    dribbling.send_data(Bytes::from("["), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 408);
    let ended = async {
        while dribbling.send_data(Bytes::from(" "), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();

    let mut client = client.ready().await.unwrap();
    let (response, mut sender) = client.send_request(post(&json), false).unwrap();
    sender.send_data(Bytes::from(array("a", 1)), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 202);
}

#[tokio::test]
async fn a_bomb_is_refused_and_the_connection_goes_on() {
    let server = serve(Config::default()).await;
    let mut stream = server.connect().await;
    let bomb = gzip(&" ".repeat(16 << 20));
    for _ in 0..2 {
        let length = format!("content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
        stream.write_all(&[head(&length).as_bytes(), &bomb].concat()).await.unwrap();
        assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 413"));
    }
    assert!(!closes(&mut stream, Duration::from_millis(50)).await);
}
