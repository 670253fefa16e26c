//! Each role in processes of its own, on Kafka and S3: processors come, go and die while events flow.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use crate::support::reader::Reader;
use crate::support::servers;
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use std::time::Duration;

/// On the shared servers, under names of its own.
fn place(dataset: &str) -> Place {
    let brokers = Some(servers::kafka());
    let mut config = Config { brokers, partitions: 6, cold_after: "0s", ..Config::new(dataset) };
    config.lake = Some(servers::s3_lake(&config.dataset));
    Place::new(config)
}

#[test]
fn processors_come_go_and_die_and_every_event_is_there_once() {
    let place = place("roles");
    let size = Size { devices: 20, events_per_device: 10_000, batch: 50, pause: Duration::from_millis(80) };
    let dataset = &place.config.dataset;

    let mut processors: Vec<Lakehose> = (0..2).map(|_| place.start("processor")).collect();
    let compactor = place.start("compactor");
    let ingest = place.start("ingest");
    let url = processors[0].table(dataset);
    let reader = Reader::start(url.clone());
    let fleet = Fleet::start(ingest.gateway(), size, 0);

    fleet.wait_for(20_000);
    processors.push(place.start("processor"));
    fleet.wait_for(60_000);
    processors.remove(0).kill();
    fleet.wait_for(100_000);
    processors.remove(0).stop();
    fleet.wait_for(120_000);
    processors.push(place.start("processor"));
    fleet.wait_for(150_000);
    processors.remove(0).kill();
    processors.push(place.start("processor"));

    let ledger = fleet.finish();
    let topic = Topic::new(&servers::kafka(), dataset);
    topic.wait_until_no_lag();
    let seen = reader.stop();
    println!("the reader: {seen:?}");
    assert!(seen.grew > 5 && seen.holes == 0, "{seen:?}");
    wait_for("one committer", PATIENCE, || {
        let committers: f64 = processors.iter().map(|p| p.metric("lakehose_processor_is_committer")).sum();
        (committers == 1.0).then_some(())
    });
    assert!(compactor.metric("lakehose_compactor_files_replaced_total") > 0.0);
    // What the group says is done is in the table: nobody has stopped yet.
    let mut table = Table::new(url);
    assert_eq!(table.count() as i64, topic.ends().iter().sum::<i64>());
    table.assert_is(&ledger, place.path());
    assert_eq!((ledger.acknowledged(), ledger.retried()), (size.total(), 0));
    ingest.stop_all(processors.into_iter().chain([compactor]));
    table.assert_is(&ledger, place.path());
}

#[test]
fn everything_in_one_process_works_on_kafka_and_s3_and_survives_kill_9() {
    let place = place("up-on-kafka");
    let size = Size { devices: 8, events_per_device: 2_000, batch: 50, pause: Duration::from_millis(40) };
    let up = place.start("up");
    let fleet = Fleet::start(up.gateway(), size, 0);
    fleet.wait_for(size.total() / 2);
    up.kill();
    let up = place.start("up");
    fleet.go_to(up.gateway());
    let mut ledger = fleet.finish();
    let mut table = Table::new(up.table(&place.config.dataset));
    Topic::new(&servers::kafka(), &place.config.dataset).wait_until_no_lag();
    table.assert_is(&ledger, place.path());

    // Another process takes over where the first stops.
    up.stop();
    let up = place.start("up");
    ledger.add(Fleet::start(up.gateway(), size, size.devices).finish());
    up.stop();
    table.assert_is(&ledger, place.path());
}

#[test]
fn processors_that_chose_the_newer_group_protocol_come_and_go_and_every_event_is_there_once() {
    let config = Config { brokers: Some(servers::kafka()), partitions: 6, ..Config::new("kip-848") };
    let place = Place::new(Config { kafka_options: "'group.protocol' = 'consumer'".to_owned(), ..config });
    let size = Size { devices: 10, events_per_device: 4_000, batch: 50, pause: Duration::from_millis(80) };
    let mut processors = vec![place.start("processor"), place.start("processor")];
    let ingest = place.start("ingest");
    let url = processors[0].table(&place.config.dataset);
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    fleet.wait_for(8_000);
    processors.push(place.start("processor"));
    fleet.wait_for(16_000);
    processors.remove(0).stop();
    fleet.wait_for(24_000);
    processors.push(place.start("processor"));
    let ledger = fleet.finish();
    Topic::new(&servers::kafka(), &place.config.dataset).wait_until_no_lag();
    ingest.stop_all(processors);
    Table::new(url).assert_is(&ledger, place.path());
}
