//! A table of many small files, as processors leave it.

use super::made::Events;
use anyhow::Context;
use arrow::compute::take_record_batch;
use bytes::Bytes;
use chrono::{NaiveDate, NaiveTime, TimeDelta};
use futures::future::try_join_all;
use lake::batch::{EventColumns, RowMeta, RowPlan};
use lake::dataset::Dataset;
use lake::event::Event;
use lake::parquet::FileWriter;
use lake::state::Keep;
use lake::table::now_ms;
use lake::{Change, DataFile, Lake, OffsetRange, Outcome, Table, layout, schema, sort, store};
use processor::committer::app_id;
use std::sync::Arc;
use uuid::Uuid;

/// Files of a commit.
const PER_COMMIT: usize = 10;

/// How a table is cut.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub fragments: u64,
    /// Of each fragment.
    pub rows: u64,
    /// Days over which the fragments are spread evenly.
    pub days: u64,
}

impl Shape {
    pub fn rows(self) -> u64 {
        self.fragments * self.rows
    }

    /// The same events for the same shape, from midnight of the first day to midnight after the last.
    pub fn events(self) -> Events {
        const DAY: u64 = 86_400_000_000;
        let apart = TimeDelta::microseconds((self.days * DAY / self.rows()) as i64);
        Events::apart(first_date().and_time(NaiveTime::MIN).and_utc(), apart)
    }
}

/// In the past, so that nothing depends on the time at which it is measured.
pub fn first_date() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, 1).expect("a date")
}

/// Makes the table, and fills it commit by commit, with checkpoints where they are due.
pub async fn make(lake: &Lake, dataset: &Dataset, shape: Shape) -> anyhow::Result<Vec<DataFile>> {
    let table = Table::open_or_create(lake, &dataset.name, schema::events(dataset)).await.context("make a table")?;
    let mut state = table.load(Keep::Txns, &[]).await.context("read the table")?;
    let (plan, mut events) = (Arc::new(RowPlan::new(dataset)), shape.events());
    let (mut files, mut offset) = (Vec::new(), 0);
    while offset < shape.rows() as i64 {
        let mut encoded = Vec::new();
        while encoded.len() < PER_COMMIT && offset < shape.rows() as i64 {
            let range = OffsetRange { partition: 0, start: offset, end: offset + shape.rows as i64 };
            encoded.extend(encode(&mut events, range, dataset, &plan)?);
            offset = range.end;
        }
        let stored = encoded.iter().map(|(file, bytes)| async {
            store::put_new(table.store().as_ref(), &table.file_path(&file.path), bytes.clone()).await
        });
        try_join_all(stored).await.context("store fragments")?;
        let change = Change {
            operation: "STREAMING UPDATE",
            adds: encoded.into_iter().map(|(file, _)| file).collect(),
            txns: vec![(app_id(&dataset.name, 0), offset)],
            data_change: true,
            ..Change::default()
        };
        let outcome = table.commit(&mut state, &change).await.context("commit fragments")?;
        anyhow::ensure!(outcome == Outcome::Committed, "somebody else writes to the table");
        table.checkpoint_if_due(state.version).await.context("write a checkpoint")?;
        files.extend(change.adds);
    }
    Ok(files)
}

/// The next events, as the files that a processor would write of them: one for each date.
fn encode(
    events: &mut Events,
    range: OffsetRange,
    dataset: &Dataset,
    plan: &Arc<RowPlan>,
) -> anyhow::Result<Vec<(DataFile, Bytes)>> {
    let mut rows = EventColumns::new(Arc::clone(plan));
    for (offset, made) in (range.start..range.end).zip(events) {
        let event = Event::parse(made.json.as_bytes()).context("decode an event")?;
        let received_at = event.time.context("an event without a time")? + 80_000;
        rows.push(&event, RowMeta { partition: range.partition, offset, received_at, id: &made.id });
    }
    let (batch, order) = (rows.finish(), sort::order(&dataset.spec.sort_by));
    let mut files = Vec::new();
    for (date, indices) in sort::by_date(&batch, "time", &order)? {
        let mut writer = FileWriter::new(Vec::new(), &plan.schema, &order)?;
        writer.write(&take_record_batch(&batch, &indices)?)?;
        let (bytes, stats) = writer.finish()?;
        let path = layout::fragment_path(&dataset.name, date, &[range], Uuid::new_v4());
        let (size, sorted_by) = (bytes.len() as u64, order.clone());
        let file = DataFile { path, size, date, modified_ms: now_ms(), stats, ranges: vec![range], sorted_by };
        files.push((file, bytes.into()));
    }
    Ok(files)
}
