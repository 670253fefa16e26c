//! Merges sorted files into fewer: a k-way merge, row by row in the table's order, from the store to the store.
//!
//! ```text
//! inputs, as many as fit          on this machine, footers first; a file in another order becomes sorted runs
//!   └─ duplicates                 the copies to leave out
//!       └─ cursors ──tournament──▶ smallest row first ──interleave──▶ row group ──parts──▶ files of a segment
//! ```
//!
//! Memory is bounded by [`Budget`], whatever the number and the size of the inputs: half of it for reading (a job takes
//! only as many inputs as fit, the rest is left to a later one), an eighth for the row group being written and as much
//! again while it is handed to the upload, a sixteenth for parts under way. The search for copies and the sorting of runs
//! come before the merge and stay within it. A row larger than all that can exceed it, but events are bounded. What grows
//! with a job is what its inputs take on the disk of this machine, if the store is not there itself.
//!
//! Inputs may be older than columns of the table, or hold a narrower type: the output has the table's columns as they are
//! when the merge starts. A column that the table does not know is never dropped: such a file is not merged.
//!
//! Nothing that a file says of itself is trusted: a file that says it is sorted and is not fails the merge with
//! [`MergeError::Unsorted`], and is sorted in the next attempt.

use crate::checksum::RowHasher;
use crate::cursors::Cursors;
use crate::duplicates::{self, Duplicates};
use crate::input::{self, Input, in_memory};
use crate::output::RowBytes;
use crate::outputs::{Outputs, Target};
use crate::plan::{MergeJob, is_worth_a_cut};
use crate::runs;
use arrow::error::ArrowError;
use bytesize::ByteSize;
use chrono::NaiveDate;
use futures::{StreamExt, TryStreamExt};
use lake::schema::TableSchema;
use lake::{DataFile, Table, range, sort};
use object_store::ObjectStoreExt;
use parquet::errors::ParquetError;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How much memory a merge may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    bytes: u64,
}

impl Budget {
    /// Less than what parts, pages and batches of a few files take cannot be kept.
    pub(crate) const LEAST: u64 = 64 << 20;

    pub fn new(memory: ByteSize) -> Budget {
        Budget { bytes: memory.as_u64().max(Budget::LEAST) }
    }

    /// Most rows of a job.
    pub fn rows(self) -> u64 {
        duplicates::rows_of_two_looks(self.search())
    }

    fn search(self) -> u64 {
        self.bytes / 2
    }

    /// All of it.
    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }

    /// Memory that its inputs take at most.
    pub fn inputs(self) -> u64 {
        self.bytes / 2
    }

    pub(crate) fn row_group(self) -> usize {
        (self.bytes / 8) as usize
    }

    fn run(self) -> u64 {
        self.bytes / 16
    }

    /// S3 takes parts of 5 MiB and more.
    pub(crate) fn part(self) -> usize {
        (self.bytes / 64).clamp(5 << 20, 16 << 20) as usize
    }
}

/// Why nothing came out of a merge. The inputs are as they were.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("read {path}")]
    Read { path: String, source: ParquetError },
    #[error("{path} was read otherwise than it is stored")]
    Misread { path: String, source: Box<MergeError> },
    #[error("the rows of {path} are not in the order that it claims")]
    Unsorted { path: String },
    #[error("column {column} of {path} cannot be read as the table has it")]
    Column { path: String, column: String, source: ArrowError },
    #[error("{path} has a column {column}, which the table has not")]
    Unknown { path: String, column: String },
    #[error("write {path}")]
    Write { path: String, source: ParquetError },
    #[error("store {path}")]
    Store { path: String, source: object_store::Error },
    #[error("temporary file")]
    Temporary(#[from] std::io::Error),
    #[error("merge rows")]
    Arrow(#[from] ArrowError),
    #[error("too few of the files fit into the memory of the compactor: raise [memory] compactor")]
    TooLarge,
    #[error("what was merged, {path}, differs from its inputs: {difference}")]
    Different { path: String, difference: String },
    /// Rows are left out by their place in the log, and more of them have such a place than there are copies: another
    /// writer has given one place to several events.
    #[error("rows of different events have the same partition and offset")]
    Ambiguous { files: usize },
    #[error("stopped")]
    Stopped,
}

impl MergeError {
    /// Whether the same merge may succeed later: the store failed, not the files.
    pub fn is_retryable(&self) -> bool {
        match self {
            MergeError::Read { source, .. } => matches!(source, ParquetError::External(_)),
            MergeError::Misread { .. } | MergeError::Store { .. } | MergeError::Temporary(_) | MergeError::Stopped => {
                true
            }
            _ => false,
        }
    }
}

/// How the rows of a table are merged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The dataset's order of rows.
    pub sort_by: Vec<String>,
    pub budget: Budget,
    /// A file that has reached so many bytes is ended and the next one begun.
    pub segment_bytes: u64,
    /// Files whose order must not be believed.
    pub distrusted: HashSet<String>,
}

/// Files that were stored and not looked at again.
#[derive(Debug, Clone)]
pub struct Merged {
    pub date: NaiveDate,
    /// In the order of their rows; none if the inputs had none.
    pub files: Vec<DataFile>,
    /// What was merged: the first of the job's inputs.
    pub inputs: Vec<Arc<DataFile>>,
    pub rows_in: u64,
    pub duplicates: u64,
    /// When the merge began.
    pub(crate) began: Instant,
    pub(crate) hasher: RowHasher,
    /// Of the rows of the inputs less the duplicates.
    pub(crate) checksum: u64,
}

impl Merged {
    pub fn bytes_in(&self) -> u64 {
        self.inputs.iter().map(|file| file.size).sum()
    }

    pub fn bytes_out(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Of the new files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(DataFile::rows).sum()
    }

    /// Names of the new files, for people.
    pub(crate) fn paths(&self) -> String {
        self.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// Merges the inputs of `job`, or the first of them if all would not fit in memory. Stops soon after `cancel`.
pub async fn merge(
    table: &Table,
    job: &MergeJob,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<Merged, MergeError> {
    let merged = match merge_once(table, job, settings, Copies::LeftOut, cancel).await {
        Err(MergeError::Ambiguous { files }) => {
            warn!(table = table.name(), files, "rows of different events have the same offset, copies stay");
            merge_once(table, job, settings, Copies::Kept, cancel).await
        }
        merged => merged,
    };
    match merged {
        Err(error) => Err(cancel.run_until_cancelled(confirm(table, job, error)).await.unwrap_or(MergeError::Stopped)),
        merged => merged,
    }
}

/// Whether an input is at fault, or one answer of the store: looks again at the file that the error names.
async fn confirm(table: &Table, job: &MergeJob, error: MergeError) -> MergeError {
    let (MergeError::Read { path, .. } | MergeError::Column { path, .. } | MergeError::Unknown { path, .. }) = &error
    else {
        return error;
    };
    let Some(file) = job.inputs.iter().find(|file| file.path == *path) else { return error };
    if error.is_retryable() {
        return expect_stored(table, file).await.err().unwrap_or(error);
    }
    match read_through(table, file).await {
        Ok(()) => MergeError::Misread { path: path.clone(), source: Box::new(error) },
        Err(confirmed) => confirmed,
    }
}

/// A file that is gone, or that was cut off, will never be read, however often it is tried.
async fn expect_stored(table: &Table, file: &DataFile) -> Result<(), MergeError> {
    let difference = match table.store().head(&table.file_path(&file.path)).await {
        Ok(object) if object.size != file.size => {
            format!("it has {} bytes, and {} were committed", object.size, file.size)
        }
        Err(object_store::Error::NotFound { .. }) => "it is gone".to_owned(),
        Ok(_) | Err(_) => return Ok(()),
    };
    Err(MergeError::Read { path: file.path.clone(), source: ParquetError::General(difference) })
}

async fn read_through(table: &Table, file: &DataFile) -> Result<(), MergeError> {
    let mut batches = open_input(table, file).await?.rows_of(Arc::clone(&table.schema().arrow))?;
    while batches.next().await?.is_some() {}
    Ok(())
}

/// What becomes of the copies of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    LeftOut,
    Kept,
}

async fn merge_once(
    table: &Table,
    job: &MergeJob,
    settings: &Settings,
    copies: Copies,
    cancel: &CancellationToken,
) -> Result<Merged, MergeError> {
    let stopped = || MergeError::Stopped;
    let began = Instant::now();
    let sort_by = existing(&settings.sort_by, table.schema());
    let order = sort::order(&sort_by);
    let opened = cancel.run_until_cancelled(open(table, job, settings, &order)).await.ok_or_else(stopped)??;
    let inputs: Vec<Input> = opened.sorted.iter().chain(&opened.unsorted).cloned().collect();
    let rows = inputs.iter().map(Input::rows).sum::<u64>();
    let row_bytes = RowBytes {
        memory: inputs.iter().map(Input::row_bytes).sum::<u64>() / rows.max(1),
        stored: opened.files.iter().map(|file| file.size).sum::<u64>() / rows.max(1),
    };
    let columns = in_memory(&table.schema().arrow);
    let mut duplicates = Duplicates::default();
    if copies == Copies::LeftOut {
        let found = Duplicates::find(&inputs, &columns, settings.budget.search());
        duplicates = cancel.run_until_cancelled(found).await.ok_or_else(stopped)??;
    }
    drop(inputs);

    let mut inputs = opened.sorted;
    for input in opened.unsorted {
        let runs = runs::sort(&input, table.schema(), &order, settings.budget.run());
        inputs.extend(cancel.run_until_cancelled(runs).await.ok_or_else(stopped)??);
    }
    input::share_memory(&mut inputs, settings.budget.inputs());
    let hasher = RowHasher::default();
    let cursors = Cursors::open(inputs, &columns, &order, hasher.clone());
    let mut cursors = cancel.run_until_cancelled(cursors).await.ok_or_else(stopped)??;

    let ranges = opened.files.iter().flat_map(|file| file.ranges.iter().copied()).collect();
    let target = Target {
        table,
        settings,
        date: job.date,
        sort_by,
        column: order[0].clone(),
        ranges: range::union(ranges),
        row_bytes,
    };
    let mut outputs = Outputs::new(target, rows);
    let filled = cancel.run_until_cancelled(fill(&mut outputs, &mut cursors, &duplicates, cancel)).await;
    let is_exact = |dropped: &Dropped| dropped.rows == duplicates.len();
    let ambiguous = || MergeError::Ambiguous { files: opened.files.len() };
    let filled = filled.ok_or_else(stopped).flatten();
    let dropped = match filled.and_then(|dropped| is_exact(&dropped).then_some(dropped).ok_or_else(ambiguous)) {
        Ok(dropped) => dropped,
        Err(error) => {
            outputs.abort().await;
            return Err(error);
        }
    };
    let files = cancel.run_until_cancelled(outputs.finish(&cursors)).await.ok_or_else(stopped)??;
    Ok(Merged {
        date: job.date,
        files,
        inputs: opened.files,
        rows_in: cursors.rows,
        duplicates: dropped.rows,
        began,
        hasher,
        checksum: cursors.checksum.wrapping_sub(dropped.checksum),
    })
}

/// The columns of `sort_by` that the table has. One that was declared and never came into the table is null everywhere,
/// so rows are in its order as they are.
fn existing(sort_by: &[String], schema: &TableSchema) -> Vec<String> {
    sort_by.iter().filter(|name| schema.has(name)).cloned().collect()
}

/// Files whose footers were read and that fit in memory together.
struct Opened {
    files: Vec<Arc<DataFile>>,
    sorted: Vec<Input>,
    unsorted: Vec<Input>,
}

/// Footers are read so many at a time.
const OPENING: usize = 16;

async fn open(table: &Table, job: &MergeJob, settings: &Settings, order: &[String]) -> Result<Opened, MergeError> {
    let opening = futures::stream::iter(job.inputs.iter().map(Arc::clone)).map(|file| async move {
        let input = open_input(table, &file).await?;
        Ok::<_, MergeError>((file, input))
    });
    let mut opening = std::pin::pin!(opening.buffered(OPENING));
    let mut opened = Opened { files: Vec::new(), sorted: Vec::new(), unsorted: Vec::new() };
    let (mut cost, mut rows) = (0, 0);
    while let Some((file, input)) = opening.try_next().await? {
        let is_sorted = !file.sorted_by.is_empty()
            && sort::order(&existing(&file.sorted_by, table.schema())) == *order
            && !settings.distrusted.contains(&file.path);
        let runs = input.row_bytes() / settings.budget.run() + 1;
        cost += if is_sorted { input.cost() } else { runs * runs::COST };
        rows += input.rows();
        if cost > settings.budget.inputs() || rows > settings.budget.rows() {
            break;
        }
        opened.files.push(file);
        if is_sorted { opened.sorted.push(input) } else { opened.unsorted.push(input) }
    }
    // What is planned for the sake of overlap must get narrow, or it would be planned again and again.
    let is_cut = job.inputs.iter().all(|file| file.size >= settings.segment_bytes / 2);
    let bytes = opened.files.iter().map(|file| file.size).sum();
    let is_in_vain = is_cut && opened.files.len() < job.inputs.len() && !is_worth_a_cut(bytes, settings.segment_bytes);
    if opened.files.len() < 2 || is_in_vain {
        return Err(MergeError::TooLarge);
    }
    Ok(opened)
}

/// Opens a file, if it is what the table says of it.
async fn open_input(table: &Table, file: &DataFile) -> Result<Input, MergeError> {
    let input = Input::fetch(table, file).await?;
    input.expect_known(table.schema())?;
    input.expect_rows(file.rows())?;
    Ok(input)
}

/// Rows that were left out.
#[derive(Default)]
struct Dropped {
    rows: u64,
    checksum: u64,
}

async fn fill(
    outputs: &mut Outputs<'_>,
    cursors: &mut Cursors,
    duplicates: &Duplicates,
    cancel: &CancellationToken,
) -> Result<Dropped, MergeError> {
    let mut dropped = Dropped::default();
    let mut runs: u32 = 0;
    while let Some(run) = cursors.next().await? {
        runs = runs.wrapping_add(1);
        // Small files are in memory already: nothing else here would wait, and so be stopped.
        if runs.is_multiple_of(1_024) && cancel.is_cancelled() {
            return Err(MergeError::Stopped);
        }
        let copies = duplicates.among(&cursors.batches()[run.batch], run.rows.clone());
        for row in &copies {
            dropped.rows += 1;
            dropped.checksum = dropped.checksum.wrapping_add(cursors.checksum_of(run.batch, *row));
        }
        outputs.append(run, &copies, cursors).await?;
    }
    Ok(dropped)
}
