//! The gateway with a broker that hangs or is gone: answers at once, and, with a queue on disk, accepts all the same.

use crate::support::broker::Broker;
use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, http, wait_for};
use std::time::{Duration, Instant};

const EVENT: &str = r#"{"device_id": "nobody"}"#;

#[test]
fn a_broker_that_hangs_is_503_at_once_and_needs_no_restart() {
    let broker = Broker::start();
    let place = Place::new(Config { brokers: Some(broker.address.clone()), ..Config::new("frozen") });
    let ingest = place.start("ingest");
    let post = || {
        let begun = Instant::now();
        let status = http::post(&ingest.gateway(), "application/json", EVENT).unwrap().status;
        (status, begun.elapsed())
    };
    wait_for("accepted", PATIENCE, || (post().0 == 202).then_some(()));

    broker.freeze();
    let frozen = Instant::now();
    let waiting = std::thread::spawn({
        let url = ingest.gateway();
        move || http::post(&url, "application/json", EVENT).unwrap().status
    });
    wait_for("the breaker is open", PATIENCE, || ingest.reason("gateway"));
    println!("the breaker was open {:?} after the broker hung", frozen.elapsed());
    let mut took: Vec<Duration> = (0..100)
        .map(|_| {
            let (status, took) = post();
            assert_eq!(status, 503);
            took
        })
        .collect();
    took.sort_unstable();
    println!("100 refusals, connections included: p50 {:?}, p99 {:?}", took[50], took[98]);
    assert!(took[98] < Duration::from_secs(1), "{took:?}");
    assert!(ingest.is_ready(), "only requests find out that the broker is back");

    broker.thaw();
    let back = Instant::now();
    assert_eq!(waiting.join().unwrap(), 202, "it was waiting all the time");
    wait_for("accepted again", PATIENCE, || (post().0 == 202).then_some(()));
    println!("events were accepted {:?} after the broker woke up", back.elapsed());
    assert_eq!(ingest.reason("gateway"), None);
    ingest.stop();
}

#[test]
fn with_a_queue_on_disk_events_are_accepted_without_a_broker_and_survive_kill_9_in_order() {
    let broker = Broker::start();
    let more = "[spill]\nmax_bytes = '256MiB'";
    let place = Place::new(Config { brokers: Some(broker.address.clone()), more, ..Config::new("spill") });
    let size = Size { devices: 20, events_per_device: 5_000, batch: 50, pause: Duration::from_millis(50) };
    let (processor, mut ingest) = (place.start("processor"), place.start("ingest"));
    wait_for("ready", PATIENCE, || (processor.is_ready() && ingest.is_ready()).then_some(()));
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    fleet.wait_for(5_000);

    broker.kill();
    fleet.wait_for(30_000);
    assert!(ingest.is_ready(), "it takes events");
    let waiting = wait_for("told what waits", PATIENCE, || ingest.reason("spill"));
    println!("without a broker: {waiting}");
    ingest.kill();
    ingest = place.start("ingest");
    fleet.go_to(ingest.gateway());
    fleet.wait_for(60_000);

    broker.start_again();
    let back = Instant::now();
    wait_for("draining", PATIENCE, || (ingest.metric("lakehose_ingest_spill_drained_total") > 0.0).then_some(()));
    println!("the first events were drained {:?} after the broker was back", back.elapsed());
    ingest.kill();
    ingest = place.start("ingest");
    fleet.go_to(ingest.gateway());
    let ledger = fleet.finish();
    wait_for("drained", PATIENCE, || ingest.reason("spill").is_none().then_some(()));
    println!("all events were drained {:?} after the broker was back", back.elapsed());
    let depth = ["events", "bytes", "oldest_seconds"].map(|what| format!("lakehose_ingest_spill_{what}"));
    wait_for("metrics at 0", PATIENCE, || depth.iter().all(|series| ingest.metric(series) == 0.0).then_some(()));
    Topic::new(&broker.address, &place.config.dataset).wait_until_no_lag();
    let copies = processor.metric("lakehose_processor_duplicates_total");
    println!("{copies} copies were left out; {} events were sent again by devices", ledger.retried());
    let url = processor.table(&place.config.dataset);
    ingest.stop_all([processor]);
    let mut table = Table::new(url);
    table.assert_events(&ledger, place.path());
    table.assert_order_of_devices();
    assert_eq!(ledger.acknowledged(), size.total());
}
