//! What an operator may choose.

use crate::merge::Budget;
use crate::plan::Policy;
use crate::sweep::Retention;
use bytesize::ByteSize;
use std::time::Duration;

/// The section `[compaction]`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two looks at the tables.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Size of a segment; files of half of it and more are not merged for their size.
    pub segment: ByteSize,
    /// Most small files of a date that is still written to.
    pub small_files: usize,
    /// Fewest files of a merge while a date is still written to.
    pub min_files: usize,
    /// Most files of a merge.
    pub max_files: usize,
    /// A date that was not written to for so long merges whatever is left over, and cuts large files that overlap.
    #[serde(with = "humantime_serde")]
    pub cold_after: Duration,
    /// How long files that left the table stay: longer than the longest query.
    #[serde(with = "humantime_serde")]
    pub keep_removed: Duration,
    /// How long files stay that were never in the table: longer than any upload waits for its commit.
    #[serde(with = "humantime_serde")]
    pub keep_orphans: Duration,
}

/// Segments that one merge writes at most.
const JOB_SEGMENTS: u64 = 16;

impl Default for Config {
    fn default() -> Self {
        Config {
            every: Duration::from_secs(30),
            segment: ByteSize::mib(128),
            small_files: 80,
            min_files: 4,
            max_files: 128,
            cold_after: Duration::from_secs(3600),
            keep_removed: lake::table::DELETED_FILE_RETENTION,
            keep_orphans: Duration::from_secs(24 * 3600),
        }
    }
}

impl Config {
    pub(crate) fn policy(&self, memory: ByteSize, sort_by: &[String]) -> Policy {
        let budget = Budget::new(memory);
        Policy {
            target_bytes: self.segment_bytes(),
            small_files: self.small_files.max(2),
            min_files: self.min_files.max(2),
            max_files: self.max_files.max(2),
            max_rows: budget.rows(),
            max_bytes: self.segment_bytes().saturating_mul(JOB_SEGMENTS),
            max_memory: budget.inputs(),
            cold_after: self.cold_after,
            column: lake::sort::order(sort_by).swap_remove(0),
        }
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment.as_u64().max(1)
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention { removed: self.keep_removed, orphans: self.keep_orphans }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_names_only_what_differs_and_nothing_unknown() {
        let config: Config = serde_json::from_str(r#"{"every":"5s","segment":"64MiB"}"#).unwrap();
        assert_eq!(config, Config { every: Duration::from_secs(5), segment: ByteSize::mib(64), ..Config::default() });
        assert!(serde_json::from_str::<Config>(r#"{"evry":"5s"}"#).is_err());
    }
}
