//! Random faults for minutes, at every step of an event's way, and nothing is lost and nothing doubled.
//!
//! `infra/test chaos` runs it for a minute; `LAKEHOSE_CHAOS_SECONDS` says how long instead, from five minutes on with
//! faults that last as long as they do in earnest. `LAKEHOSE_CHAOS_SEED` repeats a schedule that was printed.

mod store_proxy;
mod schedule;
mod crew;
mod proof;

use crate::support::broker::Broker;
use crate::support::config::{Config, MISSED_SOON};
use crate::support::fleet::{Fleet, Size};
use crate::support::foreign::{Foreign, Produced};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::servers;
use crew::Crew;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store_proxy::StoreProxy;

/// How long everything may take to be in the table once all faults are gone: clients wait longer after each failure.
const SETTLES_WITHIN: Duration = Duration::from_secs(150);

#[test]
fn nothing_is_lost_and_nothing_doubled_whatever_fails() {
    let seed = number("LAKEHOSE_CHAOS_SEED").unwrap_or_else(rand::random);
    let length = Duration::from_secs(number("LAKEHOSE_CHAOS_SECONDS").unwrap_or(60));
    println!("LAKEHOSE_CHAOS_SEED={seed} LAKEHOSE_CHAOS_SECONDS={}", length.as_secs());
    let _says_it_again = OnFailure(seed);

    let broker = Broker::start();
    let proxy = StoreProxy::start(&servers::s3(), seed);
    let config = Config {
        brokers: Some(broker.address.clone()),
        // New partitions are found sooner than every five minutes, for the test's sake.
        kafka_options: format!("{MISSED_SOON}, 'topic.metadata.refresh.interval.ms' = 2000"),
        store: Some(proxy.address.clone()),
        flush_every: "700ms",
        ..Config::new("chaos")
    };
    let lake = servers::s3_lake(&config.dataset);
    let place = Place::new(Config { lake: Some(lake), ..config });
    let dataset = place.config.dataset.clone();
    let (topic, brokers) = (Topic::new(&broker.address, &dataset), broker.address.clone());
    let size = Size { devices: 20, events_per_device: u64::MAX, batch: 10, pause: Duration::from_millis(200) };
    let mut crew = Crew::start(place, proxy, broker, topic, |url| Fleet::start(url, size, 0));

    let foreign = Foreign::new(&brokers, &dataset);
    let started = Instant::now();
    for step in schedule::draw(seed, length) {
        crew.look_after_for(step.at.saturating_sub(started.elapsed()));
        println!("{step}");
        crew.perform(step.action);
        for value in GARBAGE {
            foreign.send(Produced { name: value, value: Some(value.into()), ..Produced::default() });
        }
    }
    crew.look_after_for(length.saturating_sub(started.elapsed()));

    let met = crew.heal();
    let healed = Instant::now();
    let garbage = foreign.landed();
    let ledger = crew.settle(SETTLES_WITHIN);
    println!(
        "{} events, {} of them sent again; {} requests of the store met a fault; {} starts, {} ended by themselves; \
         settled {:?} after the last fault",
        ledger.acknowledged(),
        ledger.retried(),
        met,
        crew.starts,
        crew.ended,
        healed.elapsed()
    );
    let ends = crew.topic.ends();
    let (place, url) = (Arc::clone(&crew.place), servers::s3_lake(&dataset) + "/" + &dataset);
    proof::assert_holds(&url, &ledger, &garbage, &ends, place.path());
    crew.stop();
    proof::assert_holds(&url, &ledger, &garbage, &ends, place.path());
    assert!(met > 0 && ledger.acknowledged() > 0 && garbage.len() >= GARBAGE.len());
}

/// Records that are no events.
const GARBAGE: [&str; 3] = ["not JSON", "{\"data\": {}}", "[]"];

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|err| panic!("{variable}={value}: {err}")))
}

/// Names the seed next to what went wrong, however many lines came in between.
struct OnFailure(u64);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat the schedule: LAKEHOSE_CHAOS_SEED={}", self.0);
        }
    }
}
