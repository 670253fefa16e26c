//! Deletions beside appenders, compactors and each other, killed, and on a store that fails: rows that are meant are gone,
//! all others are there once, at every version.

mod support;

use bytesize::ByteSize;
use compactor::delete::{DeleteError, Deleted, Deletion, Settings};
use compactor::merge::Budget;
use compactor::worker::Worker;
use compactor::{Config, Deps};
use lake::actions::Action;
use lake::dataset::Dataset;
use lake::testing::{Fault, FaultyStore, Op, faulty_lake};
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, layout, store};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
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

fn deps(lake: &Lake) -> Deps {
    Deps { lake: lake.clone(), datasets: vec![events()], memory: ByteSize::mib(64) }
}

fn worker(lake: &Lake, config: Config) -> Worker {
    compactor::workers(&config, &deps(lake)).swap_remove(0)
}

async fn deletion(table: &Table, clause: &str) -> Deletion {
    deletion_within(table, clause, Config::default().keep_orphans).await
}

async fn deletion_within(table: &Table, clause: &str, keep_orphans: Duration) -> Deletion {
    let settings = Settings { budget: Budget::new(ByteSize::mib(64)), keep_orphans };
    Deletion::new(table.clone(), clause.parse().unwrap(), settings).await.unwrap()
}

async fn delete(table: &Table, clause: &str) -> Deleted {
    deletion(table, clause).await.run().await.unwrap_or_else(|error| panic!("{clause}: {error:#}"))
}

const DEVICES: i64 = 5;
/// Rows of a fragment.
const ROWS: i64 = 20;

fn fragment_rows(partition: i32, number: i64) -> Vec<Row> {
    let row = |row| Row::new(&format!("d{}", row % DEVICES), number * 1_000 + row, partition, number * ROWS + row);
    (0..ROWS).map(row).collect()
}

async fn append_fragments(table: &Table, partition: i32, numbers: Range<i64>, pause: Duration) {
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let sort_by = events().spec.sort_by;
    for number in numbers {
        let rows = fragment_rows(partition, number);
        let file = write_fragment(table, table.schema(), &rows, Some(&sort_by)).await;
        append(table, &mut state, vec![file]).await;
        tokio::time::sleep(pause).await;
    }
}

async fn append_six(table: &Table) {
    append_fragments(table, 0, 0..6, Duration::ZERO).await;
}

/// Every row of these fragments once, but for those of `devices`.
fn once(partitions: i32, fragments: Range<i64>, devices: &[&str]) -> BTreeMap<(i32, i64), usize> {
    let rows = (0..partitions).flat_map(|partition| fragments.clone().map(move |number| (partition, number)));
    let rows = rows.flat_map(|(partition, number)| fragment_rows(partition, number));
    rows.filter(|row| !devices.contains(&row.device.as_str())).map(|row| ((row.partition, row.offset), 1)).collect()
}

async fn live(table: &Table) -> BTreeMap<String, DataFile> {
    let state = table.load(Keep::Files, &[]).await.unwrap();
    state.files().iter().map(|(path, file)| (path.clone(), DataFile::clone(file))).collect()
}

async fn commit_of(table: &Table, version: u64) -> Vec<Action> {
    table.read_commit(version).await.unwrap().unwrap()
}

/// A table in a lake whose store fails when it is told to.
struct Fixture {
    directory: tempfile::TempDir,
    lake: Lake,
    faults: FaultyStore,
    table: Table,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &events()).await;
    Fixture { directory, lake, faults, table }
}

/// Every Parquet file under a directory, live or not.
fn data_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| match path.is_dir() {
        true if path.ends_with("_delta_log") => Vec::new(),
        true => data_files(&path),
        false => vec![path],
    });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "parquet")).collect()
}

#[tokio::test]
async fn only_files_with_such_rows_are_rewritten_in_one_commit() {
    let Fixture { table, directory: _directory, .. } = fixture().await;
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let sort_by = events().spec.sort_by;
    let rows = |devices: &[&str], partition: i32| -> Vec<Row> {
        let devices = devices.iter().enumerate();
        devices.map(|(offset, device)| Row::new(device, offset as i64, partition, offset as i64)).collect()
    };
    let mixed = write_fragment(&table, table.schema(), &rows(&["a", "b", "c", "b"], 0), Some(&sort_by)).await;
    let alone = write_fragment(&table, table.schema(), &rows(&["b", "b"], 1), Some(&sort_by)).await;
    // Its statistics do not tell that there is no b in it.
    let others = write_fragment(&table, table.schema(), &rows(&["a", "c"], 2), Some(&sort_by)).await;
    let unsorted = write_fragment(&table, table.schema(), &rows(&["c", "b", "a"], 3), None).await;
    let files = vec![mixed.clone(), alone.clone(), others.clone(), unsorted.clone()];
    append(&table, &mut state, files).await;

    let mut deletion = deletion(&table, "device_id = 'b' AND time >= '2024-10-04'").await;
    let found = deletion.find().await.unwrap();
    assert_eq!((found.version, found.rows, found.files), (1, 5, 3));
    assert_eq!(found.bytes, mixed.size + alone.size + unsorted.size);
    let deleted = deletion.run().await.unwrap();
    assert_eq!((deleted.version, deleted.rows, deleted.dates), (2, 5, found.dates));
    assert_eq!((deleted.files_in, deleted.files_out, deleted.files_lost), (3, 2, 0));

    let live = live(&table).await;
    assert!(live.contains_key(&others.path), "it was rewritten for nothing");
    let by_partition = |partition| live.values().find(|file| file.ranges == [range_of(partition)]).unwrap();
    fn range_of(partition: i32) -> lake::OffsetRange {
        lake::OffsetRange { partition, start: 0, end: if partition == 0 { 4 } else { 3 } }
    }
    for (old, offsets) in [(&mixed, vec![0, 2]), (&unsorted, vec![0, 2])] {
        let new = by_partition(old.ranges[0].partition);
        assert_ne!(new.path, old.path);
        assert_eq!((new.date, &new.sorted_by, new.kind()), (old.date, &old.sorted_by, layout::Kind::Segment));
        let rows = read_file(&table, new).await;
        assert_eq!(rows.iter().map(|row| row.offset).collect::<Vec<_>>(), offsets, "rows keep their order");
    }
    assert_eq!((live.len(), read(&table, Some(1)).await.len(), read(&table, Some(2)).await.len()), (3, 11, 6));

    let commit = commit_of(&table, 2).await;
    let info = commit.iter().find_map(|action| action.commit_info.as_ref()).unwrap();
    assert_eq!(info.operation, "DELETE");
    let fact = |name: &str| info.operation_parameters[name].clone();
    assert_eq!(fact("predicate"), "device_id = 'b' AND time >= '2024-10-04'");
    assert_eq!((fact("filesIn"), fact("filesOut"), fact("rowsDeleted")), (3.into(), 2.into(), 5.into()));
    assert!(fact("millis").is_u64() && fact("by").as_str().unwrap().contains('/'), "{info:?}");
    assert!(commit.iter().filter_map(|action| action.add.as_ref()).all(|add| add.data_change));
    assert!(commit.iter().filter_map(|action| action.remove.as_ref()).all(|remove| remove.data_change));
}

#[tokio::test]
async fn what_is_not_there_makes_no_version() {
    let Fixture { table, directory, .. } = fixture().await;
    append_six(&table).await;
    let before = data_files(directory.path());
    for clause in ["device_id = 'd7'", "id = '0/1' AND device_id = 'd0'", "time < '2024-10-04'", "date = '2024-10-05'"]
    {
        let deleted = delete(&table, clause).await;
        assert_eq!(deleted, Deleted { version: 6, ..Deleted::default() }, "{clause}");
    }
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 6);
    assert_eq!(data_files(directory.path()), before);
}

#[tokio::test]
async fn every_kind_of_condition_deletes_what_it_says() {
    for (clause, is_meant) in [
        ("id IN ('0/1', '0/41', 'x')", (|row| ["0/1", "0/41"].contains(&row.id.as_str())) as fn(&Row) -> bool),
        ("device_id = 'd1' OR 'd2' = device_id", |row| ["d1", "d2"].contains(&row.device.as_str())),
        ("time < '2024-10-04T00:00:00.002005Z'", |row| row.time < 2_005),
        ("time BETWEEN '2024-10-04T00:00:00.001Z' AND '2024-10-04T00:00:00.001003Z'", |row| {
            (1_000..=1_003).contains(&row.time)
        }),
        ("date = '2024-10-04'", |_| true),
        // No row has a type.
        ("type = ''", |_| false),
    ] {
        let Fixture { table, directory: _directory, .. } = fixture().await;
        append_six(&table).await;
        let rows = (0..6).flat_map(|number| fragment_rows(0, number));
        let stays: Vec<Row> = rows.clone().filter(|row| !is_meant(row)).collect();
        let deleted = delete(&table, clause).await;
        assert_eq!(deleted.rows as usize, rows.count() - stays.len(), "{clause}");
        assert_eq!(counts(&read(&table, None).await), counts(&stays), "{clause}");
    }
}

#[tokio::test]
async fn an_older_file_gets_the_columns_of_the_table_and_a_foreign_one_is_read() {
    let Fixture { table, directory: _directory, .. } = fixture().await;
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let narrow = lake::schema::events(&dataset(false, &[]));
    let old = write_fragment(&table, &narrow, &fragment_rows(0, 0), Some(&[])).await;
    let foreign = DataFile {
        stats: Default::default(),
        ranges: Vec::new(),
        ..write_fragment(&table, table.schema(), &fragment_rows(1, 0), None).await
    };
    append(&table, &mut state, vec![old, foreign]).await;
    let deleted = delete(&table, "device_id = 'd1'").await;
    assert_eq!((deleted.rows, deleted.files_in, deleted.files_out), (8, 2, 2));
    assert_eq!(counts(&read(&table, None).await), once(2, 0..1, &["d1"]));
    let rows = read(&table, None).await;
    assert!(rows.iter().all(|row| row.temp.is_some() == (row.partition == 1)), "{rows:?}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_refuses_the_deletion_unless_it_can_hold_no_such_row() {
    let Fixture { table, directory: _directory, .. } = fixture().await;
    append_six(&table).await;
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let date = layout::date_from_days(DAY as i32);
    let path = format!("{}damaged.parquet", layout::date_directory(date));
    store::put_new(table.store().as_ref(), &table.file_path(&path), b"PAR1 no PAR1".as_slice().into()).await.unwrap();
    let (stats, ranges, sorted_by) = Default::default();
    let damaged = DataFile { path: path.clone(), size: 12, date, modified_ms: 0, stats, ranges, sorted_by };
    append(&table, &mut state, vec![damaged]).await;
    let error = deletion(&table, "device_id = 'd1'").await.run().await.unwrap_err();
    assert!(matches!(&error, DeleteError::File(_)) && error.to_string().contains(&path), "{error:#}");
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, state.version);
    assert_eq!(delete(&table, "device_id = 'd1' AND date > '2024-10-04'").await.rows, 0);
}

/// No version has a row twice or loses one that is not of `devices`.
async fn check_every_version(table: &Table, devices: &[&str]) {
    let latest = table.load(Keep::Txns, &[]).await.unwrap().version;
    let mut before: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for version in 0..=latest {
        let rows = read(table, Some(version)).await;
        assert!(counts(&rows).values().all(|count| *count == 1), "version {version} doubles rows");
        let others: Vec<Row> = rows.into_iter().filter(|row| !devices.contains(&row.device.as_str())).collect();
        let others = counts(&others);
        assert!(before.keys().all(|row| others.contains_key(row)), "version {version} lost rows");
        before = others;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_appenders_and_compactors_every_deletion_deletes_all_and_nothing_else() {
    const FRAGMENTS: i64 = 12;
    let Fixture { lake, table, directory: _directory, .. } = fixture().await;
    let stop = CancellationToken::new();
    let compactors: Vec<_> = (0..2).map(|_| tokio::spawn(compactor::run(eager(), deps(&lake), stop.clone()))).collect();
    let appenders: Vec<_> = (0..3)
        .map(|partition| {
            let table = table.clone();
            tokio::spawn(async move {
                append_fragments(&table, partition, 0..FRAGMENTS, Duration::from_millis(150)).await;
            })
        })
        .collect();
    let deleters: Vec<_> = ["d1", "d3"]
        .map(|device| {
            let table = table.clone();
            tokio::spawn(async move {
                while table.load(Keep::Txns, &[]).await.unwrap().version < 6 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let deleted = delete(&table, &format!("device_id = '{device}'")).await;
                let left = read(&table, Some(deleted.version)).await;
                assert!(left.iter().all(|row| row.device != device), "{device} is left at version {}", deleted.version);
                assert!(deleted.rows > 0);
            })
        })
        .into_iter()
        .collect();
    for task in deleters.into_iter().chain(appenders) {
        task.await.unwrap();
    }
    // What came after the first ones.
    tokio::join!(delete(&table, "device_id = 'd1'"), delete(&table, "device_id IN ('d3')"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.cancel();
    for compactor in compactors {
        compactor.await.unwrap().unwrap();
    }
    assert_eq!(counts(&read(&table, None).await), once(3, 0..FRAGMENTS, &["d1", "d3"]));
    check_every_version(&table, &["d1", "d3"]).await;
}

#[tokio::test]
async fn files_that_a_compactor_merged_meanwhile_are_looked_at_again() {
    let Fixture { directory: _directory, lake, faults, table } = fixture().await;
    append_six(&table).await;
    // The first rewritten file is late; until it is stored, all of them are merged.
    faults.inject(Op::Put, "/seg-", Fault::Hold, 1);
    let (deleted, merges) = tokio::join!(delete(&table, "device_id = 'd2'"), async {
        until(async || faults.held() > 0).await;
        let turn = worker(&lake, eager()).turn(&CancellationToken::new()).await.unwrap();
        faults.release();
        turn.merges
    });
    assert_eq!((merges, deleted.files_in, deleted.files_out, deleted.files_lost), (1, 1, 1, 6));
    assert_eq!(deleted.rows, 24);
    assert_eq!(counts(&read(&table, None).await), once(1, 0..6, &["d2"]));
    check_every_version(&table, &["d2"]).await;
}

#[tokio::test]
async fn a_merge_of_files_that_a_deletion_replaced_does_not_bring_the_rows_back() {
    let Fixture { directory: _directory, lake, faults, table } = fixture().await;
    append_six(&table).await;
    faults.inject(Op::Put, "/seg-", Fault::Hold, 1);
    let mut worker = worker(&lake, eager());
    let stop = CancellationToken::new();
    let (turn, deleted) = tokio::join!(worker.turn(&stop), async {
        until(async || faults.held() > 0).await;
        let deleted = delete(&table, "device_id = 'd2'").await;
        faults.release();
        deleted
    });
    let turn = turn.unwrap();
    // What it lost it does anew, with what the deletion has put in place.
    assert_eq!((turn.merges, turn.lost, turn.failed, deleted.files_in), (1, 1, 0, 6));
    let latest = table.load(Keep::Txns, &[]).await.unwrap().version;
    assert_eq!((deleted.version, latest), (7, 8));
    for version in 7..=8 {
        assert_eq!(counts(&read(&table, Some(version)).await), once(1, 0..6, &["d2"]), "version {version}");
    }
    assert_eq!(worker.turn(&stop).await.unwrap().merges, 0);
}

#[tokio::test]
async fn two_deletions_at_a_time_both_delete_what_they_say() {
    let Fixture { table, directory: _directory, .. } = fixture().await;
    append_six(&table).await;
    let (one, other, same) = tokio::join!(
        delete(&table, "device_id = 'd0'"),
        delete(&table, "id = '0/7'"),
        delete(&table, "device_id = 'd0'")
    );
    assert_eq!((one.rows + same.rows, one.rows.min(same.rows), other.rows), (24, 0, 1));
    let mut rows = once(1, 0..6, &["d0"]);
    rows.remove(&(0, 7));
    assert_eq!(counts(&read(&table, None).await), rows);
}

/// Replaces the only file by another of the same rows while the deletion stores its own: a compactor that is always faster.
async fn replace_for_ever(table: &Table, faults: &FaultyStore) {
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    for number in 1.. {
        until(async || faults.held() == number).await;
        let old = DataFile::clone(state.files().values().next().unwrap());
        let rows = read_file(table, &old).await;
        let new = write_fragment(table, table.schema(), &rows, None).await;
        let change = Change { operation: "OPTIMIZE", adds: vec![new], removes: vec![old], ..Change::default() };
        while table.commit(&mut state, &change).await.unwrap() != Outcome::Committed {}
        faults.release();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_outrun_by_compactors_again_and_again_says_so_and_has_deleted_nothing() {
    let Fixture { directory: _directory, faults, table, .. } = fixture().await;
    append_fragments(&table, 0, 0..1, Duration::ZERO).await;
    faults.inject(Op::Put, "/seg-", Fault::Hold, usize::MAX);
    let mut deletion = deletion(&table, "device_id = 'd2'").await;
    let error = tokio::select! {
        ended = deletion.run() => ended.unwrap_err(),
        () = replace_for_ever(&table, &faults) => unreachable!("it has no end"),
    };
    assert!(matches!(error, DeleteError::Outrun { .. }), "{error:#}");
    assert!(error.to_string().contains("nothing was deleted"), "{error}");
    assert_eq!(counts(&read(&table, None).await), once(1, 0..1, &[]));
}

#[tokio::test]
async fn a_deletion_whose_files_a_sweep_may_delete_before_the_commit_gives_up() {
    let Fixture { directory: _directory, faults, table, .. } = fixture().await;
    append_six(&table).await;
    let mut late = deletion_within(&table, "device_id = 'd2'", Duration::from_secs(2)).await;
    // While one file is late, the others get old.
    faults.inject(Op::Put, "/seg-", Fault::Delay(Duration::from_secs(2)), 1);
    assert!(matches!(late.run().await.unwrap_err(), DeleteError::TooLong));
    assert_eq!(counts(&read(&table, None).await), once(1, 0..6, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_slept_until_its_files_were_swept_commits_none_of_them() {
    let Fixture { directory, faults, table, .. } = fixture().await;
    append_six(&table).await;
    let awake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    faults.inject(Op::Put, "_delta_log", Fault::Stall, 1);
    let mut sleeper = deletion(&table, "device_id = 'd2'").await;
    let (slept, swept) = tokio::join!(sleeper.run(), async {
        until(async || faults.injected() > 0).await;
        let is_segment = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("seg-");
        for path in data_files(directory.path()).iter().filter(is_segment) {
            let written = std::fs::File::options().append(true).open(path).unwrap();
            written.set_modified(std::time::SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
        }
        let other = self::table(&awake, &events()).await;
        append_fragments(&other, 1, 0..1, Duration::ZERO).await;
        let swept = worker(&awake, Config::default()).turn(&CancellationToken::new()).await.unwrap();
        faults.cut_off();
        swept
    });
    assert_eq!((swept.merges, swept.deleted), (0, 6));
    assert!(matches!(slept.unwrap_err(), DeleteError::TooLong));
    let before = once(1, 0..6, &[]);
    let after = counts(&read(&table, None).await);
    assert!(before.iter().all(|(event, times)| after.get(event) == Some(times)));
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_is_no_end_as_long_as_it_gets_further() {
    let Fixture { directory: _directory, faults, table, .. } = fixture().await;
    append_fragments(&table, 0, 0..12, Duration::ZERO).await;
    let mut deletion = deletion(&table, "device_id = 'd2'").await;
    for _ in 0..8 {
        faults.inject(Op::Put, "/seg-", Fault::Fail, 1);
        faults.inject(Op::Put, "/seg-", Fault::Delay(Duration::ZERO), 1);
    }
    assert_eq!(deletion.run().await.unwrap().rows, 48);
    assert_eq!(counts(&read(&table, None).await), once(1, 0..12, &["d2"]));
}

/// How often a deletion asks for the next version before it commits: at its start, and after it has read the files.
const LOOKS: usize = 2;

/// Whatever is read of the log once the seventh version was stored meets the fault.
fn inject_after_commit(faults: &FaultyStore, fault: Fault) {
    // When there is no next version, the latest checkpoint is asked for as well.
    for name in ["00000000000000000007", layout::LAST_CHECKPOINT] {
        faults.inject(Op::Get, name, Fault::Delay(Duration::ZERO), LOOKS);
    }
    faults.inject(Op::Get, "_delta_log", fault, usize::MAX);
}

#[tokio::test]
async fn a_store_that_fails_anywhere_costs_an_attempt_and_nothing_else() {
    for (op, path_part) in
        [(Op::Get, "date="), (Op::Get, "/seg-"), (Op::Put, "/seg-"), (Op::Put, "_delta_log"), (Op::Get, "_delta_log")]
    {
        for fault in [Fault::Fail, Fault::FailAfterSuccess] {
            let Fixture { directory: _directory, faults, table, .. } = fixture().await;
            append_six(&table).await;
            let mut deletion = deletion(&table, "device_id = 'd4'").await;
            faults.inject(op, path_part, fault, 2);
            let deleted =
                deletion.run().await.unwrap_or_else(|error| panic!("{op:?} {path_part} {fault:?}: {error:#}"));
            assert_eq!((deleted.version, deleted.rows, deleted.files_in), (7, 24, 6), "{op:?} {path_part} {fault:?}");
            assert_eq!(counts(&read(&table, None).await), once(1, 0..6, &["d4"]), "{op:?} {path_part} {fault:?}");
            check_every_version(&table, &["d4"]).await;
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_recognised_whatever_became_of_its_files() {
    // With successors, which a compactor merges before it is known what became of the commit, and without any.
    for (clause, rows, files_out) in [("device_id = 'd4'", 24, 6), ("date = '2024-10-04'", 120, 0)] {
        let Fixture { directory, faults, table, .. } = fixture().await;
        append_six(&table).await;
        let mut deletion = deletion(&table, clause).await;
        faults.inject(Op::Put, "_delta_log", Fault::FailAfterSuccess, 1);
        faults.inject(Op::Get, "_delta_log/00000000000000000007", Fault::Delay(Duration::ZERO), LOOKS);
        // Nothing tells whose the new version is, until its files are merged.
        faults.inject(Op::Get, "_delta_log/00000000000000000007", Fault::Fail, usize::MAX);
        let clean = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let seen = support::table(&clean, &events()).await;
        let (deleted, merges) = tokio::join!(deletion.run(), async {
            until(async || seen.read_commit(7).await.unwrap().is_some()).await;
            let merges = worker(&clean, eager()).turn(&CancellationToken::new()).await.unwrap().merges;
            faults.heal();
            merges
        });
        let deleted = deleted.unwrap();
        assert_eq!((deleted.version, deleted.rows, deleted.files_out), (7, rows, files_out), "{clause}");
        assert_eq!(merges, usize::from(files_out > 0), "{clause}");
        assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 7 + merges as u64, "{clause}");
    }
}

#[tokio::test]
async fn a_store_that_stays_away_at_the_commit_leaves_it_open_and_says_so() {
    let Fixture { directory: _directory, faults, table, .. } = fixture().await;
    append_six(&table).await;
    let mut first = deletion(&table, "device_id = 'd4'").await;
    faults.inject(Op::Put, "_delta_log", Fault::FailAfterSuccess, 1);
    inject_after_commit(&faults, Fault::Fail);
    let error = first.run().await.unwrap_err();
    assert!(error.is_open() && error.to_string().contains("run it again"), "{error:#}");
    faults.heal();
    assert_eq!(delete(&table, "device_id = 'd4'").await, Deleted { version: 7, ..Deleted::default() });

    let mut second = deletion(&table, "device_id = 'd3'").await;
    faults.inject(Op::Put, "/seg-", Fault::Fail, usize::MAX);
    let error = second.run().await.unwrap_err();
    assert!(!error.is_open(), "{error:#}");
    assert_eq!(counts(&read(&table, None).await), once(1, 0..6, &["d4"]));
}

#[tokio::test]
async fn whoever_interrupts_a_deletion_knows_whether_it_may_have_happened() {
    let Fixture { directory: _directory, faults, table, .. } = fixture().await;
    append_six(&table).await;
    for (path_part, may_have_happened) in [("/seg-", false), ("_delta_log", true)] {
        faults.inject(Op::Put, path_part, Fault::Stall, 1);
        let before = faults.calls(Op::Put);
        let mut interrupted = deletion(&table, "device_id = 'd4'").await;
        tokio::select! {
            done = interrupted.run() => panic!("{path_part}: {done:?}"),
            () = until(async || faults.calls(Op::Put) > before + usize::from(may_have_happened) * 6) => {}
        }
        assert_eq!(interrupted.is_open(), may_have_happened, "{path_part}");
        faults.heal();
    }
    assert_eq!(delete(&table, "device_id = 'd4'").await.rows, 6 * ROWS as u64 / 5);
}

#[tokio::test]
async fn after_the_retention_no_data_file_holds_such_a_row() {
    let Fixture { directory, lake, faults, table } = fixture().await;
    append_six(&table).await;
    // One that loses against a compactor leaves its files behind, and so does one that is killed.
    faults.inject(Op::Put, "/seg-", Fault::Hold, 1);
    tokio::join!(delete(&table, "device_id = 'd1'"), async {
        until(async || faults.held() > 0).await;
        worker(&lake, eager()).turn(&CancellationToken::new()).await.unwrap();
        faults.release();
    });
    let met = faults.injected();
    faults.inject(Op::Put, "_delta_log", Fault::Stall, 1);
    let mut killed = deletion(&table, "device_id = 'd2'").await;
    tokio::select! {
        () = until(async || faults.injected() > met) => {}
        ended = killed.run() => panic!("nothing hung: {ended:?}"),
    }
    drop(killed);
    faults.heal();
    delete(&table, "device_id IN ('d2', 'd3')").await;

    let holds = |device: &str| data_files(directory.path()).iter().any(|path| has_device(path, device));
    let gone = ["d1", "d2", "d3"];
    assert!(gone.iter().all(|device| holds(device)), "files stay for those who may be reading them");
    let at_once = Config { keep_orphans: Duration::ZERO, keep_removed: Duration::ZERO, ..eager() };
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(worker(&lake, at_once).turn(&CancellationToken::new()).await.unwrap().deleted > 6);
    // An orphan's age is measured up to the store's latest file, so that one may stay a while: it has none of them.
    assert!(!gone.iter().any(|device| holds(device)));
    assert!(holds("d0") && holds("d4"));
    assert_eq!(counts(&read(&table, None).await), once(1, 0..6, &gone));
}

fn has_device(path: &Path, device: &str) -> bool {
    rows_of(std::fs::read(path).unwrap().into()).iter().any(|row| row.device == device)
}
