//! Stores that say what is not so, keep silent for a while, or refuse.

use crate::support::*;
use lake::testing::{Fault, Op, faulty_lake};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_412_of_ones_own_object_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    let mut end = 0;
    for part in ["events/date=", "events/_delta_log", "events__dead/date=", "events__dead/_delta_log"] {
        for faults in 1..=3 {
            store.inject(Op::Put, part, Fault::ExistsAfterSuccess, faults);
            log.push_events(49);
            (0..2).for_each(|partition| log.push(partition, "not json"));
            end += 50;
            until_committed(&lake, &[end; 2]).await;
        }
    }
    running.stop().await.unwrap();
    let (dead, rows): (Vec<_>, Vec<_>) = all_places(&[end; 2]).into_iter().partition(|(_, offset)| offset % 50 == 49);
    assert_eq!(places(&lake, "events").await, rows);
    assert_eq!(places(&lake, "events__dead").await, dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_stalls_reading_goes_on_and_then_everything_is_committed_once() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let running = start(config(), &log, &lake);
    until("the processor runs", async || running.progress.partitions() == 2).await;
    let stall = Fault::Delay(Duration::from_millis(1_500));
    store.inject(Op::Put, "events/date=", stall, 2);
    log.push_events(100);
    until("rows are under way", async || running.progress.buffered_bytes() > 0).await;
    let under_way = running.progress.buffered_bytes();
    log.push_events(100);
    until("more rows were read", async || running.progress.buffered_bytes() > under_way).await;
    until_committed(&lake, &[200; 2]).await;
    // Rows that only wait for their commit are off the memory's account: those behind them are uploaded meanwhile.
    store.inject(Op::Put, "events/_delta_log", stall, 2);
    for _ in 0..2 {
        let puts = store.calls(Op::Put);
        log.push_events(100);
        until("more rows were stored", async || store.calls(Op::Put) > puts).await;
    }
    until_committed(&lake, &[400; 2]).await;
    running.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[400; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_moves_no_offset_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    let mut end = 0;
    for part in ["events/date=", "events/_delta_log"] {
        log.push_events(10);
        end += 10;
        let refused = start(processor::Config { drain_timeout: Duration::from_millis(100), ..config() }, &log, &lake);
        until("the group hears of it", async || log.hints() == [(0, end), (1, end)].into()).await;
        store.inject(Op::Put, part, Fault::Deny, usize::MAX);
        let calls = store.calls(Op::Put);
        log.push_events(10);
        until("the store has refused", async || store.calls(Op::Put) > calls).await;
        // Whether it gave up or goes on asking, what it says in the end names the cause.
        if let Err(error) = refused.stop().await {
            assert!(format!("{error:#}").contains("privileges"), "{error:#}");
        }
        assert_eq!(log.hints(), [(0, end), (1, end)].into());
        let state = state(&lake, "events").await.unwrap();
        assert_eq!((state.txn("events/0"), state.txn("events/1")), (Some(end), Some(end)));
        store.heal();
        end += 10;
    }

    let after = start(config(), &log, &lake);
    until_committed(&lake, &[40; 2]).await;
    after.stop().await.unwrap();
    assert_eq!(places(&lake, "events").await, all_places(&[40; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_start_delays_it() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let log = MemoryLog::new(2);
    for (op, part) in [(Op::List, "events/"), (Op::Get, "events__dead/"), (Op::List, "events__dead/")] {
        store.inject(op, part, Fault::Fail, 2);
        log.push_events(10);
        let running = start(config(), &log, &lake);
        until("everything is committed", async || running.progress.committed_rows() == 20).await;
        running.stop().await.unwrap();
    }
    assert_eq!(places(&lake, "events").await, all_places(&[30; 2]));
    // Being told to stop counts before.
    store.inject(Op::List, "events", Fault::Fail, usize::MAX);
    let waiting = start(config(), &log, &lake);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.progress.is_ready() && !waiting.task.is_finished());
    waiting.stop().await.unwrap();
}
