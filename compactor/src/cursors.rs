//! Walks sorted inputs side by side and says whose rows come next.
//!
//! Rows are handed out as runs: as many rows of one input as precede the next row of every other. Where one input has a
//! stretch to itself, its rows are found by a few comparisons and moved in one piece.

use crate::checksum::RowHasher;
use crate::input::{Batches, Input};
use crate::merge::MergeError;
use crate::metrics;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, Row, Rows};
use lake::sort::SortKeys;
use std::ops::Range;
use std::sync::Arc;

pub(crate) struct Cursors {
    keys: SortKeys,
    cursors: Vec<Cursor>,
    /// Cursors that have rows left, as a binary heap: the one with the smallest row is first.
    heap: Vec<usize>,
    /// The batches that cursors stand in, and those before that runs may still name.
    batches: Vec<RecordBatch>,
    hasher: RowHasher,
    hashes: Vec<u64>,
    /// Of all rows read so far.
    pub(crate) checksum: u64,
    pub(crate) rows: u64,
}

struct Cursor {
    path: String,
    source: Batches,
    /// Where its batch is.
    batch: usize,
    keys: Rows,
    row: usize,
    /// The last row of the batch before.
    previous: Option<OwnedRow>,
}

/// Rows of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) batch: usize,
    pub(crate) rows: Range<usize>,
}

impl Cursors {
    pub(crate) async fn open(
        inputs: Vec<Input>,
        columns: &SchemaRef,
        order: &[String],
        hasher: RowHasher,
    ) -> Result<Cursors, MergeError> {
        let keys = SortKeys::new(columns, order)?;
        let nothing = keys.of(&RecordBatch::new_empty(Arc::clone(columns)))?;
        let mut cursors = Vec::with_capacity(inputs.len());
        for input in inputs {
            let source = input.rows_of(Arc::clone(columns))?;
            let keys = nothing.clone();
            cursors.push(Cursor { path: input.path, source, batch: 0, keys, row: 0, previous: None });
        }
        let mut all = Cursors {
            keys,
            cursors,
            heap: Vec::new(),
            batches: Vec::new(),
            hasher,
            hashes: Vec::new(),
            checksum: 0,
            rows: 0,
        };
        for cursor in 0..all.cursors.len() {
            if all.load(cursor).await? {
                all.heap.push(cursor);
            }
        }
        (0..all.heap.len() / 2).rev().for_each(|position| all.sift_down(position));
        Ok(all)
    }

    /// The rows that come next; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Run>, MergeError> {
        let Some(&first) = self.heap.first() else { return Ok(None) };
        let end = match self.second() {
            Some(second) => self.cursors[first].end_of_run(self.cursors[second].key()),
            None => self.cursors[first].keys.num_rows(),
        };
        let cursor = &mut self.cursors[first];
        let run = Run { batch: cursor.batch, rows: cursor.row..end };
        cursor.row = end;
        if end == cursor.keys.num_rows() && !self.load(first).await? {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(Some(run))
    }

    /// Batches by the number that runs give.
    pub(crate) fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    pub(crate) fn checksum_of(&mut self, batch: usize, row: usize) -> u64 {
        self.hasher.sum(&self.batches[batch].slice(row, 1), &mut self.hashes)
    }

    /// Lets go of batches that no cursor stands in. Runs given out before must not be used any more.
    pub(crate) fn forget_passed(&mut self) {
        let mut kept = Vec::with_capacity(self.heap.len());
        for cursor in &self.heap {
            let cursor = &mut self.cursors[*cursor];
            kept.push(self.batches[cursor.batch].clone());
            cursor.batch = kept.len() - 1;
        }
        self.batches = kept;
    }

    /// Reads the next batch of a cursor; false if there is none.
    async fn load(&mut self, cursor: usize) -> Result<bool, MergeError> {
        let cursor = &mut self.cursors[cursor];
        let Some(batch) = cursor.source.next().await? else { return Ok(false) };
        let keys = self.keys.of(&batch)?;
        let previous = cursor.previous.as_ref().map(OwnedRow::row);
        let follows = |previous: Row<'_>| previous <= keys.row(0);
        if !previous.is_none_or(follows) || (1..keys.num_rows()).any(|row| keys.row(row - 1) > keys.row(row)) {
            return Err(MergeError::Unsorted { path: cursor.path.clone() });
        }
        self.checksum = self.checksum.wrapping_add(self.hasher.sum(&batch, &mut self.hashes));
        self.rows += batch.num_rows() as u64;
        metrics::rows_read(batch.num_rows());
        cursor.previous = Some(keys.row(keys.num_rows() - 1).owned());
        cursor.keys = keys;
        cursor.row = 0;
        cursor.batch = self.batches.len();
        self.batches.push(batch);
        Ok(true)
    }

    /// The cursor with the smallest row but one.
    fn second(&self) -> Option<usize> {
        let (left, right) = (self.heap.get(1)?, self.heap.get(2));
        Some(*right.filter(|right| self.cursors[**right].key() < self.cursors[*left].key()).unwrap_or(left))
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let child = 2 * position + 1;
            let Some(left) = self.heap.get(child) else { return };
            let mut smaller = (child, self.cursors[*left].key());
            if let Some(right) = self.heap.get(child + 1)
                && self.cursors[*right].key() < smaller.1
            {
                smaller = (child + 1, self.cursors[*right].key());
            }
            if self.cursors[self.heap[position]].key() <= smaller.1 {
                return;
            }
            let child = smaller.0;
            self.heap.swap(position, child);
            position = child;
        }
    }
}

impl Cursor {
    fn key(&self) -> Row<'_> {
        self.keys.row(self.row)
    }

    /// The first row after the current one that is greater than `bound`, or the end of the batch. Doubles its steps, so
    /// short runs take a comparison or two, and long ones few.
    fn end_of_run(&self, bound: Row<'_>) -> usize {
        let rows = self.keys.num_rows();
        let (mut low, mut high, mut step) = (self.row + 1, self.row + 1, 1);
        while high < rows && self.keys.row(high) <= bound {
            low = high + 1;
            high += step;
            step *= 2;
        }
        let mut high = high.min(rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.keys.row(middle) <= bound { low = middle + 1 } else { high = middle }
        }
        low
    }
}
