//! A request that is made of its seed: mostly right, then mangled.

use crate::support::chunked;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use ingest::bench::{Form, frame};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::io::Write;

/// One request.
pub struct Case {
    method: &'static str,
    path: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Where the body is cut into pieces.
    cuts: Vec<usize>,
    /// Its events before it was compressed, where their number is known.
    events: Option<u64>,
}

const FORMS: [&str; 12] = [
    "application/json",
    "application/json; charset=utf-8",
    "application/x-ndjson",
    "application/jsonl",
    "application/cloudevents+json",
    "application/cloudevents-batch+json; charset=utf-8",
    "application/json;charset=utf-16",
    "application/jso",
    "text/plain",
    "application/octet-stream",
    "",
    ";;=,\"",
];

const CODINGS: [&str; 9] = ["gzip", "x-gzip", "zstd", "identity", "deflate", "br", "gzip, zstd", "GZIP", ","];

/// Whole texts of events, and texts that only look so.
const EVENTS: [&str; 30] = [
    r#"{"device_id":"a"}"#,
    r#"{"device_id":"a","id":"1","type":"t","time":"2026-01-31T12:00:00Z","data":{"t":21.5}}"#,
    r#"{"device_id":"a","id":"1"}"#,
    r#"{"device_id":"b","time":1769860800000,"data":{"nested":{"deep":[1,2,{"x":null}]}}}"#,
    r#"{"device_id":"b","time":1e999}"#,
    r#"{"device_id":"b","time":-1769860800000.5}"#,
    r#"{"device_id":"b","time":"0000-00-00T00:00:00Z"}"#,
    r#"{"device_id":"b","time":"2026-01-31T12:00:60+99:99"}"#,
    r#"{"device_id":"a","device_id":"b"}"#,
    r#"{"device_id":"a","id":"1","\u0069d":"2"}"#,
    r#"{"device_\u0069d":"a\u0000\ud83d\ude00","data":{"\u0000":"\u0000"}}"#,
    r#"{"device_id":"\ud800","data":{}}"#,
    r#"{"device_id":"","data":{}}"#,
    r#"{"device_id":7}"#,
    r#"{"device_id":null,"id":null,"type":null,"time":null,"data":null}"#,
    r#"{"device_id":"a","data":[1]}"#,
    r#"{"device_id":"a","data":{"n":123456789012345678901234567890123456789e-400}}"#,
    r#"{"device_id":"a","data":{"n":-0.0,"m":1E+9999999999,"k":00}}"#,
    r#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#,
    r#"{"specversion":"1.0","id":"2","source":"/a","subject":"s","type":"t","time":"2026-01-31T12:00:00Z","data":{"t":1}}"#,
    r#"{"specversion":"1.0","id":"3","source":"/a","type":"t","data_base64":"eyJ0IjoxfQ==","datacontenttype":"application/json"}"#,
    r#"{"specversion":"1.0","id":"4","source":"/a","type":"t","data_base64":"====","data":{}}"#,
    r#"{"specversion":"0.3","id":"","source":"","type":"","ext":{"a":1}}"#,
    "{}",
    "[]",
    "null",
    "7",
    "\"text\"",
    "[[{\"device_id\":\"a\"}]]",
    "{\"device_id\":\"\u{1f321}\u{feff}\u{202e}\"}",
];

/// What is put somewhere into a body.
const TOKENS: [&[u8]; 26] = [
    b"\0",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\xe2\x80\xa8",
    b"1e999",
    b"-",
    b"\\u",
    b"\\ud800",
    b"null",
    b"  \t ",
    b"\"id\":",
    b"\"device_id\":\"x\",",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
];

impl Case {
    pub fn new(seed: u64) -> Case {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let form = *FORMS[..if rng.random_bool(0.8) { 6 } else { FORMS.len() }].choose(rng).unwrap();
        let coding = rng.random_bool(0.3).then(|| *CODINGS.choose(rng).unwrap());
        let mut body = body(rng, form);
        let mut is_known = true;
        if rng.random_bool(0.4) {
            mangle(rng, &mut body);
        }
        if rng.random_bool(0.03) {
            // As long as a body may be, more or less; compressed, it comes as nearly nothing.
            let (at, spaces) = (rng.random_range(0..=body.len()), rng.random_range(60_000..200_000));
            body.splice(at..at, vec![b' '; spaces]);
        }
        let events = framed(form, &body);
        if let Some(compressed) = coding.and_then(|coding| compress(coding, &body)) {
            body = compressed;
            if rng.random_bool(0.3) {
                mangle(rng, &mut body);
                is_known = false;
            }
        }
        let pieces = if rng.random_bool(0.7) { 0 } else { rng.random_range(1..20) };
        let mut cuts: Vec<usize> = (0..pieces).map(|_| rng.random_range(0..=body.len())).collect();
        cuts.sort_unstable();
        let method = if rng.random_bool(0.97) { "POST" } else { ["GET", "PUT", "OPTIONS", "X"].choose(rng).unwrap() };
        let headers = headers(rng, form, coding);
        // With the attributes of a CloudEvent in the headers, the body is one event whatever it looks like.
        is_known &= headers.iter().all(|(name, _)| !name.starts_with("ce-"));
        Case { method, path: path(rng), headers, body, cuts, events: events.filter(|_| is_known) }
    }

    /// `None` if this cannot come over HTTP.
    pub fn request(&self) -> Option<Request<Body>> {
        let uri = Uri::try_from(&self.path[..]).ok()?;
        let mut request = Request::new(self.to_body());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).ok()?;
        *request.uri_mut() = uri;
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name.as_str()).ok()?;
            request.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(request)
    }

    /// How many events are in it, where that is known.
    pub fn events(&self) -> Option<u64> {
        self.events
    }

    fn to_body(&self) -> Body {
        if self.cuts.is_empty() {
            return Body::from(self.body.clone());
        }
        let (whole, mut from) = (Bytes::from(self.body.clone()), 0);
        let mut pieces = Vec::new();
        for to in self.cuts.iter().copied().chain([whole.len()]) {
            pieces.push(whole.slice(from..to));
            from = to;
        }
        chunked(pieces)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii()));
        f.debug_struct("Case")
            .field("line", &format!("{} {}", self.method, self.path.escape_ascii()))
            .field("headers", &headers.collect::<Vec<_>>())
            .field("body", &format!("{}", self.body[..self.body.len().min(4_000)].escape_ascii()))
            .field("length", &self.body.len())
            .field("cuts", &self.cuts)
            .finish()
    }
}

fn body(rng: &mut StdRng, form: &str) -> Vec<u8> {
    let event = |rng: &mut StdRng| *EVENTS.choose(rng).unwrap();
    let count = match rng.random_range(0..10) {
        0..6 => rng.random_range(1..6),
        6..9 => rng.random_range(0..60),
        _ => rng.random_range(150..260),
    };
    let mut events = |separator: &str| (0..count).map(|_| event(rng)).collect::<Vec<_>>().join(separator);
    match form {
        _ if form.contains("ndjson") || form.contains("jsonl") => events("\n").into_bytes(),
        _ if count == 1 => events("").into_bytes(),
        _ => format!("[{}]", events(",")).into_bytes(),
    }
}

fn mangle(rng: &mut StdRng, body: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=body.len());
        let to = rng.random_range(at..=body.len().min(at + 40));
        match rng.random_range(0..8) {
            0 if at < body.len() => body[at] ^= 1 << rng.random_range(0..8),
            1 if at < body.len() => body[at] = rng.random(),
            2 => drop(body.splice(at..at, TOKENS.choose(rng).unwrap().iter().copied())),
            3 => drop(body.splice(at..to, TOKENS.choose(rng).unwrap().iter().copied())),
            4 => drop(body.drain(at..to)),
            5 => body.truncate(at),
            6 => {
                let part = body[at..to].repeat(rng.random_range(1..200));
                body.splice(at..at, part);
            }
            _ => {
                let token = TOKENS.choose(rng).unwrap().repeat(rng.random_range(1..3_000));
                body.splice(at..at, token);
            }
        }
    }
}

fn compress(coding: &str, body: &[u8]) -> Option<Vec<u8>> {
    match coding.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body).and_then(|()| encoder.finish()).ok()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body).and_then(|()| encoder.finish()).ok()
        }
        "zstd" => zstd::encode_all(body, 1).ok(),
        _ => None,
    }
}

/// What another way of counting finds, for the forms that it knows.
fn framed(form: &str, body: &[u8]) -> Option<u64> {
    let form = match form {
        "application/json" | "application/json; charset=utf-8" => Form::Json,
        "application/x-ndjson" | "application/jsonl" => Form::NdJson,
        _ => return None,
    };
    frame(form, body, usize::MAX).ok().map(|events| events.len() as u64)
}

fn path(rng: &mut StdRng) -> Vec<u8> {
    if rng.random_bool(0.9) {
        let queries =
            ["", "", "", "?", "?atomic=true", "?atomic=false", "?atomic=%00", "?atomic=true&atomic=x", "?x=%ff"];
        return format!("/v1/events/events{}", queries.choose(rng).unwrap()).into_bytes();
    }
    let paths = [
        "/",
        "/v1/events/",
        "/v1/events/x",
        "/v1/events/../events",
        "/v1/events/%2e%2e",
        "/v1/events/%00",
        "//v1//events//events",
        "/v1/events/events/",
        "/v1/events/%ff",
        "/v1/events/%",
        "/v1/events/events%2f",
        "*",
        "http://x/v1/events/heartbeats",
        "/openapi.json",
        "/v1/events/\u{e9}",
    ];
    let mut path = paths.choose(rng).unwrap().as_bytes().to_vec();
    if rng.random_bool(0.3) {
        mangle(rng, &mut path);
    }
    path
}

fn headers(rng: &mut StdRng, form: &str, coding: Option<&str>) -> Vec<(String, Vec<u8>)> {
    let mut headers = Vec::new();
    let mut put = |name: &str, value: &[u8]| headers.push((name.to_owned(), value.to_vec()));
    if rng.random_bool(0.98) {
        put("content-type", form.as_bytes());
    }
    if let Some(coding) = coding {
        put("content-encoding", coding.as_bytes());
    }
    if rng.random_bool(0.15) {
        for (name, values) in [
            ("ce-specversion", &["1.0", "1.0", "0.3", ""][..]),
            ("ce-id", &["1", "2", "%20", "\u{e9}", ""]),
            ("ce-source", &["/a", "/b", ""]),
            ("ce-type", &["t", "%E2%82%AC", "%"]),
            ("ce-time", &["2026-01-31T12:00:00Z", "x"]),
            ("ce-subject", &["s", ""]),
            ("ce-ext", &["7"]),
        ] {
            if rng.random_bool(0.8) {
                put(name, values.choose(rng).unwrap().as_bytes());
            }
        }
    }
    if rng.random_bool(0.3) {
        let names = [
            "content-length",
            "traceparent",
            "tracestate",
            "x-request-id",
            "idempotency-key",
            "authorization",
            "x-api-key",
            "x-forwarded-for",
            "forwarded",
            "content-type",
            "content-encoding",
            "expect",
            "x-noise",
        ];
        let values = [
            &b"0"[..],
            b"99999999999999999999",
            b"-1",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"\xff\xfe",
            b"Bearer x.y.z",
            b"lh_x_y",
            b"1.2.3.4, ::1, unknown",
            b"for=\"[::1]\";proto=https",
            b"\"8e03978e\"",
            b"",
            b"100-continue",
        ];
        for _ in 0..rng.random_range(1..4) {
            let mut value = values.choose(rng).unwrap().to_vec();
            if rng.random_bool(0.2) {
                mangle(rng, &mut value);
            }
            headers.push((names.choose(rng).unwrap().to_string(), value));
        }
    }
    headers
}
