//! Spreads merged rows over files of about a segment.
//!
//! A file that has reached the size of a segment is ended where the value of the first sort column changes, so that no two
//! files of a merge hold rows of the same device: a query for one device opens one of them. Only a value with so many rows
//! that no such place comes soon is cut through. What would be left for the last file must be worth a file; otherwise
//! the one before it takes it in. So the files are between half a segment and one and a half, if there are rows enough.

use crate::cursors::{Cursors, Run};
use crate::merge::{MergeError, Settings};
use crate::output::{Output, RowBytes};
use crate::sink::Sink;
use arrow::array::{ArrayRef, UInt32Array, make_comparator};
use arrow::compute::{SortOptions, take};
use chrono::NaiveDate;
use lake::{DataFile, OffsetRange, Table, layout};
use std::ops::Range;
use uuid::Uuid;

/// The part of a segment by which a file may exceed it until the value changes.
const SLACK: u64 = 10;

/// What the files of a merge have in common.
pub(crate) struct Target<'a> {
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a Settings,
    pub(crate) date: NaiveDate,
    pub(crate) sort_by: Vec<String>,
    /// Of all inputs together, and so of every output: ranges say where the rows of a file come from, and other files may
    /// hold other rows of them. Narrower ones would have a gap at every row of another file's devices.
    pub(crate) ranges: Vec<OffsetRange>,
    /// The column whose values are kept together.
    pub(crate) column: String,
    pub(crate) row_bytes: RowBytes,
}

pub(crate) struct Outputs<'a> {
    target: Target<'a>,
    open: Option<Output>,
    files: Vec<DataFile>,
    /// Rows of the inputs that have not come yet, about.
    left: u64,
    /// While a place to end the file is looked for: the value that it ends with.
    value: Option<ArrayRef>,
}

impl Outputs<'_> {
    /// `rows` are those of the inputs.
    pub(crate) fn new(target: Target<'_>, rows: u64) -> Outputs<'_> {
        Outputs { target, open: None, files: Vec::new(), left: rows, value: None }
    }

    /// Appends a run but for the rows in `left_out`, which are in order.
    pub(crate) async fn append(
        &mut self,
        mut run: Run,
        left_out: &[usize],
        cursors: &mut Cursors,
    ) -> Result<(), MergeError> {
        let mut left_out = left_out;
        if let Some(end) = self.end_of_file(&run, cursors)? {
            let (before, after) = left_out.split_at(left_out.partition_point(|row| *row < end));
            if let Some(output) = &mut self.open {
                output.add(Run { batch: run.batch, rows: run.rows.start..end }, before);
            }
            self.end_file(cursors).await?;
            self.left = self.left.saturating_sub((end - run.rows.start) as u64);
            (run.rows.start, left_out) = (end, after);
        }
        self.left = self.left.saturating_sub(run.rows.len() as u64);
        if run.rows.len() == left_out.len() {
            // No file is begun for rows of which none is kept.
            return Ok(());
        }
        let output = match &mut self.open {
            Some(output) => output,
            None => self.open.insert(self.target.output()?),
        };
        output.append(run, left_out, cursors).await
    }

    /// Ends the last file. All of them, in order of their rows; none if there was no row.
    pub(crate) async fn finish(mut self, cursors: &Cursors) -> Result<Vec<DataFile>, MergeError> {
        self.end_file(cursors).await?;
        Ok(self.files)
    }

    /// Gives up. Files that were finished stay behind as orphans.
    pub(crate) async fn abort(self) {
        if let Some(output) = self.open {
            output.abort().await;
        }
    }

    async fn end_file(&mut self, cursors: &Cursors) -> Result<(), MergeError> {
        self.value = None;
        let Some(output) = self.open.take() else { return Ok(()) };
        let path = output.path().to_owned();
        let (size, stats) = output.finish(cursors).await?;
        self.files.push(DataFile {
            path,
            size,
            date: self.target.date,
            modified_ms: lake::table::now_ms(),
            stats,
            ranges: self.target.ranges.clone(),
            sorted_by: self.target.sort_by.clone(),
        });
        Ok(())
    }

    /// The row of the run before which the file ends, if it does.
    fn end_of_file(&mut self, run: &Run, cursors: &Cursors) -> Result<Option<usize>, MergeError> {
        let Some(output) = &self.open else { return Ok(None) };
        let segment = self.target.settings.segment_bytes;
        let size = output.size();
        if size < segment || self.left * output.stored_row_bytes() < segment / 2 {
            return Ok(None);
        }
        if size >= segment + segment / SLACK {
            return Ok(Some(run.rows.start));
        }
        let batch = &cursors.batches()[run.batch];
        let Some(column) = batch.column_by_name(&self.target.column) else { return Ok(Some(run.rows.start)) };
        let value = match &self.value {
            Some(value) => value,
            None => self.value.insert(value_of(column, run.rows.start)?),
        };
        first_other(column, run.rows.clone(), value)
    }
}

impl Target<'_> {
    fn output(&self) -> Result<Output, MergeError> {
        let (table, settings) = (self.table, self.settings);
        let path = layout::segment_path(self.date, Uuid::new_v4());
        let sink = Sink::new(table, path, &self.sort_by, settings.budget)?;
        Ok(Output::new(sink, self.row_bytes))
    }
}

/// The value of one row, without the memory of the others.
fn value_of(column: &ArrayRef, row: usize) -> Result<ArrayRef, MergeError> {
    Ok(take(column, &UInt32Array::from(vec![row as u32]), None)?)
}

/// The first of the rows, which are sorted, that has another value.
fn first_other(column: &ArrayRef, rows: Range<usize>, value: &ArrayRef) -> Result<Option<usize>, MergeError> {
    let compare = make_comparator(value, column, SortOptions::default())?;
    let (mut low, mut high) = (rows.start, rows.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if compare(0, middle).is_eq() { low = middle + 1 } else { high = middle }
    }
    Ok((low < rows.end).then_some(low))
}
