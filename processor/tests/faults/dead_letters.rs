//! Dead letters are in their table exactly once (invariant I6), though that commit and the one of the events are two.

use crate::flushes::{Hand, ends};
use crate::support::*;
use lake::table::now_ms;
use lake::testing::{Fault, Op, faulty_lake};
use lake::{Change, DataFile, Keep, OffsetRange, Table, schema};
use processor::committer::{Submission, Verdict};

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_range_that_comes_again_with_other_bounds_are_not_added_twice() {
    // What was committed of the dead letters before the crash, what is flushed after it, and what has to be added.
    let again: [&[(std::ops::Range<i64>, std::ops::Range<i64>)]; 4] = [
        &[(0..10, 0..10)],
        &[(0..5, 0..3), (5..20, 3..20)],
        &[(0..30, 0..30)],
        &[(0..3, 0..1), (3..4, 1..9), (4..10, 9..10), (10..11, 10..30)],
    ];
    let dead = [0, 3, 7, 9, 12, 19, 25];
    for ranges in again {
        let directory = tempfile::tempdir().unwrap();
        let (lake, store) = faulty_lake(directory.path()).unwrap();
        let log = MemoryLog::new(2);
        let (first, task) = Hand::start(&log, &lake, 2).await;
        store.inject(Op::Put, "events/_delta_log", Fault::Stall, usize::MAX);
        let lost = first.clone();
        let lost = tokio::spawn(async move { lost.flush(&[(0, 0..10), (1, 0..10)], &dead).await });
        until("the dead letters are committed", async || {
            ends(&lake, "events", "events__dead", 2).await.events == [Some(10), Some(10)]
        })
        .await;
        assert_eq!(ends(&lake, "events", "events", 2).await.events, [None, None], "the events are not");
        task.abort();
        lost.abort();
        store.heal();

        let (second, _task) = Hand::start(&log, &lake, 2).await;
        for (p0, p1) in ranges {
            second.committed(&[(0, p0.clone()), (1, p1.clone())], &dead).await;
        }
        let (p0, p1) = ranges.last().unwrap();
        let of = |partition: i32, end: i64| dead.into_iter().filter(move |d| *d < end).map(move |d| (partition, d));
        // Committed before the crash, even where the range that came again is shorter.
        let expected: Vec<(i32, i64)> = of(0, p0.end.max(10)).chain(of(1, p1.end.max(10))).collect();
        assert_eq!(places(&lake, "events__dead").await, expected, "{ranges:?}");
        let mut alive = all_places(&[p0.end, p1.end]);
        alive.retain(|(_, offset)| !dead.contains(offset));
        assert_eq!(places(&lake, "events").await, alive, "{ranges:?}");
        assert_eq!(ends(&lake, "events", "events", 2).await.events, [Some(p0.end), Some(p1.end)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_whose_dead_letters_cannot_be_read_is_refused_and_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let (hand, _task) = Hand::start(&MemoryLog::new(2), &lake, 2).await;
    hand.committed(&[(0, 0..10)], &[3]).await;
    let dead = Table::open(&lake, "events__dead", schema::dead()).await.unwrap().unwrap();
    let mut state = dead.load(Keep::Files, &[]).await.unwrap();
    // The dead letters are further than the events, so those of the next range must be read.
    let txns = vec![("events/0".to_owned(), 15)];
    dead.commit(&mut state, &Change { operation: "STREAMING UPDATE", txns, ..Change::default() }).await.unwrap();
    let range = OffsetRange { partition: 0, start: 10, end: 20 };
    let gone = DataFile {
        path: "date=1970-01-01/gone.parquet".into(),
        modified_ms: now_ms(),
        ranges: vec![range],
        ..DataFile::clone(state.files().values().next().unwrap())
    };
    let submission = Submission { ranges: vec![range], files: Vec::new(), dead: vec![gone] };
    let (refused, ()) = tokio::join!(hand.committer().submit(submission), hand.committed(&[(1, 0..5)], &[]));
    assert!(matches!(refused, Verdict::Rejected), "{refused:?}");
    hand.committed(&[(0, 10..20)], &[12, 17]).await;
    assert_eq!(places(&lake, "events__dead").await, [(0, 3), (0, 17)]);
}
