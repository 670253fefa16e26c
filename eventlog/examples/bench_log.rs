//! Measures a log: `cargo run --release -p eventlog --example bench_log [DIR | kafka HOST:PORT]`.
//!
//! Durable appends in groups of 1,000 by several callers, the latency of small appends at a steady rate, and a scan.
//! CPU is the whole process, background threads included; Kafka's broker is not.

use bytes::Bytes;
use eventlog::kafka::{KafkaLog, KafkaOptions};
use eventlog::local::{LocalLog, LocalOptions};
use eventlog::{Input, Log, NewRecord, Position};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 6;

fn main() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let log: Arc<dyn Log> = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["kafka", brokers] => {
            let options = KafkaOptions { brokers: brokers.into(), ..KafkaOptions::default() };
            Arc::new(runtime.block_on(KafkaLog::connect(options)).expect("connect"))
        }
        [dir] => Arc::new(LocalLog::open(dir, LocalOptions::default()).expect("open")),
        _ => Arc::new(LocalLog::open(temporary.path(), LocalOptions::default()).expect("open")),
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{} bytes of value an event; load {}", events(1)[0].value.len(), load.trim());

    let run = std::process::id();
    let topic = format!("bench-{run}");
    runtime.block_on(log.ensure_topic(&topic, PARTITIONS)).expect("topic");
    let written = runtime.block_on(appends(&log, &topic, 8, 1_000, Duration::from_secs(6)));
    scan(log.as_ref(), &topic, written);
    for group in [100, 1] {
        let topic = format!("bench-{run}-{group}");
        runtime.block_on(log.ensure_topic(&topic, PARTITIONS)).expect("topic");
        runtime.block_on(latency(&log, &topic, group, 50_000, Duration::from_secs(6)));
    }
    runtime.block_on(log.close()).expect("close");
}

/// As many durable appends as the log takes; returns how many events that were.
async fn appends(log: &Arc<dyn Log>, topic: &str, callers: usize, group: usize, duration: Duration) -> u64 {
    let written = Arc::new(AtomicU64::new(0));
    let (began, cpu) = (Instant::now(), cpu_time());
    let tasks = (0..callers).map(|_| {
        let (log, written, topic) = (Arc::clone(log), Arc::clone(&written), topic.to_owned());
        let group = events(group);
        tokio::spawn(async move {
            while began.elapsed() < duration {
                let fates = log.append(&topic, group.clone()).await;
                assert!(fates.iter().all(Result::is_ok), "refused: {:?}", fates[0]);
                written.fetch_add(fates.len() as u64, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a caller");
    }
    let written = written.load(Ordering::Relaxed);
    report(&format!("append, {callers} callers, groups of {group}"), written, began, cpu);
    written
}

/// Everything that the topic holds, once.
fn scan(log: &dyn Log, topic: &str, count: u64) {
    let mut consumer = log.consumer(topic, topic).expect("consumer");
    let (mut began, mut cpu) = (Instant::now(), cpu_time());
    let (mut records, mut bytes) = (0u64, 0u64);
    while records < count {
        let sink = &mut |record: eventlog::Record<'_>| {
            bytes += record.value.map_or(0, <[u8]>::len) as u64;
        };
        match consumer.poll(Duration::from_secs(1), sink).expect("poll") {
            Input::Records(count) => records += count as u64,
            Input::Assigned(partitions) => {
                let from: Vec<Position> =
                    partitions.into_iter().map(|partition| Position { partition, offset: 0 }).collect();
                consumer.assign(&from).expect("assign");
                (began, cpu) = (Instant::now(), cpu_time());
            }
            _ => {}
        }
    }
    report(&format!("scan of {} MB", bytes / 1_000_000), records, began, cpu);
}

/// Appends of `group` events at a steady `rate`, and how long each took.
async fn latency(log: &Arc<dyn Log>, topic: &str, group: usize, rate: u64, duration: Duration) {
    let events = events(group * 64);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut sent = 0u64;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while began.elapsed() < duration {
        tick.tick().await;
        let due = began.elapsed().as_micros() as u64 * rate / 1_000_000;
        while sent + group as u64 <= due {
            let at = sent as usize % (group * 63);
            let (log, sender, topic) = (Arc::clone(log), sender.clone(), topic.to_owned());
            let group = events[at..at + group].to_vec();
            sent += group.len() as u64;
            tokio::spawn(async move {
                let asked = Instant::now();
                let fates = log.append(&topic, group).await;
                assert!(fates.iter().all(Result::is_ok), "refused: {:?}", fates[0]);
                let _ = sender.send(asked.elapsed());
            });
        }
    }
    drop(sender);
    let mut took = Vec::new();
    while let Some(elapsed) = receiver.recv().await {
        took.push(elapsed);
    }
    took.sort();
    report(&format!("append of {group} at {rate}/s"), sent, began, cpu);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("  p50 {:?}  p99 {:?}  p99.9 {:?}  max {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
}

fn report(what: &str, events: u64, began: Instant, cpu: Duration) {
    let (wall, cpu) = (began.elapsed(), cpu_time() - cpu);
    let per_second = events as f64 / wall.as_secs_f64();
    println!("{what}: {events} events, {per_second:.0}/s, {} ns CPU an event", cpu.as_nanos() as u64 / events.max(1));
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Events as the gateway appends them.
fn events(count: usize) -> Vec<NewRecord> {
    let mut state = 88_172_645_463_325_252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let event = |n: usize| {
        let device = format!("device-{:06}", random() % 10_000);
        let id = format!("{:016x}{:016x}", random(), random());
        let value = format!(
            r#"{{"id":"{id}","device_id":"{device}","type":"heartbeat","time":"2026-11-22T10:{:02}:{:02}.{:03}Z","data":{{"temp":{}.{},"battery":{},"firmware":{{"version":"1.{}.{}"}},"rssi":-{}}}}}"#,
            n / 60 % 60,
            n % 60,
            n % 1000,
            random() % 40,
            random() % 100,
            random() % 100,
            random() % 10,
            random() % 10,
            random() % 90,
        );
        let headers = vec![("id", Bytes::from(id)), ("received_at", Bytes::from_static(b"1795000000123"))];
        NewRecord { key: Bytes::from(device), value: Bytes::from(value), headers }
    };
    (0..count).map(event).collect()
}
