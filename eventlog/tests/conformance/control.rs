//! What Kafka offers processes that share it: one reader elected among many, and tails outside of any group.

use crate::bed::{Bed, PATIENCE, Reader, record, unique};
use eventlog::kafka::KafkaOptions;
use eventlog::{Bounds, Input, SharedLog};
use std::time::{Duration, Instant};

const A_DAY: Duration = Duration::from_secs(24 * 3600);

fn shared(bed: &Bed) -> &dyn SharedLog {
    bed.log.shared().expect("processes share Kafka")
}

fn control_topic(bed: &Bed) -> String {
    let topic = unique("control");
    bed.block_on(shared(bed).ensure_control_topic(&topic, A_DAY)).unwrap();
    topic
}

fn candidate(bed: &Bed, topic: &str, group: &str) -> Reader {
    Reader { consumer: shared(bed).candidate(topic, group).unwrap() }
}

#[test]
fn a_process_has_the_local_log_to_itself() {
    assert!(Bed::local().log.shared().is_none());
}

#[test]
fn a_control_topic_has_one_partition_and_one_of_several_is_refused() {
    let Some(bed) = Bed::kafka() else { return };
    let topic = control_topic(&bed);
    assert_eq!(bed.block_on(bed.log.ensure_topic(&topic, 7)).unwrap(), 1);
    bed.block_on(shared(&bed).ensure_control_topic(&topic, A_DAY)).unwrap();
    let other = bed.topic(2);
    let refused = bed.block_on(shared(&bed).ensure_control_topic(&other, A_DAY)).unwrap_err();
    assert!(!refused.is_retryable(), "{refused}");
}

#[test]
fn a_tail_sees_every_record_that_comes_after_it_and_none_before() {
    let Some(bed) = Bed::kafka() else { return };
    let topic = control_topic(&bed);
    bed.accepted(&topic, vec![record("", "before")]);
    let mut tails = [shared(&bed).tail(&topic).unwrap(), shared(&bed).tail(&topic).unwrap()];
    for round in 0..3 {
        bed.accepted(&topic, (0..200).map(|n| record("", &format!("{round}-{n}"))).collect());
        for tail in &mut tails {
            let mut seen = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            while seen.len() < 200 && Instant::now() < deadline {
                let mut told = 0;
                let count = tail.poll(Duration::from_millis(100), &mut |record| {
                    told += 1;
                    seen.push((record.offset, record.value.unwrap().to_vec()));
                });
                assert_eq!(count.unwrap(), told);
            }
            let expected: Vec<(i64, Vec<u8>)> =
                (0..200).map(|n| (1 + round * 200 + n, format!("{round}-{n}").into_bytes())).collect();
            assert_eq!(seen, expected);
        }
    }
}

#[test]
fn a_candidate_that_leaves_is_succeeded_at_once_even_if_it_is_a_static_member() {
    let Some(brokers) = crate::bed::kafka_brokers() else { return };
    let group_instance_id = Some("the-same-name".to_owned());
    let bed = Bed::kafka_with(KafkaOptions { brokers, group_instance_id, ..KafkaOptions::default() });
    let (topic, group) = (control_topic(&bed), unique("group"));
    bed.accepted(&topic, vec![record("", "a"), record("", "b")]);
    let mut first = candidate(&bed, &topic, &group);
    assert_eq!(first.accept(|_| 0), [0]);
    let mut second = candidate(&bed, &topic, &group);
    let mut third = candidate(&bed, &topic, &group);
    assert_eq!(first.read(2)[1].text(), "b");
    for reader in [&mut second, &mut third] {
        for _ in 0..20 {
            assert_eq!(reader.poll(Duration::from_millis(50)).0, Input::Idle, "one is elected");
            assert_eq!(first.poll(Duration::from_millis(20)).0, Input::Idle, "and stays elected");
        }
    }
    first.consumer.close().unwrap();
    let left = Instant::now();
    let elected = loop {
        assert!(left.elapsed() < Duration::from_secs(10), "nobody took over");
        let mut readers = [&mut second, &mut third];
        let won = readers.iter_mut().position(|r| r.poll(Duration::from_millis(20)).0 == Input::Assigned(vec![0]));
        if let Some(won) = won {
            break won;
        }
    };
    let mut elected = [second, third].into_iter().nth(elected).unwrap();
    let bounds = elected.consumer.bounds(0, PATIENCE).unwrap();
    assert_eq!(bounds, Bounds { first: 0, next: 2 });
}
