//! Several compactors on one lake, and several merges in one compactor: the work is split, nobody is needed for it, and
//! an outage is survived.

mod support;

use bytesize::ByteSize;
use compactor::{Condition, Config, Deps};
use lake::dataset::{Dataset, DatasetSpec};
use lake::testing::{Fault, FaultyStore, Op, faulty_lake};
use lake::{DataFile, Keep, Lake, Table, layout, schema, store};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use support::{DAY, Row, append, counts, read, write_fragment};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const FRAGMENTS: i64 = 4;
const ROWS: i64 = 10;

/// Longer than anything here takes on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn named(name: &str) -> Dataset {
    Dataset::new(name, DatasetSpec::default()).unwrap()
}

/// Every date is cold at once. Announcements are made once a second whatever `every` is.
fn eager() -> Config {
    Config { cold_after: Duration::ZERO, every: Duration::from_millis(100), ..Config::default() }
}

async fn table(lake: &Lake, name: &str) -> Table {
    Table::open_or_create(lake, name, schema::events(&named(name))).await.unwrap()
}

/// Some fragments on each of `days` dates, in one commit.
async fn append_days(table: &Table, days: i64) {
    commit(table, write_days(table, days).await).await;
}

async fn commit(table: &Table, files: Vec<DataFile>) {
    append(table, &mut table.load(Keep::Files, &[]).await.unwrap(), files).await;
}

async fn write_days(table: &Table, days: i64) -> Vec<DataFile> {
    let mut files = Vec::new();
    for day in 0..days {
        for fragment in 0..FRAGMENTS {
            let first = (day * FRAGMENTS + fragment) * ROWS;
            let row = |offset| Row::new(&format!("d{}", offset % 3), offset + day * 86_400_000_000, 0, offset);
            let rows: Vec<Row> = (first..first + ROWS).map(row).collect();
            files.push(on_day(table, write_fragment(table, table.schema(), &rows, Some(&sort_by())).await, day).await);
        }
    }
    files
}

fn sort_by() -> Vec<String> {
    DatasetSpec::default().sort_by
}

/// Puts a file where its rows belong: all are written into the directory of the first day.
async fn on_day(table: &Table, file: DataFile, day: i64) -> DataFile {
    let [from, date] = [DAY, DAY + day].map(|day| layout::date_from_days(day as i32));
    let path = file.path.replace(&layout::date_directory(from), &layout::date_directory(date));
    let path = path.replace(".parquet", "-moved.parquet");
    let bytes = store::get(table.store().as_ref(), &table.file_path(&file.path)).await.unwrap().unwrap();
    store::put_new(table.store().as_ref(), &table.file_path(&path), bytes).await.unwrap();
    DataFile { path, date, ..file }
}

/// Every event once.
fn once(days: i64) -> BTreeMap<(i32, i64), usize> {
    (0..days * FRAGMENTS * ROWS).map(|offset| ((0, offset), 1)).collect()
}

struct Compactor {
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    condition: Condition,
}

impl Compactor {
    fn start(lake: &Lake, names: &[&str], memory: ByteSize, config: Config) -> Compactor {
        let deps = Deps { lake: lake.clone(), datasets: names.iter().map(|name| named(name)).collect(), memory };
        let (stop, condition) = (CancellationToken::new(), Condition::default());
        let task = tokio::spawn(compactor::run_observed(config, deps, condition.clone(), stop.clone()));
        Compactor { task, stop, condition }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn wait_for(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn files(table: &Table) -> usize {
    table.load(Keep::Files, &[]).await.unwrap().files().len()
}

/// Announcements in the lake.
fn announced(lake: &Path) -> Vec<String> {
    let Ok(directory) = std::fs::read_dir(lake.join("_compactors")) else { return Vec::new() };
    let names = directory.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.contains('#')).collect()
}

/// Starts so many, and waits until they know of each other.
async fn crew(n: usize, directory: &Path) -> Vec<Compactor> {
    let crew: Vec<_> = (0..n).map(|_| Looking::start(directory)).collect();
    wait_for("all are announced", PATIENCE, async || announced(directory).len() == n).await;
    for looking in &crew {
        looking.look_again().await;
    }
    crew.into_iter().map(|looking| looking.compactor).collect()
}

/// A compactor of which is known how often it has looked for the others.
struct Looking {
    compactor: Compactor,
    looks: FaultyStore,
}

impl Looking {
    fn start(directory: &Path) -> Looking {
        let (lake, looks) = faulty_lake(directory).unwrap();
        // No fault: they are counted.
        looks.inject(Op::List, "_compactors", Fault::Delay(Duration::ZERO), usize::MAX);
        Looking { compactor: Compactor::start(&lake, &["events"], ByteSize::mib(64), eager()), looks }
    }

    /// Waits until it has looked twice: the second time it began after this call, and the first was acted upon.
    async fn look_again(&self) {
        let looks = self.looks.injected() + 2;
        wait_for("it looks for the others", PATIENCE, async || self.looks.injected() > looks).await;
    }
}

/// Merged files on the disk that never came into the table: what was merged twice.
async fn merged_in_vain(directory: &Path, table: &Table) -> usize {
    let is_segment = |name: &str| name.contains("seg-") && name.ends_with(".parquet");
    let mut stored = 0;
    for date in std::fs::read_dir(directory.join(table.name())).unwrap() {
        let files = std::fs::read_dir(date.unwrap().path()).unwrap();
        stored += files.filter(|file| is_segment(file.as_ref().unwrap().file_name().to_str().unwrap())).count();
    }
    let mut committed = 0;
    for version in 0..=table.load(Keep::Txns, &[]).await.unwrap().version {
        let adds = table.read_commit(version).await.unwrap().unwrap().into_iter().filter_map(|action| action.add);
        committed += adds.filter(|add| is_segment(&add.path)).count();
    }
    stored - committed
}

async fn share_many_dates(n: usize) {
    const DAYS: i64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, "events").await;
    let crew = crew(n, directory.path()).await;
    append_days(&table, DAYS).await;
    wait_for("every date is one file", PATIENCE, async || files(&table).await == DAYS as usize).await;
    for compactor in crew {
        compactor.stop().await;
    }
    assert_eq!(counts(&read(&table, None).await), once(DAYS));
    let in_vain = merged_in_vain(directory.path(), &table).await;
    println!("{n} compactors, {DAYS} dates: {in_vain} merges in vain");
    assert!(in_vain <= 2, "{in_vain} of {DAYS} merges were made twice");
    assert_eq!(announced(directory.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_compactors_share_the_dates_of_a_table() {
    share_many_dates(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_compactors_share_the_dates_of_a_table() {
    share_many_dates(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dates_of_a_compactor_that_died_are_taken_over() {
    const DAYS: i64 = 20;
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, "events").await;
    let written = write_days(&table, DAYS).await;
    let dies = Looking::start(directory.path());
    wait_for("it is announced", PATIENCE, async || announced(directory.path()).len() == 1).await;
    let announcement = directory.path().join("_compactors").join(&announced(directory.path())[0]);
    let stays = Looking::start(directory.path());
    dies.compactor.task.abort();
    assert!(dies.compactor.task.await.unwrap_err().is_cancelled());

    // As if it had announced itself a moment ago, however slow this machine is.
    touch(&announcement, SystemTime::now() + Duration::from_secs(3600));
    stays.look_again().await;
    commit(&table, written).await;
    let own_part = async || files(&table).await < DAYS as usize * FRAGMENTS as usize;
    wait_for("its own part is done", PATIENCE, own_part).await;
    for _ in 0..2 {
        stays.look_again().await;
    }
    assert!(files(&table).await > DAYS as usize, "nobody does what is the part of one that is thought to be there");
    touch(&announcement, SystemTime::now() - Duration::from_secs(60));
    wait_for("every date is one file", PATIENCE, async || files(&table).await == DAYS as usize).await;
    stays.compactor.stop().await;
    assert_eq!(counts(&read(&table, None).await), once(DAYS));
}

fn touch(file: &Path, time: SystemTime) {
    std::fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn announcements_that_cannot_be_made_stop_no_work() {
    for fault in [Fault::Fail, Fault::Deny, Fault::FailAfterSuccess, Fault::Stall] {
        let directory = tempfile::tempdir().unwrap();
        let (lake, faults) = faulty_lake(directory.path()).unwrap();
        let table = table(&lake, "events").await;
        append_days(&table, 2).await;
        for op in [Op::Put, Op::List, Op::Delete] {
            faults.inject(op, "_compactors", fault, usize::MAX);
        }
        let compactor = Compactor::start(&lake, &["events"], ByteSize::mib(64), eager());
        wait_for("every date is one file", PATIENCE, async || files(&table).await == 2).await;
        assert_eq!(compactor.condition.trouble(), None, "{fault:?}");
        let stopping = Instant::now();
        compactor.stop().await;
        // Less than a look for others may take.
        assert!(stopping.elapsed() < Duration::from_secs(4), "{fault:?}: took {:?}", stopping.elapsed());
    }
}

#[tokio::test]
async fn what_a_crash_left_behind_is_removed_after_a_day_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let members = directory.path().join("_compactors");
    std::fs::create_dir(&members).unwrap();
    let leave = |name: &str, hours: u64| {
        std::fs::File::create_new(members.join(name)).unwrap();
        touch(&members.join(name), SystemTime::now() - Duration::from_secs(hours * 3600));
    };
    let [old, new] = [30, 20].map(|hours| {
        let name = Uuid::new_v4().to_string();
        leave(&name, hours);
        name
    });
    leave("README", 1_000);
    let compactor = Compactor::start(&lake, &["events"], ByteSize::mib(64), eager());
    wait_for("the old one is removed", PATIENCE, async || !announced(directory.path()).contains(&old)).await;
    compactor.stop().await;
    let mut left = announced(directory.path());
    left.sort();
    let mut expected = vec![new, "README".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_backlog_of_one_table_does_not_hold_up_another() {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let (large, small) = (table(&lake, "large").await, table(&lake, "small").await);
    append_days(&large, 20).await;
    append_days(&small, 1).await;
    // One merge at a time.
    let compactor = Compactor::start(&lake, &["large", "small"], ByteSize::mib(64), eager());
    wait_for("the small one is merged", PATIENCE, async || files(&small).await == 1).await;
    wait_for("the large one is merged", PATIENCE, async || files(&large).await == 20).await;
    compactor.stop().await;
    let (of_large, of_small) = (merged_at(&large).await, merged_at(&small).await);
    let before = of_large.iter().filter(|at_ms| **at_ms < of_small[0]).count();
    assert!(before <= 5, "only after {before} merges of the large one");
}

/// When merges came into the table, milliseconds since the epoch.
async fn merged_at(table: &Table) -> Vec<i64> {
    let mut times = Vec::new();
    for version in 0..=table.load(Keep::Txns, &[]).await.unwrap().version {
        let actions = table.read_commit(version).await.unwrap().unwrap();
        let infos = actions.into_iter().filter_map(|action| action.commit_info);
        times.extend(infos.filter(|info| info.operation == "OPTIMIZE").map(|info| info.timestamp));
    }
    times
}

#[tokio::test]
async fn merges_run_side_by_side_and_one_that_hangs_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, "events").await;
    append_days(&table, 6).await;
    faults.inject(Op::Put, "/seg-", Fault::Stall, 1);
    let config = Config { jobs: Some(2), ..eager() };
    let compactor = Compactor::start(&lake, &["events"], ByteSize::mib(128), config);
    let all_but_one = 5 + FRAGMENTS as usize;
    wait_for("all dates but one are merged", PATIENCE, async || files(&table).await == all_but_one).await;
    compactor.stop().await;
    assert_eq!(counts(&read(&table, None).await), once(6));
}

#[tokio::test]
async fn work_goes_on_soon_after_an_outage_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, "events").await;
    append_days(&table, 3).await;
    for op in [Op::Get, Op::List, Op::Put, Op::Delete] {
        faults.inject(op, "", Fault::Fail, usize::MAX);
    }
    let compactor = Compactor::start(&lake, &["events"], ByteSize::mib(64), eager());
    // Rests of 0.1, 0.2 … s: the one under way at the end takes 12.8 s.
    tokio::time::sleep(Duration::from_secs(14)).await;
    let trouble = compactor.condition.trouble().expect("nothing works");
    assert!(trouble.contains("events: ") && trouble.contains("injected"), "{trouble}");
    faults.heal();
    // Without the announcement it would rest for as long again.
    wait_for("every date is one file", Duration::from_secs(10), async || files(&table).await == 3).await;
    wait_for("no trouble is left", PATIENCE, async || compactor.condition.trouble().is_none()).await;
    compactor.stop().await;
    assert_eq!(counts(&read(&table, None).await), once(3));
}
