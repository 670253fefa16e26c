//! A sweep that has everything to do: a date expires, files that left the table go, and orphans, unfinished uploads and old
//! commits. Whichever request fails, nothing that is live goes, and the next sweep finishes.

use super::*;
use compactor::sweep::{Mode, Report};
use lake::{TableState, cleanup};
use std::path::Path;
use std::time::SystemTime;

const HOUR: Duration = Duration::from_secs(3600);

/// The version of the checkpoint to clean up behind.
const CHECKPOINT: u64 = 6;

fn expiring() -> Dataset {
    let mut dataset = events();
    dataset.spec.retention = Some(HOUR);
    dataset
}

fn sweeper(lake: &Lake) -> Worker {
    let config = Config { keep_removed: Duration::ZERO, keep_orphans: Duration::ZERO, ..config() };
    compactor::workers(&config, &Deps { datasets: vec![expiring()], ..deps(lake) }).swap_remove(0)
}

/// A table on a disk, whose files are as old as they must be.
struct Stale {
    directory: TempDir,
    /// Rows that stay.
    live: Vec<Row>,
    /// Files that must not be there in the end.
    due: Vec<String>,
    latest: u64,
}

impl Stale {
    async fn make() -> Stale {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let table = table(&lake, &events()).await;
        let mut state = table.load(Keep::Files, &[]).await.unwrap();
        let write = async |first| write_fragment(&table, table.schema(), &rows(first, 10, 8), None).await;
        let (expires, removed, orphan) = (write(0).await, write(10).await, write(20).await);
        let stays = today(&table, write(30).await).await;
        append(&table, &mut state, vec![expires, removed.clone()]).await;
        let remove = Change { operation: "OPTIMIZE", removes: vec![removed.clone()], ..Change::default() };
        commit(&table, &mut state, &remove).await;
        append(&table, &mut state, vec![stays]).await;
        let nothing = Change { operation: "WRITE", ..Change::default() };
        while state.version < CHECKPOINT {
            commit(&table, &mut state, &nothing).await;
        }
        table.checkpoint(CHECKPOINT).await.unwrap();
        commit(&table, &mut state, &nothing).await;
        let upload = format!("{}#1", orphan.path);
        std::fs::write(directory.path().join("events").join(&upload), "half").unwrap();
        // What expires now goes later.
        let due = [removed.path, orphan.path, upload];
        for path in &due {
            backdate(&directory.path().join("events").join(path), 48 * HOUR);
        }
        for object in table.list_log().await.unwrap() {
            let path = format!("{}/{}", layout::LOG, object.name);
            let is_old = path < layout::commit_path(CHECKPOINT + 1);
            let path = directory.path().join("events").join(path);
            backdate(&path, if is_old { 48 * HOUR } else { HOUR });
        }
        Stale { directory, live: rows(30, 10, 8), due: due.to_vec(), latest: state.version }
    }

    /// The same once more. Files are links, for none is ever written to again.
    fn again(&self) -> (TempDir, Lake, FaultyStore) {
        let directory = tempfile::tempdir().unwrap();
        link_all(self.directory.path(), directory.path());
        let (lake, faults) = lake::testing::faulty_lake(directory.path()).unwrap();
        (directory, lake, faults)
    }

    /// What readers see, and that nothing they may need is gone.
    async fn check(&self, directory: &TempDir, context: &str) {
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let table = Table::open(&lake, "events", schema::events(&events())).await.unwrap().unwrap();
        let latest = table.load(Keep::Files, &[]).await.unwrap();
        for version in CHECKPOINT..=latest.version {
            let state = table.load_version(Some(version), Keep::Files, &[]).await;
            let state = state.unwrap_or_else(|error| panic!("{context}: version {version}: {error:#}"));
            let files = state.files().len();
            assert!(files == 2 || files == 1 && version > self.latest, "{context}: version {version}: {files} files");
        }
        let stays = latest.files().values().find(|file| file.date != layout::date_from_days(support::DAY as i32));
        let rows =
            read_file(&table, stays.unwrap_or_else(|| panic!("{context}: a date went that is not expired"))).await;
        assert_eq!(by_offset(rows), self.live, "{context}");
    }

    /// Everything that is due is gone, and all the rest is there.
    async fn check_swept(&self, directory: &TempDir, context: &str) {
        self.check(directory, context).await;
        for path in &self.due {
            assert!(!directory.path().join("events").join(path).exists(), "{context}: {path}");
        }
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let table = Table::open(&lake, "events", schema::events(&events())).await.unwrap().unwrap();
        let log = table.list_log().await.unwrap();
        assert_eq!(cleanup::latest_checkpoint(&log), Some(CHECKPOINT), "{context}");
        let oldest = log.iter().filter(|object| object.name.ends_with(".json")).map(|object| &object.name).min();
        assert_eq!(format!("{}/{}", layout::LOG, oldest.unwrap()), layout::commit_path(CHECKPOINT), "{context}");
        let live = table.load(Keep::Files, &[]).await.unwrap();
        assert_eq!((live.version, live.files().len()), (self.latest + 1, 1), "{context}");
    }
}

/// Puts a file where a date has begun that is not over.
async fn today(table: &Table, file: DataFile) -> DataFile {
    let date = layout::date_of(lake::table::now_ms() * 1_000);
    let path = format!("{}stays.parquet", layout::date_directory(date));
    let bytes = store::get(table.store().as_ref(), &table.file_path(&file.path)).await.unwrap().unwrap();
    store::put_new(table.store().as_ref(), &table.file_path(&path), bytes).await.unwrap();
    table.store().delete(&table.file_path(&file.path)).await.unwrap();
    DataFile { path, date, ..file }
}

async fn commit(table: &Table, state: &mut TableState, change: &Change) {
    assert_eq!(table.commit(state, change).await.unwrap(), Outcome::Committed);
}

fn backdate(file: &Path, age: Duration) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn link_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            std::fs::create_dir(&to).unwrap();
            link_all(&from, &to);
        } else {
            std::fs::hard_link(from, to).unwrap();
        }
    }
}

/// Sweeps; a store that fails may end that, or leave something for the next time.
async fn sweep(lake: &Lake, context: &str) -> Option<Report> {
    match sweeper(lake).sweep_alone(Mode::Full).await {
        Ok(report) => report,
        Err(error) => {
            assert!(error.is_retryable(), "{context}: {:#}", anyhow::Error::from(error));
            None
        }
    }
}

async fn finish(directory: &TempDir) {
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    assert_eq!(sweep(&lake, "without faults").await.unwrap().failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sweep_whose_request_fails_takes_nothing_that_is_needed_and_the_next_one_finishes() {
    let stale = Stale::make().await;
    for fault in [Fault::Fail, Fault::FailAfterSuccess, Fault::Truncate] {
        for request in 0.. {
            let (directory, lake, faults) = stale.again();
            faults.inject_after(request, "", fault, 1);
            let context = format!("{fault:?} of request {request}");
            sweep(&lake, &context).await;
            stale.check(&directory, &context).await;
            finish(&directory).await;
            stale.check_swept(&directory, &context).await;
            if faults.injected() == 0 {
                assert!(request > 20, "{request}");
                break;
            }
        }
    }
}

#[test]
fn a_sweep_that_is_killed_at_any_request_takes_nothing_that_is_needed_and_the_next_one_finishes() {
    let stale = runtime().block_on(Stale::make());
    for request in 0.. {
        let (directory, lake, faults) = stale.again();
        faults.inject_after(request, "", Fault::Stall, usize::MAX);
        let context = format!("killed at request {request}");
        let killed = runtime();
        let was_done = killed.block_on(async {
            tokio::select! {
                () = until(async || faults.injected() > 0) => false,
                report = sweep(&lake, &context) => report.is_some(),
            }
        });
        killed.shutdown_background();
        faults.heal();
        faults.cut_off();
        runtime().block_on(async {
            stale.check(&directory, &context).await;
            finish(&directory).await;
            stale.check_swept(&directory, &context).await;
        });
        if was_done {
            assert!(request > 20, "{request}");
            break;
        }
    }
}
