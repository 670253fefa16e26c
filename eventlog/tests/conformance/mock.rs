//! Kafka with faults: a broker that refuses, that is gone, or that never was there. librdkafka's own mock cluster plays
//! the broker, so these need none.

use crate::bed::{Bed, PATIENCE, numbered, record, runtime};
use eventlog::kafka::{KafkaLog, KafkaOptions};
use eventlog::{AppendError, Input, LogError, Position};
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TOPIC: &str = "events";

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 3, 1).unwrap();
    cluster
}

fn options(cluster: &MockCluster<'static, DefaultProducerContext>) -> KafkaOptions {
    let delivery_timeout = Duration::from_secs(4);
    KafkaOptions { brokers: cluster.bootstrap_servers(), delivery_timeout, ..KafkaOptions::default() }
}

#[test]
fn passing_errors_of_the_broker_are_hidden_and_nothing_is_doubled() {
    let cluster = cluster();
    let bed = Bed::kafka_with(options(&cluster));
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ],
    );
    let mut positions = bed.accepted(TOPIC, numbered(0, 500));
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), 500);
    bed.log.health().unwrap();
}

#[test]
fn a_missing_right_is_a_refusal() {
    let fate = after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    assert!(matches!(fate, Err(AppendError::Refused(_))), "{fate:?}");
}

#[test]
fn a_record_that_the_broker_finds_too_large_is_too_large() {
    let fate = after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    assert!(matches!(fate, Err(AppendError::TooLarge { .. })), "{fate:?}");
}

/// What a record's fate is when the broker answers so.
fn after(error: RDKafkaRespErr) -> Result<Position, AppendError> {
    let cluster = cluster();
    let bed = Bed::kafka_with(options(&cluster));
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    bed.append(TOPIC, vec![record("k", "v")]).remove(0)
}

#[test]
fn a_broker_that_goes_is_noticed_and_its_return_too() {
    let cluster = cluster();
    let bed = Bed::kafka_with(options(&cluster));
    bed.accepted(TOPIC, numbered(0, 10));
    cluster.broker_down(1).unwrap();
    let began = Instant::now();
    let fate = bed.append(TOPIC, vec![record("k", "v")]).remove(0);
    assert!(matches!(fate, Err(AppendError::Unknown(_) | AppendError::Unavailable(_))), "{fate:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let refusal = bed.log.health().unwrap_err();
    assert!(matches!(refusal, LogError::Unavailable { .. }), "{refusal}");
    // Known to be down, the log refuses at once.
    let began = Instant::now();
    let fate = bed.append(TOPIC, vec![record("k", "v")]).remove(0);
    assert!(matches!(fate, Err(AppendError::Unavailable(_))), "{fate:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    cluster.broker_up(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while bed.log.health().is_err() {
        assert!(Instant::now() < deadline, "never healthy again");
        std::thread::sleep(Duration::from_millis(50));
    }
    bed.accepted(TOPIC, numbered(10, 20));
}

#[test]
fn an_unreachable_broker_is_named_within_the_time_limit() {
    // Nothing listens on the port of a listener that was closed.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let connect_timeout = Duration::from_secs(2);
    let options = KafkaOptions { brokers: free.to_string(), connect_timeout, ..KafkaOptions::default() };
    let began = Instant::now();
    let Err(refusal) = runtime().block_on(KafkaLog::connect(options)) else { panic!("connected to nothing") };
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(refusal.to_string().contains(&free.to_string()), "{refusal}");
}

#[test]
fn an_option_that_librdkafka_does_not_know_is_named() {
    let options = [("no.such.option".to_owned(), "1".to_owned())].into();
    let Err(refusal) = runtime().block_on(KafkaLog::connect(KafkaOptions { options, ..KafkaOptions::default() }))
    else {
        panic!("accepted");
    };
    assert!(!refusal.is_retryable());
    assert!(refusal.to_string().contains("no.such.option"), "{refusal}");
}

#[test]
fn a_reader_can_leave_while_the_broker_is_gone() {
    let cluster = cluster();
    let bed = Bed::kafka_with(options(&cluster));
    let mut reader = bed.join(TOPIC, "group");
    reader.accept(|_| 0);
    cluster.broker_down(1).unwrap();
    let began = Instant::now();
    reader.consumer.close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_reader_hears_that_the_broker_went_and_reads_on_when_it_is_back() {
    let cluster = cluster();
    let bed = Bed::kafka_with(options(&cluster));
    bed.accepted(TOPIC, numbered(0, 10));
    let mut reader = bed.reader(TOPIC, 0);
    reader.read(10);
    cluster.broker_down(1).unwrap();
    let refusal = reader.fails(|_, _| {});
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(reader.consumer.bounds(0, Duration::from_millis(500)).unwrap_err().is_retryable());

    cluster.broker_up(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut answers = || {
        let asked = reader.consumer.bounds(0, Duration::from_millis(500));
        // What was said before it was back is heard first.
        asked.is_ok() && reader.consumer.poll(Duration::from_millis(100), &mut |_| {}).is_ok()
    };
    while !answers() || bed.log.health().is_err() {
        assert!(Instant::now() < deadline, "never back");
    }
    bed.accepted(TOPIC, numbered(10, 20));
    reader.read(10);
}

#[test]
fn a_reader_that_lacks_a_right_is_told_which() {
    for (request, error, advice) in [
        (
            RDKafkaApiKey::Fetch,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            "read and write the topic",
        ),
        (RDKafkaApiKey::JoinGroup, RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "consumer group"),
    ] {
        let cluster = cluster();
        let bed = Bed::kafka_with(options(&cluster));
        cluster.request_errors(request, &[error; 3]);
        let mut reader = bed.join(TOPIC, "group");
        let refusal = reader.fails(|consumer, input| {
            if let Input::Assigned(partitions) = input {
                let from: Vec<Position> = partitions.iter().map(|p| Position { partition: *p, offset: 0 }).collect();
                consumer.assign(&from).unwrap();
            }
        });
        assert!(!refusal.is_retryable() && refusal.to_string().contains(advice), "{refusal}");
    }
}

#[test]
fn a_reader_goes_on_where_it_was_when_the_coordinator_of_its_group_moves() {
    const GROUP: &str = "group";
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, 3, 2).unwrap();
    cluster.coordinator(MockCoordinator::Group(GROUP.to_owned()), 1).unwrap();
    let bed = Bed::kafka_with(options(&cluster));
    let mut reader = bed.join(TOPIC, GROUP);
    reader.accept(|_| 0);
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for round in 0..4 {
        bed.accepted(TOPIC, numbered(round * 100, round * 100 + 100));
        let deadline = Instant::now() + PATIENCE;
        while next.values().sum::<i64>() < (round as i64 + 1) * 100 {
            assert!(Instant::now() < deadline, "read {next:?} after {round} moves");
            match reader.poll(Duration::from_millis(100)) {
                (Input::Assigned(partitions), _) => {
                    let at = |p: &i32| Position { partition: *p, offset: next.get(p).copied().unwrap_or_default() };
                    reader.consumer.assign(&partitions.iter().map(at).collect::<Vec<_>>()).unwrap();
                }
                (Input::Revoked(partitions), _) => reader.consumer.release(&partitions).unwrap(),
                (Input::OutOfRange(partition), _) => panic!("partition {partition} is out of range"),
                (Input::Idle | Input::Records(_) | Input::Lost(_), seen) => {
                    for record in seen {
                        let expected = next.entry(record.at.partition).or_default();
                        assert_eq!(record.at.offset, *expected, "in order, each once");
                        *expected += 1;
                    }
                }
            }
        }
        let hints: Vec<Position> = next.iter().map(|(p, o)| Position { partition: *p, offset: *o }).collect();
        reader.consumer.commit_hint(&hints).unwrap();
        cluster.coordinator(MockCoordinator::Group(GROUP.to_owned()), 2 - round as i32 % 2).unwrap();
    }
}
