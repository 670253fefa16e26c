use super::*;
use crate::dataset::{Dataset, DatasetSpec};
use crate::range::OffsetRange;
use crate::schema;
use object_store::ObjectStoreExt;

struct Fixture {
    _directory: tempfile::TempDir,
    lake: Lake,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    Fixture { _directory: directory, lake }
}

fn events() -> TableSchema {
    schema::events(&Dataset::new("events", DatasetSpec::default()).unwrap())
}

async fn table(lake: &Lake) -> Table {
    Table::open_or_create(lake, "events", events()).await.unwrap()
}

fn file(path: &str, end: i64) -> DataFile {
    DataFile {
        path: path.into(),
        size: 10,
        date: "2026-11-22".parse().unwrap(),
        modified_ms: 5,
        stats: crate::file::FileStats { rows: 3, ..Default::default() },
        ranges: vec![OffsetRange { partition: 0, start: end - 1, end }],
        sorted_by: vec!["device_id".into(), "time".into()],
    }
}

fn append(path: &str, end: i64) -> Change {
    Change {
        operation: "STREAMING UPDATE",
        adds: vec![file(path, end)],
        txns: vec![("events/0".into(), end)],
        data_change: true,
        ..Change::default()
    }
}

const APP: &str = "events/0";

#[tokio::test]
async fn a_commit_moves_files_and_txns_together() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut state = table.load(Keep::Files, &[APP.into()]).await.unwrap();
    assert_eq!((state.version, state.txn(APP)), (0, None));
    assert_eq!(table.commit(&mut state, &append("date=2026-11-22/a.parquet", 7)).await.unwrap(), Outcome::Committed);
    assert_eq!((state.version, state.txn(APP), state.files().len()), (1, Some(7), 1));

    let loaded = table.load(Keep::Files, &[APP.into()]).await.unwrap();
    assert_eq!((loaded.version, loaded.txn(APP)), (1, Some(7)));
    assert_eq!(loaded.files(), state.files());
    let loaded = table.load(Keep::Txns, &[APP.into()]).await.unwrap();
    assert_eq!((loaded.txn(APP), loaded.files().len()), (Some(7), 0));
}

#[tokio::test]
async fn only_one_of_two_writers_makes_a_version_and_the_other_sees_it() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut a = table.load(Keep::Txns, &[]).await.unwrap();
    let mut b = a.clone();
    assert_eq!(table.commit(&mut a, &append("a", 7)).await.unwrap(), Outcome::Committed);
    assert_eq!(table.commit(&mut b, &append("b", 9)).await.unwrap(), Outcome::Conflict);
    assert_eq!((b.version, b.txn(APP)), (1, Some(7)));
}

#[tokio::test]
async fn a_state_that_is_read_anew_learns_of_applications_that_were_new_since_it_was_read() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut old = table.load(Keep::Txns, &[APP.into()]).await.unwrap();
    let mut writer = old.clone();
    table.commit(&mut writer, &append("a", 7)).await.unwrap();
    assert_eq!(old.txn(APP), None);
    old.loaded_at = old.loaded_at.checked_sub(TRUST_STATE_FOR * 2).unwrap();
    table.refresh(&mut old).await.unwrap();
    assert_eq!((old.version, old.txn(APP)), (1, Some(7)));
}

#[tokio::test]
async fn a_state_follows_replacements_and_remembers_when_files_left() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    table.commit(&mut state, &append("a", 1)).await.unwrap();
    table.commit(&mut state, &append("b", 2)).await.unwrap();
    let swap = Change {
        operation: "OPTIMIZE",
        removes: vec![file("a", 1), file("b", 2)],
        adds: vec![file("seg-c", 2)],
        ..Change::default()
    };
    let mut other = table.load(Keep::Files, &[APP.into()]).await.unwrap();
    table.commit(&mut state, &swap).await.unwrap();
    table.refresh(&mut other).await.unwrap();
    for state in [&state, &other] {
        assert_eq!(state.files().keys().collect::<Vec<_>>(), ["seg-c"]);
        assert_eq!(state.removed().keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(state.txn(APP), Some(2));
    }
    let mut late = table.load(Keep::Files, &[]).await.unwrap();
    assert!(late.removed().is_empty());
    table.load_removals(&mut late, 0).await.unwrap();
    assert_eq!(late.removed(), state.removed());
}

#[tokio::test]
async fn checkpoints_keep_files_tags_and_txns() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    for end in 1..=CHECKPOINT_EVERY as i64 + 3 {
        table.commit(&mut state, &append(&format!("f{end}"), end)).await.unwrap();
        let due = table.checkpoint_if_due(state.version).await.unwrap();
        assert_eq!(due, state.version == CHECKPOINT_EVERY);
    }
    // Without the commits before it the checkpoint must carry everything.
    for version in 0..CHECKPOINT_EVERY {
        let path = table.file_path(&layout::commit_path(version));
        table.store.delete(&path).await.unwrap();
    }
    let loaded = table.load(Keep::Files, &[APP.into(), "events/1".into()]).await.unwrap();
    assert_eq!((loaded.version, loaded.txn(APP), loaded.txn("events/1")), (103, Some(103), None));
    assert_eq!(loaded.files(), state.files());
}

#[tokio::test]
async fn a_table_of_another_schema_is_refused() {
    let fixture = fixture();
    table(&fixture.lake).await;
    let err = Table::open_or_create(&fixture.lake, "events", schema::dead()).await.unwrap_err();
    assert!(matches!(err, TableError::Schema { .. }), "{err}");
    assert!(err.to_string().contains("no column `reason`"), "{err}");
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let writer = |name: String| {
        let table = table.clone();
        tokio::spawn(async move {
            let mut state = table.load(Keep::Txns, &[]).await.unwrap();
            for round in 0..20 {
                let mut change = append(&format!("{name}-{round}"), 1);
                change.txns = vec![(format!("events/{name}"), round)];
                while table.commit(&mut state, &change).await.unwrap() == Outcome::Conflict {}
            }
        })
    };
    let writers: Vec<_> = (0..4).map(|n| writer(n.to_string())).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let apps: Vec<String> = (0..4).map(|n| format!("events/{n}")).collect();
    let state = table.load(Keep::Files, &apps).await.unwrap();
    assert_eq!((state.version, state.files().len()), (80, 80));
    assert!(apps.iter().all(|app| state.txn(app) == Some(19)));
}
