//! What the tests share: a log in memory that fails on demand, a gateway over it, and small helpers.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use eventlog::{AppendError, Consumer, Log, LogError, NewRecord, Position, WholeError};
use futures::FutureExt;
use futures::future::BoxFuture;
use governor::clock::FakeRelativeClock;
use ingest::auth::{Auth, Settings};
use ingest::{Clock, Condition, Config, Deps, Spill};
use lake::dataset::{Dataset, DatasetSpec};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

/// 2026-01-31T12:00:00Z, where the clocks of tests start.
pub const NOW: i64 = 1_769_860_800_000_000;

/// A log in memory. By default it takes everything.
#[derive(Default)]
pub struct MemoryLog {
    pub records: Mutex<Vec<(String, NewRecord)>>,
    pub fault: Mutex<Fault>,
    /// Appends that wait for a frozen log.
    pub under_way: AtomicUsize,
}

/// What a [`MemoryLog`] does wrong.
#[derive(Default, Clone)]
pub enum Fault {
    #[default]
    None,
    /// Every append fails.
    Append(AppendError),
    /// Records whose value contains the text fail.
    Containing(&'static str, AppendError),
    /// The log says of itself that it is down.
    Unhealthy,
    /// Appends take this long.
    Slow(Duration),
    /// Appends never end.
    Stuck,
    /// Appends end when another fault is set, and do what that one says.
    Frozen,
    /// The same of one topic alone.
    FrozenTopic(&'static str),
    /// Appends are answered for fewer records than were given.
    Forgetful,
    Panicking,
    /// Appends panic after this time.
    SlowPanic(Duration),
}

impl MemoryLog {
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn values(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        records.iter().map(|(_, record)| String::from_utf8(record.value.to_vec()).unwrap()).collect()
    }

    pub fn last(&self) -> (String, NewRecord) {
        self.records.lock().unwrap().last().cloned().expect("a record")
    }

    fn store(&self, topic: &str, record: NewRecord) -> Position {
        let mut records = self.records.lock().unwrap();
        records.push((topic.to_owned(), record));
        Position { partition: 0, offset: records.len() as i64 - 1 }
    }
}

impl Log for MemoryLog {
    fn ensure_topic<'a>(&'a self, _: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        async move { Ok(partitions) }.boxed()
    }

    fn append<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        let fault = self.fault.lock().unwrap().clone();
        async move {
            let (mut fault, mut records) = (fault, records);
            self.under_way.fetch_add(1, Ordering::Relaxed);
            let freezes = |fault: &Fault| match fault {
                Fault::Frozen => true,
                Fault::FrozenTopic(frozen) => *frozen == topic,
                _ => false,
            };
            while freezes(&fault) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                fault = self.fault.lock().unwrap().clone();
            }
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            match &fault {
                Fault::Slow(time) => tokio::time::sleep(*time).await,
                Fault::Stuck => std::future::pending().await,
                Fault::Panicking => panic!("the log panics"),
                Fault::SlowPanic(time) => {
                    tokio::time::sleep(*time).await;
                    panic!("the log panics")
                }
                Fault::Forgetful => records.truncate(1),
                _ => {}
            }
            let append = |record: NewRecord| match &fault {
                Fault::Append(err) => Err(err.clone()),
                Fault::Containing(text, err) if String::from_utf8_lossy(&record.value).contains(text) => {
                    Err(err.clone())
                }
                _ => Ok(self.store(topic, record)),
            };
            records.into_iter().map(append).collect()
        }
        .boxed()
    }

    fn append_whole<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Result<Vec<Position>, WholeError>> {
        let fault = self.fault.lock().unwrap().clone();
        async move {
            match fault {
                Fault::Slow(time) => tokio::time::sleep(time).await,
                Fault::Stuck => std::future::pending().await,
                Fault::Panicking => panic!("the log panics"),
                Fault::Append(AppendError::Unknown(_)) => {
                    return Err(WholeError::Unknown { reason: "broker 10.0.0.7:9092 is silent".into() });
                }
                Fault::Append(err) => return Err(err.into()),
                Fault::Containing(text, err) => {
                    let mut values = records.iter().map(|record| String::from_utf8_lossy(&record.value));
                    if values.any(|value| value.contains(text)) {
                        return Err(err.into());
                    }
                }
                _ => {}
            }
            Ok(records.into_iter().map(|record| self.store(topic, record)).collect())
        }
        .boxed()
    }

    fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal { what: "join", reason: "the gateway never reads".into() })
    }

    fn health(&self) -> Result<(), LogError> {
        match *self.fault.lock().unwrap() {
            Fault::Unhealthy => Err(LogError::Unavailable { what: "reach brokers", reason: "none is up".into() }),
            _ => Ok(()),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async { Ok(()) }.boxed()
    }
}

/// A gateway without sockets, in a time of its own.
pub struct Gateway {
    pub log: Arc<MemoryLog>,
    pub time: FakeRelativeClock,
    pub router: Router,
    condition: Condition,
    spill: Option<Arc<Spill>>,
}

pub fn datasets() -> Vec<Dataset> {
    ["events", "heartbeats"].map(|name| Dataset::new(name, DatasetSpec::default()).unwrap()).to_vec()
}

pub fn gateway(config: Config) -> Gateway {
    made(config, datasets(), &Settings::default())
}

pub fn gateway_of(config: Config, datasets: Vec<Dataset>) -> Gateway {
    made(config, datasets, &Settings::default())
}

/// A gateway that wants to know who posts.
pub fn guarded(config: Config, auth: &Settings) -> Gateway {
    made(config, datasets(), auth)
}

fn made(config: Config, datasets: Vec<Dataset>, auth: &Settings) -> Gateway {
    config.check().unwrap();
    let log = Arc::new(MemoryLog::default());
    let time = FakeRelativeClock::default();
    let mut deps = Deps::new(Arc::clone(&log) as Arc<dyn Log>, datasets);
    deps.clock = Clock::manual(time.clone(), NOW);
    deps.auth = Auth::open(auth).unwrap().map(Arc::new);
    with(&config, deps, log, time)
}

/// A gateway with a queue on disk, in the time of the machine.
pub fn gateway_with(config: Config, log: Arc<MemoryLog>, spill: Option<Arc<Spill>>) -> Gateway {
    let deps = Deps { spill, ..Deps::new(Arc::clone(&log) as Arc<dyn Log>, datasets()) };
    with(&config, deps, log, FakeRelativeClock::default())
}

fn with(config: &Config, deps: Deps, log: Arc<MemoryLog>, time: FakeRelativeClock) -> Gateway {
    let (condition, spill) = (deps.condition.clone(), deps.spill.clone());
    Gateway { router: ingest::router(config, deps), log, time, condition, spill }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Gateway {
    /// What waits in the queue on disk.
    pub fn spilled(&self) -> Option<String> {
        self.condition.spilled()
    }

    /// As at the end of a process.
    pub async fn close(self) {
        if let Some(spill) = &self.spill {
            spill.close().await;
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = Answer { status: head.status, headers: head.headers, body };
        answer.check_form();
        answer
    }

    pub async fn post(&self, content_type: &str, body: impl Into<Body>) -> Answer {
        self.send(post(content_type, body.into())).await
    }

    pub async fn json(&self, body: impl Into<Body>) -> Answer {
        self.post("application/json", body).await
    }

    pub async fn json_from(&self, ip: &str, body: impl Into<Body>) -> Answer {
        let mut request = post("application/json", body.into());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(ip.parse().unwrap(), 1)));
        self.send(request).await
    }
}

pub fn post(content_type: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri("/v1/events/events")
        .header("content-type", content_type)
        .body(body)
        .unwrap()
}

impl Answer {
    /// No answer of the gateway is of another form than these.
    fn check_form(&self) {
        let content_type = self.headers["content-type"].to_str().unwrap();
        let request_id = self.header("x-request-id");
        if self.status.is_success() {
            assert_eq!(content_type, "application/json");
            return;
        }
        assert_eq!(content_type, "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16());
        assert_eq!(self.body["request_id"], request_id);
        for member in ["type", "title", "detail"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self:?}");
        }
    }

    /// Status and the name of the problem.
    pub fn problem(&self) -> (u16, &str) {
        let kind = self.body["type"].as_str().unwrap_or_default();
        (self.status.as_u16(), kind.strip_prefix("urn:lakehose:problem:").unwrap_or(kind))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} in {self:?}")).to_str().unwrap()
    }

    pub fn retry_after(&self) -> Duration {
        Duration::from_secs(self.header("retry-after").parse().unwrap())
    }

    /// `(index, reason)` of what was rejected.
    pub fn rejected(&self) -> Vec<(u64, &str)> {
        let rejected = self.body["rejected"].as_array().unwrap_or_else(|| panic!("rejected in {self:?}"));
        rejected.iter().map(|r| (r["index"].as_u64().unwrap(), r["reason"].as_str().unwrap())).collect()
    }

    pub fn accepted(&self) -> u64 {
        self.body["accepted"].as_u64().unwrap_or_else(|| panic!("accepted in {self:?}"))
    }
}

/// `count` events of one device, as an array.
pub fn array(device: &str, count: usize) -> String {
    let event = format!(r#"{{"device_id":"{device}"}}"#);
    format!("[{}]", vec![event; count].join(","))
}

/// An event of so many bytes.
pub fn event_of(bytes: usize) -> String {
    let event = |padding: usize| format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(padding));
    event(bytes - event(0).len())
}

/// A body in pieces, so that nothing knows its length.
pub fn chunked(chunks: Vec<Bytes>) -> Body {
    Body::from_stream(futures::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
}
