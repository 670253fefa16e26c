//! Made and mangled requests through the whole gateway, for as long as it is told to.
//!
//! A few seconds by default; `LAKEHOSE_TEST_FUZZ_SECONDS=600` for a long run. What fails names its seed, and
//! `LAKEHOSE_TEST_FUZZ_SEED=…` sends that one request again.

#![allow(unreachable_pub, reason = "a test exports nothing: `pub` tells what a module offers the others")]

mod request;

use crate::support::{Answer, Gateway, gateway};
use bytesize::ByteSize;
use ingest::Config;
use ingest::bench::{Form, frame};
use lake::event::Event;
use rand::Rng;
use request::Case;
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Requests that one gateway gets: what it remembers of earlier ones is part of the test.
const PER_GATEWAY: u64 = 2_000;
/// An answer that takes longer is a hang.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn whatever_is_sent_is_answered_by_the_rules() {
    if let Some(seed) = variable("LAKEHOSE_TEST_FUZZ_SEED") {
        let runtime = runtime();
        let answered = one(&runtime, &small_gateway(), seed);
        return println!("seed {seed} is answered {answered}: {:#?}", Case::new(seed));
    }
    let time = Duration::from_secs(variable("LAKEHOSE_TEST_FUZZ_SECONDS").unwrap_or(3));
    let (begun, first, mut sent) = (Instant::now(), rand::rng().random::<u32>(), 0);
    let mut answers = BTreeMap::<String, u64>::new();
    println!("seeds from {}", u64::from(first) << 32);
    while begun.elapsed() < time {
        let (runtime, gateway) = (runtime(), small_gateway());
        for _ in 0..PER_GATEWAY {
            let answered = one(&runtime, &gateway, (u64::from(first) << 32) + sent);
            *answers.entry(answered).or_default() += 1;
            sent += 1;
        }
        // Whatever a request has held is free again.
        let largest = format!(r#"[{{"device_id":"{}"}}]"#, " ".repeat(MAX_BODY - 18));
        assert_eq!(runtime.block_on(gateway.json(largest)).problem(), (400, "nothing-accepted"));
    }
    println!("{sent} requests in {:.0?}: {answers:#?}", begun.elapsed());
    let kinds = ["202", "400 nothing-accepted", "400 malformed-body", "415 unsupported-media-type"];
    assert!(kinds.iter().all(|kind| answers.contains_key(*kind)), "it reaches all of the gateway: {answers:#?}");
}

const MAX_BODY: usize = 64 * 1024;

/// Small enough for bounds to be met, and with so little memory that what is not given back is missed soon.
fn small_gateway() -> Gateway {
    let mut config = Config::default();
    config.http.max_body = ByteSize(MAX_BODY as u64);
    config.http.max_events = 200;
    config.http.max_in_flight = ByteSize::mib(16);
    gateway(config)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|err| panic!("{name}: {err}")))
}

/// Sends one request and checks what comes of it. Answers what the answer was.
fn one(runtime: &Runtime, gateway: &Gateway, seed: u64) -> String {
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let case = Case::new(seed);
        check_decoders(&case.body);
        let Some(request) = case.request() else { return "no request".to_owned() };
        gateway.log.records.lock().unwrap().clear();
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, gateway.send(request)).await });
        check_answer(&case, gateway, &answer.expect("an answer in time"))
    }));
    checked.unwrap_or_else(|panic| {
        eprintln!("LAKEHOSE_TEST_FUZZ_SEED={seed} fails: {:#?}", Case::new(seed));
        resume_unwind(panic)
    })
}

/// What is decoded is part of the body, and none of it makes a decoder give up other than by its rules.
fn check_decoders(body: &[u8]) {
    let _ = Event::parse(body);
    for form in [Form::Json, Form::NdJson] {
        let Ok(events) = frame(form, body, 100) else { continue };
        assert!((1..=100).contains(&events.len()));
        for event in events {
            assert!(body.as_ptr_range().contains(&event.as_ptr()), "{event:?}");
            let _ = Event::parse(event.as_bytes());
        }
    }
}

fn check_answer(case: &Case, gateway: &Gateway, answer: &Answer) -> String {
    let (status, problem) = answer.problem();
    assert!(status < 500, "{answer:?}");
    assert!(answer.body.is_object(), "{answer:?}");
    let records = std::mem::take(&mut *gateway.log.records.lock().unwrap());
    for (_, record) in &records {
        let event = Event::parse(&record.value).expect("what is in the log is an event");
        assert_eq!(record.key, event.device_id.as_bytes());
        assert!(!event.device_id.is_empty());
        if let Some(id) = &event.id {
            assert_eq!(record.headers[0].1, id.as_bytes());
        }
    }
    let is_report = status == 202 || problem == "nothing-accepted";
    if !is_report {
        assert!(records.is_empty(), "refused and stored: {answer:?}");
        return format!("{status} {problem}");
    }
    let (accepted, duplicates) = (answer.accepted(), answer.body["duplicates"].as_u64().unwrap());
    let rejected: Vec<u64> = answer.rejected().iter().map(|(index, _)| *index).collect();
    let events = accepted + duplicates + rejected.len() as u64;
    let stored = if answer.headers.contains_key("idempotency-replayed") { 0 } else { accepted };
    assert_eq!(stored, records.len() as u64, "{answer:?}");
    // A batch of CloudEvents may be empty.
    assert_eq!(status == 202, accepted > 0 || events == 0, "{answer:?}");
    assert!(rejected.is_sorted_by(|a, b| a < b) && rejected.iter().all(|index| *index < events), "{answer:?}");
    if let Some(framed) = case.events() {
        assert_eq!(events, framed, "{answer:?}");
    }
    format!("{status} {problem}").trim().to_owned()
}
