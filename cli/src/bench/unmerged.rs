//! What the compactor is measured against: reading, sorting and encoding the same rows in memory, on one thread, with no
//! table, no merge, no search for copies and nothing read back.

use super::figures::thread_cpu;
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use lake::DataFile;
use lake::dataset::Dataset;
use lake::parquet::{FileWriter, ROW_GROUP_ROWS, read_all};
use lake::{schema, sort};
use std::path::Path;
use std::time::Duration;

/// Rows that are sorted in memory at a time: a sample of a large table.
const SAMPLE: u64 = 500_000;

/// CPU time of each step.
#[derive(Debug, Default)]
pub struct Unmerged {
    pub rows: u64,
    pub decode: Duration,
    pub sort: Duration,
    pub encode: Duration,
}

impl Unmerged {
    pub fn total(&self) -> Duration {
        self.decode + self.sort + self.encode
    }
}

/// Measures the first of the files in the table's `directory`.
pub fn run(dataset: &Dataset, directory: &Path, files: &[DataFile]) -> anyhow::Result<Unmerged> {
    let (schema, order) = (schema::events(dataset), sort::order(&dataset.spec.sort_by));
    let mut bare = Unmerged::default();
    let mut batches = Vec::new();
    for file in files {
        if bare.rows >= SAMPLE {
            break;
        }
        let bytes = Bytes::from(std::fs::read(directory.join(&file.path))?);
        let began = thread_cpu();
        batches.extend(read_all(bytes)?);
        bare.decode += thread_cpu() - began;
        bare.rows += file.rows();
    }
    let began = thread_cpu();
    let rows = concat_batches(&schema.arrow, &batches)?;
    let sorted = sort::by_date(&rows, "time", &order)?;
    bare.sort += thread_cpu() - began;
    for (_, indices) in sorted {
        let mut writer = FileWriter::new(Vec::new(), &schema, &order)?;
        for start in (0..indices.len()).step_by(ROW_GROUP_ROWS) {
            let began = thread_cpu();
            let group = take_record_batch(&rows, &indices.slice(start, ROW_GROUP_ROWS.min(indices.len() - start)))?;
            let sorted = thread_cpu();
            writer.write(&group)?;
            bare.sort += sorted - began;
            bare.encode += thread_cpu() - sorted;
        }
        let began = thread_cpu();
        writer.finish()?;
        bare.encode += thread_cpu() - began;
    }
    Ok(bare)
}
