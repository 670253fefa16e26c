//! The lines of a commit: Delta's actions, as far as this project writes or must understand them.
//!
//! Source: the Delta transaction log protocol, sections "Actions" and "Delta Log Entries".

use crate::file::{DataFile, FileStats};
use crate::range::{format_ranges, parse_ranges};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of a commit file; exactly one member is set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<CommitInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
}

/// Who made the commit, when and why.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub timestamp: i64,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub operation_parameters: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub engine_info: String,
    /// Random: tells our own commit from another's when the store's answer was lost.
    #[serde(default)]
    pub txn_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    pub configuration: BTreeMap<String, String>,
    #[serde(default)]
    pub created_time: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default)]
    pub last_updated: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    pub path: String,
    pub partition_values: BTreeMap<String, Option<String>>,
    pub size: u64,
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(default)]
    pub stats: Option<String>,
    #[serde(default)]
    pub tags: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    pub path: String,
    #[serde(default)]
    pub deletion_timestamp: Option<i64>,
    pub data_change: bool,
    #[serde(default)]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Property of a table: names of the columns with statistics, separated by commas.
pub const STATS_COLUMNS: &str = "delta.dataSkippingStatsColumns";

/// Tags of an `add`, in which a file's offset ranges and order travel. Readers ignore them.
pub const TAG_RANGES: &str = "lakehose.ranges";
pub const TAG_SORTED_BY: &str = "lakehose.sortedBy";

impl Add {
    pub fn new(file: &DataFile, data_change: bool) -> Add {
        let tags = [(TAG_RANGES, format_ranges(&file.ranges)), (TAG_SORTED_BY, file.sorted_by.join(","))];
        Add {
            path: file.path.clone(),
            partition_values: [("date".to_owned(), Some(file.date.to_string()))].into(),
            size: file.size,
            modification_time: file.modified_ms,
            data_change,
            stats: serde_json::to_string(&file.stats).ok(),
            tags: Some(tags.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect()),
        }
    }

    /// The file that this action adds; an error for one that this project cannot have written.
    pub fn to_file(&self) -> Result<DataFile, String> {
        let foreign = || format!("{} is of no `date`: another program made this table", self.path);
        let date = self.partition_values.get("date").and_then(Option::as_ref).ok_or_else(foreign)?;
        let tag =
            |name: &str| self.tags.as_ref().and_then(|tags| tags.get(name).cloned().flatten()).unwrap_or_default();
        let stats: FileStats = match &self.stats {
            Some(stats) => serde_json::from_str(stats).map_err(|err| format!("statistics of {}: {err}", self.path))?,
            None => FileStats::default(),
        };
        Ok(DataFile {
            path: self.path.clone(),
            size: self.size,
            date: date.parse().map_err(|err| format!("date of {}: {err}", self.path))?,
            modified_ms: self.modification_time,
            stats,
            ranges: parse_ranges(&tag(TAG_RANGES))?,
            sorted_by: tag(TAG_SORTED_BY).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect(),
        })
    }
}

impl Remove {
    pub fn new(file: &DataFile, now_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: file.path.clone(),
            deletion_timestamp: Some(now_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some([("date".to_owned(), Some(file.date.to_string()))].into()),
            size: Some(file.size),
        }
    }
}

impl Action {
    pub fn commit_info(info: CommitInfo) -> Action {
        Action { commit_info: Some(info), ..Action::default() }
    }

    pub fn protocol(protocol: Protocol) -> Action {
        Action { protocol: Some(protocol), ..Action::default() }
    }

    pub fn metadata(metadata: Metadata) -> Action {
        Action { meta_data: Some(metadata), ..Action::default() }
    }

    pub fn txn(txn: Txn) -> Action {
        Action { txn: Some(txn), ..Action::default() }
    }

    pub fn add(add: Add) -> Action {
        Action { add: Some(add), ..Action::default() }
    }

    pub fn remove(remove: Remove) -> Action {
        Action { remove: Some(remove), ..Action::default() }
    }
}

/// A commit as the bytes of its file: one action a line.
pub fn to_lines(actions: &[Action]) -> Bytes {
    let mut lines = Vec::new();
    for action in actions {
        // Plain data with string keys always serialises.
        serde_json::to_writer(&mut lines, action).expect("an action is plain data");
        lines.push(b'\n');
    }
    lines.into()
}

/// The inverse of [`to_lines`]. Actions of kinds that are not known here come back empty.
pub fn from_lines(lines: &[u8]) -> Result<Vec<Action>, serde_json::Error> {
    lines.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).map(serde_json::from_slice).collect()
}
