//! Sorts a file that is not sorted as the table is now (an older configuration, another writer) into several that are.
//!
//! The sorted runs lie in temporary files of this machine until the merge has read them. A run takes as many rows
//! as fit into the given bytes, so memory does not grow with the file.

use crate::fetched::Fetched;
use crate::input::{Input, in_memory};
use crate::merge::MergeError;
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use lake::parquet::FileWriter;
use lake::schema::TableSchema;
use lake::sort::SortKeys;
use std::io::BufWriter;

/// Bytes of a run's row groups: every run is an input of the merge, and many must fit in memory side by side.
const ROW_GROUP_BYTES: u64 = 1 << 20;

/// Memory that reading a run takes at most.
pub(crate) const COST: u64 = 4 << 20;

/// Writes the rows of `input` as sorted runs of about `run_bytes`.
pub(crate) async fn sort(
    input: &Input,
    schema: &TableSchema,
    order: &[String],
    run_bytes: u64,
) -> Result<Vec<Input>, MergeError> {
    let columns = in_memory(&schema.arrow);
    let keys = SortKeys::new(&columns, order)?;
    let mut batches = input.rows_of(columns)?;
    // Not what batches hold: they share pages.
    let row_bytes = input.row_bytes() / input.rows().max(1);
    let (mut runs, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(batch) = batches.next().await? {
        bytes += batch.num_rows() as u64 * row_bytes;
        rows.push(batch);
        if bytes >= run_bytes {
            runs.push(write(&std::mem::take(&mut rows), schema, order, &keys, row_bytes, &input.path)?);
            bytes = 0;
        }
    }
    if !rows.is_empty() {
        runs.push(write(&rows, schema, order, &keys, row_bytes, &input.path)?);
    }
    Ok(runs)
}

fn write(
    rows: &[RecordBatch],
    schema: &TableSchema,
    order: &[String],
    keys: &SortKeys,
    row_bytes: u64,
    path: &str,
) -> Result<Input, MergeError> {
    let rows = concat_batches(rows[0].schema_ref(), rows)?;
    let keys = keys.of(&rows)?;
    let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
    sorted.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
    drop(keys);

    let file = tempfile::tempfile()?;
    let failed = |source| MergeError::Write { path: path.to_owned(), source };
    let mut writer = FileWriter::new(BufWriter::new(file), schema, order).map_err(failed)?;
    for part in sorted.chunks((ROW_GROUP_BYTES / row_bytes.max(1)).clamp(16, 8_192) as usize) {
        let part = take_record_batch(&rows, &UInt32Array::from(part.to_vec()))?;
        writer.write(&part).map_err(failed)?;
        writer.end_row_group().map_err(failed)?;
    }
    let (file, _) = writer.finish().map_err(failed)?;
    let file = file.into_inner().map_err(|e| e.into_error())?;
    Input::here(path, Fetched::of(file)?)
}
