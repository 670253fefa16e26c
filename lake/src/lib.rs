//! What lies in the bucket and how it changes.
//!
//! ```text
//! <lake>/events/_delta_log/…json      the table log: numbered, put-if-absent, the only truth
//! <lake>/events/date=2026-11-22/      a window: fragments (small, of processors) and segments (large, of compactors)
//! <lake>/events__dead/…               dead letters of the dataset, a table of its own
//! <lake>/events__dead_replays/…       which of them were replayed, and to where
//! <lake>/_compactors/<uuid>           a compactor that is at work; nothing depends on it
//! ```
//!
//! Invariants, by which the rest of the code is written and which tests cite:
//!
//! - **I1** A 2xx answer means that every accepted event is durable in the log.
//! - **I2** Files become visible, and offsets move, in one atomic table commit. Group offsets are a hint made after it.
//! - **I3** Per partition the committed ranges form a chain without gap or overlap: a fragment is accepted only if its
//!   start is the table's `txn` of the partition, checked against exactly the version it is committed on.
//! - **I4** A data file is never overwritten, and deleted only after the longest query could have ended.
//! - **I5** A compaction commits only if all its inputs are live at exactly the version it is committed on.
//! - **I6** A record that cannot be written is in the dead-letter table before its offset moves, exactly once.
//! - **I7** Memory is bounded by configuration in every role.

pub mod event;
pub mod dataset;
pub mod schema;
pub mod evolution;
pub mod batch;
pub mod sort;
pub mod range;
pub mod layout;
pub mod file;
pub mod stats;
pub mod parquet;
pub mod reader;
mod whole;
pub mod store;
pub mod actions;
pub mod state;
pub mod cleanup;
pub mod staging;
mod kernel;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;

pub use file::DataFile;
pub use range::OffsetRange;
pub use state::{Keep, Removal, TableState};
pub use store::Lake;
pub use table::{Change, Outcome, Table, TableError};
