//! Walks sorted inputs side by side and says whose rows come next.
//!
//! Rows are handed out as runs: as many rows of one input as precede the next row of every other.

use crate::checksum::RowHasher;
use crate::input::{Batches, Input};
use crate::merge::MergeError;
use crate::metrics;
use crate::tournament::{Code, Tournament};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::Rows;
use lake::sort::SortKeys;
use std::ops::Range;
use std::sync::Arc;

pub(crate) struct Cursors {
    keys: SortKeys,
    cursors: Vec<Cursor>,
    /// Who has the smallest row.
    tournament: Tournament,
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
    /// Of every row, by the row before it.
    codes: Vec<Code>,
    row: usize,
    /// The key of the last row of the batch before.
    previous: Vec<u8>,
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
            let (keys, path) = (nothing.clone(), input.path);
            cursors.push(Cursor { path, source, batch: 0, keys, codes: Vec::new(), row: 0, previous: Vec::new() });
        }
        let mut all = Cursors {
            keys,
            tournament: Tournament::new(cursors.len()),
            cursors,
            batches: Vec::new(),
            hasher,
            hashes: Vec::new(),
            checksum: 0,
            rows: 0,
        };
        for cursor in 0..all.cursors.len() {
            all.load(cursor).await?;
        }
        (0..all.cursors.len()).for_each(|cursor| all.enter(cursor));
        Ok(all)
    }

    /// The rows that come next; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Run>, MergeError> {
        let Some(first) = self.tournament.winner() else { return Ok(None) };
        let (batch, start) = (self.cursors[first].batch, self.cursors[first].row);
        let end = loop {
            let cursor = &mut self.cursors[first];
            cursor.row += 1;
            let (end, has_ended) = (cursor.row, cursor.has_ended());
            if has_ended {
                self.load(first).await?;
            }
            self.enter(first);
            if has_ended || self.tournament.winner() != Some(first) {
                break end;
            }
        };
        Ok(Some(Run { batch, rows: start..end }))
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
        let mut kept = Vec::with_capacity(self.cursors.len());
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.has_ended()) {
            kept.push(self.batches[cursor.batch].clone());
            cursor.batch = kept.len() - 1;
        }
        self.batches = kept;
    }

    /// Reads the next batch of a cursor. It has ended if there is none.
    async fn load(&mut self, cursor: usize) -> Result<(), MergeError> {
        let cursor = &mut self.cursors[cursor];
        if let Some(last) = cursor.codes.len().checked_sub(1) {
            cursor.previous.clear();
            cursor.previous.extend_from_slice(cursor.keys.row(last).data());
        }
        cursor.codes.clear();
        cursor.row = 0;
        let Some(batch) = cursor.source.next().await? else { return Ok(()) };
        cursor.keys = self.keys.of(&batch)?;
        let mut before = cursor.previous.as_slice();
        for key in &cursor.keys {
            let code = Code::of(key.data(), before);
            cursor.codes.push(code.ok_or_else(|| MergeError::Unsorted { path: cursor.path.clone() })?);
            before = key.data();
        }
        self.checksum = self.checksum.wrapping_add(self.hasher.sum(&batch, &mut self.hashes));
        self.rows += batch.num_rows() as u64;
        metrics::rows_read(batch.num_rows());
        cursor.batch = self.batches.len();
        self.batches.push(batch);
        Ok(())
    }

    /// Enters the row in which a cursor stands.
    fn enter(&mut self, cursor: usize) {
        let (cursors, code) = (&self.cursors, self.cursors[cursor].code());
        self.tournament.enter(cursor, code, |cursor| cursors[cursor].key());
    }
}

impl Cursor {
    fn has_ended(&self) -> bool {
        self.row == self.codes.len()
    }

    fn code(&self) -> Option<Code> {
        self.codes.get(self.row).copied()
    }

    fn key(&self) -> &[u8] {
        self.keys.row(self.row).data()
    }
}
