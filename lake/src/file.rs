//! A data file as the table log knows it.

use crate::layout::Kind;
use crate::range::OffsetRange;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A file that was uploaded, and everything a commit has to say about it. Serialises, so that it can be announced to a
/// committer in another process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path inside the table.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// UTC date of all its rows.
    pub date: NaiveDate,
    /// When it was written, milliseconds since the epoch.
    pub modified_ms: i64,
    pub stats: FileStats,
    /// Offsets that its rows come from; other files may hold other rows of the same ranges (of other dates).
    pub ranges: Vec<OffsetRange>,
    /// Columns by which its rows are sorted; empty when that is not known.
    pub sorted_by: Vec<String>,
}

impl DataFile {
    pub fn kind(&self) -> Kind {
        Kind::of(&self.path)
    }

    pub fn rows(&self) -> u64 {
        self.stats.rows
    }
}

/// Delta's statistics of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileStats {
    #[serde(rename = "numRecords")]
    pub rows: u64,
    #[serde(rename = "minValues", default)]
    pub min: Map<String, Value>,
    #[serde(rename = "maxValues", default)]
    pub max: Map<String, Value>,
    #[serde(rename = "nullCount", default)]
    pub nulls: Map<String, Value>,
}
