//! A hundred processors on real Kafka, with a store as slow as S3: how soon and how often they commit.
//!
//! Needs a broker, named by `LAKEHOSE_TEST_KAFKA=host:port`; without it the tests fail, unless
//! `LAKEHOSE_TEST_SKIP_KAFKA=1` says that this is meant.

use crate::flushes::{Hand, assert_only_forward, ends};
use crate::support::{places, until};
use eventlog::Log;
use eventlog::kafka::{KafkaLog, KafkaOptions};
use lake::Lake;
use lake::dataset::{Dataset, DatasetSpec};
use lake::testing::{Fault, Op, faulty_lake};
use processor::committer::Verdict;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// What an operation of S3 takes.
const LATENCY: Duration = Duration::from_millis(45);
const PROCESSES: usize = 5;
const PROCESSORS: i32 = 100;
const FLUSHES: i64 = 10;
const ROWS: i64 = 20;

/// The log to test with; `None` if Kafka is left out on purpose.
async fn kafka() -> Option<Arc<dyn Log>> {
    match std::env::var("LAKEHOSE_TEST_KAFKA") {
        Ok(brokers) if !brokers.is_empty() => {
            Some(Arc::new(KafkaLog::connect(KafkaOptions { brokers, ..KafkaOptions::default() }).await.unwrap()))
        }
        _ if std::env::var("LAKEHOSE_TEST_SKIP_KAFKA").is_ok_and(|skip| skip == "1") => {
            eprintln!("LAKEHOSE_TEST_SKIP_KAFKA=1: not tested with Kafka");
            None
        }
        _ => panic!("name a broker by LAKEHOSE_TEST_KAFKA=host:port, or leave Kafka out by LAKEHOSE_TEST_SKIP_KAFKA=1"),
    }
}

/// A dataset of its own for one test: the control topic is named after it.
fn dataset() -> Dataset {
    Dataset::new(format!("committer-{}", uuid::Uuid::new_v4().simple()), DatasetSpec::default()).unwrap()
}

/// One process with its committer, on a log that others use as well.
async fn process(log: &Arc<dyn Log>, lake: &Lake, dataset: &Dataset) -> (Hand, JoinHandle<()>) {
    Hand::of(Arc::clone(log), lake, dataset, PROCESSORS as u32).await
}

/// What a processor saw of its flushes.
#[derive(Default)]
struct Seen {
    /// From the start of an upload to the answer that its rows are visible.
    waits: Vec<Duration>,
    rejected: usize,
}

/// Flushes the partition `number`, as it comes; every fifth flush has a zombie beside it.
async fn flush_all(hand: Hand, number: i32) -> Seen {
    let mut random = StdRng::seed_from_u64(number as u64);
    let mut seen = Seen::default();
    for n in 0..FLUSHES {
        tokio::time::sleep(random.random_range(Duration::ZERO..Duration::from_millis(1_500))).await;
        let range = n * ROWS..(n + 1) * ROWS;
        // A partition that the table does not know may start anywhere, so the first flush is alone.
        let zombie = n > 0 && (i64::from(number) + n) % 5 == 0;
        let zombies_range = match random.random_bool(0.5) {
            true => range.clone(),
            false => range.start + 1..range.end + 3,
        };
        let ours = async {
            let started = Instant::now();
            hand.committed(&[(number, range.clone())], &[]).await;
            started.elapsed()
        };
        let zombies = async {
            match zombie {
                true => Some(hand.flush(&[(number, zombies_range.clone())], &[]).await),
                false => None,
            }
        };
        let (wait, zombies) = tokio::join!(ours, zombies);
        seen.waits.push(wait);
        match zombies {
            None => {}
            // Two copies of one flush: whichever came first, the rows are there.
            Some(verdict) if zombies_range == range => assert!(matches!(verdict, Verdict::Committed), "{verdict:?}"),
            Some(verdict) => {
                assert!(matches!(verdict, Verdict::Rejected), "{verdict:?}");
                seen.rejected += 1;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processors_are_visible_within_seconds_at_one_commit_a_second() {
    let Some(log) = kafka().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let dataset = dataset();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(process(&log, &lake, &dataset).await);
    }
    // One is elected.
    let warm_up = PROCESSORS;
    processes[0].0.committed(&[(warm_up, 0..1)], &[]).await;
    for op in [Op::Put, Op::Get, Op::List] {
        store.delay(op, LATENCY);
    }
    let (before, started) = (ends(&lake, &dataset.name, &dataset.name, 1).await.version, Instant::now());
    let mut running = JoinSet::new();
    for number in 0..PROCESSORS {
        running.spawn(flush_all(processes[number as usize % PROCESSES].0.clone(), number));
    }
    let seen = running.join_all().await;
    let elapsed = started.elapsed();
    store.heal();
    let at_end = ends(&lake, &dataset.name, &dataset.name, PROCESSORS).await;
    let commits = at_end.version - before;
    let rejected: usize = seen.iter().map(|seen| seen.rejected).sum();
    let mut waits: Vec<Duration> = seen.into_iter().flat_map(|seen| seen.waits).collect();
    waits.sort();
    let quantile = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize];
    let a_second = commits as f64 / elapsed.as_secs_f64();
    println!(
        "{} flushes of {PROCESSORS} processors, {rejected} zombies rejected, in {commits} commits within {elapsed:.1?} \
         ({a_second:.2} a second); upload to visible: median {} ms, p99 {} ms, longest {} ms",
        waits.len(),
        quantile(0.5).as_millis(),
        quantile(0.99).as_millis(),
        quantile(1.0).as_millis(),
    );
    assert!(at_end.events.iter().all(|end| *end == Some(FLUSHES * ROWS)));
    let mut expected: Vec<(i32, i64)> =
        (0..PROCESSORS).flat_map(|partition| (0..FLUSHES * ROWS).map(move |offset| (partition, offset))).collect();
    expected.push((warm_up, 0));
    assert_eq!(places(&lake, &dataset.name).await, expected);
    assert_only_forward(&lake, &dataset.name, PROCESSORS).await;
    assert!(rejected > 50, "{rejected}");
    assert!(a_second < 1.3, "{a_second} commits a second");
    // At ease it is about 1.2 s; the machine may be busy.
    assert!(quantile(0.99) < Duration::from_secs(3), "{:?}", quantile(0.99));
    for (hand, task) in processes {
        drop(hand);
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_when_the_committer_leaves() {
    let Some(log) = kafka().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let (lake, _) = faulty_lake(directory.path()).unwrap();
    let dataset = dataset();
    let (first, first_task) = process(&log, &lake, &dataset).await;
    first.committed(&[(0, 0..10)], &[]).await;
    let (second, second_task) = process(&log, &lake, &dataset).await;
    second.committed(&[(1, 0..10)], &[]).await;
    // Its last flush is committed by itself, though it is about to leave.
    first.committed(&[(0, 10..20)], &[]).await;
    drop(first);
    first_task.await.unwrap();
    let started = Instant::now();
    second.committed(&[(0, 20..30), (1, 10..20)], &[]).await;
    println!("committed by the successor after {:.1?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20));
    until("the rows are there", async || places(&lake, &dataset.name).await.len() == 50).await;
    assert_only_forward(&lake, &dataset.name, 2).await;
    drop(second);
    second_task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_alone_cannot_reach_the_table_leaves_the_office() {
    let Some(log) = kafka().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let ((cut_off, store), (lake, _)) =
        (faulty_lake(directory.path()).unwrap(), faulty_lake(directory.path()).unwrap());
    let dataset = dataset();
    let (first, first_task) = process(&log, &cut_off, &dataset).await;
    first.committed(&[(0, 0..10)], &[]).await;
    let (second, second_task) = process(&log, &lake, &dataset).await;
    store.inject(Op::Put, "_delta_log", Fault::Stall, usize::MAX);
    let started = Instant::now();
    tokio::join!(first.committed(&[(0, 10..20)], &[]), second.committed(&[(1, 0..10)], &[]));
    println!("committed by another after {:.1?}", started.elapsed());
    assert!(started.elapsed() > Duration::from_secs(20), "the first was not the committer");
    assert_eq!(places(&lake, &dataset.name).await.len(), 30);
    for (hand, task) in [(second, second_task), (first, first_task)] {
        drop(hand);
        task.await.unwrap();
    }
}
