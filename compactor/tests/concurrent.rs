//! Compactors beside appenders, beside each other, killed and on a store that fails: at every version every row is there
//! once.

mod support;

use bytesize::ByteSize;
use compactor::request::{Request, Step};
use compactor::worker::{Turn, Worker};
use compactor::{Config, Deps};
use lake::dataset::Dataset;
use lake::table::now_ms;
use lake::testing::{Fault, FaultyStore, Op, faulty_lake};
use lake::{DataFile, Keep, Lake, Table, layout, schema, store};
use object_store::memory::InMemory;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use support::*;
use tokio_util::sync::CancellationToken;

fn events() -> Dataset {
    dataset(true, &["device_id", "time"])
}

/// Merges all it can: every date is cold at once.
fn eager() -> Config {
    Config { cold_after: Duration::ZERO, every: Duration::from_millis(20), ..Config::default() }
}

fn worker(lake: &Lake, config: Config) -> Worker {
    let deps = Deps { lake: lake.clone(), datasets: vec![events()], memory: ByteSize::mib(64) };
    compactor::workers(&config, &deps).swap_remove(0)
}

async fn turn(worker: &mut Worker) -> Turn {
    worker.turn(&CancellationToken::new()).await.unwrap()
}

fn fragment_rows(partition: i32, number: i64, rows: i64) -> Vec<Row> {
    let row = |row| Row::new(&format!("d{}", row % 7), number * 1_000 + row, partition, number * rows + row);
    (0..rows).map(row).collect()
}

async fn append_fragments(table: &Table, partition: i32, numbers: std::ops::Range<i64>) {
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let sort_by = events().spec.sort_by;
    for number in numbers {
        let rows = fragment_rows(partition, number, ROWS);
        let file = write_fragment(table, table.schema(), &rows, Some(&sort_by)).await;
        append(table, &mut state, vec![file]).await;
    }
}

/// Rows of a fragment.
const ROWS: i64 = 20;

/// Every event of `fragments` fragments of each partition, once.
fn once(partitions: i32, fragments: i64) -> BTreeMap<(i32, i64), usize> {
    (0..partitions).flat_map(|partition| (0..fragments * ROWS).map(move |offset| ((partition, offset), 1))).collect()
}

/// Reads every version up to the latest. Rows must be there once, without a hole, and never go back.
async fn check_every_version(table: &Table) {
    let latest = table.load(Keep::Txns, &[]).await.unwrap().version;
    let mut most = 0;
    for version in 0..=latest {
        let rows = read(table, Some(version)).await;
        let counts = counts(&rows);
        assert!(counts.values().all(|count| *count == 1), "version {version} doubles rows");
        for partition in 0..4 {
            let offsets: Vec<i64> = counts.keys().filter(|key| key.0 == partition).map(|key| key.1).collect();
            assert!(offsets.iter().copied().eq(0..offsets.len() as i64), "version {version} has a hole");
        }
        assert!(counts.len() >= most, "version {version} lost rows");
        most = counts.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rival_compactors_beside_appenders_never_lose_or_double_a_row() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events()).await;
    let stop = CancellationToken::new();
    let compactors: Vec<_> = (0..2)
        .map(|_| {
            let deps = Deps { lake: lake.clone(), datasets: vec![events()], memory: ByteSize::mib(64) };
            tokio::spawn(compactor::run(eager(), deps, stop.clone()))
        })
        .collect();
    let appenders: Vec<_> = (0..4)
        .map(|partition| {
            let table = table.clone();
            tokio::spawn(async move { append_fragments(&table, partition, 0..15).await })
        })
        .collect();
    for appender in appenders {
        appender.await.unwrap();
    }
    // Beside fast appenders they may lose every race; afterwards one of the two wins.
    let merged = until(async || table.load(Keep::Files, &[]).await.unwrap().files().len() < 10);
    tokio::time::timeout(Duration::from_secs(60), merged).await.expect("files are merged");
    stop.cancel();
    for compactor in compactors {
        compactor.await.unwrap().unwrap();
    }
    assert_eq!(counts(&read(&table, None).await), once(4, 15));
    check_every_version(&table).await;
    let state = table.load(Keep::Files, &[]).await.unwrap();
    assert!(state.files().values().any(|file| file.kind() == layout::Kind::Segment));
}

#[tokio::test]
async fn the_loser_of_a_race_leaves_an_orphan_and_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..6).await;
    let mut slow = worker(&lake, eager());
    let mut fast = worker(&lake, eager());
    // Both plan on the same version; one waits with its merged file while the other commits.
    faults.inject(Op::Put, "/seg-", Fault::Hold, 1);
    let (slow_turn, fast_turn) = tokio::join!(turn(&mut slow), async {
        until(async || faults.held() > 0).await;
        let turn = turn(&mut fast).await;
        faults.release();
        turn
    });
    assert_eq!((fast_turn.merges, fast_turn.lost), (1, 0));
    assert_eq!((slow_turn.merges, slow_turn.lost, slow_turn.failed), (0, 1, 0));
    assert_eq!(counts(&read(&table, None).await), once(1, 6));
    assert_eq!(segments(&directory).len(), 2);
}

#[tokio::test]
async fn whoever_asked_for_a_merge_that_another_made_is_told_so_and_what_the_table_is_now() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..4).await;
    let deps = Deps { lake, datasets: vec![events()], memory: ByteSize::mib(64) };
    let open = async || Request::open(&eager(), &deps, "events", None).await.unwrap().unwrap();
    let (mut first, mut second) = (open().await, open().await);
    assert_eq!((first.files(), second.files()), (4, 4));
    let (one, other) = (first.plan().remove(0), second.plan().remove(0));
    let stop = CancellationToken::new();
    assert!(matches!(first.merge(one, &stop).await.unwrap(), Step::Merged(_)));
    assert_eq!(second.merge(other, &stop).await.unwrap(), Step::Lost);
    assert_eq!((first.files(), second.files()), (1, 1));
    assert_eq!((first.plan(), second.plan()), (vec![], vec![]));
    append_fragments(&table, 1, 0..1).await;
    let of_another_date = layout::date_from_days(DAY as i32 + 1);
    let dated = Request::open(&eager(), &deps, "events", Some(of_another_date)).await.unwrap().unwrap();
    assert_eq!((open().await.files(), dated.files()), (2, 0));
}

fn segments(directory: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    let date = layout::date_directory(layout::date_from_days(DAY as i32));
    let files = std::fs::read_dir(directory.path().join("events").join(date)).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-")).collect()
}

/// The request at which a rival is killed.
fn last_request(seed: u64, round: i64, rival: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    (seed, round, rival).hash(&mut hasher);
    (hasher.finish() % 40) as usize
}

/// A turn that is killed at its request `last`, if it has so many.
async fn killed_turn(lake: &Lake, last: usize) {
    let faults = FaultyStore::new(Arc::clone(lake.store()));
    faults.inject_after(last, "", Fault::Stall, usize::MAX);
    let mut worker = worker(&lake.with_store(Arc::new(faults.clone())), eager());
    let killed = async {
        while faults.injected() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let stop = CancellationToken::new();
    tokio::select! {
        () = killed => {}
        turn = worker.turn(&stop) => {
            turn.unwrap();
        }
    }
    drop(worker);
    faults.cut_off();
}

/// `LAKEHOSE_TEST_SEED`, which it prints when it fails, kills at the same requests again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rivals_killed_at_any_request_beside_an_appender_never_lose_or_double_a_row() {
    const ROUNDS: i64 = 20;
    let seed = std::env::var("LAKEHOSE_TEST_SEED").map_or_else(|_| now_ms() as u64, |seed| seed.parse().unwrap());
    println!("LAKEHOSE_TEST_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    // The kernel looks whether it is there; all else is in memory.
    std::fs::create_dir(directory.path().join("events")).unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap().with_store(Arc::new(InMemory::new()));
    let table = table(&lake, &events()).await;
    for round in 0..ROUNDS {
        append_fragments(&table, 0, 3 * round..3 * round + 2).await;
        tokio::join!(
            killed_turn(&lake, last_request(seed, round, 0)),
            killed_turn(&lake, last_request(seed, round, 1)),
            append_fragments(&table, 0, 3 * round + 2..3 * round + 3),
        );
    }
    assert_eq!(counts(&read(&table, None).await), once(1, 3 * ROUNDS));
    assert_eq!(turn(&mut worker(&lake, eager())).await.failed, 0);
    check_every_version(&table).await;
    assert_eq!(counts(&read(&table, None).await), once(1, 3 * ROUNDS));
    assert!(table.load(Keep::Files, &[]).await.unwrap().files().len() < 10);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..6).await;
    let mut worker = worker(&lake, eager());
    faults.inject(Op::Put, "_delta_log", Fault::FailAfterSuccess, 1);
    let turn = turn(&mut worker).await;
    assert_eq!((turn.merges, turn.lost, turn.failed), (1, 0, 0));
    assert_eq!(counts(&read(&table, None).await), once(1, 6));
}

/// A machine that sleeps may wake up with the clock that it had. Meanwhile its file was swept as an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compactor_that_slept_until_its_files_were_swept_commits_none_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let awake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&awake, &events()).await;
    append_fragments(&table, 0, 0..6).await;
    faults.inject(Op::Put, "_delta_log", Fault::Stall, 1);
    let mut sleeper = worker(&lake, eager());
    let (slept, swept) = tokio::join!(turn(&mut sleeper), async {
        until(async || faults.injected() > 0).await;
        let [segment] = segments(&directory).try_into().unwrap();
        let written = std::fs::File::options().append(true).open(segment).unwrap();
        written.set_modified(std::time::SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
        append_fragments(&table, 1, 0..1).await;
        let swept = turn(&mut worker(&awake, Config::default())).await;
        faults.cut_off();
        swept
    });
    assert_eq!((swept.merges, swept.deleted), (0, 1));
    // What it lost it does anew.
    assert_eq!((slept.lost, slept.failed, slept.merges), (1, 0, 1));
    let mut expected = once(1, 6);
    expected.extend((0..ROWS).map(|offset| ((1, offset), 1)));
    assert_eq!(counts(&read(&table, None).await), expected);
    check_every_version(&table).await;
}

#[tokio::test]
async fn a_store_that_fails_anywhere_costs_a_turn_and_nothing_else() {
    let steps = [
        (Op::Get, "date="),
        (Op::Get, "/seg-"),
        (Op::Put, "/seg-"),
        (Op::Put, "_delta_log"),
        (Op::Get, "_delta_log"),
        (Op::List, ""),
    ];
    for (op, path_part) in steps {
        for fault in [Fault::Fail, Fault::FailAfterSuccess] {
            let directory = tempfile::tempdir().unwrap();
            let (lake, faults) = faulty_lake(directory.path()).unwrap();
            let table = table(&lake, &events()).await;
            append_fragments(&table, 0, 0..6).await;
            faults.inject(op, path_part, fault, 1);
            let mut worker = worker(&lake, eager());
            for _ in 0..3 {
                if let Err(error) = worker.turn(&CancellationToken::new()).await {
                    assert!(error.is_retryable(), "{op:?} {path_part} {fault:?}: {error}");
                }
            }
            assert_eq!(counts(&read(&table, None).await), once(1, 6), "{op:?} {path_part} {fault:?}");
            let state = table.load(Keep::Files, &[]).await.unwrap();
            assert_eq!(state.files().len(), 1, "{op:?} {path_part} {fault:?}");
        }
    }
}

#[tokio::test]
async fn stops_soon_when_told_to_while_the_store_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..6).await;
    faults.inject(Op::Put, "/seg-", Fault::Stall, 1);
    let stop = CancellationToken::new();
    let deps = Deps { lake, datasets: vec![events()], memory: ByteSize::mib(64) };
    let role = tokio::spawn(compactor::run(eager(), deps, stop.clone()));
    until(async || faults.injected() > 0).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), role).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_others_are_merged() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..4).await;
    let date = layout::date_from_days(DAY as i32);
    let path = format!("{}damaged.parquet", layout::date_directory(date));
    store::put_new(table.store().as_ref(), &table.file_path(&path), b"PAR1 no PAR1".as_slice().into()).await.unwrap();
    let damaged = DataFile {
        path: path.clone(),
        size: 12,
        date,
        modified_ms: 0,
        stats: Default::default(),
        ranges: Vec::new(),
        sorted_by: Vec::new(),
    };
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    append(&table, &mut state, vec![damaged]).await;
    let mut worker = worker(&lake, eager());
    assert_eq!(turn(&mut worker).await.failed, 1);
    assert_eq!(turn(&mut worker).await.merges, 1);
    let state = table.load(Keep::Files, &[]).await.unwrap();
    assert_eq!(state.files().len(), 2);
    assert!(state.files().contains_key(&path));
}

#[tokio::test]
async fn waits_for_a_table_and_refuses_a_foreign_one() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let mut early = worker(&lake, eager());
    assert_eq!(turn(&mut early).await, Turn::default());
    Table::open_or_create(&lake, "events", schema::dead()).await.unwrap();
    let deps = Deps { lake, datasets: vec![events()], memory: ByteSize::mib(64) };
    let error = compactor::run(eager(), deps, CancellationToken::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("no column `id`"), "{error:#}");
}

#[tokio::test]
async fn files_are_deleted_only_when_they_are_due_and_never_while_live() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events()).await;
    append_fragments(&table, 0, 0..6).await;
    // An upload that was never committed.
    let orphan = write_fragment(&table, table.schema(), &fragment_rows(0, 6, ROWS), None).await;
    let exists = async |file: &str| store::get(table.store().as_ref(), &table.file_path(file)).await.unwrap().is_some();
    let inputs: Vec<String> = table.load(Keep::Files, &[]).await.unwrap().files().keys().cloned().collect();

    let mut patient = worker(&lake, eager());
    assert_eq!(turn(&mut patient).await, Turn { merges: 1, ..Turn::default() });
    assert_eq!(turn(&mut patient).await, Turn::default());
    assert!(exists(&orphan.path).await && exists(&inputs[0]).await);

    // Removed files are known to a compactor that starts later, and are no orphans to it.
    let only_orphans = Config { keep_orphans: Duration::ZERO, ..eager() };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(turn(&mut worker(&lake, only_orphans)).await.deleted, 1);
    assert!(!exists(&orphan.path).await && exists(&inputs[0]).await);

    let everything = Config { keep_orphans: Duration::ZERO, keep_removed: Duration::ZERO, ..eager() };
    assert_eq!(turn(&mut worker(&lake, everything)).await.deleted, 6);
    assert!(!exists(&inputs[0]).await);
    assert_eq!(counts(&read(&table, None).await), once(1, 6));
}

/// Needs DuckDB: `LAKEHOSE_TEST_DUCKDB=infra/duckdb/query`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duckdb_counts_right_in_a_loop_while_files_are_merged() {
    let duckdb = std::env::var("LAKEHOSE_TEST_DUCKDB")
        .expect("set LAKEHOSE_TEST_DUCKDB to the path of infra/duckdb/query, or run the tests by infra/test");
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events()).await;
    let stop = CancellationToken::new();
    let deps = Deps { lake: lake.clone(), datasets: vec![events()], memory: ByteSize::mib(64) };
    let role = tokio::spawn(compactor::run(eager(), deps, stop.clone()));
    append_fragments(&table, 0, 0..1).await;
    let appender = tokio::spawn({
        let table = table.clone();
        async move {
            for number in 1..60 {
                append_fragments(&table, 0, number..number + 1).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let (mut most, mut loops, mut is_last) = (0, 0, false);
    while !is_last || loops < 5 {
        // The last query begins after the last append.
        is_last = appender.is_finished();
        let sql = format!(
            "SELECT count(*), count(DISTINCT kafka_offset), max(kafka_offset) + 1 FROM delta_scan('{}')",
            table.url()
        );
        let duckdb = duckdb.clone();
        let query = move || std::process::Command::new(duckdb).args(["--csv", &sql]).output().unwrap();
        let output = tokio::task::spawn_blocking(query).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<i64> = text.trim().lines().last().unwrap().split(',').map(|n| n.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[0]), (numbers[1], numbers[2]), "loop {loops}");
        assert!(numbers[0] >= most, "loop {loops}: {} rows after {most}", numbers[0]);
        (most, loops) = (numbers[0], loops + 1);
    }
    appender.await.unwrap();
    stop.cancel();
    role.await.unwrap().unwrap();
    assert_eq!(most, 60 * ROWS);
    assert!(table.load(Keep::Files, &[]).await.unwrap().files().len() < 60);
}
