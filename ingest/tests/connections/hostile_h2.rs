//! HTTP/2 from those who mean it harm, frame by frame.

use super::support::array;
use super::{SOON, Server, closes, serve, serves};
use bytes::Bytes;
use ingest::Config;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes of RFC 9113.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset or of the end of a connection.
    fn error(&self) -> Option<u32> {
        let code = match self.kind {
            RST_STREAM => self.payload.get(..4)?,
            GOAWAY => self.payload.get(4..8)?,
            _ => return None,
        };
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `POST /v1/events/events` with JSON, in HPACK without its dynamic table.
fn post_head() -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [
        vec![0x83, 0x86, 0x04],
        text("/v1/events/events"),
        vec![0x01],
        text("x"),
        vec![0x0f, 0x10],
        text("application/json"),
    ]
    .concat()
}

/// A connection that has begun, with these settings.
async fn begin(server: &Server, settings: &[(u16, u32)]) -> TcpStream {
    let mut stream = server.connect().await;
    let settings: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &settings)].concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

/// All frames until the other end closes, or until one is `last`.
async fn frames_until(stream: &mut TcpStream, last: impl Fn(&Frame) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    let read = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            frames.push(Frame { kind: head[3], stream, payload });
            if frames.last().is_some_and(&last) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, read).await.expect("an end");
    frames
}

/// The code with which the connection is ended.
async fn goodbye(stream: &mut TcpStream) -> Option<u32> {
    let frames = frames_until(stream, |frame| frame.kind == GOAWAY && frame.error() != Some(0)).await;
    frames.last().and_then(Frame::error)
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let server = serve(Config::default()).await;
    let mut stream = begin(&server, &[]).await;
    let opened_and_reset = |n: u32| {
        let (id, cancel) = (2 * n + 1, 8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, id, &post_head()), frame(RST_STREAM, 0, id, &cancel)].concat()
    };
    let flood: Vec<u8> = (0..20_000).flat_map(opened_and_reset).collect();
    let (mut from, mut to) = stream.split();
    let sent = async { to.write_all(&flood).await.is_ok() };
    let mut said = Vec::new();
    let (_, ended) = tokio::join!(sent, tokio::time::timeout(SOON, from.read_to_end(&mut said)));
    assert!(ended.is_ok(), "the connection is closed");
    assert!(server.log.values().is_empty());
    serves(&server).await;
}

#[tokio::test]
async fn streams_beyond_those_allowed_are_refused_and_the_others_answered() {
    let server = serve(Config::default()).await;
    let mut stream = begin(&server, &[]).await;
    let open: Vec<u8> = (0..200).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &post_head())).collect();
    stream.write_all(&open).await.unwrap();
    let is_refused = |frame: &Frame| frame.error() == Some(REFUSED_STREAM);
    let frames = frames_until(&mut stream, |frame| is_refused(frame) && frame.stream == 2 * 199 + 1).await;
    let refused: Vec<u32> = frames.iter().filter(|frame| is_refused(frame)).map(|frame| frame.stream).collect();
    assert_eq!(refused, (128..200).map(|n| 2 * n + 1).collect::<Vec<u32>>());
    stream.write_all(&frame(DATA, END_STREAM, 1, array("a", 1).as_bytes())).await.unwrap();
    let frames = frames_until(&mut stream, |frame| frame.kind == DATA && frame.stream == 1).await;
    assert!(String::from_utf8_lossy(&frames.last().unwrap().payload).contains(r#""accepted":1"#));
}

#[tokio::test]
async fn a_head_without_end_is_ended() {
    let server = serve(Config::default()).await;
    let mut stream = begin(&server, &[]).await;
    stream.write_all(&frame(HEADERS, 0, 1, &post_head())).await.unwrap();
    let flood = frame(CONTINUATION, 0, 1, &[]).repeat(10_000);
    let _ = stream.write_all(&flood).await;
    assert_eq!(goodbye(&mut stream).await, Some(ENHANCE_YOUR_CALM));

    let mut stream = begin(&server, &[]).await;
    stream.write_all(&frame(HEADERS, 0, 1, &post_head())).await.unwrap();
    let noise = [&[0, 5][..], b"x-abc", &[100], &[b'y'; 100]].concat();
    let flood = frame(CONTINUATION, 0, 1, &noise.repeat(150)).repeat(100);
    let _ = stream.write_all(&flood).await;
    assert!(closes(&mut stream, SOON).await);
    serves(&server).await;
}

#[tokio::test]
async fn too_large_a_head_is_431() {
    let server = serve(Config::default()).await;
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut post = axum::http::Request::post("http://x/v1/events/events");
    for n in 0..700 {
        post = post.header(format!("x-{n}"), "y".repeat(100));
    }
    let (response, _) = client.ready().await.unwrap().send_request(post.body(()).unwrap(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
}

#[tokio::test]
async fn windows_beyond_all_numbers_end_the_connection() {
    let server = serve(Config::default()).await;
    let most = (1_u32 << 31) - 1;
    let mut stream = begin(&server, &[]).await;
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &most.to_be_bytes())).await.unwrap();
    assert_eq!(goodbye(&mut stream).await, Some(FLOW_CONTROL_ERROR));
    let mut stream = begin(&server, &[(4, u32::MAX)]).await;
    assert_eq!(goodbye(&mut stream).await, Some(PROTOCOL_ERROR));

    // As large as it may be: no more is sent than there is.
    let mut stream = begin(&server, &[(4, most)]).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &post_head())).await.unwrap();
    stream.write_all(&frame(DATA, END_STREAM, 1, b"oops")).await.unwrap();
    let frames = frames_until(&mut stream, |frame| frame.kind == DATA).await;
    assert!(String::from_utf8_lossy(&frames.last().unwrap().payload).contains("nothing-accepted"));
}

#[tokio::test]
async fn more_bytes_than_the_window_allows_end_the_connection() {
    let server = serve(Config::default()).await;
    let mut stream = begin(&server, &[]).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &post_head())).await.unwrap();
    let (mut from, mut to) = stream.split();
    let flood = frame(DATA, 0, 1, &[b' '; 16_384]).repeat(2_000);
    let mut said = Vec::new();
    let sent = async { to.write_all(&flood).await.is_ok() };
    let (_, ended) = tokio::join!(sent, tokio::time::timeout(SOON, from.read_to_end(&mut said)));
    assert!(ended.is_ok(), "the connection is closed");
    assert!(server.log.values().is_empty());
    serves(&server).await;
}

#[tokio::test]
async fn who_gives_no_room_for_the_answer_or_asks_for_nothing_is_cut_off() {
    let mut config = Config::default();
    config.http.header_timeout = Duration::from_millis(300);
    config.http.idle_timeout = Duration::from_millis(300);
    let server = serve(config).await;
    // A window of nothing: the answer can never be sent.
    let mut stream = begin(&server, &[(4, 0)]).await;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &post_head())).await.unwrap();
    stream.write_all(&frame(DATA, END_STREAM, 1, array("a", 1).as_bytes())).await.unwrap();
    let begun = Instant::now();
    assert!(closes(&mut stream, SOON).await);
    assert!(begun.elapsed() >= Duration::from_millis(300));

    // A client of the best manners, which answers pings, but has no more to ask.
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    let connection = tokio::spawn(connection);
    let post = || axum::http::Request::post("http://x/v1/events/events").header("content-type", "application/json");
    let mut client = client.ready().await.unwrap();
    for _ in 0..4 {
        let (response, mut body) = client.send_request(post().body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(array("a", 1)), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 202, "not as long as it asks");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let ended = tokio::time::timeout(SOON, connection).await.expect("an end").unwrap();
    assert!(ended.is_ok(), "it is told: {ended:?}");
}

#[tokio::test]
async fn a_first_head_must_end_in_time() {
    let mut config = Config::default();
    config.http.header_timeout = Duration::from_millis(300);
    let server = serve(config).await;
    let mut silent = begin(&server, &[]).await;
    let mut slow = begin(&server, &[]).await;
    slow.write_all(&frame(HEADERS, 0, 1, &post_head())).await.unwrap();
    assert!(closes(&mut silent, SOON).await);
    assert!(closes(&mut slow, SOON).await);
}

#[tokio::test]
async fn frames_of_nothing_hold_up_nobody() {
    let server = serve(Config::default()).await;
    let mut floods = Vec::new();
    for noise in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[]), frame(42, 0, 0, b"unknown")] {
        let mut stream = begin(&server, &[]).await;
        floods.push(tokio::spawn(async move {
            let flood = noise.repeat(1_000);
            // Nobody reads what is answered.
            while stream.write_all(&flood).await.is_ok() {}
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    serves(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    floods.iter().for_each(|flood| flood.abort());
}
