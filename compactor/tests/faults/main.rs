//! Every request of a compactor's work meets every fault once. Whatever that does to the work under way, every version of
//! the table has the same rows, and the work gets done afterwards. The same for a deletion, and for a sweep that has
//! everything to do.
//!
//! No step is named here: the requests of a clean run are counted, and the first, the second and so on is made to fail.

mod deletion;
mod sweep;
#[path = "../support/mod.rs"]
mod support;

use bytesize::ByteSize;
use compactor::worker::Worker;
use compactor::{Config, Deps};
use lake::dataset::Dataset;
use lake::testing::{Fault, FaultyStore};
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, layout, schema, store};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::Duration;
use support::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn events() -> Dataset {
    dataset(true, &["device_id", "time"])
}

/// Merges all it can, and deletes what was never committed and is older than anything else.
fn config() -> Config {
    let every = Duration::from_millis(20);
    Config { cold_after: Duration::ZERO, keep_orphans: Duration::ZERO, every, ..Config::default() }
}

fn deps(lake: &Lake) -> Deps {
    Deps { lake: lake.clone(), datasets: vec![events()], memory: ByteSize::mib(64) }
}

fn worker(lake: &Lake) -> Worker {
    compactor::workers(&config(), &deps(lake)).swap_remove(0)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A table with all that a turn can have to do. Merging it makes the version that a checkpoint is due for.
struct Work {
    store: InMemory,
    /// Where the table would be if it were on a disk, on which a hundred runs take minutes.
    directory: TempDir,
    /// All rows, by offset.
    before: Vec<Row>,
    /// The same without the copies of events.
    after: Vec<Row>,
    /// A file that was never committed, and is due.
    orphan: String,
}

/// The version before the one that a merge makes.
const BASE: u64 = lake::table::CHECKPOINT_EVERY - 1;

impl Work {
    /// Files that are fetched whole, one of them not sorted, one with copies of another's events; with `large` ones, also
    /// two that are read range by range and make the merged file go in parts.
    async fn make(large: bool) -> Work {
        let (store, directory) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
        // The kernel looks whether it is there.
        std::fs::create_dir(directory.path().join("events")).unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap().with_store(Arc::<InMemory>::clone(&store));
        let table = table(&lake, &events()).await;
        let orphan = write_fragment(&table, table.schema(), &rows(5_000, 1, 8), None).await.path;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut fragments: Vec<Vec<Row>> = (0..4).map(|number| rows(number * 10, 10, 8)).collect();
        let mut copies = rows(40, 10, 8);
        copies.iter_mut().zip(&fragments[0]).for_each(|(copy, row)| copy.id.clone_from(&row.id));
        fragments.push(copies.clone());
        if large {
            fragments.extend([rows(1_000, 450, 8_000), rows(2_000, 450, 8_000)]);
        }
        let sort_by = events().spec.sort_by;
        let mut state = table.load(Keep::Txns, &[]).await.unwrap();
        while state.version + 2 < BASE {
            let nothing = Change { operation: "WRITE", ..Change::default() };
            assert_eq!(table.commit(&mut state, &nothing).await.unwrap(), Outcome::Committed);
        }
        let mut files = Vec::new();
        for (number, rows) in fragments.iter().enumerate() {
            let sort_by = (number != 1).then_some(sort_by.as_slice());
            files.push(write_fragment(&table, table.schema(), rows, sort_by).await);
        }
        let last: DataFile = files.pop().unwrap();
        append(&table, &mut state, files).await;
        table.checkpoint(state.version).await.unwrap();
        append(&table, &mut state, vec![last]).await;
        assert_eq!(state.version, BASE);
        // As if it had been cleaned up: reading a hundred commits is one step, not a hundred.
        for version in 0..BASE - 1 {
            store.delete(&table.file_path(&layout::commit_path(version))).await.unwrap();
        }
        let before: Vec<Row> = fragments.into_iter().flatten().collect();
        let is_copy = |row: &Row| copies.contains(row);
        let mut after: Vec<Row> = before.iter().filter(|row| !is_copy(row)).cloned().collect();
        after.sort_by_key(|row| row.offset);
        Work { store: store.fork(), directory, before: by_offset(before), after, orphan }
    }

    /// The same once more, on a store that can fail.
    fn again(&self) -> Attempt {
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.fork());
        let faults = FaultyStore::new(Arc::clone(&store));
        let place = Lake::open(self.directory.path().to_str().unwrap()).unwrap();
        Attempt { lake: place.with_store(Arc::new(faults.clone())), unharmed: place.with_store(store), faults }
    }
}

fn rows(first: i64, rows: i64, id_bytes: usize) -> Vec<Row> {
    let row = |offset| {
        let mut row = Row::new(&format!("d{}", offset % 7), first + rows - offset, 0, offset);
        row.id = format!("{offset}/{}", noise(offset as u64, id_bytes));
        row
    };
    (first..first + rows).map(row).collect()
}

/// Text that hardly compresses.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state >> 32) as u8 % 64)
    };
    (0..bytes).map(|_| next()).collect()
}

fn by_offset(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| row.offset);
    rows
}

/// One time that the work is done.
struct Attempt {
    lake: Lake,
    /// The same past the faults.
    unharmed: Lake,
    faults: FaultyStore,
}

/// Turns in which the work must be done after one fault.
const TURNS: usize = 4;

impl Attempt {
    /// Every version has the rows.
    async fn check(&self, work: &Work, context: &str) {
        let table = self.table().await;
        let latest = table.load(Keep::Txns, &[]).await.unwrap().version;
        let mut is_merged = false;
        for version in BASE..=latest {
            let rows = by_offset(read(&table, Some(version)).await);
            is_merged |= rows == work.after;
            let expected = if is_merged { &work.after } else { &work.before };
            assert!(rows == *expected, "{context}: version {version} has {} rows, not {}", rows.len(), expected.len());
        }
    }

    async fn is_merged(&self) -> bool {
        self.table().await.load(Keep::Files, &[]).await.unwrap().files().len() == 1
    }

    async fn is_swept(&self, work: &Work) -> bool {
        let orphan = self.table().await.file_path(&work.orphan);
        store::get(self.unharmed.store().as_ref(), &orphan).await.unwrap().is_none()
    }

    async fn table(&self) -> Table {
        Table::open(&self.unharmed, "events", schema::events(&events())).await.unwrap().unwrap()
    }

    /// Lets one worker have its turns, and then, for it looks for orphans once an hour, another.
    async fn finish(&self, work: &Work, context: &str) {
        let mut first = worker(&self.lake);
        for _ in 0..TURNS {
            self.turn(&mut first, context).await;
            if self.is_merged().await {
                break;
            }
        }
        assert!(self.is_merged().await, "{context}: not merged after {TURNS} turns");
        if !self.is_swept(work).await {
            self.turn(&mut worker(&self.lake), context).await;
        }
        assert!(self.is_swept(work).await, "{context}: not swept");
    }

    async fn turn(&self, worker: &mut Worker, context: &str) {
        if let Err(error) = worker.turn(&CancellationToken::new()).await {
            assert!(error.is_retryable(), "{context}: {:#}", anyhow::Error::from(error));
        }
    }

    /// Waits until a request has met the fault.
    async fn met(&self) {
        while self.faults.injected() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Which requests: all of a table with small files, and those for the large files of another, whose log is the same.
const ALL: [(bool, &str); 2] = [(false, ""), (true, "date=")];

/// Each request meets `fault`, each in a run of its own. Returns how many did.
async fn each_meets(requests: [(bool, &str); 2], fault: Fault) -> usize {
    let mut met = 0;
    for (large, path_part) in requests {
        met += each_request_meets(&Work::make(large).await, path_part, fault).await;
    }
    met
}

async fn each_request_meets(work: &Work, path_part: &str, fault: Fault) -> usize {
    for request in 0.. {
        let attempt = work.again();
        attempt.faults.inject_after(request, path_part, fault, 1);
        let context = format!("{fault:?} of request {request}");
        attempt.finish(work, &context).await;
        attempt.check(work, &context).await;
        if attempt.faults.injected() == 0 {
            return request;
        }
    }
    unreachable!("a run has an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_fails_costs_a_turn_and_nothing_else() {
    let requests = each_meets(ALL, Fault::Fail).await;
    assert!(requests > 60, "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_whose_answer_is_lost_costs_a_turn_and_nothing_else() {
    each_meets(ALL, Fault::FailAfterSuccess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_store_that_says_412_of_ones_own_object_costs_a_turn_and_nothing_else() {
    each_request_meets(&Work::make(false).await, "", Fault::ExistsAfterSuccess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_read_that_ends_early_is_tried_again_and_never_merged() {
    each_meets(ALL, Fault::Truncate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_read_of_other_bytes_is_tried_again_and_never_merged() {
    each_meets([(false, "date="), (true, "date=")], Fault::Garble).await;
}

#[test]
fn a_compactor_that_is_killed_at_any_request_leaves_a_right_table_and_the_next_finishes() {
    for (large, path_part) in ALL {
        let work = runtime().block_on(Work::make(large));
        for request in 0.. {
            let attempt = work.again();
            attempt.faults.inject_after(request, path_part, Fault::Stall, usize::MAX);
            let context = format!("killed at request {request}");
            let killed = runtime();
            let was_done = killed.block_on(async {
                let mut worker = worker(&attempt.lake);
                let stop = CancellationToken::new();
                tokio::select! {
                    () = attempt.met() => false,
                    turn = worker.turn(&stop) => turn.is_ok(),
                }
            });
            killed.shutdown_background();
            attempt.faults.heal();
            attempt.faults.cut_off();
            runtime().block_on(async {
                attempt.finish(&work, &context).await;
                attempt.check(&work, &context).await;
            });
            if was_done {
                break;
            }
        }
    }
}

#[test]
fn a_compactor_that_waits_for_a_store_without_an_answer_stops_when_told_to() {
    let work = runtime().block_on(Work::make(false));
    let clean = work.again();
    runtime().block_on(worker(&clean.lake).turn(&CancellationToken::new())).unwrap();
    for request in 0..clean.faults.requests() {
        let attempt = work.again();
        attempt.faults.inject_after(request, "", Fault::Stall, usize::MAX);
        let stopped = runtime();
        stopped.block_on(async {
            let stop = CancellationToken::new();
            let role = tokio::spawn(compactor::run(config(), deps(&attempt.lake), stop.clone()));
            attempt.met().await;
            stop.cancel();
            let ended = tokio::time::timeout(Duration::from_secs(30), role).await;
            ended.unwrap_or_else(|_| panic!("waits for request {request}")).unwrap().unwrap();
        });
        stopped.shutdown_background();
        attempt.faults.cut_off();
        runtime().block_on(attempt.check(&work, &format!("stopped at request {request}")));
    }
}
