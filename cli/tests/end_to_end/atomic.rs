//! Batches that are to be stored whole or not at all, on Kafka, while the gateway is killed again and again.

use crate::support::config::Config;
use crate::support::http::{self, Answer, RUNTIME};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::servers;
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Events of a batch, each of a device of its own, so that they spread over all partitions.
const EVENTS: usize = 30;
const CALLERS: usize = 6;

fn batch(number: i64) -> Value {
    (0..EVENTS)
        .map(|n| json!({"id": format!("{number}/{n}"), "device_id": format!("device-{n}"), "data": {"seq": number}}))
        .collect()
}

/// Posts batches one after the other, none of them twice, until told to end; returns those that were acknowledged.
async fn post(
    mut address: watch::Receiver<Option<String>>,
    next: Arc<AtomicI64>,
    acknowledged: Arc<AtomicUsize>,
) -> BTreeSet<i64> {
    let (client, mut stored) = (http::client(), BTreeSet::new());
    loop {
        let Some(url) = address.borrow_and_update().clone() else { return stored };
        let number = next.fetch_add(1, Ordering::Relaxed);
        let request = client.post(format!("{url}?atomic=true")).json(&batch(number));
        let answer = match request.send().await {
            Ok(response) => Answer::read(response).await,
            Err(err) => Err(err),
        };
        match answer {
            Ok(answer) if answer.status == 202 => {
                assert_eq!(answer.json()["accepted"], EVENTS, "{answer:?}");
                acknowledged.fetch_add(1, Ordering::Relaxed);
                stored.insert(number);
            }
            Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            // The gateway is dead: nobody knows what became of the batch.
            Err(_) => drop(tokio::time::timeout(Duration::from_millis(100), address.changed()).await),
        }
    }
}

/// How many events of each batch are in the table.
fn counts(table: &mut Table) -> BTreeMap<i64, i64> {
    let sql = format!("SELECT seq, count(*) AS n, count(DISTINCT id) AS ids FROM {} GROUP BY seq", table.scan());
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    let rows = table.duckdb.rows(&sql);
    assert!(rows.iter().all(|row| row["n"] == row["ids"]), "an event is there twice");
    rows.iter().map(|row| (number(row, "seq"), number(row, "n"))).collect()
}

#[test]
fn a_batch_is_in_the_table_whole_or_not_at_all_though_the_gateway_is_killed() {
    let brokers = servers::kafka();
    let config =
        Config { brokers: Some(brokers.clone()), partitions: 6, flush_every: "200ms", ..Config::new("atomic") };
    let place = Place::new(config);
    let dataset = place.config.dataset.clone();
    let processor = place.start("processor");
    let mut table = Table::new(processor.table(&dataset));
    // The next one ends the transaction that the one before has left open.
    let start = || place.try_start("ingest", &[("LAKEHOSE_KAFKA_TRANSACTIONAL_ID", &dataset)]).unwrap();
    let mut gateway = start();
    let (address, watched) = watch::channel(Some(gateway.gateway()));
    let (next, acknowledged) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| RUNTIME.spawn(post(watched.clone(), Arc::clone(&next), Arc::clone(&acknowledged))))
        .collect();
    let mut in_part = 0;
    for round in 1..=4 {
        wait_for("batches acknowledged", PATIENCE, || {
            (acknowledged.load(Ordering::Relaxed) >= round * 25).then_some(())
        });
        in_part += counts(&mut table).values().filter(|count| **count != EVENTS as i64).count();
        gateway.kill();
        gateway = start();
        address.send_replace(Some(gateway.gateway()));
    }
    wait_for("batches acknowledged", PATIENCE, || (acknowledged.load(Ordering::Relaxed) >= 125).then_some(()));
    address.send_replace(None);
    let stored: BTreeSet<i64> =
        callers.into_iter().flat_map(|caller| RUNTIME.block_on(caller).expect("no caller panicked")).collect();
    gateway.stop();

    Topic::new(&brokers, &dataset).wait_until_no_lag();
    processor.stop();
    let found = counts(&mut table);
    let parts: Vec<_> = found.iter().filter(|(_, count)| **count != EVENTS as i64).collect();
    assert!(parts.is_empty(), "batches of which only a part is there: {parts:?}");
    let lost: Vec<_> = stored.iter().filter(|number| !found.contains_key(number)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let tried = next.load(Ordering::Relaxed);
    println!("{tried} batches, {} acknowledged, {} there; {in_part} seen in part before", stored.len(), found.len());
    let told = place.run(&["check"]);
    assert_eq!(told.0, Some(0), "{}", told.1);
}
