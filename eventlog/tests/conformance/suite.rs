//! What every backend promises. Each test makes a topic of its own.

pub(crate) use crate::whole::{
    a_whole_append_tells_where_each_record_is, a_whole_append_to_no_topic_or_a_closed_log_is_refused,
    one_record_that_is_too_large_keeps_the_whole_append_out,
    whole_appends_of_many_callers_go_on_beside_each_other_and_beside_plain_ones,
};

use crate::bed::{Bed, PATIENCE, Reader, numbered, record, unique};
use bytes::Bytes;
use eventlog::{
    AppendError, Bounds, Input, MAX_BYTES_PER_POLL, MAX_RECORDS_PER_POLL, NewRecord, OwnedRecord, Position, WholeError,
    partition_for,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(crate) fn records_of_a_key_stay_in_order_in_a_dense_partition(bed: &Bed) {
    let topic = bed.topic(3);
    let mut written = 0;
    for round in 0..5 {
        let records: Vec<NewRecord> =
            (0..200).map(|n| record(&format!("key-{}", n % 7), &format!("{}", round * 200 + n))).collect();
        written += bed.accepted(&topic, records).len();
    }
    let seen = bed.reader(&topic, 0).read(written);

    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut last: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for record in seen {
        assert_eq!(record.at.partition, partition_for(&record.key, 3));
        assert_eq!(record.at.offset, *next.entry(record.at.partition).or_default());
        *next.entry(record.at.partition).or_default() += 1;
        let number: i64 = record.text().parse().unwrap();
        assert!(last.insert(record.key, number).is_none_or(|before| before < number));
    }
    assert_eq!(last.len(), 7);
}

pub(crate) fn an_answer_names_the_place_where_the_record_is_read(bed: &Bed) {
    let topic = bed.topic(4);
    let positions = bed.accepted(&topic, numbered(0, 500));
    let seen = bed.reader(&topic, 0).read(500);
    let found: BTreeMap<Position, String> = seen.iter().map(|record| (record.at, record.text())).collect();
    for (n, position) in positions.iter().enumerate() {
        assert_eq!(found[position], format!("value-{n}"));
    }
    assert!(seen.iter().all(|record| record.timestamp_ms > 1_600_000_000_000));
}

pub(crate) fn seeking_goes_back_and_forward(bed: &Bed) {
    let topic = bed.topic(1);
    for round in 0..4 {
        bed.accepted(&topic, numbered(round * 50, round * 50 + 50));
    }
    let mut reader = bed.reader(&topic, 0);
    assert_eq!(reader.read(200)[199].at.offset, 199);
    for (offset, count) in [(117, 83), (3, 197), (199, 1), (50, 150)] {
        reader.consumer.seek(Position { partition: 0, offset }).unwrap();
        let seen = reader.read(count);
        assert_eq!(seen[0].at.offset, offset);
        assert_eq!(seen[0].text(), format!("value-{offset}"));
        assert_eq!(seen[count - 1].at.offset, 199);
    }
    // The end is a place to read from, too.
    reader.consumer.seek(Position { partition: 0, offset: 200 }).unwrap();
    reader.nothing_for(Duration::from_millis(300));
    bed.accepted(&topic, numbered(200, 201));
    assert_eq!(reader.read(1)[0].at.offset, 200);
}

pub(crate) fn pausing_loses_nothing_and_skips_nothing(bed: &Bed) {
    let topic = bed.topic(2);
    let mut reader = bed.reader(&topic, 0);
    let mut offsets = vec![Vec::new(), Vec::new()];
    let mut written = 0;
    for round in 0..6 {
        let partition = round % 2;
        reader.consumer.pause(&[partition]).unwrap();
        written += bed.accepted(&topic, numbered(round as usize * 100, round as usize * 100 + 100)).len();
        let deadline = Instant::now() + Duration::from_millis(400);
        while Instant::now() < deadline {
            for record in reader.poll(Duration::from_millis(50)).1 {
                assert_ne!(record.at.partition, partition, "a paused partition was read");
                offsets[record.at.partition as usize].push(record.at.offset);
            }
        }
        reader.consumer.resume(&[partition]).unwrap();
    }
    let missing = written - offsets.iter().map(Vec::len).sum::<usize>();
    for record in reader.read(missing) {
        offsets[record.at.partition as usize].push(record.at.offset);
    }
    for offsets in offsets {
        let expected: Vec<i64> = (0..offsets.len() as i64).collect();
        assert_eq!(offsets, expected);
    }
}

pub(crate) fn bounds_name_the_first_and_the_next_offset(bed: &Bed) {
    let topic = bed.topic(1);
    let mut reader = bed.reader(&topic, 0);
    assert_eq!(reader.consumer.bounds(0, PATIENCE).unwrap(), Bounds { first: 0, next: 0 });
    bed.accepted(&topic, numbered(0, 37));
    assert_eq!(reader.consumer.bounds(0, PATIENCE).unwrap(), Bounds { first: 0, next: 37 });
}

pub(crate) fn the_end_is_known_while_reading(bed: &Bed) {
    let topic = bed.topic(1);
    bed.accepted(&topic, numbered(0, 25));
    let mut reader = bed.reader(&topic, 0);
    reader.read(25);
    let deadline = Instant::now() + PATIENCE;
    while reader.consumer.end_offset(0) != Some(25) {
        assert!(Instant::now() < deadline, "end {:?}", reader.consumer.end_offset(0));
        reader.poll(Duration::from_millis(100));
    }
}

pub(crate) fn reading_goes_on_where_the_caller_says(bed: &Bed) {
    let topic = bed.topic(3);
    let group = unique("group");
    bed.accepted(&topic, numbered(0, 300));
    let mut first = bed.join(&topic, &group);
    first.accept(|_| 0);
    let seen = first.read(300);
    first.consumer.close().unwrap();

    let mut second = bed.join(&topic, &group);
    second.accept(|partition| i64::from(partition) * 10);
    let expected: Vec<Position> =
        seen.iter().map(|record| record.at).filter(|at| at.offset >= i64::from(at.partition) * 10).collect();
    let again: BTreeSet<Position> = second.read(expected.len()).iter().map(|record| record.at).collect();
    assert_eq!(again, expected.into_iter().collect());
}

pub(crate) fn a_hint_does_not_decide_where_reading_starts(bed: &Bed) {
    let topic = bed.topic(1);
    let group = unique("group");
    bed.accepted(&topic, numbered(0, 20));
    let mut reader = bed.join(&topic, &group);
    reader.accept(|_| 0);
    reader.read(20);
    reader.consumer.commit_hint(&[Position { partition: 0, offset: 15 }]).unwrap();
    reader.consumer.commit_hint(&[]).unwrap();
    reader.nothing_for(Duration::from_millis(300));
    reader.consumer.close().unwrap();

    let mut again = bed.join(&topic, &group);
    again.accept(|_| 5);
    assert_eq!(again.read(15)[0].at.offset, 5);
}

pub(crate) fn an_empty_topic_is_idle_and_starts_at_zero(bed: &Bed) {
    let topic = bed.topic(2);
    let mut reader = bed.reader(&topic, 0);
    reader.nothing_for(Duration::from_millis(500));
    let at = bed.accepted(&topic, vec![record("k", "first")])[0];
    assert_eq!(at.offset, 0);
    assert_eq!(reader.read(1)[0].at, at);
}

pub(crate) fn waiting_readers_see_new_records_soon(bed: &Bed) {
    let topic = bed.topic(1);
    let mut reader = bed.reader(&topic, 0);
    reader.nothing_for(Duration::from_millis(300));
    for n in 0..5 {
        bed.accepted(&topic, numbered(n, n + 1));
        let began = Instant::now();
        assert_eq!(reader.read(1)[0].at.offset, n as i64);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

pub(crate) fn a_record_of_five_megabytes_comes_back_whole(bed: &Bed) {
    let topic = bed.topic(1);
    // Not compressible, so that it is large on every way.
    let mut state = 1u32;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(5 * 1024 * 1024)
    .collect();
    let large = NewRecord { key: Bytes::from_static(b"k"), value: Bytes::from(value.clone()), headers: Vec::new() };
    bed.accepted(&topic, vec![record("k", "before"), large, record("k", "after")]);
    let seen = bed.reader(&topic, 0).read(3);
    assert!(seen[1].value.as_ref() == Some(&value), "five megabytes came back changed");
    assert_eq!(seen[2].text(), "after");
}

pub(crate) fn a_record_that_is_too_large_is_refused_and_its_neighbours_are_not(bed: &Bed) {
    let topic = bed.topic(1);
    let huge =
        NewRecord { key: Bytes::from_static(b"k"), value: Bytes::from(vec![7; 17 * 1024 * 1024]), headers: Vec::new() };
    let fates = bed.append(&topic, vec![record("k", "before"), huge, record("k", "after")]);
    assert!(matches!(fates[1], Err(AppendError::TooLarge { bytes, limit }) if bytes > limit), "{:?}", fates[1]);
    let seen = bed.reader(&topic, 0).read(2);
    assert_eq!(seen[0].at, *fates[0].as_ref().unwrap());
    assert_eq!(seen[1].at, *fates[2].as_ref().unwrap());
}

pub(crate) fn empty_values_and_repeated_headers_come_back_as_they_were(bed: &Bed) {
    let topic = bed.topic(1);
    let headers = vec![
        ("id", Bytes::from_static(b"1")),
        ("empty", Bytes::new()),
        ("id", Bytes::from_static(b"2")),
        ("binary", Bytes::from_static(&[0, 255, 10])),
    ];
    let full = NewRecord { key: Bytes::from_static(b"k"), value: Bytes::new(), headers };
    bed.accepted(&topic, vec![full, record("k", "plain"), record("", "no key")]);
    let mut reader = bed.reader(&topic, 0);
    let seen = reader.read(3);
    assert_eq!(seen[0].value, Some(Vec::new()));
    let names: Vec<&str> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "empty", "id", "binary"]);
    assert_eq!(seen[0].headers[0].1, Some(b"1".to_vec()));
    assert_eq!(seen[0].headers[1].1, Some(Vec::new()));
    assert_eq!(seen[0].headers[3].1, Some(vec![0, 255, 10]));
    assert_eq!(seen[1].headers, []);
    assert_eq!(seen[2].key, b"");

    reader.consumer.seek(Position { partition: 0, offset: 0 }).unwrap();
    let mut last_id = Vec::new();
    while last_id.is_empty() {
        let sink = &mut |record: eventlog::Record<'_>| {
            if record.offset == 0 {
                last_id = record.headers.get("id").unwrap().to_vec();
                assert_eq!(record.headers.get("missing"), None);
            }
        };
        reader.consumer.poll(Duration::from_millis(200), sink).unwrap();
    }
    assert_eq!(last_id, b"2");
}

pub(crate) fn every_one_of_many_partitions_is_read(bed: &Bed) {
    let topic = bed.topic(64);
    bed.accepted(&topic, numbered(0, 2_000));
    let seen = bed.reader(&topic, 0).read(2_000);
    let partitions: BTreeSet<i32> = seen.iter().map(|record| record.at.partition).collect();
    assert_eq!(partitions.len(), 64);
    let values: BTreeSet<String> = seen.iter().map(|record| record.text()).collect();
    assert_eq!(values.len(), 2_000);
}

pub(crate) fn a_poll_hands_out_a_bounded_number_of_records(bed: &Bed) {
    let topic = bed.topic(2);
    bed.accepted(&topic, numbered(0, 3 * MAX_RECORDS_PER_POLL));
    let mut reader = bed.reader(&topic, 0);
    let mut count = 0;
    while count < 3 * MAX_RECORDS_PER_POLL {
        let (input, seen) = reader.poll(PATIENCE);
        assert!(matches!(input, Input::Records(_)), "{input:?}");
        assert!(seen.len() <= MAX_RECORDS_PER_POLL);
        count += seen.len();
    }

    let large: Vec<NewRecord> = (0..24).map(|n| record(&format!("{n}"), &"x".repeat(512 * 1024))).collect();
    bed.accepted(&topic, large);
    let mut count = 0;
    while count < 24 {
        let (input, seen) = reader.poll(PATIENCE);
        assert!(matches!(input, Input::Records(_)), "{input:?}");
        let before_last: usize = seen.iter().rev().skip(1).map(|record| record.value.as_ref().unwrap().len()).sum();
        assert!(before_last < MAX_BYTES_PER_POLL);
        count += seen.len();
    }
}

pub(crate) fn a_topic_that_does_not_exist_is_refused_at_once(bed: &Bed) {
    let began = Instant::now();
    let fates = bed.append(&unique("missing"), numbered(0, 3));
    assert_eq!(fates.len(), 3);
    for fate in fates {
        let refusal = fate.unwrap_err();
        assert!(matches!(&refusal, AppendError::Refused(reason) if reason.contains("missing")), "{refusal}");
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(bed.append(&unique("missing"), Vec::new()).is_empty());
}

pub(crate) fn a_position_outside_the_log_is_reported_and_a_seek_heals_it(bed: &Bed) {
    let topic = bed.topic(2);
    bed.accepted(&topic, numbered(0, 100));
    let mut reader = bed.join(&topic, &unique("group"));
    reader.accept(|partition| if partition == 0 { 0 } else { 5_000 });
    let ends = [0, 1].map(|partition| reader.consumer.bounds(partition, PATIENCE).unwrap().next);
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut reports) = (0, 0);
    while reports == 0 || seen < ends[0] {
        assert!(Instant::now() < deadline, "{seen} of {} records, {reports} reports", ends[0]);
        match reader.poll(Duration::from_millis(200)) {
            (Input::OutOfRange(partition), _) => {
                assert_eq!(partition, 1);
                reports += 1;
            }
            (Input::Records(_), records) => {
                assert!(records.iter().all(|record| record.at.partition == 0));
                seen += records.len() as i64;
            }
            (input, _) => assert_eq!(input, Input::Idle),
        }
    }
    assert_eq!(reports, 1, "said more than once");
    reader.consumer.seek(Position { partition: 1, offset: 0 }).unwrap();
    let healed = reader.read(ends[1] as usize);
    assert!(healed.iter().all(|record| record.at.partition == 1));
}

pub(crate) fn two_callers_make_one_topic(bed: &Bed) {
    let topic = unique("topic");
    let (a, b) = bed.block_on(async { tokio::join!(bed.log.ensure_topic(&topic, 3), bed.log.ensure_topic(&topic, 3)) });
    assert_eq!((a.unwrap(), b.unwrap()), (3, 3));
    // The log's own number counts, not the one asked for.
    assert_eq!(bed.block_on(bed.log.ensure_topic(&topic, 9)).unwrap(), 3);
    assert!(bed.block_on(bed.log.ensure_topic("no/such name", 1)).is_err());
    assert!(bed.block_on(bed.log.ensure_topic(&unique("topic"), 0)).is_err());
}

pub(crate) fn a_closed_log_refuses_appends(bed: &Bed) {
    let topic = bed.topic(1);
    bed.log.health().unwrap();
    bed.accepted(&topic, numbered(0, 10));
    bed.block_on(bed.log.close()).unwrap();
    let fate = bed.append(&topic, numbered(10, 11)).remove(0);
    assert!(matches!(fate, Err(AppendError::Unavailable(_))), "{fate:?}");
    assert!(bed.log.health().is_err());
}

/// Records as a foreign producer writes them, as far as every backend can keep them.
fn foreign(from: usize, to: usize) -> Vec<OwnedRecord> {
    let record = |n: usize| OwnedRecord {
        key: Some(format!("key-{n}").into()),
        value: Some(format!("value-{n}").into()),
        headers: vec![("n".into(), Some(n.to_string().into())), ("none".into(), None)],
    };
    (from..to).map(record).collect()
}

pub(crate) fn an_exclusive_writer_appends_all_or_nothing(bed: &Bed) {
    let topic = bed.topic(3);
    let mut writer = bed.log.exclusive(&topic).unwrap();
    let positions = writer.append(foreign(0, 100)).unwrap();
    let too_large = OwnedRecord { value: Some(vec![7; 17 * 1024 * 1024].into()), ..OwnedRecord::default() };
    let refusal = writer.append([foreign(100, 110), vec![too_large]].concat()).unwrap_err();
    assert!(matches!(refusal, WholeError::Refused(AppendError::TooLarge { .. })), "{refusal}");
    let more = writer.append(foreign(100, 150)).unwrap();

    let mut reader = bed.reader(&topic, 0);
    let seen = reader.read(150);
    let places: BTreeMap<String, Position> = seen.iter().map(|seen| (seen.text(), seen.at)).collect();
    for (n, position) in positions.iter().chain(&more).enumerate() {
        assert_eq!(places[&format!("value-{n}")], *position);
    }
    assert_eq!(seen[0].headers[1], ("none".to_owned(), None));
    reader.nothing_for(Duration::from_millis(300));
}

pub(crate) fn a_newer_exclusive_writer_shuts_the_older_out(bed: &Bed) {
    let topic = bed.topic(2);
    let mut older = bed.log.exclusive(&topic).unwrap();
    let positions = older.append(foreign(0, 20)).unwrap();
    let mut newer = bed.log.exclusive(&topic).unwrap();
    let refusal = older.append(foreign(20, 40)).unwrap_err();
    assert!(matches!(refusal, WholeError::Superseded { .. }), "{refusal}");
    // Ordinary appends go on beside it.
    bed.accepted(&topic, numbered(0, 5));

    let mut found = BTreeSet::new();
    let from = [0, 1].map(|partition| Position { partition, offset: 0 });
    let mut ordinary = 0;
    let mut keep = |record: eventlog::Record<'_>| match record.headers.get("n") {
        Some(_) => drop(found.insert(Position { partition: record.partition, offset: record.offset })),
        None => ordinary += 1,
    };
    newer.read(&from, &mut keep).unwrap();
    assert_eq!(found, positions.into_iter().collect());
    assert_eq!(ordinary, 5);
    let bounds = newer.bounds().unwrap();
    assert_eq!(bounds.len(), 2);
    let at_the_end = [0, 1].map(|partition| Position { partition, offset: bounds[partition as usize].next });
    newer.read(&at_the_end, &mut |record| panic!("{record:?}")).unwrap();
    newer.append(foreign(20, 40)).unwrap();
}

pub(crate) fn a_reader_of_all_records_knows_that_it_is_at_the_end(bed: &Bed) {
    let topic = bed.topic(1);
    let positions = bed.log.exclusive(&topic).unwrap().append(foreign(0, 10)).unwrap();
    let end = positions.iter().map(|position| position.offset + 1).max().unwrap();
    let mut reader = bed.reader(&topic, 0);
    reader.read(10);
    at_the_end(&mut reader, end);
    // Also where nothing but the end of a transaction is left to read.
    at_the_end(&mut bed.reader(&topic, end), end);
    // A record that follows is not overlooked.
    let more = bed.accepted(&topic, numbered(0, 1));
    assert_eq!(reader.read(1)[0].at, more[0]);
    assert!(more[0].offset >= end);
}

fn at_the_end(reader: &mut Reader, end: i64) {
    let deadline = Instant::now() + PATIENCE;
    while reader.consumer.bounds(0, PATIENCE).unwrap().next != end {
        assert!(Instant::now() < deadline, "{:?} after everything was read", reader.consumer.bounds(0, PATIENCE));
        reader.poll(Duration::from_millis(100));
    }
}
