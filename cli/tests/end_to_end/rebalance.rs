//! A processor comes and one goes while events flow: the others go on reading, and no row changes.

use crate::support::config::Config;
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use crate::support::steady::Steady;
use crate::support::table::Table;
use crate::support::watch::Watch;
use crate::support::{PATIENCE, servers, wait_for};
use std::time::Duration;

const EVENTS_PER_SECOND: u64 = 50_000;
const PARTITIONS: u32 = 12;
const LONGEST_STOP: Duration = Duration::from_secs(2);
const READ: &str = "lakehose_processor_records_read_total";

#[test]
fn others_read_on_while_a_processor_comes_and_another_goes() {
    let config = Config { brokers: Some(servers::kafka()), partitions: PARTITIONS, ..Config::new("rebalance") };
    let place = Place::new(config);
    let dataset = place.config.dataset.clone();
    let (leaving, staying) = (place.start("processor"), place.start("processor"));
    wait_for_partitions(&[&leaving, &staying]);
    let steady = Steady::start(&servers::kafka(), &dataset, EVENTS_PER_SECOND);
    wait_for("both read", PATIENCE, || [&leaving, &staying].iter().all(|p| p.metric(READ) > 0.0).then_some(()));

    // One comes.
    let watches = [Watch::start(&leaving, READ), Watch::start(&staying, READ)];
    std::thread::sleep(Duration::from_secs(2));
    let coming = place.start("processor");
    wait_for_partitions(&[&leaving, &staying, &coming]);
    std::thread::sleep(Duration::from_secs(2));
    let stops_by_coming = watches.map(Watch::stop);

    // One goes.
    let watches = [Watch::start(&staying, READ), Watch::start(&coming, READ)];
    std::thread::sleep(Duration::from_secs(1));
    let table = leaving.table(&dataset);
    leaving.stop();
    wait_for_partitions(&[&staying, &coming]);
    std::thread::sleep(Duration::from_secs(2));
    let stops_by_going = watches.map(Watch::stop);

    let produced = steady.stop();
    let rate = produced.per_second.round();
    println!(
        "{} events, {rate} a second; longest stops: one came {stops_by_coming:?}, one went {stops_by_going:?}",
        produced.events
    );
    let topic = Topic::new(&servers::kafka(), &dataset);
    topic.wait_until_no_lag();
    staying.stop_all([coming]);
    topic.delete();
    let mut table = Table::new(table);
    let scan = table.scan();
    let found = table.duckdb.row(&format!(
        "SELECT count(*) AS rows, count(DISTINCT id) AS ids, count(DISTINCT (kafka_partition, kafka_offset)) AS places,
                count(*) FILTER (id <> seq::VARCHAR OR temp <> seq / 4.0) AS changed
         FROM {scan}"
    ));
    let events = produced.events;
    assert_eq!(found, serde_json::json!({"rows": events, "ids": events, "places": events, "changed": 0}));
    for stop in stops_by_coming.into_iter().chain(stops_by_going) {
        assert!(stop.by_looks < LONGEST_STOP, "a processor stopped reading for {stop:?}");
    }
}

/// Waits until the partitions are shared evenly.
#[track_caller]
fn wait_for_partitions(processors: &[&Lakehose]) {
    let share = f64::from(PARTITIONS) / processors.len() as f64;
    let has_share = |processor: &&Lakehose| processor.metric("lakehose_processor_partitions") == share;
    wait_for("an even share each", PATIENCE, || processors.iter().all(has_share).then_some(()));
}
