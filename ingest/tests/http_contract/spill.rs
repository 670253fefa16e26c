//! The queue on disk: accepted while the log is gone, in the log in the order of their coming, and never left behind.

use crate::support::{Answer, Fault, Gateway, MemoryLog, array, gateway_with, post};
use bytesize::ByteSize;
use eventlog::AppendError;
use ingest::{Config, Spill, SpillConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ON: SpillConfig = SpillConfig { max_bytes: Some(ByteSize::mib(16)), directory: None };
const OFF: SpillConfig = SpillConfig { max_bytes: None, directory: None };

fn quick() -> Config {
    let mut config = Config::default();
    config.http.breaker_after = Duration::from_millis(50);
    config
}

async fn open(directory: &Path, config: &SpillConfig) -> Option<Arc<Spill>> {
    let spill = Spill::open(config, directory.to_owned(), &crate::support::datasets()).await.unwrap();
    spill.map(Arc::new)
}

/// A gateway over a log that outlives it.
async fn start(directory: &Path, config: &SpillConfig, log: &Arc<MemoryLog>) -> Gateway {
    let spill = open(directory, config).await;
    gateway_with(quick(), Arc::clone(log), spill)
}

async fn send(gateway: &Gateway, dataset: &str, seq: usize) -> Answer {
    let body = format!(r#"{{"device_id":"a","id":"{seq}"}}"#);
    let mut request = post("application/json", body.into());
    *request.uri_mut() = format!("/v1/events/{dataset}").parse().unwrap();
    gateway.send(request).await
}

/// The ids of what the log has, in its order; of copies the first counts.
fn ids(log: &MemoryLog, topic: &str) -> Vec<usize> {
    let records = log.records.lock().unwrap();
    let of_topic = records.iter().filter(|(of, _)| of == topic);
    let mut ids = Vec::new();
    for (_, record) in of_topic {
        let id = std::str::from_utf8(&record.headers[0].1).unwrap().parse().unwrap();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn events_that_the_log_does_not_take_are_accepted_and_follow_in_order() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    assert_eq!(send(&gateway, "events", 0).await.status, 202);
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    for seq in 1..50 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    log.set(Fault::Frozen);
    assert_eq!(send(&gateway, "events", 50).await.status, 202);
    log.set(Fault::None);
    for seq in 51..100 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    until("everything is in the log", || ids(&log, "events").len() == 100).await;
    assert_eq!(ids(&log, "events"), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_that_hangs_costs_a_device_no_more_than_the_threshold() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::Frozen);
    let begun = std::time::Instant::now();
    for seq in 0..20 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    println!("20 events were accepted in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "only the first may have waited");
    log.set(Fault::None);
    until("everything is in the log", || ids(&log, "events").len() == 20).await;
    assert_eq!(ids(&log, "events"), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_the_dataset_that_is_affected_is_spilled() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::FrozenTopic("events"));
    for seq in 0..5 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
        assert_eq!(send(&gateway, "heartbeats", seq).await.status, 202);
    }
    assert_eq!((ids(&log, "events"), ids(&log, "heartbeats")), (vec![], vec![0, 1, 2, 3, 4]));
    log.set(Fault::None);
    until("everything is in the log", || ids(&log, "events").len() == 5).await;
}

#[tokio::test]
async fn what_is_left_is_drained_by_the_next_start_even_if_the_queue_is_switched_off() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    log.set(Fault::Unhealthy);
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    for seq in 0..30 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    gateway.close().await;
    assert!(ids(&log, "events").is_empty());

    let gateway = start(directory.path(), &OFF, &log).await;
    assert_eq!(send(&gateway, "events", 99).await.problem(), (503, "log-unavailable"), "it must not overtake");
    log.set(Fault::None);
    until("everything is in the log", || ids(&log, "events").len() == 30).await;
    let mut last = send(&gateway, "events", 30).await;
    while last.status != 202 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        last = send(&gateway, "events", 30).await;
    }
    assert_eq!(ids(&log, "events"), (0..=30).collect::<Vec<_>>());
    gateway.close().await;
    assert!(open(directory.path(), &OFF).await.is_none(), "nothing is left");
}

#[tokio::test]
async fn what_a_dataset_that_is_gone_has_left_stops_the_start() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    let gateway = start(directory.path(), &ON, &log).await;
    assert_eq!(send(&gateway, "heartbeats", 0).await.status, 202);
    gateway.close().await;
    let events = &crate::support::datasets()[..1];
    let Err(problem) = Spill::open(&ON, directory.path().to_owned(), events).await else { panic!("it opens") };
    let problem = problem.to_string();
    let place = directory.path().display().to_string();
    assert!(problem.contains("1 events of the dataset heartbeats") && problem.contains(&place), "{problem}");
}

#[tokio::test]
async fn a_full_queue_is_503_before_the_body_is_read() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    let large = || format!(r#"{{"device_id":"a","data":{{"x":"{}"}}}}"#, "x".repeat(900_000));
    let mut accepted = 0;
    let refused = loop {
        let answer = gateway.json(large()).await;
        match answer.status.as_u16() {
            202 => accepted += 1,
            _ => break answer,
        }
    };
    assert_eq!(refused.problem(), (503, "log-unavailable"));
    assert!((10..=20).contains(&accepted), "{accepted}");
    let endless = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    assert_eq!(gateway.json(axum::body::Body::from_stream(endless)).await.status, 503);
    log.set(Fault::None);
    until("it is drained", || log.values().len() >= accepted).await;
    until("there is room again", || gateway.spilled().is_none()).await;
    assert_eq!(gateway.json(array("a", 1)).await.status, 202);
}

#[tokio::test]
async fn a_record_that_the_log_never_takes_is_set_aside_and_blocks_nobody() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    for seq in 0..10 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    log.set(Fault::Containing(r#""id":"4""#, AppendError::Refused("policy".into())));
    until("the others are in the log", || ids(&log, "events").len() == 9).await;
    let aside = directory.path().join("events.refused.ndjson");
    until("it is set aside", || gateway.spilled().is_none()).await;
    let aside = std::fs::read_to_string(aside).unwrap();
    let line: serde_json::Value = serde_json::from_str(aside.lines().next().unwrap()).unwrap();
    assert_eq!((&line["event"], &line["headers"]["id"]), (&r#"{"device_id":"a","id":"4"}"#.into(), &"4".into()));
    assert!(line["refused"].as_str().unwrap().contains("policy"));
}

#[tokio::test]
async fn a_topic_that_refuses_everything_keeps_the_queue_as_it_is() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    for seq in 0..10 {
        assert_eq!(send(&gateway, "events", seq).await.status, 202);
    }
    log.set(Fault::Append(AppendError::Refused("no rights".into())));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(gateway.spilled().unwrap().starts_with("10 events of events"), "{:?}", gateway.spilled());
    log.set(Fault::None);
    until("everything is in the log", || ids(&log, "events").len() == 10).await;
    assert_eq!(ids(&log, "events"), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_must_be_whole_waits_in_no_queue() {
    let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let gateway = start(directory.path(), &ON, &log).await;
    let whole = async || {
        let mut request = post("application/json", array("a", 2).into());
        *request.uri_mut() = "/v1/events/events?atomic=true".parse().unwrap();
        gateway.send(request).await
    };
    assert_eq!(whole().await.status, 202);
    log.set(Fault::Append(AppendError::Unavailable("gone".into())));
    assert_eq!(send(&gateway, "events", 0).await.status, 202);
    let answer = whole().await;
    assert_eq!(answer.problem(), (503, "log-unavailable"));
    assert!(answer.retry_after() >= Duration::from_secs(1));
    log.set(Fault::None);
    until("it is drained", || gateway.spilled().is_none()).await;
    assert_eq!(whole().await.status, 202);
    assert_eq!(log.values().len(), 5);
}
