//! CPU time per event of the gateway over a log that costs nothing: `cargo bench -p ingest --profile release`.
//!
//! CPU time of the process, not wall time, so that a busy machine changes the figures little. `router` is everything
//! but the socket; `socket` is one client over loopback in the same process, so the client's own cost is in it.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use bytesize::ByteSize;
use eventlog::{AppendError, Consumer, Log, LogError, NewRecord, Position};
use futures::FutureExt;
use futures::future::BoxFuture;
use ingest::auth::{Auth, Secret, Settings};
use ingest::bench::{Form, frame};
use ingest::{Config, Deps, Limit, Limits};
use lake::dataset::{Dataset, DatasetSpec};
use lake::event::Event;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

struct NullLog;

impl Log for NullLog {
    fn ensure_topic<'a>(&'a self, _: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>> {
        async move { Ok(partitions) }.boxed()
    }
    fn append<'a>(&'a self, _: &'a str, records: Vec<NewRecord>) -> BoxFuture<'a, Vec<Result<Position, AppendError>>> {
        async move { records.iter().map(|_| Ok(Position { partition: 0, offset: 0 })).collect() }.boxed()
    }
    fn consumer(&self, _: &str, _: &str) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal { what: "join", reason: "nothing is kept".into() })
    }
    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async { Ok(()) }.boxed()
    }
}

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}", load.trim());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let now = chrono::Utc::now();
    let events: Vec<String> = (0..100).map(|n| event(n, now)).collect();
    println!("{} bytes an event", events.iter().map(String::len).sum::<usize>() / events.len());
    let array = Bytes::from(format!("[{}]", events.join(",")));
    let lines = Bytes::from(events.join("\n"));
    let single = Bytes::from(events[0].clone());

    report("frame an array of 100", 100, || drop(black_box(frame(Form::Json, &array, 1_000))));
    report("frame 100 lines", 100, || drop(black_box(frame(Form::NdJson, &lines, 1_000))));
    report("frame and parse 100 lines", 100, || {
        for text in frame(Form::NdJson, &lines, 1_000).unwrap_or_default() {
            drop(black_box(Event::parse(text.as_bytes())));
        }
    });

    let plain = router(&Config::default());
    let mut config = Config::default();
    let high = Limit::new(1e9, u32::MAX >> 8).expect("a limit");
    (config.limits.per_device, config.limits.per_ip, config.limits.global) = (Some(high), Some(high), Some(high));
    let limited = router(&config);
    let both = high.and_bytes(ByteSize::tib(1), ByteSize::tib(1)).expect("a limit");
    config.limits = Limits {
        per_device: Some(both),
        per_key: Some(both),
        per_ip: Some(both),
        per_dataset: Some(both),
        global: Some(both),
        ..Limits::default()
    };
    let limited_in_bytes = router(&config);
    let secret = Secret::from_entropy([1; 6], [2; 32]);
    let keys = format!("[[keys]]\nid = '{}'\nname = 'bench'\nsha256 = '{}'\n", secret.id(), secret.hash());
    let settings = Settings { keys_text: Some(keys), ..Settings::default() };
    let auth = Auth::open(&settings).expect("keys").map(Arc::new);
    let keyed = ingest::router(&Config::default(), Deps { auth, ..deps() });
    let post = |name: &str, router: &Router, kind: &str, body: &Bytes, count| {
        report(name, count, || {
            let request = Request::post("/v1/events/events").header("content-type", kind);
            let request = request.header("x-api-key", secret.reveal());
            let request = request.body(Body::from(body.clone())).expect("a request");
            let response = runtime.block_on(router.clone().oneshot(request)).expect("an answer");
            assert_eq!(response.status(), 202);
        });
    };
    post("router, an array of 100", &plain, "application/json", &array, 100);
    post("router, 100 lines", &plain, "application/x-ndjson", &lines, 100);
    post("router, 100 lines, limits of events", &limited, "application/x-ndjson", &lines, 100);
    post("router, 100 lines, all limits", &limited_in_bytes, "application/x-ndjson", &lines, 100);
    post("router, single events", &plain, "application/json", &single, 1);
    post("router, single events, a key", &keyed, "application/json", &single, 1);
    post("router, single events, limits of events", &limited, "application/json", &single, 1);
    post("router, single events, all limits", &limited_in_bytes, "application/json", &single, 1);

    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(ingest::serve(listener, Config::default(), deps(), CancellationToken::new()));
        for (name, kind, body, count, rounds) in [
            ("socket, 100 lines", "application/x-ndjson", &lines, 100, 10_000),
            ("socket, single events", "application/json", &single, 1, 50_000),
        ] {
            let mut stream = TcpStream::connect(address).await.expect("connect");
            let head = format!(
                "POST /v1/events/events HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let request = [head.as_bytes(), body].concat();
            let mut answer = [0; 1024];
            let before = cpu_time();
            for _ in 0..rounds {
                stream.write_all(&request).await.expect("send");
                let read = stream.read(&mut answer).await.expect("receive");
                assert!(answer[..read].starts_with(b"HTTP/1.1 202"));
            }
            print(name, cpu_time() - before, rounds * count);
        }

        const OPEN: usize = 5_000;
        let (before, mut open) = (resident_bytes(), Vec::new());
        for _ in 0..OPEN {
            let Ok(mut stream) = TcpStream::connect(address).await else { break };
            let request = "POST /v1/events/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                           content-length: 17\r\n\r\n{\"device_id\":\"a\"}";
            stream.write_all(request.as_bytes()).await.expect("send");
            let read = stream.read(&mut [0; 1024]).await.expect("receive");
            assert!(read > 0);
            open.push(stream);
        }
        let each = resident_bytes().saturating_sub(before) / open.len().max(1);
        println!("{} idle connections: {each} bytes each, both ends", open.len());
    });
}

fn event(n: usize, now: chrono::DateTime<chrono::Utc>) -> String {
    format!(
        r#"{{"id":"01890a5d-ac96-774b-bcce-{n:012}","device_id":"device-{:05}","type":"heartbeat","time":"{}","data":{{"temp":21.{n},"battery":87,"firmware":{{"version":"1.4.2"}},"rssi":-67,"up":123456}}}}"#,
        n % 10,
        now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
    )
}

fn deps() -> Deps {
    Deps::new(Arc::new(NullLog), vec![Dataset::new("events", DatasetSpec::default()).expect("a dataset")])
}

fn router(config: &Config) -> Router {
    ingest::router(config, deps())
}

fn report(name: &str, events: u64, mut work: impl FnMut()) {
    const ENOUGH: Duration = Duration::from_millis(700);
    for _ in 0..100 {
        work();
    }
    let (start, mut rounds) = (cpu_time(), 0);
    while cpu_time() - start < ENOUGH {
        for _ in 0..100 {
            work();
        }
        rounds += 100;
    }
    print(name, cpu_time() - start, rounds * events);
}

fn print(name: &str, took: Duration, events: u64) {
    let nanos = took.as_nanos() as f64 / events as f64;
    println!("{name:<40} {nanos:>8.0} ns/event {:>10.0} events/s per core", 1e9 / nanos);
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
