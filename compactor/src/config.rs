//! What an operator may choose.

use crate::merge::Budget;
use crate::plan::Policy;
use crate::sweep::Retention;
use crate::view::CLOCK_MARGIN;
use bytesize::ByteSize;
use lake::table::{COMMIT_WITHIN, DELETED_FILE_RETENTION};
use std::time::Duration;

/// The section `[compaction]`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Time between two looks at the tables.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Merges side by side in one process; each gets its part of the memory. Absent: as many as there are cores, if each
    /// gets enough for segments of full size.
    pub jobs: Option<usize>,
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
    /// How long files stay that were never in the table: longer by an hour than any upload waits for its commit.
    #[serde(with = "humantime_serde")]
    pub keep_orphans: Duration,
    /// How long an upload may wait for its commit. Processors and compactors give it up after 12 h
    /// ([`lake::table::COMMIT_WITHIN`]), so only tests know better: of processes that never wait.
    #[serde(with = "humantime_serde")]
    pub commit_within: Duration,
    /// How long versions of the table can be told apart: the log behind an older checkpoint is cleaned up.
    #[serde(with = "humantime_serde")]
    pub keep_log: Duration,
}

/// Segments that one merge writes at most.
const JOB_SEGMENTS: u64 = 16;

impl Default for Config {
    fn default() -> Self {
        Config {
            every: Duration::from_secs(30),
            jobs: None,
            segment: ByteSize::mib(128),
            small_files: 80,
            min_files: 4,
            max_files: 128,
            cold_after: Duration::from_secs(3600),
            keep_removed: DELETED_FILE_RETENTION,
            keep_orphans: Duration::from_secs(24 * 3600),
            commit_within: COMMIT_WITHIN,
            keep_log: Duration::from_secs(24 * 3600),
        }
    }
}

/// Memory with which a merge makes segments of full size, and does it fast.
const GOOD_MEMORY: u64 = 256 << 20;

/// Two clocks are apart by less.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

/// Why a compactor so configured would break what it promises.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("every is 0: give the time between two rounds, such as \"30s\"")]
    Every,
    #[error(
        "keep_removed is 0, and queries under way would lose the files that they read: give the time that the longest \
         of them takes, such as \"6h\""
    )]
    KeepRemoved,
    #[error(
        "keep_orphans is {}, and a file may wait for its commit for {}: give at least {}, or leave it out",
        humantime::format_duration(*.given), humantime::format_duration(*.commit_within),
        humantime::format_duration(*.least)
    )]
    KeepOrphans { given: Duration, commit_within: Duration, least: Duration },
}

impl Config {
    /// What one setting alone, or its type, cannot tell.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (given, commit_within) = (self.keep_orphans, self.commit_within);
        let least = commit_within.saturating_add(commit_within.min(CLOCKS_APART));
        match self {
            _ if self.every.is_zero() => Err(ConfigError::Every),
            _ if self.keep_removed.is_zero() => Err(ConfigError::KeepRemoved),
            _ if given < least => Err(ConfigError::KeepOrphans { given, commit_within, least }),
            _ => Ok(()),
        }
    }

    /// How many merges run side by side in `memory`.
    pub(crate) fn jobs(&self, memory: ByteSize) -> usize {
        let fit = |each: u64| (memory.as_u64() / each).max(1) as usize;
        match self.jobs {
            Some(jobs) => jobs.clamp(1, fit(Budget::LEAST)),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(fit(GOOD_MEMORY)),
        }
    }

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

    /// Of a table whose rows are kept for so long after the end of their date.
    pub(crate) fn retention(&self, dates: Option<Duration>) -> Retention {
        Retention { dates, removed: self.keep_removed, orphans: self.keep_orphans, log: self.keep_log() }
    }

    /// The log tells a compactor that starts when files left the table, and a processor that starts what was written
    /// lately: it stays for longer than either asks for.
    fn keep_log(&self) -> Duration {
        let asked_for = self.keep_removed.max(DELETED_FILE_RETENTION);
        self.keep_log.max(asked_for.saturating_add(2 * CLOCK_MARGIN))
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

    #[test]
    fn what_would_take_files_from_queries_or_uploads_is_refused() {
        let checked = |json: &str| serde_json::from_str::<Config>(json).unwrap().check().map_err(|err| err.to_string());
        assert_eq!(checked("{}"), Ok(()));
        assert_eq!(checked(r#"{"keep_orphans":"13h","keep_removed":"1s"}"#), Ok(()));
        let refused = "keep_orphans is 12h 59m 59s, and a file may wait for its commit for 12h: give at least 13h, or leave it out";
        assert_eq!(checked(r#"{"keep_orphans":"12h 59m 59s"}"#), Err(refused.to_owned()));
        assert_eq!(checked(r#"{"keep_orphans":"1m","commit_within":"30s"}"#), Ok(()));
        assert!(checked(r#"{"keep_orphans":"59s","commit_within":"30s"}"#).unwrap_err().contains("at least 1m,"));
        assert!(checked(r#"{"keep_removed":"0s"}"#).unwrap_err().starts_with("keep_removed is 0"));
        assert!(checked(r#"{"every":"0s"}"#).unwrap_err().starts_with("every is 0"));
    }

    #[test]
    fn no_more_jobs_run_than_memory_is_there_for() {
        let jobs = |jobs, mib| Config { jobs, ..Config::default() }.jobs(ByteSize::mib(mib));
        assert_eq!((jobs(Some(8), 512), jobs(Some(8), 128), jobs(Some(8), 1), jobs(Some(0), 512)), (8, 2, 1, 1));
        assert_eq!((jobs(None, 256), jobs(None, 64)), (1, 1));
        assert!(jobs(None, 1 << 20) == std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn the_log_stays_for_longer_than_anybody_asks_it_for() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let log = |keep_log, keep_removed| Config { keep_log, keep_removed, ..Config::default() }.retention(None).log;
        assert_eq!(Config::default().retention(None).log, hours(24));
        assert_eq!(log(hours(0), hours(0)), hours(8));
        assert_eq!(log(hours(24), hours(48)), hours(50));
        assert_eq!(log(hours(100), hours(48)), hours(100));
    }
}
