use super::*;
use crate::clock::Clock;
use crate::config;
use crate::decode::{Form, frame};
use proptest::prelude::*;

const NOW: i64 = 1_769_860_800_000_000;

fn sort(body: &Bytes, events: &[&str]) -> Batch {
    let limits = Limits::new(&config::Limits::default(), &Clock::system());
    let rules = Rules {
        limits: &limits,
        devices: &Devices::Any,
        now: NOW,
        max_age: 1_000,
        max_ahead: 1_000,
        trace: Vec::new(),
        untranslated: HashMap::new(),
    };
    sort_out(body, events, &rules)
}

fn sorted(form: Form, body: &[u8]) -> Option<(Batch, usize)> {
    let body = Bytes::copy_from_slice(body);
    let events = frame(form, &body, 1_000).ok()?;
    Some((sort(&body, &events), events.len()))
}

/// Every event has exactly one fate, and what goes to the log is an event again.
fn check(batch: &Batch, events: usize) {
    let Batch { records, indexes, report, .. } = batch;
    assert_eq!(records.len() + report.duplicates + report.rejected.len(), events);
    assert!(indexes.is_sorted() && indexes.len() == records.len());
    for record in records {
        let event = Event::parse(&record.value).unwrap();
        assert_eq!(event.device_id.as_bytes(), record.key);
        assert!(!record.headers[0].1.is_empty());
    }
}

#[test]
fn records_share_the_bytes_of_the_body() {
    let body = Bytes::from(r#"[{"device_id":"a","id":"1"},{"device_id":"a","id":"1"}]"#);
    let batch = sort(&body, &frame(Form::Json, &body, 10).unwrap());
    let inside = |bytes: &Bytes| body.as_ptr_range().contains(&bytes.as_ptr());
    let [record] = &batch.records[..] else { panic!("{batch:?}") };
    assert!(inside(&record.key) && inside(&record.value) && inside(&record.headers[0].1));
}

#[test]
fn the_edges_of_the_allowed_time_are_allowed() {
    let event = |micros: i64| format!(r#"{{"device_id":"a","time":"{}"}}"#, lake::event::format_time(micros));
    let lines = [NOW - 1_001, NOW - 1_000, NOW + 1_000, NOW + 1_001].map(event).join("\n");
    let (batch, _) = sorted(Form::NdJson, lines.as_bytes()).unwrap();
    assert_eq!(batch.indexes, [1, 2]);
}

proptest! {
    #[test]
    fn every_event_has_one_fate(
        events in prop::collection::vec(
            prop_oneof![
                Just(r#"{"device_id":"a"}"#.to_owned()),
                Just(r#"{"device_id":"a","time":1}"#.to_owned()),
                "[a-c]{1}".prop_map(|id| format!(r#"{{"device_id":"\u0061","id":"{id}","data":{{"x":[1]}}}}"#)),
                r#"[\[\]{}",:0-9a\\ue -]{0,40}"#,
            ],
            0..20,
        ),
        array: bool,
    ) {
        let (form, body) =
            if array { (Form::Json, format!("[{}]", events.join(","))) } else { (Form::NdJson, events.join("\n")) };
        if let Some((batch, events)) = sorted(form, body.as_bytes()) {
            check(&batch, events);
        }
    }
}
