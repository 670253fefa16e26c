//! The records of a control topic: what processors announce, and what the committer answers. Pure.
//!
//! An announcement holds all that a commit says about a flush, so the committer opens none of its files. One answer
//! holds the verdicts of a whole commit. Anybody may write to a topic: what is no such record, or could not have come
//! from a flush, is not taken.

use super::Submission;
use bytes::Bytes;
use lake::{DataFile, OffsetRange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A record of the control topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRecord {
    Announcement(Announcement),
    Answers(Vec<Answer>),
}

/// Files that were uploaded and wait for their commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// Random; stays the same when the same flush is announced again.
    pub id: Uuid,
    /// The process that announces, for people who look for it.
    pub processor: Uuid,
    pub ranges: Vec<OffsetRange>,
    pub files: Vec<DataFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<DataFile>,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: Uuid,
    /// False: it does not continue the table.
    pub committed: bool,
}

/// Why a record is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("not a record of a control topic")]
    Json(#[from] serde_json::Error),
    #[error("an announcement of ranges that no flush has: {0}")]
    Ranges(String),
    #[error("an announcement of a file outside of its table: {0}")]
    Path(String),
}

impl ControlRecord {
    pub fn parse(value: &[u8]) -> Result<ControlRecord, Unreadable> {
        let record = serde_json::from_slice(value)?;
        if let ControlRecord::Announcement(announcement) = &record {
            announcement.check()?;
        }
        Ok(record)
    }

    /// Fails for no record that a processor can make: keys are names, and numbers are finite.
    pub fn to_bytes(&self) -> Result<Bytes, serde_json::Error> {
        Ok(serde_json::to_vec(self)?.into())
    }
}

impl Announcement {
    pub fn new(processor: Uuid, submission: Submission) -> Announcement {
        let Submission { ranges, files, dead } = submission;
        Announcement { id: Uuid::new_v4(), processor, ranges, files, dead }
    }

    pub fn into_submission(self) -> Submission {
        Submission { ranges: self.ranges, files: self.files, dead: self.dead }
    }

    fn check(&self) -> Result<(), Unreadable> {
        let mut partitions = BTreeSet::new();
        let mut sound = |range: &OffsetRange| {
            range.partition >= 0 && range.start >= 0 && range.start < range.end && partitions.insert(range.partition)
        };
        if self.ranges.is_empty() || !self.ranges.iter().all(&mut sound) {
            return Err(Unreadable::Ranges(lake::range::format_ranges(&self.ranges)));
        }
        if let Some(range) = self.dead.iter().flat_map(|file| &file.ranges).find(|range| !self.ranges.contains(range)) {
            return Err(Unreadable::Ranges(range.to_string()));
        }
        let inside =
            |file: &&DataFile| file.path.starts_with("date=") && !file.path.split('/').any(|part| part == "..");
        match self.files.iter().chain(&self.dead).find(|file| !inside(file)) {
            None => Ok(()),
            Some(file) => Err(Unreadable::Path(file.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::file::FileStats;
    use serde_json::json;

    fn range(partition: i32, start: i64, end: i64) -> OffsetRange {
        OffsetRange { partition, start, end }
    }

    fn file(path: &str, ranges: &[OffsetRange]) -> DataFile {
        let mut stats = FileStats { rows: 3, ..FileStats::default() };
        stats.min.insert("time".into(), json!("2026-11-22T00:00:00Z"));
        DataFile {
            path: path.into(),
            size: 9,
            date: "2026-11-22".parse().unwrap(),
            modified_ms: 7,
            stats,
            ranges: ranges.to_vec(),
            sorted_by: vec!["time".into()],
        }
    }

    fn announcement() -> Announcement {
        let ranges = vec![range(0, 5, 9), range(3, 1, 2)];
        let files = vec![file("date=2026-11-22/a.parquet", &ranges)];
        let dead = vec![file("date=2026-11-22/b.parquet", &ranges[..1])];
        Announcement::new(Uuid::new_v4(), Submission { ranges, files, dead })
    }

    fn parsed(announcement: Announcement) -> Result<ControlRecord, Unreadable> {
        ControlRecord::parse(&ControlRecord::Announcement(announcement).to_bytes().unwrap())
    }

    #[test]
    fn a_record_survives_the_way_through_the_topic() {
        let announced = announcement();
        assert_eq!(parsed(announced.clone()).unwrap(), ControlRecord::Announcement(announced.clone()));
        let answers = ControlRecord::Answers(vec![Answer { id: announced.id, committed: true }]);
        assert_eq!(ControlRecord::parse(&answers.to_bytes().unwrap()).unwrap(), answers);
    }

    #[test]
    fn what_no_flush_can_have_announced_is_not_taken() {
        for ranges in [vec![], vec![range(0, 5, 5)], vec![range(0, 1, 2), range(0, 2, 3)], vec![range(-1, 0, 1)]] {
            let changed = Announcement { ranges, dead: Vec::new(), ..announcement() };
            assert!(matches!(parsed(changed), Err(Unreadable::Ranges(_))));
        }
        for path in ["/etc/passwd", "date=2026-11-22/../../x", "_delta_log/0.json"] {
            let changed = Announcement { files: vec![file(path, &[])], ..announcement() };
            assert!(matches!(parsed(changed), Err(Unreadable::Path(_))));
        }
        let changed =
            Announcement { dead: vec![file("date=2026-11-22/b.parquet", &[range(0, 0, 99)])], ..announcement() };
        assert!(matches!(parsed(changed), Err(Unreadable::Ranges(_))));
        for garbled in [&b""[..], b"{", b"null", br#"{"announcement":{"id":"x"}}"#, b"\xff\xfe"] {
            assert!(matches!(ControlRecord::parse(garbled), Err(Unreadable::Json(_))), "{garbled:?}");
        }
    }
}
