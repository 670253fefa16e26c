use super::*;
use lake::store::StoreError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

const POLICY: Policy = Policy {
    failures: 3,
    failing_for: Duration::from_secs(10),
    first_wait: Duration::from_millis(100),
    longest_wait: Duration::from_millis(200),
};

fn away() -> anyhow::Error {
    let source = object_store::Error::Generic { store: "S3", source: "connection refused".into() };
    anyhow::Error::from(StoreError::Object { operation: "store", path: "x".into(), source })
        .context("upload\na fragment")
}

/// A store that counts who calls it.
#[derive(Default)]
struct Store {
    down: AtomicBool,
    calls: AtomicUsize,
    now: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Store {
    async fn call(&self) -> anyhow::Result<()> {
        self.calls.fetch_add(1, SeqCst);
        self.most_at_once.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.now.fetch_sub(1, SeqCst);
        if self.down.load(SeqCst) { Err(away()) } else { Ok(()) }
    }
}

async fn upload(breakers: Breakers, store: Arc<Store>) -> anyhow::Result<()> {
    let mut attempts = breakers.uploads();
    attempts.begin().await;
    while let Err(err) = store.call().await {
        attempts.failed(err)?;
        attempts.begin().await;
    }
    attempts.succeeded();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_of_a_store_that_is_down_make_one_call_at_a_time() {
    let (breakers, store) = (Breakers::with_policy("events", POLICY), Arc::new(Store::default()));
    store.down.store(true, SeqCst);
    let uploads: Vec<_> = (0..50).map(|_| tokio::spawn(upload(breakers.clone(), Arc::clone(&store)))).collect();
    // The first call of each got through together; they opened the breaker.
    while store.calls.load(SeqCst) < 50 || store.now.load(SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!breakers.are_closed());
    let before = store.calls.load(SeqCst);
    store.most_at_once.store(0, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls = store.calls.load(SeqCst) - before;
    // At least half of 200 ms between two, less for the first.
    assert!((5..=22).contains(&calls), "{calls} calls in 2 s");
    assert_eq!(store.most_at_once.load(SeqCst), 1);

    store.down.store(false, SeqCst);
    for upload in uploads {
        upload.await.unwrap().unwrap();
    }
    assert_eq!((breakers.trouble(), breakers.are_closed()), (None, true));
}

#[tokio::test]
async fn trouble_is_told_in_one_line_with_its_cause_and_the_time_of_the_next_try() {
    let breakers = Breakers::with_policy("events", Policy { first_wait: Duration::from_secs(20), ..POLICY });
    assert_eq!(breakers.trouble(), None);
    let mut attempts = breakers.uploads();
    for _ in 0..3 {
        attempts.begin().await;
        attempts.failed(away()).unwrap();
    }
    let trouble = breakers.trouble().unwrap();
    assert!(trouble.starts_with("store: open after 3 failures, next try in 1"), "{trouble}");
    assert!(trouble.ends_with(" s: upload a fragment: store x: Generic S3 error: connection refused"), "{trouble}");
    assert!(!breakers.let_flushes_through() && !attempts.try_begin());
}

#[tokio::test]
async fn a_caller_that_is_dropped_in_the_middle_of_the_one_call_leaves_it_to_the_next() {
    let breakers = Breakers::with_policy("events", Policy { failures: 1, first_wait: Duration::ZERO, ..POLICY });
    let mut attempts = breakers.uploads();
    attempts.begin().await;
    attempts.failed(away()).unwrap();
    attempts.begin().await;
    assert!(breakers.trouble().unwrap().starts_with("store: half-open after 1 failures, trying now"));
    let mut others = breakers.uploads();
    assert!(!others.try_begin(), "another call is finding out");
    drop(attempts);
    assert!(others.try_begin());
    others.succeeded();
    assert!(breakers.are_closed());
}

#[tokio::test]
async fn a_commit_waits_for_the_store_and_says_what_it_finds_about_both() {
    let breakers = Breakers::with_policy("events", Policy { first_wait: Duration::from_millis(1), ..POLICY });
    let mut commits = breakers.commits();
    for _ in 0..3 {
        commits.begin().await;
        commits.failed(away()).unwrap();
    }
    let trouble = breakers.trouble().unwrap();
    assert!(trouble.contains("store: ") && trouble.contains("; committer: "), "{trouble}");
    commits.begin().await;
    commits.succeeded();
    assert!(breakers.are_closed());
}

#[tokio::test]
async fn what_no_retry_cures_comes_back() {
    let breakers = Breakers::with_policy("events", POLICY);
    let mut attempts = breakers.uploads();
    attempts.begin().await;
    let err = attempts.failed(anyhow::anyhow!("no column")).unwrap_err();
    assert_eq!(err.to_string(), "no column");
}
