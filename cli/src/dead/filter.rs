//! Which dead letters are meant. Pure: a letter is in or out, and a file may hold such letters or cannot.

use super::args::Place;
use super::letter::Letter;
use lake::{DataFile, layout};
use serde_json::Value;
use std::str::FromStr;

/// What was asked for; nothing is everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub reasons: Vec<String>,
    /// Microseconds since the epoch, included.
    pub since: Option<i64>,
    /// Microseconds since the epoch, not included.
    pub until: Option<i64>,
    pub partitions: Vec<i32>,
    pub offsets: Option<Offsets>,
    pub replays: Replays,
}

/// Offsets `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    pub from: i64,
    pub to: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Replays {
    #[default]
    Any,
    /// Not replayed.
    Pending,
    /// Replayed.
    Done,
}

impl Filter {
    /// The letter at one place.
    pub fn at(place: Place) -> Filter {
        let offsets = Offsets { from: place.offset, to: place.offset.saturating_add(1) };
        Filter { partitions: vec![place.partition], offsets: Some(offsets), ..Filter::default() }
    }

    pub fn takes(&self, letter: &Letter, is_replayed: bool) -> bool {
        let Place { partition, offset } = letter.place;
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && self.since.is_none_or(|since| letter.received_at >= since)
            && self.until.is_none_or(|until| letter.received_at < until)
            && (self.partitions.is_empty() || self.partitions.contains(&partition))
            && self.offsets.is_none_or(|offsets| (offsets.from..offsets.to).contains(&offset))
            && match self.replays {
                Replays::Any => true,
                Replays::Pending => !is_replayed,
                Replays::Done => is_replayed,
            }
    }

    /// Whether the file may hold letters that are meant, by its date and its statistics.
    pub fn may_be_in(&self, file: &DataFile) -> bool {
        let number = |value: Option<&Value>| value.and_then(Value::as_i64);
        let (min, max) = (&file.stats.min, &file.stats.max);
        let spans = |column: &str, from: i64, to: i64| {
            number(min.get(column)).is_none_or(|min| min < to) && number(max.get(column)).is_none_or(|max| max >= from)
        };
        let has_reason = |reason: &String| {
            let text = |value: Option<&'_ Value>| value.and_then(Value::as_str).map(str::to_owned);
            text(min.get("reason")).is_none_or(|min| min <= *reason)
                && text(max.get("reason")).is_none_or(|max| max >= *reason)
        };
        let has_partition = |partition: &i32| spans("kafka_partition", (*partition).into(), i64::from(*partition) + 1);
        (self.reasons.is_empty() || self.reasons.iter().any(has_reason))
            && self.since.is_none_or(|since| file.date >= layout::date_of(since))
            && self.until.is_none_or(|until| file.date <= layout::date_of(until))
            && (self.partitions.is_empty() || self.partitions.iter().any(has_partition))
            && self.offsets.is_none_or(|offsets| spans("kafka_offset", offsets.from, offsets.to))
    }
}

impl FromStr for Offsets {
    type Err = String;

    fn from_str(text: &str) -> Result<Offsets, String> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|offset| *offset >= 0);
        let parsed = match text.split_once("..") {
            None => number(text).map(|from| Offsets { from, to: from.saturating_add(1) }),
            Some((from, "")) => number(from).map(|from| Offsets { from, to: i64::MAX }),
            Some((from, to)) => number(from).zip(number(to)).map(|(from, to)| Offsets { from, to }),
        };
        let parsed = parsed.filter(|offsets| offsets.from < offsets.to);
        parsed.ok_or_else(|| "offsets are written as 42, as 42.. or as 42..50, which ends before 50".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::file::FileStats;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn offsets_are_one_or_a_range_without_its_end() {
        assert_eq!("42".parse(), Ok(Offsets { from: 42, to: 43 }));
        assert_eq!("42..".parse(), Ok(Offsets { from: 42, to: i64::MAX }));
        assert_eq!("42..50".parse(), Ok(Offsets { from: 42, to: 50 }));
        for wrong in ["", "..", "..5", "5..5", "6..5", "-1", "a..b", "1...3"] {
            assert!(wrong.parse::<Offsets>().is_err(), "{wrong}");
        }
    }

    const DAY: i64 = 86_400_000_000;

    fn letter() -> impl Strategy<Value = Letter> {
        let reason = prop_oneof![Just("empty"), Just("invalid_json"), Just("too_large")];
        (reason, 0..4i32, 0..20i64, 0..4 * DAY).prop_map(|(reason, partition, offset, received_at)| Letter {
            reason: reason.into(),
            place: Place { partition, offset },
            received_at,
            ..Letter::default()
        })
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let reasons = proptest::collection::vec(prop_oneof![Just("empty"), Just("too_large")], 0..2);
        let time = || proptest::option::of(0..4 * DAY);
        let offsets = proptest::option::of((0..20i64, 1..10i64).prop_map(|(from, n)| Offsets { from, to: from + n }));
        (reasons, time(), time(), proptest::collection::vec(0..4i32, 0..3), offsets).prop_map(
            |(reasons, since, until, partitions, offsets)| Filter {
                reasons: reasons.into_iter().map(str::to_owned).collect(),
                since,
                until,
                partitions,
                offsets,
                replays: Replays::Any,
            },
        )
    }

    /// A file of these letters, which are all of one date.
    fn file(letters: &[Letter]) -> DataFile {
        let mut stats = FileStats { rows: letters.len() as u64, ..FileStats::default() };
        let mut bounds = |name: &str, values: Vec<Value>| {
            let key = |value: &Value| (value.as_i64(), value.as_str().map(str::to_owned));
            stats.min.insert(name.into(), values.iter().min_by_key(|v| key(v)).unwrap().clone());
            stats.max.insert(name.into(), values.iter().max_by_key(|v| key(v)).unwrap().clone());
        };
        bounds("reason", letters.iter().map(|l| json!(l.reason)).collect());
        bounds("kafka_partition", letters.iter().map(|l| json!(l.place.partition)).collect());
        bounds("kafka_offset", letters.iter().map(|l| json!(l.place.offset)).collect());
        DataFile {
            path: "f".into(),
            size: 1,
            date: layout::date_of(letters[0].received_at),
            modified_ms: 0,
            stats,
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn no_file_is_left_out_that_holds_a_letter_which_is_meant(
            mut letters in proptest::collection::vec(letter(), 1..6),
            filter in filter(),
        ) {
            let date = letters[0].received_at / DAY;
            letters.iter_mut().for_each(|letter| letter.received_at = date * DAY + letter.received_at % DAY);
            if letters.iter().any(|letter| filter.takes(letter, false)) {
                prop_assert!(filter.may_be_in(&file(&letters)));
            }
        }
    }

    #[test]
    fn a_file_of_other_days_partitions_or_reasons_is_not_read() {
        let place = Place { partition: 1, offset: 7 };
        let held = file(&[Letter { reason: "empty".into(), place, received_at: DAY, ..Letter::default() }]);
        let all = Filter::default();
        assert!(all.may_be_in(&held));
        assert!(!Filter { since: Some(2 * DAY), ..all.clone() }.may_be_in(&held));
        assert!(!Filter { until: Some(DAY - 1), ..all.clone() }.may_be_in(&held));
        assert!(!Filter { partitions: vec![0, 2], ..all.clone() }.may_be_in(&held));
        assert!(!Filter { reasons: vec!["too_large".into()], ..all.clone() }.may_be_in(&held));
        assert!(!Filter::at(Place { partition: 1, offset: 8 }).may_be_in(&held));
        assert!(Filter::at(place).may_be_in(&held));
    }
}
