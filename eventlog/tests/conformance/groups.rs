//! Consumer groups of Kafka: members come and go, and nothing is read by two at once or by nobody.

use crate::bed::{Bed, PATIENCE, Reader, kafka_brokers, numbered, unique};
use eventlog::kafka::KafkaOptions;
use eventlog::{Consumer, Input, Position};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 6;

/// What all members of a group share, as a table would: who owns what, and how far everything was read.
#[derive(Default)]
struct Table {
    owner: Mutex<BTreeMap<i32, usize>>,
    next: Mutex<BTreeMap<i32, i64>>,
    values: Mutex<BTreeSet<String>>,
}

impl Table {
    fn take(&self, member: usize, partition: i32) -> Position {
        let before = self.owner.lock().unwrap().insert(partition, member);
        assert_eq!(before, None, "partition {partition} is given to {member}, too");
        let offset = *self.next.lock().unwrap().entry(partition).or_default();
        Position { partition, offset }
    }

    fn give(&self, member: usize, partition: i32) {
        assert_eq!(self.owner.lock().unwrap().remove(&partition), Some(member));
    }

    fn read(&self, member: usize, at: Position, value: &[u8]) {
        assert_eq!(self.owner.lock().unwrap().get(&at.partition), Some(&member), "read {at:?} without owning it");
        let mut next = self.next.lock().unwrap();
        let next = next.entry(at.partition).or_default();
        assert_eq!(*next, at.offset, "partition {} is not read in order", at.partition);
        *next = at.offset + 1;
        assert!(self.values.lock().unwrap().insert(String::from_utf8(value.to_vec()).unwrap()));
    }

    fn wait_for(&self, what: &str, done: impl Fn(&Table) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.owner.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn owners(&self) -> BTreeSet<usize> {
        self.owner.lock().unwrap().values().copied().collect()
    }

    fn is_shared_by(&self, members: usize) -> bool {
        self.owner.lock().unwrap().len() == PARTITIONS as usize && self.owners().len() == members
    }

    fn has_read(&self, count: usize) -> bool {
        self.values.lock().unwrap().len() == count
    }
}

/// A member that runs on a thread until it is told to leave.
struct Member {
    leave: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Member {
    fn start(bed: &Bed, topic: &str, group: &str, number: usize, table: &Arc<Table>) -> Member {
        let mut consumer = bed.join(topic, group).consumer;
        let (table, leave) = (Arc::clone(table), Arc::new(AtomicBool::new(false)));
        let left = Arc::clone(&leave);
        let thread = std::thread::spawn(move || {
            while !left.load(Ordering::SeqCst) {
                step(consumer.as_mut(), number, &table);
            }
            // What is ours until now is free for others only when we have left.
            consumer.close().unwrap();
        });
        Member { leave, thread }
    }

    fn leave(self, number: usize, table: &Table) {
        self.leave.store(true, Ordering::SeqCst);
        // Others may get the partitions while `close` is still at work: free them first, no more is read.
        std::thread::sleep(Duration::from_millis(300));
        table.owner.lock().unwrap().retain(|_, owner| *owner != number);
        self.thread.join().unwrap();
    }
}

fn step(consumer: &mut dyn Consumer, number: usize, table: &Table) {
    let sink = &mut |record: eventlog::Record<'_>| {
        let at = Position { partition: record.partition, offset: record.offset };
        table.read(number, at, record.value.unwrap());
    };
    match consumer.poll(Duration::from_millis(50), sink).unwrap() {
        Input::Assigned(partitions) => {
            let from: Vec<Position> = partitions.into_iter().map(|partition| table.take(number, partition)).collect();
            consumer.assign(&from).unwrap();
        }
        Input::Revoked(partitions) => {
            // A flush takes its time; the partitions stay ours meanwhile.
            std::thread::sleep(Duration::from_millis(150));
            partitions.iter().for_each(|partition| table.give(number, *partition));
            consumer.release(&partitions).unwrap();
        }
        Input::Lost(partitions) => partitions.iter().for_each(|partition| table.give(number, *partition)),
        Input::Records(_) | Input::Idle => {}
        Input::OutOfRange(partition) => panic!("partition {partition} is out of range"),
    }
}

fn members_come_and_go(options: KafkaOptions) {
    let bed = Bed::kafka_with(options);
    let (topic, group) = (bed.topic(PARTITIONS), unique("group"));
    let table = Arc::new(Table::default());
    bed.accepted(&topic, numbered(0, 1_000));
    let first = Member::start(&bed, &topic, &group, 1, &table);
    table.wait_for("one member", |table| table.is_shared_by(1) && table.has_read(1_000));

    let second = Member::start(&bed, &topic, &group, 2, &table);
    bed.accepted(&topic, numbered(1_000, 2_000));
    table.wait_for("two members", |table| table.is_shared_by(2) && table.has_read(2_000));

    let third = Member::start(&bed, &topic, &group, 3, &table);
    bed.accepted(&topic, numbered(2_000, 3_000));
    table.wait_for("three members", |table| table.is_shared_by(3) && table.has_read(3_000));

    first.leave(1, &table);
    bed.accepted(&topic, numbered(3_000, 4_000));
    table.wait_for("the first to have left", |table| table.is_shared_by(2) && table.has_read(4_000));

    second.leave(2, &table);
    bed.accepted(&topic, numbered(4_000, 5_000));
    table.wait_for("the second to have left", |table| table.is_shared_by(1) && table.has_read(5_000));
    third.leave(3, &table);
}

#[test]
fn kafka_members_share_the_partitions_and_every_record_is_read_once() {
    let Some(brokers) = kafka_brokers() else { return };
    members_come_and_go(KafkaOptions { brokers, ..KafkaOptions::default() });
}

#[test]
fn kafka_members_of_an_eager_group_share_the_partitions_as_well() {
    let Some(brokers) = kafka_brokers() else { return };
    let options = [("partition.assignment.strategy".to_owned(), "range".to_owned())].into();
    members_come_and_go(KafkaOptions { brokers, options, ..KafkaOptions::default() });
}

#[test]
fn kafka_leaving_with_an_unanswered_rebalance_does_not_hang() {
    let Some(bed) = Bed::kafka() else { return };
    let (topic, group) = (bed.topic(2), unique("group"));
    // Assigned and never answered.
    let mut unanswered = bed.join(&topic, &group);
    while !matches!(unanswered.poll(Duration::from_millis(100)).0, Input::Assigned(_)) {}
    let began = Instant::now();
    unanswered.consumer.close().unwrap();

    // Revoked and never answered, because a second member came.
    let mut first = bed.join(&topic, &group);
    assert_eq!(first.accept(|_| 0), [0, 1]);
    let mut second = bed.join(&topic, &group);
    let deadline = Instant::now() + PATIENCE;
    while !matches!(first.poll(Duration::from_millis(50)).0, Input::Revoked(_)) {
        assert!(Instant::now() < deadline);
        second.poll(Duration::from_millis(50));
    }
    first.consumer.close().unwrap();
    // The one that stays gets everything, in one step or two.
    let mut partitions = BTreeSet::new();
    while partitions.len() < 2 {
        partitions.extend(second.accept(|_| 0));
    }
    second.consumer.close().unwrap();
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn kafka_group_offsets_follow_the_hints() {
    let Some(bed) = Bed::kafka() else { return };
    let (topic, group) = (bed.topic(1), unique("group"));
    bed.accepted(&topic, numbered(0, 20));
    let mut reader = bed.join(&topic, &group);
    reader.accept(|_| 0);
    reader.read(20);
    reader.consumer.commit_hint(&[Position { partition: 0, offset: 17 }]).unwrap();
    let lag_tool: rdkafka::consumer::BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", kafka_brokers().unwrap())
        .set("group.id", &group)
        .create()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        use rdkafka::consumer::Consumer as _;
        let mut asked = rdkafka::TopicPartitionList::new();
        asked.add_partition(&topic, 0);
        let committed = lag_tool.committed_offsets(asked, PATIENCE).unwrap();
        if committed.elements()[0].offset() == rdkafka::Offset::Offset(17) {
            break;
        }
        assert!(Instant::now() < deadline, "{committed:?}");
        reader.poll(Duration::from_millis(50));
    }
}

#[test]
fn kafka_records_of_other_producers_are_read_as_they_are() {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(bed) = Bed::kafka() else { return };
    let topic = bed.topic(1);
    let brokers = kafka_brokers().unwrap();
    let foreign: BaseProducer = rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let tombstone: BaseRecord<'_, str, str> = BaseRecord::to(&topic).key("gone");
    foreign.send(tombstone).unwrap();
    let no_key: BaseRecord<'_, str, str> = BaseRecord::to(&topic).payload("no key");
    foreign.send(no_key).unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "null", value: None::<&[u8]> })
        .insert(Header { key: "full", value: Some(b"1") });
    let with_null: BaseRecord<'_, str, str> = BaseRecord::to(&topic).payload("headers").headers(headers);
    foreign.send(with_null).unwrap();
    foreign.flush(PATIENCE).unwrap();

    let seen = bed.reader(&topic, 0).read(3);
    assert_eq!((seen[0].key.as_slice(), &seen[0].value), (&b"gone"[..], &None));
    assert_eq!((seen[1].key.as_slice(), seen[1].text().as_str()), (&b""[..], "no key"));
    assert_eq!(seen[2].headers, [("null".to_owned(), None), ("full".to_owned(), Some(b"1".to_vec()))]);
}

#[test]
fn kafka_chooses_the_partition_that_the_local_log_would() {
    let Some(bed) = Bed::kafka() else { return };
    let topic = bed.topic(5);
    let records = numbered(0, 200);
    for (record, at) in records.iter().zip(bed.accepted(&topic, records.clone())) {
        assert_eq!(at.partition, eventlog::partition_for(&record.key, 5));
    }
    assert!(bed.log.health().is_ok());
}

#[test]
fn kafka_a_reader_of_a_topic_that_is_deleted_is_told_what_to_do() {
    let (Some(bed), Some(brokers)) = (Bed::kafka(), kafka_brokers()) else { return };
    let topic = bed.topic(2);
    bed.accepted(&topic, numbered(0, 10));
    let mut reader = bed.reader(&topic, 0);
    reader.read(10);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    bed.block_on(admin.delete_topics(&[&topic], &AdminOptions::new())).unwrap();
    let refusal = reader.fails(|consumer, input| {
        if let Input::Revoked(partitions) = input {
            consumer.release(&partitions).unwrap();
        }
    });
    assert!(!refusal.is_retryable() && refusal.to_string().contains("somebody deleted it"), "{refusal}");
}

/// librdkafka joins anew when a topic has got more partitions, whether or not the last rebalance was answered.
#[test]
fn kafka_a_rebalance_that_overtakes_an_unanswered_one_leaves_no_partition_to_nobody() {
    let Some(brokers) = kafka_brokers() else { return };
    for unanswered_is_revoked in [true, false] {
        let fast = [("topic.metadata.refresh.interval.ms".to_owned(), "300".to_owned())].into();
        let bed = Bed::kafka_with(KafkaOptions { brokers: brokers.clone(), options: fast, ..KafkaOptions::default() });
        let (topic, group) = (bed.topic(4), unique("group"));
        let mut first = Owner::new(bed.join(&topic, &group));
        until("the first owns all", || {
            first.step(true);
            first.owned.len() == 4
        });
        let mut second = Owner::new(bed.join(&topic, &group));
        until("a rebalance is unanswered", || {
            first.step(!unanswered_is_revoked);
            second.step(unanswered_is_revoked);
            if unanswered_is_revoked { first.unanswered } else { second.unanswered }
        });
        widen(&brokers, &topic, 6);
        let overtaken = Instant::now() + Duration::from_secs(4);
        while Instant::now() < overtaken {
            first.step(!unanswered_is_revoked);
            second.step(unanswered_is_revoked);
        }
        until("both share all six", || {
            first.step(true);
            second.step(true);
            assert!(first.owned.is_disjoint(&second.owned), "{:?} {:?}", first.owned, second.owned);
            first.owned.len() == 3 && second.owned.len() == 3
        });
        // What they believe is so: each is handed the records of its own.
        bed.accepted(&topic, numbered(0, 300));
        until("all is read", || {
            first.step(true);
            second.step(true);
            first.read + second.read == 300
        });
    }
}

/// A member that answers when it is told to.
struct Owner {
    reader: Reader,
    owned: BTreeSet<i32>,
    asked: Option<Input>,
    unanswered: bool,
    read: usize,
}

impl Owner {
    fn new(reader: Reader) -> Owner {
        Owner { reader, owned: BTreeSet::new(), asked: None, unanswered: false, read: 0 }
    }

    fn step(&mut self, answers: bool) {
        let (input, seen) = self.reader.poll(Duration::from_millis(20));
        assert!(seen.iter().all(|record| self.owned.contains(&record.at.partition)));
        self.read += seen.len();
        match input {
            Input::Lost(partitions) => {
                self.owned.retain(|partition| !partitions.contains(partition));
                self.asked = None;
            }
            Input::Assigned(_) | Input::Revoked(_) => {
                assert_eq!(self.asked, None, "asked again before the answer");
                self.asked = Some(input);
            }
            Input::Records(_) | Input::Idle => {}
            Input::OutOfRange(partition) => panic!("partition {partition} is out of range"),
        }
        if answers {
            self.answer();
        }
        self.unanswered = self.asked.is_some();
    }

    fn answer(&mut self) {
        match self.asked.take() {
            Some(Input::Assigned(partitions)) => {
                let from: Vec<Position> = partitions.iter().map(|p| Position { partition: *p, offset: 0 }).collect();
                self.reader.consumer.assign(&from).unwrap();
                self.owned.extend(partitions);
            }
            Some(Input::Revoked(partitions)) => {
                self.owned.retain(|partition| !partitions.contains(partition));
                self.reader.consumer.release(&partitions).unwrap();
            }
            _ => {}
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

fn widen(brokers: &str, topic: &str, partitions: usize) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
    use rdkafka::client::DefaultClientContext;
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let wanted = [NewPartitions::new(topic, partitions)];
    let widened = crate::bed::runtime().block_on(admin.create_partitions(&wanted, &AdminOptions::new()));
    assert!(widened.unwrap().iter().all(Result::is_ok));
}
