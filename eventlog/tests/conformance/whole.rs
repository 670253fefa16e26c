//! Appends that are in the log whole or not at all.
//!
//! The functions that take a bed are run over both backends. Those of Kafka alone are about what it leaves open when a
//! process is killed in the middle of a transaction, and about what its brokers refuse.

use crate::bed::{Bed, PATIENCE, numbered, record, unique};
use eventlog::kafka::KafkaOptions;
use eventlog::{AppendError, NewRecord, Position, WholeError};
use futures::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Records of one call, each with a key of its own; their values say of which call of how many they are.
fn call(name: &str, count: usize) -> Vec<NewRecord> {
    (0..count).map(|n| record(&format!("{name}-{n}"), &format!("{name} {count}"))).collect()
}

/// How many records of each call are there, and how many there should be.
fn counted<'a>(values: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, (usize, usize)> {
    let mut calls: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for value in values {
        let (name, count) = value.rsplit_once(' ').unwrap();
        calls.entry(name.to_owned()).or_insert((0, count.parse().unwrap())).0 += 1;
    }
    calls
}

fn assert_whole(calls: &BTreeMap<String, (usize, usize)>) {
    for (name, (there, count)) in calls {
        assert_eq!(there, count, "only a part of call {name} is there");
    }
}

pub(crate) fn a_whole_append_tells_where_each_record_is(bed: &Bed) {
    let topic = bed.topic(4);
    let positions = bed.block_on(bed.log.append_whole(&topic, numbered(0, 300))).unwrap();
    assert_eq!(bed.block_on(bed.log.append_whole(&topic, Vec::new())).unwrap(), []);
    let seen = bed.reader(&topic, 0).read(300);
    let places: BTreeMap<String, Position> = seen.iter().map(|seen| (seen.text(), seen.at)).collect();
    for (n, position) in positions.iter().enumerate() {
        assert_eq!(places[&format!("value-{n}")], *position);
    }
}

pub(crate) fn one_record_that_is_too_large_keeps_the_whole_append_out(bed: &Bed) {
    let topic = bed.topic(2);
    let too_large = record("k", &"x".repeat(17 * 1024 * 1024));
    let refused = bed.log.append_whole(&topic, [numbered(0, 10), vec![too_large]].concat());
    let beside = bed.log.append_whole(&topic, numbered(10, 20));
    let (refused, beside) = bed.block_on(async { tokio::join!(refused, beside) });
    let refusal = refused.unwrap_err();
    assert!(matches!(refusal, WholeError::Refused(AppendError::TooLarge { .. })), "{refusal}");
    assert_eq!(beside.unwrap().len(), 10);
    let mut reader = bed.reader(&topic, 0);
    reader.read(10);
    reader.nothing_for(Duration::from_millis(300));
}

pub(crate) fn a_whole_append_to_no_topic_or_a_closed_log_is_refused(bed: &Bed) {
    let topic = bed.topic(1);
    let append = |topic: String| bed.block_on(bed.log.append_whole(&topic, numbered(0, 3)));
    let refusal = append(unique("missing")).unwrap_err();
    assert!(matches!(&refusal, WholeError::Refused(AppendError::Refused(_))), "{refusal}");
    append(topic.clone()).unwrap();
    bed.block_on(bed.log.close()).unwrap();
    let refusal = append(topic).unwrap_err();
    assert!(matches!(&refusal, WholeError::Refused(AppendError::Unavailable(_))), "{refusal}");
}

pub(crate) fn whole_appends_of_many_callers_go_on_beside_each_other_and_beside_plain_ones(bed: &Bed) {
    let topic = bed.topic(5);
    let whole = async {
        let callers = (0..8).map(|caller| {
            let topic = &topic;
            async move {
                for n in 0..6 {
                    bed.log.append_whole(topic, call(&format!("{caller}.{n}"), 20 + n)).await.unwrap();
                }
            }
        });
        join_all(callers).await;
    };
    let plain = async {
        for n in 0..6 {
            let fates = bed.log.append(&topic, call(&format!("plain.{n}"), 10)).await;
            assert!(fates.iter().all(Result::is_ok), "{fates:?}");
        }
    };
    bed.block_on(async { tokio::join!(whole, plain) });
    let records = 8 * (20 + 21 + 22 + 23 + 24 + 25) + 60;
    let values: Vec<String> = bed.reader(&topic, 0).read(records).iter().map(|seen| seen.text()).collect();
    let calls = counted(&values);
    assert_eq!(calls.len(), 8 * 6 + 6);
    assert_whole(&calls);
}

/// A producer that the test itself can leave open.
fn open_transaction(brokers: &str, topic: &str, timeout: Duration) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("transactional.id", unique("open"));
    config.set("transaction.timeout.ms", timeout.as_millis().to_string());
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for n in 0..40 {
        let (key, value) = (format!("open-{n}"), "open 40");
        producer.send(BaseRecord::to(topic).key(&key).payload(value)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    producer
}

#[test]
fn readers_see_nothing_of_a_running_transaction_nor_of_one_that_was_taken_back() {
    let Some(brokers) = crate::bed::kafka_brokers() else { return };
    let Some(bed) = Bed::kafka() else { return };
    let topic = bed.topic(2);
    let mut reader = bed.reader(&topic, 0);
    let open = open_transaction(&brokers, &topic, Duration::from_secs(60));
    reader.nothing_for(Duration::from_millis(700));
    // What comes behind it waits for it, too.
    bed.accepted(&topic, numbered(0, 40));
    reader.nothing_for(Duration::from_millis(700));
    open.abort_transaction(PATIENCE).unwrap();
    let seen = reader.read(40);
    assert!(seen.iter().all(|seen| seen.text().starts_with("value-")), "{seen:?}");

    let open = open_transaction(&brokers, &topic, Duration::from_secs(60));
    reader.nothing_for(Duration::from_millis(300));
    open.commit_transaction(PATIENCE).unwrap();
    let values: Vec<String> = reader.read(40).iter().map(|seen| seen.text()).collect();
    assert_whole(&counted(&values));
}

#[test]
fn a_call_that_the_brokers_refuse_takes_no_other_with_it() {
    let Some(brokers) = crate::bed::kafka_brokers() else { return };
    let Some(bed) = Bed::kafka() else { return };
    let small = KafkaOptions { brokers, max_record_bytes: 200_000, ..KafkaOptions::default() };
    let topic = Bed::kafka_with(small).topic(1);
    // Not compressible: the broker measures what arrives.
    let noise: Vec<u8> = std::iter::repeat_with(uuid_bytes).flatten().take(800_000).collect();
    let large = NewRecord { value: noise.into(), ..record("k", "") };
    let mut calls: Vec<_> = (0..6).map(|n| bed.log.append_whole(&topic, call(&format!("good.{n}"), 10))).collect();
    calls.push(bed.log.append_whole(&topic, [call("bad", 10), vec![large]].concat()));
    calls.extend((6..12).map(|n| bed.log.append_whole(&topic, call(&format!("good.{n}"), 10))));
    let fates = bed.block_on(join_all(calls));
    for (n, fate) in fates.iter().enumerate() {
        match n {
            6 => assert!(matches!(fate, Err(WholeError::Refused(AppendError::TooLarge { .. }))), "{fate:?}"),
            _ => assert!(fate.is_ok(), "{n}: {fate:?}"),
        }
    }
    let mut reader = bed.reader(&topic, 0);
    let values: Vec<String> = reader.read(120).iter().map(|seen| seen.text()).collect();
    assert_eq!(counted(&values).len(), 12);
    reader.nothing_for(Duration::from_millis(300));
}

fn uuid_bytes() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let [a, b] = [(); 2].map(|()| RandomState::new().hash_one(0).to_le_bytes());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a);
    bytes[8..].copy_from_slice(&b);
    bytes
}

#[test]
fn two_processes_of_one_transactional_id_shut_each_other_out_and_lose_nothing() {
    let Some(brokers) = crate::bed::kafka_brokers() else { return };
    let options = KafkaOptions { brokers, transactional_id: Some(unique("same")), ..KafkaOptions::default() };
    let beds = [Bed::kafka_with(options.clone()), Bed::kafka_with(options)];
    let topic = beds[0].topic(3);
    let mut stored = Vec::new();
    for n in 0..6 {
        let bed = &beds[n % 2];
        let name = format!("call.{n}");
        // The other has shut it out: that may be said once, then it has a producer that is new.
        let append = || bed.block_on(bed.log.append_whole(&topic, call(&name, 10)));
        match append() {
            Ok(_) => stored.push(name.clone()),
            Err(refusal) => {
                assert!(matches!(&refusal, WholeError::Unknown { .. }), "{refusal}");
                append().unwrap();
                stored.push(name.clone());
            }
        }
    }
    let values: Vec<String> = beds[0].reader(&topic, 0).read(60).iter().map(|seen| seen.text()).collect();
    let calls = counted(&values);
    assert_whole(&calls);
    assert_eq!(calls.into_keys().collect::<Vec<_>>(), stored);
}

const CHILD_TOPIC: &str = "EVENTLOG_TEST_TOPIC";
const CHILD_ID: &str = "EVENTLOG_TEST_ID";

fn child_options(brokers: String, id: &str) -> KafkaOptions {
    let transactional_id = Some(id.to_owned()).filter(|id| !id.is_empty());
    KafkaOptions { brokers, transactional_id, ..KafkaOptions::default() }
}

/// Has a process append until it is killed, as soon as a while has passed since its first acknowledgement; says which
/// appends were acknowledged.
fn killed_after(pause: Duration, topic: &str, id: &str) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["whole::child_appends_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(CHILD_TOPIC, topic)
        .env(CHILD_ID, id)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, acknowledged) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // A line that was cut by the kill lacks its end.
            if let Some(name) = line.split("ACK ").nth(1).and_then(|name| name.strip_suffix('.')) {
                sender.send(name.to_owned()).unwrap();
            }
        }
    });
    let mut names = vec![acknowledged.recv_timeout(PATIENCE).expect("an append is acknowledged")];
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap();
    names.extend(acknowledged.try_iter());
    names
}

/// The transactional id stays the same, so the next process ends what the killed one left open.
#[test]
fn kill_9_in_the_middle_of_a_transaction_leaves_whole_appends_whole() {
    let Some(brokers) = crate::bed::kafka_brokers() else { return };
    let id = unique("killed");
    let bed = Bed::kafka_with(child_options(brokers.clone(), &id));
    let topic = bed.topic(6);
    let acknowledged: Vec<String> =
        (0..4).flat_map(|round| killed_after(Duration::from_millis(150 + 37 * round), &topic, &id)).collect();
    // The last transaction that a process left open ends with this one, which takes over its id.
    bed.block_on(bed.log.append_whole(&topic, call("last", 60))).unwrap();
    let mut reader = bed.reader(&topic, 0);
    let mut values = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while values.iter().filter(|value: &&String| value.starts_with("last")).count() < 60 {
        assert!(Instant::now() < deadline, "the last append is not there after {} records", values.len());
        values.extend(reader.poll(Duration::from_millis(200)).1.iter().map(|seen| seen.text()));
    }
    reader.nothing_for(Duration::from_millis(500));
    let calls = counted(&values);
    assert_whole(&calls);
    for name in acknowledged {
        assert!(calls.contains_key(&name), "{name} was acknowledged and is not there");
    }
}

/// Brokers look for transactions to end every ten seconds.
#[test]
#[ignore = "takes two minutes: run it to see how long readers wait"]
fn readers_wait_for_a_killed_process_without_a_name_until_its_transaction_times_out() {
    let Some(bed) = Bed::kafka() else { return };
    for round in 0..5 {
        let topic = bed.topic(6);
        killed_after(Duration::from_millis(150 + 37 * round), &topic, "");
        let killed = Instant::now();
        let mut reader = bed.reader(&topic, 0);
        let behind = bed.accepted(&topic, call("behind", 100));
        let mut missing: BTreeSet<Position> = behind.into_iter().collect();
        while !missing.is_empty() {
            assert!(killed.elapsed() < Duration::from_secs(40), "still waiting for {} records", missing.len());
            reader.poll(Duration::from_millis(50)).1.iter().for_each(|seen| _ = missing.remove(&seen.at));
        }
        println!("readers waited {:.1} s", killed.elapsed().as_secs_f64());
    }
}

#[test]
#[ignore = "the process that another test kills"]
fn child_appends_until_it_is_killed() {
    let (topic, id) = (std::env::var(CHILD_TOPIC).unwrap(), std::env::var(CHILD_ID).unwrap());
    let bed = Bed::kafka_with(child_options(crate::bed::kafka_brokers().unwrap(), &id));
    let callers = (0..4).map(|caller| {
        let (topic, log) = (&topic, &bed.log);
        async move {
            for n in 0.. {
                let name = format!("{}.{caller}.{n}", std::process::id());
                log.append_whole(topic, call(&name, 60)).await.unwrap();
                println!("ACK {name}.");
            }
        }
    });
    bed.block_on(join_all(callers));
}
