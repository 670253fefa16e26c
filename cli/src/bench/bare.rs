//! What the processor is measured against: decode, sort and Parquet encode of the same events in memory, on one thread,
//! with no log, no upload and no commit.

use super::figures::thread_cpu;
use super::made::{Events, Made};
use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::compute::take_record_batch;
use lake::batch::{EventColumns, RowMeta, RowPlan};
use lake::dataset::Dataset;
use lake::event::Event;
use lake::parquet::{FileWriter, ROW_GROUP_ROWS};
use lake::sort;
use std::sync::Arc;
use std::time::Duration;

/// Events that are made before they are decoded: more than a cache holds, as if they came from a log.
const MADE_AHEAD: usize = 50_000;

/// CPU time of each step.
#[derive(Debug, Default)]
pub struct Bare {
    pub decode: Duration,
    pub sort: Duration,
    pub encode: Duration,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Bare {
    pub fn total(&self) -> Duration {
        self.decode + self.sort + self.encode
    }
}

/// Measures the first `count` of the events. As many rows go into a file as the processor would put there.
pub fn run(events: Events, count: u64, dataset: &Dataset, flush_above: usize) -> anyhow::Result<Bare> {
    let plan = Arc::new(RowPlan::new(dataset));
    let order = sort::order(&dataset.spec.sort_by);
    let mut bare = Bare::default();
    let mut rows = EventColumns::new(Arc::clone(&plan));
    let mut events = events.take(count as usize);
    let mut offset = 0;
    loop {
        let made: Vec<Made> = events.by_ref().take(MADE_AHEAD).collect();
        let began = thread_cpu();
        for made in &made {
            let event = Event::parse(made.json.as_bytes()).context("decode an event")?;
            rows.push(&event, RowMeta { partition: 0, offset, received_at: 1_795_000_000_000_000, id: &made.id });
            offset += 1;
        }
        bare.decode += thread_cpu() - began;
        if rows.bytes() >= flush_above || (made.is_empty() && !rows.is_empty()) {
            let full = std::mem::replace(&mut rows, EventColumns::new(Arc::clone(&plan)));
            bare.write_file(full, &plan, &order)?;
        }
        if made.is_empty() {
            return Ok(bare);
        }
    }
}

impl Bare {
    fn write_file(&mut self, rows: EventColumns, plan: &RowPlan, order: &[String]) -> anyhow::Result<()> {
        let began = thread_cpu();
        let batch = rows.finish();
        self.decode += thread_cpu() - began;
        for (_, indices) in self.sorted(|| sort::by_date(&batch, "time", order))? {
            let began = thread_cpu();
            let mut writer = FileWriter::new(Vec::new(), &plan.schema, order)?;
            self.encode += thread_cpu() - began;
            for start in (0..indices.len()).step_by(ROW_GROUP_ROWS) {
                let indices = indices.slice(start, ROW_GROUP_ROWS.min(indices.len() - start));
                let group: RecordBatch = self.sorted(|| take_record_batch(&batch, &indices))?;
                let began = thread_cpu();
                writer.write(&group)?;
                self.encode += thread_cpu() - began;
            }
            let began = thread_cpu();
            self.bytes += writer.finish()?.0.len() as u64;
            self.encode += thread_cpu() - began;
        }
        Ok(())
    }

    fn sorted<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = thread_cpu();
        let done = work();
        self.sort += thread_cpu() - began;
        done
    }
}
