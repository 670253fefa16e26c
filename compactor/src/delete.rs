//! Deletes rows on request: those of a device, of an event, of a time, whatever files they are in.
//!
//! ```text
//! predicate   which rows are meant                               pure; parsed from a WHERE clause, never more widely
//! prune       which files, and row groups, may hold such rows    by date, statistics and Bloom filters
//! rewrite     reads a file, writes it anew without them          invisible until it is in the table; read back
//! run         one commit: files with such rows out, their successors in
//! ```
//!
//! The commit is made only on a version of which every file is known: each was read and holds no such row, or is replaced
//! by the commit. So at that version none is left, whatever appenders and compactors did meanwhile; and as with a merge
//! (invariant I5) nothing but live files is replaced. Until the commit nothing has changed, and it is never half done.
//!
//! What left the table stays in the store for as long as a query may need it, then the sweep deletes it, and with it the
//! last byte of the rows in data files. Rows that are not in the table yet, because they are in the log or in a processor's
//! memory, come later: deleting is no filter on the way in.

pub mod predicate;
mod parse;
mod prune;
mod rewrite;
mod report;
mod run;

pub use parse::Refused;
pub use predicate::Predicate;
pub use report::{DeleteError, Deleted, Found, Progress, Settings};
pub use run::Deletion;

#[cfg(test)]
mod tests;
