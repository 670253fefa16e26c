//! The bytes of a request, and the little of HTTP/1.1 that reading its answer needs.
//!
//! The simulated devices share the machine with the gateway, so what they cost is kept small: a request is a copy of one
//! made before, with new ids.

use super::made::Events;
use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use chrono::Utc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt};
use url::Url;

/// Requests that differ in more than their ids.
const KINDS: usize = 64;
/// An answer has a line for each event at most, and a device does not read more.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Makes requests of a number of events each.
#[derive(Debug)]
pub struct Posts {
    kinds: Vec<Post>,
    made: AtomicU64,
}

#[derive(Debug)]
struct Post {
    bytes: Vec<u8>,
    /// Where the last twelve hexadecimal digits of each event's id are.
    ids: Vec<usize>,
}

const DIGITS: usize = 12;

impl Posts {
    /// `to` is the whole URL; `key` is sent as a bearer token.
    pub fn new(to: &Url, key: Option<&str>, batch: usize) -> anyhow::Result<Posts> {
        let host = to.host_str().with_context(|| format!("{to} names no host"))?;
        let key = key.map_or(String::new(), |key| format!("authorization: Bearer {key}\r\n"));
        let mut events = Events::from(Utc::now());
        let post = |_| {
            let events: Vec<_> = events.by_ref().take(batch).collect();
            let body = events.iter().map(|made| made.json.as_str()).collect::<Vec<_>>().join("\n");
            let (path, length) = (to.path(), body.len());
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {host}\r\n{key}content-type: application/x-ndjson\r\n\
                 content-length: {length}\r\n\r\n"
            );
            let mut ids = Vec::with_capacity(batch);
            let mut line = head.len();
            for made in &events {
                let id = made.json.find(&made.id).context("an event without its id")?;
                ids.push(line + id + made.id.len() - DIGITS);
                line += made.json.len() + 1;
            }
            Ok(Post { bytes: (head + &body).into_bytes(), ids })
        };
        let kinds = (0..KINDS).map(post).collect::<anyhow::Result<_>>()?;
        Ok(Posts { kinds, made: AtomicU64::new(0) })
    }

    /// The next request, whose events nobody has seen.
    pub fn write(&self, request: &mut Vec<u8>) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let Post { bytes, ids } = &self.kinds[number as usize % KINDS];
        request.clear();
        request.extend_from_slice(bytes);
        let digits = format!("{number:0DIGITS$x}");
        for id in ids {
            request[*id..*id + DIGITS].copy_from_slice(digits.as_bytes());
        }
    }
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The gateway closes the connection.
    pub closes: bool,
}

/// Reads one answer to its end. `buffer` keeps what was read beyond it.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> anyhow::Result<Answer> {
    loop {
        if let Some((answer, length)) = parse(buffer)? {
            buffer.advance(length);
            return Ok(answer);
        }
        if buffer.len() > LONGEST_ANSWER {
            bail!("the answer is longer than {LONGEST_ANSWER} bytes");
        }
        if stream.read_buf(buffer).await.context("read the gateway's answer")? == 0 {
            bail!("the gateway closed the connection");
        }
    }
}

/// The answer at the start of `bytes` and its length, once it is there whole.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Answer, usize)>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the answer's head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("not an answer of HTTP/1.1: {head}"))?;
    let (mut length, mut closes) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        }
        closes |= name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close");
    }
    let length = end + END.len() + length.context("an answer without Content-Length")?;
    Ok((bytes.len() >= length).then_some((Answer { status, closes }, length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_requests_have_an_id_in_common_and_each_is_what_its_length_says() {
        let to: Url = "http://127.0.0.1:1/v1/events/x".parse().unwrap();
        let posts = Posts::new(&to, Some("secret"), 3).unwrap();
        let (mut request, mut seen) = (Vec::new(), HashSet::new());
        for _ in 0..2 * KINDS {
            posts.write(&mut request);
            let text = std::str::from_utf8(&request).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /v1/events/x HTTP/1.1\r\n") && head.contains("Bearer secret"), "{head}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            for line in body.lines() {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                let key = (event["device_id"].to_string(), event["id"].to_string());
                assert!(event["id"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
                assert!(seen.insert(key), "{line}");
            }
        }
        assert_eq!(seen.len(), 2 * KINDS * 3);
    }

    #[test]
    fn an_answer_is_complete_with_its_body_and_not_before() {
        let bytes =
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbodyHTTP/1.1 202";
        let whole = bytes.len() - "HTTP/1.1 202".len();
        assert_eq!(parse(&bytes[..whole - 1]).unwrap(), None);
        assert_eq!(parse(&bytes[..20]).unwrap(), None);
        assert_eq!(parse(bytes).unwrap(), Some((Answer { status: 503, closes: true }, whole)));
        assert!(parse(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err(), "no length");
        assert!(parse(b"SMTP\r\n\r\n").is_err());
    }
}
