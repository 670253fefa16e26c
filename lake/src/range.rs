//! Which offsets of which partition a file holds.

use std::fmt;
use std::str::FromStr;

/// Offsets `[start, end)` of one partition. `end` is the next offset to read, as Kafka counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct OffsetRange {
    pub partition: i32,
    pub start: i64,
    pub end: i64,
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.partition, self.start, self.end)
    }
}

impl FromStr for OffsetRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (partition, range) = text.split_once(':')?;
            let (start, end) = range.split_once('-')?;
            Some(OffsetRange { partition: partition.parse().ok()?, start: start.parse().ok()?, end: end.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not an offset range"))
    }
}

/// Several ranges as one text, as a file carries them in the table log.
pub fn format_ranges(ranges: &[OffsetRange]) -> String {
    ranges.iter().map(OffsetRange::to_string).collect::<Vec<_>>().join(",")
}

/// The inverse of [`format_ranges`].
pub fn parse_ranges(text: &str) -> Result<Vec<OffsetRange>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(str::parse).collect()
}

/// Sorts ranges and joins those that touch or overlap: what a file merged from several others holds.
pub fn union(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.sort();
    let mut joined: Vec<OffsetRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.partition == range.partition && range.start <= last.end => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Vec<OffsetRange>> {
        let one = (0..4i32, 0..50i64, 1..20i64).prop_map(|(partition, start, len)| OffsetRange {
            partition,
            start,
            end: start + len,
        });
        proptest::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn text_survives_a_round_trip(ranges in ranges()) {
            prop_assert_eq!(parse_ranges(&format_ranges(&ranges)).unwrap(), ranges);
        }

        #[test]
        fn a_union_holds_the_same_offsets_once(ranges in ranges()) {
            let mut before: Vec<(i32, i64)> =
                ranges.iter().flat_map(|r| (r.start..r.end).map(|o| (r.partition, o))).collect();
            before.sort();
            before.dedup();
            let after: Vec<(i32, i64)> =
                union(ranges).iter().flat_map(|r| (r.start..r.end).map(|o| (r.partition, o))).collect();
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn damaged_text_is_refused() {
        for text in ["1", "1:2", "a:1-2", "1:2-3;4:5-6"] {
            assert!(parse_ranges(text).is_err(), "{text}");
        }
    }
}
