//! The broker goes away and comes back: nothing is promised meanwhile, and nothing that was promised is lost.

use crate::support::broker::Broker;
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

    broker.start_again();
    let back = Instant::now();
    wait_for("ready again", PATIENCE, || ingest.is_ready().then_some(()));
    wait_for("acknowledged again", PATIENCE, || (fleet.acknowledged() > promised).then_some(()));
    println!("events were accepted {:?} after the broker was back", back.elapsed());
    let ledger = fleet.finish();
    Topic::new(&broker.address, &place.config.dataset).wait_until_no_lag();
    let url = processor.table(&place.config.dataset);
    ingest.stop_all([processor]);
    Table::new(url).assert_is(&ledger, place.path());
    assert_eq!(ledger.acknowledged(), size.total());
}
