//! The table of replays as the one who replays writes it.
//!
//! A batch is begun with a file of the records as they are to be appended, and settled by taking that file out and
//! putting one in its place that tells where they are. Both are commits on exactly the version that was looked at, and
//! there is one batch under way at most. With its begin are committed, as `txn` of each partition, the offsets that the
//! topic ended at: no record of the batch is below them.

use super::Version;
use super::batch::{Batch, Landed};
use super::read::Batches;
use super::replayed::is_open;
use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::compute::{lexsort_to_indices, take_record_batch};
use eventlog::{Bounds, Position};
use lake::dataset::dead_replays_table;
use lake::parquet::FileWriter;
use lake::store::put_new;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Lake, Outcome, Table, layout, schema};
use std::sync::Arc;
use tracing::warn;
use uuid::Uuid;

pub struct Marks {
    pub version: Version,
    dataset: String,
}

/// A batch under way, and the file that says so.
pub struct Open {
    pub batch: Batch,
    file: Arc<DataFile>,
}

const SORTED_BY: [&str; 2] = ["kafka_partition", "kafka_offset"];

impl Marks {
    /// Reads the table, which is made if it does not exist.
    pub async fn load(lake: &Lake, dataset: &str, partitions: usize) -> anyhow::Result<Marks> {
        let name = dead_replays_table(dataset);
        let opened = Table::open_or_create(lake, &name, schema::dead_replays()).await;
        let table = opened.with_context(|| format!("cannot use the table {name}"))?;
        let app_ids: Vec<String> = (0..partitions).map(|partition| app_id(dataset, partition)).collect();
        let state = table.load(Keep::Files, &app_ids).await.with_context(|| format!("cannot read {name}"))?;
        Ok(Marks { version: Version { table, state }, dataset: dataset.to_owned() })
    }

    /// The batch that is under way.
    pub async fn open(&self) -> anyhow::Result<Option<Open>> {
        let Some(file) = self.version.state.files().values().find(|file| is_open(file)).cloned() else {
            return Ok(None);
        };
        let mut batches = Batches::open(&self.version.table, &file, None).await?;
        let mut rows = Vec::new();
        while let Some(part) = batches.next().await? {
            rows.push(part);
        }
        Ok(Some(Open { batch: Batch::of_rows(&rows)?, file }))
    }

    /// From where on the topic must be looked through for records of the batch that is under way. A partition that is
    /// newer than the batch is looked through as a whole.
    pub fn ends(&self, partitions: usize) -> Vec<Position> {
        let end = |partition| Position {
            partition: partition as i32,
            offset: self.version.state.txn(&app_id(&self.dataset, partition)).unwrap_or(0),
        };
        (0..partitions).map(end).collect()
    }

    /// Begins a batch; `None` if somebody else has changed the table meanwhile.
    pub async fn begin(&mut self, batch: Batch, bounds: &[Bounds]) -> anyhow::Result<Option<Open>> {
        let file = self.upload(&batch, batch.begun()?).await?;
        let ends = bounds.iter().enumerate();
        let change = Change {
            // The kernel writes checksums only behind operations whose names it knows.
            operation: "WRITE",
            parameters: [("batch".to_owned(), batch.id.as_str().into())].into(),
            adds: vec![file.clone()],
            txns: ends.map(|(partition, bounds)| (app_id(&self.dataset, partition), bounds.next)).collect(),
            data_change: true,
            ..Change::default()
        };
        match self.commit(&change).await? {
            Outcome::Committed => Ok(Some(Open { batch, file: Arc::new(file) })),
            Outcome::Conflict => Ok(None),
        }
    }

    /// Ends a batch: those of its records that landed are replayed, the others pending as before. False if somebody
    /// else has ended it.
    pub async fn settle(&mut self, open: &Open, landed: &Landed) -> anyhow::Result<bool> {
        let adds = match landed.is_empty() {
            true => Vec::new(),
            false => vec![self.upload(&open.batch, open.batch.settled(landed)?).await?],
        };
        let change = Change {
            operation: "UPDATE",
            parameters: [("batch".to_owned(), open.batch.id.as_str().into())].into(),
            adds,
            removes: vec![DataFile::clone(&open.file)],
            data_change: true,
            ..Change::default()
        };
        while self.version.state.files().contains_key(&open.file.path) {
            if self.commit(&change).await? == Outcome::Committed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn commit(&mut self, change: &Change) -> anyhow::Result<Outcome> {
        let Version { table, state } = &mut self.version;
        let outcome = table.commit(state, change).await;
        let outcome = outcome.with_context(|| format!("cannot change the table {}", table.name()))?;
        if outcome == Outcome::Committed
            && let Err(err) = table.checkpoint_if_due(state.version).await
        {
            warn!(error = format!("{:#}", anyhow::Error::from(err)), table = table.name(), "write checkpoint");
        }
        Ok(outcome)
    }

    async fn upload(&self, batch: &Batch, rows: RecordBatch) -> anyhow::Result<DataFile> {
        let table = &self.version.table;
        let (date, ranges) = (layout::date_of(batch.at), batch.ranges());
        let sorted_by = SORTED_BY.map(str::to_owned).to_vec();
        let mut writer = FileWriter::new(Vec::new(), table.schema(), &sorted_by)?;
        writer.write(&sorted(&rows)?)?;
        let (bytes, stats) = writer.finish()?;
        let file = DataFile {
            path: layout::fragment_path(table.name(), date, &ranges, Uuid::new_v4()),
            size: bytes.len() as u64,
            date,
            modified_ms: now_ms(),
            stats,
            ranges,
            sorted_by,
        };
        put_new(table.store().as_ref(), &table.file_path(&file.path), bytes.into()).await?;
        Ok(file)
    }
}

fn sorted(rows: &RecordBatch) -> anyhow::Result<RecordBatch> {
    let column = |name: &str| rows.column_by_name(name).cloned().with_context(|| format!("no column {name}"));
    let columns = SORTED_BY.iter().map(|name| Ok(arrow::compute::SortColumn { values: column(name)?, options: None }));
    let order = lexsort_to_indices(&columns.collect::<anyhow::Result<Vec<_>>>()?, None)?;
    Ok(take_record_batch(rows, &order)?)
}

/// Application id under which a partition's end is kept.
fn app_id(dataset: &str, partition: usize) -> String {
    format!("{dataset}/{partition}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::args::Place;
    use crate::dead::batch::Entry;
    use crate::dead::replayed::{Replay, Replayed};

    fn batch(id: &str, offsets: std::ops::Range<i64>) -> Batch {
        let entry = |offset| Entry {
            place: place(offset),
            corrected: offset == 1,
            key: None,
            payload: Some("x".into()),
            headers: "[]".into(),
        };
        Batch { id: id.into(), at: 1_795_000_000_000_000, entries: offsets.map(entry).collect() }
    }

    fn place(offset: i64) -> Place {
        Place { partition: 0, offset }
    }

    const BOUNDS: [Bounds; 2] = [Bounds { first: 0, next: 40 }, Bounds { first: 0, next: 50 }];

    async fn load(lake: &Lake) -> Marks {
        Marks::load(lake, "events", 2).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_is_begun_once_and_whoever_comes_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let (mut ours, mut theirs) = (load(&lake).await, load(&lake).await);
        assert!(ours.open().await.unwrap().is_none());
        let open = ours.begin(batch("ours", 0..3), &BOUNDS).await.unwrap().unwrap();
        assert!(theirs.begin(batch("theirs", 0..3), &BOUNDS).await.unwrap().is_none(), "two batches under way");

        // Another process finds it, with the records and the ends of the topic.
        let mut later = load(&lake).await;
        let found = later.open().await.unwrap().unwrap();
        assert_eq!(found.batch, batch("ours", 0..3));
        assert_eq!(later.ends(3).iter().map(|position| position.offset).collect::<Vec<_>>(), [40, 50, 0]);
        assert!(!Replayed::load(Some(&later.version)).await.unwrap().contains(place(0)));

        // One record did not land: it is pending again. Only one of the two settles.
        let landed: Landed =
            [0, 1].map(|offset| (place(offset), Position { partition: 1, offset: 60 + offset })).into();
        assert!(later.settle(&found, &landed).await.unwrap());
        assert!(!ours.settle(&open, &Landed::new()).await.unwrap(), "settled twice");
        let marks = load(&lake).await;
        assert!(marks.open().await.unwrap().is_none());
        let replayed = Replayed::load(Some(&marks.version)).await.unwrap();
        assert_eq!([0, 1, 2].map(|offset| replayed.contains(place(offset))), [true, true, false]);
        let replay = Replay::find(&marks.version, place(1)).await.unwrap().unwrap();
        assert_eq!((replay.to, replay.corrected), (Some(Place { partition: 1, offset: 61 }), true));
        assert_eq!(Replay::find(&marks.version, place(2)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_batch_under_way_is_found_behind_a_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let mut marks = load(&lake).await;
        for n in 0..60 {
            let open = marks.begin(batch("b", n..n + 1), &BOUNDS).await.unwrap().unwrap();
            let landed = Landed::from([(place(n), Position { partition: 1, offset: n })]);
            if n < 50 {
                marks.settle(&open, &landed).await.unwrap();
                continue;
            }
            // Version 101 and on: a checkpoint holds what was settled before.
            let found = load(&lake).await.open().await.unwrap().unwrap();
            assert_eq!(found.batch, batch("b", n..n + 1));
            marks.settle(&open, &landed).await.unwrap();
        }
        let open = marks.begin(batch("last", 60..63), &BOUNDS).await.unwrap().unwrap();
        marks.version.table.checkpoint(marks.version.state.version).await.unwrap();
        assert_eq!(load(&lake).await.open().await.unwrap().unwrap().batch, open.batch);
        let replayed = Replayed::load(Some(&load(&lake).await.version)).await.unwrap();
        assert!((0..60).all(|n| replayed.contains(place(n))) && !replayed.contains(place(60)));
    }

    #[tokio::test]
    async fn a_batch_of_which_nothing_landed_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let mut marks = load(&lake).await;
        let open = marks.begin(batch("b", 0..3), &BOUNDS).await.unwrap().unwrap();
        assert!(marks.settle(&open, &Landed::new()).await.unwrap());
        assert!(load(&lake).await.version.state.files().is_empty());
        assert!(marks.begin(batch("c", 0..3), &BOUNDS).await.unwrap().is_some());
    }
}
