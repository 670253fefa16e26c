//! The broker or the store goes away and comes back: nothing is promised without a log, what is down is told, and nothing
//! that was promised is lost.

use crate::support::broker::Broker;
use crate::support::bucket::Bucket;
use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, http, wait_for};
use std::time::{Duration, Instant};

#[test]
fn without_a_broker_the_gateway_says_503_and_recovers_when_it_is_back() {
    let broker = Broker::start();
    let place = Place::new(Config { brokers: Some(broker.address.clone()), ..Config::new("outage") });
    let size = Size { devices: 10, events_per_device: 2_000, batch: 20, pause: Duration::from_millis(40) };
    let (processor, ingest) = (place.start("processor"), place.start("ingest"));
    wait_for("ready", PATIENCE, || (processor.is_ready() && ingest.is_ready()).then_some(()));
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    fleet.wait_for(5_000);

    broker.kill();
    let killed = Instant::now();
    // Answers that were on their way arrive.
    std::thread::sleep(Duration::from_secs(1));
    let promised = fleet.acknowledged();
    let answer = http::post(&ingest.gateway(), "application/json", r#"{"device_id": "nobody"}"#).unwrap();
    println!("the first refusal came {:?} after the broker's end", killed.elapsed());
    assert!(answer.status == 503 && answer.retry_after.is_some(), "{answer:?}");
    for _ in 0..20 {
        let answer = http::post(&ingest.gateway(), "application/json", r#"{"device_id": "nobody"}"#).unwrap();
        assert!(answer.status == 503 && answer.retry_after.is_some_and(|seconds| seconds > 0), "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!ingest.is_ready());
    assert_eq!(fleet.acknowledged(), promised, "acknowledged without a broker");
    let component = format!("processor of {}", place.config.dataset);
    let reason = wait_for("the processor says what is down", PATIENCE, || processor.reason(&component));
    println!("{:?} after the broker's end: {reason}", killed.elapsed());
    assert!(reason.starts_with("broker: ") && !processor.is_ready(), "{reason}");

    broker.start_again();
    let back = Instant::now();
    wait_for("ready again", PATIENCE, || ingest.is_ready().then_some(()));
    wait_for("acknowledged again", PATIENCE, || (fleet.acknowledged() > promised).then_some(()));
    println!("events were accepted {:?} after the broker was back", back.elapsed());
    wait_for("the breaker is closed", PATIENCE, || processor.reason(&component).is_none().then_some(()));
    println!("the processor's breaker closed {:?} after the broker was back", back.elapsed());
    let ledger = fleet.finish();
    Topic::new(&broker.address, &place.config.dataset).wait_until_no_lag();
    let url = processor.table(&place.config.dataset);
    ingest.stop_all([processor]);
    Table::new(url).assert_is(&ledger, place.path());
    assert_eq!(ledger.acknowledged(), size.total());
}

const BREAKER: &str = "lakehose_processor_breaker_state";

#[test]
fn without_a_store_events_are_accepted_and_the_processor_says_what_is_down() {
    let bucket = Bucket::start();
    let (lake, store) = (Some(bucket.lake()), Some(bucket.endpoint.clone()));
    let place = Place::new(Config { lake, store, ..Config::new("outage") });
    let component = format!("processor of {}", place.config.dataset);
    let size = Size { devices: 10, events_per_device: 4_000, batch: 20, pause: Duration::from_millis(100) };
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    let fleet = Fleet::start(up.gateway(), size, 0);
    wait_for("rows in the table", PATIENCE, || {
        (up.metric("lakehose_processor_events_committed_total") > 0.0).then_some(())
    });
    assert_eq!((up.reason(&component), up.metric(BREAKER)), (None, 0.0));

    bucket.kill();
    let killed = Instant::now();
    let reason = wait_for("the breaker is open", PATIENCE, || up.reason(&component));
    println!("{:?} after the store's end: {reason}", killed.elapsed());
    assert!(reason.starts_with("store: ") && !reason.contains('\n'), "{reason}");
    wait_for("partitions are paused", PATIENCE, || (up.metric("lakehose_processor_paused") == 1.0).then_some(()));
    let (promised, held) = (fleet.acknowledged(), up.metric("lakehose_processor_buffered_bytes"));
    for _ in 0..30 {
        assert!(up.is_ready(), "the gateway stays in service");
        assert!((1.0..=4.0).contains(&up.metric(BREAKER)), "{}", up.metric(BREAKER));
        assert_eq!(up.metric("lakehose_processor_buffered_bytes"), held);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(fleet.acknowledged() > promised, "nothing was accepted without a store");
    assert!(up.metric("lakehose_processor_lag_records") > 0.0);

    bucket.start_again();
    let back = Instant::now();
    wait_for("the breaker is closed", PATIENCE, || up.reason(&component).is_none().then_some(()));
    println!("closed {:?} after the store was back", back.elapsed());
    assert_eq!(up.metric(BREAKER), 0.0);
    let ledger = fleet.finish();
    wait_for("no lag", PATIENCE, || (up.metric("lakehose_processor_lag_records") == 0.0).then_some(()));
    up.stop();
    Table::new(bucket.table(&place.config.dataset)).assert_is(&ledger, place.path());
    assert_eq!(ledger.acknowledged(), size.total());
}

#[test]
fn a_processor_by_itself_is_not_ready_while_the_store_is_down() {
    let bucket = Bucket::start();
    let (lake, store) = (Some(bucket.lake()), Some(bucket.endpoint.clone()));
    let brokers = Some(crate::support::servers::kafka());
    let place = Place::new(Config { lake, store, brokers, ..Config::new("outage") });
    let component = format!("processor of {}", place.config.dataset);
    let (processor, ingest) = (place.start("processor"), place.start("ingest"));
    wait_for("ready", PATIENCE, || (processor.is_ready() && ingest.is_ready()).then_some(()));
    bucket.kill();
    let size = Size { devices: 2, events_per_device: 100, batch: 10, pause: Duration::from_millis(1) };
    let ledger = Fleet::start(ingest.gateway(), size, 0).finish();
    wait_for("not ready", PATIENCE, || (!processor.is_ready()).then_some(()));
    assert!(processor.reason(&component).unwrap().starts_with("store: "));
    assert!(ingest.is_ready());
    bucket.start_again();
    wait_for("ready again", PATIENCE, || processor.is_ready().then_some(()));
    let topic = Topic::new(&place.config.brokers.clone().unwrap(), &place.config.dataset);
    topic.wait_until_no_lag();
    ingest.stop_all([processor]);
    Table::new(bucket.table(&place.config.dataset)).assert_is(&ledger, place.path());
}
