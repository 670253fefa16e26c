//! What is swept away and what stays: rows, files and commits by their age, beside readers, writers and a store that fails.

mod support;

use bytesize::ByteSize;
use compactor::sweep::{self, Mode, Report, Retention, Why};
use compactor::view::View;
use compactor::worker::{Turn, Worker};
use compactor::{Config, Deps};
use futures::{StreamExt, TryStreamExt};
use lake::dataset::Dataset;
use lake::testing::{Fault, Op, faulty_lake};
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, TableState, cleanup, layout, store};
use object_store::ObjectStoreExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use support::*;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

/// Rows of a fragment.
const ROWS: i64 = 3;

const ORPHANS: usize = 1_100;

fn events(retention: Option<Duration>) -> Dataset {
    let mut dataset = dataset(true, &["device_id", "time"]);
    dataset.spec.retention = retention;
    dataset
}

fn workers(lake: &Lake, config: Config, dataset: Dataset) -> Vec<Worker> {
    let deps = Deps { lake: lake.clone(), datasets: vec![dataset], memory: ByteSize::mib(64) };
    compactor::workers(&config, &deps)
}

fn worker(lake: &Lake, config: Config) -> Worker {
    workers(lake, config, events(None)).swap_remove(0)
}

async fn swept(worker: &mut Worker, mode: Mode) -> Report {
    worker.sweep_alone(mode).await.unwrap().unwrap()
}

async fn turn(worker: &mut Worker) -> Turn {
    worker.turn(&CancellationToken::new()).await.unwrap()
}

async fn fragment(table: &Table, number: i64) -> DataFile {
    let rows: Vec<Row> = (0..ROWS).map(|row| Row::new("d", row, 0, number * ROWS + row)).collect();
    write_fragment(table, table.schema(), &rows, Some(&events(None).spec.sort_by)).await
}

/// A file that is in the table only: for tests that never read it.
fn unwritten(number: u64) -> DataFile {
    let date = layout::date_from_days(DAY as i32);
    let stats = lake::file::FileStats { rows: ROWS as u64, ..Default::default() };
    let path = format!("{}f{number}.parquet", layout::date_directory(date));
    DataFile { path, size: 10, date, modified_ms: 0, stats, ranges: Vec::new(), sorted_by: Vec::new() }
}

/// Makes a file of the lake look as if it was written `age` ago.
fn backdate(file: &Path, age: Duration) {
    let file = std::fs::File::options().append(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn path_of(directory: &tempfile::TempDir, path: &str) -> std::path::PathBuf {
    directory.path().join("events").join(path)
}

/// A quarter of an hour lies between two commits.
fn backdate_log(directory: &tempfile::TempDir, latest: u64) {
    for object in std::fs::read_dir(path_of(directory, layout::LOG)).unwrap() {
        let object = object.unwrap();
        if let Ok(version) = object.file_name().to_str().unwrap()[..20.min(object.file_name().len())].parse::<u64>() {
            backdate(&object.path(), (latest - version) as u32 * HOUR / 4);
        }
    }
}

/// A commit for each of `files`, and checkpoints as they are due.
async fn append_all(table: &Table, state: &mut TableState, files: impl IntoIterator<Item = DataFile>) {
    for file in files {
        append(table, state, vec![file]).await;
        table.checkpoint_if_due(state.version).await.unwrap();
    }
}

async fn commits(table: &Table) -> Vec<u64> {
    let objects = table.list_log().await.unwrap();
    let mut versions: Vec<u64> =
        objects.iter().filter_map(|object| object.name.strip_suffix(".json")?.parse().ok()).collect();
    versions.sort();
    versions
}

/// The last line of what DuckDB answers, or its complaint.
async fn duckdb(sql: String) -> Result<String, String> {
    let duckdb = std::env::var("LAKEHOSE_TEST_DUCKDB")
        .expect("set LAKEHOSE_TEST_DUCKDB to the path of infra/duckdb/query, or run the tests by infra/test");
    let query = move || std::process::Command::new(duckdb).args(["--csv", &sql]).output().unwrap();
    let output = tokio::task::spawn_blocking(query).await.unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().lines().last().unwrap().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Rows that DuckDB counts in versions of a table.
async fn duckdb_counts(table: &Table, versions: &[Option<u64>]) -> Vec<i64> {
    let scan = |version: &Option<u64>| match version {
        Some(version) => {
            format!("(SELECT count(DISTINCT id) FROM delta_scan('{}', version => {version}))", table.url())
        }
        None => format!("(SELECT count(DISTINCT id) FROM delta_scan('{}'))", table.url()),
    };
    let sql = format!("SELECT {}", versions.iter().map(scan).collect::<Vec<_>>().join(", "));
    let line = duckdb(sql).await.unwrap();
    line.split(',').map(|number| number.parse().unwrap()).collect()
}

/// Needs DuckDB: `LAKEHOSE_TEST_DUCKDB=infra/duckdb/query`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_day_of_commits_the_log_is_cleaned_up_and_every_version_kept_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let mut sleeper = None;
    for number in 0..330 {
        append_all(&table, &mut state, [fragment(&table, number).await]).await;
        if number == 150 {
            sleeper = Some(state.clone());
        }
    }
    backdate_log(&directory, 330);
    let mut worker = worker(&lake, Config::default());
    // A day is 96 commits: the checkpoint of version 200 is old enough, that of 300 is not.
    let planned = swept(&mut worker, Mode::DryRun).await;
    assert_eq!(commits(&table).await.len(), 331);
    let done = swept(&mut worker, Mode::Full).await;
    assert_eq!((done.deleted.len(), done.failed), (planned.deleted.len(), 0));
    assert!(done.deleted.iter().all(|victim| victim.why == Why::Log && victim.bytes.is_some()));
    assert_eq!(commits(&table).await, (200..=330).collect::<Vec<_>>());
    assert!(path_of(&directory, layout::LAST_CHECKPOINT).exists());

    for version in 200..=330 {
        let loaded = table.load_version(Some(version), Keep::Files, &[]).await.unwrap();
        assert_eq!((loaded.version, loaded.files().len() as u64), (version, version));
    }
    assert!(table.load_version(Some(150), Keep::Files, &[]).await.is_err());
    let gone = format!("SELECT count(*) FROM delta_scan('{}', version => 150)", table.url());
    assert!(duckdb(gone).await.is_err(), "a version that is cleaned up is an error");
    let versions = [None, Some(200), Some(201), Some(299), Some(300), Some(330)];
    let expected = [330, 200, 201, 299, 300, 330].map(|files| files * ROWS);
    assert_eq!(duckdb_counts(&table, &versions).await, expected);

    // Who writes goes on, who slept wakes up at the latest version, and there is nothing more to do.
    append_all(&table, &mut state, [fragment(&table, 330).await]).await;
    let mut sleeper = sleeper.unwrap();
    table.refresh(&mut sleeper).await.unwrap();
    assert_eq!((sleeper.version, sleeper.files()), (331, state.files()));
    assert_eq!(swept(&mut worker, Mode::Full).await.deleted, []);
}

/// Needs DuckDB: `LAKEHOSE_TEST_DUCKDB=infra/duckdb/query`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_travel_and_readers_of_an_old_version_find_all_its_files_after_merges_and_sweeps() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let mut worker = worker(&lake, Config { cold_after: Duration::ZERO, ..Config::default() });
    let mut expected: Vec<i64> = vec![0];
    let mut held = Vec::new();
    for number in 0..12 {
        append_all(&table, &mut state, [fragment(&table, number).await]).await;
        expected.push((number + 1) * ROWS);
        held.push(state.clone());
        if number % 4 == 3 {
            assert_eq!(turn(&mut worker).await.merges, 1);
            table.refresh(&mut state).await.unwrap();
            expected.push((number + 1) * ROWS);
        }
    }
    // Nearly six hours later, by the files' own times.
    for file in held.iter().flat_map(|state| state.files().keys()) {
        backdate(&path_of(&directory, file), 6 * HOUR);
    }
    for _ in 0..2 {
        assert_eq!(swept(&mut worker, Mode::Full).await.deleted, []);
        for state in &held {
            for file in state.files().values() {
                assert_eq!(read_file(&table, file).await.len() as u64, file.rows());
            }
        }
    }
    // Version 0 has no files, and DuckDB does not like to count none.
    let versions: Vec<Option<u64>> = (1..=state.version).map(Some).collect();
    assert_eq!(duckdb_counts(&table, &versions).await, expected[1..]);
}

#[tokio::test]
async fn an_upload_that_waits_for_its_commit_stays_and_one_that_nobody_commits_goes_after_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let (waiting, orphan) = (fragment(&table, 0).await, fragment(&table, 1).await);
    let latest = fragment(&table, 2).await;
    backdate(&path_of(&directory, &waiting.path), 23 * HOUR);
    backdate(&path_of(&directory, &orphan.path), 25 * HOUR);
    // What a killed process left of an upload, and one that is under way.
    let staging = ["a.parquet#1", "b.parquet#2"].map(|name| path_of(&directory, &format!("date=2024-10-04/{name}")));
    for (staging, age) in staging.iter().zip([25, 1]) {
        std::fs::write(staging, "half").unwrap();
        backdate(staging, age * HOUR);
    }
    let mut worker = worker(&lake, Config::default());
    let report = swept(&mut worker, Mode::Full).await;
    let deleted: Vec<(Why, &str)> = report.deleted.iter().map(|gone| (gone.why, gone.path.as_str())).collect();
    let expected = [(Why::Orphan, orphan.path.as_str()), (Why::Unfinished, "date=2024-10-04/a.parquet#1")];
    assert_eq!(deleted, expected);
    let counted: Vec<(Why, usize)> = report.waiting.iter().map(|waiting| (waiting.why, waiting.files)).collect();
    assert_eq!(counted, [(Why::Orphan, 2), (Why::Unfinished, 1)]);
    assert!(!staging[0].exists() && staging[1].exists());

    append(&table, &mut state, vec![waiting, latest]).await;
    assert_eq!(swept(&mut worker, Mode::Full).await.deleted, []);
    assert_eq!(read(&table, None).await.len() as i64, 2 * ROWS);
}

/// Six files, and one that is made of them as soon as somebody looks.
async fn six(lake: &Lake) -> (Table, Vec<String>) {
    let table = table(lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    for number in 0..6 {
        append_all(&table, &mut state, [fragment(&table, number).await]).await;
    }
    (table, state.files().keys().cloned().collect())
}

/// The version that is made by a merge of them.
const MERGED: u64 = 7;

async fn merge_six(lake: &Lake) {
    let mut worker = worker(lake, Config { cold_after: Duration::ZERO, ..Config::default() });
    assert_eq!(turn(&mut worker).await.merges, 1);
}

fn six_hours() -> Retention {
    Retention { dates: None, removed: 6 * HOUR, orphans: 24 * HOUR, log: 24 * HOUR }
}

/// What a commit says of its time: the clock of the process that made it may be wrong.
async fn say_removed_at(table: &Table, version: u64, at_ms: i64) {
    let path = table.file_path(&layout::commit_path(version));
    let mut actions = table.read_commit(version).await.unwrap().unwrap();
    for remove in actions.iter_mut().filter_map(|action| action.remove.as_mut()) {
        remove.deletion_timestamp = Some(at_ms);
    }
    table.store().put(&path, lake::actions::to_lines(&actions).into()).await.unwrap();
}

#[tokio::test]
async fn a_file_left_the_table_when_the_store_got_the_commit_whatever_clock_its_writer_had() {
    for says in [0, i64::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let (table, inputs) = six(&lake).await;
        // Two who see the files leave, and one who starts later and reads of it.
        let mut views = [View::load(&table).await.unwrap(), View::load(&table).await.unwrap()];
        for view in &mut views {
            assert_eq!(sweep::sweep(&table, view, six_hours(), Mode::Quick).await.unwrap().deleted, []);
        }
        merge_six(&lake).await;
        say_removed_at(&table, MERGED, says).await;
        let [seen, seen_late] = views;
        for mut view in [seen, View::load(&table).await.unwrap()] {
            let report = sweep::sweep(&table, &mut view, six_hours(), Mode::Full).await.unwrap();
            assert_eq!(report.deleted, [], "said to have left at {says}");
            assert_eq!(report.waiting.iter().find(|waiting| waiting.why == Why::Removed).map(|of| of.files), Some(6));
        }
        for version in 0..=MERGED {
            backdate(&path_of(&directory, &layout::commit_path(version)), 7 * HOUR);
        }
        for mut view in [seen_late, View::load(&table).await.unwrap()] {
            let report = sweep::sweep(&table, &mut view, six_hours(), Mode::DryRun).await.unwrap();
            let due: Vec<&str> = report.deleted.iter().map(|gone| gone.path.as_str()).collect();
            assert_eq!(due, inputs, "said to have left at {says}");
        }
    }
}

/// A machine that sleeps stops the clock by which a pause is noticed.
#[tokio::test]
async fn a_compactor_that_slept_while_files_left_and_the_log_was_cleaned_up_takes_none_of_them_for_an_orphan() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let (table, inputs) = six(&lake).await;
    let mut view = View::load(&table).await.unwrap();
    sweep::sweep(&table, &mut view, six_hours(), Mode::Quick).await.unwrap();

    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let old: Vec<DataFile> = state.files().values().map(|file| DataFile::clone(file)).collect();
    append_all(&table, &mut state, (0..100).map(unwritten)).await;
    append_all(&table, &mut state, [fragment(&table, 6).await]).await;
    let change = Change { operation: "OPTIMIZE", removes: old, ..Change::default() };
    assert_eq!(table.commit(&mut state, &change).await.unwrap(), Outcome::Committed);
    for version in 0..100 {
        std::fs::remove_file(path_of(&directory, &layout::commit_path(version))).unwrap();
    }
    for input in &inputs {
        backdate(&path_of(&directory, input), 30 * HOUR);
    }
    let report = sweep::sweep(&table, &mut view, six_hours(), Mode::Full).await.unwrap();
    assert_eq!((view.state.version, report.deleted), (state.version, Vec::new()));
    assert_eq!(report.waiting.iter().find(|waiting| waiting.why == Why::Removed).map(|of| of.files), Some(6));
}

#[tokio::test]
async fn a_compactor_whose_clock_is_a_day_fast_takes_no_file_from_a_query() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let (table, inputs) = six(&lake).await;
    let mut view = View::load(&table).await.unwrap();
    sweep::sweep(&table, &mut view, six_hours(), Mode::Quick).await.unwrap();
    merge_six(&lake).await;
    // To it all that the store stamps is a day old, the present as well.
    backdate(&path_of(&directory, &layout::commit_path(MERGED)), 24 * HOUR);
    faults.inject(Op::Get, "_lakehose_clock", Fault::Backdate(24 * HOUR), usize::MAX);
    let report = sweep::sweep(&table, &mut view, six_hours(), Mode::Full).await.unwrap();
    assert_eq!(report.deleted, []);
    assert_eq!(view.state.removed().len(), inputs.len());
    faults.heal();
    let report = sweep::sweep(&table, &mut view, six_hours(), Mode::Full).await.unwrap();
    assert_eq!(report.deleted.len(), inputs.len());
}

#[tokio::test]
async fn an_expired_date_leaves_in_one_commit_and_its_files_stay_for_readers() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    for number in 0..6 {
        append_all(&table, &mut state, [fragment(&table, number).await]).await;
    }
    let position = Change { operation: "WRITE", txns: vec![("events/0".into(), 18)], ..Change::default() };
    assert_eq!(table.commit(&mut state, &position).await.unwrap(), Outcome::Committed);

    // Its merge would be due, too, and is not worth it.
    let config = Config { cold_after: Duration::ZERO, ..Config::default() };
    let mut worker = workers(&lake, config.clone(), events(Some(24 * HOUR))).swap_remove(0);
    let planned = swept(&mut worker, Mode::DryRun).await;
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 7);
    assert_eq!(turn(&mut worker).await, Turn { expired: 6, ..Turn::default() });
    let [date] = planned.expired[..] else { panic!("{planned:?}") };
    assert_eq!((date.date.to_string(), date.files, date.rows as i64), ("2024-10-04".into(), 6, 6 * ROWS));

    let loaded = table.load(Keep::Files, &["events/0".into()]).await.unwrap();
    assert_eq!((loaded.version, loaded.files().len(), loaded.txn("events/0")), (8, 0, Some(18)));
    let actions = table.read_commit(8).await.unwrap().unwrap();
    let info = actions.iter().find_map(|action| action.commit_info.as_ref()).unwrap();
    assert_eq!(info.operation, "DELETE");
    assert_eq!(info.operation_parameters["dates"], "2024-10-04");
    assert_eq!(info.operation_parameters["rows"], 6 * ROWS);
    assert!(info.operation_parameters["by"].as_str().unwrap().contains('/'));
    assert!(actions.iter().filter_map(|action| action.remove.as_ref()).all(|remove| remove.data_change));
    assert_eq!(read(&table, Some(7)).await.len() as i64, 6 * ROWS);

    // Nothing is expired twice. What comes late is taken in, and goes.
    assert_eq!(turn(&mut worker).await, Turn::default());
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 8);
    append_all(&table, &mut state, [fragment(&table, 6).await]).await;
    assert_eq!(turn(&mut worker).await, Turn { expired: 1, ..Turn::default() });
    // Without a retention, and with one that is long, rows stay.
    append_all(&table, &mut state, [fragment(&table, 7).await]).await;
    for keep in [None, Some(Duration::from_secs(200 * 365 * 86_400))] {
        let mut worker = workers(&lake, config.clone(), events(keep)).swap_remove(0);
        assert_eq!(turn(&mut worker).await, Turn::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_of_files_that_expired_meanwhile_does_not_bring_their_rows_back() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let other = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&other, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    for number in 0..6 {
        append_all(&table, &mut state, [fragment(&table, number).await]).await;
    }
    let config = Config { cold_after: Duration::ZERO, ..Config::default() };
    // To one of two compactors the dataset has a retention.
    let (mut merger, mut expirer) =
        (worker(&lake, config.clone()), workers(&other, config, events(Some(HOUR))).swap_remove(0));
    faults.inject(Op::Put, "_delta_log", Fault::Stall, 1);
    let (merged, expired) = tokio::join!(turn(&mut merger), async {
        until(async || faults.injected() > 0).await;
        let expired = turn(&mut expirer).await;
        faults.cut_off();
        expired
    });
    assert_eq!((merged, expired), (Turn { lost: 1, ..Turn::default() }, Turn { expired: 6, ..Turn::default() }));
    assert_eq!(read(&table, None).await.len(), 0);
}

#[tokio::test]
async fn files_of_others_and_files_of_no_date_are_never_taken_for_orphans() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    append_all(&table, &mut state, [fragment(&table, 0).await]).await;
    let orphan = layout::segment_path(layout::date_from_days(DAY as i32), uuid::Uuid::new_v4());
    let unique = orphan.rsplit_once('/').unwrap().1;
    let others = [
        "date=2024-10-04/mine.parquet".to_owned(),
        "date=2024-10-04/part-00000-of-00001.snappy.parquet".to_owned(),
        format!("date=2024-10-04/{unique}.crc"),
        format!("date=someday/{unique}"),
        format!("notes/{unique}"),
        unique.to_owned(),
        "_delta_log/_commits/0.json.tmp".to_owned(),
        "README.md".to_owned(),
    ];
    for path in others.iter().chain([&orphan]) {
        store::put_new(table.store().as_ref(), &table.file_path(path), b"x".as_slice().into()).await.unwrap();
        backdate(&path_of(&directory, path), 1_000 * HOUR);
    }
    let report = swept(&mut worker(&lake, Config::default()), Mode::Full).await;
    assert_eq!(report.deleted.iter().map(|gone| gone.path.as_str()).collect::<Vec<_>>(), [&orphan]);
    assert!(others.iter().all(|path| path_of(&directory, path).exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_beside_appenders_and_rivals_takes_each_file_once() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let appender = tokio::spawn({
        let table = table.clone();
        async move {
            let mut state = table.load(Keep::Files, &[]).await.unwrap();
            append_all(&table, &mut state, (0..150).map(unwritten)).await;
        }
    });
    let sweepers: Vec<_> = (0..2)
        .map(|_| {
            let mut worker = workers(&lake, Config::default(), events(Some(HOUR))).swap_remove(0);
            tokio::spawn(async move {
                let mut expired = 0;
                for _ in 0..40 {
                    expired += swept(&mut worker, Mode::Quick).await.files_expired();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (worker, expired)
            })
        })
        .collect();
    appender.await.unwrap();
    let mut expired = 0;
    for sweeper in sweepers {
        let (mut worker, of_one) = sweeper.await.unwrap();
        expired += of_one + swept(&mut worker, Mode::Quick).await.files_expired();
    }
    assert_eq!(expired, 150);
    assert!(table.load(Keep::Files, &[]).await.unwrap().files().is_empty());
}

#[tokio::test]
async fn many_files_expire_in_commits_of_bounded_size() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    append(&table, &mut state, (0..9_000).map(unwritten).collect()).await;
    let mut worker = workers(&lake, Config::default(), events(Some(HOUR))).swap_remove(0);
    let report = swept(&mut worker, Mode::Quick).await;
    assert_eq!((report.expired.len(), report.files_expired()), (1, 9_000));
    table.refresh(&mut state).await.unwrap();
    assert_eq!((state.version, state.files().len()), (4, 0));
    let largest = table.list_log().await.unwrap().iter().map(|object| object.bytes).skip(2).max();
    assert!(largest.is_some_and(|bytes| bytes < 4 << 20), "{largest:?}");
}

#[tokio::test]
async fn a_store_that_fails_before_or_after_storing_expires_once() {
    for fault in [Fault::Fail, Fault::FailAfterSuccess] {
        let steps = [
            (Op::Put, "0004.json"),
            (Op::Get, "_delta_log"),
            (Op::Get, "_last_checkpoint"),
            (Op::Put, "_lakehose_clock"),
        ];
        for ((op, part), times) in steps.into_iter().flat_map(|step| (1..=4).map(move |times| (step, times))) {
            let directory = tempfile::tempdir().unwrap();
            let (lake, faults) = faulty_lake(directory.path()).unwrap();
            let table = table(&lake, &events(None)).await;
            let mut state = table.load(Keep::Files, &[]).await.unwrap();
            append_all(&table, &mut state, (0..3).map(unwritten)).await;
            let mut worker = workers(&lake, Config::default(), events(Some(HOUR))).swap_remove(0);
            faults.inject(op, part, fault, times);
            for _ in 0..=times {
                if let Err(error) = worker.turn(&CancellationToken::new()).await {
                    assert!(error.is_retryable(), "{op:?} {part} {fault:?}: {error}");
                }
            }
            table.refresh(&mut state).await.unwrap();
            assert_eq!((state.version, state.files().len()), (4, 0), "{op:?} {part} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_cleanup_of_the_log_that_fails_or_is_killed_anywhere_leaves_every_kept_version_readable() {
    for fault in [Fault::Fail, Fault::FailAfterSuccess, Fault::Stall] {
        let directory = tempfile::tempdir().unwrap();
        let (lake, faults) = faulty_lake(directory.path()).unwrap();
        let table = table(&lake, &events(None)).await;
        let mut state = table.load(Keep::Files, &[]).await.unwrap();
        // Only the checkpoint will know of it.
        let position = Change { operation: "WRITE", txns: vec![("events/0".into(), 7)], ..Change::default() };
        assert_eq!(table.commit(&mut state, &position).await.unwrap(), Outcome::Committed);
        append_all(&table, &mut state, (1..310).map(unwritten)).await;
        backdate_log(&directory, 310);
        let mut first = worker(&lake, Config::default());
        let victims = swept(&mut first, Mode::DryRun).await.deleted.len();
        faults.inject(Op::Delete, "0000000007", fault, 3);
        if fault == Fault::Stall {
            // Three hang, and the others are deleted.
            tokio::select! {
                () = until(async || faults.calls(Op::Delete) == victims) => {}
                ended = first.sweep_alone(Mode::Full) => panic!("nothing hung: {ended:?}"),
            }
        } else {
            assert_eq!(swept(&mut first, Mode::Full).await.failed, 3);
        }
        drop(first);
        for version in [200, 201, 260, 310] {
            let loaded = table.load_version(Some(version), Keep::Files, &["events/0".into()]).await.unwrap();
            assert_eq!((loaded.files().len() as u64, loaded.txn("events/0")), (version - 1, Some(7)), "{fault:?}");
        }
        // What is left below it is readable or not, and never less than it was.
        for version in [69, 72, 75, 100, 150] {
            if let Ok(loaded) = table.load_version(Some(version), Keep::Files, &[]).await {
                assert_eq!(loaded.files().len() as u64, version - 1, "{fault:?}");
            }
        }
        faults.heal();
        let mut second = worker(&lake, Config::default());
        assert_eq!(swept(&mut second, Mode::Full).await.failed, 0);
        assert_eq!(commits(&table).await, (200..=310).collect::<Vec<_>>(), "{fault:?}");
        let loaded = table.load(Keep::Files, &["events/0".into()]).await.unwrap();
        assert_eq!((loaded.files(), loaded.txn("events/0")), (state.files(), Some(7)));
    }
}

#[tokio::test]
async fn nothing_is_cleaned_up_behind_a_checkpoint_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    append_all(&table, &mut state, (0..215).map(unwritten)).await;
    std::fs::write(path_of(&directory, "_delta_log/00000000000000000100.checkpoint.parquet"), "PAR1 no PAR1").unwrap();
    backdate_log(&directory, 215);
    let mut worker = worker(&lake, Config::default());
    let report = swept(&mut worker, Mode::Full).await;
    assert_eq!((report.deleted.len(), report.failed), (0, 1));
    assert!(report.failure.as_ref().unwrap().contains("checkpoint"), "{report:?}");
    assert_eq!(commits(&table).await.len(), 216);
    assert_eq!(table.load(Keep::Files, &[]).await.unwrap().files().len(), 215);
}

#[tokio::test]
async fn a_checkpoint_whose_writer_died_is_written_by_the_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let mut worker = worker(&lake, Config::default());
    let latest = async || cleanup::latest_checkpoint(&table.list_log().await.unwrap());
    for number in 0..109 {
        append(&table, &mut state, vec![unwritten(number)]).await;
    }
    swept(&mut worker, Mode::Full).await;
    // Whoever made version 100 may be at it.
    assert_eq!(latest().await, None);
    append(&table, &mut state, vec![unwritten(109)]).await;
    swept(&mut worker, Mode::DryRun).await;
    assert_eq!(latest().await, None);
    swept(&mut worker, Mode::Full).await;
    assert_eq!((latest().await, table.named_checkpoint().await.unwrap()), (Some(110), Some(110)));
    assert_eq!(table.load(Keep::Files, &[]).await.unwrap().files(), state.files());
}

#[tokio::test]
async fn dead_letters_expire_by_their_own_date_as_events_do() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let dead = Table::open_or_create(&lake, "events__dead", lake::schema::dead()).await.unwrap();
    let mut state = dead.load(Keep::Files, &[]).await.unwrap();
    let today = layout::date_of(lake::table::now_ms() * 1_000);
    append(&dead, &mut state, vec![unwritten(0), DataFile { path: "today".into(), date: today, ..unwritten(1) }]).await;
    let mut worker = workers(&lake, Config::default(), events(Some(24 * HOUR))).swap_remove(1);
    assert_eq!(turn(&mut worker).await, Turn { expired: 1, ..Turn::default() });
    let left = dead.load(Keep::Files, &[]).await.unwrap();
    assert_eq!(left.files().keys().collect::<Vec<_>>(), ["today"]);
}

/// Needs an S3 server: run by `infra/test`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_s3_everything_that_is_due_goes_and_the_table_is_whole() {
    let [_, bucket] = ["LAKEHOSE_TEST_S3", "LAKEHOSE_TEST_S3_BUCKET"]
        .map(|name| std::env::var(name).unwrap_or_else(|_| panic!("set {name}, or run the tests by infra/test")));
    let lake = Lake::open(&format!("s3://{bucket}/sweep-{}", uuid::Uuid::new_v4())).unwrap();
    let table = table(&lake, &events(None)).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let orphan = fragment(&table, 1_000).await;
    // More than S3 tells in one answer to a listing.
    let more = (0..ORPHANS - 1).map(|_| layout::segment_path(layout::date_from_days(DAY as i32), uuid::Uuid::new_v4()));
    let more: Vec<_> = more.map(|path| table.file_path(&path)).collect();
    let puts = futures::stream::iter(&more).map(|path| table.store().put(path, "x".into()));
    puts.buffer_unordered(32).try_collect::<Vec<_>>().await.unwrap();
    append_all(&table, &mut state, [fragment(&table, 0).await]).await;
    append_all(&table, &mut state, (1..105).map(unwritten)).await;
    let everything =
        Retention { dates: Some(HOUR), removed: Duration::ZERO, orphans: Duration::ZERO, log: Duration::ZERO };
    // The store tells times in whole seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    append(&table, &mut state, vec![fragment(&table, 1).await]).await;
    let mut view = View::load(&table).await.unwrap();
    let planned = sweep::sweep(&table, &mut view, Retention { dates: None, ..everything }, Mode::DryRun).await.unwrap();
    let of = |report: &Report, why| report.deleted.iter().filter(|gone| gone.why == why).count();
    // 100 commits and a checksum.
    assert_eq!((of(&planned, Why::Orphan), of(&planned, Why::Log)), (ORPHANS, 101));
    let swept = sweep::sweep(&table, &mut view, everything, Mode::Full).await.unwrap();
    assert_eq!((swept.files_expired(), swept.failed, of(&swept, Why::Log)), (106, 0, 101), "{:?}", swept.failure);
    tokio::time::sleep(Duration::from_secs(2)).await;
    sweep::sweep(&table, &mut view, everything, Mode::Full).await.unwrap();

    assert_eq!(commits(&table).await, (100..=107).collect::<Vec<_>>());
    assert_eq!(of(&swept, Why::Orphan), ORPHANS);
    let exists = async |path: &str| store::get(table.store().as_ref(), &table.file_path(path)).await.unwrap().is_some();
    for path in [&orphan.path, state.files().keys().find(|path| path.contains("events-")).unwrap()] {
        assert!(!exists(path).await, "{path}");
    }
    table.refresh(&mut state).await.unwrap();
    append_all(&table, &mut state, [fragment(&table, 2).await]).await;
    assert_eq!(read(&table, None).await.len() as i64, ROWS);
    assert_eq!(table.load_version(Some(100), Keep::Files, &[]).await.unwrap().files().len(), 100);
}

#[tokio::test]
async fn marks_of_replays_are_swept_and_neither_merged_nor_expired() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let config = Config { cold_after: Duration::ZERO, ..Config::default() };
    let mut worker = workers(&lake, config, events(Some(HOUR))).swap_remove(2);
    assert_eq!(worker.table(), "events__dead_replays");
    assert_eq!(turn(&mut worker).await, Turn::default());

    let marks = Table::open_or_create(&lake, "events__dead_replays", lake::schema::dead_replays()).await.unwrap();
    let mut state = marks.load(Keep::Files, &[]).await.unwrap();
    for number in 0..6 {
        append(&marks, &mut state, vec![unwritten(number)]).await;
    }
    let [orphan, new] =
        [(); 2].map(|()| layout::segment_path(layout::date_from_days(DAY as i32), uuid::Uuid::new_v4()));
    for path in [&orphan, &new] {
        store::put_new(marks.store().as_ref(), &marks.file_path(path), b"x".as_slice().into()).await.unwrap();
    }
    let orphan = directory.path().join("events__dead_replays").join(orphan);
    backdate(&orphan, 25 * HOUR);
    assert_eq!(turn(&mut worker).await, Turn { deleted: 1, ..Turn::default() });
    assert!(!orphan.exists());
    assert_eq!(marks.load(Keep::Files, &[]).await.unwrap().files().len(), 6);
}
