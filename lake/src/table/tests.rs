use super::*;
use crate::dataset::{Dataset, DatasetSpec};
use crate::range::OffsetRange;
use crate::schema;
use crate::state::Removal;
use crate::testing::{Fault, Op, faulty_lake};
use object_store::ObjectStoreExt;

struct Fixture {
    directory: tempfile::TempDir,
    lake: Lake,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    Fixture { directory, lake }
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
    // Who saw them leave and who reads of it say the same, by the clock of the store.
    let log = layout::commit_path(3);
    let committed = std::fs::File::options().append(true).open(fixture.directory.path().join("events").join(log));
    committed.unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(77)).unwrap();
    table.load_removals(&mut late, Duration::MAX).await.unwrap();
    table.date_removals(&mut state).await.unwrap();
    for seen in [&late, &state] {
        let removal = Removal { version: 3, at_ms: Some(77_000) };
        assert_eq!(seen.removed().values().collect::<Vec<_>>(), [&removal, &removal]);
    }
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
async fn whoever_slept_while_the_log_was_cleaned_up_takes_no_old_version_for_the_latest() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake).await;
    let mut state = table.load(Keep::Files, &[]).await.unwrap();
    let mut sleepers = Vec::new();
    for end in 1..=203 {
        table.commit(&mut state, &append(&format!("f{end}"), end)).await.unwrap();
        table.checkpoint_if_due(state.version).await.unwrap();
        if [50, 60, 70].contains(&end) {
            sleepers.push(state.clone());
        }
    }
    for version in 0..200 {
        table.store.delete(&table.file_path(&layout::commit_path(version))).await.unwrap();
    }
    // By their own clocks no time has passed.
    sleepers.iter_mut().for_each(|state| state.loaded_at = std::time::Instant::now());

    let [reader, writer, unlucky] = &mut sleepers[..] else { panic!("three sleep") };
    table.refresh(reader).await.unwrap();
    assert_eq!((reader.version, reader.txn(APP)), (203, Some(203)));
    assert_eq!(reader.files(), state.files());

    // The place of its next version is free again. What is stored there is in no version.
    assert_eq!(table.commit(writer, &append("lost", 61)).await.unwrap(), Outcome::Conflict);
    store.inject(Op::Put, "00071.json", Fault::FailAfterSuccess, 1);
    assert_eq!(table.commit(unlucky, &append("lost", 71)).await.unwrap(), Outcome::Conflict);
    for state in [&*writer, &*unlucky] {
        assert_eq!((state.version, state.txn(APP)), (203, Some(203)));
    }
    assert_eq!(table.commit(writer, &append("late", 204)).await.unwrap(), Outcome::Committed);
    table.refresh(reader).await.unwrap();
    assert_eq!((reader.version, reader.files().len()), (204, 204));
    assert_eq!(table.load(Keep::Files, &[]).await.unwrap().files(), reader.files());
}

#[tokio::test]
async fn a_table_of_another_schema_is_refused() {
    let fixture = fixture();
    table(&fixture.lake).await;
    let err = Table::open_or_create(&fixture.lake, "events", schema::dead()).await.unwrap_err();
    assert!(matches!(err, TableError::Schema { .. }), "{err}");
    assert!(err.to_string().contains("no column `reason`"), "{err}");
}

/// The schema of the table with these columns declared.
fn declaring(columns: &str) -> TableSchema {
    let spec: DatasetSpec = serde_json::from_str(&format!("{{\"columns\":{columns}}}")).unwrap();
    schema::events(&Dataset::new("events", spec).unwrap())
}

async fn open(lake: &Lake, columns: &str) -> Table {
    Table::open_or_create(lake, "events", declaring(columns)).await.unwrap()
}

#[tokio::test]
async fn a_declared_column_that_the_table_lacks_is_added_in_one_commit_and_only_once() {
    let fixture = fixture();
    let old = open(&fixture.lake, r#"{"n":"int"}"#).await;
    let mut running = old.load(Keep::Files, &[APP.into()]).await.unwrap();
    old.commit(&mut running, &append("a", 7)).await.unwrap();
    let created = Arc::clone(&running.metadata);

    let columns = r#"{"n":"long","x":{"type":"string","stats":true}}"#;
    for _ in 0..2 {
        let new = open(&fixture.lake, columns).await;
        assert_eq!(new.schema(), &declaring(columns));
        let state = new.load(Keep::Files, &[APP.into()]).await.unwrap();
        assert_eq!((state.version, state.txn(APP), state.files().len()), (2, Some(7), 1));
        assert_eq!(state.metadata.schema_string, declaring(columns).to_delta());
        assert_eq!(state.metadata.configuration[STATS_COLUMNS], "device_id,time,kafka_partition,kafka_offset,x");
        let Metadata { id, created_time, partition_columns, .. } = state.metadata.as_ref();
        assert_eq!((id, created_time), (&created.id, &created.created_time));
        assert_eq!(partition_columns, &["date"]);
        assert_eq!(state.metadata.configuration.len(), created.configuration.len());
    }

    // Whoever has the older columns goes on, and sees the new ones.
    assert_eq!(old.commit(&mut running, &append("b", 9)).await.unwrap(), Outcome::Conflict);
    assert_eq!(old.commit(&mut running, &append("b", 9)).await.unwrap(), Outcome::Committed);
    assert_eq!((running.version, running.metadata.schema_string.clone()), (3, declaring(columns).to_delta()));
    let own = old.at(&running).unwrap();
    assert_eq!(
        (own.schema().to_delta(), &own.schema().stats),
        (declaring(columns).to_delta(), &declaring(columns).stats)
    );
    // Rolled back: the table stays as it is, and files are written as it has them.
    let back = open(&fixture.lake, r#"{"n":"int"}"#).await;
    assert_eq!(back.schema(), &declaring(r#"{"n":"long"}"#));
    assert_eq!(back.load(Keep::Txns, &[]).await.unwrap().version, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn programs_that_bring_different_columns_at_once_end_with_all_of_them() {
    for _ in 0..10 {
        let fixture = fixture();
        open(&fixture.lake, r#"{"n":"int"}"#).await;
        let start = |columns: String| {
            let lake = fixture.lake.clone();
            tokio::spawn(async move { open(&lake, &columns).await })
        };
        let starting: Vec<_> =
            (0..4).map(|n| start(format!(r#"{{"n":"long","c{n}":"double","all":"string"}}"#))).collect();
        let mut tables = Vec::new();
        for table in starting {
            tables.push(table.await.unwrap());
        }
        let state = tables[0].load(Keep::Txns, &[]).await.unwrap();
        let own = tables[0].at(&state).unwrap();
        let fields = &own.schema().arrow.fields()[own.schema().declared.clone()];
        let mut names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[0], "n");
        names.sort();
        assert_eq!(names, ["all", "c0", "c1", "c2", "c3", "n"]);
        // The table was there: one change for each that brought something new.
        assert_eq!(state.version, 4);
    }
}

#[tokio::test]
async fn a_change_of_columns_is_in_checksums_and_checkpoints() {
    let fixture = fixture();
    let table = open(&fixture.lake, r#"{"n":"int"}"#).await;
    let mut state = table.load(Keep::Files, &[APP.into()]).await.unwrap();
    let columns = r#"{"n":"long","x":"string"}"#;
    for end in 1..=CHECKPOINT_EVERY as i64 + 3 {
        if end == 50 {
            open(&fixture.lake, columns).await;
            table.refresh(&mut state).await.unwrap();
        }
        table.commit(&mut state, &append(&format!("f{end}"), end)).await.unwrap();
        table.checkpoint_if_due(state.version).await.unwrap();
        if end == 60 {
            // Before there is a checkpoint, on the checksum of version 0 and the commits since.
            let loaded = table.load(Keep::Files, &[APP.into()]).await.unwrap();
            assert_eq!((loaded.txn(APP), loaded.files().len()), (Some(60), 60));
            assert_eq!(loaded.metadata, state.metadata);
        }
    }
    assert_eq!(state.metadata.schema_string, declaring(columns).to_delta());
    for version in 0..CHECKPOINT_EVERY {
        table.store.delete(&table.file_path(&layout::commit_path(version))).await.unwrap();
    }
    let loaded = table.load(Keep::Files, &[APP.into()]).await.unwrap();
    assert_eq!((loaded.version, loaded.txn(APP)), (state.version, Some(103)));
    assert_eq!(loaded.metadata, state.metadata);
    assert_eq!(loaded.files(), state.files());
    // A snapshot of before the change keeps the columns of then.
    let columns = open(&fixture.lake, r#"{"n":"long","x":"string","y":"boolean"}"#).await;
    let before = columns.load_version(Some(state.version), Keep::Txns, &[]).await.unwrap();
    assert_eq!(before.metadata, state.metadata);
}

#[tokio::test]
async fn a_change_of_columns_whose_answer_is_lost_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = faulty_lake(directory.path()).unwrap();
    open(&lake, "{}").await;
    store.inject(Op::Put, "_delta_log/00000000000000000001.json", Fault::FailAfterSuccess, 1);
    let table = open(&lake, r#"{"x":"string"}"#).await;
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_conflicting_column_is_refused_and_the_table_stays_as_it_was() {
    let fixture = fixture();
    let table = open(&fixture.lake, r#"{"n":"long"}"#).await;
    let refused = Table::open_or_create(&fixture.lake, "events", declaring(r#"{"new":"int","n":"string"}"#)).await;
    let refusal = refused.unwrap_err().to_string();
    assert!(refusal.contains("its column `n` is long, and string is declared"), "{refusal}");
    assert!(refusal.contains(table.url()), "{refusal}");
    assert_eq!(table.load(Keep::Txns, &[]).await.unwrap().version, 0);
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

#[tokio::test]
async fn a_table_that_another_program_has_changed_is_left_alone_with_advice() {
    let fixture = fixture();
    let table = table(&fixture.lake).await;
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    let protocol = Action::protocol(Protocol { min_reader_version: 99, min_writer_version: 99 });
    let path = table.file_path(&layout::commit_path(1));
    table.store.put(&path, actions::to_lines(&[protocol]).into()).await.unwrap();
    for err in [table.refresh(&mut state).await.unwrap_err(), table.load(Keep::Txns, &[]).await.unwrap_err()] {
        assert!(!err.is_retryable(), "{err:?}");
        assert!(err.advice().unwrap().contains("another program has changed the table"), "{err:?}");
    }
}

#[tokio::test]
async fn rights_that_are_missing_while_the_log_is_listed_are_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, store) = crate::testing::faulty_lake(directory.path()).unwrap();
    let table = table(&lake).await;
    store.fail_next(crate::testing::Op::List, 1);
    assert!(table.load(Keep::Txns, &[]).await.unwrap_err().is_retryable());
    store.inject(crate::testing::Op::List, "", crate::testing::Fault::Deny, 1);
    let err = table.load(Keep::Txns, &[]).await.unwrap_err();
    assert!(!err.is_retryable() && err.advice().unwrap().contains("s3:ListBucket"), "{err:?}");
}
