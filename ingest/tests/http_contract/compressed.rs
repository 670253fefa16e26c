//! Bodies that are sent compressed.

use crate::support::{self, Answer, Gateway, array, chunked, event_of, gateway};
use axum::body::Body;
use bytes::Bytes;
use bytesize::ByteSize;
use flate2::Compression;
use flate2::write::GzEncoder;
use ingest::Config;
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) fn compress(coding: &str, body: &[u8]) -> Vec<u8> {
    if coding == "zstd" {
        return zstd::encode_all(body, 0).unwrap();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Posts a body that is compressed already.
pub(crate) async fn send(gateway: &Gateway, coding: &str, body: impl Into<Body>) -> Answer {
    let mut request = support::post("application/json", body.into());
    request.headers_mut().insert("content-encoding", coding.parse().unwrap());
    gateway.send(request).await
}

async fn post(gateway: &Gateway, coding: &str, body: String) -> Answer {
    send(gateway, coding, compress(coding, body.as_bytes())).await
}

#[tokio::test]
async fn a_compressed_body_is_the_same_as_the_plain_one() {
    let gateway = gateway(Config::default());
    let event = r#"{"device_id":"sénsor","data":{"t":1}}"#;
    for coding in ["gzip", "x-gzip", "GZIP", "zstd"] {
        assert_eq!(post(&gateway, coding, format!("[{event},{event}]")).await.accepted(), 2, "{coding}");
    }
    assert_eq!(send(&gateway, "identity", format!("[{event},{event}]")).await.accepted(), 2);
    assert_eq!(gateway.log.values(), [event; 10]);
}

#[tokio::test]
async fn the_largest_body_is_measured_before_and_after_decompression() {
    let mut config = Config::default();
    config.http.max_body = ByteSize(100_000);
    let gateway = gateway(config);
    let largest = event_of(100_000);
    for coding in ["gzip", "zstd"] {
        assert_eq!(post(&gateway, coding, largest.clone()).await.status, 202);
        assert_eq!(post(&gateway, coding, largest.clone() + " ").await.problem(), (413, "body-too-large"));
        let endless = chunked(vec![Bytes::from(compress(coding, b"")); 20_000]);
        assert_eq!(send(&gateway, coding, endless).await.problem(), (413, "body-too-large"));
    }
}

#[tokio::test]
async fn a_bomb_of_ten_gigabytes_is_413_within_moments() {
    let gateway = gateway(Config::default());
    for coding in ["gzip", "zstd"] {
        let piece = Bytes::from(compress(coding, &vec![b' '; 16 << 20]));
        let bomb = chunked(vec![piece; 640]);
        let begun = Instant::now();
        assert_eq!(send(&gateway, coding, bomb).await.problem(), (413, "body-too-large"), "{coding}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{coding}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_body_that_is_not_compressed_as_it_says_is_400_and_says_where() {
    let gateway = gateway(Config::default());
    for coding in ["gzip", "zstd"] {
        let whole = compress(coding, array("a", 100).as_bytes());
        for (body, expected) in [
            (array("a", 1).into_bytes(), "about 0 bytes"),
            (whole[..whole.len() - 1].to_vec(), "it ends too early"),
            ([&whole[..], b"and more"].concat(), "bytes from its start"),
        ] {
            let answer = send(&gateway, coding, body).await;
            assert_eq!(answer.problem(), (400, "undecodable-body"), "{coding}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains(expected) && detail.contains(coding), "{detail}");
        }
        assert_eq!(send(&gateway, coding, "").await.problem(), (400, "malformed-body"));
    }
    assert!(gateway.log.values().is_empty());
}
