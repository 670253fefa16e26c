//! Devices that do not learn what became of their requests and send them again, over two gateways.
//!
//! Lines break within requests and before answers, answers that arrive are not believed, and gateways are killed. Within
//! the life of one gateway the `Idempotency-Key` makes all copies of a request one; for everything else there are the ids
//! of the events. `LAKEHOSE_RETRY_SECONDS` says for how long, instead of a quarter of a minute.

use crate::support::bad_line::BadLine;
use crate::support::config::Config;
use crate::support::device::{Device, Entry};
use crate::support::fleet::{Ledger, start_of_times};
use crate::support::http::{self, Answer};
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use crate::support::servers;
use crate::support::table::Table;
use rand::Rng;
use reqwest::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const DEVICES: usize = 8;
const BATCH: u64 = 20;
/// How much later a device sends a request again.
const PAUSE: std::ops::Range<u64> = 20..200;
/// One answer in so many is believed.
const BELIEVED: u32 = 3;

#[test]
fn devices_that_retry_over_two_gateways_have_one_row_for_each_event() {
    let seconds = std::env::var("LAKEHOSE_RETRY_SECONDS").map_or(15, |seconds| seconds.parse().unwrap());
    let mut config = Config { brokers: Some(servers::kafka()), partitions: 3, ..Config::new("retries") };
    config.lake = Some(servers::s3_lake(&config.dataset));
    let place = Place::new(config);
    let dataset = &place.config.dataset;
    let processor = place.start("processor");
    let mut gateways = [place.start("ingest"), place.start("ingest")];
    let lines = [0, 1].map(|n: usize| BadLine::to(&gateways[n].gateway()));
    let urls = [0, 1].map(|n: usize| lines[n].instead_of(&gateways[n].gateway()));

    let until = Instant::now() + Duration::from_secs(seconds);
    let fleet: Vec<_> = (0..DEVICES)
        .map(|number| {
            let device =
                Device { number, events: 0, batch: BATCH, pause: Duration::ZERO, since: start_of_times(), padding: 0 };
            http::RUNTIME.spawn(post(device, urls.clone(), until))
        })
        .collect();
    // Each is killed twice, in turn; what it was told is forgotten.
    for kill in 0..4 {
        std::thread::sleep(Duration::from_secs(seconds) / 5);
        let gateway = &mut gateways[kill % 2];
        std::mem::replace(gateway, place.start("ingest")).kill();
        lines[kill % 2].go_to(&gateway.gateway());
    }
    let devices = fleet
        .into_iter()
        .enumerate()
        .map(|(number, device)| (Device::name_of(number), http::RUNTIME.block_on(device).expect("no device panicked")));
    let ledger = Ledger::of(devices.collect());

    for gateway in &gateways {
        let accepted = gateway.metric("lakehose_ingest_events_accepted_total");
        assert!(
            accepted <= ledger.acknowledged() as f64,
            "{accepted} accepted by one that saw each request at most once"
        );
        assert!(replays(gateway) > 0.0);
    }
    println!(
        "{seconds} s: {} events acknowledged, {} attempts beyond the first, {} and {} requests answered from memory",
        ledger.acknowledged(),
        ledger.spare_attempts(),
        replays(&gateways[0]),
        replays(&gateways[1]),
    );
    Topic::new(&servers::kafka(), dataset).wait_until_no_lag();
    let copies = processor.metric("lakehose_processor_duplicates_total");
    println!("{copies} copies were in the log");
    assert!(copies > 0.0, "both gateways stored the same event");
    let url = processor.table(dataset);
    let [first, second] = gateways;
    first.stop_all([second, processor]);
    Table::new(url).assert_is(&ledger, place.path());
}

fn replays(gateway: &Lakehose) -> f64 {
    let page = http::get(&gateway.admin("/metrics")).unwrap().body;
    let is_replay = |line: &&str| line.starts_with("lakehose_ingest_idempotency_requests_total{outcome=\"replayed\"}");
    page.lines().filter(is_replay).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Posts until the end. The first request is sent again all the time, whatever is answered; beside it the others, one after
/// the other.
async fn post(device: Device, urls: [String; 2], until: Instant) -> Vec<Entry> {
    let sender = Sender { device, client: http::client(), urls };
    let mut stubborn = Batch { first: 0, attempts: 0 };
    // Before the others, for the order of a device's events is checked too.
    while !sender.send(&mut stubborn).await {}
    let again = async {
        while Instant::now() < until {
            sender.send(&mut stubborn).await;
        }
        stubborn.entries()
    };
    let others = async {
        let mut ledger = Vec::new();
        while Instant::now() < until {
            let mut batch = Batch { first: BATCH + ledger.len() as u64, attempts: 0 };
            while !(sender.send(&mut batch).await && rand::rng().random_ratio(1, BELIEVED)) {}
            ledger.extend(batch.entries());
        }
        ledger
    };
    let (mut ledger, others) = tokio::join!(again, others);
    ledger.extend(others);
    ledger
}

/// Events from `first` on, in one request.
struct Batch {
    first: u64,
    attempts: u32,
}

impl Batch {
    fn events(&self) -> impl Iterator<Item = u64> {
        self.first..self.first + BATCH
    }

    fn entries(&self) -> Vec<Entry> {
        self.events().map(|seq| Entry { seq, attempts: self.attempts }).collect()
    }
}

/// A device with both gateways.
struct Sender {
    device: Device,
    client: Client,
    urls: [String; 2],
}

impl Sender {
    /// Sends a batch to the next gateway. Whether the device was told that all is stored.
    async fn send(&self, batch: &mut Batch) -> bool {
        let gateway = (self.device.number + batch.attempts as usize) % self.urls.len();
        if batch.attempts > 0 {
            let pause = rand::rng().random_range(PAUSE);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        batch.attempts += 1;
        let events: Vec<Value> = batch.events().map(|seq| self.device.event(seq)).collect();
        let request = self
            .client
            .post(&self.urls[gateway])
            .timeout(Duration::from_secs(5))
            .header("connection", "close")
            .header("content-type", "application/json")
            .header("idempotency-key", format!("\"{}/{}\"", self.device.name(), batch.first))
            .body(Value::from(events).to_string());
        let Ok(response) = request.send().await else { return false };
        let Ok(answer) = Answer::read(response).await else { return false };
        match answer.status {
            202 => answer.json()["rejected"] == json!([]),
            409 | 503 => false,
            _ => panic!("{answer:?}"),
        }
    }
}
