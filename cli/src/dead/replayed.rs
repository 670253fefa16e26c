//! Which dead letters were replayed, as the table of replays tells.

use super::Version;
use super::args::Place;
use super::filter::Filter;
use super::letter::{number, place, text};
use super::read::Batches;
use anyhow::Context;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use futures::StreamExt;
use lake::DataFile;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files of replays that are read at the same time.
const AT_ONCE: usize = 16;

/// Offsets by partition: a few bytes for each, however many were replayed.
#[derive(Debug, Default)]
pub struct Replayed(BTreeMap<i32, RoaringTreemap>);

impl Replayed {
    /// What was replayed. Letters of a batch that is under way are not.
    pub async fn load(replays: Option<&Version>) -> anyhow::Result<Replayed> {
        let mut replayed = Replayed::default();
        let Some(replays) = replays else { return Ok(replayed) };
        let settled = replays.state.files().values().filter(|file| !is_open(file)).cloned();
        let mut files = futures::stream::iter(settled).map(|file| places(replays, file)).buffer_unordered(AT_ONCE);
        while let Some(places) = files.next().await {
            places?.into_iter().for_each(|place| replayed.insert(place));
        }
        Ok(replayed)
    }

    pub fn contains(&self, place: Place) -> bool {
        self.0.get(&place.partition).is_some_and(|offsets| offsets.contains(place.offset as u64))
    }

    pub fn insert(&mut self, place: Place) {
        self.0.entry(place.partition).or_default().insert(place.offset as u64);
    }
}

/// Whether a file of the table of replays holds a batch that is under way: nobody has said yet where its records are.
pub fn is_open(file: &DataFile) -> bool {
    file.stats.nulls.get("replayed_offset").and_then(serde_json::Value::as_u64).is_some_and(|nulls| nulls > 0)
}

async fn places(replays: &Version, file: Arc<DataFile>) -> anyhow::Result<Vec<Place>> {
    let columns = ["kafka_partition", "kafka_offset"];
    let mut batches = Batches::open(&replays.table, &file, Some(&columns)).await?;
    let mut places = Vec::with_capacity(file.rows() as usize);
    while let Some(batch) = batches.next().await? {
        for row in 0..batch.num_rows() {
            places.push(place(&batch, row)?);
        }
    }
    Ok(places)
}

/// How one letter was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub batch: String,
    /// When its batch was begun, microseconds since the epoch.
    pub at: i64,
    pub corrected: bool,
    /// `None` while the batch is under way.
    pub to: Option<Place>,
}

impl Replay {
    /// How the letter at `place` was replayed; `None` if it was not.
    pub async fn find(replays: &Version, wanted: Place) -> anyhow::Result<Option<Replay>> {
        let filter = Filter::at(wanted);
        for file in replays.state.files().values().filter(|file| filter.may_be_in(file)) {
            let mut batches = Batches::open(&replays.table, file, None).await?;
            while let Some(batch) = batches.next().await? {
                for row in 0..batch.num_rows() {
                    if place(&batch, row)? == wanted {
                        return Replay::of_row(&batch, row).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    fn of_row(batch: &RecordBatch, row: usize) -> anyhow::Result<Replay> {
        let partition = number::<Int32Type>(batch, "replayed_partition", row)?;
        let offset = number::<Int64Type>(batch, "replayed_offset", row)?;
        let corrected = batch.column_by_name("corrected").and_then(|column| column.as_boolean_opt());
        Ok(Replay {
            batch: text(batch, "batch", row)?,
            at: number::<TimestampMicrosecondType>(batch, "replayed_at", row)?.unwrap_or_default(),
            corrected: corrected.context("the table of replays has no column corrected")?.value(row),
            to: partition.zip(offset).map(|(partition, offset)| Place { partition, offset }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replayed_is_what_was_noted() {
        let mut replayed = Replayed::default();
        let place = |partition, offset| Place { partition, offset };
        [place(0, 5), place(0, 1 << 40), place(3, 0)].into_iter().for_each(|place| replayed.insert(place));
        assert!(
            replayed.contains(place(0, 5)) && replayed.contains(place(0, 1 << 40)) && replayed.contains(place(3, 0))
        );
        assert!(!replayed.contains(place(0, 6)) && !replayed.contains(place(1, 5)));
    }
}
