//! Where things lie in the bucket: names out of facts, and back.
//!
//! ```text
//! <lake>/<dataset>/_delta_log/00000000000000000042.json         one commit
//! <lake>/<dataset>/date=2026-11-22/<fragment or segment>        data
//! <lake>/<dataset>__dead/…                                      dead letters, laid out alike
//! ```
//!
//! A name never decides anything: the table log does. Names carry facts for people, and a random part, so that no
//! writer ever overwrites another's file (invariant I4).

use crate::range::OffsetRange;
use chrono::NaiveDate;
use uuid::Uuid;

/// What wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A small file of a processor.
    Fragment,
    /// A large file of a compactor.
    Segment,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Fragment => "fragment",
            Kind::Segment => "segment",
        }
    }

    /// The kind of a data file, by its path inside the table.
    pub fn of(path: &str) -> Kind {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.starts_with(SEGMENT_PREFIX) { Kind::Segment } else { Kind::Fragment }
    }
}

const SEGMENT_PREFIX: &str = "seg-";

/// Characters of the random part of a name.
const UNIQUE: usize = 36;

/// Whether a data file, by its path inside the table, has a name as only this module gives them.
pub fn is_ours(path: &str) -> bool {
    let Some((_, name)) = path.rsplit_once('/') else { return false };
    let Some(name) = name.strip_suffix(".parquet") else { return false };
    let unique = name.len().checked_sub(UNIQUE).and_then(|at| name.split_at_checked(at));
    unique.is_some_and(|(facts, unique)| facts.ends_with('-') && unique.parse::<Uuid>().is_ok())
}

/// Path inside the table of a new fragment of `ranges`, which must not be empty: named after the first of them.
pub fn fragment_path(dataset: &str, date: NaiveDate, ranges: &[OffsetRange], unique: Uuid) -> String {
    let first = ranges.iter().min().expect("a fragment has at least one range");
    format!("{}{dataset}-{}-{}-{}-{unique}.parquet", date_directory(date), first.partition, first.start, first.end)
}

/// Path inside the table of a new segment.
pub fn segment_path(date: NaiveDate, unique: Uuid) -> String {
    format!("{}{SEGMENT_PREFIX}{unique}.parquet", date_directory(date))
}

/// The window of a date, with a slash at its end.
pub fn date_directory(date: NaiveDate) -> String {
    format!("date={date}/")
}

/// Directory of the log inside the table.
pub const LOG: &str = "_delta_log";

/// Path inside the table of the object that names the latest checkpoint.
pub const LAST_CHECKPOINT: &str = "_delta_log/_last_checkpoint";

/// Path inside the table of the commit that makes `version`.
pub fn commit_path(version: u64) -> String {
    format!("_delta_log/{version:020}.json")
}

/// The UTC date of microseconds since the epoch.
pub fn date_of(micros: i64) -> NaiveDate {
    date_from_days(days_of(micros))
}

/// Days since the epoch of microseconds since the epoch.
pub fn days_of(micros: i64) -> i32 {
    micros.div_euclid(86_400_000_000) as i32
}

/// The inverse of Arrow's `Date32`.
pub fn date_from_days(days: i32) -> NaiveDate {
    NaiveDate::from_epoch_days(days).unwrap_or(NaiveDate::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_inside() {
        let date = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
        let ranges =
            [OffsetRange { partition: 4, start: 1, end: 2 }, OffsetRange { partition: 3, start: 100, end: 250 }];
        let fragment = fragment_path("events", date, &ranges, Uuid::nil());
        assert_eq!(fragment, "date=2026-11-22/events-3-100-250-00000000-0000-0000-0000-000000000000.parquet");
        assert_eq!(Kind::of(&fragment), Kind::Fragment);
        assert_eq!(Kind::of(&segment_path(date, Uuid::nil())), Kind::Segment);
        assert!(is_ours(&fragment) && is_ours(&segment_path(date, Uuid::new_v4())));
        let foreign = [
            "a.parquet",
            "date=2026-11-22/a.parquet",
            "date=2026-11-22/part-00001-of-00002-more-than-a-uuid-takes.parquet",
            "date=2026-11-22/00000000-0000-0000-0000-000000000000.parquet",
            "date=2026-11-22/seg-00000000-0000-0000-0000-000000000000.parquet.crc",
            "date=2026-11-22/ß-0000000000-0000-0000-0000-000000000000.parquet",
        ];
        assert_eq!(foreign.iter().find(|path| is_ours(path)), None);
        assert_eq!(commit_path(42), "_delta_log/00000000000000000042.json");
    }

    #[test]
    fn dates_before_the_epoch_round_down() {
        assert_eq!(date_of(-1).to_string(), "1969-12-31");
        assert_eq!(date_of(0).to_string(), "1970-01-01");
        assert_eq!(date_of(253_402_300_799_999_999).to_string(), "9999-12-31");
        assert_eq!(date_of(-62_135_596_800_000_000).to_string(), "0001-01-01");
    }
}
