//! What happens to a topic while it is read: it grows wider, loses records, or goes.

use crate::support::config::{Config, MISSED_SOON};
use crate::support::fleet::{Fleet, Size};
use crate::support::foreign::{Foreign, Produced};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, servers, wait_for};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

fn place(name: &str, partitions: u32) -> Place {
    // Changes of a topic are seen sooner than every five minutes, for the test's sake.
    let kafka_options = format!("{MISSED_SOON}, 'topic.metadata.refresh.interval.ms' = 1000");
    Place::new(Config { brokers: Some(servers::kafka()), partitions, kafka_options, ..Config::new(name) })
}

/// Events for a topic, `count` of them.
fn produce(topic: &str, count: usize) {
    let foreign = Foreign::new(&servers::kafka(), topic);
    for _ in 0..count {
        let value = Some(br#"{"device_id": "d"}"#.to_vec());
        foreign.send(Produced { name: "event", value, ..Produced::default() });
    }
    foreign.landed();
}

#[test]
fn partitions_that_are_added_while_running_are_read_from_their_first_record() {
    let place = place("wider", 2);
    let dataset = &place.config.dataset;
    let topic = Topic::new(&servers::kafka(), dataset);
    let processors = [place.start("processor"), place.start("processor")];
    let ingest = place.start("ingest");
    let url = processors[0].table(dataset);
    let size = Size { devices: 20, events_per_device: u64::MAX, batch: 20, pause: Duration::from_millis(100) };
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    fleet.wait_for(5_000);
    topic.widen(6).unwrap();
    wait_for("records in every partition", PATIENCE, || topic.ends().iter().all(|end| *end > 0).then_some(()));
    fleet.wait_for(fleet.acknowledged() + 5_000);
    let ledger = fleet.stop();
    topic.wait_until_no_lag();
    let mut table = Table::new(url);
    table.assert_events(&ledger, place.path());
    let scan = table.scan();
    let counts = table.duckdb.rows(&format!(
        "SELECT count(*) AS rows, count(DISTINCT kafka_offset) AS offsets, max(kafka_offset) + 1 AS ends
         FROM {scan} GROUP BY kafka_partition ORDER BY kafka_partition"
    ));
    let expected: Vec<_> = topic.ends().iter().map(|end| json!({"rows": end, "offsets": end, "ends": end})).collect();
    assert_eq!(counts, expected);
    ingest.stop_all(processors);
}

#[test]
fn records_that_retention_deletes_unread_are_a_gap_that_is_counted_and_logged() {
    let place = place("gap", 1);
    let dataset = place.config.dataset.clone();
    let (topic, gone) = (Topic::new(&servers::kafka(), &dataset), "lakehose_processor_records_gone_total");
    let first = place.start("processor");
    produce(&dataset, 50);
    topic.wait_until_no_lag();
    first.stop();

    // While no processor runs.
    produce(&dataset, 100);
    topic.delete_before(0, 120);
    let second = place.start("processor");
    topic.wait_until_no_lag();
    assert_eq!(second.metric(gone), 70.0);
    let alarm = "the log deleted records before they were read; they are lost";
    assert!(second.has_logged(alarm) && second.has_logged("first_gone=50"), "{}", second.log_tail());

    // While one runs that has fallen behind.
    second.signal(Signal::STOP);
    produce(&dataset, 100);
    topic.delete_before(0, 200);
    second.signal(Signal::CONT);
    topic.wait_until_no_lag();
    // What it had asked for before may have come in before the records were deleted.
    let later = second.metric(gone) - 70.0;
    println!("{later} of 50 records were gone when it woke up");
    let url = second.table(&dataset);
    second.stop();
    let mut table = Table::new(url);
    let scan = table.scan();
    let row = table.duckdb.row(&format!(
        "SELECT count(*) AS rows, count(DISTINCT kafka_offset) AS offsets, min(kafka_offset) AS first,
                max(kafka_offset) AS last, count(*) FILTER (kafka_offset BETWEEN 50 AND 119) AS gone
         FROM {scan}"
    ));
    let rows = 250 - 70 - later as u64;
    assert_eq!(row, json!({"rows": rows, "offsets": rows, "first": 0, "last": 249, "gone": 0}));
    topic.delete();
}

#[test]
fn a_topic_that_is_deleted_is_named_and_one_made_anew_is_not_taken_for_it() {
    let place = place("deleted", 1);
    let dataset = place.config.dataset.clone();
    let topic = Topic::new(&servers::kafka(), &dataset);
    let mut processor = place.start("processor");
    let url = processor.table(&dataset);
    produce(&dataset, 50);
    topic.wait_until_no_lag();
    topic.delete();
    wait_for("its end", PATIENCE, || processor.ended());
    assert!(processor.has_logged("somebody deleted it"), "{}", processor.log_tail());

    // The next start makes it anew, as for a new dataset, and sees that the table has read further than it goes.
    let Err(said) = place.try_start("processor", &[]).and_then(|mut next| {
        let status = wait_for("its end", PATIENCE, || next.ended());
        Err::<(), _>(format!("{status}\n{}", next.log_tail()))
    }) else {
        panic!("it runs");
    };
    assert!(said.contains("the table has read topic") && said.contains("made anew"), "{said}");
    let mut table = Table::new(url);
    assert_eq!(table.count(), 50);
}
